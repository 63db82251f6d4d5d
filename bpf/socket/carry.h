/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * tracestate, baggage and the headers that become baggage: read in pieces as the
 * header block passes, put together when it is complete.
 *
 * The weft_* functions are global: verified once on their own. They take scalars
 * and look their memory up because kernels before 5.12 allow no pointers there.
 */
#pragma once

#include "policy.h"
#include "../maps/slots.h"

/* Set by the loader before load. */
volatile const u64 edge_names;	   /* http1_name_bit of the headers in `edges` */
volatile const u8 attribute_count; /* keys in `attributes` */

/* --- Pieces of long values ------------------------------------------------- */

__attribute__((noinline)) int weft_tracestate_piece(u64 sk, u32 dir)
{
	struct conn *c = conn_of(sk);
	struct http1_parser *p;
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	p = &c->dir[dir & 1].parser;
	tracestate_feed(&s->tracestate, p->value, p->value_raw);
	if (p->ended)
		tracestate_line_end(&s->tracestate);
	return 0;
}

__attribute__((noinline)) int weft_baggage_piece(u64 sk, u32 dir)
{
	struct conn *c = conn_of(sk);
	struct http1_parser *p;
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	p = &c->dir[dir & 1].parser;
	baggage_feed(&s->baggage, p->value, p->value_raw, 0, 0);
	if (p->ended)
		baggage_line_end(&s->baggage);
	return 0;
}

/* A request header that is to become baggage: escaped as it comes. */
__attribute__((noinline)) int weft_edge_piece(u64 sk, u32 dir)
{
	struct conn *c = conn_of(sk);
	struct http1_parser *p;
	struct edge_value *v;
	struct slot *s;
	u32 which;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	p = &c->dir[dir & 1].parser;
	which = (p->kind - HTTP1_KIND_CALLER) & (WEFT_EDGES_MAX - 1);
	WEFT_BARRIER(which);
	v = &s->edge[which & (WEFT_EDGES_MAX - 1)];
	if (!(s->edges >> which & 1)) {
		s->edges |= 1 << which;
		baggage_value_reset(&v->value);
		v->ended = 0;
	}
	if (v->ended)
		return 0;
	baggage_escape(&v->value, p->value, p->value_raw);
	v->ended = p->ended;
	return 0;
}

/* HTTP1_VALUE in this direction. */
__attribute__((noinline)) int weft_piece(u64 sk, u32 dir)
{
	struct conn *c = conn_of(sk);
	u8 kind;

	if (!c || c->quiet)
		return 0;
	kind = c->dir[dir & 1].parser.kind;
	if (dir == DIR_RX && kind < HTTP1_KIND_CALLER && !conn_trusted(c))
		return 0;
	if (!slot_get(c))
		return 0;
	if (kind == HTTP1_KIND_TRACESTATE)
		return weft_tracestate_piece(sk, dir);
	if (kind == HTTP1_KIND_BAGGAGE)
		return weft_baggage_piece(sk, dir);
	return weft_edge_piece(sk, dir);
}

/* HTTP1_NAME: is it one of the configured headers? */
__attribute__((noinline)) int weft_name(u64 sk, u32 dir)
{
	struct conn *c = conn_of(sk);
	struct http1_parser *p;

	if (!c)
		return 0;
	p = &c->dir[dir & 1].parser;
	for (u32 i = 0; i < WEFT_EDGES_MAX; i++) {
		struct weft_edge *e;
		u32 index = i;
		u64 differ;

		e = bpf_map_lookup_elem(&edges, &index);
		if (!e || !e->name_len)
			break;
		differ = e->name_len ^ p->name_len;
#pragma unroll
		for (int j = 0; j < WEFT_EDGE_NAME; j += 8)
			differ |= weft_load64(e->name + j) ^ weft_load64(p->name + j);
		if (!differ) {
			http1_keep(p, i);
			break;
		}
	}
	return 0;
}

/* --- The header block is complete ------------------------------------------ */

