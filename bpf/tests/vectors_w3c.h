/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The runner of tracestate.txt and baggage.txt; a part of lib_host.c. */
#pragma once

static void check_w3c(const char *file, int line, w3c_transcript transcribe,
		      const struct text *data, const char *want)
{
	const __u8 *bytes = (const __u8 *)data->at;
	uint64_t seed = 0x9e3779b97f4a7c15;
	char *got = transcribe(bytes, data->len, CUT_NONE, 0);
	char what[96];

	if (strcmp(got, want))
		fail(file, line, "in one piece", want, got);
	free(got);
	got = transcribe(bytes, data->len, CUT_EACH, 1);
	if (strcmp(got, want))
		fail(file, line, "byte by byte", want, got);
	free(got);
	for (int i = 1; i < 164; i++) {
		uint64_t arg = i < 64 ? (uint64_t)i : next_random(&seed);

		got = transcribe(bytes, data->len, i < 64 ? CUT_AT : CUT_RANDOM, arg);
		snprintf(what, sizeof(what), "%s %llx", i < 64 ? "split at" : "random pieces, seed",
			 (unsigned long long)arg);
		if (strcmp(got, want))
			fail(file, line, what, want, got);
		free(got);
	}
}

static void add_raw(struct text *t, const void *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		text_add(t, " "); /* makes room; %c would end at a zero byte */
		t->at[t->len - 1] = ((const char *)bytes)[i];
	}
}

static void add_bytes(struct text *t, const char *escaped, int all, const char *file, int line)
{
	__u8 *bytes = NULL;
	size_t n = 0;

	if (!unescape(escaped, all, &bytes, &n)) {
		fprintf(stderr, "%s:%d: bad escape\n", file, line);
		exit(2);
	}
	add_raw(t, bytes, n);
	free(bytes);
}

/*
 * A vector: "== name", options, header lines "| ...", then the transcript up to an
 * empty line; lines "member ..." of it are for Go alone.
 */
static int run_w3c(const char *kind, const char *file)
{
	FILE *f = fopen(file, "r");
	int is_tracestate = !strcmp(kind, "tracestate");
	char only[1024], without[1024], threshold[17], *buf = NULL;
	struct text data = { 0 }, lines = { 0 }, raw = { 0 }, want = { 0 };
	int line = 0, start = 0, vectors = 0;
	size_t cap = 0;
	ssize_t got;

	if (!f) {
		perror(file);
		return 2;
	}
	do {
		got = getline(&buf, &cap, f);
		line++;
		if (got > 0 && buf[got - 1] == '\n')
			buf[got - 1] = 0;
		if (got <= 0 || !buf[0]) {
			if (!start)
				continue;
			data.len = 0;
			if (is_tracestate) {
				__u64 number = strtoull(threshold, NULL, 16);

				add_raw(&data, &number, sizeof(number));
			} else {
				text_add(&data, "%s\n%s\n", only, without);
				add_raw(&data, raw.at, raw.len);
				if (!raw.len)
					text_add(&data, "\n");
			}
			add_raw(&data, lines.at, lines.len);
			check_w3c(file, start, w3c_kind(kind), &data, want.at);
			vectors++;
			start = 0;
		} else if (buf[0] == '#' || !strncmp(buf, "member ", 7)) {
			continue;
		} else if (!strncmp(buf, "== ", 3)) {
			start = line;
			lines.len = raw.len = want.len = 0;
			strcpy(only, "*");
			without[0] = 0;
			strcpy(threshold, "0");
			text_add(&want, "%s", "");
		} else if (!strncmp(buf, "| ", 2) || !strcmp(buf, "|")) {
			if (lines.len || !is_tracestate)
				text_add(&lines, "\n");
			add_bytes(&lines, buf[1] ? buf + 2 : "", 1, file, line);
		} else if (!strncmp(buf, "threshold ", 10)) {
			snprintf(threshold, sizeof(threshold), "%s", buf + 10);
		} else if (!strncmp(buf, "only", 4)) {
			snprintf(only, sizeof(only), "%s", buf[4] ? buf + 5 : "");
		} else if (!strncmp(buf, "without ", 8)) {
			snprintf(without, sizeof(without), "%s", buf + 8);
		} else if (!strncmp(buf, "append ", 7)) {
			char *value = strchr(buf + 7, ' ');

			text_add(&raw, "%.*s\n",
				 value ? (int)(value - buf - 7) : (int)strlen(buf + 7), buf + 7);
			if (value)
				add_bytes(&raw, value + 1, 1, file, line);
		} else {
			add_bytes(&want, buf, 0, file, line);
			text_add(&want, "\n");
		}
	} while (got > 0);
	fclose(f);
	free(buf);
	free(data.at);
	free(lines.at);
	free(raw.at);
	free(want.at);
	printf("%s: %d vectors, %d failures\n", kind, vectors, failures);
	return failures || !vectors;
}
