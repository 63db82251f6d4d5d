/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What HTTP/2 of net/http and gRPC have in common: a stream is a virtual connection,
 * its request may be written by another goroutine or by the sk_msg program, and its
 * end has a cause.
 */
#pragma once

#include "header.h"
#include "../socket/unread.h"

/* What weft_h2_write and sk_msg meet a request by while its headers leave. */
#define GO_WRITING 0xffffffffU
/* Once they are in the write buffer. */
#define GO_WROTE 0xfffffffdU

/* Field f of HTTP/2 in the flavour. */
WEFT_INLINE u32 h2_field(u32 f, u32 flavour)
{
	return f + (flavour ? WEFT_GO_H2_FIELDS : 0);
}

/* u32 there. */
WEFT_INLINE u32 go_u32(const struct weft_go_layout *l, u64 base, u32 f)
{
	u64 at = go_field(l, base, f);

	return at ? user_u64(at) : 0;
}

/* --- What ended a stream --------------------------------------------------- */

#define H2_NO_ERROR 0
#define H2_CANCEL 8
#define H2_CODES 64 /* above the last error code there is */

/* User space is to say how the virtual connection `key` ended. */
__attribute__((noinline)) int weft_go_end_unread(u64 key, u64 itab, u64 first, u64 second,
						 u32 stream)
{
	struct conn *c = conn_of(key);
	struct weft_unread *e;

	if (!c || c->first == c->last)
		return WEFT_END_UNREAD;
	e = unread_reserve(c->pending[c->first & (PIPELINE_MAX - 1)].span_id, WEFT_UNREAD_ERROR);
	if (!e)
		return WEFT_END_UNREAD;
	e->itab = itab;
	e->word[0] = first;
	e->word[1] = second;
	e->stream = stream;
	event_submit(e);
	return WEFT_END_UNREAD;
}

/*
 * What the error of this itab and data tells about stream `id`, that of virtual
 * connection `key`: enum weft_end. A Go error is an interface: an errorString holds a
 * string, a StreamError the stream and the code of its RST_STREAM;
 * context.DeadlineExceeded is of a type without bytes. Types and strings are constants,
 * whose pages may not be there. User space judges by the same rules (loader/unread.go).
 */
__attribute__((noinline)) int weft_go_end_of(u64 key, u64 itab, u64 data, u64 id)
{
	u64 error[2] = {}, text[2] = {}, type = 0, size = 0;
	struct weft_go_layout *l = go_layout();

	if (!itab || !l)
		return WEFT_END_COMPLETE;
	bpf_probe_read_user(error, sizeof(error), (void *)data);
	if (bpf_probe_read_user(&type, sizeof(type), (void *)(itab + 8)) ||
	    l->offset[WEFT_GO_TYPE_SIZE] == WEFT_GO_UNKNOWN ||
	    bpf_probe_read_user(&size, sizeof(size), (void *)(type + l->offset[WEFT_GO_TYPE_SIZE])))
		return weft_go_end_unread(key, itab, error[0], error[1], id);
	if (!size)
		return WEFT_END_TIMEOUT;
	if (!error[0])
		return WEFT_END_UNREAD;
	if ((u32)error[0] == id && error[0] >> 32 < H2_CODES && (!error[1] || error[1] > 0xffff)) {
		if (error[0] >> 32 == H2_NO_ERROR)
			return WEFT_END_COMPLETE;
		return error[0] >> 32 == H2_CANCEL ? WEFT_END_CANCELLED : WEFT_END_RESET;
	}
	if (error[1] < sizeof(text) || error[1] > 0xffff)
		return WEFT_END_CLOSED;
	if (bpf_probe_read_user(text, sizeof(text), (void *)error[0]))
		return weft_go_end_unread(key, itab, error[0], error[1], id);
	if (text[0] == WEFT_WORD('c', 'o', 'n', 't', 'e', 'x', 't', ' ') &&
	    text[1] == WEFT_WORD('c', 'a', 'n', 'c', 'e', 'l', 'e', 'd'))
		return WEFT_END_CANCELLED;
	if (text[0] == WEFT_WORD('n', 'e', 't', '/', 'h', 't', 't', 'p')) {
		/* "net/http: request canceled", "net/http: timeout awaiting …" */
		if (text[1] == WEFT_WORD(':', ' ', 'r', 'e', 'q', 'u', 'e', 's'))
			return WEFT_END_CANCELLED;
		if (text[1] == WEFT_WORD(':', ' ', 't', 'i', 'm', 'e', 'o', 'u'))
			return WEFT_END_TIMEOUT;
	}
	if (text[0] == WEFT_WORD('h', 't', 't', 'p', '2', ':', ' ', 't') &&
	    text[1] == WEFT_WORD('i', 'm', 'e', 'o', 'u', 't', ' ', 'a'))
		return WEFT_END_TIMEOUT;
	/* Done with: "http2: response body closed", "http2: request body closed due to
	 * handler exiting". */
	if (text[0] == WEFT_WORD('h', 't', 't', 'p', '2', ':', ' ', 'r') &&
	    (text[1] == WEFT_WORD('e', 's', 'p', 'o', 'n', 's', 'e', ' ') ||
	     text[1] == WEFT_WORD('e', 'q', 'u', 'e', 's', 't', ' ', 'b')))
		return WEFT_END_COMPLETE;
	if (text[0] == WEFT_WORD('h', 't', 't', 'p', '2', ':', ' ', 'h'))
		return WEFT_END_RESET; /* "http2: handler panicked" */
	return WEFT_END_CLOSED;
}

