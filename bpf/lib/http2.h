/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What a client sends on an HTTP/2 connection (RFC 9113), as frames: where each
 * begins and ends, over any split of the bytes, and which of them open a stream.
 * Payloads are passed over unread. Helper-free, all state in memory the caller
 * owns; compiled for BPF, for host tests and for fuzzing.
 *
 * From the caller's side, for as long as there are bytes:
 *
 *	http2_reset(r, 0), or http2_join;
 *	http2_skippable(r) not 0:	http2_skip(r, up to so many);
 *	http2_wanted(r) not 0:		put up to so many bytes at r->bytes + r->have;
 *					http2_take(r, how many);
 *	r->signal is HTTP2_FRAME:	r->type, flags, stream, length, opens are of
 *					the frame whose payload comes next;
 *	neither:			HTTP2_RAW, for good.
 *
 * It guards edits of other programs' bytes, so it is stricter than a server has to
 * be: what no client may send ends in HTTP2_RAW, because it may as well mean that
 * the frames were lost track of.
 */
#pragma once

#include "portable.h"

#define HTTP2_PREFACE_LEN 24 /* section 3.4 */
#define HTTP2_HEADER_LEN 9   /* section 4.1 */

/* The longest payload that every peer takes (section 4.2). Peers may allow more;
 * weft lets no frame grow beyond this. */
#define HTTP2_FRAME_MAX 16384

/* Frame types (section 6). */
enum {
	HTTP2_DATA = 0,
	HTTP2_HEADERS = 1,
	HTTP2_SETTINGS = 4,
	HTTP2_PUSH_PROMISE = 5,
	HTTP2_CONTINUATION = 9,
};

/* Flags of HEADERS and CONTINUATION, and the first of SETTINGS (section 6). */
enum {
	HTTP2_ACK = 0x01,
	HTTP2_END_HEADERS = 0x04,
	HTTP2_PADDED = 0x08,
	HTTP2_PRIORITY = 0x20,
};

enum http2_phase {
	HTTP2_PHASE_PREFACE = 0,
	HTTP2_PHASE_FIRST = 1, /* the first frame, which must be SETTINGS */
	HTTP2_PHASE_FRAME = 2,
	HTTP2_PHASE_RAW = 3,
};

enum http2_signal {
	HTTP2_MORE = 0,
	HTTP2_FRAME = 1, /* a frame header is complete */
	HTTP2_RAW = 2,	 /* not HTTP/2, or not followed: see reason */
};

/* Why the connection is no longer followed. */
enum http2_reason {
	HTTP2_REASON_NONE = 0,
	HTTP2_REASON_PREFACE = 1,  /* not the 24 bytes of the preface */
	HTTP2_REASON_FIRST = 2,	   /* they are not followed by SETTINGS */
	HTTP2_REASON_RESERVED = 3, /* the reserved bit of a stream identifier is set */
	HTTP2_REASON_BLOCK = 4,	   /* a header block is interrupted, or continued without one */
	HTTP2_REASON_STREAM = 5,   /* a stream that no client opens, or that is not open yet */
	HTTP2_REASON_PUSH = 6,	   /* PUSH_PROMISE from a client */
	HTTP2_REASON_COUNT = 7,
};

/* How a frame that opens a stream stands to more fields at its end. */
enum http2_growth {
	HTTP2_GROWS = 0,
	HTTP2_CONTINUED = 1, /* its block goes on in CONTINUATION frames */
	HTTP2_IS_PADDED = 2, /* padding stands behind its block */
	HTTP2_FULL = 3,	     /* it would be longer than HTTP2_FRAME_MAX, or is empty */
};

struct http2_reader {
	__u32 left;	   /* bytes of the payload at hand still to come */
	__u32 length;	   /* of that payload */
	__u32 stream;	   /* of that frame */
	__u32 last_stream; /* highest that a HEADERS frame has opened */
	__u8 type;
	__u8 flags;
	__u8 opens;	/* the frame at hand opens a stream: a request */
	__u8 block;	/* a header block goes on: CONTINUATION must follow */
	__u8 phase;	/* enum http2_phase */
	__u8 signal;	/* enum http2_signal */
	__u8 reason;	/* enum http2_reason */
	__u8 have;	/* of the preface or frame header, in bytes */
	__u8 bytes[64]; /* more than are wanted, for verifiers that see masks only */
};

#define HTTP2_BYTES_MASK 31
_Static_assert(HTTP2_PREFACE_LEN <= HTTP2_BYTES_MASK, "lengths are masked");

/* A connection of whose preface `have` bytes are known to have passed. */
WEFT_INLINE void http2_reset(struct http2_reader *r, __u8 have)
{
	const char preface[HTTP2_PREFACE_LEN + 1] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

	__builtin_memset(r, 0, sizeof(*r));
	__builtin_memcpy(r->bytes, preface, HTTP2_PREFACE_LEN);
	r->have = have;
}

/* A connection of which nothing is known but that the next byte begins the frame that
 * opens `stream`. */
WEFT_INLINE void http2_join(struct http2_reader *r, __u32 stream)
{
	__builtin_memset(r, 0, sizeof(*r));
	r->phase = HTTP2_PHASE_FRAME;
	r->last_stream = stream - 1;
}

/* Payload bytes to pass over before anything is wanted. */
WEFT_INLINE __u32 http2_skippable(const struct http2_reader *r)
{
	return r->left;
}

