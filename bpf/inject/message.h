/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The sk_msg program: reads every send of a client-role socket, before TCP
 * does, and writes the prepared lines into complete request heads.
 *
 * It runs under the socket lock, in the sending thread. It always passes the
 * message on. What it must never do: leave bytes in the stream that are neither
 * the program's nor a finished header line.
 */
#pragma once

#include "frames.h"

/*
 * Writes the prepared lines of sk into the message at byte `at`. Returns 0 when
 * they stand there, 1 when the message is as it was, 2 when they could be neither
 * written nor taken out (out of memory twice): the caller must drop it, which
 * the program sees as a failed send, rather than send rubbish.
 */
__attribute__((noinline)) int weft_inject(struct sk_msg_md *ctx, u64 sk, u32 at)
{
	struct conn *c = conn_of(sk);
	u32 size = ctx->size, len, base = 0;
	bool waits = nagle_waits((struct sock *)sk, size);
	int failed;

	if (!c || at >= size || at >= READ_MAX) {
		count(WEFT_COUNT_REFUSED_FAR);
		return 1;
	}
	len = c->out.lines_len;
	if (waits && size + len > LINEAR_MAX) {
		count(WEFT_COUNT_REFUSED_NAGLE);
		return 1;
	}
	if (bpf_msg_push_data(ctx, at, len, 0)) {
		count(WEFT_COUNT_REFUSED_MEMORY);
		return 1;
	}
	if (size + len > LINEAR_MAX || bpf_msg_pull_data(ctx, 0, size + len, 0)) {
		if (waits)
			goto restore;
		if (bpf_msg_pull_data(ctx, 0, at + len, 0)) {
			base = at;
			if (bpf_msg_pull_data(ctx, at, at + len, 0))
				goto restore;
		}
	}
	if (line_alone(c, len))
		failed = weft_store_line(ctx, sk, at - base);
	else
		failed = weft_store_lines(ctx, sk, at - base, len);
	if (failed)
		goto restore;
	return 0;
restore:
	if (bpf_msg_pop_data(ctx, at, len, 0)) {
		count(WEFT_COUNT_REFUSED_DAMAGED);
		return 2;
	}
	count(WEFT_COUNT_REFUSED_MEMORY);
	return 1;
}

/* May the request whose head ended at byte `pos` of the message be edited, and
 * where? Returns the offset of the blank line, or -1 with the cause counted. */
WEFT_INLINE s32 injection_point(struct conn *c, struct sock *sk, u32 pos, u32 size)
{
	struct http1_parser *p = &c->dir[DIR_TX].parser;
	u32 behind = p->head_bytes - p->blank_at; /* CR LF */
	u32 queued, limit;

	if (behind > pos) {
		/* The CR of the blank line left with an earlier message. */
		count(WEFT_COUNT_REFUSED_SPLIT);
		return -1;
	}
	queued = KERNEL_READ(sk, sk_wmem_queued);
	limit = KERNEL_READ(sk, sk_sndbuf);
	if (queued + pos + c->out.lines_len + ROOM_SLACK > limit) {
		count(WEFT_COUNT_REFUSED_ROOM);
		return -1;
	}
	if (pos - behind >= READ_MAX) {
		count(WEFT_COUNT_REFUSED_FAR);
		return -1;
	}
	return pos - behind;
}

/* Turns per message: pipelined requests, and windows of READ_MAX. */
#define TURNS_MAX 32

/* Makes the message readable from `offset` on, as far as READ_MAX. */
WEFT_INLINE bool message_read(struct sk_msg_md *ctx, struct cursor *at)
{
	u32 from = at->offset, to = at->moved;

	if (to - from > READ_MAX)
		to = from + READ_MAX;
	at->where = from;
	at->total = to;
	if (from || (u64)(long)ctx->data_end - (u64)(long)ctx->data < to)
		return !bpf_msg_pull_data(ctx, from, to, 0);
	return true;
}

/*
 * Feeds the message up to the next boundary, and edits it if that is a request
 * head. The cursor counts from the start of the message: `offset` is parsed,
 * `where` to `total` can be read, `moved` is its size, the line included.
 */
