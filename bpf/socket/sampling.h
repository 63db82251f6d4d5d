/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The head decision: taken once, when a request's header block is complete, so
 * that the flag on the wire is true and a request sampled out costs no event.
 *
 * Consistent probability sampling as OpenTelemetry defines it: a trace is kept
 * if its 56 random bits are at least the threshold, and `ot=th` in tracestate
 * says which threshold that was. Whoever decides by the same rule at a higher
 * rate keeps the same trace.
 */
#pragma once

#include "position.h"
#include "../maps/sampling.h"
#include "../maps/targets.h"

#define RANDOM_BITS 0xffffffffffffffULL

/* Set by the loader before load. */
volatile const u8 sampler_parent_based = 1; /* with a parent: keep its flag */
volatile const u64 sampler_threshold;	    /* 0: all; 1 << 56: none */
volatile const u64 limit_interval_ns;	    /* between sampled roots of a service; 0: no limit */
volatile const u8 sampler_marks;	    /* ot=th:0 is written too: somebody samples later */
volatile const u64 rule_letters; /* bit (letter behind the '/') % 64, of any rule's path */

WEFT_INLINE u64 random_u64(void)
{
	return ((u64)bpf_get_prandom_u32() << 32) | bpf_get_prandom_u32();
}

WEFT_INLINE u64 random_id(void)
{
	u64 id = random_u64();

	return id ? id : 1;
}

/* The low seven bytes of a trace id: Level 2 makes them random. */
WEFT_INLINE u64 trace_random(const u8 *trace_id)
{
	u64 low;

	__builtin_memcpy(&low, trace_id + 8, 8);
	return __builtin_bswap64(low) & RANDOM_BITS;
}

WEFT_INLINE bool method_reads(u64 method)
{
	return method == WEFT_WORD('G', 'E', 'T', 0, 0, 0, 0, 0) ||
	       method == WEFT_WORD('H', 'E', 'A', 'D', 0, 0, 0, 0);
}

WEFT_INLINE bool rule_matches(const struct weft_sampling_rule *r, const struct http1_head *h)
{
	u64 method = weft_load64(h->method), want = weft_load64(r->method);
	u64 differ = 0, at = r->path_len;

#pragma unroll
	for (int i = 0; i < WEFT_RULE_PATH; i += 8)
		differ |= (weft_load64(h->target + i) & weft_load64(r->mask + i)) ^
			  weft_load64(r->path + i);
	if (want)
		differ |=
			(method ^ want) | (weft_load64(h->method + 8) ^ weft_load64(r->method + 8));
	if (differ || (r->reads && !method_reads(method)))
		return false;
	if (!r->exact || h->target_total == at)
		return true;
	return h->target[at & (WEFT_TARGET_MAX - 1)] == '?';
}

/* The first of these rules that matches the request of sk; -1: none. */
__attribute__((noinline)) int weft_rule(u64 sk, u32 rules)
{
	struct conn *c = conn_of(sk);

	if (!c)
		return -1;
	for (u32 i = 0; i < WEFT_RULES_MAX; i++) {
		struct weft_sampling_rule *r;
		u32 index = i;

		if (!(rules >> i))
			break;
		if (!(rules >> i & 1))
			continue;
		r = bpf_map_lookup_elem(&sampling_rules, &index);
		if (r && rule_matches(r, &c->head[REQUEST]))
			return i;
	}
	return -1;
}

/*
 * Decides for the request of sk whose trace has these random bits; `marked`: its
 * tracestate already has a threshold. Fills in sampled, threshold and mark.
 */
__attribute__((noinline)) int weft_sample(u64 sk, u64 random, u32 root, u32 marked)
{
	u64 threshold = sampler_threshold;
	struct conn *c = conn_of(sk);
	struct weft_target *t;
	struct outgoing *o;
	s32 rule;

	if (!c)
		return 0;
	o = &c->out;
	t = target_of(c->tgid);
	if (root && t && t->rules && rule_letters >> (c->head[REQUEST].target[1] & 63) & 1) {
		struct weft_sampling_rule *r;
		u32 index;

		rule = weft_rule(sk, t->rules);
		index = rule;
		r = rule < 0 ? 0 : bpf_map_lookup_elem(&sampling_rules, &index);
		if (r)
			threshold = r->threshold;
	}
	o->sampled = (random & RANDOM_BITS) >= threshold;
	if (root && o->sampled && limit_interval_ns && t &&
	    !limit_take(t->service, limit_interval_ns, bpf_ktime_get_ns())) {
		o->sampled = 0;
		count(WEFT_COUNT_LIMITED_ROOTS);
	}
	o->threshold = threshold;
	/* A limit keeps an unknown share: no threshold would be true. */
	if (!o->sampled || limit_interval_ns)
		o->mark = marked ? TRACESTATE_ERASE : TRACESTATE_KEEP;
	else
		o->mark = threshold || sampler_marks || marked ? TRACESTATE_SET : TRACESTATE_KEEP;
	return 0;
}
