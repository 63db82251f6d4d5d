/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Drives tracestate.h and baggage.h on the host, a piece at a time, and writes down
 * what comes of it; internal/w3c/w3ctest writes the same with the Go code. Input, of
 * vectors, of the differential tests and of fuzzing alike:
 *
 *	tracestate	threshold (8 bytes, native), then header lines
 *	baggage		lines: keys that pass or "*", keys that do not, key and raw
 *			value of a member to append or nothing; then header lines
 *
 * each line but the last ending in \n.
 */
#pragma once

#include "host.h"

#include "../lib/baggage.h"
#include "../lib/tracestate.h"

static const char *const tracestate_names[] = { "ok", "empty", "key", "value", "form", "too-many" };

/* How the next piece of a line is cut off. */
static size_t next_piece(size_t left, size_t most, enum cut cut, uint64_t *arg)
{
	size_t piece = left < most ? left : most;

	if (cut == CUT_EACH)
		return 1;
	if (cut == CUT_RANDOM) {
		uint64_t r = next_random(arg);
		/* Half of them tiny. */
		size_t random = 1 + (r >> 8) % ((r & 1) ? 5 : most);

		return random < piece ? random : piece;
	}
	if (cut == CUT_AT) {
		size_t first = *arg;

		*arg = 0;
		if (first && first < piece)
			return first;
	}
	return piece;
}

/* A piece in memory of its exact size. */
static __u8 *exact_copy(const __u8 *data, size_t n)
{
	__u8 *exact = malloc(n ? n : 1);

	if (!exact)
		abort();
	memcpy(exact, data, n);
	return exact;
}

/* Written text has no more than it may have, and nothing but whole members. */
static void check_written(const struct tracestate *t, const __u8 *dst, size_t n)
{
	size_t members = 0, begin = 0;

	if (n > TRACESTATE_MAX)
		abort();
	for (size_t i = 0; n && i <= n; i++) {
		int found = 0;

		if (i < n && dst[i] != ',')
			continue;
		members++;
		for (unsigned m = 0; m < t->count; m++)
			found |= t->member[m].len == i - begin &&
				 !memcmp(t->text + t->member[m].at, dst + begin, i - begin);
		if (!found && (i - begin < 3 || memcmp(dst + begin, "ot=", 3)))
			abort();
		begin = i + 1;
	}
	if (members > TRACESTATE_MEMBERS)
		abort();
}

static void add_written(struct text *out, const char *what, struct tracestate *t, __u32 mode,
			__u64 threshold, struct text *kept)
{
	__u8 *dst = malloc(TRACESTATE_BUFFER);
	struct text written = { 0 };
	size_t n;

	if (!dst)
		abort();
	memset(dst, 0xa5, TRACESTATE_BUFFER);
	n = tracestate_write(t, dst, mode, threshold);
	check_written(t, dst, n);
	text_bytes(&written, dst, n);
	if (mode != TRACESTATE_ERASE || strcmp(written.at, kept->at))
		text_add(out, "%s %s\n", what, written.at);
	if (mode == TRACESTATE_KEEP)
		*kept = written;
	else
		free(written.at);
	free(dst);
}

/* Transcript of a tracestate cut as told; the caller frees it. */
__attribute__((unused)) static char *tracestate_transcript(const __u8 *data, size_t n, enum cut cut,
							   uint64_t arg)
{
	struct tracestate *t = malloc(sizeof(*t));
	struct text out = { 0 }, kept = { 0 };
	__u64 threshold = 0;
	struct ot ot;
	__u32 result, dropped;

	if (!t)
		abort();
	memset(t, 0xa5, sizeof(*t));
	tracestate_reset(t);
	if (n >= sizeof(threshold)) {
		memcpy(&threshold, data, sizeof(threshold));
		threshold &= (1ULL << 56) - 1;
		data += sizeof(threshold);
		n -= sizeof(threshold);
		for (size_t at = 0; at < n;) {
			const __u8 *end = memchr(data + at, '\n', n - at);
			size_t line = end ? (size_t)(end - data) - at : n - at;

			for (size_t left = line; left;) {
				size_t piece = next_piece(left, TRACESTATE_PIECE, cut, &arg);
				__u8 *exact = exact_copy(data + at + line - left, piece);

				tracestate_feed(t, exact, piece);
				free(exact);
				left -= piece;
			}
			tracestate_line_end(t);
			at += line + 1;
		}
	}
	result = tracestate_end(t);
	dropped = tracestate_cut(t);
	text_add(&out, "%s", tracestate_names[result]);
	if (result == TRACESTATE_OK)
		text_add(&out, " cut=%u", dropped);
	text_add(&out, "\n");
	tracestate_ot(t, &ot);
	if (ot.has_threshold || ot.has_random) {
		text_add(&out, "ot");
		if (ot.has_threshold)
			text_add(&out, " th=%014llx", (unsigned long long)ot.threshold);
		if (ot.has_random)
			text_add(&out, " rv=%014llx", (unsigned long long)ot.random);
		text_add(&out, "\n");
	}
	add_written(&out, "keep", t, TRACESTATE_KEEP, 0, &kept);
	add_written(&out, "set", t, TRACESTATE_SET, threshold, &kept);
	add_written(&out, "erase", t, TRACESTATE_ERASE, 0, &kept);
	free(kept.at);
	free(t);
	return out.at;
}