/* --- What a request is to carry ------------------------------------------- */

/* What a site has left under `from` is for `to`. */
WEFT_INLINE void departure_move(u64 from, u64 to)
{
	struct go_departure *d = bpf_map_lookup_elem(&go_departures, &from);

	if (!d)
		return;
	bpf_map_update_elem(&go_departures, &to, d, BPF_ANY);
	bpf_map_delete_elem(&go_departures, &from);
}

/* For the sk_msg program: whose request the first frame of stream `id` on c->sk is. */
__attribute__((noinline)) int weft_stream_departs(u64 key, u32 id)
{
	struct go_departure d = { .conn = key };
	struct conn *c = conn_of(key);
	u64 to;

	if (!c)
		return 0;
	to = virtual_key(0, c->sk, id);
	d.tuple = sock_tuple((struct sock *)c->sk);
	if (bpf_map_update_elem(&go_departures, &to, &d, BPF_ANY))
		count(WEFT_COUNT_LOST_DEPARTURES_FULL);
	return 0;
}

/*
 * What the socket of the virtual connection c sends until its frame leaves are whole
 * frames: where that frame stands at the head of a send, the socket can be followed
 * from there on.
 */
WEFT_INLINE void stream_departs_whole(struct conn *c)
{
	u64 to = virtual_key(0, c->sk, c->object);
	struct go_departure *d = bpf_map_lookup_elem(&go_departures, &to);

	if (d)
		d->frame = 1;
}

/*
 * The request of a virtual connection is known: decides about it. What is to be
 * written waits for the site that writes into memory, which finds it under `by`, or
 * for the sk_msg program; the rest is settled. may: the bit of weft_go_layout.flags
 * that allows such writing; 0: its own fields are not known, nothing is to be added.
 */
__attribute__((noinline)) int weft_stream_request(u64 key, u64 by, u32 id, u32 may)
{
	struct go_departure d = { .conn = key };
	struct weft_go_layout *l = go_layout();
	struct conn *c = conn_of(key);

	if (!l || !c)
		return 0;
	c->object = id;
	if (go_writes && l->flags & may)
		c->writes = 1;
	else if (may && !(c->http & WEFT_HTTP_TLS) && c->sk)
		c->by_msg = 1;
	weft_go_request(key, DIR_TX);
	if (c->out.write && c->by_msg) {
		c->unsettled = 1;
		return weft_stream_departs(key, id);
	}
	if (c->out.write) {
		c->unsettled = 1;
		if (bpf_map_update_elem(&go_departures, &by, &d, BPF_ANY))
			count(WEFT_COUNT_LOST_DEPARTURES_FULL);
		return 0;
	}
	if (!inject_headers || c->quiet)
		return weft_stream_settle(key, WEFT_PROPAGATION_OBSERVED);
	if (c->writes || c->by_msg || c->head[REQUEST].traceparent_count)
		return weft_stream_settle(key, WEFT_PROPAGATION_WITHHELD);
	count(!may	? WEFT_COUNT_REFUSED_LIVE :
	      go_writes ? WEFT_COUNT_REFUSED_VERSION :
			  WEFT_COUNT_REFUSED_TLS);
	return weft_stream_settle(key, WEFT_PROPAGATION_REFUSED);
}

/* Nobody has written what was to be: then so be it. */
WEFT_INLINE void stream_late(struct conn *c, u64 key)
{
	u64 msg;

	if (!c->unsettled)
		return;
	if (c->by_msg) {
		msg = virtual_key(0, c->sk, c->object);
		bpf_map_delete_elem(&go_departures, &msg);
	}
	weft_stream_settle(key, WEFT_PROPAGATION_OBSERVED);
}
