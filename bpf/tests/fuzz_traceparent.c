//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * libFuzzer target: traceparent_parse against the rules written the plain way,
 * and what it accepts against traceparent_format.
 */
#include "host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int all_zero(const uint8_t *digits, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (digits[i] != '0')
			return 0;
	return 1;
}

static int by_the_rules(const uint8_t *v, size_t len)
{
	if (len < 55)
		return TRACEPARENT_LENGTH;
	for (size_t i = 0; i < 55; i++) {
		int dash = i == 2 || i == 35 || i == 52;

		if (dash ? v[i] != '-' : !v[i] || !strchr("0123456789abcdef", v[i]))
			return TRACEPARENT_FORM;
	}
	if (!memcmp(v, "ff", 2))
		return TRACEPARENT_VERSION;
	if (len > 55 && !memcmp(v, "00", 2))
		return TRACEPARENT_LENGTH;
	if (len > 55 && v[55] != '-')
		return TRACEPARENT_FORM;
	if (all_zero(v + 3, 32))
		return TRACEPARENT_TRACE_ID;
	if (all_zero(v + 36, 16))
		return TRACEPARENT_SPAN_ID;
	return TRACEPARENT_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	__u8 *exact = malloc(TRACEPARENT_BUFFER);
	__u8 *again = malloc(TRACEPARENT_LEN);
	struct traceparent context, twice;
	int result;

	if (!exact || !again)
		abort();
	memset(exact, 'f', TRACEPARENT_BUFFER);
	memcpy(exact, data, size < TRACEPARENT_BUFFER ? size : TRACEPARENT_BUFFER);
	result = traceparent_parse(exact, size, &context);
	if (result != by_the_rules(data, size))
		abort();
	if (result == TRACEPARENT_OK) {
		traceparent_format(again, context.trace_id, context.span_id, context.flags);
		/* Ids come back as they were; version and flags as weft means them. */
		if (memcmp(again + 2, data + 2, 51) || memcmp(again, "00", 2))
			abort();
		memset(exact, 0, TRACEPARENT_BUFFER);
		memcpy(exact, again, TRACEPARENT_LEN);
		if (traceparent_parse(exact, TRACEPARENT_LEN, &twice) != TRACEPARENT_OK ||
		    memcmp(twice.trace_id, context.trace_id, 16) ||
		    memcmp(twice.span_id, context.span_id, 8) || twice.flags != context.flags)
			abort();
	}
	free(exact);
	free(again);
	return 0;
}
