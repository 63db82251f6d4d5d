/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * HTTP/1.0 and 1.1 (RFC 9110, RFC 9112), parsed a window at a time with all
 * state in memory the caller owns (a map value): a header block may come in any
 * segmentation, up to HTTP1_HEAD_MAX bytes. Helper-free; compiled for BPF, for
 * host tests and for fuzzing. The includer defines __u8..__u64 and has read
 * abi/event.h (WEFT_*_MAX) before.
 *
 * One message, from the caller's side:
 *
 *	http1_reset(p, h, is_request);
 *	until p->signal is HTTP1_HEAD:	used = http1_step(p, h, buf, n);
 *		(taking what HTTP1_VALUE and HTTP1_NAME offer, or not)
 *	http1_begin_body(p, h, no_body);
 *	until p->signal is HTTP1_END:	skip http1_skippable() bytes, else step;
 *
 * and again from http1_reset for the next message on the connection. HTTP1_RAW
 * is for good: the rest of the connection is not read as HTTP.
 *
 * The parser guards edits of other programs' bytes, so it is stricter than
 * most: what two implementations could read differently is RAW.
 *
 * Shape, for the verifiers of 5.10 and later: one loop bounded by a constant,
 * at least one byte used per turn. Everything that differs between paths
 * (phase, position, limit) goes through memory, where the verifier forgets it,
 * so that all paths of one turn meet again at the loop head. The loop stops
 * after a line whose meaning matters; it is interpreted behind the loop, where
 * it is verified once and not once a turn.
 */
#pragma once

#include "http1_field.h"

/* The reason for a byte that no value may hold. */
WEFT_INLINE __u8 http1_bad_byte(__u32 c)
{
	return c == '\n' ? HTTP1_REASON_LINE_END : HTTP1_REASON_CONTROL;
}

/* The signal that a phase stands for. */
WEFT_INLINE __u8 http1_signal_of(__u8 phase)
{
	if (phase == HTTP1_PHASE_RAW)
		return HTTP1_RAW;
	if (phase == HTTP1_PHASE_DONE)
		return HTTP1_END;
	if (phase == HTTP1_PHASE_HEAD_DONE)
		return HTTP1_HEAD;
	if (phase == HTTP1_PHASE_DATA || phase == HTTP1_PHASE_CLOSE ||
	    phase == HTTP1_PHASE_CHUNK_DATA)
		return HTTP1_BODY;
	return HTTP1_MORE;
}

/*
 * Passes over the bytes at buf[pos], up to 8, that the phase takes without a
 * second look, keeping what has to be kept. Returns how many; the byte behind
 * them, if fewer than 8, is for http1_byte. buf holds 8 bytes there.
 */
WEFT_INLINE __u32 http1_run(struct http1_parser *p, struct http1_head *h, const __u8 *at,
			    __u8 phase)
{
	__u64 word = weft_load64(at);
	__u64 count, index;

	if (phase == HTTP1_PHASE_SKIP || phase == HTTP1_PHASE_PHRASE)
		return weft_prefix(weft_below(word, 0x20) | weft_equal(word, 0x7f));
	if (phase == HTTP1_PHASE_NAME) {
		__u64 lower = word | WEFT_EACH(0x20);

		/* Letters and '-' only; rarer token bytes go one by one. */
		count = weft_prefix(~(weft_between(lower, 'a', 'z') | weft_exactly(word, '-')) &
				    WEFT_EACH(0x80));
		index = p->name_len;
		p->name_len = index + count;
		WEFT_OPAQUE(index);
		if (index < HTTP1_NAME_LONGEST)
			weft_store64(p->name + index, weft_head_of(lower, count));
		return count;
	}
	count = weft_prefix(weft_below(word, 0x21) | weft_equal(word, 0x7f));
	word = weft_head_of(word, count);
	if (phase == HTTP1_PHASE_TARGET) {
		index = h->target_total;
		WEFT_OPAQUE(index);
		if (index <= WEFT_TARGET_MAX - 8)
			weft_store64(h->target + index, word);
		else if (index < WEFT_TARGET_MAX)
			return 0;
		h->target_total += count;
		return count;
	}
	index = p->value_raw;
	WEFT_OPAQUE(index);
	if (p->kind == HTTP1_KIND_HOST) {
		if (index <= WEFT_HOST_MAX - 8)
			weft_store64(h->host + index, word);
		else if (index < WEFT_HOST_MAX)
			return 0;
	} else {
		/* A long value's piece ends in http1_keep_byte. */
		if (index < HTTP1_VALUE_MAX - 8)
			weft_store64(p->value + index, word);
		else if (index < HTTP1_VALUE_MAX)
			return 0;
	}
	if (count) {
		p->value_raw += count;
		p->value_len = p->value_raw;
		p->begun = 1;
	}
	return count;
}

