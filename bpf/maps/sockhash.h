/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * sockets: socket cookie → socket, the ones whose sends the sk_msg program sees.
 * Owner: the sockops program adds active opens of selected processes when they
 * are established; user space adds existing ones, removes those that turned out
 * not to be HTTP, and removes all at shutdown (detaching the program alone
 * leaves it running on sockets already inside). The kernel removes closed ones.
 *
 * opening: socket cookie → itself, from connect() to established, because
 * only the former runs in the process that opens.
 * Owner: the sockops program; LRU, so attempts that never finish age out.
 */
#pragma once

#include "counters.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 32768);
	__type(key, u64);
	__type(value, u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u64);
} opening SEC(".maps");
