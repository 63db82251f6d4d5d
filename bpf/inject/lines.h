/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The header lines weft writes into a request, put together before the message
 * is touched: traceparent alone in struct outgoing, with tracestate or baggage
 * in the connection's slot.
 */
#pragma once

#include "../socket/handlers.h"

/* "traceparent: " (13) + value (55) + CR LF */
#define LINE_LEN 70

WEFT_INLINE void line_format(struct outgoing *o)
{
	const char name[16] = "traceparent: ";

	__builtin_memcpy(o->line, name, 13);
	traceparent_format(o->line + 13, o->trace_id, o->span_id, o->flags);
	o->line[68] = '\r';
	o->line[69] = '\n';
}

/* lines[at], masked where it is used: see copy_baggage. */
WEFT_INLINE u8 *line_at(struct slot *s, u32 at)
{
	WEFT_BARRIER(at);
	at &= LINES_MASK;
	return s->lines + at;
}

/* CR LF at `at`; returns what is behind it. */
WEFT_INLINE u32 line_end(struct slot *s, u32 at)
{
	u8 *line = line_at(s, at);

	line[0] = '\r';
	line[1] = '\n';
	return at + 2;
}

/* Adds "tracestate: …" CR LF behind the `at` bytes of lines; returns its end. */
__attribute__((noinline)) int weft_line_tracestate(u64 sk, u32 at)
{
	struct conn *c = conn_of(sk);
	struct slot *s;
	u32 len;

	if (!c)
		return at;
	s = slot_of(c);
	if (!s)
		return at;
	len = s->carried.head.tracestate_len;
	if (at > LINE_LEN || !len)
		return at;
	__builtin_memcpy(line_at(s, at), "tracestate: ", 12);
	at += 12;
	copy_tracestate(s->lines, at, len, s->carried.text);
	return line_end(s, at + len);
}

/* Likewise "baggage: …", with the keys that may leave to this peer. */
__attribute__((noinline)) int weft_line_baggage(u64 sk, u32 at)
{
	struct conn *c = conn_of(sk);
	struct weft_egress *r;
	u32 len, from;
	struct slot *s;

	if (!c)
		return at;
	s = slot_of(c);
	if (!s)
		return at;
	r = egress_rule(c->egress - 1);
	from = s->carried.head.tracestate_len;
	len = s->carried.head.baggage_len;
	if (r && r->keys.count) {
		weft_refeed(sk, REFEED_EGRESS);
		if (s->baggage.dropped || s->baggage.len != len)
			count(WEFT_COUNT_WITHHELD_BAGGAGE);
		len = s->baggage.len;
		if (!len)
			return at;
	}
	if (at > LINE_LEN + 14 + TRACESTATE_MAX || !len)
		return at;
	__builtin_memcpy(line_at(s, at), "baggage: ", 9);
	at += 9;
	if (r && r->keys.count)
		copy_baggage(s->lines, at, len, s->baggage.text);
	else
		copy_baggage(s->lines, at, len, s->carried.text + (from & BEFORE_BAGGAGE));
	return line_end(s, at + len);
}

/*
 * Prepares what o->write names. A head that would outgrow what servers accept
 * goes without baggage, then without tracestate.
 */
__attribute__((noinline)) int weft_lines(u64 sk)
{
	struct conn *c = conn_of(sk);
	u32 tracestate, baggage, head;
	struct outgoing *o;
	struct slot *s;
	u32 at = 0;

	if (!c)
		return 0;
	o = &c->out;
	if (o->write & WEFT_HEADER_TRACEPARENT) {
		line_format(o);
		at = LINE_LEN;
	}
	o->lines_len = at;
	if (!(o->write & (WEFT_HEADER_TRACESTATE | WEFT_HEADER_BAGGAGE)))
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	tracestate = s->carried.head.tracestate_len + 14;
	baggage = s->carried.head.baggage_len + 11;
	head = c->dir[DIR_TX].parser.head_bytes + at;
	if (o->write & WEFT_HEADER_BAGGAGE && head + tracestate + baggage > HTTP1_HEAD_MAX) {
		o->write &= ~WEFT_HEADER_BAGGAGE;
		count(WEFT_COUNT_WITHHELD_SPACE);
	}
	if (o->write & WEFT_HEADER_TRACESTATE && head + tracestate > HTTP1_HEAD_MAX) {
		o->write &= ~WEFT_HEADER_TRACESTATE;
		count(WEFT_COUNT_WITHHELD_SPACE);
	}
	__builtin_memcpy(s->lines, o->line, LINE_LEN);
	if (o->write & WEFT_HEADER_TRACESTATE)
		at = weft_line_tracestate(sk, at);
	if (o->write & WEFT_HEADER_BAGGAGE) {
		u32 before = at;

		at = weft_line_baggage(sk, at);
		if (at == before)
			o->write &= ~WEFT_HEADER_BAGGAGE;
	}
	o->lines_len = at;
	return 0;
}