__attribute__((noinline)) int weft_message_turn(struct sk_msg_md *ctx, u64 key)
{
	struct sock *sk = (struct sock *)key;
	struct conn *c = conn_of(key);
	u32 propagation, pos, r;
	struct cursor *at;
	u64 base;
	s32 point;
	int done;

	if (!c)
		return TURN_LEAVE;
	at = &c->dir[DIR_TX].cursor;
	pos = at->offset;
	/* What is left is body, or nothing. */
	if (http1_skippable(&c->dir[DIR_TX].parser) >= at->moved - pos)
		return TURN_DONE;
	if (pos >= at->total && !message_read(ctx, at)) {
		conn_desync(c, key, WEFT_COUNT_DESYNC_BUDGET);
		return TURN_LEAVE;
	}
	/* A number: verifiers from 7.3 on let no pointer be handed on as one. */
	base = (u64)BPF_CORE_READ((struct sk_msg *)ctx, data) - at->where;
	r = weft_feed(key, base + pos, at->total - pos, HOW_TX | HOW_KERNEL);
	if (r & FEED_BUDGET) {
		conn_desync(c, key, WEFT_COUNT_DESYNC_BUDGET);
		return TURN_LEAVE;
	}
	pos += r & FEED_BYTES;
	at->offset = pos;
	if (!(r & FEED_SIGNAL))
		return pos < at->moved ? TURN_AGAIN : TURN_DONE;
	if (c->dir[DIR_TX].parser.signal == HTTP1_RAW && http2_begins(c))
		return TURN_LEAVE;
	if (!weft_signal(key, DIR_TX))
		return c->state == CONN_SYNCED ? TURN_AGAIN : TURN_LEAVE;
	propagation = c->out.written			 ? WEFT_PROPAGATION_INJECTED :
		      c->head[REQUEST].traceparent_count ? WEFT_PROPAGATION_OWN :
		      inject_headers && !(c->out.write & WEFT_HEADER_TRACEPARENT) ?
							   WEFT_PROPAGATION_WITHHELD :
							   WEFT_PROPAGATION_REFUSED;
	if (c->out.write) {
		weft_lines(key);
		point = injection_point(c, sk, pos, at->moved);
		done = point < 0 || !c->out.lines_len ? 1 : weft_inject(ctx, key, point);
		if (done == 2)
			return TURN_DROP;
		if (done == 0) {
			if (c->out.write & WEFT_HEADER_TRACEPARENT)
				propagation = WEFT_PROPAGATION_INJECTED;
			count_written(c->out.write);
			at->offset += c->out.lines_len;
			at->moved += c->out.lines_len;
		}
		/* Edited or restored, what is readable now is another range. */
		at->total = at->offset;
	}
	emit(c, key, DIR_TX, propagation);
	return c->state == CONN_SYNCED ? TURN_AGAIN : TURN_LEAVE;
}

/* What was not parsed must be body. */
WEFT_INLINE void message_rest(struct conn *c, u64 key, u32 start)
{
	struct direction *d = &c->dir[DIR_TX];
	u32 rest = d->cursor.moved - (u32)d->cursor.offset;

	d->next_seq = start + d->cursor.moved;
	if (!rest)
		return;
	if (http1_skippable(&d->parser) < rest) {
		conn_desync(c, key, WEFT_COUNT_DESYNC_BUDGET);
		return;
	}
	http1_skip(&d->parser, rest);
	if (d->parser.signal == HTTP1_END)
		weft_signal(key, DIR_TX);
}

SEC("sk_msg")
int weft_msg(struct sk_msg_md *ctx)
{
	u64 key = (u64)BPF_CORE_READ((struct sk_msg *)ctx, sk);
	u32 size = ctx->size, start;
	struct direction *d;
	struct conn *c;
	int turn = TURN_AGAIN;

	if (!size || !target_of(bpf_get_current_pid_tgid() >> 32))
		return SK_PASS;
	if (!agent_alive()) {
		count(WEFT_COUNT_REFUSED_EXPIRED);
		return SK_PASS;
	}
	c = conn_open(key, DIR_TX, 0, true);
	if (!c)
		return SK_PASS;
	if (c->state == CONN_UNSYNCED) {
		c->resync = 0; /* a send crosses whatever was being followed */
		if (!weft_frames_join(ctx, key))
			return SK_PASS;
	}
	if (c->role != WEFT_ROLE_CLIENT) {
		conn_handsoff(c, key, WEFT_COUNT_HANDSOFF_RAW);
		return SK_PASS;
	}
	d = &c->dir[DIR_TX];
	start = sock_seq((struct sock *)key, DIR_TX);
	if (c->state == CONN_HTTP2 ? !http2_catch_up(c, key, start) :
				     !conn_catch_up(c, key, DIR_TX, start))
		return SK_PASS;
	d->cursor.offset = 0;
	d->cursor.moved = size;
	d->cursor.total = 0;
	/* Body alone is counted, not read: the first turn sees to it. */
	if (c->state != CONN_HTTP2)
		for (int i = 0; i < TURNS_MAX && turn == TURN_AGAIN; i++)
			turn = weft_message_turn(ctx, key);
	if (c->state == CONN_HTTP2) {
		turn = weft_frames(ctx, key);
		d->next_seq = start + d->cursor.moved;
		return turn == TURN_DROP ? SK_DROP : SK_PASS;
	}
	if (turn == TURN_DROP)
		return SK_DROP;
	if (turn != TURN_LEAVE)
		message_rest(c, key, start);
	return SK_PASS;
}
