/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * go_layouts: index → where a Go binary keeps what weft reads. Owner: user space;
 * an entry is written before any weft_target names it, and never changed while one
 * does.
 *
 * go_contexts: process and address of a context.Context's data → span id of the
 * server exchange whose request it belongs to.
 * Owner: set by the site that sees a handler begin (SERVE, H2_HANDLER,
 * GRPC_HANDLER), deleted with the exchange (maps/exchanges.h): afterwards Go may
 * give the address to another object.
 * Full: the calls of that request have no such evidence, counted as
 * LOST_CONTEXTS_FULL.
 *
 * go_departures: who is about to send (the address of its socket, or a virtual
 * key) → whose child that request is. Owner: set by the site where the program
 * makes the call (ROUNDTRIP, H2_REQUEST, GRPC_NEWSTREAM), in the caller's goroutine;
 * taken by weft_depart, in whichever goroutine writes. LRU: a call that is
 * given up before it writes leaves its entry behind. It cannot be mistaken for
 * that of a later call: that call replaces it, and `tuple` tells a socket from the
 * next one at its address. A socket keeps its entry, with tuple 0 while nobody is
 * about to send: it is written anew in place, call after call, until the socket closes.
 *
 * go_creators: a goroutine → goid of the one that made it; 0: the runtime;
 * all ones: that was looked for, and is not to be known. Owner: set where a call has no
 * evidence but that. LRU: what is forgotten is looked for again.
 */
#pragma once

#include "counters.h"
#include "../abi/golang.h"

#define GO_LAYOUTS_MAX 1024

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GO_LAYOUTS_MAX);
	__type(key, u32);
	__type(value, struct weft_go_layout);
} go_layouts SEC(".maps");

struct go_context {
	u64 start_ns; /* of the process */
	u64 data;     /* second word of the interface */
	u64 tgid;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct go_context);
	__type(value, u64);
} go_contexts SEC(".maps");

struct go_departure {
	u64 parent;	 /* span id of the server exchange; 0: looked, and there is none */
	u64 tuple;	 /* of the socket; 0: a virtual key */
	u64 conn;	 /* of a stream: the virtual connection that sends it; 0: none */
	u64 sk;		 /* of a call that has no stream yet: the socket it will leave by */
	u8 trace_id[16]; /* of the line that was written, as the three that follow */
	u8 span_id[8];
	u8 parent_id[8];
	u8 flags;
	u8 rule;    /* enum weft_parent_rule */
	u8 written; /* the line is in the head that leaves next */
	u8 sampled;
	u8 http;    /* enum weft_http; with sk */
	u8 over;    /* 1 + enum weft_end: the call ended before it got its stream */
	u8 rpc;	    /* and how, as in struct pending */
	u8 frame;   /* of a stream: the socket's sends are whole frames until it leaves */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct go_departure);
} go_departures SEC(".maps");

/* d, of this key, is taken. */
WEFT_INLINE void departure_take(struct go_departure *d, u64 key)
{
	if (d->tuple)
		d->tuple = 0;
	else
		bpf_map_delete_elem(&go_departures, &key);
}

struct go_goroutine {
	u64 start_ns; /* of the process */
	u64 goid;
	u64 tgid;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct go_goroutine);
	__type(value, u64);
} go_creators SEC(".maps");

WEFT_INLINE struct weft_go_layout *go_layout_at(u32 place)
{
	u32 index = place - 1;

	return bpf_map_lookup_elem(&go_layouts, &index);
}