/* "HTTP/1.x" and what follows it on a first line. */
WEFT_INLINE __u8 http1_first_line(struct http1_parser *p, struct http1_head *h, __u32 c)
{
	__u32 at = p->matched;

	p->matched = at + 1;
	if (at < 7) {
		if (c == WEFT_WORD_SHIFTED(WEFT_HTTP_1, at))
			return HTTP1_REASON_NONE;
		return at == 5 && c == '2' ? HTTP1_REASON_HTTP2 : HTTP1_REASON_VERSION;
	}
	if (at == 7) {
		h->http_minor = c == '1';
		return c == '0' || c == '1' ? HTTP1_REASON_NONE : HTTP1_REASON_VERSION;
	}
	if (p->is_request) {
		p->phase = HTTP1_PHASE_LINE_LF;
		if (c == '\n')
			return HTTP1_REASON_LINE_END;
		return c == '\r' ? HTTP1_REASON_NONE : HTTP1_REASON_VERSION;
	}
	if (at == 8)
		return c == ' ' ? HTTP1_REASON_NONE : HTTP1_REASON_STATUS;
	if (at < 12) {
		__u32 digit = (c - '0') & 0xff;

		if (digit > 9 || (at == 9 && digit == 0))
			return HTTP1_REASON_STATUS;
		h->status = h->status * 10 + digit;
		return HTTP1_REASON_NONE;
	}
	p->phase = c == '\r' ? HTTP1_PHASE_LINE_LF : HTTP1_PHASE_PHRASE;
	if (c == '\n')
		return HTTP1_REASON_LINE_END;
	return c == '\r' || c == ' ' ? HTTP1_REASON_NONE : HTTP1_REASON_STATUS;
}

/* A byte at a line's start or in its name. */
WEFT_INLINE __u8 http1_name_byte(struct http1_parser *p, __u32 c, __u32 at)
{
	__u64 index = p->name_len;

	if (http1_is_token(c)) {
		__u32 upper = (((c - 'A') & 0xff) - 26) >> 31;

		p->name_len = index + 1;
		WEFT_OPAQUE(index);
		WEFT_OPAQUE(upper);
		if (index < HTTP1_NAME_MAX)
			p->name[index] = c + (upper << 5);
		return HTTP1_REASON_NONE;
	}
	if (index) {
		__u8 maybe;

		if (c != ':')
			return c == '\n' ? HTTP1_REASON_LINE_END : HTTP1_REASON_NAME;
		maybe = ((p->names | p->wanted) >> ((p->name[0] + 5 * index) & 63)) & 1;
		p->named = maybe;
		p->stop = maybe;
		p->phase = HTTP1_PHASE_SKIP;
		return HTTP1_REASON_NONE;
	}
	if (c == '\r') {
		if (!p->trailer)
			p->blank_at = p->head_bytes + at;
		p->phase = HTTP1_PHASE_BLANK_LF;
		return HTTP1_REASON_NONE;
	}
	if (c == ' ' || c == '\t')
		return HTTP1_REASON_FOLD;
	return c == '\n' ? HTTP1_REASON_LINE_END : HTTP1_REASON_NAME;
}

/* A byte of a value with meaning; leading white space is dropped. */
WEFT_INLINE __u8 http1_keep_byte(struct http1_parser *p, struct http1_head *h, __u32 c)
{
	__u64 index = p->value_raw;
	int blank = c == ' ' || c == '\t';

	if (c == '\r') {
		p->phase = HTTP1_PHASE_VALUE_LF;
		return HTTP1_REASON_NONE;
	}
	if (!blank && http1_is_control(c))
		return http1_bad_byte(c);
	if (blank && !p->begun)
		return HTTP1_REASON_NONE;
	p->begun = 1;
	p->value_raw = index + 1;
	if (!blank)
		p->value_len = index + 1;
	WEFT_OPAQUE(index);
	if (p->kind == HTTP1_KIND_HOST) {
		if (index < WEFT_HOST_MAX)
			h->host[index] = c;
	} else if (index < HTTP1_VALUE_MAX) {
		p->value[index] = c;
		if (index == HTTP1_VALUE_MAX - 1 && p->kind >= HTTP1_KIND_TRACESTATE) {
			p->piece = 1;
			p->stop = 1;
		}
	}
	return HTTP1_REASON_NONE;
}

