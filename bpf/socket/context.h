/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The context of a request: which trace it belongs to, whose child it is,
 * whether it is sampled, what it carries on. Decided when its header block is
 * complete, once, and never revised (docs/propagation.md has the state tables).
 */
#pragma once

#include "carry.h"
#include "sampling.h"
#include "goroutine.h"
#include "../maps/exchanges.h"
#include "../maps/targets.h"

/* Set by the loader before load: enum weft_header bits. */
volatile const u8 inject_headers = WEFT_HEADER_TRACEPARENT;

WEFT_INLINE bool id_is_zero(const u8 *id)
{
	u64 v;

	__builtin_memcpy(&v, id, 8);
	return !v;
}

/* A trace that begins here. */
WEFT_INLINE void new_ids(struct outgoing *o)
{
	u64 hi = random_id(), lo = random_id();

	__builtin_memcpy(o->trace_id, &hi, 8);
	__builtin_memcpy(o->trace_id + 8, &lo, 8);
	__builtin_memset(o->parent_id, 0, 8);
}

WEFT_INLINE void new_trace(struct outgoing *o, u64 sk)
{
	new_ids(o);
	weft_sample(sk, trace_random(o->trace_id), 1, 0);
	o->flags = TRACEPARENT_RANDOM | o->sampled;
}

WEFT_INLINE void continue_trace(struct outgoing *o, const u8 *trace_id, const u8 *parent_id,
				u8 flags)
{
	__builtin_memcpy(o->trace_id, trace_id, 16);
	__builtin_memcpy(o->parent_id, parent_id, 8);
	o->flags = flags;
	o->sampled = flags & TRACEPARENT_SAMPLED;
	o->mark = TRACESTATE_KEEP;
}

/* What the request's own traceparent says: WIRE, NONE or INVALID. */
__attribute__((noinline)) int weft_claim(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct http1_head *h;
	struct outgoing *o;

	if (!c)
		return 0;
	o = &c->out;
	h = &c->head[REQUEST];
	o->rule = WEFT_PARENT_INVALID;
	if (h->traceparent_count == 0)
		o->rule = WEFT_PARENT_NONE;
	else if (h->traceparent_count == 1 &&
		 traceparent_parse(h->traceparent, h->traceparent_len, &o->wire) == TRACEPARENT_OK)
		o->rule = WEFT_PARENT_WIRE;
	return 0;
}

WEFT_INLINE void count_claim(struct conn *c, u8 rule)
{
	u32 what = WEFT_COUNT_CONTEXT_INVALID;

	if (rule == WEFT_PARENT_NONE)
		what = WEFT_COUNT_CONTEXT_NONE;
	else if (rule == WEFT_PARENT_WIRE)
		what = WEFT_COUNT_CONTEXT_CONTINUED;
	else if (c->head[REQUEST].traceparent_count > 1)
		what = WEFT_COUNT_CONTEXT_DUPLICATE;
	count(what);
}

/* Who moves the bytes of this connection now. */
WEFT_INLINE void conn_exec_key(struct exec_key *k, struct conn *c)
{
	u64 goid = c->goid ? c->goid : weft_goid(c->tgid);

	exec_key_of_thread(k, c->tgid, c->tid, c->process_start_ns);
	if (goid == GOID_LATER)
		k->kind = EXEC_NONE;
	else if (goid)
		exec_key_of_goroutine(k, c->tgid, goid, c->process_start_ns);
}

/* Keeps the context of a server exchange for what departs on its behalf. */
__attribute__((noinline)) int weft_exchange_begin(u64 sk, u64 span_id)
{
	struct conn *c = conn_of(sk);
	struct exchange *blank, *x = 0;
	struct outgoing *o;
	struct exec_key k;
	u32 zero = 0;

	if (!c)
		return 0;
	o = &c->out;
	blank = bpf_map_lookup_elem(&blank_exchange, &zero);
	if (blank && !bpf_map_update_elem(&exchanges, &span_id, blank, BPF_NOEXIST))
		x = bpf_map_lookup_elem(&exchanges, &span_id);
	if (!x) {
		count(WEFT_COUNT_LOST_EXCHANGES_FULL);
		if (o->carry)
			carried_delete(span_id, o->carry);
		return 0;
	}
	conn_exec_key(&k, c);
	x->owner = k;
	__builtin_memcpy(x->trace_id, o->trace_id, 16);
	x->flags = o->flags;
	x->carry = o->carry;
	if (k.kind == EXEC_NONE)
		return 0;
	exec_arrive(&k, span_id);
	if (k.kind == EXEC_GOROUTINE)
		return 0;
	exec_key_widen(&k);
	exec_arrive(&k, span_id);
	return 0;
}

