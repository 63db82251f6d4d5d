/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Adds fields to the header block of a request over HTTP/2 in the memory of a Go
 * program, at the call of (*Framer).WriteHeaders: its parameter lies on the stack, the
 * block it points to is complete and is copied before anything is sent. The goroutine
 * stands still at the probe, and holds the connection's lock or is the only one that
 * writes it.
 *
 * First the bytes, where they mean nothing yet: behind the block, or with a copy of it
 * in the free part of the connection's write buffer. Then, in one write, what tells
 * where the block ends.
 */
#pragma once

#include "../go/grpc.h"
#include "../maps/control.h"
#include "fields.h"
#include "golang.h"

/* HeadersFrameParam, as far as it is the same in all versions. */
struct go_headers {
	u32 stream;
	u32 pad;
	u64 at; /* BlockFragment */
	u64 len;
	u64 cap;
	u8 end_stream;
	u8 end_headers;
	u8 pad_length;
	u8 unused;
	u32 stream_dep; /* Priority, which stands before the block */
	u8 exclusive;
	u8 weight;
	u8 behind[6];
};

/* Where the stack has arguments when a call is made. */
#if defined(__TARGET_ARCH_x86)
#define GO_CALL_ARGS 0
#else
#define GO_CALL_ARGS 8
#endif

/* There is no room, nothing was written, and nothing counted. */
#define GO_NO_ROOM 255

/* A block longer than this is not copied. */
#define GO_BLOCK_MAX 4096

/* Copies len bytes, at most GO_BLOCK_MAX, from one user address to another. Returns 0
 * when they stand there. */
__attribute__((noinline)) int weft_go_move(u64 key, u64 to, u64 from, u64 len)
{
	struct conn *c = conn_of(key);

	if (!go_writes || !c)
		return 1; /* where it is refused, not even what follows is loaded */
	for (u32 at = 0; at < GO_BLOCK_MAX; at += READ_AHEAD) {
		u64 left = len - at;
		u32 n;

		if (at >= len)
			return 0;
		n = left < READ_AHEAD ? left : READ_AHEAD;
		n--;
		WEFT_BARRIER(n);
		n &= READ_AHEAD - 1;
		if (bpf_probe_read_user(c->dir[DIR_RX].window, n + 1, (void *)(from + at)) ||
		    bpf_probe_write_user((void *)(to + at), c->dir[DIR_RX].window, n + 1))
			return 1;
	}
	return len > GO_BLOCK_MAX;
}

/* Fields of a block that are looked at. */
#define GO_BLOCK_FIELDS 128

/*
 * An integer of RFC 7541, 5.1, in the low bytes of `word`, with this mask of its first
 * byte. Bytes it takes in *n; 0: longer than any that is believed.
 */
WEFT_INLINE u64 hpack_integer(u64 word, u32 mask, u32 *n)
{
	u64 value = word & mask;

	*n = 1;
	if (value != mask)
		return value;
	value += word >> 8 & 0x7f;
	*n = 2;
	if (!(word >> 15 & 1))
		return value;
	value += (word >> 16 & 0x7f) << 7;
	*n = word >> 23 & 1 ? 0 : 3;
	return value;
}

/* Behind the HPACK string at user address `at`; 0: it is none. */
WEFT_INLINE u64 hpack_string_end(u64 at)
{
	u64 word = 0, len;
	u32 n;

	if (bpf_probe_read_user(&word, 4, (void *)at))
		return 0;
	len = hpack_integer(word, 0x7f, &n);
	return n ? at + n + len : 0;
}

/* Behind the HPACK field at user address `at`, which ends at `end` at the latest; 0: it
 * is none. */
__attribute__((noinline)) u64 weft_go_hpack_field(u64 at, u64 end)
{
	u64 word = 0, index;
	u32 mask, n;

	if (bpf_probe_read_user(&word, 4, (void *)at))
		return 0;
	mask = word & 0x80 ? 0x7f : word & 0x40 ? 0x3f : word & 0x20 ? 0x1f : 0xf;
	index = hpack_integer(word, mask, &n);
	if (!n)
		return 0;
	at += n;
	if (word & 0x80) {
		if (!index)
			return 0; /* there is no such */
	} else if (mask != 0x1f) {
		if (!index)
			at = hpack_string_end(at);
		at = at ? hpack_string_end(at) : 0;
	}
	return at > end ? 0 : at;
}

