/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Fields for the requests of gRPC. Before a frame is put together there may be no room
 * for them: newer versions take a write buffer from a pool when they begin to write,
 * and give it back once all is sent. Once the frame is written it lies at the end of
 * that buffer, which is large, and the goroutine that wrote it is the only one that
 * uses it, and sends it later: there the frame is grown.
 */
#pragma once

#include "block.h"

/* The slice of a transport.bufWriter: in it, or behind a pointer that may be nil. */
WEFT_INLINE u64 grpc_buffer(const struct weft_go_layout *l, u64 writer)
{
	u64 at = go_field(l, writer, WEFT_GO_GRPC_BUFWRITER_BUF);

	return at ? at : go_word(l, writer, WEFT_GO_GRPC_BUFWRITER_HANDLE);
}

/* (*loopyWriter).writeHeader calls (*Framer).WriteHeaders, for clients and for servers. */
WEFT_INLINE void go_on_grpc_write(struct go_regs *ctx, struct go_here *h)
{
	u64 framer = go_arg(ctx, 0), by = virtual_key(h->tgid, h->goid, GO_WRITING), writer;
	struct go_departure *d = bpf_map_lookup_elem(&go_departures, &by);

	if (!d)
		return;
	writer = go_data(h->l, framer, h2_field(WEFT_GO_H2_FRAMER_W, WEFT_GO_XNET));
	if (h->l->flags & WEFT_GO_WROTE) {
		d->sk = framer;
		d->tuple = writer;
	}
	weft_go_write_headers(
		h->goid, go_headers_param(ctx, h, framer, WEFT_GO_XNET | GO_GRPC),
		grpc_buffer(h->l, writer), go_word(h->l, writer, WEFT_GO_GRPC_BUFWRITER_OFFSET),
		go_field(h->l, framer, h2_field(WEFT_GO_H2_FRAMER_WBUF, WEFT_GO_XNET)));
}

/* Flags of a HEADERS frame with something else around its block. */
#define GO_FRAME_AROUND (HTTP2_PADDED | HTTP2_PRIORITY)

/* Length of the frame whose header these bytes are, if it is the whole HEADERS frame of
 * this stream; else 0. */
WEFT_INLINE u32 go_frame(const u8 *b, u32 stream)
{
	u32 id = (u32)b[5] << 24 | (u32)b[6] << 16 | (u32)b[7] << 8 | b[8];

	if (b[3] != HTTP2_HEADERS || !(b[4] & HTTP2_END_HEADERS) || b[4] & GO_FRAME_AROUND ||
	    id != stream)
		return 0;
	return HTTP2_HEADER_LEN + ((u32)b[0] << 16 | (u32)b[1] << 8 | b[2]);
}

/*
 * Grows the frame that the Framer at user address `framer` wrote last, if it is that of
 * virtual connection `key` and stands at the end of the buffer at `buf`, a slice, of
 * whose bytes the word at `used` tells how many are in use. The fields come first, where
 * they mean nothing yet, then the frame's length, then the word. Returns enum
 * weft_propagation, or GO_NO_ROOM.
 */
__attribute__((noinline)) int weft_go_grow(u64 key, u64 wbuf, u64 buf, u64 used)
{
	u8 made[HTTP2_HEADER_LEN] = {}, lies[HTTP2_HEADER_LEN] = {}, length[3];
	struct conn *c = conn_of(key);
	u64 frame[2] = {}, slice[2] = {}, at, end;
	u32 len, n;

	if (!go_writes || !c)
		return WEFT_PROPAGATION_REFUSED;
	n = c->out.lines_len - FIELD_AT;
	if (!n || !buf || !used || bpf_probe_read_user(frame, sizeof(frame), (void *)wbuf) ||
	    bpf_probe_read_user(made, sizeof(made), (void *)frame[0]) ||
	    bpf_probe_read_user(slice, sizeof(slice), (void *)buf))
		return GO_NO_ROOM;
	at = user_u64(used);
	len = go_frame(made, c->object);
	if (!len || len != frame[1] || len + n > HTTP2_HEADER_LEN + HTTP2_FRAME_MAX)
		return GO_NO_ROOM;
	/* Its start has been sent if the end of the buffer came between. */
	if (slice[1] > GO_CAP_MAX || at < len || at + n >= slice[1])
		return GO_NO_ROOM;
	end = slice[0] + at;
	if (bpf_probe_read_user(lies, sizeof(lies), (void *)(end - len)) ||
	    __builtin_memcmp(made, lies, sizeof(made)))
		return GO_NO_ROOM;
	/* What cannot be written shows before anything means anything. */
	if (bpf_probe_write_user((void *)used, &at, sizeof(at)) || weft_go_fields_store(key, end))
		goto fault;
	at += n;
	n += len - HTTP2_HEADER_LEN;
	length[0] = n >> 16;
	length[1] = n >> 8;
	length[2] = n;
	if (bpf_probe_write_user((void *)(end - len), length, sizeof(length)))
		goto fault;
	if (bpf_probe_write_user((void *)used, &at, sizeof(at))) {
		bpf_probe_write_user((void *)(end - len), made, sizeof(length));
		goto fault;
	}
	return WEFT_PROPAGATION_INJECTED;
fault:
	count(WEFT_COUNT_REFUSED_FAULT);
	return WEFT_PROPAGATION_REFUSED;
}

/* writeHeader has returned to where a client's stream begins. */
WEFT_INLINE void go_on_grpc_wrote(struct go_regs *ctx, struct go_here *h)
{
	u64 by = virtual_key(h->tgid, h->goid, GO_WROTE), key, framer, writer;
	struct go_departure *d = bpf_map_lookup_elem(&go_departures, &by);
	struct conn *c;

	if (!d)
		return;
	key = d->conn;
	framer = d->sk;
	writer = d->tuple;
	bpf_map_delete_elem(&go_departures, &by);
	c = conn_of(key);
	if (!c || !c->unsettled || !c->writes)
		return;
	weft_go_block_settle(
		key,
		weft_go_grow(key,
			     go_field(h->l, framer, h2_field(WEFT_GO_H2_FRAMER_WBUF, WEFT_GO_XNET)),
			     grpc_buffer(h->l, writer),
			     go_field(h->l, writer, WEFT_GO_GRPC_BUFWRITER_OFFSET)));
}