/* Judges what was read: a tracestate is whole or dropped. */
__attribute__((noinline)) int weft_tracestate_close(u64 sk, u32 keep)
{
	struct conn *c = conn_of(sk);
	struct tracestate *t;
	struct slot *s;
	int result;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	t = &s->tracestate;
	s->ot.has_threshold = 0;
	s->ot.has_random = 0;
	if (!c->head[REQUEST].tracestate_count)
		return 0;
	result = tracestate_end(t);
	if (!keep || result) {
		if (keep && result != TRACESTATE_EMPTY)
			count(WEFT_COUNT_TRACESTATE_INVALID);
		tracestate_reset(t);
		return 0;
	}
	if (!c->out.written) /* else it is weft's own line, read back */
		count(WEFT_COUNT_TRACESTATE_KEPT);
	if (tracestate_cut(t))
		count(WEFT_COUNT_TRACESTATE_CUT);
	tracestate_ot(t, &s->ot);
	return 0;
}

__attribute__((noinline)) int weft_baggage_close(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct baggage *b;
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	b = &s->baggage;
	if (!c->head[REQUEST].baggage_count)
		return 0;
	baggage_end(b);
	if (b->malformed)
		count_n(WEFT_COUNT_BAGGAGE_MALFORMED, b->malformed);
	if (b->dropped)
		count_n(WEFT_COUNT_BAGGAGE_CUT, b->dropped);
	if (b->len && !c->out.written)
		count(WEFT_COUNT_BAGGAGE_KEPT);
	return 0;
}

/*
 * Copies len bytes, 1 to BAGGAGE_MAX, to `to` + at; at is no more than what stands
 * before baggage anywhere. Masked at the very place, because verifiers before 6.2
 * forget a check when the value is spilled to the stack.
 */
#define BEFORE_BAGGAGE 2047
#define BEFORE_TRACESTATE 127
_Static_assert((BAGGAGE_MAX & (BAGGAGE_MAX - 1)) == 0, "lengths are masked");
WEFT_INLINE void copy_baggage(u8 *to, u32 at, u32 len, const u8 *from)
{
	len--;
	WEFT_BARRIER(at);
	WEFT_BARRIER(len);
	at &= BEFORE_BAGGAGE;
	len &= BAGGAGE_MAX - 1;
	bpf_probe_read_kernel(to + at, len + 1, from);
}

/* Likewise of a tracestate, 1 to TRACESTATE_MAX. */
_Static_assert((TRACESTATE_MAX & (TRACESTATE_MAX - 1)) == 0, "lengths are masked");
WEFT_INLINE void copy_tracestate(u8 *to, u32 at, u32 len, const u8 *from)
{
	len--;
	WEFT_BARRIER(at);
	WEFT_BARRIER(len);
	at &= BEFORE_TRACESTATE;
	len &= TRACESTATE_MAX - 1;
	bpf_probe_read_kernel(to + at, len + 1, from);
}

/* Writes the slot's baggage behind the tracestate of `carried`. */
__attribute__((noinline)) int weft_carry_baggage(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct slot *s;
	u32 at, len;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	at = s->carried.head.tracestate_len;
	len = s->baggage.len;
	s->carried.head.baggage_len = len;
	if (len)
		copy_baggage(s->carried.text, at, len, s->baggage.text);
	return 0;
}

/* Writes the slot's tracestate into `carried`, ot=th as o->mark says. */
__attribute__((noinline)) int weft_carry_tracestate(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	s->carried.head.tracestate_len =
		tracestate_write(&s->tracestate, s->carried.text, c->out.mark, c->out.threshold);
	s->carried.head.baggage_len = 0;
	return 0;
}

/* --- Carried baggage read once more, for some of its keys ------------------ */

enum refeed {
	REFEED_ATTRIBUTES, /* keys that become attributes */
	REFEED_EGRESS,	   /* keys that may leave to this peer */
	REFEED_EDGES,	   /* all but those that a header of this request sets */
};

/* Takes the lists of keys by which `which` chooses. */
__attribute__((noinline)) int weft_refeed_keys(u64 sk, u32 which)
{
	struct conn *c = conn_of(sk);
	struct weft_egress *r;
	struct slot *s;
	u32 zero = 0;
	u64 from = 0;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	s->only.any = which == REFEED_EDGES;
	s->only.count = 0;
	if (which == REFEED_EDGES)
		return 0;
	s->without.any = 0;
	s->without.count = 0;
	if (which == REFEED_ATTRIBUTES) {
		from = (u64)bpf_map_lookup_elem(&attributes, &zero);
	} else {
		r = egress_rule(c->egress - 1);
		if (r)
			from = (u64)&r->keys;
	}
	if (from)
		bpf_probe_read_kernel(&s->only, sizeof(s->only), (void *)from);
	return 0;
}

