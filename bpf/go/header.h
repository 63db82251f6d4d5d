/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * net/http.Header, a map[string][]string, walked from end to end: a program's own
 * traceparent is in it, or nowhere. While a request is sent nobody may write to it.
 *
 * Maps are Swiss tables from Go 1.24 on: groups of 8 slots with a control word each,
 * one group of its own in a small map, else tables of groups in a directory. Before,
 * they are an array of buckets of 8, each with a chain behind it.
 */
#pragma once

#include "fields.h"

/* Entries that may mean something, until all are found: a call from deep inside the
 * walk would be too deep. They take the window of the direction that is not used. */
struct go_note {
	u64 name;
	u64 value;
	u64 lens; /* as weft_go_field has them */
};

#define GO_NOTES 16
_Static_assert(GO_NOTES * sizeof(struct go_note) <= READ_AHEAD + HTTP1_WINDOW, "window");

/* Of an entry: string and slice. */
#define GO_KEY_SIZE 16
#define GO_ELEM_SIZE 24
#define GO_SLOTS 8
#define GO_SLOT_SIZE (GO_KEY_SIZE + GO_ELEM_SIZE)
#define GO_GROUP_SIZE (8 + GO_SLOTS * GO_SLOT_SIZE)
#define GO_GROUPS_MAX 32

/* Of a bucket: 8 bytes of hashes, keys, elements, the next one. */
#define GO_BUCKET_KEYS 8
#define GO_BUCKET_ELEMS (GO_BUCKET_KEYS + GO_SLOTS * GO_KEY_SIZE)
#define GO_BUCKET_NEXT (GO_BUCKET_ELEMS + GO_SLOTS * GO_ELEM_SIZE)
#define GO_BUCKET_SIZE (GO_BUCKET_NEXT + 8)
#define GO_BUCKETS_MAX 16
#define GO_CHAIN_MAX 3
#define GO_HASH_MIN 5 /* below it an entry is empty or moved */

/* Notes the entry with this key and element, user addresses. Returns 0 if it could be
 * read and noted. */
__attribute__((noinline)) int weft_go_header_entry(u64 key, u64 name_at, u64 values_at)
{
	struct go_string name = {}, values = {};
	struct conn *c = conn_of(key);
	struct direction *d;
	int counts;

	if (!c || bpf_probe_read_user(&name, sizeof(name), (void *)name_at))
		return 1;
	counts = go_name_counts(c, name.at, name.len);
	if (!counts || (counts < 0 && name.len != GO_TRACEPARENT_LEN))
		return 0;
	if (bpf_probe_read_user(&values, sizeof(values), (void *)values_at))
		return 1;
	d = &c->dir[!go_dir(c)];
	for (u32 i = 0; i < GO_VALUES_MAX; i++) {
		struct go_string value = {};
		struct go_note *note;
		u32 at = d->held;

		if (i >= values.len)
			return 0;
		if (bpf_probe_read_user(&value, sizeof(value),
					(void *)(values.at + i * sizeof(value))))
			return 1;
		WEFT_BARRIER(at);
		if (at >= GO_NOTES)
			return 1;
		note = (struct go_note *)d->window + at;
		note->name = name.at;
		note->value = value.at;
		note->lens = (u32)name.len | value.len << 32;
		d->held = at + 1;
	}
	return values.len > GO_VALUES_MAX;
}

/* Reads what was noted. Returns 0 if it could. */
__attribute__((noinline)) int weft_go_noted(u64 key)
{
	struct conn *c = conn_of(key);
	struct direction *d;
	u32 lost = 0;

	if (!c)
		return 0;
	d = &c->dir[!go_dir(c)];
	for (u32 i = 0; i < GO_NOTES; i++) {
		struct go_note note;

		if (i >= d->held)
			break;
		note = ((struct go_note *)d->window)[i];
		lost |= weft_go_field(key, note.name, note.value, note.lens) & 1;
	}
	d->held = 0;
	return lost;
}

