//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * libFuzzer target: any bytes, in one piece and in random segments (the seed
 * is part of the input), must give the same transcript. host.h keeps windows
 * in memory of their exact size and aborts where the parser overruns or sticks.
 */
#include "host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t seed;
	int is_request, no_body;
	char *one, *cut;

	if (size < 2)
		return 0;
	is_request = data[0] & 1;
	no_body = data[0] >> 1 & 1;
	seed = 0x9e3779b97f4a7c15 * (data[1] + 1);
	data += 2;
	size -= 2;
	one = transcript(data, size, is_request, no_body, CUT_NONE, 0, NULL);
	cut = transcript(data, size, is_request, no_body, CUT_RANDOM, seed, NULL);
	if (strcmp(one, cut)) {
		fprintf(stderr, "in one piece:\n%sin segments:\n%s", one, cut);
		abort();
	}
	free(cut);
	cut = transcript(data, size, is_request, no_body, CUT_EACH, 0, NULL);
	if (strcmp(one, cut)) {
		fprintf(stderr, "in one piece:\n%sbyte by byte:\n%s", one, cut);
		abort();
	}
	free(one);
	free(cut);
	return 0;
}
