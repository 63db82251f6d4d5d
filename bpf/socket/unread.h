/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What could not be read of a program is told to user space, which can wait for a
 * page. It is asked for once, where it is needed: then it is there.
 */
#pragma once

#include "../maps/conns.h"
#include "../maps/events.h"

/* span_id 0: of none that is waited for. */
WEFT_INLINE struct weft_unread *unread_reserve(u64 span_id, u32 kind)
{
	struct weft_target *t = target_of(bpf_get_current_pid_tgid() >> 32);
	struct weft_unread *e;

	if (!t)
		return 0;
	e = event_reserve(sizeof(*e));
	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	event_head(&e->head, WEFT_EVENT_UNREAD, sizeof(*e));
	__builtin_memcpy(e->span_id, &span_id, 8);
	e->process_start_ns = t->start_ns;
	e->tgid = bpf_get_current_pid_tgid() >> 32;
	e->kind = kind;
	return e;
}

/* A string of a route, at user address `at`. */
WEFT_INLINE void unread_route(u64 span_id, u64 at, u64 len, u32 router)
{
	struct weft_unread *e =
		unread_reserve(span_id, span_id ? WEFT_UNREAD_ROUTE : WEFT_UNREAD_TEXT);

	if (!e)
		return;
	e->word[0] = at;
	e->word[1] = len;
	e->router = router;
	event_submit(e);
}
