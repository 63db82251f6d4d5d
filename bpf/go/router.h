/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Routes of routers other than net/http's own. They are read where the router has
 * matched and the request's handler has not returned, because what they keep of a
 * request goes to a pool after that, and is another's when the response leaves.
 *
 * Where one router serves what is mounted in another, the inner one's route counts.
 */
#pragma once

#include "golang.h"

/* The exchange for which a router has a request with a context of this data: that
 * of the context, else of this goroutine. 0: none, or one that is not sampled. */
__attribute__((noinline)) u64 weft_go_serving(u64 data, u64 goid)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 span_id = weft_go_descends(data);
	struct weft_target *t;
	struct exec_state *s;
	struct exec_key k;
	struct exchange *x;

	if (!span_id || span_id == GO_TOO_DEEP) {
		t = target_of(tgid);
		if (!t)
			return 0;
		exec_key_of_goroutine(&k, tgid, goid, t->start_ns);
		s = bpf_map_lookup_elem(&threads, &k);
		span_id = s && s->in_flight == 1 ? s->sum : 0;
	}
	x = bpf_map_lookup_elem(&exchanges, &span_id);
	return x && x->flags & TRACEPARENT_SAMPLED ? span_id : 0;
}

/* A router has matched: `n` strings at user address `at`. */
__attribute__((noinline)) int weft_go_route(u64 span_id, u64 at, u64 n, u64 router)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);
	struct route_source s = { .at = at, .n = n, .router = router };

	if (x && at && n && route_emit(span_id, &s))
		x->routed = ROUTED | ROUTED_WITHIN;
	return 0;
}

/*
 * A router begins: `context` is where it will note what it matches, for the request
 * to which `above` belongs. A response may be complete before it is done, so that has
 * to be found until then.
 */
WEFT_INLINE void router_begins(u64 span_id, u64 context, u64 above, u32 router)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);

	if (!x)
		return;
	x->router = context;
	x->above = above;
	x->serves = router;
	x->routed &= ~ROUTED_WITHIN;
}

/* A router is done, and has not given back its context: n strings at `at`. */
WEFT_INLINE void router_ends(u64 span_id, u64 at, u64 n, u32 router)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);

	if (!x)
		return;
	x->router = 0;
	if (!(x->routed & ROUTED_WITHIN))
		weft_go_route(span_id, at, n, router);
}

/* chi: (*Mux).ServeHTTP calls context.WithValue(r.Context(), RouteCtxKey, rctx), once
 * for a request and all routers mounted in one another. */
WEFT_INLINE void go_on_chi_begin(struct go_regs *ctx, struct go_here *h)
{
	u64 parent = go_arg(ctx, 1), rctx = go_arg(ctx, 5);

	if (go_data(h->l, rctx, WEFT_GO_CHI_PARENT) == parent)
		router_begins(weft_go_serving(parent, h->goid), rctx, parent, WEFT_ROUTER_CHI);
}

/* It calls pool.Put(rctx): all of them have matched what they do. */
WEFT_INLINE void go_on_chi_end(struct go_regs *ctx, struct go_here *h)
{
	u64 rctx = go_arg(ctx, 2), patterns[2] = {}, at;

	at = go_field(h->l, rctx, WEFT_GO_CHI_PATTERNS);
	if (!at || bpf_probe_read_user(patterns, sizeof(patterns), (void *)at))
		return;
	router_ends(weft_go_serving(go_data(h->l, rctx, WEFT_GO_CHI_PARENT), h->goid), patterns[0],
		    patterns[1], WEFT_ROUTER_CHI);
}

/* The exchange of the gin.Context at user address c. */
WEFT_INLINE u64 gin_serving(struct go_here *h, u64 c)
{
	u64 request = go_word(h->l, c, WEFT_GO_GIN_REQUEST);

	return weft_go_serving(go_data(h->l, request, WEFT_GO_REQUEST_CTX), h->goid);
}

/* gin: (*Engine).handleHTTPRequest(c) calls c.Next(): c.fullPath is set. */
WEFT_INLINE void go_on_gin_route(struct go_regs *ctx, struct go_here *h)
{
	u64 c = go_arg(ctx, 0), span_id = gin_serving(h, c);

	if (span_id)
		weft_go_route(span_id, go_field(h->l, c, WEFT_GO_GIN_FULLPATH), 1, WEFT_ROUTER_GIN);
}

/* Next is part of it up to gin 1.9. handleHTTPRequest(c) begins. */
WEFT_INLINE void go_on_gin_begin(struct go_regs *ctx, struct go_here *h)
{
	u64 c = go_arg(ctx, 1);

	router_begins(gin_serving(h, c), c, go_data(h->l, c, WEFT_GO_GIN_WRITER), WEFT_ROUTER_GIN);
}

/* (*Engine).ServeHTTP calls pool.Put(c). */
WEFT_INLINE void go_on_gin_end(struct go_regs *ctx, struct go_here *h)
{
	u64 c = go_arg(ctx, 2);

	router_ends(gin_serving(h, c), go_field(h->l, c, WEFT_GO_GIN_FULLPATH), 1, WEFT_ROUTER_GIN);
}

/* gorilla/mux: requestWithRoute(r, route). A route never changes once it is served. */
WEFT_INLINE void go_on_mux_route(struct go_regs *ctx, struct go_here *h)
{
	u64 data = go_data(h->l, go_arg(ctx, 0), WEFT_GO_REQUEST_CTX), span_id, path;

	span_id = weft_go_serving(data, h->goid);
	path = go_word(h->l, go_arg(ctx, 1), WEFT_GO_MUX_PATH);
	if (span_id)
		weft_go_route(span_id, go_field(h->l, path, WEFT_GO_MUX_TEMPLATE), 1,
			      WEFT_ROUTER_MUX);
}
