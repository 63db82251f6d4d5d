/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Drives bpf/lib on the host as a BPF program would, and writes down what it
 * saw as text: one transcript per stream, equal for every segmentation.
 */
#pragma once

#include <linux/types.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../abi/event.h"
#include "../lib/http1.h"
#include "../lib/traceparent.h"

struct text {
	char *at;
	size_t len, cap;
};

__attribute__((format(printf, 2, 3))) static void text_add(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	for (;;) {
		va_start(args, format);
		n = vsnprintf(t->at ? t->at + t->len : NULL, t->cap - t->len, format, args);
		va_end(args);
		if (n >= 0 && t->len + n < t->cap)
			break;
		t->cap = t->cap ? 2 * t->cap : 4096;
		t->at = realloc(t->at, t->cap);
		if (!t->at)
			abort();
	}
	t->len += n;
}

static void text_bytes(struct text *t, const __u8 *bytes, size_t n)
{
	text_add(t, "\"");
	for (size_t i = 0; i < n; i++) {
		if (bytes[i] < 0x20 || bytes[i] >= 0x7f || bytes[i] == '"' || bytes[i] == '\\')
			text_add(t, "\\x%02x", bytes[i]);
		else
			text_add(t, "%c", bytes[i]);
	}
	text_add(t, "\"");
}

static const char *const reason_names[HTTP1_REASON_COUNT] = {
	"none",	   "method", "target", "version",  "http2",  "status", "line-end",
	"control", "name",   "fold",   "too-long", "length", "coding", "framing",
	"chunk",   "fields", "empty",  "upgrade",  "caller",
};

/* One direction of a connection under test. */
struct stream {
	struct http1_parser *parser;
	struct http1_head *head;
	struct text out;
	uint64_t offset; /* bytes of the stream taken */
	uint64_t steps;
	int is_request;
	int no_body; /* every response here answers HEAD */
	size_t value_len;
	__u8 value[HTTP1_HEAD_MAX];
};

/* The name these streams ask for besides the parser's own. */
#define WANTED_NAME "x-user-id"

static void stream_reset(struct stream *s)
{
	http1_reset(s->parser, s->head, s->is_request);
	http1_want(s->parser, http1_name_bit(WANTED_NAME[0], sizeof(WANTED_NAME) - 1));
	s->value_len = 0;
}

static void stream_open(struct stream *s, int is_request, int no_body)
{
	memset(s, 0, sizeof(*s));
	s->parser = malloc(sizeof(*s->parser));
	s->head = malloc(sizeof(*s->head));
	if (!s->parser || !s->head)
		abort();
	/* What a map value held before must not matter. */
	memset(s->parser, 0xa5, sizeof(*s->parser));
	memset(s->head, 0xa5, sizeof(*s->head));
	s->is_request = is_request;
	s->no_body = no_body;
	stream_reset(s);
}

static void stream_head(struct stream *s)
{
	struct http1_parser *p = s->parser;
	struct http1_head *h = s->head;
	int no_body;

	text_add(&s->out, "head");
	if (s->is_request) {
		text_add(&s->out, " method=");
		text_bytes(&s->out, h->method, h->method_len);
		text_add(&s->out, " target=");
		text_bytes(&s->out, h->target, h->target_len);
		text_add(&s->out, "/%u host=", h->target_total);
		text_bytes(&s->out, h->host, h->host_len);
		text_add(&s->out, " traceparent=%u/%u:", h->traceparent_count, h->traceparent_len);
		text_bytes(&s->out, h->traceparent,
			   h->traceparent_len < HTTP1_VALUE_MAX ? h->traceparent_len :
								  HTTP1_VALUE_MAX);
	} else {
		text_add(&s->out, " status=%u", h->status);
	}
	text_add(&s->out, " minor=%u", h->http_minor);
	if (h->have_length)
		text_add(&s->out, " length=%llu", (unsigned long long)h->content_length);
	if (h->have_coding)
		text_add(&s->out, " coding");
	if (h->chunked)
		text_add(&s->out, " chunked");
	if (h->upgrade)
		text_add(&s->out, " upgrade");
	text_add(&s->out, " bytes=%u blank=%u\n", p->head_bytes, p->blank_at);
	/* Bytes behind a field's length are zero: they reach the event ring. */
	for (unsigned i = h->method_len; i < WEFT_METHOD_MAX; i++)
		if (h->method[i])
			abort();
	for (unsigned i = h->target_len; i < WEFT_TARGET_MAX; i++)
		if (h->target[i])
			abort();
	no_body = s->no_body || (!s->is_request && http1_status_no_body(h->status));
	if (!s->is_request && h->status == 101)
		http1_hands_off(p, HTTP1_REASON_UPGRADE);
	else
		http1_begin_body(p, h, no_body);
}