/* The n carried bytes at `at`. */
__attribute__((noinline)) int weft_refeed_piece(u64 sk, u32 at, u32 n)
{
	struct conn *c = conn_of(sk);
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	WEFT_BARRIER(at);
	at &= CARRIED_MASK;
	bpf_probe_read_kernel(s->piece, sizeof(s->piece), s->carried.text + at);
	baggage_feed(&s->baggage, s->piece, n, &s->only, &s->without);
	return 0;
}

/* Leaves in the slot's baggage what of the carried one passes. */
__attribute__((noinline)) int weft_refeed(u64 sk, u32 which)
{
	struct conn *c = conn_of(sk);
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	weft_refeed_keys(sk, which);
	baggage_reset(&s->baggage);
	s->next = s->carried.head.tracestate_len;
	s->limit = s->next + s->carried.head.baggage_len;
	WEFT_NOUNROLL
	for (int i = 0; i <= BAGGAGE_MAX / 64; i++) {
		u32 at, n;

		WEFT_FORGET(); /* all ways through a turn meet here */
		at = s->next;
		n = s->limit - at;
		if (at >= s->limit)
			break;
		weft_refeed_piece(sk, at, n > 64 ? 64 : n);
		s->next = at + 64;
	}
	WEFT_FORGET();
	baggage_end(&s->baggage);
	return 0;
}

/* Adds the member that edge header i sets. */
__attribute__((noinline)) int weft_edge_member(u64 sk, u32 i)
{
	struct conn *c = conn_of(sk);
	struct weft_edge *e;
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	e = bpf_map_lookup_elem(&edges, &i);
	if (!s || !e)
		return 0;
	WEFT_BARRIER(i);
	i &= WEFT_EDGES_MAX - 1;
	count(baggage_append(&s->baggage, e->key, e->key_len, &s->edge[i].value) ?
		      WEFT_COUNT_BAGGAGE_SET :
		      WEFT_COUNT_BAGGAGE_CUT);
	return 0;
}

/* Members of request headers take the place of those with the same key. */
__attribute__((noinline)) int weft_edges(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	s->without.any = 0;
	s->without.count = WEFT_EDGES_MAX;
	s->set = 0;
	WEFT_NOUNROLL
	for (u32 i = 0; i < WEFT_EDGES_MAX; i++) {
		struct edge_value *v = &s->edge[i];
		struct weft_edge *e;
		u32 index = i;

		WEFT_FORGET();		/* all ways through a turn meet here */
		s->without.hash[i] = 0; /* what is not there must match nothing */
		if (!(s->edges >> i & 1) || v->value.over || !v->value.len)
			continue;
		e = bpf_map_lookup_elem(&edges, &index);
		if (!e)
			continue;
		s->without.hash[i] = e->hash;
		s->set |= 1 << i;
	}
	WEFT_FORGET();
	if (!s->set)
		return 0;
	if (s->carried.head.baggage_len)
		weft_refeed(sk, REFEED_EDGES);
	WEFT_NOUNROLL
	for (u32 i = 0; i < WEFT_EDGES_MAX; i++) {
		WEFT_FORGET();
		if (s->set >> i & 1)
			weft_edge_member(sk, i);
	}
	return weft_carry_baggage(sk);
}

/* What of a request's own goes on with its context: into `carried`. */
WEFT_INLINE void carry_own(u64 sk)
{
	weft_carry_tracestate(sk);
	weft_baggage_close(sk);
	weft_carry_baggage(sk);
}

/* What the parent exchange carries, unless the program wrote its own. */
__attribute__((noinline)) int weft_carry_on(u64 sk, u64 parent, u32 class)
{
	struct conn *c = conn_of(sk);
	u32 tracestate, baggage;
	struct slot *s;

	if (!c)
		return 0;
	s = slot_get(c);
	if (!s)
		return 0;
	if (class && carried_get(parent, class, &s->carried)) {
		s->carried.head.tracestate_len = 0;
		s->carried.head.baggage_len = 0;
	}
	tracestate = s->carried.head.tracestate_len;
	baggage = s->carried.head.baggage_len;
	if (c->head[REQUEST].tracestate_count && tracestate) {
		if (baggage)
			copy_baggage(s->carried.text, 0, baggage,
				     s->carried.text + (tracestate & BEFORE_BAGGAGE));
		s->carried.head.tracestate_len = 0;
	}
	if (c->head[REQUEST].baggage_count) {
		weft_baggage_close(sk);
		weft_carry_baggage(sk);
	}
	return 0;
}