/* Keeps what the slot has put together, if that is anything. */
__attribute__((noinline)) int weft_carry_keep(u64 sk, u64 span_id)
{
	struct conn *c = conn_of(sk);
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (s && (s->carried.head.tracestate_len || s->carried.head.baggage_len))
		c->out.carry = carried_put(span_id, &s->carried);
	return 0;
}

/* With a believed parent: its decision, unless the sampler is not parent-based. */
__attribute__((noinline)) int weft_parent_decides(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct outgoing *o;
	struct slot *s;
	u32 marked = 0;
	u64 random;

	if (!c)
		return 0;
	o = &c->out;
	s = slot_of(c);
	random = trace_random(o->trace_id);
	if (s) {
		marked = s->ot.has_threshold;
		if (s->ot.has_random)
			random = s->ot.random;
	}
	if (!sampler_parent_based) {
		weft_sample(sk, random, 0, marked);
		o->flags = (o->flags & ~TRACEPARENT_SAMPLED) | o->sampled;
	} else if (s && marked && (random >= s->ot.threshold) != o->sampled) {
		/* A threshold that says otherwise than the flag is not true. */
		o->mark = TRACESTATE_ERASE;
	}
	return 0;
}

/* A server received a whole request head: take up its context or begin one. */
__attribute__((noinline)) int weft_serve(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct outgoing *o;

	if (!c)
		return 0;
	o = &c->out;
	o->linked = 0;
	o->carry = CARRIED_NONE;
	count(WEFT_COUNT_REQUESTS_SERVER);
	weft_claim(sk);
	count_claim(c, o->rule);
	if (o->rule == WEFT_PARENT_WIRE && !conn_trusted(c)) {
		count(WEFT_COUNT_CONTEXT_UNTRUSTED);
		o->rule = WEFT_PARENT_UNTRUSTED;
		o->linked = 1;
	}
	if (c->slot)
		weft_tracestate_close(sk, o->rule == WEFT_PARENT_WIRE);
	if (o->rule == WEFT_PARENT_WIRE) {
		continue_trace(o, o->wire.trace_id, o->wire.span_id, o->wire.flags);
		weft_parent_decides(sk);
	} else {
		new_trace(o, sk);
	}
	return 0;
}

/*
 * What weft_serve decided begins to hold for what departs from here. On its own
 * and called from further out, because of the 512 bytes of stack that a chain of
 * calls may use.
 */
__attribute__((noinline)) int weft_take_up(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct outgoing *o;
	struct slot *s;
	u64 span_id;

	if (!c)
		return 0;
	o = &c->out;
	__builtin_memcpy(&span_id, o->span_id, 8);
	if (o->mark == TRACESTATE_SET)
		slot_get(c);
	if (c->slot) {
		carry_own(sk);
		s = slot_of(c);
		if (s && s->edges)
			weft_edges(sk);
		weft_carry_keep(sk, span_id);
	}
	return weft_exchange_begin(sk, span_id);
}

/* Takes up the context of the exchange `parent`. False: it has ended. */
WEFT_INLINE bool descend(struct outgoing *o, u64 parent)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &parent);

	if (!x)
		return false;
	o->carry = x->carry;
	continue_trace(o, x->trace_id, (u8 *)&parent, x->flags);
	return true;
}

/*
 * Whose child a request of a Go program is: as the site has said that saw the call
 * being made, else of what its goroutine serves. Another goroutine may well do the
 * writing: what that one was made by tells nothing.
 */
