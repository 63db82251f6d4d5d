/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * HTTP/2 of net/http and of golang.org/x/net/http2, encrypted or not: a virtual
 * connection for each stream. The server's goes by its serverConn and stream
 * identifier, the client's by its clientStream.
 *
 * Server: newWriterAndRequest (the goroutine that reads the connection) makes it,
 * runHandler ties its exchange to the handler's goroutine and context, closeStream
 * ends it, whatever the cause. Client: roundTrip (the caller's goroutine) decides
 * whose child it is, encodeAndWriteHeaders (a goroutine of its own) makes it,
 * handleResponse has the status, cleanupWriteRequest ends it.
 */
#pragma once

#include "stream.h"

/* --- Server ---------------------------------------------------------------- */

/* (*serverConn).newWriterAndRequest(st, f): a stream was opened by a request. */
__attribute__((noinline)) int weft_h2_headers(u64 sc, u64 st, u64 f, u32 flavour)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, http = WEFT_HTTP_2, around;
	struct weft_go_layout *l = go_layout();
	u64 key, sk, fields[2] = {};
	struct conn *c;

	if (!l)
		return 0;
	f = go_field(l, f, h2_field(WEFT_GO_H2_METAHEADERS_FIELDS, flavour));
	if (!f || bpf_probe_read_user(fields, sizeof(fields), (void *)f))
		return 0;
	if (go_word(l, sc, h2_field(WEFT_GO_H2_SERVERCONN_TLSSTATE, flavour)))
		http |= WEFT_HTTP_TLS;
	sk = go_net_sock(go_data(l, sc, h2_field(WEFT_GO_H2_SERVERCONN_CONN, flavour)), &around);
	key = virtual_key(tgid, sc, go_u32(l, st, h2_field(WEFT_GO_H2_STREAM_ID, flavour)));
	if (weft_go_conn(key, sk, WEFT_ROLE_SERVER, http))
		return 0;
	c = conn_of(key);
	if (!c)
		return 0;
	c->goid = GOID_LATER;
	c->start_ns = bpf_ktime_get_ns();
	if (weft_go_fields(key, fields[0], fields[1]))
		count(WEFT_COUNT_DESYNC_BUDGET);
	weft_go_request(key, DIR_RX);
	return weft_go_settle(key, DIR_RX, WEFT_PROPAGATION_NONE);
}

/* The key of the stream that a responseWriterState answers; 0: of none. */
WEFT_INLINE u64 h2_stream_of(struct weft_go_layout *l, u64 rws, u32 flavour)
{
	u64 st = go_word(l, rws, h2_field(WEFT_GO_H2_RWS_STREAM, flavour));
	u64 sc = go_word(l, st, h2_field(WEFT_GO_H2_STREAM_SC, flavour));

	if (!sc)
		return 0;
	return virtual_key(bpf_get_current_pid_tgid() >> 32, sc,
			   go_u32(l, st, h2_field(WEFT_GO_H2_STREAM_ID, flavour)));
}

/* (*serverConn).runHandler(rw, req, handler), the whole life of a goroutine: whatever
 * it makes was made for this request. */
__attribute__((noinline)) int weft_h2_handler(u64 rw, u64 request, u64 goid, u32 flavour)
{
	struct weft_go_layout *l = go_layout();
	struct exchange *x;
	struct conn *c;
	u64 rws, key, span_id;

	if (!l)
		return 0;
	rws = go_word(l, rw, h2_field(WEFT_GO_H2_RESPONSEWRITER_RWS, flavour));
	key = h2_stream_of(l, rws, flavour);
	c = conn_of(key);
	if (!c || c->first == c->last)
		return 0;
	c->object = rws;
	span_id = c->pending[c->first & (PIPELINE_MAX - 1)].span_id;
	if (weft_go_serve(span_id, go_data(l, request, WEFT_GO_REQUEST_CTX), request, goid))
		return 0;
	x = bpf_map_lookup_elem(&exchanges, &span_id);
	if (!x)
		return 0;
	x->births.goidgen = 1;
	x->conn = key;
	return 0;
}

