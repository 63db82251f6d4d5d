/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * trusted: network → 1 if its inbound context is believed, 0 if not (a network of
 * IPv6 that covers the v4-mapped ones does not mean them).
 * egress: network → bit mask of the egress rules that cover all of it; the
 * longest prefix is looked up, and of its rules the first that fits the port
 * applies. (A rule that covers an address covers the longest prefix around it
 * too, or is that prefix, so nothing is missed.)
 * egress_rules: those rules, in the order of the configuration.
 * edges: request headers that become baggage members.
 * attributes: 0 → the baggage keys that become span attributes.
 *
 * Owner: user space, before attaching; the programs only read. A connection
 * remembers what applies to its peer.
 */
#pragma once

#include "conns.h"
#include "../abi/control.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct weft_network);
	__type(value, u64);
} trusted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct weft_network);
	__type(value, u64);
} egress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WEFT_EGRESS_MAX);
	__type(key, u32);
	__type(value, struct weft_egress);
} egress_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WEFT_EDGES_MAX);
	__type(key, u32);
	__type(value, struct weft_edge);
} edges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct weft_keys);
} attributes SEC(".maps");

/* The peer's address as a key that matches whole addresses. */
WEFT_INLINE void peer_network(const struct conn *c, struct weft_network *n)
{
	n->prefix = 128;
	__builtin_memcpy(n->address, c->remote_addr, 16);
}

WEFT_INLINE bool egress_covers_port(const struct weft_egress *r, u16 port)
{
	if (!r->ports)
		return true;
#pragma unroll
	for (int i = 0; i < WEFT_PORTS_MAX; i++)
		if (i < r->ports && port >= r->port_low[i] && port <= r->port_high[i])
			return true;
	return false;
}

WEFT_INLINE struct weft_egress *egress_rule(u32 index)
{
	return bpf_map_lookup_elem(&egress_rules, &index);
}
