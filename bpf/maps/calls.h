/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * calls: pid_tgid → the buffers of the send or receive this thread is in.
 * Owner: set at entry, taken at return (fentry and kprobe ways only; the
 * tracepoint way finds the buffers in the system call's registers). A thread
 * that dies inside is cleaned up by the exit program.
 * Full: the call is not seen, counted as LOST_CALLS_FULL; the gap shows later.
 */
#pragma once

#include "../include/kernel.h"

struct call {
	u64 sk;
	u64 where; /* as weft_data takes them */
	u64 meta;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct call);
} calls SEC(".maps");
