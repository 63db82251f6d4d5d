/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * google.golang.org/grpc over its own HTTP/2: a virtual connection for each stream,
 * the server's by its http2Server and stream identifier, the client's by its framer
 * and stream identifier. (A gRPC server behind net/http is net/http's; only the
 * status of the call is added here.)
 *
 * Server: handleStream (the handler's goroutine) begins and WriteStatus ends it, or
 * closeStream, if the client or the deadline was faster. Client: NewStream (the
 * caller's goroutine) decides whose child it is, and its executeAndPut says which
 * headers it queues; the goroutine that writes the connection makes it when it meets
 * those headers, for by then the stream has its identifier; closeStream ends it.
 */
#pragma once

#include "http2.h"

/* What NewStream leaves between its entry and its call of executeAndPut. */
#define GO_CALLING 0xfffffffeU

/* Status codes. */
#define GRPC_CANCELED 1
#define GRPC_DEADLINE_EXCEEDED 4

#define GRPC_STREAM_DONE 3 /* transport.streamState */

/* Contexts looked at for the metadata of a request. */
#define GRPC_CONTEXTS 24
#define GO_KIND_MAP 21
#define GO_KIND_MASK 31

/* The transport.Stream of a ServerStream or ClientStream: itself, but for the
 * versions that have a pointer there. */
WEFT_INLINE u64 grpc_stream(const struct weft_go_layout *l, u64 stream, u32 pointer)
{
	return l->offset[pointer] == WEFT_GO_UNKNOWN ? stream : go_word(l, stream, pointer);
}

/* 1 + the code of the *status.Status at `status`. */
WEFT_INLINE u8 grpc_code(const struct weft_go_layout *l, u64 status)
{
	u64 s = go_word(l, status, WEFT_GO_GRPC_STATUS_S);

	return 1 + (s ? go_u32(l, s, WEFT_GO_GRPC_STATUS_CODE) & 0x7f : 0);
}

WEFT_INLINE void grpc_status(struct conn *c, u8 rpc)
{
	if (c->first != c->last)
		c->pending[c->first & (PIPELINE_MAX - 1)].rpc = rpc;
}

/* --- Server ---------------------------------------------------------------- */

/*
 * The map of the metadata.MD that a request came with, from its context: the value of
 * a valueCtx whose key is of a type without bytes. 0: there is none.
 */
__attribute__((noinline)) u64 weft_grpc_metadata(u64 data)
{
	struct weft_target *t = target_of(bpf_get_current_pid_tgid() >> 32);
	struct weft_go_layout *l = go_layout_of(t);

	if (!t || !l)
		return 0;
	for (int i = 0; i < GRPC_CONTEXTS; i++) {
		u64 key[2] = {}, val[2] = {}, size, kind, bytes;

		if (!data)
			return 0;
		bpf_probe_read_user(key, sizeof(key),
				    (void *)go_field(l, data, WEFT_GO_CONTEXT_KEY));
		bpf_probe_read_user(val, sizeof(val),
				    (void *)go_field(l, data, WEFT_GO_CONTEXT_VAL));
		/* Types are constants, whose pages need not be there. */
		if (key[0] && val[1] && key[0] - t->go_bias == l->metadata[0] &&
		    val[0] - t->go_bias == l->metadata[1])
			return val[1];
		size = go_field(l, key[0], WEFT_GO_TYPE_SIZE);
		kind = go_field(l, val[0], WEFT_GO_TYPE_KIND);
		if (size && kind && val[1] &&
		    !bpf_probe_read_user(&bytes, sizeof(bytes), (void *)size) && !bytes &&
		    (user_u32(kind) & GO_KIND_MASK) == GO_KIND_MAP) {
			l->metadata[0] = key[0] - t->go_bias;
			l->metadata[1] = val[0] - t->go_bias;
			return val[1];
		}
		data = user_u64(data + 8);
	}
	return 0;
}

/* A call that net/http serves: its exchange goes over to the goroutine that really
 * handles it, which may be one of a pool. */
__attribute__((noinline)) int weft_grpc_takes_over(u64 data, u64 g)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_target *t = target_of(tgid);
	struct weft_go_layout *l = go_layout_of(t);
	u64 span_id = weft_go_descends(data);
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);
	struct exec_key k;

	if (!l || !x || x->owner.kind != EXEC_GOROUTINE)
		return 0;
	k = x->owner;
	exec_key_of_goroutine(&x->owner, tgid, goid_of(l, g), t->start_ns);
	exec_leave(&k, span_id);
	k = x->owner;
	exec_arrive(&k, span_id);
	if (!bpf_map_lookup_elem(&exchanges, &span_id)) {
		exec_leave(&k, span_id); /* ended meanwhile */
		return 0;
	}
	return weft_go_births(span_id, g);
}

