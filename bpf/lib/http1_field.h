/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Header fields with meaning: which names they are, and what their values say.
 */
#pragma once

#include "http1_message.h"

/* 1 for a byte of a token (RFC 9110 section 5.6.2), else 0. */
WEFT_INLINE __u32 http1_is_token(__u32 c)
{
	/* Bit c of the first word for c < 64, bit c - 64 of the second. */
	const __u64 low = 0x03ff6cfa00000000ULL;  /* !#$%&'*+-. 0-9 */
	const __u64 high = 0x57ffffffc7fffffeULL; /* A-Z ^_` a-z | ~ */
	__u64 second = -(__u64)(c >> 6 & 1);
	__u64 word;

	/* Hidden, or clang makes a branch of it and paths multiply. */
	WEFT_OPAQUE(second);
	word = low ^ ((low ^ high) & second);
	return (word >> (c & 63)) & ~(c >> 7) & 1;
}

/* 1 for a control byte, DEL included; HTAB is one too. */
WEFT_INLINE __u32 http1_is_control(__u32 c)
{
	return c < 0x20 || c == 0x7f;
}

/*
 * The kind of line p->name begins. Called behind the loop of a step, for the few
 * names that pass the test by one bit.
 */
WEFT_INLINE __u8 http1_kind_of(struct http1_parser *p, struct http1_head *h)
{
	__u64 a = weft_load64(p->name);
	__u64 b = weft_load64(p->name + 8);
	__u64 c = weft_load64(p->name + 16);
	__u16 len = p->name_len;

	if (p->trailer)
		return HTTP1_KIND_NONE;
	if (len == 14 && a == WEFT_WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-') &&
	    b == WEFT_WORD('l', 'e', 'n', 'g', 't', 'h', 0, 0))
		return HTTP1_KIND_LENGTH;
	if (len == 17 && a == WEFT_WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') &&
	    b == WEFT_WORD('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n') &&
	    c == WEFT_WORD('g', 0, 0, 0, 0, 0, 0, 0))
		return HTTP1_KIND_CODING;
	if (len == 7 && a == WEFT_WORD('u', 'p', 'g', 'r', 'a', 'd', 'e', 0)) {
		h->upgrade = 1;
		return HTTP1_KIND_NONE;
	}
	if (!p->is_request)
		return HTTP1_KIND_NONE;
	if (len == 11 && a == WEFT_WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r') &&
	    b == WEFT_WORD('e', 'n', 't', 0, 0, 0, 0, 0))
		return HTTP1_KIND_TRACEPARENT;
	if (len == 10 && a == WEFT_WORD('t', 'r', 'a', 'c', 'e', 's', 't', 'a') &&
	    b == WEFT_WORD('t', 'e', 0, 0, 0, 0, 0, 0))
		return HTTP1_KIND_TRACESTATE;
	if (len == 7 && a == WEFT_WORD('b', 'a', 'g', 'g', 'a', 'g', 'e', 0))
		return HTTP1_KIND_BAGGAGE;
	if (len == 4 && a == WEFT_WORD('h', 'o', 's', 't', 0, 0, 0, 0) && !h->have_host)
		return HTTP1_KIND_HOST;
	return HTTP1_KIND_NONE;
}

/* Content-Length: 1 to 19 digits, and the same number each time. */
WEFT_INLINE __u8 http1_read_length(const struct http1_parser *p, struct http1_head *h)
{
	__u32 len = p->value_len;
	__u64 value = 0;
	__u32 bad = 0;
	__u32 i;

	if (len < 1 || len > 19)
		return HTTP1_REASON_LENGTH;
	WEFT_NOUNROLL
	for (i = 0; i < 19; i++) {
		__u32 digit;

		if (i >= len)
			break;
		digit = (p->value[i] - (__u32)'0') & 0xff;
		bad |= digit > 9;
		value = value * 10 + digit;
	}
	if (bad || (h->have_length && h->content_length != value))
		return HTTP1_REASON_LENGTH;
	h->content_length = value;
	h->have_length = 1;
	return HTTP1_REASON_NONE;
}

/*
 * Transfer-Encoding: chunked if that is the last coding of the last line.
 * Anything after chunked, in a further line too, cannot be framed.
 */