/* Is what lies at user address `at` a whole header block of this length, as far as it
 * is looked at? */
__attribute__((noinline)) int weft_go_hpack_whole(u64 at, u64 len)
{
	u64 end = at + len;

	for (u32 i = 0; i < GO_BLOCK_FIELDS; i++) {
		if (at == end)
			return i > 0;
		at = weft_go_hpack_field(at, end);
		if (!at)
			return 0;
	}
	return 1;
}

/* The first block that this process is about to have grown: is it one? */
__attribute__((noinline)) int weft_go_block_read(u64 key, u64 at, u64 len)
{
	struct weft_target *t = target_of(bpf_get_current_pid_tgid() >> 32);
	struct conn *c = conn_of(key);
	u32 read;

	if (!t || !c)
		return 0;
	read = c->http & WEFT_HTTP_GRPC ? WEFT_GO_USE_GRPC_READ : WEFT_GO_USE_H2_READ;
	if (t->go_flags & read)
		return 1;
	if (!weft_go_hpack_whole(at, len))
		return 0;
	t->go_flags |= read;
	return 1;
}

/* Writes the prepared fields to user address `to`. Returns 0 when they stand there. */
__attribute__((noinline)) int weft_go_fields_store(u64 key, u64 to)
{
	struct conn *c = conn_of(key);
	struct slot *s;
	u32 n;

	if (!go_writes || !c)
		return 1;
	n = c->out.lines_len - FIELD_AT;
	if (n == HPACK_TRACEPARENT_LEN)
		return !!bpf_probe_write_user((void *)to, c->out.line + FIELD_AT,
					      HPACK_TRACEPARENT_LEN);
	s = slot_of(c);
	if (!s || !n || n > LINES_MAX)
		return 1;
	n--;
	WEFT_BARRIER(n);
	n &= LINES_MASK; /* at the very place, as in copy_baggage */
	return !!bpf_probe_write_user((void *)to, s->lines + FIELD_AT, n + 1);
}

/*
 * Writes what is to be written for the virtual connection `key` into the block whose
 * HeadersFrameParam is at user address `param`; `room` bytes at `spare` are free.
 * Returns enum weft_propagation, or GO_NO_ROOM.
 */
__attribute__((noinline)) int weft_go_block(u64 key, u64 param, u64 spare, u64 room)
{
	struct conn *c = conn_of(key);
	struct go_headers p = {};
	u32 n;

	if (!go_writes || !c)
		return WEFT_PROPAGATION_REFUSED;
	if (!agent_alive()) {
		count(WEFT_COUNT_REFUSED_EXPIRED);
		return WEFT_PROPAGATION_REFUSED;
	}
	if (bpf_probe_read_user(&p, sizeof(p), (void *)param) || p.stream != c->object || !p.at ||
	    !p.len || p.len > p.cap || p.cap > GO_CAP_MAX || p.end_headers > 1 ||
	    p.end_stream > 1) {
		count(WEFT_COUNT_REFUSED_LIVE);
		return WEFT_PROPAGATION_REFUSED;
	}
	if (!p.end_headers || p.pad_length || p.stream_dep || p.exclusive || p.weight) {
		count(p.end_headers ? WEFT_COUNT_REFUSED_PADDED : WEFT_COUNT_REFUSED_FRAMES);
		return WEFT_PROPAGATION_REFUSED;
	}
	if (!weft_go_block_read(key, p.at, p.len)) {
		count(WEFT_COUNT_REFUSED_LIVE);
		return WEFT_PROPAGATION_REFUSED;
	}
	weft_fields(key, p.len);
	n = c->out.lines_len - FIELD_AT;
	if (!n)
		return WEFT_PROPAGATION_WITHHELD;
	if (p.len + n > HTTP2_FRAME_MAX) {
		count(WEFT_COUNT_REFUSED_LONG);
		return WEFT_PROPAGATION_REFUSED;
	}
	if (p.cap - p.len >= n) {
		if (weft_go_fields_store(key, p.at + p.len))
			goto fault;
		p.len += n;
		if (bpf_probe_write_user(
			    (void *)(param + __builtin_offsetof(struct go_headers, len)), &p.len,
			    sizeof(p.len)))
			goto fault;
		return WEFT_PROPAGATION_INJECTED;
	}
	if (!spare || p.len > GO_BLOCK_MAX || room < p.len + n)
		return GO_NO_ROOM;
	if (weft_go_move(key, spare, p.at, p.len) || weft_go_fields_store(key, spare + p.len))
		goto fault;
	p.at = spare;
	p.len += n;
	p.cap = p.len;
	if (bpf_probe_write_user((void *)(param + __builtin_offsetof(struct go_headers, at)), &p.at,
				 3 * sizeof(u64)))
		goto fault;
	return WEFT_PROPAGATION_INJECTED;
fault:
	count(WEFT_COUNT_REFUSED_FAULT);
	return WEFT_PROPAGATION_REFUSED;
}

