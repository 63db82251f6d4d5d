//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * libFuzzer target: lists of keys, a member to add and lines of any bytes, in one
 * piece and in random ones, must give the same (host_w3c.h aborts where a limit is
 * broken); and what is carried on must be read again without change.
 */
#include "host_w3c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads lines without any list. */
static struct baggage *read_all(const uint8_t *lines, size_t n)
{
	struct baggage *b = malloc(sizeof(*b));

	if (!b)
		abort();
	memset(b, 0xa5, sizeof(*b));
	baggage_reset(b);
	for (size_t i = 0; i < n; i++) {
		if (lines[i] == '\n')
			baggage_line_end(b);
		else
			baggage_feed(b, lines + i, 1, NULL, NULL);
	}
	baggage_end(b);
	return b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct baggage *b, *again;
	char *one, *cut;

	one = baggage_transcript(data, size, CUT_NONE, 0);
	cut = baggage_transcript(data, size, CUT_RANDOM, size + 1);
	if (strcmp(one, cut)) {
		fprintf(stderr, "in one piece:\n%sin segments:\n%s", one, cut);
		abort();
	}
	free(one);
	free(cut);
	b = read_all(data, size);
	again = read_all(b->text, b->len);
	if (again->len != b->len || memcmp(again->text, b->text, b->len) ||
	    again->count != b->count || again->malformed || again->dropped)
		abort();
	free(b);
	free(again);
	return 0;
}
