//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * libFuzzer target: a threshold and lines of any bytes, in one piece and in random
 * ones, must give the same; what is written must be whole members within the limits
 * (host_w3c.h aborts otherwise), and reading it again must change nothing.
 */
#include "host_w3c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is written for these lines. */
static size_t written(const uint8_t *lines, size_t n, __u32 mode, __u64 threshold, __u8 *dst)
{
	struct tracestate *t = malloc(sizeof(*t));
	size_t len;

	if (!t)
		abort();
	memset(t, 0xa5, sizeof(*t));
	tracestate_reset(t);
	for (size_t i = 0; i < n; i++) {
		if (lines[i] == '\n')
			tracestate_line_end(t);
		else
			tracestate_feed(t, lines + i, 1);
	}
	tracestate_end(t);
	len = tracestate_write(t, dst, mode, threshold);
	free(t);
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	__u8 *dst = malloc(TRACESTATE_BUFFER), *again = malloc(TRACESTATE_BUFFER);
	char *one, *cut;
	__u64 threshold;

	if (!dst || !again)
		abort();
	one = tracestate_transcript(data, size, CUT_NONE, 0);
	cut = tracestate_transcript(data, size, CUT_RANDOM, size + 1);
	if (strcmp(one, cut)) {
		fprintf(stderr, "in one piece:\n%sin segments:\n%s", one, cut);
		abort();
	}
	free(one);
	free(cut);
	if (size >= sizeof(threshold)) {
		memcpy(&threshold, data, sizeof(threshold));
		threshold &= (1ULL << 56) - 1;
		data += sizeof(threshold);
		size -= sizeof(threshold);
		for (__u32 mode = TRACESTATE_KEEP; mode <= TRACESTATE_ERASE; mode++) {
			size_t n = written(data, size, mode, threshold, dst);

			if (written(dst, n, TRACESTATE_KEEP, 0, again) != n ||
			    memcmp(dst, again, n))
				abort();
		}
	}
	free(dst);
	free(again);
	return 0;
}