/* The part of a buffer that is free: of the slice at user address `buf`, behind
 * `used` bytes, as far as its capacity goes. */
WEFT_INLINE u64 go_spare(u64 buf, u64 used, u64 *room)
{
	u64 slice[3] = {};

	*room = 0;
	if (!buf || bpf_probe_read_user(slice, sizeof(slice), (void *)buf) || !slice[0] ||
	    slice[1] > slice[2] || slice[2] > GO_CAP_MAX || used > slice[2])
		return 0;
	*room = slice[2] - used;
	return slice[0] + used;
}

/* Counts what was written for the virtual connection `key`, and settles it. */
__attribute__((noinline)) int weft_go_block_settle(u64 key, u32 propagation)
{
	struct conn *c = conn_of(key);

	if (!c)
		return 0;
	if (propagation == GO_NO_ROOM) {
		count(WEFT_COUNT_REFUSED_BUFFER);
		propagation = WEFT_PROPAGATION_REFUSED;
	}
	if (propagation == WEFT_PROPAGATION_INJECTED) {
		if (c->out.write & WEFT_HEADER_TRACEPARENT)
			count(WEFT_COUNT_INJECTED_MEMORY);
		if (c->out.write & WEFT_HEADER_TRACESTATE)
			count(WEFT_COUNT_WRITTEN_TRACESTATE);
		if (c->out.write & WEFT_HEADER_BAGGAGE)
			count(WEFT_COUNT_WRITTEN_BAGGAGE);
		if (!(c->out.write & WEFT_HEADER_TRACEPARENT))
			propagation = WEFT_PROPAGATION_WITHHELD;
	}
	return weft_stream_settle(key, propagation);
}

/*
 * (*Framer).WriteHeaders is about to be called in goroutine goid: if that is for a
 * request which waits for it, its fields are written. buf, used: of the writer, which
 * may have no buffer now; wbuf: where the Framer itself will put the frame together,
 * header first, so that what lies behind the header is there already. If there is no
 * room and somebody looks at the frame once it is written (go_departure.sk), it waits
 * for that.
 */
__attribute__((noinline)) int weft_go_write_headers(u64 goid, u64 param, u64 buf, u64 used,
						    u64 wbuf)
{
	u64 by = virtual_key(bpf_get_current_pid_tgid() >> 32, goid, GO_WRITING), key, spare, room;
	struct go_departure *d = bpf_map_lookup_elem(&go_departures, &by);
	u64 frame, behind, later;
	struct conn *c;
	u32 propagation;

	if (!d)
		return 0;
	key = d->conn;
	later = d->sk;
	c = conn_of(key);
	if (!c || !c->unsettled || !c->writes) {
		bpf_map_delete_elem(&go_departures, &by);
		return 0;
	}
	spare = go_spare(buf, used, &room);
	frame = go_spare(wbuf, HTTP2_HEADER_LEN, &behind);
	if (behind > room) {
		spare = frame;
		room = behind;
	}
	propagation = weft_go_block(key, param, spare, room);
	if (propagation == GO_NO_ROOM && !(c->http & WEFT_HTTP_TLS) && c->sk) {
		/* The connection's first buffers are small. Its first frames can be
		 * grown on their way out, too. */
		c->writes = 0;
		c->by_msg = 1;
		bpf_map_delete_elem(&go_departures, &by);
		return weft_stream_departs(key, c->object);
	}
	if (propagation == GO_NO_ROOM && later) {
		departure_move(by, virtual_key(c->tgid, goid, GO_WROTE));
		return 0;
	}
	bpf_map_delete_elem(&go_departures, &by);
	return weft_go_block_settle(key, propagation);
}