__attribute__((noinline)) int weft_parent_go(u64 sk, u64 tuple)
{
	struct conn *c = conn_of(sk);
	struct go_departure *d;
	struct exec_state *s;
	struct outgoing *o;
	struct exec_key k;
	u64 parent = 0;

	if (!c)
		return 0;
	o = &c->out;
	o->rule = WEFT_PARENT_NONE;
	if (c->departs)
		sk = c->departs;
	d = bpf_map_lookup_elem(&go_departures, &sk);
	if (d && d->tuple == tuple) {
		parent = d->parent;
		o->rule = d->rule;
		if (!c->departs) /* else who writes the line into it goes on with it */
			departure_take(d, sk);
		if (parent && !descend(o, parent)) {
			o->rule = WEFT_PARENT_NONE;
			count(WEFT_COUNT_UNPROVEN_ENDED);
		}
		return 0;
	}
	exec_key_of_goroutine(&k, c->tgid, weft_goid(c->tgid), c->process_start_ns);
	if (!k.id) {
		count(WEFT_COUNT_UNPROVEN_MEMORY);
		return 0;
	}
	s = bpf_map_lookup_elem(&threads, &k);
	if (s && s->in_flight > 1)
		o->rule = WEFT_PARENT_AMBIGUOUS;
	if (s && s->in_flight == 1 && descend(o, s->sum))
		o->rule = WEFT_PARENT_GOROUTINE;
	if (o->rule == WEFT_PARENT_NONE)
		count(WEFT_COUNT_UNPROVEN_NONE);
	return 0;
}

/* The one request that this thread, or its process, can be working for. */
__attribute__((noinline)) int weft_parent(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct weft_target *t;
	struct exec_state *s;
	struct outgoing *o;
	struct exec_key k;

	if (!c)
		return 0;
	o = &c->out;
	t = target_of(c->tgid);
	if (go_layout_of(t))
		return weft_parent_go(sk, c->tuple);
	exec_key_of_thread(&k, c->tgid, c->tid, c->process_start_ns);
	if (t && t->flags & WEFT_TARGET_MIGRATES)
		exec_key_widen(&k);
	s = bpf_map_lookup_elem(&threads, &k);
	o->rule = WEFT_PARENT_NONE;
	if (s && (s->in_flight > 1 || (s->in_flight && t && t->flags & WEFT_TARGET_GO)))
		o->rule = WEFT_PARENT_AMBIGUOUS;
	else if (s && s->in_flight == 1 && descend(o, s->sum))
		o->rule = s->interleaved || k.kind == EXEC_PROCESS ? WEFT_PARENT_SOLE :
								     WEFT_PARENT_THREAD;
	return 0;
}

/* Counts what the policy keeps back, and returns what may be written. */
WEFT_INLINE u8 headers_to_write(struct conn *c, u64 sk)
{
	u8 allowed = conn_egress_headers(c, sk) & inject_headers;
	struct http1_head *h = &c->head[REQUEST];
	struct slot *s = slot_of(c);
	u8 have = WEFT_HEADER_TRACEPARENT, kept;

	if (!inject_headers)
		count(WEFT_COUNT_REFUSED_OFF);
	if (s && s->carried.head.tracestate_len && !h->tracestate_count)
		have |= WEFT_HEADER_TRACESTATE;
	if (s && s->carried.head.baggage_len && !h->baggage_count)
		have |= WEFT_HEADER_BAGGAGE;
	kept = have & inject_headers & ~allowed;
	if (kept & WEFT_HEADER_TRACEPARENT)
		count(WEFT_COUNT_WITHHELD_TRACEPARENT);
	if (kept & WEFT_HEADER_TRACESTATE)
		count(WEFT_COUNT_WITHHELD_TRACESTATE);
	if (kept & WEFT_HEADER_BAGGAGE)
		count(WEFT_COUNT_WITHHELD_BAGGAGE);
	/* A tracestate alone has no meaning. */
	if (!(allowed & WEFT_HEADER_TRACEPARENT))
		allowed &= ~WEFT_HEADER_TRACESTATE;
	return have & allowed;
}

