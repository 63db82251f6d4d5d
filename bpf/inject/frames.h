/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * HTTP/2 without encryption, as the sk_msg program sees a client's sends: follows
 * the frames from the connection preface on, and adds the fields that the Go programs
 * left for a stream (go_departures) to the HEADERS frame that opens it. It decides
 * nothing: ids and parents are known by then, and spans are not made here.
 */
#pragma once

#include "fields.h"
#include "store.h"

/* Turns per message, and frames per turn; a turn ends where a stream is opened. */
#define FRAMES_TURNS 512
#define FRAMES_STEPS 16

/* A connection whose first requests all had nothing to be written is not one that
 * the Go programs know: it leaves the sockhash. */
#define BARE_MAX 64
/* One of a Go program may be one that they are about to know. */
#define BARE_GO_MAX 8192

enum turn {
	TURN_AGAIN = 0,
	TURN_DONE = 1,	/* parsed as far as the message could be read */
	TURN_LEAVE = 2, /* not to be looked at any further */
	TURN_DROP = 3,
	TURN_OPENS = 4, /* the header of a frame that opens a stream was read */
};

/* "PRI * HTTP/2": where the HTTP/1 parser finds out. */
#define HTTP2_KNOWN_BY 12

/*
 * The first bytes of the connection are not HTTP/1: are they the preface of HTTP/2?
 * If so its reader goes on behind them.
 */
WEFT_INLINE bool http2_begins(struct conn *c)
{
	struct http1_parser *p = &c->dir[DIR_TX].parser;
	struct http1_head *h = &c->head[REQUEST];

	if (p->reason != HTTP1_REASON_HTTP2 || p->head_bytes != HTTP2_KNOWN_BY ||
	    c->first != c->last || c->last || h->method_len != 3 || h->method[0] != 'P' ||
	    h->method[1] != 'R' || h->method[2] != 'I' || h->target_total != 1 ||
	    h->target[0] != '*')
		return false;
	c->state = CONN_HTTP2;
	http2_reset(&c->dir[DIR_TX].http2.reader, HTTP2_KNOWN_BY);
	c->dir[DIR_TX].http2.bare = 0;
	c->dir[DIR_TX].http2.met = 0;
	count(WEFT_COUNT_HTTP2_FOLLOWED);
	return true;
}

/* The next byte sent is that of `start`: is that known to be inside the frame at
 * hand, if it is not where the last send ended? */
WEFT_INLINE bool http2_catch_up(struct conn *c, u64 sk, u32 start)
{
	struct direction *d = &c->dir[DIR_TX];

	if (!http2_shift(&d->http2.reader, start - d->next_seq))
		return true;
	conn_handsoff(c, sk, WEFT_COUNT_HTTP2_LOST);
	return false;
}

/* Makes n bytes from `pos` on readable, if they are not. */
WEFT_INLINE bool frame_readable(struct sk_msg_md *ctx, struct cursor *at, u32 pos, u32 n)
{
	if (pos >= at->where && pos + n <= at->total)
		return true;
	at->where = pos;
	at->total = pos + n;
	return !bpf_msg_pull_data(ctx, pos, pos + n, 0);
}

/* Passes over what is left of a payload and takes what there is of the next frame
 * header. */
WEFT_INLINE int frame_step(struct sk_msg_md *ctx, struct conn *c, u64 sk)
{
	struct http2_reader *r = &c->dir[DIR_TX].http2.reader;
	struct cursor *at = &c->dir[DIR_TX].cursor;
	u32 pos = at->offset, left = at->moved - pos, n, have;
	u64 base;

	n = http2_skippable(r);
	if (n > left)
		n = left;
	http2_skip(r, n);
	pos += n;
	left -= n;
	n = http2_wanted(r);
	if (n > left)
		n = left;
	at->offset = pos + n;
	if (!n)
		return TURN_DONE;
	if (!frame_readable(ctx, at, pos, n))
		goto lost;
	base = (u64)BPF_CORE_READ((struct sk_msg *)ctx, data) - at->where + pos;
	have = r->have;
	WEFT_BARRIER(n);
	WEFT_BARRIER(have);
	n &= HTTP2_BYTES_MASK;
	have &= HTTP2_BYTES_MASK;
	if (bpf_probe_read_kernel(r->bytes + have, n, (void *)base))
		goto lost;
	http2_take(r, n);
	if (r->signal == HTTP2_RAW) {
		conn_handsoff(c, sk, WEFT_COUNT_HANDSOFF_RAW);
		return TURN_LEAVE;
	}
	return r->signal == HTTP2_FRAME && r->opens ? TURN_OPENS : TURN_AGAIN;
lost:
	conn_handsoff(c, sk, WEFT_COUNT_HTTP2_LOST);
	return TURN_LEAVE;
}