WEFT_INLINE __u8 http1_read_coding(const struct http1_parser *p, struct http1_head *h)
{
	__u32 len = p->value_len;
	__u32 start, differ = 0;
	__u32 i;

	if (len < 1 || len > HTTP1_VALUE_MAX || h->chunked)
		return HTTP1_REASON_CODING;
	h->have_coding = 1;
	if (len < 7)
		return HTTP1_REASON_NONE;
	start = len - 7;
	WEFT_NOUNROLL
	for (i = 0; i < 7; i++) {
		__u32 want = WEFT_WORD_SHIFTED(WEFT_CHUNKED, i);

		/* Letters only, so folding the case bit cannot let others in:
		 * no letter but its upper case maps there. */
		differ |= (p->value[(start + i) & (HTTP1_VALUE_MAX - 1)] | 0x20u) ^ want;
	}
	if (differ)
		return HTTP1_REASON_NONE;
	/* Before it: nothing, or a comma with optional white space. */
	h->chunked = 1;
	WEFT_NOUNROLL
	for (i = 0; i < HTTP1_VALUE_MAX; i++) {
		__u8 c;

		if (i >= start)
			break;
		c = p->value[(start - 1 - i) & (HTTP1_VALUE_MAX - 1)];
		if (c == ',')
			return HTTP1_REASON_NONE;
		if (c == ' ' || c == '\t')
			continue;
		if (i == 0) { /* "xchunked" is another coding */
			h->chunked = 0;
			return HTTP1_REASON_NONE;
		}
		return HTTP1_REASON_CODING; /* "gzip chunked": who knows */
	}
	return HTTP1_REASON_NONE;
}

WEFT_INLINE void http1_forget_value(struct http1_parser *p)
{
	__builtin_memset(p->value, 0, sizeof(p->value));
	p->value_raw = 0;
	p->value_len = 0;
	if (p->ended)
		p->kind = HTTP1_KIND_NONE;
	p->piece = 0;
	p->ended = 0;
}

/* Looks at the name just read. */
WEFT_INLINE void http1_name(struct http1_parser *p, struct http1_head *h)
{
	__u8 kind = http1_kind_of(p, h);

	p->named = 0;
	p->kind = kind;
	p->phase = kind ? HTTP1_PHASE_KEEP : HTTP1_PHASE_SKIP;
	if (!kind && !p->trailer && p->wanted & http1_name_bit(p->name[0], p->name_len))
		p->signal = HTTP1_NAME;
}

/* Takes the meaning of the line that p->pending names. */
WEFT_INLINE void http1_interpret(struct http1_parser *p, struct http1_head *h)
{
	__u8 reason = HTTP1_REASON_NONE;
	__u8 kind = p->pending;

	p->pending = HTTP1_KIND_NONE;
	if (kind == HTTP1_KIND_HOST) {
		h->have_host = 1;
		h->host_len = p->value_len > WEFT_HOST_MAX ? WEFT_HOST_MAX : p->value_len;
	} else if (kind == HTTP1_KIND_TRACEPARENT) {
		if (!h->traceparent_count) {
			__builtin_memcpy(h->traceparent, p->value, sizeof(h->traceparent));
			h->traceparent_len = p->value_len;
		}
		h->traceparent_count++; /* HTTP1_FIELDS_MAX bounds it */
	} else if (kind == HTTP1_KIND_TRACESTATE) {
		h->tracestate_count++;
	} else if (kind == HTTP1_KIND_BAGGAGE) {
		h->baggage_count++;
	} else if (kind == HTTP1_KIND_LENGTH) {
		reason = http1_read_length(p, h);
	} else if (kind == HTTP1_KIND_CODING) {
		reason = http1_read_coding(p, h);
	}
	if (p->fields >= HTTP1_FIELDS_MAX)
		reason = HTTP1_REASON_FIELDS;
	p->fields++;
	if (kind >= HTTP1_KIND_TRACESTATE) {
		p->piece = 1; /* the last one, maybe empty */
		p->ended = 1;
		p->kind = kind;
	} else {
		http1_forget_value(p);
	}
	p->begun = 0;
	if (reason)
		http1_hands_off(p, reason);
}

/* What the whole header block must satisfy. */
WEFT_INLINE void http1_finish_head(struct http1_parser *p, struct http1_head *h)
{
	h->target_len = h->target_total > WEFT_TARGET_MAX ? WEFT_TARGET_MAX : h->target_total;
	if (!h->have_coding)
		return;
	if (h->have_length)
		http1_hands_off(p, HTTP1_REASON_FRAMING);
	/* RFC 9112 section 6.1: from a 1.0 sender any coding is faulty framing. */
	else if (h->http_minor == 0 || (!h->chunked && p->is_request))
		http1_hands_off(p, HTTP1_REASON_CODING);
}