/* The group or bucket at `at`; used: bit 8 * i + 7 is set if entry i is. */
__attribute__((noinline)) int weft_go_header_group(u64 key, u64 at, u64 used, u64 swiss)
{
	for (u32 i = 0; i < GO_SLOTS; i++) {
		u64 name = at + GO_BUCKET_KEYS + i * (swiss ? GO_SLOT_SIZE : GO_KEY_SIZE);
		u64 values = swiss ? name + GO_KEY_SIZE : at + GO_BUCKET_ELEMS + i * GO_ELEM_SIZE;

		if (used >> (8 * i + 7) & 1 && weft_go_header_entry(key, name, values))
			return 1;
	}
	return 0;
}

/* n groups of a Swiss table. */
__attribute__((noinline)) int weft_go_header_groups(u64 key, u64 groups, u64 n)
{
	if (n > GO_GROUPS_MAX)
		return 1;
	for (u32 i = 0; i < GO_GROUPS_MAX; i++) {
		u64 control;

		if (i >= n)
			return 0;
		if (bpf_probe_read_user(&control, sizeof(control),
					(void *)(groups + i * GO_GROUP_SIZE)))
			return 1;
		if (weft_go_header_group(key, groups + i * GO_GROUP_SIZE,
					 ~control & WEFT_EACH(0x80), 1))
			return 1;
	}
	return 0;
}

/* The bucket at `at` and those behind it. */
__attribute__((noinline)) int weft_go_header_chain(u64 key, u64 at)
{
	for (int i = 0; i < GO_CHAIN_MAX; i++) {
		u64 hashes;

		if (bpf_probe_read_user(&hashes, sizeof(hashes), (void *)at))
			return 1;
		/* Hashes may have any byte from GO_HASH_MIN on: exact everywhere. */
		if (weft_go_header_group(
			    key, at,
			    (((hashes & WEFT_EACH(0x7f)) + WEFT_EACH(0x80 - GO_HASH_MIN)) |
			     hashes) &
				    WEFT_EACH(0x80),
			    0))
			return 1;
		if (bpf_probe_read_user(&at, sizeof(at), (void *)(at + GO_BUCKET_NEXT)))
			return 1;
		if (!at)
			return 0;
	}
	return 1;
}

__attribute__((noinline)) int weft_go_header_buckets(u64 key, u64 buckets, u64 n)
{
	if (n > GO_BUCKETS_MAX)
		return 1;
	for (u32 i = 0; i < GO_BUCKETS_MAX; i++) {
		if (i >= n)
			return 0;
		if (weft_go_header_chain(key, buckets + i * GO_BUCKET_SIZE))
			return 1;
	}
	return 0;
}

/*
 * Notes what may mean something in the net/http.Header whose map is at `map`; then
 * weft_go_noted. Both return 0 if it was walked whole; else what the program sends is
 * not known, and nothing may be added to it.
 */
__attribute__((noinline)) int weft_go_header(u64 key, u64 map)
{
	struct weft_go_layout *l = go_layout();
	u64 at, n;

	if (!l)
		return 1;
	if (!map)
		return 0;
	if (l->offset[WEFT_GO_MAP_DIRPTR] != WEFT_GO_UNKNOWN) {
		at = go_word(l, map, WEFT_GO_MAP_DIRPTR);
		n = go_word(l, map, WEFT_GO_MAP_DIRLEN);
		if (!at)
			return 0; /* no entry yet */
		if (!n)
			return weft_go_header_groups(key, at, 1);
		at = user_u64(at);
		if (n != 1 || !at || !go_field(l, at, WEFT_GO_MAP_TABLE_DATA) ||
		    !go_field(l, at, WEFT_GO_MAP_TABLE_MASK))
			return 1;
		n = go_word(l, at, WEFT_GO_MAP_TABLE_MASK) + 1;
		return weft_go_header_groups(key, go_word(l, at, WEFT_GO_MAP_TABLE_DATA), n);
	}
	if (l->offset[WEFT_GO_HMAP_BUCKETS] == WEFT_GO_UNKNOWN ||
	    l->offset[WEFT_GO_HMAP_B] == WEFT_GO_UNKNOWN ||
	    go_word(l, map, WEFT_GO_HMAP_OLDBUCKETS))
		return 1; /* not known, or entries are being moved */
	at = go_word(l, map, WEFT_GO_HMAP_BUCKETS);
	n = go_word(l, map, WEFT_GO_HMAP_B) & 0xff;
	if (!at)
		return 0;
	return n < 8 ? weft_go_header_buckets(key, at, 1ULL << n) : 1;
}
