/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * slots: index → working memory for one header block with tracestate, baggage or
 * both; idle: the indices that nobody uses.
 *
 * Owner: user space fills `idle` before attaching. A connection takes a slot
 * when the first such byte of a header block comes, or when it has something to
 * carry on, and gives it back when that request's event is written; or when it
 * falls out of step, closes or is forgotten. A queue, because it is the one
 * thing that hands out each index once on every kernel (compare-and-swap begins
 * with 5.12).
 * Empty: the request goes without, all of it, counted once as LOST_SLOTS_FULL.
 */
#pragma once

#include "carried.h"
#include "conns.h"
#include "../abi/control.h"

#define SLOTS_MAX 128

/* A header value waiting to become a baggage member. */
struct edge_value {
	struct baggage_value value;
	u8 ended; /* a later line of that name does not count */
	u8 pad[7];
};

/* "traceparent: " 55 CR LF, "tracestate: " … CR LF, "baggage: " … CR LF; behind
 * it, room that the verifier believes a copy might need. */
#define LINES_MAX (70 + 14 + TRACESTATE_MAX + 11 + BAGGAGE_MAX)
/* A power of two less one: offsets into lines are masked with it. With the 32 KiB
 * read of a message it stays within the packet offsets that verifiers accept. */
#define LINES_MASK 0x3fff
#define LINES_AREA (LINES_MASK + 1 + 64)
_Static_assert(LINES_MAX <= LINES_MASK, "offsets into lines are masked");

struct slot {
	struct tracestate tracestate;
	struct baggage baggage;
	struct carried carried;
	struct edge_value edge[WEFT_EDGES_MAX];
	struct ot ot;
	u32 edges;		  /* bit i: edge[i] has begun */
	u32 set;		  /* and makes a member */
	struct baggage_keys only; /* for refeeding, see socket/carry.h */
	struct baggage_keys without;
	u32 next;		  /* carried text being filtered: from here */
	u32 limit;		  /* to here */
	u8 piece[64];		  /* of carried text that is being filtered */
	u8 lines[LINES_AREA];	  /* or the record for user space */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS_MAX);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, SLOTS_MAX);
	__type(value, u32);
} idle SEC(".maps");

/*
 * conn.slot of a header block that goes without. No slot is asked for again while
 * it lasts: a piece of it was not read, and what follows would mean something else.
 */
#define SLOT_DENIED 0xffff
_Static_assert(SLOTS_MAX < SLOT_DENIED, "no slot has that number");

WEFT_INLINE struct slot *slot_of(struct conn *c)
{
	u32 index = c->slot - 1;

	return bpf_map_lookup_elem(&slots, &index);
}

/* The connection's slot; takes one if it has none. */
WEFT_INLINE struct slot *slot_get(struct conn *c)
{
	struct slot *s;
	u32 index;

	if (c->slot)
		return slot_of(c);
	if (bpf_map_pop_elem(&idle, &index)) {
		count(WEFT_COUNT_LOST_SLOTS_FULL);
		c->slot = SLOT_DENIED;
		return 0;
	}
	c->slot = index + 1;
	s = slot_of(c);
	if (!s)
		return 0;
	tracestate_reset(&s->tracestate);
	baggage_reset(&s->baggage);
	s->carried.head.tracestate_len = 0;
	s->carried.head.baggage_len = 0;
	s->edges = 0;
	return s;
}

WEFT_INLINE void slot_put(struct conn *c)
{
	u32 held = c->slot, index = held - 1;

	if (!held)
		return;
	c->slot = 0;
	if (held != SLOT_DENIED)
		bpf_map_push_elem(&idle, &index, 0);
}