/* A byte of a chunk's size line or of the line end behind its data. */
WEFT_INLINE __u8 http1_chunk_byte(struct http1_parser *p, __u32 c, __u8 phase)
{
	if (phase == HTTP1_PHASE_CHUNK_SIZE) {
		__u32 digit = weft_hex_any_case(c);

		if (digit < 16) {
			if (p->digits >= 16)
				return HTTP1_REASON_CHUNK;
			p->digits++;
			p->remaining = p->remaining << 4 | digit;
			return HTTP1_REASON_NONE;
		}
		if (!p->digits)
			return HTTP1_REASON_CHUNK;
		if (c == '\r')
			p->phase = HTTP1_PHASE_CHUNK_LF;
		else if (c == ';' || c == ' ' || c == '\t')
			p->phase = HTTP1_PHASE_CHUNK_EXT;
		else
			return HTTP1_REASON_CHUNK;
		return HTTP1_REASON_NONE;
	}
	if (phase == HTTP1_PHASE_CHUNK_EXT) {
		if (c == '\r') {
			p->phase = HTTP1_PHASE_CHUNK_LF;
			return HTTP1_REASON_NONE;
		}
		if (c != '\t' && http1_is_control(c))
			return HTTP1_REASON_CHUNK;
		p->ext_len++;
		return p->ext_len >= HTTP1_HEAD_MAX ? HTTP1_REASON_TOO_LONG : HTTP1_REASON_NONE;
	}
	if (phase == HTTP1_PHASE_CHUNK_END) {
		p->phase = HTTP1_PHASE_CHUNK_END_LF;
		return c == '\r' ? HTTP1_REASON_NONE : HTTP1_REASON_CHUNK;
	}
	if (c != '\n')
		return HTTP1_REASON_CHUNK;
	p->digits = 0;
	p->ext_len = 0;
	if (phase == HTTP1_PHASE_CHUNK_END_LF) {
		p->phase = HTTP1_PHASE_CHUNK_SIZE;
	} else if (p->remaining) {
		p->phase = HTTP1_PHASE_CHUNK_DATA;
		p->stop = 1;
	} else {
		p->trailer = 1;
		p->stop = 1; /* trailers are counted from the next step on */
		http1_line(p);
	}
	return HTTP1_REASON_NONE;
}

/* One byte, at window position at, outside of body data. 0 or why it is RAW. */
WEFT_INLINE __u8 http1_byte(struct http1_parser *p, struct http1_head *h, __u32 c, __u32 at,
			    __u8 phase)
{
	if (phase == HTTP1_PHASE_NAME)
		return http1_name_byte(p, c, at);
	if (phase == HTTP1_PHASE_SKIP || phase == HTTP1_PHASE_PHRASE) {
		if (c == '\r')
			p->phase = phase == HTTP1_PHASE_SKIP ? HTTP1_PHASE_VALUE_LF :
							       HTTP1_PHASE_LINE_LF;
		else if (c != '\t' && http1_is_control(c))
			return http1_bad_byte(c);
		return HTTP1_REASON_NONE;
	}
	if (phase == HTTP1_PHASE_KEEP)
		return http1_keep_byte(p, h, c);
	if (phase == HTTP1_PHASE_LINE_LF || phase == HTTP1_PHASE_VALUE_LF) {
		p->pending = p->kind; /* none on the first line */
		p->stop = p->kind != HTTP1_KIND_NONE;
		http1_line(p);
		return c == '\n' ? HTTP1_REASON_NONE : HTTP1_REASON_LINE_END;
	}
	if (phase == HTTP1_PHASE_BLANK_LF) {
		p->phase = p->trailer ? HTTP1_PHASE_DONE : HTTP1_PHASE_HEAD_DONE;
		p->stop = 1;
		return c == '\n' ? HTTP1_REASON_NONE : HTTP1_REASON_LINE_END;
	}
	if (phase == HTTP1_PHASE_TARGET) {
		__u64 index = h->target_total;

		if (c > 0x20 && c != 0x7f) {
			h->target_total = index + 1;
			WEFT_OPAQUE(index);
			if (index < WEFT_TARGET_MAX)
				h->target[index] = c;
			return HTTP1_REASON_NONE;
		}
		p->phase = HTTP1_PHASE_VERSION;
		return c == ' ' && index ? HTTP1_REASON_NONE : HTTP1_REASON_TARGET;
	}
	if (phase == HTTP1_PHASE_VERSION || phase == HTTP1_PHASE_STATUS)
		return http1_first_line(p, h, c);
	if (phase == HTTP1_PHASE_START && c == '\r') {
		p->empty_lines++;
		p->phase = HTTP1_PHASE_START_LF;
		return p->empty_lines > HTTP1_EMPTY_MAX ? HTTP1_REASON_EMPTY : HTTP1_REASON_NONE;
	}
	if (phase == HTTP1_PHASE_START_LF) {
		p->phase = HTTP1_PHASE_START;
		return c == '\n' ? HTTP1_REASON_NONE : HTTP1_REASON_LINE_END;
	}
	if (phase == HTTP1_PHASE_START || phase == HTTP1_PHASE_METHOD) {
		__u64 index = h->method_len;

		if (((c - 'A') & 0xff) < 26 || c == '-' || c == '_') {
			if (index >= WEFT_METHOD_MAX)
				return HTTP1_REASON_METHOD;
			h->method_len = index + 1;
			h->method[index & (WEFT_METHOD_MAX - 1)] = c;
			p->phase = HTTP1_PHASE_METHOD;
			return HTTP1_REASON_NONE;
		}
		p->phase = HTTP1_PHASE_TARGET;
		return c == ' ' && index ? HTTP1_REASON_NONE : HTTP1_REASON_METHOD;
	}
	return http1_chunk_byte(p, c, phase);
}

