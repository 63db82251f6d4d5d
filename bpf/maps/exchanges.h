/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * exchanges: span id of a server exchange → the context its departures carry.
 * threads: exec key → how many requests are in flight on that unit of
 * execution, and which, if it is exactly one. Every request counts for the
 * thread that read it and for its process.
 *
 * Owner: set when a request's header block is complete, on the thread that read
 * it; cleared when its response is complete, its connection closes, or the
 * thread exits. Full: the request has no context (its departures are roots),
 * counted as LOST_EXCHANGES_FULL / LOST_THREADS_FULL.
 */
#pragma once

#include "carried.h"

enum exec_kind {
	EXEC_THREAD = 1,
	EXEC_PROCESS = 2, /* id 0: the whole process, for runtimes that move work
			   * between threads */
};

struct exec_key {
	u64 start_ns; /* of the process: a reused tgid is another key */
	u64 id;	      /* thread: its tid; process: 0 */
	u32 tgid;
	u32 kind;     /* enum exec_kind */
};

struct exchange {
	struct exec_key owner;
	u8 trace_id[16];
	u8 flags;
	u8 carry; /* enum carried_class */
	u8 pad[6];
};

/*
 * in_flight and sum change by atomic adds, sum first on the way down: a reader
 * that sees in_flight == 1 and then the sum sees either the one id or an id
 * that no longer exists, never a wrong one that does.
 */
struct exec_state {
	u64 in_flight;
	u64 sum;	 /* of the span ids in flight: the id itself when there is one */
	u32 interleaved; /* ever held two at once: an event loop, or pipelining */
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct exchange);
} exchanges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct exec_key);
	__type(value, struct exec_state);
} threads SEC(".maps");

WEFT_INLINE void exec_key_of_thread(struct exec_key *k, u32 tgid, u32 tid, u64 start_ns)
{
	k->start_ns = start_ns;
	k->id = tid;
	k->tgid = tgid;
	k->kind = EXEC_THREAD;
}

/* The process a thread belongs to. */
WEFT_INLINE void exec_key_widen(struct exec_key *k)
{
	k->id = 0;
	k->kind = EXEC_PROCESS;
}

WEFT_INLINE void exec_arrive(const struct exec_key *k, u64 span_id)
{
	struct exec_state *s = bpf_map_lookup_elem(&threads, k);

	if (!s) {
		struct exec_state fresh = {};

		bpf_map_update_elem(&threads, k, &fresh, BPF_NOEXIST);
		s = bpf_map_lookup_elem(&threads, k);
		if (!s) {
			count(WEFT_COUNT_LOST_THREADS_FULL);
			return;
		}
	}
	__sync_fetch_and_add(&s->in_flight, 1);
	__sync_fetch_and_add(&s->sum, span_id);
	if (s->in_flight > 1)
		s->interleaved = 1;
}

WEFT_INLINE void exec_leave(const struct exec_key *k, u64 span_id)
{
	struct exec_state *s = bpf_map_lookup_elem(&threads, k);

	if (!s)
		return;
	__sync_fetch_and_add(&s->sum, -span_id);
	__sync_fetch_and_add(&s->in_flight, -1);
}

/* Ends a server exchange: its context is gone for later departures. */
WEFT_INLINE void exchange_end(u64 span_id)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);
	struct exec_key k;
	u32 class;

	if (!x)
		return;
	k = x->owner;
	class = x->carry;
	/* Only one of two racing ends (response complete, connection closed) may
	 * take it off its thread. */
	if (bpf_map_delete_elem(&exchanges, &span_id))
		return;
	if (class)
		carried_delete(span_id, class);
	exec_leave(&k, span_id);
	exec_key_widen(&k);
	exec_leave(&k, span_id);
}