WEFT_INLINE u32 count_of_parent(u8 rule)
{
	switch (rule) {
	case WEFT_PARENT_AMBIGUOUS:
		return WEFT_COUNT_PARENT_AMBIGUOUS;
	case WEFT_PARENT_SOLE:
		return WEFT_COUNT_PARENT_SOLE;
	case WEFT_PARENT_THREAD:
		return WEFT_COUNT_PARENT_THREAD;
	case WEFT_PARENT_CONTEXT:
		return WEFT_COUNT_PARENT_CONTEXT;
	case WEFT_PARENT_GOROUTINE:
		return WEFT_COUNT_PARENT_GOROUTINE;
	case WEFT_PARENT_CREATOR:
		return WEFT_COUNT_PARENT_CREATOR;
	}
	return WEFT_COUNT_PARENT_NONE;
}

/*
 * Is the traceparent in this head the one that weft wrote into the program's own
 * buffer? Then all has been decided, and counted: 1.
 */
__attribute__((noinline)) int weft_departed(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct go_departure *d;
	struct outgoing *o;
	u64 wrote, wire;

	if (!c)
		return 0;
	o = &c->out;
	d = bpf_map_lookup_elem(&go_departures, &sk);
	if (!d || !d->written || d->tuple != c->tuple)
		return 0;
	weft_claim(sk);
	__builtin_memcpy(&wrote, d->span_id, 8);
	__builtin_memcpy(&wire, o->wire.span_id, 8);
	if (o->rule != WEFT_PARENT_WIRE || wrote != wire)
		return 0;
	__builtin_memcpy(o->trace_id, d->trace_id, 16);
	__builtin_memcpy(o->span_id, d->span_id, 8);
	__builtin_memcpy(o->parent_id, d->parent_id, 8);
	o->flags = d->flags;
	o->rule = d->rule;
	o->sampled = d->sampled;
	o->mark = TRACESTATE_KEEP;
	o->written = 1;
	departure_take(d, sk);
	if (c->slot) {
		weft_tracestate_close(sk, 1);
		carry_own(sk);
	}
	return 1;
}

/* A client sends a whole request head: whose child is it? */
__attribute__((noinline)) int weft_depart(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct outgoing *o;
	u64 parent;

	if (!c)
		return 0;
	o = &c->out;
	o->linked = 0;
	o->carry = CARRIED_NONE;
	if (c->head[REQUEST].traceparent_count == 1 && weft_departed(sk))
		return 0;
	count(WEFT_COUNT_REQUESTS_CLIENT);
	if (c->head[REQUEST].traceparent_count) {
		/* The program propagates by itself. Its header is this hop's
		 * context; weft's span is a child of what the program named. */
		weft_claim(sk);
		if (o->rule == WEFT_PARENT_WIRE) {
			o->rule = WEFT_PARENT_ADOPTED;
			count(WEFT_COUNT_PARENT_ADOPTED);
			continue_trace(o, o->wire.trace_id, o->wire.span_id, o->wire.flags);
		} else {
			new_trace(o, sk);
			o->mark = TRACESTATE_KEEP; /* not on the wire */
		}
		if (c->slot) {
			weft_tracestate_close(sk, o->rule == WEFT_PARENT_ADOPTED);
			carry_own(sk);
		}
		return 0;
	}
	weft_parent(sk);
	count(count_of_parent(o->rule));
	if (o->rule != WEFT_PARENT_NONE && o->rule != WEFT_PARENT_AMBIGUOUS) {
		__builtin_memcpy(&parent, o->parent_id, 8);
		if (o->carry || c->slot)
			weft_carry_on(sk, parent, o->carry);
	} else {
		new_trace(o, sk);
		if (o->mark == TRACESTATE_SET && slot_get(c))
			weft_carry_tracestate(sk);
		if (c->head[REQUEST].baggage_count)
			weft_carry_on(sk, 0, CARRIED_NONE);
	}
	if (c->by_msg || c->writes)
		o->write = headers_to_write(c, sk);
	return 0;
}
