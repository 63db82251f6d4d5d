/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * sampling_rules: index → struct weft_sampling_rule; weft_target.rules says
 * which are for a process. Owner: user space, before attaching.
 *
 * limits: weft_target.service → when the next sampled root of that service is
 * due, in the generic cell rate algorithm's sense (CLOCK_MONOTONIC, ns): it may
 * run ahead of the clock by no more than the burst. Owner: the programs.
 */
#pragma once

#include "../include/kernel.h"
#include "../abi/control.h"

#define LIMITS_MAX 1024

struct limit {
	u64 due_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WEFT_RULES_MAX);
	__type(key, u32);
	__type(value, struct weft_sampling_rule);
} sampling_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LIMITS_MAX);
	__type(key, u32);
	__type(value, struct limit);
} limits SEC(".maps");

/* What a full bucket holds: one second's worth. */
#define LIMIT_BURST_NS 1000000000ULL

/*
 * Takes a token. The sum is atomic, the comparison is not (compare-and-swap
 * begins with 5.12): of processors that ask in the same instant each may get
 * the last token, but the debt is remembered, so the rate holds.
 */
WEFT_INLINE bool limit_take(u32 service, u64 interval_ns, u64 now)
{
	struct limit *l;
	u64 due;

	l = bpf_map_lookup_elem(&limits, &service);
	if (!l)
		return true;
	due = l->due_ns;
	if (due + LIMIT_BURST_NS < now)
		l->due_ns = due = now - LIMIT_BURST_NS;
	if (due + interval_ns > now)
		return false;
	__sync_fetch_and_add(&l->due_ns, interval_ns);
	return true;
}
