/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * events: the ring to user space; records are those of abi/event.h.
 * Owner: programs write, the loader's reader consumes.
 * Full: the record is dropped and counted as LOST_RING_FULL.
 * Records are written without waking the reader, which polls on a short
 * deadline: a wake-up costs the traced program ten times the write itself.
 */
#pragma once

#include "counters.h"
#include "../abi/event.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

WEFT_INLINE void *event_reserve(u32 size)
{
	void *e = bpf_ringbuf_reserve(&events, size, 0);

	/* Tested once and plainly: verifiers before 6.3 lose track of a
	 * reservation that is compared by arithmetic. */
	if (!e) {
		count(WEFT_COUNT_LOST_RING_FULL);
		return 0;
	}
	return e;
}

WEFT_INLINE void event_head(struct weft_event_head *h, u16 type, u32 size)
{
	h->type = type;
	h->version = WEFT_ABI_VERSION;
	h->length = size;
	h->ktime_ns = bpf_ktime_get_ns();
}

WEFT_INLINE void event_submit(void *e)
{
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	count(WEFT_COUNT_EVENTS_WRITTEN);
}

/* A record of variable length, copied. */
WEFT_INLINE void event_copy(void *e, u32 size)
{
	count(bpf_ringbuf_output(&events, e, size, BPF_RB_NO_WAKEUP) ? WEFT_COUNT_LOST_RING_FULL :
								       WEFT_COUNT_EVENTS_WRITTEN);
}

/* For what cannot wait: a new process is to be traced before it connects. */
WEFT_INLINE void event_submit_now(void *e)
{
	bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
	count(WEFT_COUNT_EVENTS_WRITTEN);
}
