/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * HTTP/1 of net/http. Its bytes, in the clear, are the socket tier's: here is told
 * only which handler serves them, and for whom a call is made.
 */
#pragma once

#include "golang.h"

/* serverHandler.ServeHTTP(rw, req): a handler begins, in the goroutine that read the
 * request. */
WEFT_INLINE void go_on_serve(struct go_regs *ctx, struct go_here *h)
{
	u64 request = go_arg(ctx, 3);
	struct exec_state *s;
	struct exec_key k;
	u64 span_id;

	if (go_word(h->l, request, WEFT_GO_REQUEST_PROTOMAJOR) == 2)
		return; /* its own sites have told */
	exec_key_of_goroutine(&k, h->tgid, h->goid, h->t->start_ns);
	s = bpf_map_lookup_elem(&threads, &k);
	if (!s || s->in_flight != 1)
		return;
	span_id = s->sum;
	if (!weft_go_serve(span_id, go_data(h->l, request, WEFT_GO_REQUEST_CTX), request, 0))
		weft_go_births(span_id, go_word(h->l, h->g, WEFT_GO_G_M));
}

/* (*persistConn).roundTrip(req): the caller's goroutine hands a request to the one
 * that writes on this connection. */
WEFT_INLINE void go_on_roundtrip(struct go_regs *ctx, struct go_here *h)
{
	u64 connection = go_arg(ctx, 0), request = go_arg(ctx, 1), data, sk;

	request = go_word(h->l, request, WEFT_GO_TRANSPORTREQUEST_REQUEST);
	data = go_data(h->l, request, WEFT_GO_REQUEST_CTX);
	if (go_word(h->l, connection, WEFT_GO_PERSISTCONN_TLSSTATE))
		return;
	sk = weft_go_sock(go_data(h->l, connection, WEFT_GO_PERSISTCONN_CONN));
	if (sk)
		weft_go_depart(sk, sock_tuple((struct sock *)sk), h->g, data);
}
