/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * targets: thread group id (initial PID namespace) → struct weft_target.
 * Owner: user space adds on a match and removes on exec of something else;
 * the fork program copies the parent's entry, the exit program deletes.
 * Full: the child is not selected, counted as LOST_TARGETS_FULL.
 */
#pragma once

#include "../include/kernel.h"
#include "../abi/control.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct weft_target);
} targets SEC(".maps");

WEFT_INLINE struct weft_target *target_of(u32 tgid)
{
	struct weft_target *t = bpf_map_lookup_elem(&targets, &tgid);

	if (!t || (t->flags & WEFT_TARGET_PARENT))
		return 0;
	return t;
}
