//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Host side of the tests of bpf/lib. Usage:
 *
 *	lib_host http1 FILE		vectors, in every segmentation
 *	lib_host traceparent FILE	vectors
 *	lib_host tracestate FILE	vectors, in every segmentation
 *	lib_host baggage FILE		vectors, likewise
 *	lib_host stream			transcripts of framed streams on stdin
 *	lib_host parse			results for framed traceparent values on stdin
 *	lib_host tracestate		transcripts of framed inputs on stdin
 *	lib_host baggage		likewise
 *	lib_host http2			likewise, of what an HTTP/2 client sends
 *	lib_host http2-edit		what becomes of it, see host_http2.h
 *	lib_host bench			ns per header block
 */
#include <time.h>

#include "host.h"
#include "host_http2.h"
#include "host_w3c.h"

static int failures;

static void fail(const char *file, int line, const char *what, const char *want, const char *got)
{
	fprintf(stderr, "%s:%d: %s\n  want: %s\n  got:  %s\n", file, line, what, want, got);
	failures++;
}

static int hex_digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/*
 * Appends what a vector line writes: \r \n \t \\ \xNN, and \*COUNT*TEXT* for
 * TEXT (no escapes inside) COUNT times; in a transcript (!all) the last alone,
 * because there \xNN stands for itself. Returns 0 if it is not written so.
 */
static int unescape(const char *from, int all, __u8 **bytes, size_t *n)
{
	size_t cap = *n + strlen(from) + 1;
	__u8 *to = realloc(*bytes, cap);

	for (; to && *from; from++) {
		int c = (unsigned char)*from;

		if (c == '\\') {
			from++;
			if (!all && *from != '*')
				from--;
			else if (*from == 'r')
				c = '\r';
			else if (*from == 'n')
				c = '\n';
			else if (*from == 't')
				c = '\t';
			else if (*from == '\\')
				c = '\\';
			else if (*from == 'x' && hex_digit(from[1]) >= 0 &&
				 hex_digit(from[2]) >= 0) {
				c = hex_digit(from[1]) << 4 | hex_digit(from[2]);
				from += 2;
			} else if (*from == '*') {
				char *text;
				const char *end;
				size_t count = strtoul(from + 1, &text, 10), len;

				if (*text != '*' || !(end = strchr(text + 1, '*')))
					return 0;
				len = end - text - 1;
				cap += count * len;
				to = realloc(to, cap);
				if (!to)
					abort();
				for (; count; count--, *n += len)
					memcpy(to + *n, text + 1, len);
				from = end;
				continue;
			} else {
				return 0;
			}
		}
		to[(*n)++] = c;
	}
	*bytes = to;
	return to != NULL;
}

static void check_http1(const char *file, int line, const __u8 *data, size_t n, int is_request,
			int no_body, const char *want)
{
	uint64_t seed = 0x9e3779b97f4a7c15;
	char what[96];
	/* Every split of long ones would take minutes and show nothing new. */
	size_t stride = n > 2000 ? n / 1000 : 1;
	char *got = transcript(data, n, is_request, no_body, CUT_NONE, 0, NULL);

	if (strcmp(got, want))
		fail(file, line, "in one piece", want, got);
	free(got);
	got = transcript(data, n, is_request, no_body, CUT_EACH, 0, NULL);
	if (strcmp(got, want))
		fail(file, line, "byte by byte", want, got);
	free(got);
	for (size_t at = 1; at < n; at += stride) {
		got = transcript(data, n, is_request, no_body, CUT_AT, at, NULL);
		snprintf(what, sizeof(what), "split at %zu", at);
		if (strcmp(got, want))
			fail(file, line, what, want, got);
		free(got);
	}
	for (int i = 0; i < 100; i++) {
		uint64_t this = next_random(&seed);

		got = transcript(data, n, is_request, no_body, CUT_RANDOM, this, NULL);
		snprintf(what, sizeof(what), "random segments, seed %llx",
			 (unsigned long long)this);
		if (strcmp(got, want))
			fail(file, line, what, want, got);
		free(got);
	}
}

/*
 * A vector: "== name", "request" or "response" or "response no-body", lines
 * "| bytes", then the transcript up to an empty line.
 */