/* Follows frames up to one that opens a stream. */
__attribute__((noinline)) int weft_frames_turn(struct sk_msg_md *ctx, u64 sk)
{
	struct conn *c = conn_of(sk);
	int turn = TURN_AGAIN;

	if (!c)
		return TURN_LEAVE;
	WEFT_NOUNROLL
	for (int i = 0; i < FRAMES_STEPS; i++) {
		WEFT_FORGET(); /* all ways through a turn meet here */
		turn = frame_step(ctx, c, sk);
		if (turn != TURN_AGAIN)
			break;
	}
	return turn;
}

/*
 * Takes what is to be written into the request of this stream into c->out, and the
 * slot if that needs one. It is copied: the request may be given up meanwhile, on
 * another CPU, and the virtual connection's memory and slot be given to another.
 * Returns the virtual connection's key, 0 if nothing was left for the stream.
 */
__attribute__((noinline)) u64 weft_departure(u64 sk, u32 stream)
{
	u64 key = virtual_key(0, sk, stream), source, parent;
	struct conn *c = conn_of(sk), *from;
	struct go_departure *d;
	struct outgoing *o;

	d = bpf_map_lookup_elem(&go_departures, &key);
	if (c && c->quiet) {
		/* The self-test: a context of its own, as in on_request_head. */
		u64 span_id = random_id();

		o = &c->out;
		__builtin_memcpy(o->span_id, &span_id, 8);
		new_ids(o);
		o->flags = TRACEPARENT_RANDOM;
		o->rule = WEFT_PARENT_NONE;
		o->write = WEFT_HEADER_TRACEPARENT;
		return sk;
	}
	if (!c || !d)
		return 0;
	source = d->tuple == c->tuple ? d->conn : 0;
	bpf_map_delete_elem(&go_departures, &key);
	from = conn_of(source);
	if (!source || !from)
		return 0;
	o = &c->out;
	__builtin_memcpy(o->trace_id, from->out.trace_id, 16);
	__builtin_memcpy(o->span_id, from->out.span_id, 8);
	__builtin_memcpy(&parent, from->out.parent_id, 8);
	o->threshold = from->out.threshold;
	o->flags = from->out.flags;
	o->rule = from->out.rule;
	o->mark = from->out.mark;
	o->carry = from->out.carry;
	o->write = from->out.write;
	if (from != conn_of(source))
		return 0;
	if (!(o->write & (WEFT_HEADER_TRACESTATE | WEFT_HEADER_BAGGAGE)))
		return source;
	if (o->carry)
		weft_carry_on(sk, parent, o->carry);
	else if (o->mark == TRACESTATE_SET && slot_get(c))
		weft_carry_tracestate(sk);
	return source;
}

/* What of `write` the policy of this connection lets leave. */
WEFT_INLINE u8 fields_allowed(struct conn *c, u64 sk, u8 write)
{
	u8 allowed = conn_egress_headers(c, sk) & inject_headers;

	if (!(allowed & WEFT_HEADER_TRACEPARENT))
		allowed &= ~WEFT_HEADER_TRACESTATE;
	if (write & ~allowed & WEFT_HEADER_TRACEPARENT)
		count(WEFT_COUNT_WITHHELD_TRACEPARENT);
	if (write & ~allowed & WEFT_HEADER_TRACESTATE)
		count(WEFT_COUNT_WITHHELD_TRACESTATE);
	if (write & ~allowed & WEFT_HEADER_BAGGAGE)
		count(WEFT_COUNT_WITHHELD_BAGGAGE);
	return write & allowed;
}

/* May the frame at hand, whose payload begins at `pos`, be edited? If not the cause
 * is counted. */
WEFT_INLINE bool frame_editable(struct conn *c, struct sock *sk, u32 pos, u32 size)
{
	struct http2_reader *r = &c->dir[DIR_TX].http2.reader;
	u32 len = c->out.lines_len - FIELD_AT, queued;

	switch (http2_growth(r, len)) {
	case HTTP2_GROWS:
		break;
	case HTTP2_CONTINUED:
		count(WEFT_COUNT_REFUSED_FRAMES);
		return false;
	case HTTP2_IS_PADDED:
		count(WEFT_COUNT_REFUSED_PADDED);
		return false;
	default:
		count(WEFT_COUNT_REFUSED_LONG);
		return false;
	}
	if (pos < HTTP2_HEADER_LEN || r->length > size - pos) {
		count(WEFT_COUNT_REFUSED_SPLIT);
		return false;
	}
	queued = BPF_CORE_READ(sk, sk_wmem_queued);
	if (queued + size + len + ROOM_SLACK > (u32)BPF_CORE_READ(sk, sk_sndbuf)) {
		count(WEFT_COUNT_REFUSED_ROOM);
		return false;
	}
	return true;
}

