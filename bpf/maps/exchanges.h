/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * exchanges: span id of a server exchange → the context its departures carry.
 * threads: exec key → how many requests are in flight on that unit of
 * execution, and which, if it is exactly one. Every request counts for the
 * thread that read it and for its process; in a Go program whose goroutines can be
 * told apart, for the goroutine that read it instead.
 *
 * Owner: set when a request's header block is complete, on the thread that read
 * it; cleared when its response is complete, its connection closes, or the
 * thread exits. The entry of a goroutine is deleted when nothing is in flight on it
 * any more: goroutines come and go by the million. Full: the request has no context (its departures are roots),
 * counted as LOST_EXCHANGES_FULL / LOST_THREADS_FULL.
 */
#pragma once

#include "carried.h"
#include "golang.h"

enum exec_kind {
	EXEC_NONE = 0,	    /* who serves it is not known yet */
	EXEC_THREAD = 1,
	EXEC_PROCESS = 2,   /* id 0: the whole process, for runtimes that move work
			   * between threads */
	EXEC_GOROUTINE = 3, /* id: its goid, which Go never gives twice */
};

struct exec_key {
	u64 start_ns; /* of the process: a reused tgid is another key */
	u64 id;	      /* thread: its tid; process: 0; goroutine: its goid */
	u32 tgid;
	u32 kind;     /* enum exec_kind */
};

/* Ps of the Go runtime that are looked at, the handler's own first. */
#define GO_PS 8

/*
 * Go hands goids out in ascending batches of GOIDS, one batch to a P at a time. What
 * no goroutine had been given when a handler began: everything above `goidgen`,
 * and what was left of each P's batch.
 */
#define GOIDS 16

#define GOIDS_BITS 5 /* of their number, in births_of_p */
#define GOIDS_FAR (1U << (32 - GOIDS_BITS))

struct go_births {
	u64 goidgen;   /* 0: not known */
	u32 ps[GO_PS]; /* what a P had left, see births_of_p; 0: nothing */
};

/*
 * `left` goids from goidgen + 1 - back on, in one word: their number is noted
 * because a batch may begin anywhere (threads of C take goids one by one). 0 if
 * there is no such batch.
 */
WEFT_INLINE u32 births_of_p(u64 back, u64 left)
{
	if (!back || back >= GOIDS_FAR || !left || left > GOIDS)
		return 0;
	return back << GOIDS_BITS | left;
}

/* Is goid among those noted so? */
WEFT_INLINE bool births_hold(u64 goidgen, u32 p, u64 goid)
{
	u64 first = goidgen + 1 - (p >> GOIDS_BITS);

	return p && goid >= first && goid - first < (p & ((1 << GOIDS_BITS) - 1));
}

/* What routers have told of a Go request. */
enum routed {
	ROUTED = 1,	   /* a route */
	ROUTED_WITHIN = 2, /* since the one that serves it began */
};

struct exchange {
	struct exec_key owner;
	u8 trace_id[16];
	u8 flags;
	u8 carry;  /* enum carried_class */
	u8 routed; /* enum routed */
	u8 serves; /* enum weft_router: what `router` is of */
	u8 pad[4];
	/* Of a Go program's: */
	u64 context; /* key in go_contexts; 0: none */
	u64 request; /* address of its net/http.Request; 0: none, or its route is told */
	u64 conn;    /* its virtual connection; 0: it has none */
	u64 router;  /* the context of a router, while that has not told a route; 0: none */
	u64 above;   /* what that belongs to: it is another request's if that is another */
	struct go_births births;
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

/* New entries are copied from here, then set up in place: the stack is scarce. Never
 * written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct exchange);
} blank_exchange SEC(".maps");

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

WEFT_INLINE void exec_key_of_goroutine(struct exec_key *k, u32 tgid, u64 goid, u64 start_ns)
{
	k->start_ns = start_ns;
	k->id = goid;
	k->tgid = tgid;
	k->kind = EXEC_GOROUTINE;
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
		struct exec_state fresh = { .in_flight = 1, .sum = span_id };

		if (!bpf_map_update_elem(&threads, k, &fresh, BPF_NOEXIST))
			return;
		s = bpf_map_lookup_elem(&threads, k); /* another was faster */
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
	if (k->kind == EXEC_GOROUTINE && !s->in_flight)
		bpf_map_delete_elem(&threads, k);
}

/* Ends a server exchange: its context is gone for later departures. */
WEFT_INLINE void exchange_end(u64 span_id)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);
	struct go_context context = {};
	struct exec_key k;
	u32 class;

	if (!x)
		return;
	k = x->owner;
	class = x->carry;
	context.data = x->context;
	/* Only one of two racing ends (response complete, connection closed) may
	 * take it off its thread. */
	if (bpf_map_delete_elem(&exchanges, &span_id))
		return;
	if (class)
		carried_delete(span_id, class);
	if (context.data) {
		context.start_ns = k.start_ns;
		context.tgid = k.tgid;
		bpf_map_delete_elem(&go_contexts, &context);
	}
	if (k.kind == EXEC_NONE)
		return;
	exec_leave(&k, span_id);
	if (k.kind == EXEC_GOROUTINE)
		return;
	exec_key_widen(&k);
	exec_leave(&k, span_id);
}