/* Collects the pieces of a long value; trailing white space is the sender's. */
static void stream_value(struct stream *s)
{
	struct http1_parser *p = s->parser;

	if (s->value_len + p->value_raw > sizeof(s->value))
		abort();
	memcpy(s->value + s->value_len, p->value, p->value_raw);
	s->value_len += p->value_raw;
	if (!p->ended)
		return;
	text_add(&s->out, "value %s=",
		 p->kind == HTTP1_KIND_TRACESTATE ? "tracestate" :
		 p->kind == HTTP1_KIND_BAGGAGE	  ? "baggage" :
						    WANTED_NAME);
	text_bytes(&s->out, s->value, s->value_len);
	text_add(&s->out, "%s", "\n");
	s->value_len = 0;
}

/* Acts on the signal as a caller must. Returns 0 once the stream is RAW. */
static int stream_signal(struct stream *s)
{
	struct http1_parser *p = s->parser;

	if (p->signal == HTTP1_VALUE)
		stream_value(s);
	if (p->signal == HTTP1_NAME && p->name_len == sizeof(WANTED_NAME) - 1 &&
	    !memcmp(p->name, WANTED_NAME, p->name_len))
		http1_keep(p, 0);
	if (p->signal == HTTP1_HEAD)
		stream_head(s);
	if (p->signal == HTTP1_END) {
		text_add(&s->out, "end offset=%llu body=%llu\n", (unsigned long long)s->offset,
			 (unsigned long long)p->body_bytes);
		stream_reset(s);
	}
	if (p->signal != HTTP1_RAW)
		return 1;
	text_add(&s->out, "raw %s offset=%llu\n", reason_names[p->reason],
		 (unsigned long long)s->offset);
	return 0;
}

/* Feeds one segment, each window in memory of its exact size. */
static void stream_feed(struct stream *s, const __u8 *data, size_t n)
{
	while (n && s->parser->signal != HTTP1_RAW) {
		__u64 skip = http1_skippable(s->parser);
		size_t used;

		if (skip) {
			used = skip < n ? skip : n;
			http1_skip(s->parser, used);
		} else {
			size_t window = n < HTTP1_WINDOW ? n : HTTP1_WINDOW;
			__u8 *exact = malloc(window);

			if (!exact)
				abort();
			memcpy(exact, data, window);
			used = http1_step(s->parser, s->head, exact, window);
			free(exact);
			s->steps++;
			if (used > window || used == 0) /* overrun, or stuck */
				abort();
		}
		data += used;
		n -= used;
		s->offset += used;
		if (!stream_signal(s))
			return;
	}
}

/* The connection closes; writes down where that leaves the stream. */
static void stream_close(struct stream *s)
{
	struct http1_parser *p = s->parser;

	if (p->signal == HTTP1_RAW)
		;
	else if (http1_until_close(p))
		text_add(&s->out, "close offset=%llu body=%llu\n", (unsigned long long)s->offset,
			 (unsigned long long)p->body_bytes);
	else if (p->head_bytes || p->phase >= HTTP1_PHASE_HEAD_DONE)
		text_add(&s->out, "cut offset=%llu body=%llu\n", (unsigned long long)s->offset,
			 (unsigned long long)p->body_bytes);
	free(p);
	free(s->head);
}

/* xorshift64: same seed, same segmentation. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

enum cut { CUT_NONE, CUT_EACH, CUT_AT, CUT_RANDOM };

/* Transcript of data cut as told; the caller frees it. */
__attribute__((unused)) static char *transcript(const __u8 *data, size_t n, int is_request,
						int no_body, enum cut cut, uint64_t arg,
						uint64_t *steps)
{
	struct stream s;
	size_t at = 0;

	stream_open(&s, is_request, no_body);
	text_add(&s.out, "%s", "");
	while (at < n) {
		size_t piece = n - at;

		if (cut == CUT_EACH)
			piece = 1;
		else if (cut == CUT_AT && at == 0 && arg > 0 && arg < n)
			piece = arg;
		else if (cut == CUT_RANDOM) {
			/* Half of the pieces tiny, half up to three windows. */
			uint64_t r = next_random(&arg);

			piece = 1 + (r >> 8) % ((r & 1) ? 7 : 3 * HTTP1_WINDOW);
			if (piece > n - at)
				piece = n - at;
		}
		stream_feed(&s, data + at, piece);
		at += piece;
	}
	stream_close(&s);
	if (steps)
		*steps = s.steps;
	return s.out.at;
}