/* Takes the status from the responseWriterState, if that still is of this stream: it
 * goes to a pool when the handler has returned. */
WEFT_INLINE void h2_status(struct weft_go_layout *l, struct conn *c, u64 key, u32 flavour)
{
	u64 rws = c->object;

	if (rws && h2_stream_of(l, rws, flavour) == key)
		go_response(c, go_word(l, rws, h2_field(WEFT_GO_H2_RWS_STATUS, flavour)));
}

/* (*serverConn).resetStream(StreamError): among others when a response is complete
 * before its request is. Here the handler still waits. */
__attribute__((noinline)) int weft_h2_server_reset(u64 sc, u32 id, u32 flavour)
{
	u64 key = virtual_key(bpf_get_current_pid_tgid() >> 32, sc, id);
	struct weft_go_layout *l = go_layout();
	struct conn *c = conn_of(key);

	if (l && c)
		h2_status(l, c, key, flavour);
	return 0;
}

/* (*serverConn).closeStream(st, err) */
__attribute__((noinline)) int weft_h2_server_end(u64 key, u64 end, u32 flavour)
{
	struct weft_go_layout *l = go_layout();
	struct conn *c = conn_of(key);

	if (!l || !c)
		return 0;
	h2_status(l, c, key, flavour);
	return weft_go_conn_end(key, end);
}

/* --- Client ---------------------------------------------------------------- */

/* Path and query of the net/url.URL at `url`, as they are before they are escaped. */
__attribute__((noinline)) int weft_go_target(u64 key, u64 url)
{
	struct weft_go_layout *l = go_layout();
	struct go_string path = {}, query = {};
	struct conn *c = conn_of(key);
	struct http1_head *h;
	u8 *window;
	u32 n;

	if (!l || !c)
		return 0;
	h = &c->head[REQUEST];
	window = c->dir[DIR_RX].window; /* unused: put together here, there is room behind */
	bpf_probe_read_user(&path, sizeof(path), (void *)go_field(l, url, WEFT_GO_URL_PATH));
	bpf_probe_read_user(&query, sizeof(query), (void *)go_field(l, url, WEFT_GO_URL_RAWQUERY));
	n = go_copy(window, WEFT_TARGET_MAX, path.at, path.len);
	h->target_total = path.len < 0x7fff ? path.len : 0x7fff;
	if (!path.len) {
		window[0] = '/';
		h->target_total = n = 1;
	}
	h->target_len = n;
	if (query.len) {
		h->target_total += query.len < 0x7ffe ? query.len + 1 : 0x7fff;
		if (n < WEFT_TARGET_MAX) {
			WEFT_BARRIER(n);
			n &= WEFT_TARGET_MAX - 1;
			window[n] = '?';
			if (query.len > WEFT_TARGET_MAX - 1 - n)
				query.len = WEFT_TARGET_MAX - 1 - n;
			h->target_len =
				n + 1 +
				go_copy(window + n + 1, WEFT_TARGET_MAX, query.at, query.len);
		}
	}
	bpf_probe_read_kernel(h->target, WEFT_TARGET_MAX, window);
	return 0;
}

/* Method, target and host of the net/http.Request at `request`. */
__attribute__((noinline)) int weft_go_head(u64 key, u64 request)
{
	struct weft_go_layout *l = go_layout();
	struct go_string method = {}, host = {};
	struct conn *c = conn_of(key);
	struct http1_head *h;
	u64 url;

	if (!l || !c)
		return 0;
	h = &c->head[REQUEST];
	bpf_probe_read_user(&method, sizeof(method),
			    (void *)go_field(l, request, WEFT_GO_REQUEST_METHOD));
	h->method_len = go_copy(h->method, WEFT_METHOD_MAX, method.at, method.len);
	if (!method.len) {
		__builtin_memcpy(h->method, "GET", 3);
		h->method_len = 3;
	}
	url = go_word(l, request, WEFT_GO_REQUEST_URL);
	bpf_probe_read_user(&host, sizeof(host),
			    (void *)go_field(l, request, WEFT_GO_REQUEST_HOST));
	if (!host.len)
		bpf_probe_read_user(&host, sizeof(host),
				    (void *)go_field(l, url, WEFT_GO_URL_HOST));
	h->host_len = go_copy(h->host, WEFT_HOST_MAX, host.at, host.len);
	return weft_go_target(key, url);
}

