/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * control: 0 → struct weft_control.
 * Owner: the agent renews deadline_ns several times a second; injecting
 * programs only read it. A killed agent stops renewing, so injection ends by
 * itself whatever still holds the programs.
 */
#pragma once

#include "../include/kernel.h"
#include "../abi/control.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct weft_control);
} control SEC(".maps");

WEFT_INLINE bool agent_alive(void)
{
	u32 zero = 0;
	struct weft_control *c = bpf_map_lookup_elem(&control, &zero);

	return c && bpf_ktime_get_ns() < c->deadline_ns;
}