/* At most http2_skippable() of them. */
WEFT_INLINE void http2_skip(struct http2_reader *r, __u32 n)
{
	r->left -= n;
}

/* Bytes wanted at bytes + have; 0 inside a payload, and when RAW. */
WEFT_INLINE __u32 http2_wanted(const struct http2_reader *r)
{
	if (r->left || r->phase == HTTP2_PHASE_RAW)
		return 0;
	return (r->phase == HTTP2_PHASE_PREFACE ? HTTP2_PREFACE_LEN : HTTP2_HEADER_LEN) - r->have;
}

/*
 * The next byte is `by` bytes behind where the reader stands (negative: before).
 * Returns 0 if that is inside the same payload, and stands there now; else the
 * place is unknown. A send that the kernel took in part only is repeated.
 */
WEFT_INLINE int http2_shift(struct http2_reader *r, __s32 by)
{
	__u32 passed = r->length - r->left;
	__u32 back = 0u - (__u32)by;

	if (by >= 0 ? (__u32)by > r->left : r->have || back > passed)
		return 1;
	r->left -= (__u32)by;
	return 0;
}

/* Judges a complete frame header. */
WEFT_INLINE __u8 http2_header(struct http2_reader *r)
{
	__u8 type = r->bytes[3], flags = r->bytes[4];
	__u32 stream = (__u32)r->bytes[5] << 24 | (__u32)r->bytes[6] << 16 |
		       (__u32)r->bytes[7] << 8 | r->bytes[8];

	r->opens = 0;
	if (stream >> 31)
		return HTTP2_REASON_RESERVED;
	if (r->phase == HTTP2_PHASE_FIRST &&
	    (type != HTTP2_SETTINGS || stream || flags & HTTP2_ACK))
		return HTTP2_REASON_FIRST;
	/* Section 6.10: nothing may come between the frames of a header block. */
	if (r->block ? type != HTTP2_CONTINUATION || stream != r->stream :
		       type == HTTP2_CONTINUATION)
		return HTTP2_REASON_BLOCK;
	if (type == HTTP2_PUSH_PROMISE)
		return HTTP2_REASON_PUSH; /* section 8.4 */
	if (type == HTTP2_HEADERS) {
		/* Section 5.1.1: odd, and higher than any before. A lower one is of
		 * a stream that is open already: trailers. */
		if (!(stream & 1))
			return HTTP2_REASON_STREAM;
		r->opens = stream > r->last_stream;
		if (r->opens)
			r->last_stream = stream;
	}
	if (type == HTTP2_DATA && (!stream || stream > r->last_stream))
		return HTTP2_REASON_STREAM;
	if (type == HTTP2_HEADERS || type == HTTP2_CONTINUATION)
		r->block = !(flags & HTTP2_END_HEADERS);
	r->type = type;
	r->flags = flags;
	r->stream = stream;
	r->length = (__u32)r->bytes[0] << 16 | (__u32)r->bytes[1] << 8 | r->bytes[2];
	r->left = r->length;
	r->phase = HTTP2_PHASE_FRAME;
	return HTTP2_REASON_NONE;
}

/* "PRI * HTTP/2.0", an empty line, "SM", an empty line; in words, which a verifier
 * walks once. */
WEFT_INLINE __u8 http2_preface(struct http2_reader *r)
{
	__u64 differ = weft_load64(r->bytes) ^ WEFT_WORD('P', 'R', 'I', ' ', '*', ' ', 'H', 'T');

	differ |= weft_load64(r->bytes + 8) ^ WEFT_WORD('T', 'P', '/', '2', '.', '0', '\r', '\n');
	differ |= weft_load64(r->bytes + 16) ^
		  WEFT_WORD('\r', '\n', 'S', 'M', '\r', '\n', '\r', '\n');
	r->phase = HTTP2_PHASE_FIRST;
	return differ ? HTTP2_REASON_PREFACE : HTTP2_REASON_NONE;
}

/* n bytes, no more than http2_wanted(), have been put at bytes + have. */
WEFT_INLINE void http2_take(struct http2_reader *r, __u32 n)
{
	__u32 have = r->have + n;

	r->have = have;
	r->signal = HTTP2_MORE;
	if (r->phase == HTTP2_PHASE_PREFACE) {
		if (have < HTTP2_PREFACE_LEN)
			return;
		r->reason = http2_preface(r);
	} else {
		if (have < HTTP2_HEADER_LEN)
			return;
		r->reason = http2_header(r);
		r->signal = HTTP2_FRAME;
	}
	r->have = 0;
	if (r->reason) {
		r->phase = HTTP2_PHASE_RAW;
		r->signal = HTTP2_RAW;
	}
}

/* May the HEADERS frame at hand take n more bytes of fields? */
WEFT_INLINE __u32 http2_growth(const struct http2_reader *r, __u32 n)
{
	if (!(r->flags & HTTP2_END_HEADERS))
		return HTTP2_CONTINUED;
	if (r->flags & HTTP2_PADDED)
		return HTTP2_IS_PADDED;
	return r->length && r->length + n <= HTTP2_FRAME_MAX ? HTTP2_GROWS : HTTP2_FULL;
}

/* Writes the length of a payload where its frame header begins: 3 bytes. */
WEFT_INLINE void http2_put_length(__u8 *dst, __u32 length)
{
	dst[0] = length >> 16;
	dst[1] = length >> 8;
	dst[2] = length;
}