/* (*ClientConn).roundTrip(req), in the caller's goroutine: whose child is it? */
WEFT_INLINE void go_on_h2_roundtrip(struct go_regs *ctx, struct go_here *h)
{
	u64 request = go_arg(ctx, 1);

	weft_go_depart(virtual_key(h->tgid, request, 0), 0, h->g,
		       go_data(h->l, request, WEFT_GO_REQUEST_CTX));
}

/* (*clientStream).encodeAndWriteHeaders(req), in a goroutine that lives for this one
 * request. */
__attribute__((noinline)) int weft_h2_request(u64 cs, u64 request, u64 goid, u32 flavour)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, http = WEFT_HTTP_2, around, may, id;
	struct weft_go_layout *l = go_layout();
	u64 key = virtual_key(tgid, cs, 0), cc, sk;
	struct conn *c;

	if (!l)
		return 0;
	cc = go_word(l, cs, h2_field(WEFT_GO_H2_CLIENTSTREAM_CC, flavour));
	id = go_u32(l, cs, h2_field(WEFT_GO_H2_CLIENTSTREAM_ID, flavour));
	if (go_word(l, cc, h2_field(WEFT_GO_H2_CLIENTCONN_TLSSTATE, flavour)))
		http |= WEFT_HTTP_TLS;
	sk = go_net_sock(go_data(l, cc, h2_field(WEFT_GO_H2_CLIENTCONN_TCONN, flavour)), &around);
	departure_move(virtual_key(tgid, request, 0), key);
	if (weft_go_conn(key, sk, WEFT_ROLE_CLIENT, http))
		return 0;
	c = conn_of(key);
	if (!c)
		return 0;
	c->start_ns = bpf_ktime_get_ns();
	weft_go_head(key, request);
	may = WEFT_GO_WRITES_H2 << flavour;
	if (l->offset[WEFT_GO_REQUEST_HEADER] == WEFT_GO_UNKNOWN ||
	    weft_go_header(key, go_word(l, request, WEFT_GO_REQUEST_HEADER)))
		may = 0;
	if (weft_go_noted(key))
		may = 0;
	return weft_stream_request(key, virtual_key(tgid, goid, GO_WRITING), id, may);
}

/*
 * Is the stream that is about to be opened the only one of its connection? Then nobody
 * is sending a body: each goroutine that does holds a stream until it has done, and
 * what the connection itself sends are frames in one piece. (Called by itself, because
 * the stack is full where the request is looked at.)
 */
__attribute__((noinline)) int weft_h2_alone(u64 cs, u32 flavour)
{
	struct weft_go_layout *l = go_layout();
	struct conn *c = conn_of(virtual_key(bpf_get_current_pid_tgid() >> 32, cs, 0));
	u64 streams;

	if (!l || !c || !c->unsettled || !c->by_msg)
		return 0;
	streams = go_word(l, cs, h2_field(WEFT_GO_H2_CLIENTSTREAM_CC, flavour));
	streams = go_word(l, streams, h2_field(WEFT_GO_H2_CLIENTCONN_STREAMS, flavour));
	if (streams && user_u64(streams) == 1) /* a map begins with its length */
		stream_departs_whole(c);
	return 0;
}

#define DIGITS3 WEFT_WORD(0xf0, 0xf0, 0xf0, 0, 0, 0, 0, 0)
#define ZEROES3 WEFT_WORD('0', '0', '0', 0, 0, 0, 0, 0)