/* (*Server).handleStream(t, stream) */
__attribute__((noinline)) int weft_grpc_handler(u64 transport, u64 stream, u64 g)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, around, id;
	struct weft_go_layout *l = go_layout();
	struct go_string method = {};
	u64 key, data, map, span_id;
	struct http1_head *h;
	struct conn *c;

	if (!l)
		return 0;
	stream = grpc_stream(l, stream, WEFT_GO_GRPC_SERVERSTREAM_STREAM);
	id = go_u32(l, stream, WEFT_GO_GRPC_STREAM_ID);
	if (!(id & 1))
		return weft_grpc_takes_over(go_data(l, stream, WEFT_GO_GRPC_STREAM_CTX), g);
	key = go_data(l, transport, WEFT_GO_GRPC_SERVER_CONN);
	data = go_net_sock(key, &around);
	key = virtual_key(tgid, transport, id);
	if (weft_go_conn(key, data, WEFT_ROLE_SERVER,
			 WEFT_HTTP_2 | WEFT_HTTP_GRPC | (around > 1 ? WEFT_HTTP_TLS : 0)))
		return 0;
	c = conn_of(key);
	if (!c)
		return 0;
	c->start_ns = bpf_ktime_get_ns();
	data = go_data(l, stream, WEFT_GO_GRPC_STREAM_CTX);
	map = weft_grpc_metadata(data);
	if (weft_go_header(key, map))
		count(WEFT_COUNT_DESYNC_BUDGET);
	weft_go_noted(key);
	h = &c->head[REQUEST];
	__builtin_memcpy(h->method, "POST", 4);
	h->method_len = 4;
	bpf_probe_read_user(&method, sizeof(method),
			    (void *)go_field(l, stream, WEFT_GO_GRPC_STREAM_METHOD));
	go_target(c, h, method.at, method.len);
	c->goid = goid_of(l, g);
	weft_go_request(key, DIR_RX);
	weft_go_settle(key, DIR_RX, WEFT_PROPAGATION_NONE);
	if (c->first == c->last)
		return 0;
	span_id = c->pending[c->first & (PIPELINE_MAX - 1)].span_id;
	/* A worker of a pool serves many requests. */
	if (!weft_go_serve(span_id, data, 0, 0))
		weft_go_births(span_id, g);
	return 0;
}

WEFT_INLINE void go_on_grpc_handler(struct go_regs *ctx, struct go_here *h)
{
	weft_grpc_handler(go_arg(ctx, 2), go_arg(ctx, 3), h->g);
}

/* The server's stream has ended: rpc is 1 + its status code, or 0. */
__attribute__((noinline)) int weft_grpc_server_end(u64 transport, u64 stream, u32 rpc, u32 end)
{
	struct weft_go_layout *l = go_layout();
	struct conn *c;
	u64 key;

	if (!l)
		return 0;
	stream = grpc_stream(l, stream, WEFT_GO_GRPC_SERVERSTREAM_STREAM);
	key = virtual_key(bpf_get_current_pid_tgid() >> 32, transport,
			  go_u32(l, stream, WEFT_GO_GRPC_STREAM_ID));
	c = conn_of(key);
	if (!c)
		return 0;
	grpc_status(c, rpc);
	if (end == WEFT_END_COMPLETE)
		go_response(c, 200);
	return weft_go_conn_end(key, end);
}

/* (*http2Server).WriteStatus(s, st) */
WEFT_INLINE void go_on_grpc_status(struct go_regs *ctx, struct go_here *h)
{
	weft_grpc_server_end(go_arg(ctx, 0), go_arg(ctx, 1), grpc_code(h->l, go_arg(ctx, 2)),
			     WEFT_END_COMPLETE);
}

/* (*http2Server).closeStream(s, rst, rstCode, eosReceived): the client has reset the
 * stream, or this side does, CANCEL if the deadline has passed. */
WEFT_INLINE void go_on_grpc_server_end(struct go_regs *ctx, struct go_here *h)
{
	u32 rst = go_arg(ctx, 2) & 0xff, code = go_arg(ctx, 3);

	if (!rst)
		weft_grpc_server_end(go_arg(ctx, 0), go_arg(ctx, 1), 1 + GRPC_CANCELED,
				     WEFT_END_CANCELLED);
	else if (code == H2_CANCEL)
		weft_grpc_server_end(go_arg(ctx, 0), go_arg(ctx, 1), 1 + GRPC_DEADLINE_EXCEEDED,
				     WEFT_END_TIMEOUT);
	else
		weft_grpc_server_end(go_arg(ctx, 0), go_arg(ctx, 1), 0, WEFT_END_RESET);
}

