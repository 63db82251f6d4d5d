/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Stores prepared lines, or HTTP/2 fields, into what of a message is readable.
 */
#pragma once

#include "lines.h"
#include "../maps/control.h"

/* How much of a message is made readable: a head of 16 KiB and some body before
 * it (pipelining). */
#define READ_MAX 32768

/*
 * Up to this size a grown message is made one piece again. Pushed bytes stay a
 * scatter entry of their own, hence a TCP segment of their own, and with Nagle's
 * algorithm on the last segment waits for the peer's delayed ACK of that short
 * one, 40 ms. A larger message, or one that no memory was found for, is edited
 * only where that cannot happen: TCP_NODELAY, or so many full segments that the
 * peer acknowledges at once. (On loopback a full segment is 64 KiB.)
 */
#define LINEAR_MAX 131072
#define FULL_SEGMENTS 4

/* Room the send buffer must still have: partial pushes of a grown message would
 * make sendmsg return the wrong length (tcp_bpf_sendmsg subtracts what it could
 * not push from what the program handed over). */
#define ROOM_SLACK 8192

/* Could a segment of its own for the line delay the rest? */
WEFT_INLINE bool nagle_waits(struct sock *sk, u32 size)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;

	return !(BPF_CORE_READ_BITFIELD_PROBED(tp, nonagle) & 1) && /* TCP_NAGLE_OFF */
	       size < FULL_SEGMENTS * KERNEL_READ(tp, mss_cache);
}

/* Bytes stored per call of weft_store. */
#define STORE_BYTES 64

/*
 * Stores STORE_BYTES of the slot's lines, from `from` on, into what of the message
 * is readable, where the lines begin at byte `at`. Returns 0 when they stand there.
 */
__attribute__((noinline)) int weft_store(struct sk_msg_md *ctx, u64 sk, u32 at, u32 from)
{
	struct conn *c = conn_of(sk);
	struct slot *s;
	u8 *p, *end;
	u8 *source;

	if (!c)
		return 1;
	s = slot_of(c);
	if (!s)
		return 1;
	WEFT_BARRIER(from);
	if (from > LINES_MAX)
		return 1;
	source = s->lines + from;
	/* Checked by the callers; masked because verifiers before 6.2 forget a
	 * check when the value is spilled to the stack. */
	WEFT_BARRIER(at);
	at &= READ_MAX - 1;
	from &= LINES_MASK;
	p = (u8 *)(long)ctx->data;
	end = (u8 *)(long)ctx->data_end;
	p += at + from;
	WEFT_BARRIER(p); /* one pointer for the check and the writes: older verifiers
			  * know no relation between two */
	if (p + STORE_BYTES > end)
		return 1;
#pragma unroll
	for (int i = 0; i < STORE_BYTES; i++)
		p[i] = source[i];
	return 0;
}

/* The same for the traceparent line alone, which needs no slot. */
__attribute__((noinline)) int weft_store_line(struct sk_msg_md *ctx, u64 sk, u32 at)
{
	struct conn *c = conn_of(sk);
	u8 *p, *end;

	if (!c)
		return 1;
	WEFT_BARRIER(at);
	at &= READ_MAX - 1;
	p = (u8 *)(long)ctx->data;
	end = (u8 *)(long)ctx->data_end;
	p += at;
	WEFT_BARRIER(p);
	if (p + LINE_LEN > end)
		return 1;
#pragma unroll
	for (int i = 0; i < LINE_LEN; i++)
		p[i] = c->out.line[i];
	return 0;
}

/* Fewer bytes than one store takes: baggage alone. */
__attribute__((noinline)) int weft_store_few(struct sk_msg_md *ctx, u64 sk, u32 at, u32 len)
{
	struct conn *c = conn_of(sk);
	struct slot *s;
	u8 *p, *end;

	if (!c)
		return 1;
	s = slot_of(c);
	if (!s)
		return 1;
	WEFT_BARRIER(at);
	at &= READ_MAX - 1;
	p = (u8 *)(long)ctx->data;
	end = (u8 *)(long)ctx->data_end;
	p += at;
	WEFT_BARRIER(p);
	for (u32 i = 0; i < STORE_BYTES; i++) {
		if (i >= len)
			return 0;
		if (p + i + 1 > end)
			return 1;
		p[i] = s->lines[i];
	}
	return 1;
}

/* Stores all prepared lines; the last store may overlap the one before it. */
__attribute__((noinline)) int weft_store_lines(struct sk_msg_md *ctx, u64 sk, u32 at, u32 len)
{
	u32 from = 0;

	if (len < STORE_BYTES)
		return weft_store_few(ctx, sk, at, len);
	for (int i = 0; i < LINES_MAX / STORE_BYTES; i++) {
		if (from + STORE_BYTES > len)
			break;
		if (weft_store(ctx, sk, at, from))
			return 1;
		from += STORE_BYTES;
	}
	return from < len ? weft_store(ctx, sk, at, len - STORE_BYTES) : 0;
}

/* Is traceparent all that was prepared? Then it stands in out.line, else in the slot's
 * lines. */
WEFT_INLINE bool line_alone(struct conn *c, u32 len)
{
	return len == LINE_LEN && c->out.write & WEFT_HEADER_TRACEPARENT;
}

WEFT_INLINE void count_written(u8 headers)
{
	if (headers & WEFT_HEADER_TRACEPARENT)
		count(WEFT_COUNT_INJECTED_SOCKET);
	if (headers & WEFT_HEADER_TRACESTATE)
		count(WEFT_COUNT_WRITTEN_TRACESTATE);
	if (headers & WEFT_HEADER_BAGGAGE)
		count(WEFT_COUNT_WRITTEN_BAGGAGE);
}