/* The value of :status, which is first; 0: there is none. */
WEFT_INLINE u16 h2_response_status(struct weft_go_layout *l, u64 f, u32 flavour)
{
	u64 fields[2] = {}, text = 0;
	struct go_string value = {};
	u8 d[3];

	f = go_field(l, f, h2_field(WEFT_GO_H2_METAHEADERS_FIELDS, flavour));
	if (!f || bpf_probe_read_user(fields, sizeof(fields), (void *)f) || !fields[1])
		return 0;
	if (bpf_probe_read_user(&value, sizeof(value),
				(void *)go_field(l, fields[0], WEFT_GO_HPACK_VALUE)) ||
	    value.len != 3 || bpf_probe_read_user(&text, 3, (void *)value.at) ||
	    (text & DIGITS3) != ZEROES3)
		return 0;
	__builtin_memcpy(d, &text, 3);
	return (d[0] - '0') * 100 + (d[1] - '0') * 10 + (d[2] - '0');
}

/* (*clientConnReadLoop).handleResponse(cs, f) */
__attribute__((noinline)) int weft_h2_response(u64 cs, u64 f, u32 flavour)
{
	u64 key = virtual_key(bpf_get_current_pid_tgid() >> 32, cs, 0);
	struct weft_go_layout *l = go_layout();
	struct conn *c = conn_of(key);

	if (!l || !c)
		return 0;
	stream_late(c, key);
	go_response(c, h2_response_status(l, f, flavour));
	return 0;
}

/* (*clientStream).cleanupWriteRequest(err) */
__attribute__((noinline)) int weft_h2_client_end(u64 cs, u64 itab, u64 data)
{
	u64 key = virtual_key(bpf_get_current_pid_tgid() >> 32, cs, 0);
	struct conn *c = conn_of(key);

	if (!c)
		return 0;
	stream_late(c, key);
	return weft_go_conn_end(key, weft_go_end_of(key, itab, data, c->object));
}

/* --- The sites of one flavour ---------------------------------------------- */

#define H2_SITES(name, flavour)                                                                  \
	WEFT_INLINE void go_on_h2_headers_##name(struct go_regs *ctx, struct go_here *h)         \
	{                                                                                        \
		weft_h2_headers(go_arg(ctx, 0), go_arg(ctx, 1), go_arg(ctx, 2), flavour);        \
	}                                                                                        \
	WEFT_INLINE void go_on_h2_handler_##name(struct go_regs *ctx, struct go_here *h)         \
	{                                                                                        \
		weft_h2_handler(go_arg(ctx, 1), go_arg(ctx, 2), h->goid, flavour);               \
	}                                                                                        \
	WEFT_INLINE void go_on_h2_server_end_##name(struct go_regs *ctx, struct go_here *h)      \
	{                                                                                        \
		u64 st = go_arg(ctx, 1);                                                         \
		u32 id = go_u32(h->l, st, h2_field(WEFT_GO_H2_STREAM_ID, flavour));              \
                                                                                                 \
		u64 key = virtual_key(h->tgid, go_arg(ctx, 0), id);                              \
                                                                                                 \
		weft_h2_server_end(key, weft_go_end_of(key, go_arg(ctx, 2), go_arg(ctx, 3), id), \
				   flavour);                                                     \
	}                                                                                        \
	WEFT_INLINE void go_on_h2_server_reset_##name(struct go_regs *ctx, struct go_here *h)    \
	{                                                                                        \
		weft_h2_server_reset(go_arg(ctx, 0), go_arg(ctx, 1), flavour);                   \
	}                                                                                        \
	WEFT_INLINE void go_on_h2_request_##name(struct go_regs *ctx, struct go_here *h)         \
	{                                                                                        \
		weft_h2_request(go_arg(ctx, 0), go_arg(ctx, 1), h->goid, flavour);               \
		weft_h2_alone(go_arg(ctx, 0), flavour);                                          \
	}                                                                                        \
	WEFT_INLINE void go_on_h2_response_##name(struct go_regs *ctx, struct go_here *h)        \
	{                                                                                        \
		weft_h2_response(go_arg(ctx, 1), go_arg(ctx, 2), flavour);                       \
	}

H2_SITES(bundled, WEFT_GO_BUNDLED)
H2_SITES(xnet, WEFT_GO_XNET)

WEFT_INLINE void go_on_h2_client_end(struct go_regs *ctx, struct go_here *h)
{
	weft_h2_client_end(go_arg(ctx, 0), go_arg(ctx, 1), go_arg(ctx, 2));
}