/*
 * Parses at most n bytes at buf, no more than HTTP1_WINDOW (buf must be a
 * memory area of that size for the verifier, but only n bytes are read).
 * Returns how many were used and sets p->signal. It stops early at the end of
 * a header block or of the message, where body data or trailers begin, after a
 * line with meaning, and on RAW (the offending byte counts as used). In body
 * data it does what http1_skip would.
 */
WEFT_INLINE __u32 http1_step(struct http1_parser *p, struct http1_head *h, const __u8 *buf, __u32 n)
{
	__u32 room = HTTP1_WINDOW;
	__u32 i, used;

	if (n > HTTP1_WINDOW)
		n = HTTP1_WINDOW;
	if (http1_skippable(p)) {
		if (n > http1_skippable(p))
			n = http1_skippable(p);
		http1_skip(p, n);
		return n;
	}
	if (p->phase == HTTP1_PHASE_HEAD_DONE || p->phase >= HTTP1_PHASE_DATA)
		return 0;
	p->in_block = p->phase < HTTP1_PHASE_HEAD_DONE;
	if (p->in_block)
		room = HTTP1_HEAD_MAX - (p->trailer ? p->trailer_bytes : p->head_bytes);
	if (p->piece)
		http1_forget_value(p);
	p->limit = n < room ? n : room;
	p->pos = 0;
	p->stop = 0;

	WEFT_NOUNROLL
	for (i = 0; i < HTTP1_WINDOW; i++) {
		__u64 at;

		WEFT_FORGET();
		if (p->stop)
			break;
		at = p->pos;
		WEFT_OPAQUE(at);
		if (WEFT_SWAR && at <= HTTP1_WINDOW - 8 && at + 8 <= p->limit &&
		    p->phase <= HTTP1_PHASE_KEEP)
			p->pos = at + http1_run(p, h, buf + at, p->phase);
		WEFT_FORGET();
		at = p->pos;
		WEFT_OPAQUE(at);
		if (at >= HTTP1_WINDOW || at >= p->limit)
			break;
		p->pos = at + 1;
		p->reason = http1_byte(p, h, buf[at & (HTTP1_WINDOW - 1)], at, p->phase);
		WEFT_FORGET();
		if (p->reason)
			break;
	}
	WEFT_FORGET();
	used = p->pos;
	if (used > HTTP1_WINDOW)
		used = HTTP1_WINDOW;
	if (p->in_block) {
		if (p->trailer)
			p->trailer_bytes += used;
		else
			p->head_bytes += used;
	}
	p->signal = HTTP1_MORE;
	if (p->reason)
		p->phase = HTTP1_PHASE_RAW;
	else if (p->named)
		http1_name(p, h);
	else if (p->pending)
		http1_interpret(p, h);
	else if (p->phase == HTTP1_PHASE_HEAD_DONE)
		http1_finish_head(p, h);
	if (p->phase < HTTP1_PHASE_HEAD_DONE &&
	    (p->trailer ? p->trailer_bytes : p->head_bytes) >= HTTP1_HEAD_MAX)
		http1_hands_off(p, HTTP1_REASON_TOO_LONG);
	if (p->phase == HTTP1_PHASE_RAW || !p->signal)
		p->signal = http1_signal_of(p->phase);
	if (p->signal == HTTP1_MORE && p->piece)
		p->signal = HTTP1_VALUE;
	return used;
}
