/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The tracestate of W3C Trace Context Level 2 (section 3.3), read a piece of a
 * header line at a time, cut to what is carried on, and written again; and the
 * member of OpenTelemetry in it (ot=th:…;rv:…). Helper-free but for WEFT_COPY.
 * The Go twin is internal/w3c; both read bpf/tests/vectors/tracestate.txt.
 *
 *	tracestate_reset(t);
 *	for each line of that name:	tracestate_feed(t, bytes, n); ...
 *					tracestate_line_end(t);
 *	result = tracestate_end(t);	now t->ot says what it says
 *	length = tracestate_write(t, dst, TRACESTATE_KEEP, 0);
 *
 * A malformed member discards the whole tracestate, not the traceparent beside
 * it. Two members of one key are passed on as they came: the grammar does not
 * forbid them to a recipient, though a producer must not write them (the W3C
 * test suite's strict level wants such a tracestate discarded). Keys follow
 * Level 2, where '@' is a byte like others and the older tenant@system limits
 * of 241 and 14 bytes are gone.
 *
 * Shape, for the verifiers of 5.10 and later: loops bounded by constants, the
 * state of each in the struct, where the verifier forgets it, so that all paths
 * of a turn meet again at the loop head; two tables instead of branches.
 */
#pragma once

#include "tracestate_read.h"

#define OT_NAME(a, b) ((a) << 16 | (b) << 8 | ':')

/* A sub-key of ot is complete: remembers th and rv when they come first, adds any
 * other to others while there is room. */
WEFT_INLINE void ot_close(struct tracestate *t)
{
	/* Names have 24 bits: only 0 less 1 has the top one. No branches. */
	__u32 is_th = ((t->name ^ OT_NAME('t', 'h')) - 1) >> 31;
	__u64 is_rv = ((t->name ^ OT_NAME('r', 'v')) - 1) >> 31;

	WEFT_OPAQUE(is_th);
	WEFT_OPAQUE(is_rv);
	is_rv &= 1;
	if (is_th | is_rv) {
		if (!t->digits[is_rv]) {
			t->number[is_rv] = t->value;
			t->digits[is_rv] = (t->sub - 2) | -(__u32)t->bad;
		}
		return;
	}
	if (t->others_end > TRACESTATE_OT_OTHERS)
		t->others_full = 1;
	/* Without blanks at its end: they would be none of the value's. */
	if (t->others_end && !t->others_full)
		t->others_len = t->others_end;
}

/* Reads the value of the first ot member, at text[t->next] up to t->limit. */
WEFT_INLINE void ot_read(struct tracestate *t)
{
	__u32 i;

	WEFT_NOUNROLL
	for (i = 0; i <= TRACESTATE_KEY_MAX; i++) {
		__u32 c, digit, letter, at, limit;
		__u64 pos;

		WEFT_FORGET();
		at = t->next;
		limit = t->limit;
		if (at > limit)
			break;
		t->next = at + 1;
		c = at < limit ? tracestate_text(t, at) : ';';
		if (c == ';') {
			ot_close(t);
			WEFT_FORGET();
			/* What is not part of others now, the next one overwrites. */
			pos = t->others_len;
			t->others_pos = pos + (pos > 0);
			t->others[pos & 255] = ';';
			t->others_end = 0;
			t->name = 0;
			t->value = 0;
			t->sub = 0;
			t->bad = 0;
			continue;
		}
		if (t->sub < 3) {
			t->name = t->name << 8 | c;
		} else {
			/* As in traceparent_byte: no branches on a digit. */
			digit = (c - '0') & 0xff;
			letter = (c - 'a') & 0xff;
			WEFT_OPAQUE(digit);
			WEFT_OPAQUE(letter);
			t->bad |= ((digit - 10) >> 31 | (letter - 6) >> 31) ^ 1;
			t->value = t->value << 4 |
				   (digit + ((digit - 10) >> 31 ^ 1) * (letter + 10 - digit) & 15);
		}
		t->sub++;
		pos = t->others_pos;
		t->others_pos = pos + 1;
		if (c != ' ')
			t->others_end = pos + 1;
		t->others[pos & 255] = c;
	}
	WEFT_FORGET();
	if (t->digits[0] >= 2 && t->digits[0] <= 15) {
		t->ot.threshold = t->number[0] << (60 - 4 * t->digits[0]);
		t->ot.has_threshold = 1;
	}
	if (t->digits[1] == 15) {
		t->ot.random = t->number[1];
		t->ot.has_random = 1;
	}
}

/* No more lines. Returns enum tracestate_result; t->ot holds what ot says. */
WEFT_INLINE __u32 tracestate_end(struct tracestate *t)
{
	__u32 i;

	tracestate_line_end(t);
	WEFT_FORGET();
	if (t->result || !t->count) {
		if (!t->result)
			t->result = TRACESTATE_EMPTY;
		t->count = 0;
		t->len = 0;
		return t->result;
	}
	t->next = 1;
	t->limit = 0;
	WEFT_NOUNROLL
	for (i = 0; i < TRACESTATE_MEMBERS; i++) {
		__u32 differs;
		__u64 at;

		WEFT_FORGET();
		if (i >= t->count)
			break;
		t->kept |= 1U << i;
		at = t->member[i].at;
		WEFT_OPAQUE(at);
		if (at > TRACESTATE_TEXT - 3)
			break;
		differs = (t->text[at] ^ 'o') | (t->text[at + 1] ^ 't') | (t->text[at + 2] ^ '=');
		if (differs)
			continue;
		if (!t->ots) {
			t->next = at + 3;
			t->limit = at + t->member[i].len;
		}
		t->ots |= 1U << i;
	}
	WEFT_FORGET();
	ot_read(t);
	return TRACESTATE_OK;
}

/* What the ot member says; after tracestate_end. */
WEFT_INLINE void tracestate_ot(const struct tracestate *t, struct ot *ot)
{
	__builtin_memcpy(ot, &t->ot, sizeof(*ot));
}

/*
 * Leaves `most` members of those in t->kept, and `limit` bytes with a comma behind
 * each: drops those over TRACESTATE_LONG from the last on, then any from the last
 * on. Whole members only.
 */
WEFT_INLINE void tracestate_fit(struct tracestate *t, __u32 limit, __u32 most)
{
	__u32 i;

	t->total = 0;
	t->left = 0;
	WEFT_NOUNROLL
	for (i = 0; i < TRACESTATE_MEMBERS; i++) {
		WEFT_FORGET();
		if (!(t->kept >> i & 1))
			continue;
		t->total += t->member[i].len + 1;
		t->left++;
	}
	WEFT_NOUNROLL
	for (i = 0; i < 2 * TRACESTATE_MEMBERS; i++) {
		__u32 index = TRACESTATE_MEMBERS - 1 - (i & (TRACESTATE_MEMBERS - 1));
		__u32 len;

		WEFT_FORGET();
		if (t->total <= limit && t->left <= most)
			break;
		if (!(t->kept >> index & 1))
			continue;
		len = t->member[index].len;
		if (i < TRACESTATE_MEMBERS && (len <= TRACESTATE_LONG || t->total <= limit))
			continue;
		t->kept &= ~(1U << index);
		t->total -= len + 1;
		t->left--;
	}
	WEFT_FORGET();
}

/*
 * Decides which members are carried on: t->kept, at most TRACESTATE_MAX bytes with
 * the commas between them. Returns how many are not. tracestate_write does this
 * itself, with the ot member it will write.
 */
WEFT_INLINE __u32 tracestate_cut(struct tracestate *t)
{
	tracestate_fit(t, TRACESTATE_MAX + 1, TRACESTATE_MEMBERS);
	return t->result ? 0 : t->seen - t->left;
}

/* 14 hexadecimal digits of 56 bits. */
WEFT_INLINE void ot_hex(__u8 *dst, __u64 value)
{
	__u32 i;

	for (i = 0; i < 14; i++) {
		__u32 digit = (value >> (52 - 4 * i)) & 15;
		__u32 letter = (9 - digit) >> 31;

		WEFT_OPAQUE(letter);
		dst[i] = '0' + digit + 39 * letter; /* 39 = 'a' - '0' - 10 */
	}
}

/* Digits of a threshold as th is written: without trailing zeros, but at least
 * one. Left in t, where the verifier does not tell the cases apart. */
WEFT_INLINE void ot_count_digits(struct tracestate *t, __u64 threshold)
{
	__u32 i;

	t->written = 1;
	for (i = 1; i < 14; i++)
		if ((threshold >> (52 - 4 * i)) & 15)
			t->written = i + 1;
	WEFT_FORGET();
}

/* Writes the ot member and a comma to the start of dst, or nothing if it would say
 * nothing. t->out is how much. */
WEFT_INLINE void ot_write(struct tracestate *t, __u8 *dst, __u32 mode, __u64 threshold)
{
	__u64 out, len;

	dst[0] = 'o';
	dst[1] = 't';
	dst[2] = '=';
	t->out = 3;
	if (mode == TRACESTATE_SET) {
		ot_count_digits(t, threshold);
		dst[3] = 't';
		dst[4] = 'h';
		dst[5] = ':';
		ot_hex(dst + 6, threshold);
		out = 6 + (t->written & 15);
		dst[out] = ';';
		t->out = out + 1;
	}
	WEFT_FORGET();
	if (t->ot.has_random) {
		__u8 *p;

		out = t->out & 31;
		WEFT_OPAQUE(out);
		p = dst + (out & 31);
		p[0] = 'r';
		p[1] = 'v';
		p[2] = ':';
		ot_hex(p + 3, t->ot.random);
		p[17] = ';';
		t->out = out + 18;
	}
	WEFT_FORGET();
	len = t->others_len;
	WEFT_OPAQUE(len);
	if (len && len <= TRACESTATE_OT_OTHERS) {
		/* Masked at the very place: verifiers before 6.2 forget a check
		 * when the value is spilled to the stack. */
		out = t->out;
		WEFT_OPAQUE(out);
		WEFT_OPAQUE(len);
		out &= 63;
		len &= 255;
		WEFT_COPY(dst + out, len, t->others);
		out += len;
		WEFT_OPAQUE(out);
		dst[out & (TRACESTATE_BUFFER - 1)] = ';';
		t->out = out + 1;
	}
	WEFT_FORGET();
	out = t->out;
	if (out == 3) {
		t->out = 0;
		return;
	}
	out--;
	WEFT_OPAQUE(out);
	dst[out & (TRACESTATE_BUFFER - 1)] = ',';
}

/*
 * Writes what is carried on to dst, of TRACESTATE_BUFFER bytes in a map value
 * other than t's, and returns its length, at most TRACESTATE_MAX; 0 is none.
 * mode is enum tracestate_mode, threshold (56 bits) is for TRACESTATE_SET. In the
 * modes that modify ot it comes first, once; its rv stays, its other sub-keys as
 * far as they have TRACESTATE_OT_OTHERS bytes, and the list makes room at its end.
 * Without any member (a new trace, or a tracestate discarded) SET writes ot alone.
 */
WEFT_INLINE __u32 tracestate_write(struct tracestate *t, __u8 *dst, __u32 mode, __u64 threshold)
{
	__u32 i;

	t->out = 0;
	t->kept = t->count ? ~0U >> ((TRACESTATE_MEMBERS - t->count) & 31) : 0;
	/* Nothing to erase is no reason to move ot. */
	if (mode == TRACESTATE_SET ||
	    (mode == TRACESTATE_ERASE && (t->digits[0] || t->ots & (t->ots - 1)))) {
		t->kept &= ~t->ots;
		ot_write(t, dst, mode, threshold);
	}
	WEFT_FORGET();
	tracestate_fit(t, TRACESTATE_MAX + 1 - t->out, TRACESTATE_MEMBERS - (t->out > 0));
	t->to = 0;
	/* Neighbours that stay are copied at once. */
	WEFT_NOUNROLL
	for (i = 0; i <= TRACESTATE_MEMBERS; i++) {
		__u64 from, len, out;

		WEFT_FORGET();
		if (i < TRACESTATE_MEMBERS && t->kept >> i & 1) {
			if (!t->to)
				t->from = t->member[i].at;
			t->to = t->member[i].at + t->member[i].len;
			continue;
		}
		if (!t->to)
			continue;
		from = t->from;
		len = t->to - from;
		out = t->out;
		t->to = 0;
		WEFT_OPAQUE(from);
		WEFT_OPAQUE(len);
		WEFT_OPAQUE(out);
		if (from >= TRACESTATE_TEXT || len - 1 >= TRACESTATE_MAX || out >= TRACESTATE_MAX)
			break;
		WEFT_OPAQUE(len);
		WEFT_OPAQUE(out);
		len = ((len - 1) & (TRACESTATE_MAX - 1)) + 1; /* as above */
		out &= TRACESTATE_MAX - 1;
		WEFT_COPY(dst + out, len, t->text + from);
		t->out = out + len + 1;
		out += len;
		WEFT_OPAQUE(out);
		dst[out & (TRACESTATE_BUFFER - 1)] = ',';
	}
	WEFT_FORGET();
	return t->out ? t->out - 1 : 0;
}
