/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * counters: enum weft_counter → occurrences, per CPU.
 * Owner: every program adds; user space sums. Never evicted.
 * An interrupted add on a preemptible kernel is still one atomic instruction.
 */
#pragma once

#include "../include/kernel.h"
#include "../abi/control.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WEFT_COUNT_MAX);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

WEFT_INLINE void count_n(u32 which, u64 n)
{
	u64 *v = bpf_map_lookup_elem(&counters, &which);

	if (v)
		__sync_fetch_and_add(v, n);
}

WEFT_INLINE void count(u32 which)
{
	count_n(which, 1);
}