static int run_http1(const char *file)
{
	FILE *f = fopen(file, "r");
	struct text want = { 0 };
	int is_request = -1, no_body = 0, line = 0, start = 0, vectors = 0;
	char *buf = NULL;
	__u8 *data = NULL;
	size_t cap = 0, n = 0;
	ssize_t got;

	if (!f) {
		perror(file);
		return 2;
	}
	text_add(&want, "%s", "");
	for (;;) {
		got = getline(&buf, &cap, f);
		line++;
		if (got > 0 && buf[got - 1] == '\n')
			buf[got - 1] = 0;
		if (got <= 0 || !buf[0]) {
			if (is_request >= 0) {
				check_http1(file, start, data, n, is_request, no_body, want.at);
				vectors++;
			}
			is_request = -1;
			no_body = 0;
			want.len = n = 0;
			if (got <= 0)
				break;
		} else if (buf[0] == '#') {
			continue;
		} else if (!strncmp(buf, "== ", 3)) {
			start = line;
		} else if (!strcmp(buf, "request")) {
			is_request = 1;
		} else if (!strncmp(buf, "response", 8)) {
			is_request = 0;
			no_body = !strcmp(buf, "response no-body");
		} else if (!strncmp(buf, "| ", 2)) {
			if (!unescape(buf + 2, 1, &data, &n)) {
				fprintf(stderr, "%s:%d: bad escape\n", file, line);
				return 2;
			}
		} else {
			text_add(&want, "%s\n", buf);
		}
		if (!want.len)
			want.at[0] = 0;
	}
	fclose(f);
	free(buf);
	free(data);
	free(want.at);
	printf("http1: %d vectors, %d failures\n", vectors, failures);
	return failures || !vectors;
}

static const char *const result_names[] = {
	"ok", "length", "form", "version", "trace-id", "span-id"
};

/* The value in memory of exactly the size the contract asks for. */
static char *parse_traceparent(const __u8 *value, size_t len)
{
	__u8 *exact = malloc(TRACEPARENT_BUFFER);
	struct traceparent *context = malloc(sizeof(*context));
	struct text out = { 0 };
	int result;

	if (!exact || !context)
		abort();
	memset(exact, 0xee, TRACEPARENT_BUFFER);
	memcpy(exact, value, len < TRACEPARENT_BUFFER ? len : TRACEPARENT_BUFFER);
	memset(context, 0xa5, sizeof(*context));
	result = traceparent_parse(exact, len, context);
	text_add(&out, "%s", result_names[result]);
	if (result == TRACEPARENT_OK) {
		__u8 *again = malloc(TRACEPARENT_LEN);

		if (!again)
			abort();
		traceparent_format(again, context->trace_id, context->span_id, context->flags);
		text_add(&out, " %02x %.*s", context->version, TRACEPARENT_LEN, again);
		free(again);
	}
	free(exact);
	free(context);
	return out.at;
}

/* A vector: VALUE, a tab, then what parse_traceparent says. */
static int run_traceparent(const char *file)
{
	FILE *f = fopen(file, "r");
	char *buf = NULL;
	size_t cap = 0;
	int line = 0, vectors = 0;
	ssize_t got;

	if (!f) {
		perror(file);
		return 2;
	}
	while ((got = getline(&buf, &cap, f)) > 0) {
		char *want, *result;
		__u8 *value = NULL;
		size_t n = 0;

		line++;
		if (buf[got - 1] == '\n')
			buf[got - 1] = 0;
		if (!buf[0] || buf[0] == '#')
			continue;
		want = strchr(buf, '\t');
		if (!want) {
			fprintf(stderr, "%s:%d: no tab\n", file, line);
			return 2;
		}
		*want++ = 0;
		if (!unescape(buf, 1, &value, &n)) {
			fprintf(stderr, "%s:%d: bad escape\n", file, line);
			return 2;
		}
		result = parse_traceparent(value, n);
		if (strcmp(result, want))
			fail(file, line, buf, want, result);
		free(result);
		free(value);
		vectors++;
	}
	fclose(f);
	free(buf);
	printf("traceparent: %d vectors, %d failures\n", vectors, failures);
	return failures || !vectors;
}

#include "vectors_w3c.h"

