/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Drives bpf/lib/http2.h and hpack.h as the sk_msg program does: sends of any size,
 * some of them repeated in part, and fields put behind header blocks that stand
 * whole in one send.
 */
#pragma once

#include "host.h"
#include "../lib/http2.h"
#include "../lib/hpack.h"

static const char *const http2_reason_names[HTTP2_REASON_COUNT] = {
	"none", "preface", "first", "reserved", "block", "stream", "push",
};

struct bytes {
	__u8 *at;
	size_t len, cap;
};

static void bytes_add(struct bytes *b, const __u8 *from, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = 2 * (b->len + n) + 4096;
		b->at = realloc(b->at, b->cap);
		if (!b->at)
			abort();
	}
	if (n)
		memcpy(b->at + b->len, from, n);
	b->len += n;
}

/* What the editor does to a request is made of its stream's number, so that the
 * other side of a test knows it too. */
static __u32 fields_of(__u32 stream, __u8 *to)
{
	__u8 ids[24];
	__u32 at = 0, len;

	if (!(stream >> 1 & 1))
		return 0;
	memset(ids, stream | 1, sizeof(ids));
	hpack_traceparent(to, ids, ids + 16, stream >> 2 & 3);
	at = HPACK_TRACEPARENT_LEN;
	len = stream * 7 % 300;
	if (stream >> 4 & 1 && len) {
		__u32 head = hpack_tracestate(to + at, len);

		if (head + len != hpack_tracestate_len(len))
			abort();
		memset(to + at + head, 's', len);
		at += head + len;
	}
	len = stream * 131 % 8192;
	if (stream >> 5 & 1 && len) {
		__u32 head = hpack_baggage(to + at, len);

		if (head + len != hpack_baggage_len(len))
			abort();
		memset(to + at + head, 'b', len);
		at += head + len;
	}
	return at;
}

/* A connection under test. */
struct http2_host {
	struct http2_reader *reader;
	struct text out;     /* transcript */
	struct bytes stream; /* edited */
	uint64_t offset;     /* of the client's bytes */
	uint64_t edits;	     /* whether to edit */
};

static void http2_note(struct http2_host *h)
{
	struct http2_reader *r = h->reader;

	if (r->signal == HTTP2_FRAME)
		text_add(&h->out, "frame type=%u flags=%02x stream=%u length=%u%s offset=%llu\n",
			 r->type, r->flags, r->stream, r->length, r->opens ? " opens" : "",
			 (unsigned long long)h->offset);
	if (r->signal == HTTP2_RAW)
		text_add(&h->out, "raw %s offset=%llu\n", http2_reason_names[r->reason],
			 (unsigned long long)h->offset);
}

/*
 * The frame header at hand ends at data[at]; grows the frame if it opens a stream,
 * stands whole in this send, and has something coming. Returns how many bytes of
 * the send are done with.
 */
static size_t http2_edit(struct http2_host *h, const __u8 *data, size_t n, size_t at)
{
	struct http2_reader *r = h->reader;
	__u8 fields[16384], *header;
	__u32 len, length = r->length;

	if (!h->edits || !r->opens || at < HTTP2_HEADER_LEN || n - at < length)
		return at;
	len = fields_of(r->stream, fields);
	if (!len || http2_growth(r, len) != HTTP2_GROWS)
		return at;
	text_add(&h->out, "edit stream=%u\n", r->stream);
	header = h->stream.at + h->stream.len - HTTP2_HEADER_LEN;
	http2_put_length(header, length + len);
	bytes_add(&h->stream, data + at, length);
	bytes_add(&h->stream, fields, len);
	http2_skip(r, length);
	r->length = 0;
	h->offset += length;
	return at + length;
}

/* One send. */
static void http2_send(struct http2_host *h, const __u8 *data, size_t n)
{
	struct http2_reader *r = h->reader;
	size_t at = 0;

	while (at < n) {
		size_t used = http2_skippable(r), wanted = http2_wanted(r);

		if (used > n - at)
			used = n - at;
		if (used) {
			http2_skip(r, used);
		} else if (wanted) {
			used = wanted < n - at ? wanted : n - at;
			if (r->have + used > HTTP2_PREFACE_LEN)
				abort();
			memcpy(r->bytes + r->have, data + at, used);
			http2_take(r, used);
		} else if (r->signal == HTTP2_RAW) {
			used = n - at;
		} else {
			abort(); /* stuck */
		}
		bytes_add(&h->stream, data + at, used);
		at += used;
		h->offset += used;
		if (!wanted)
			continue;
		http2_note(h);
		if (r->signal == HTTP2_FRAME)
			at = http2_edit(h, data, n, at);
		r->signal = r->signal == HTTP2_RAW ? HTTP2_RAW : HTTP2_MORE;
	}
}

/*
 * Feeds data cut as told. Some sends go in part only (CUT_RANDOM without edits): the
 * rest of them comes again, and is either known to be such or the place is lost,
 * which the test then passes over by sending it all.
 */
static void http2_drive(struct http2_host *h, const __u8 *data, size_t n, enum cut cut,
			uint64_t arg)
{
	size_t at = 0;

	h->reader = malloc(sizeof(*h->reader));
	if (!h->reader)
		abort();
	memset(h->reader, 0xa5, sizeof(*h->reader));
	http2_reset(h->reader, 0);
	text_add(&h->out, "%s", "");
	while (at < n) {
		size_t piece = n - at;

		if (cut == CUT_EACH) {
			piece = 1;
		} else if (cut == CUT_RANDOM) {
			uint64_t r = next_random(&arg);

			piece = 1 + (r >> 8) % (r & 1 ? 12 : r & 2 ? 200 : 40000);
			if (piece > n - at)
				piece = n - at;
		}
		http2_send(h, data + at, piece);
		at += piece;
		if (cut == CUT_RANDOM && !h->edits && next_random(&arg) % 4 == 0) {
			size_t back = 1 + next_random(&arg) % 64;

			if (back <= piece && h->reader->phase != HTTP2_PHASE_RAW &&
			    !http2_shift(h->reader, -(__s32)back)) {
				at -= back;
				h->offset -= back;
			}
		}
	}
	free(h->reader);
}

/* Transcript of data cut as told; the caller frees it. */
__attribute__((unused)) static char *http2_transcript(const __u8 *data, size_t n, enum cut cut,
						      uint64_t arg)
{
	struct http2_host h = { 0 };

	http2_drive(&h, data, n, cut, arg);
	free(h.stream.at);
	return h.out.at;
}

/* "edit" lines and "stream " with the edited bytes in hexadecimal; data begins with
 * the seed of the cuts, 8 bytes. */
__attribute__((unused)) static char *http2_edited(const __u8 *data, size_t n)
{
	struct http2_host h = { .edits = 1 };
	uint64_t seed;

	if (n < sizeof(seed))
		abort();
	memcpy(&seed, data, sizeof(seed));
	http2_drive(&h, data + sizeof(seed), n - sizeof(seed), seed ? CUT_RANDOM : CUT_NONE, seed);
	text_add(&h.out, "stream ");
	for (size_t i = 0; i < h.stream.len; i++)
		text_add(&h.out, "%02x", h.stream.at[i]);
	free(h.stream.at);
	return h.out.at;
}