/*
 * Writes the length of a payload into the frame header with which what is readable
 * begins; `want` bytes are, or nothing is written and 1 returned.
 */
__attribute__((noinline)) int weft_store_length(struct sk_msg_md *ctx, u32 length, u32 want)
{
	u8 *p = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;

	if ((u64)end - (u64)p < want || p + HTTP2_HEADER_LEN > end)
		return 1;
	http2_put_length(p, length);
	return 0;
}

/*
 * Puts the prepared fields of sk behind the block of the frame that begins at byte
 * `frame` of the message and ends at byte `end`. Returns as weft_inject.
 *
 * Kernels before late 2024 push nothing behind the last byte of a message. So the room
 * is made before the last byte of the block, which is then written once more, together
 * with the fields.
 */
__attribute__((noinline)) int weft_inject_fields(struct sk_msg_md *ctx, u64 sk, u32 frame, u32 end)
{
	u32 size = ctx->size, at = end - 1, stored, len;
	bool waits = nagle_waits((struct sock *)sk, size);
	struct conn *c = conn_of(sk);
	struct slot *s;
	u64 last;

	if (!c || at <= frame || end > size)
		return 1;
	stored = c->out.lines_len;
	len = stored - FIELD_AT;
	if (waits && size + len > LINEAR_MAX) {
		count(WEFT_COUNT_REFUSED_NAGLE);
		return 1;
	}
	if (bpf_msg_push_data(ctx, at, len, 0)) {
		count(WEFT_COUNT_REFUSED_MEMORY);
		return 1;
	}
	if ((size + len > LINEAR_MAX || bpf_msg_pull_data(ctx, 0, size + len, 0)) && waits)
		goto restore;
	if (bpf_msg_pull_data(ctx, frame, end + len, 0))
		goto restore;
	/* From here on what is readable begins with the frame. */
	last = (u64)BPF_CORE_READ((struct sk_msg *)ctx, data) + (end - 1 + len - frame);
	if (bpf_probe_read_kernel(c->out.line, 1, (void *)last))
		goto restore;
	if (!line_alone(c, stored)) {
		s = slot_of(c);
		if (!s)
			goto restore;
		s->lines[0] = c->out.line[0];
	}
	if (weft_store_length(ctx, end - frame - HTTP2_HEADER_LEN + len, end + len - frame))
		goto restore;
	if (line_alone(c, stored) ? weft_store_line(ctx, sk, at - frame) :
				    weft_store_lines(ctx, sk, at - frame, stored)) {
		/* Cannot be: all of it is readable. */
		count(WEFT_COUNT_REFUSED_DAMAGED);
		return 2;
	}
	return 0;
restore:
	if (bpf_msg_pop_data(ctx, at, len, 0)) {
		count(WEFT_COUNT_REFUSED_DAMAGED);
		return 2;
	}
	count(WEFT_COUNT_REFUSED_MEMORY);
	return 1;
}
_Static_assert(FIELD_AT + HPACK_TRACEPARENT_LEN == LINE_LEN, "as long as a line");

/*
 * Writes what is in c->out into the frame whose header was just read. Returns enum
 * weft_propagation, or TURN_DAMAGED.
 */
#define TURN_DAMAGED 255
__attribute__((noinline)) int weft_frame_edit(struct sk_msg_md *ctx, u64 sk)
{
	struct conn *c = conn_of(sk);
	struct http2_reader *r;
	struct cursor *at;
	u32 pos, len;
	int done;

	if (!c)
		return WEFT_PROPAGATION_REFUSED;
	r = &c->dir[DIR_TX].http2.reader;
	at = &c->dir[DIR_TX].cursor;
	pos = at->offset;
	if (c->out.rule == WEFT_PARENT_ADOPTED)
		return WEFT_PROPAGATION_OWN;
	if (!c->quiet)
		c->out.write = fields_allowed(c, sk, c->out.write);
	if (!c->out.write)
		return WEFT_PROPAGATION_WITHHELD;
	weft_fields(sk, r->length);
	if (c->out.lines_len == FIELD_AT || !frame_editable(c, (struct sock *)sk, pos, at->moved))
		return WEFT_PROPAGATION_REFUSED;
	done = weft_inject_fields(ctx, sk, pos - HTTP2_HEADER_LEN, pos + r->length);
	if (done == 2)
		return TURN_DAMAGED;
	at->where = at->total = pos; /* what is readable now is not known */
	if (done)
		return WEFT_PROPAGATION_REFUSED;
	len = c->out.lines_len - FIELD_AT;
	count_written(c->out.write);
	at->offset = pos + r->length + len;
	at->moved += len;
	http2_skip(r, r->length);
	r->length = 0; /* if it is sent again, then not like this */
	return c->out.write & WEFT_HEADER_TRACEPARENT ? WEFT_PROPAGATION_INJECTED :
							WEFT_PROPAGATION_WITHHELD;
}

