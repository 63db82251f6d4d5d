/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The header fields that weft adds to an HPACK header block (RFC 7541): each a
 * literal without indexing with a new name (section 6.2.2), Huffman coding off.
 * Such a field neither reads nor changes the dynamic table, so it may stand
 * behind any complete block without the two ends falling out of step. Helper-free;
 * the caller writes the value behind what these write of tracestate and baggage.
 */
#pragma once

#include "traceparent.h"

#define HPACK_LITERAL 0x00 /* 0000 0000: not indexed, the name follows */

/* Of a length in 7 bits (section 5.1): 0x7f, then up to two groups of 7. */
#define HPACK_LENGTH_MAX 3
/* The longest value that those can tell. */
#define HPACK_VALUE_MAX (0x7f + 0x3fff)

/* Kind, length of the name, name, length of the value, value. */
#define HPACK_TRACEPARENT_LEN (1 + 1 + 11 + 1 + TRACEPARENT_LEN)
/* What stands before the value, at most; as much may be written whatever its length. */
#define HPACK_TRACESTATE_HEAD (1 + 1 + 10 + HPACK_LENGTH_MAX)
#define HPACK_BAGGAGE_HEAD (1 + 1 + 7 + HPACK_LENGTH_MAX)

/* The bytes that the length of a value takes. */
WEFT_INLINE __u32 hpack_length_len(__u32 value_len)
{
	if (value_len < 0x7f)
		return 1;
	return value_len < 0x7f + 0x80 ? 2 : 3;
}

/*
 * Writes the length of a value, at most HPACK_VALUE_MAX, to dst, which has room for
 * HPACK_LENGTH_MAX bytes. Returns how many of them count.
 */
WEFT_INLINE __u32 hpack_length(__u8 *dst, __u32 value_len)
{
	__u32 rest = value_len - 0x7f, n = hpack_length_len(value_len);

	dst[0] = n == 1 ? value_len : 0x7f;
	dst[1] = (rest & 0x7f) | (n == 3 ? 0x80 : 0);
	dst[2] = rest >> 7 & 0x7f;
	return n;
}

/* The whole traceparent field: HPACK_TRACEPARENT_LEN bytes. */
WEFT_INLINE void hpack_traceparent(__u8 *dst, const __u8 *trace_id, const __u8 *span_id, __u8 flags)
{
	const char name[12] = "traceparent";

	dst[0] = HPACK_LITERAL;
	dst[1] = 11;
	__builtin_memcpy(dst + 2, name, 11);
	dst[13] = TRACEPARENT_LEN;
	traceparent_format(dst + 14, trace_id, span_id, flags);
}

/* What stands before a tracestate of value_len bytes; returns how long that is. */
WEFT_INLINE __u32 hpack_tracestate(__u8 *dst, __u32 value_len)
{
	const char name[12] = "tracestate";

	dst[0] = HPACK_LITERAL;
	dst[1] = 10;
	__builtin_memcpy(dst + 2, name, 10);
	return 12 + hpack_length(dst + 12, value_len);
}

/* Likewise of a baggage. */
WEFT_INLINE __u32 hpack_baggage(__u8 *dst, __u32 value_len)
{
	const char name[8] = "baggage";

	dst[0] = HPACK_LITERAL;
	dst[1] = 7;
	__builtin_memcpy(dst + 2, name, 7);
	return 9 + hpack_length(dst + 9, value_len);
}

/* The whole field with a value of that length; 0: none. */
WEFT_INLINE __u32 hpack_tracestate_len(__u32 value_len)
{
	return value_len ? 12 + hpack_length_len(value_len) + value_len : 0;
}

WEFT_INLINE __u32 hpack_baggage_len(__u32 value_len)
{
	return value_len ? 9 + hpack_length_len(value_len) + value_len : 0;
}