/* What is said of one frame, or NULL if segmentation matters. */
static char *answer(const char *mode, const __u8 *data, size_t len, __u8 flags)
{
	w3c_transcript transcribe = w3c_kind(mode);
	char *one, *cut;

	if (!strcmp(mode, "parse"))
		return parse_traceparent(data, len);
	if (!strcmp(mode, "http2-edit"))
		return http2_edited(data, len);
	if (!strcmp(mode, "http2")) {
		one = http2_transcript(data, len, CUT_EACH, 0);
		cut = http2_transcript(data, len, CUT_RANDOM, len + 1);
	} else if (transcribe) {
		one = transcribe(data, len, CUT_NONE, 0);
		cut = transcribe(data, len, CUT_RANDOM, len + 1);
	} else {
		one = transcript(data, len, flags & 1, flags & 2, CUT_NONE, 0, NULL);
		cut = transcript(data, len, flags & 1, flags & 2, CUT_RANDOM, len + 1, NULL);
	}
	if (strcmp(one, cut)) {
		fprintf(stderr, "lib_host: segmentation matters\n%s%s", one, cut);
		return NULL;
	}
	free(cut);
	return one;
}

/* Frames: u32 length (host order), u8 flags (1 request, 2 no-body), bytes. */
static int run_frames(const char *mode)
{
	__u32 len;
	__u8 flags;

	while (fread(&len, sizeof(len), 1, stdin) == 1 && fread(&flags, 1, 1, stdin) == 1) {
		__u8 *data = malloc(len ? len : 1);
		char *out;

		if (!data || fread(data, 1, len, stdin) != len) {
			fprintf(stderr, "lib_host: frame cut short\n");
			return 2;
		}
		out = answer(mode, data, len, flags);
		if (!out)
			return 1;
		len = strlen(out);
		fwrite(&len, sizeof(len), 1, stdout);
		fwrite(out, 1, len, stdout);
		fflush(stdout);
		free(out);
		free(data);
	}
	return 0;
}

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* A browser-like head of about 400 bytes, best of many runs. */
static int run_bench(void)
{
	static const char message[] =
		"GET /api/v1/products?limit=20&offset=40 HTTP/1.1\r\n"
		"Host: shop.example.com:8080\r\n"
		"User-Agent: python-requests/2.31.0\r\n"
		"Accept-Encoding: gzip, deflate, br\r\n"
		"Accept: application/json, text/plain, */*\r\n"
		"Connection: keep-alive\r\n"
		"Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\r\n"
		"X-Request-Id: 3f2a9c1e-7b44-4d0c-9a51-0d6f2f1c8e77\r\n"
		"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
	static struct http1_parser parser;
	static struct http1_head head;
	const __u8 *data = (const __u8 *)message;
	size_t n = sizeof(message) - 1;
	double best = 1e18;
	unsigned steps = 0;

	for (int round = 0; round < 200; round++) {
		double start = now_ns();

		for (int i = 0; i < 1000; i++) {
			size_t at = 0;

			steps = 0;
			http1_reset(&parser, &head, 1);
			while (parser.signal == HTTP1_MORE && at < n) {
				size_t left = n - at;

				at += http1_step(&parser, &head, data + at,
						 left < HTTP1_WINDOW ? left : HTTP1_WINDOW);
				steps++;
			}
			if (parser.signal != HTTP1_HEAD || at != n)
				return 1;
		}
		if ((now_ns() - start) / 1000 < best)
			best = (now_ns() - start) / 1000;
	}
	printf("head of %zu bytes: %.0f ns, %u steps; parser %zu bytes, head %zu bytes\n", n, best,
	       steps, sizeof(parser), sizeof(head));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "http1"))
		return run_http1(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "traceparent"))
		return run_traceparent(argv[2]);
	if (argc == 3 && w3c_kind(argv[1]))
		return run_w3c(argv[1], argv[2]);
	if (argc == 2 && (!strcmp(argv[1], "stream") || !strcmp(argv[1], "parse") ||
			  !strncmp(argv[1], "http2", 5) || w3c_kind(argv[1])))
		return run_frames(argv[1]);
	if (argc == 2 && !strcmp(argv[1], "bench"))
		return run_bench();
	fprintf(stderr, "usage: lib_host http1|traceparent|tracestate|baggage FILE | "
			"stream|parse|tracestate|baggage|http2|http2-edit|bench\n");
	return 2;
}
