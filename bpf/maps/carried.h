/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * carried_small, _medium, _large: span id of a server exchange → the tracestate
 * and baggage that its departures carry on. Size classes, allocated on use, so
 * that the many small ones cost little; struct exchange says which class.
 *
 * Owner: set with the exchange, deleted with it (maps/exchanges.h).
 * Full: the context goes on without them, counted as LOST_CARRIED_FULL.
 */
#pragma once

#include "counters.h"
#include "../lib/tracestate.h"
#include "../lib/baggage.h"

enum carried_class {
	CARRIED_NONE = 0,
	CARRIED_SMALL = 1,
	CARRIED_MEDIUM = 2,
	CARRIED_LARGE = 3,
};

#define CARRIED_TEXT (TRACESTATE_MAX + BAGGAGE_MAX)
#define CARRIED_MASK 0x3fff /* for offsets into the text */
_Static_assert(CARRIED_TEXT <= CARRIED_MASK, "offsets are masked");

struct carried_head {
	u16 tracestate_len; /* bytes of text */
	u16 baggage_len;    /* behind them */
	u32 pad;
};

/* Each begins like the next, so that a copy of the first bytes of a large one is
 * a small one. */
struct carried_small {
	struct carried_head head;
	u8 text[248];
};

struct carried_medium {
	struct carried_head head;
	u8 text[2040];
};

/* Behind the text, room that the verifier believes a copy might need. */
struct carried {
	struct carried_head head;
	u8 text[CARRIED_TEXT + 1024 + 64];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct carried_small);
} carried_small SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct carried_medium);
} carried_medium SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct carried);
} carried_large SEC(".maps");

/* Keeps c for the exchange; returns the class, CARRIED_NONE if there is no room. */
WEFT_INLINE u32 carried_put(u64 span_id, const struct carried *c)
{
	u32 len = (u32)c->head.tracestate_len + c->head.baggage_len;
	u32 class = CARRIED_NONE;

	if (len <= sizeof(((struct carried_small *)0)->text)) {
		if (!bpf_map_update_elem(&carried_small, &span_id, c, BPF_NOEXIST))
			class = CARRIED_SMALL;
	} else if (len <= sizeof(((struct carried_medium *)0)->text)) {
		if (!bpf_map_update_elem(&carried_medium, &span_id, c, BPF_NOEXIST))
			class = CARRIED_MEDIUM;
	} else if (!bpf_map_update_elem(&carried_large, &span_id, c, BPF_NOEXIST)) {
		class = CARRIED_LARGE;
	}
	if (!class)
		count(WEFT_COUNT_LOST_CARRIED_FULL);
	return class;
}

/*
 * Copies what the exchange carries into `to`. The exchange may end meanwhile and
 * its memory be given to another: what was copied counts only if the entry is
 * still where it was. Returns 0 if so.
 */
WEFT_INLINE int carried_get(u64 span_id, u32 class, struct carried *to)
{
	void *from, *again;

	if (class == CARRIED_SMALL) {
		from = bpf_map_lookup_elem(&carried_small, &span_id);
		if (!from)
			return -1;
		bpf_probe_read_kernel(to, sizeof(struct carried_small), from);
		again = bpf_map_lookup_elem(&carried_small, &span_id);
	} else if (class == CARRIED_MEDIUM) {
		from = bpf_map_lookup_elem(&carried_medium, &span_id);
		if (!from)
			return -1;
		bpf_probe_read_kernel(to, sizeof(struct carried_medium), from);
		again = bpf_map_lookup_elem(&carried_medium, &span_id);
	} else {
		from = bpf_map_lookup_elem(&carried_large, &span_id);
		if (!from)
			return -1;
		bpf_probe_read_kernel(to, sizeof(struct carried), from);
		again = bpf_map_lookup_elem(&carried_large, &span_id);
	}
	return again ? 0 : -1;
}

WEFT_INLINE void carried_delete(u64 span_id, u32 class)
{
	if (class == CARRIED_SMALL)
		bpf_map_delete_elem(&carried_small, &span_id);
	else if (class == CARRIED_MEDIUM)
		bpf_map_delete_elem(&carried_medium, &span_id);
	else if (class == CARRIED_LARGE)
		bpf_map_delete_elem(&carried_large, &span_id);
}