/* The next line of an input; empty behind its end. */
static size_t next_line(const __u8 **data, size_t *n, const __u8 **line)
{
	const __u8 *end = memchr(*data, '\n', *n);
	size_t len = end ? (size_t)(end - *data) : *n;
	size_t used = end ? len + 1 : len;

	*line = *data;
	*data += used;
	*n -= used;
	return len;
}

/* A list of keys with blanks between, as many as it can hold. */
static struct baggage_keys *read_keys(const __u8 *line, size_t n)
{
	struct baggage_keys *keys = malloc(sizeof(*keys));
	size_t i = 0;

	if (!keys)
		abort();
	memset(keys, 0xa5, sizeof(*keys));
	keys->any = n == 1 && line[0] == '*';
	keys->count = 0;
	while (!keys->any && keys->count < BAGGAGE_KEYS) {
		__u64 hash = BAGGAGE_HASH_SEED;
		size_t begin;

		while (i < n && line[i] == ' ')
			i++;
		for (begin = i; i < n && line[i] != ' '; i++)
			hash = baggage_hash(hash, line[i]);
		if (i == begin)
			break;
		keys->hash[keys->count++] = hash;
	}
	return keys;
}

/* Adds the member as an agent would that reads its value from a header. */
static void add_member(struct text *out, struct baggage *b, const __u8 *key, size_t key_len,
		       const __u8 *raw, size_t n, enum cut cut, uint64_t *arg)
{
	struct baggage_value *v = malloc(sizeof(*v));
	__u8 *area = calloc(1, BAGGAGE_KEY_MAX);
	int done;

	if (!v || !area)
		abort();
	memset(v, 0xa5, sizeof(*v));
	baggage_value_reset(v);
	while (n) {
		size_t piece = next_piece(n, BAGGAGE_PIECE, cut, arg);
		__u8 *exact = exact_copy(raw, piece);

		baggage_escape(v, exact, piece);
		free(exact);
		raw += piece;
		n -= piece;
	}
	memcpy(area, key, key_len < BAGGAGE_KEY_MAX ? key_len : BAGGAGE_KEY_MAX);
	done = baggage_append(b, area, key_len, v);
	text_add(out, v->over ? "over" : done ? "appended " : "refused");
	if (done)
		text_bytes(out, b->text, b->len);
	text_add(out, "\n");
	if (done && (v->over || v->len > BAGGAGE_VALUE_MAX || b->len > BAGGAGE_MAX))
		abort();
	free(area);
	free(v);
}

/* Transcript of a baggage cut as told; the caller frees it. */
__attribute__((unused)) static char *baggage_transcript(const __u8 *data, size_t n, enum cut cut,
							uint64_t arg)
{
	struct baggage *b = malloc(sizeof(*b));
	struct baggage_keys *only, *without;
	const __u8 *line, *key, *raw;
	struct text out = { 0 };
	size_t len, key_len, raw_len;

	if (!b)
		abort();
	memset(b, 0xa5, sizeof(*b));
	baggage_reset(b);
	len = next_line(&data, &n, &line);
	only = read_keys(line, len);
	len = next_line(&data, &n, &line);
	without = read_keys(line, len);
	key_len = next_line(&data, &n, &key);
	raw_len = next_line(&data, &n, &raw);
	while (n) {
		len = next_line(&data, &n, &line);
		while (len) {
			size_t piece = next_piece(len, BAGGAGE_PIECE, cut, &arg);
			__u8 *exact = exact_copy(line, piece);

			/* A list that says nothing may be left out as well. */
			baggage_feed(b, exact, piece, only->any && arg & 1 ? NULL : only,
				     !without->count && !without->any && arg & 1 ? NULL : without);
			free(exact);
			line += piece;
			len -= piece;
		}
		baggage_line_end(b);
	}
	if (baggage_end(b) != b->len || b->len > BAGGAGE_MAX || b->count > BAGGAGE_MEMBERS)
		abort();
	text_add(&out, "baggage ");
	text_bytes(&out, b->text, b->len);
	text_add(&out, "\nmembers=%u malformed=%u dropped=%u filtered=%u\n", b->count, b->malformed,
		 b->dropped, b->filtered);
	if (key_len)
		add_member(&out, b, key, key_len, raw, raw_len, cut, &arg);
	free(only);
	free(without);
	free(b);
	return out.at;
}

/* By the name of the vector file. */
typedef char *(*w3c_transcript)(const __u8 *data, size_t n, enum cut cut, uint64_t arg);

__attribute__((unused)) static w3c_transcript w3c_kind(const char *kind)
{
	if (!strcmp(kind, "tracestate"))
		return tracestate_transcript;
	return !strcmp(kind, "baggage") ? baggage_transcript : NULL;
}
