/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The traceparent value of W3C Trace Context Level 2, parsed strictly and
 * written as version 00. Helper-free; constant offsets only, and nothing
 * branches on a digit, so a verifier walks it once. The Go twin is
 * internal/w3c; both read bpf/tests/vectors/traceparent.txt.
 */
#pragma once

#include "portable.h"

#define TRACEPARENT_LEN 55	/* of version 00; later ones are at least that */
#define TRACEPARENT_BUFFER 64	/* bytes the parser may read */
#define TRACEPARENT_SAMPLED 0x01
#define TRACEPARENT_RANDOM 0x02 /* trace-id is random (Level 2) */

/* Why a value is no traceparent; 0 if it is one. The first that applies. */
enum traceparent_result {
	TRACEPARENT_OK = 0,
	TRACEPARENT_LENGTH = 1,	  /* not 55 bytes, or fewer for a later version */
	TRACEPARENT_FORM = 2,	  /* '-' missing, or a digit not lower-case hex */
	TRACEPARENT_VERSION = 3,  /* version ff */
	TRACEPARENT_TRACE_ID = 4, /* all zero */
	TRACEPARENT_SPAN_ID = 5,  /* all zero */
};

struct traceparent {
	__u8 trace_id[16];
	__u8 span_id[8];
	__u8 version; /* as it came */
	__u8 flags;   /* TRACEPARENT_SAMPLED and _RANDOM; others are cleared */
	__u8 pad[6];
};

_Static_assert(sizeof(struct traceparent) == 32, "traceparent");

/* Two lower-case hexadecimal digits; bit 8 is set if they are not. */
WEFT_INLINE __u32 traceparent_byte(const __u8 *v)
{
	__u32 value = 0, bad = 0;
	__u32 i;

	for (i = 0; i < 2; i++) {
		__u32 digit = (v[i] - (__u32)'0') & 0xff;
		__u32 letter = (v[i] - (__u32)'a') & 0xff;
		__u32 is_digit, is_letter;

		/* Hidden, or clang turns the arithmetic into branches and the
		 * verifier walks two paths for each of 52 digits. */
		WEFT_OPAQUE(digit);
		WEFT_OPAQUE(letter);
		is_digit = (digit - 10) >> 31;
		is_letter = (letter - 6) >> 31;
		WEFT_OPAQUE(is_digit);
		WEFT_OPAQUE(is_letter);
		value = value << 4 | (digit * is_digit + (letter + 10) * is_letter);
		bad |= (is_digit | is_letter) ^ 1;
	}
	return (value & 0xff) | bad << 8;
}

/*
 * Parses v, of which len bytes are meant and TRACEPARENT_BUFFER may be read
 * (what lies behind len does not matter). Returns enum traceparent_result; out
 * holds the value only if that is 0.
 */
WEFT_INLINE int traceparent_parse(const __u8 *v, __u32 len, struct traceparent *out)
{
	__u32 version, flags, value, bad, any;
	__u32 i;

	if (len < TRACEPARENT_LEN)
		return TRACEPARENT_LENGTH;
	version = traceparent_byte(v);
	bad = version >> 8;
	any = 0;
	for (i = 0; i < 16; i++) {
		value = traceparent_byte(v + 3 + 2 * i);
		bad |= value >> 8;
		any |= value;
		out->trace_id[i] = value;
	}
	bad |= v[2] ^ '-';
	bad |= v[35] ^ '-';
	bad |= v[52] ^ '-';
	value = any;
	any = 0;
	for (i = 0; i < 8; i++) {
		__u32 b = traceparent_byte(v + 36 + 2 * i);

		bad |= b >> 8;
		any |= b;
		out->span_id[i] = b;
	}
	flags = traceparent_byte(v + 53);
	bad |= flags >> 8;
	if (bad)
		return TRACEPARENT_FORM;
	if (version == 0xff)
		return TRACEPARENT_VERSION;
	if (len > TRACEPARENT_LEN) {
		if (version == 0)
			return TRACEPARENT_LENGTH;
		if (v[55] != '-')
			return TRACEPARENT_FORM;
	}
	if (!value)
		return TRACEPARENT_TRACE_ID;
	if (!any)
		return TRACEPARENT_SPAN_ID;
	out->version = version;
	out->flags = flags & (TRACEPARENT_SAMPLED | TRACEPARENT_RANDOM);
	__builtin_memset(out->pad, 0, sizeof(out->pad));
	return TRACEPARENT_OK;
}

/* A byte as two lower-case hexadecimal digits. */
WEFT_INLINE void traceparent_put(__u8 *dst, __u32 byte)
{
	__u32 high = byte >> 4 & 15, low = byte & 15;
	__u32 high_letter = (9 - high) >> 31, low_letter = (9 - low) >> 31;

	WEFT_OPAQUE(high_letter);
	WEFT_OPAQUE(low_letter);
	dst[0] = '0' + high + 39 * high_letter; /* 39 = 'a' - '0' - 10 */
	dst[1] = '0' + low + 39 * low_letter;
}

/* Writes TRACEPARENT_LEN bytes of version 00, no terminator. */
WEFT_INLINE void traceparent_format(__u8 *dst, const __u8 *trace_id, const __u8 *span_id,
				    __u8 flags)
{
	__u32 i;

	traceparent_put(dst, 0);
	dst[2] = '-';
	for (i = 0; i < 16; i++)
		traceparent_put(dst + 3 + 2 * i, trace_id[i]);
	dst[35] = '-';
	for (i = 0; i < 8; i++)
		traceparent_put(dst + 36 + 2 * i, span_id[i]);
	dst[52] = '-';
	traceparent_put(dst + 53, flags);
}