/*
 * Is what the Framer keeps of its last frame, in the slice at user address `wbuf`, a
 * frame, or nothing yet? It puts the frame's length into the first three bytes.
 */
WEFT_INLINE bool go_framed(u64 wbuf)
{
	u64 slice[3] = {}, word = 0, len;

	if (!wbuf || bpf_probe_read_user(slice, sizeof(slice), (void *)wbuf) ||
	    slice[1] > slice[2] || slice[2] > GO_CAP_MAX || !slice[0] != !slice[2])
		return false;
	if (!slice[1])
		return true;
	if (slice[1] < HTTP2_HEADER_LEN || bpf_probe_read_user(&word, 3, (void *)slice[0]))
		return false;
	len = (word & 0xff) << 16 | (word & 0xff00) | (word >> 16 & 0xff);
	return len == slice[1] - HTTP2_HEADER_LEN;
}

/* Flavour of a Framer whose writer is gRPC's own. */
#define GO_GRPC 0x100

/*
 * Is all as it should be around the Framer that goroutine goid of g is about to have
 * write headers? A function of its own for the sake of the stack.
 */
__attribute__((noinline)) int weft_go_framer_live(u64 g, u64 goid, u64 framer, u32 flavour)
{
	struct go_here h = { .g = g, .goid = goid, .tgid = bpf_get_current_pid_tgid() >> 32 };
	u32 w = h2_field(WEFT_GO_H2_FRAMER_W, flavour & WEFT_GO_XNET);
	u32 wbuf = h2_field(WEFT_GO_H2_FRAMER_WBUF, flavour & WEFT_GO_XNET);
	struct go_buffer b;

	h.t = target_of(h.tgid);
	h.l = go_layout_of(h.t);
	if (!h.l || !go_live(&h) || !go_in_image(&h, go_word(h.l, framer, w)) ||
	    !go_framed(go_field(h.l, framer, wbuf)))
		return 0;
	return flavour & GO_GRPC || go_buffer_of(&h, go_data(h.l, framer, w), &b);
}

/* Where the parameter of the call lies; 0, which nothing can be read from, if what is
 * around it is not as it should be. */
WEFT_INLINE u64 go_headers_param(struct go_regs *ctx, struct go_here *h, u64 framer, u32 flavour)
{
	return weft_go_framer_live(h->g, h->goid, framer, flavour) ? GO_SP(ctx) + GO_CALL_ARGS : 0;
}

/* (*ClientConn).writeHeaders calls (*Framer).WriteHeaders. */
WEFT_INLINE void h2_write(struct go_regs *ctx, struct go_here *h, u32 flavour)
{
	u64 framer = go_arg(ctx, 0), param = go_headers_param(ctx, h, framer, flavour), writer;

	writer = go_data(h->l, framer, h2_field(WEFT_GO_H2_FRAMER_W, flavour));
	weft_go_write_headers(h->goid, param, go_field(h->l, writer, WEFT_GO_WRITER_BUF),
			      go_word(h->l, writer, WEFT_GO_WRITER_N),
			      go_field(h->l, framer, h2_field(WEFT_GO_H2_FRAMER_WBUF, flavour)));
}

WEFT_INLINE void go_on_h2_write_bundled(struct go_regs *ctx, struct go_here *h)
{
	h2_write(ctx, h, WEFT_GO_BUNDLED);
}

WEFT_INLINE void go_on_h2_write_xnet(struct go_regs *ctx, struct go_here *h)
{
	h2_write(ctx, h, WEFT_GO_XNET);
}
