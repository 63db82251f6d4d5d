/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The route of a Go request: the pattern of net/http's ServeMux, told when the
 * response leaves, or that of a router (bpf/go/router.h), which counts for more: it
 * is mounted below the pattern.
 */
#pragma once

#include "unread.h"

/* Strings that one route is made of, at most: chi has one for each router that is
 * mounted in another. */
#define ROUTE_PIECES 8

/* A piece may begin anywhere in the text, and then reach behind it. */
struct route_record {
	struct weft_route route;
	u8 behind[WEFT_ROUTE_MAX];
};

/* What a route is read from. */
struct route_source {
	u64 at;	    /* user address of n strings */
	u64 n;
	u64 router; /* enum weft_router */
	u64 guard;  /* if that word is not `holds` when all is read, it was another's; 0: none */
	u64 holds;
};

/* Reports the route of server exchange span_id. Returns 1 if there is one. */
WEFT_INLINE int route_emit(u64 span_id, const struct route_source *s)
{
	struct route_record *e = event_reserve(sizeof(*e));
	u32 total = 0;

	if (!e)
		return 0;
	event_head(&e->route.head, WEFT_EVENT_ROUTE, sizeof(e->route));
	__builtin_memcpy(e->route.span_id, &span_id, 8);
	__builtin_memset(e->route.pad, 0, sizeof(e->route.pad));
	__builtin_memset(e->route.text, 0, sizeof(e->route.text));
	e->route.router = s->router;
#pragma unroll
	for (u32 i = 0; i < ROUTE_PIECES; i++) {
		u64 piece[2] = {};
		u32 from = total, n;

		if (i >= s->n)
			break;
		if (bpf_probe_read_user(piece, sizeof(piece), (void *)(s->at + i * sizeof(piece))))
			goto none;
		n = piece[1] < WEFT_ROUTE_MAX ? piece[1] : WEFT_ROUTE_MAX;
		total += n;
		if (piece[1] > WEFT_ROUTE_MAX)
			total = 2 * WEFT_ROUTE_MAX;
		if (from >= WEFT_ROUTE_MAX || !n)
			continue;
		WEFT_BARRIER(from);
		from &= WEFT_ROUTE_MAX - 1;
		WEFT_BARRIER(n);
		if (n > WEFT_ROUTE_MAX)
			goto none;
		if (bpf_probe_read_user(e->route.text + from, n, (void *)piece[0])) {
			unread_route(s->n == 1 && !s->guard ? span_id : 0, piece[0], piece[1],
				     s->router);
			goto none;
		}
	}
	if (!total || (s->guard && user_u64(s->guard) != s->holds))
		goto none;
	e->route.len = s->n > ROUTE_PIECES ? 2 * WEFT_ROUTE_MAX : total;
	event_submit(e);
	return 1;
none:
	bpf_ringbuf_discard(e, BPF_RB_NO_WAKEUP);
	return 0;
}

/* What the router that serves exchange x has matched so far. */
WEFT_INLINE void route_so_far(const struct weft_go_layout *l, const struct exchange *x,
			      struct route_source *s)
{
	bool chi = x->serves == WEFT_ROUTER_CHI;
	u16 matched = l->offset[chi ? WEFT_GO_CHI_PATTERNS : WEFT_GO_GIN_FULLPATH];
	u16 of = l->offset[chi ? WEFT_GO_CHI_PARENT : WEFT_GO_GIN_WRITER];
	u64 patterns[2] = {};

	if (matched == WEFT_GO_UNKNOWN || of == WEFT_GO_UNKNOWN)
		return;
	s->at = x->router + matched;
	s->n = 1;
	s->guard = x->router + of + 8;
	s->holds = x->above;
	s->router = x->serves;
	if (!chi)
		return;
	bpf_probe_read_user(patterns, sizeof(patterns), (void *)s->at);
	s->at = patterns[0];
	s->n = patterns[1];
}

/* The response to a Go request is being sent, so its net/http.Request must still be
 * there, and what a router keeps of it if that has not told. */
__attribute__((noinline)) int weft_emit_route(u64 span_id)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_go_layout *l = go_layout_of(target_of(tgid));
	struct route_source s = {};

	if (!x || !l)
		return 0;
	if (x->router && !(x->routed & ROUTED_WITHIN))
		route_so_far(l, x, &s);
	if (!s.n && !x->routed && x->request &&
	    l->offset[WEFT_GO_REQUEST_PATTERN] != WEFT_GO_UNKNOWN) {
		s.at = x->request + l->offset[WEFT_GO_REQUEST_PATTERN];
		s.n = 1;
	}
	x->request = 0;
	return s.n ? route_emit(span_id, &s) : 0;
}
