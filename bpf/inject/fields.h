/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The HTTP/2 counterpart of lines.h: the fields weft adds to a header block, put
 * together before the block is touched. They begin at byte 1 of where they are put:
 * byte 0 is for the last byte of the block, behind which nothing can be pushed.
 * Nothing here asks for a socket; the key may be a virtual one.
 */
#pragma once

#include "lines.h"
#include "../lib/hpack.h"
#include "../lib/http2.h"

#define FIELD_AT 1

/* Adds tracestate behind the `at` bytes of lines; returns its end. */
__attribute__((noinline)) int weft_field_tracestate(u64 key, u32 at)
{
	struct conn *c = conn_of(key);
	struct slot *s;
	u32 len;

	if (!c)
		return at;
	s = slot_of(c);
	if (!s)
		return at;
	len = s->carried.head.tracestate_len;
	if (at > FIELD_AT + HPACK_TRACEPARENT_LEN || !len)
		return at;
	at += hpack_tracestate(line_at(s, at), len);
	copy_tracestate(s->lines, at, len, s->carried.text);
	return at + len;
}

/* Likewise baggage, with the keys that may leave to this peer. */
__attribute__((noinline)) int weft_field_baggage(u64 key, u32 at)
{
	struct conn *c = conn_of(key);
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
		weft_refeed(key, REFEED_EGRESS);
		if (s->baggage.dropped || s->baggage.len != len)
			count(WEFT_COUNT_WITHHELD_BAGGAGE);
		len = s->baggage.len;
	}
	if (at > FIELD_AT + HPACK_TRACEPARENT_LEN + HPACK_TRACESTATE_HEAD + TRACESTATE_MAX || !len)
		return at;
	at += hpack_baggage(line_at(s, at), len);
	if (r && r->keys.count)
		copy_baggage(s->lines, at, len, s->baggage.text);
	else
		copy_baggage(s->lines, at, len, s->carried.text + (from & BEFORE_BAGGAGE));
	return at + len;
}

/*
 * Prepares what c->out.write names for a block of `block` bytes: traceparent alone
 * in out.line, with tracestate or baggage in the slot's lines; out.lines_len counts
 * byte 0 too. A frame that would outgrow what every peer takes goes without baggage,
 * then without tracestate.
 */
__attribute__((noinline)) int weft_fields(u64 key, u32 block)
{
	struct conn *c = conn_of(key);
	u32 tracestate, baggage;
	struct outgoing *o;
	u32 at = FIELD_AT;
	struct slot *s;

	if (!c)
		return 0;
	o = &c->out;
	if (o->write & WEFT_HEADER_TRACEPARENT) {
		hpack_traceparent(o->line + FIELD_AT, o->trace_id, o->span_id, o->flags);
		at += HPACK_TRACEPARENT_LEN;
	}
	o->lines_len = at;
	if (!(o->write & (WEFT_HEADER_TRACESTATE | WEFT_HEADER_BAGGAGE)))
		return 0;
	s = slot_of(c);
	if (!s) {
		o->write &= WEFT_HEADER_TRACEPARENT;
		return 0;
	}
	tracestate = hpack_tracestate_len(s->carried.head.tracestate_len);
	baggage = hpack_baggage_len(s->carried.head.baggage_len);
	block += at - FIELD_AT;
	if (o->write & WEFT_HEADER_BAGGAGE && block + tracestate + baggage > HTTP2_FRAME_MAX) {
		o->write &= ~WEFT_HEADER_BAGGAGE;
		count(WEFT_COUNT_WITHHELD_SPACE);
	}
	if (o->write & WEFT_HEADER_TRACESTATE && block + tracestate > HTTP2_FRAME_MAX) {
		o->write &= ~WEFT_HEADER_TRACESTATE;
		count(WEFT_COUNT_WITHHELD_SPACE);
	}
	__builtin_memcpy(s->lines, o->line, FIELD_AT + HPACK_TRACEPARENT_LEN);
	if (o->write & WEFT_HEADER_TRACESTATE) {
		u32 before = at;

		at = weft_field_tracestate(key, at);
		if (at == before)
			o->write &= ~WEFT_HEADER_TRACESTATE;
	}
	if (o->write & WEFT_HEADER_BAGGAGE) {
		u32 before = at;

		at = weft_field_baggage(key, at);
		if (at == before)
			o->write &= ~WEFT_HEADER_BAGGAGE;
	}
	o->lines_len = at;
	return 0;
}