/* So many requests without anything to write are enough to leave a connection alone. */
WEFT_INLINE u32 bare_max(void)
{
	struct weft_target *t = target_of(bpf_get_current_pid_tgid() >> 32);

	return t && t->flags & WEFT_TARGET_GO ? BARE_GO_MAX : BARE_MAX;
}

/* The frame whose header was just read opens a stream: writes what was left for it. */
__attribute__((noinline)) int weft_frame_opens(struct sk_msg_md *ctx, u64 sk)
{
	struct conn *c = conn_of(sk), *from;
	int propagation;
	u64 source;

	if (!c)
		return TURN_LEAVE;
	source = weft_departure(sk, c->dir[DIR_TX].http2.reader.stream);
	if (!source) {
		count(WEFT_COUNT_HTTP2_NO_DEPARTURE);
		if (c->dir[DIR_TX].http2.met || ++c->dir[DIR_TX].http2.bare < bare_max())
			return TURN_AGAIN;
		conn_handsoff(c, sk, WEFT_COUNT_HANDSOFF_HTTP2);
		return TURN_LEAVE;
	}
	c->dir[DIR_TX].http2.met = 1;
	propagation = weft_frame_edit(ctx, sk);
	if (c->slot)
		slot_put(c);
	if (propagation == TURN_DAMAGED)
		return TURN_DROP;
	from = conn_of(source);
	if (from && from->unsettled)
		weft_stream_settle(source, propagation);
	return TURN_AGAIN;
}

/* Follows the frames of a message from c's cursor on. Returns TURN_DROP, or what
 * does not matter. */
__attribute__((noinline)) int weft_frames(struct sk_msg_md *ctx, u64 sk)
{
	struct conn *c = conn_of(sk);
	int turn = TURN_AGAIN;

	if (!c)
		return TURN_LEAVE;
	/* The first piece of the message, as it comes. */
	c->dir[DIR_TX].cursor.where = 0;
	c->dir[DIR_TX].cursor.total = (u64)(long)ctx->data_end - (u64)(long)ctx->data;
	WEFT_NOUNROLL
	for (int i = 0; i < FRAMES_TURNS; i++) {
		turn = weft_frames_turn(ctx, sk);
		if (turn == TURN_OPENS)
			turn = weft_frame_opens(ctx, sk);
		if (turn != TURN_AGAIN)
			break;
	}
	if (turn == TURN_AGAIN)
		conn_handsoff(c, sk, WEFT_COUNT_HTTP2_LOST);
	return turn;
}

/*
 * A send on a connection that was joined midway. If it begins with the frame of a
 * request for which something is to be written, and the program that wrote it has told
 * that a frame begins there, the connection is followed from here on: returns 1. A
 * body may look like such a frame; the program's word makes the difference.
 */
__attribute__((noinline)) int weft_frames_join(struct sk_msg_md *ctx, u64 sk)
{
	u8 *p = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
	struct conn *c = conn_of(sk);
	struct go_departure *d;
	u32 stream;
	u64 key;

	if (!c || p + HTTP2_HEADER_LEN > end || p[3] != HTTP2_HEADERS)
		return 0;
	stream = (u32)p[5] << 24 | (u32)p[6] << 16 | (u32)p[7] << 8 | p[8];
	key = virtual_key(0, sk, stream);
	d = bpf_map_lookup_elem(&go_departures, &key);
	if (!d)
		return 0;
	if (!d->frame || d->tuple != c->tuple) {
		bpf_map_delete_elem(&go_departures, &key);
		count(WEFT_COUNT_HTTP2_MIDWAY);
		return 0;
	}
	c->state = CONN_HTTP2;
	c->role = WEFT_ROLE_CLIENT;
	http2_join(&c->dir[DIR_TX].http2.reader, stream);
	c->dir[DIR_TX].http2.bare = 0;
	c->dir[DIR_TX].http2.met = 0;
	c->dir[DIR_TX].next_seq = sock_seq((struct sock *)sk, DIR_TX);
	count(WEFT_COUNT_HTTP2_JOINED);
	return 1;
}
