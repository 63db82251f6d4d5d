//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * libFuzzer target: any bytes, with a preface and SETTINGS before them or not, in
 * one piece, in random sends and byte by byte, must give the same frames. An edited
 * stream must have those frames again, none but the edited ones longer.
 */
#include "host_http2.h"

static const __u8 opening[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";

static void same(char *one, char *other, const char *how)
{
	if (strcmp(one, other)) {
		fprintf(stderr, "in one piece:\n%s%s:\n%s", one, how, other);
		abort();
	}
	free(other);
}

/* The frames of a transcript without their lengths and places, and its edits. */
static void frames_only(char *transcript, struct text *frames, int *edits)
{
	text_add(frames, "%s", "");
	for (char *line = strtok(transcript, "\n"); line; line = strtok(NULL, "\n")) {
		char *length = strstr(line, " length=");

		if (!strncmp(line, "edit ", 5)) {
			++*edits;
			continue;
		}
		if (!length)
			length = strstr(line, " offset=");
		if (length)
			*length = 0;
		if (strncmp(line, "stream ", 7))
			text_add(frames, "%s\n", line);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http2_host h = { .edits = 1 };
	struct text before = { 0 }, after = { 0 };
	struct bytes in = { 0 };
	uint64_t seed;
	char *one, *again;
	int edits = 0;

	if (size < 2)
		return 0;
	seed = 0x9e3779b97f4a7c15 * (data[1] + 1);
	if (data[0] & 1)
		bytes_add(&in, opening, sizeof(opening)); /* its zero ends the header */
	bytes_add(&in, data + 2, size - 2);

	one = http2_transcript(in.at, in.len, CUT_NONE, 0);
	same(one, http2_transcript(in.at, in.len, CUT_RANDOM, seed), "in random sends");
	same(one, http2_transcript(in.at, in.len, CUT_EACH, 0), "byte by byte");

	http2_drive(&h, in.at, in.len, CUT_RANDOM, seed);
	frames_only(h.out.at, &before, &edits);
	if (h.stream.len < in.len || (!edits && in.len && memcmp(h.stream.at, in.at, in.len)))
		abort();
	again = http2_transcript(h.stream.at, h.stream.len, CUT_NONE, 0);
	edits = 0;
	frames_only(again, &after, &edits);
	if (strcmp(before.at, after.at)) {
		fprintf(stderr, "before:\n%safter:\n%s", before.at, after.at);
		abort();
	}
	free(again);
	free(before.at);
	free(after.at);
	free(h.out.at);
	free(h.stream.at);
	free(one);
	free(in.at);
	return 0;
}