/* (*serverHandlerTransport).WriteStatus(s, st): of a call that net/http serves. */
__attribute__((noinline)) int weft_grpc_handler_status(u64 stream, u32 rpc)
{
	struct weft_go_layout *l = go_layout();
	struct exchange *x;
	struct conn *c;
	u64 span_id;

	if (!l)
		return 0;
	stream = grpc_stream(l, stream, WEFT_GO_GRPC_SERVERSTREAM_STREAM);
	span_id = weft_go_descends(go_data(l, stream, WEFT_GO_GRPC_STREAM_CTX));
	x = bpf_map_lookup_elem(&exchanges, &span_id);
	if (!x)
		return 0;
	c = conn_of(x->conn);
	if (c && c->role == WEFT_ROLE_SERVER)
		grpc_status(c, rpc);
	return 0;
}

WEFT_INLINE void go_on_grpc_handler_status(struct go_regs *ctx, struct go_here *h)
{
	weft_grpc_handler_status(go_arg(ctx, 1), grpc_code(h->l, go_arg(ctx, 2)));
}

/* --- Client ---------------------------------------------------------------- */

/* (*http2Client).NewStream(ctx, callHdr), in the caller's goroutine. */
__attribute__((noinline)) int weft_grpc_newstream(u64 transport, u64 data, u64 g, u64 goid)
{
	u64 key = virtual_key(bpf_get_current_pid_tgid() >> 32, goid, GO_CALLING);
	struct weft_go_layout *l = go_layout();
	struct go_departure *d;
	u32 around = 0;
	u64 sk;

	if (!l)
		return 0;
	weft_go_depart(key, 0, g, data);
	sk = go_net_sock(go_data(l, transport, WEFT_GO_GRPC_CLIENT_CONN), &around);
	d = bpf_map_lookup_elem(&go_departures, &key);
	if (!d)
		return 0;
	d->sk = sk;
	d->http = WEFT_HTTP_2 | WEFT_HTTP_GRPC | (around > 1 ? WEFT_HTTP_TLS : 0);
	return 0;
}

WEFT_INLINE void go_on_grpc_newstream(struct go_regs *ctx, struct go_here *h)
{
	weft_grpc_newstream(go_arg(ctx, 0), go_arg(ctx, 2), h->g, h->goid);
}

/* (*controlBuffer).executeAndPut(f, headers), which NewStream calls until it has its
 * stream. */
WEFT_INLINE void go_on_grpc_queued(struct go_regs *ctx, struct go_here *h)
{
	departure_move(virtual_key(h->tgid, h->goid, GO_CALLING),
		       virtual_key(h->tgid, go_arg(ctx, 3), 0));
}

/* The headers of NewStream, in the goroutine that writes the connection. */
__attribute__((noinline)) int weft_grpc_originate(u64 loopy, u64 headers, u64 goid)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, may = WEFT_GO_WRITES_GRPC, id;
	struct weft_go_layout *l = go_layout();
	u64 key, queued, fields[2] = {};
	struct go_departure *d;
	u8 over = 0, rpc = 0;
	struct conn *c;

	if (!l)
		return 0;
	id = go_u32(l, headers, WEFT_GO_GRPC_HEADERFRAME_STREAMID);
	key = virtual_key(tgid, go_word(l, loopy, WEFT_GO_GRPC_LOOPY_FRAMER), id);
	d = bpf_map_lookup_elem(&go_departures, &key);
	if (d && d->over) {
		over = d->over;
		rpc = d->rpc;
	}
	queued = virtual_key(tgid, headers, 0);
	departure_move(queued, key);
	d = bpf_map_lookup_elem(&go_departures, &key);
	/* Older versions have one function for these and for a server's responses. What
	 * says that the call is over, and no more, is no departure. */
	if (!d || !d->http || weft_go_conn(key, d->sk, WEFT_ROLE_CLIENT, d->http))
		return 0;
	c = conn_of(key);
	if (!c)
		return 0;
	/* It may have come to be over since. From here on its end finds the connection. */
	d = bpf_map_lookup_elem(&go_departures, &key);
	if (d && d->over) {
		over = d->over;
		rpc = d->rpc;
	}
	c->start_ns = bpf_ktime_get_ns();
	c->over = over;
	c->rpc = rpc;
	bpf_probe_read_user(fields, sizeof(fields),
			    (void *)go_field(l, headers, WEFT_GO_GRPC_HEADERFRAME_HF));
	if (weft_go_fields(key, fields[0], fields[1]))
		may = 0;
	return weft_stream_request(key, virtual_key(tgid, goid, GO_WRITING), id, may);
}

/* Has all left that the loopyWriter at `loopy` put together? It alone writes the
 * connection, and stands between two frames. */
__attribute__((noinline)) int weft_grpc_flushed(u64 loopy, u64 headers)
{
	struct weft_go_layout *l = go_layout();
	u64 framer, offset = 1;
	struct conn *c;

	if (!l)
		return 0;
	framer = go_word(l, loopy, WEFT_GO_GRPC_LOOPY_FRAMER);
	c = conn_of(virtual_key(bpf_get_current_pid_tgid() >> 32, framer,
				go_u32(l, headers, WEFT_GO_GRPC_HEADERFRAME_STREAMID)));
	if (!c || !c->unsettled || !c->by_msg)
		return 0;
	framer = go_word(l, framer, WEFT_GO_GRPC_FRAMER_FR);
	framer = go_data(l, framer, h2_field(WEFT_GO_H2_FRAMER_W, WEFT_GO_XNET));
	framer = go_field(l, framer, WEFT_GO_GRPC_BUFWRITER_OFFSET);
	if (framer && !bpf_probe_read_user(&offset, sizeof(offset), (void *)framer) && !offset)
		stream_departs_whole(c);
	return 0;
}

WEFT_INLINE void go_on_grpc_originate(struct go_regs *ctx, struct go_here *h)
{
	u64 second = go_arg(ctx, 1), third = go_arg(ctx, 2);

	/* Both are read: a place in the context has to be a constant. */
	WEFT_BARRIER(second);
	WEFT_BARRIER(third);
	if (h->l->offset[WEFT_GO_GRPC_ORIGINATE_ARG] == 1)
		third = second;
	weft_grpc_originate(go_arg(ctx, 0), third, h->goid);
	weft_grpc_flushed(go_arg(ctx, 0), third);
}

/*
 * (*http2Client).closeStream(s, err, rst, rstCode, st, mdata, eosReceived): once when
 * the stream ends, and once more when the call is over. If the first comes before the
 * headers are written, that is left for who writes them: they leave nevertheless.
 */
__attribute__((noinline)) int weft_grpc_client_end(u64 transport, u64 stream, u64 status, u32 eos)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, end;
	struct weft_go_layout *l = go_layout();
	struct go_departure over = {}, *d;
	struct conn *c;
	u64 key;
	u8 rpc;

	if (!l)
		return 0;
	stream = grpc_stream(l, stream, WEFT_GO_GRPC_CLIENTSTREAM_STREAM);
	key = virtual_key(tgid, go_word(l, transport, WEFT_GO_GRPC_CLIENT_FRAMER),
			  go_u32(l, stream, WEFT_GO_GRPC_STREAM_ID));
	rpc = grpc_code(l, status);
	end = WEFT_END_RESET;
	if (rpc == 1 + GRPC_CANCELED)
		end = WEFT_END_CANCELLED;
	if (rpc == 1 + GRPC_DEADLINE_EXCEEDED)
		end = WEFT_END_TIMEOUT;
	c = conn_of(key);
	if (!c) {
		if (go_u32(l, stream, WEFT_GO_GRPC_STREAM_STATE) == GRPC_STREAM_DONE)
			return 0;
		over.over = 1 + end;
		over.rpc = rpc;
		if (!bpf_map_update_elem(&go_departures, &key, &over, BPF_NOEXIST))
			return 0;
		/* Its headers are being looked at this moment. */
		d = bpf_map_lookup_elem(&go_departures, &key);
		if (d) {
			d->rpc = rpc;
			d->over = 1 + end;
		}
		return 0;
	}
	stream_late(c, key);
	grpc_status(c, rpc);
	if (eos) {
		go_response(c, 200);
		end = WEFT_END_COMPLETE;
	}
	return weft_go_conn_end(key, end);
}

WEFT_INLINE void go_on_grpc_client_end(struct go_regs *ctx, struct go_here *h)
{
	weft_grpc_client_end(go_arg(ctx, 0), go_arg(ctx, 1), go_arg(ctx, 6), go_arg(ctx, 8) & 0xff);
}
