/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What happens at the boundaries the parser finds: a request or response head
 * is complete, a message has ended, a connection has ended. Here ids and
 * parents are decided, once, and never revised (docs/propagation.md has the
 * state tables).
 *
 * The weft_* functions are global: verified once on their own instead of at
 * every call. They take scalars and look the connection up again because
 * kernels before 5.12 allow no pointers there.
 */
#pragma once

#include "context.h"
#include "route.h"

/* Ends the oldest unanswered exchange: its event, and its context if this side
 * served it. */
__attribute__((noinline)) int weft_finish(u64 sk, u64 response_body, u32 end)
{
	struct conn *c = conn_of(sk);
	struct weft_response *e;
	struct pending *p;
	u64 id;

	if (!c || c->first == c->last)
		return 0;
	p = &c->pending[c->first & (PIPELINE_MAX - 1)];
	c->first++;
	id = p->span_id;
	if (c->role == WEFT_ROLE_SERVER)
		exchange_end(id);
	if (!p->sampled)
		return 0;
	e = event_reserve(sizeof(*e));
	if (!e)
		return 0;
	event_head(&e->head, WEFT_EVENT_RESPONSE, sizeof(*e));
	e->first_byte_ns = p->first_byte_ns;
	e->end_ns = e->head.ktime_ns;
	e->request_body = p->request_body;
	e->response_body = response_body;
	__builtin_memcpy(e->span_id, &id, 8);
	e->status = p->status;
	e->role = c->role;
	e->end = end;
	e->rpc = p->rpc;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	event_submit(e);
	return 0;
}

/* Ends every unanswered exchange of the connection for one reason. */
__attribute__((noinline)) int weft_abandon(u64 sk, u32 end)
{
	struct conn *c = conn_of(sk);
	u32 rsp;

	if (!c)
		return 0;
	rsp = c->role == WEFT_ROLE_SERVER ? DIR_TX : DIR_RX;
	for (int i = 0; i < PIPELINE_MAX; i++)
		weft_finish(sk, i ? 0 : c->dir[rsp].parser.body_bytes, end);
	return 0;
}

/* Not HTTP/1, or no longer. A socket in the sockhash pays for every send, so
 * user space is told to take it out. */
WEFT_INLINE void conn_handsoff(struct conn *c, u64 sk, u32 why)
{
	struct weft_socket *e;

	count(why);
	slot_put(c);
	c->state = CONN_HANDSOFF;
	if (!c->by_msg || c->quiet || key_is_virtual(sk))
		return;
	e = event_reserve(sizeof(*e));
	if (!e)
		return;
	event_head(&e->head, WEFT_EVENT_SOCKET, sizeof(*e));
	e->cookie = BPF_CORE_READ((struct sock *)sk, __sk_common.skc_cookie.counter);
	event_submit(e);
}

/* Bytes were missed where they mattered: wait for a boundary. */
WEFT_INLINE void conn_desync(struct conn *c, u64 sk, u32 why)
{
	count(why);
	weft_abandon(sk, WEFT_END_LOST);
	slot_put(c);
	c->state = CONN_UNSYNCED;
	c->resync = 0;
}

WEFT_INLINE struct http1_head *head_of(struct conn *c, u32 is_request)
{
	return &c->head[is_request & 1];
}

WEFT_INLINE void parsers_reset(struct conn *c)
{
	u32 server = c->role == WEFT_ROLE_SERVER;

	http1_reset(&c->dir[DIR_RX].parser, head_of(c, server), server);
	http1_reset(&c->dir[DIR_TX].parser, head_of(c, !server), !server);
	if (server)
		http1_want(&c->dir[DIR_RX].parser, edge_names);
}

WEFT_INLINE u32 dir_is_request(struct conn *c, u32 dir)
{
	return (c->role == WEFT_ROLE_SERVER) == (dir == DIR_RX);
}

WEFT_INLINE void on_request_head(struct conn *c, u64 sk, u32 dir)
{
	struct outgoing *o = &c->out;
	u64 span_id = random_id();
	struct pending *p;
	u32 at = c->last;

	o->write = 0;
	o->written = 0;
	if (((u32)(at - c->first) & 0xff) >= PIPELINE_MAX) {
		conn_desync(c, sk, WEFT_COUNT_DESYNC_PIPELINE);
		return;
	}
	__builtin_memcpy(o->span_id, &span_id, 8);
	if (c->quiet) {
		/* The self-test: a context of its own, and no trace of it. */
		o->rule = WEFT_PARENT_NONE;
		o->flags = TRACEPARENT_RANDOM;
		o->sampled = 0;
		new_ids(o);
		if (dir == DIR_TX)
			o->write = WEFT_HEADER_TRACEPARENT;
	} else if (dir == DIR_RX) {
		weft_serve(sk);
	} else {
		weft_depart(sk);
		__builtin_memcpy(&span_id, o->span_id, 8); /* weft_departed knows another */
	}
	p = &c->pending[at & (PIPELINE_MAX - 1)];
	p->span_id = span_id;
	p->request_body = 0;
	p->first_byte_ns = 0;
	p->status = 0;
	p->rpc = 0;
	p->is_head = c->head[REQUEST].method_len == 4 && c->head[REQUEST].method[0] == 'H' &&
		     c->head[REQUEST].method[1] == 'E';
	p->is_connect = c->head[REQUEST].method_len == 7 && c->head[REQUEST].method[0] == 'C';
	p->sampled = o->sampled;
	c->last = at + 1;
	if (!o->sampled && !c->quiet && !o->written)
		count(dir == DIR_RX ? WEFT_COUNT_UNSAMPLED_SERVER : WEFT_COUNT_UNSAMPLED_CLIENT);
	http1_begin_body(&c->dir[dir & 1].parser, &c->head[REQUEST], 0);
}

/*
 * A server answers from another thread than the one that read the request: in
 * this process a thread does not stand for a request, and what is in flight on
 * it is no evidence for what leaves from it.
 */
WEFT_INLINE void notice_migration(const struct exchange *x)
{
	u64 id = bpf_get_current_pid_tgid();
	struct weft_target *t;

	if (x->owner.kind != EXEC_THREAD || x->owner.id == (u32)id)
		return;
	t = target_of(id >> 32);
	if (!t || t->flags & WEFT_TARGET_MIGRATES)
		return;
	t->flags |= WEFT_TARGET_MIGRATES;
	count(WEFT_COUNT_MIGRATES_SEEN);
}

/* A server begins to answer. */
WEFT_INLINE void on_server_response(const struct pending *p)
{
	u64 span_id = p->span_id;
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);

	if (!x)
		return;
	notice_migration(x);
	if ((x->request || x->router) && p->sampled)
		weft_emit_route(span_id);
}

/* Returns false when the connection stops being HTTP/1 here. */
WEFT_INLINE bool on_response_head(struct conn *c, u64 sk, u32 dir)
{
	struct http1_parser *parser = &c->dir[dir & 1].parser;
	struct pending *p = &c->pending[c->first & (PIPELINE_MAX - 1)];
	u16 status = c->head[RESPONSE].status;

	if (c->resync) {
		http1_begin_body(parser, &c->head[RESPONSE],
				 status < 200 || status == 204 || status == 304);
		return status != 101;
	}
	if (c->first == c->last) {
		conn_desync(c, sk, WEFT_COUNT_DESYNC_UNEXPECTED);
		return true;
	}
	if (status >= 100 && status < 200 && status != 101) {
		http1_begin_body(parser, &c->head[RESPONSE], 1);
		return true;
	}
	p->status = status;
	p->first_byte_ns = c->response_ns;
	if (dir == DIR_TX)
		on_server_response(p);
	if (status == 101 || (p->is_connect && status >= 200 && status < 300)) {
		weft_abandon(sk, WEFT_END_UPGRADED);
		return false;
	}
	http1_begin_body(parser, &c->head[RESPONSE], p->is_head || status == 204 || status == 304);
	return true;
}

/* A message ended in this direction. What its head said is still needed (the
 * request's event is written after this), so the parser is made ready for the
 * next message only when bytes of it come: see message_begin. */
WEFT_INLINE void on_message_end(struct conn *c, u64 sk, u32 dir)
{
	struct http1_parser *parser = &c->dir[dir & 1].parser;
	u64 body = parser->body_bytes;
	u16 status = c->head[RESPONSE].status;
	u32 at;

	if (dir_is_request(c, dir)) {
		/* The request whose body this is was the last to be pushed. */
		at = c->last - 1;
		if (c->first != c->last)
			c->pending[at & (PIPELINE_MAX - 1)].request_body = body;
		return;
	}
	if (status < 200)
		return; /* interim: the final response is still to come */
	if (c->resync) {
		c->resync = 0;
		c->state = CONN_SYNCED;
		c->first = c->last;
		parsers_reset(c);
		/* Where this direction stands its reader knows; the other is at
		 * whatever passed unwatched. */
		c->dir[!dir].next_seq = sock_seq((struct sock *)sk, !dir);
		count(WEFT_COUNT_RESYNC_DONE);
		return;
	}
	weft_finish(sk, body, WEFT_END_COMPLETE);
}

/* Acts on what the parser of this direction reports. Returns 1 if a request
 * head was completed (its event is still to be written), else 0. */
__attribute__((noinline)) int weft_signal(u64 sk, u32 dir)
{
	struct conn *c = conn_of(sk);
	struct http1_parser *parser;
	int request = 0;

	if (!c)
		return 0;
	dir &= 1;
	parser = &c->dir[dir].parser;
	if (parser->signal == HTTP1_HEAD) {
		if (dir_is_request(c, dir)) {
			on_request_head(c, sk, dir);
			request = c->state == CONN_SYNCED;
		} else if (!on_response_head(c, sk, dir)) {
			conn_handsoff(c, sk, WEFT_COUNT_HANDSOFF_UPGRADE);
			return 0;
		}
	}
	if (parser->signal == HTTP1_RAW && c->resync) {
		c->resync = 0; /* it only looked like a response */
		return 0;
	}
	if (parser->signal == HTTP1_RAW) {
		weft_abandon(sk, WEFT_END_LOST);
		conn_handsoff(c, sk, WEFT_COUNT_HANDSOFF_RAW);
		return request;
	}
	if (parser->signal == HTTP1_END)
		on_message_end(c, sk, dir);
	return request;
}

/* Fills in all of a request's record that a brief one has, too. */
WEFT_INLINE void request_fill(struct weft_request *e, struct conn *c, u64 sk, u32 dir,
			      u32 propagation)
{
	struct http1_head *h = &c->head[REQUEST];
	struct outgoing *o = &c->out;

	e->start_ns = c->start_ns;
	e->socket = sk;
	e->process_start_ns = c->process_start_ns;
	e->tgid = c->tgid;
	e->tid = c->tid;
	__builtin_memcpy(e->trace_id, o->trace_id, 16);
	__builtin_memcpy(e->span_id, o->span_id, 8);
	__builtin_memcpy(e->parent_id, o->parent_id, 8);
	__builtin_memset(e->link_trace_id, 0, 16);
	__builtin_memset(e->link_span_id, 0, 8);
	if (o->linked) {
		__builtin_memcpy(e->link_trace_id, o->wire.trace_id, 16);
		__builtin_memcpy(e->link_span_id, o->wire.span_id, 8);
	}
	__builtin_memcpy(e->local_addr, c->local_addr, 16);
	__builtin_memcpy(e->remote_addr, c->remote_addr, 16);
	e->local_port = c->local_port;
	e->remote_port = c->remote_port;
	e->role = dir == DIR_RX ? WEFT_ROLE_SERVER : WEFT_ROLE_CLIENT;
	e->trace_flags = o->flags;
	e->parent_rule = o->rule;
	e->propagation = propagation;
	e->http = (h->http_minor & 1) | c->http;
	e->method_len = h->method_len;
	e->target_len = h->target_len;
	e->target_total = h->target_total;
	e->host_len = h->host_len;
	__builtin_memcpy(e->method, h->method, WEFT_METHOD_MAX);
}

/* Writes the event of the request just completed on sk. */
__attribute__((noinline)) int weft_emit_request(u64 sk, u32 dir, u32 propagation)
{
	struct conn *c = conn_of(sk);
	struct weft_request *e;
	struct weft_brief *b;
	struct http1_head *h;

	if (!c || !c->out.sampled)
		return 0;
	h = &c->head[REQUEST];
	if (h->target_len <= WEFT_TARGET_BRIEF && h->host_len <= WEFT_HOST_BRIEF &&
	    !(c->http & WEFT_HTTP_UNREAD)) {
		b = event_reserve(sizeof(*b));
		if (!b)
			return 0;
		event_head((struct weft_event_head *)b, WEFT_EVENT_BRIEF, sizeof(*b));
		request_fill((struct weft_request *)b, c, sk, dir, propagation);
		__builtin_memcpy(b->target, h->target, WEFT_TARGET_BRIEF);
		__builtin_memcpy(b->host, h->host, WEFT_HOST_BRIEF);
		event_submit(b);
		return 0;
	}
	e = event_reserve(sizeof(*e));
	if (!e)
		return 0;
	event_head(&e->head, WEFT_EVENT_REQUEST, sizeof(*e));
	request_fill(e, c, sk, dir, propagation);
	bpf_probe_read_kernel(e->target, WEFT_TARGET_MAX, h->target);
	bpf_probe_read_kernel(e->host, WEFT_HOST_MAX, h->host);
	event_submit(e);
	return 0;
}

#define CARRIED_RECORD_MASK 0x3fff
_Static_assert(sizeof(struct weft_carried) + CARRIED_TEXT <= CARRIED_RECORD_MASK, "mask");

/* Writes what travels beside the request just reported. */
__attribute__((noinline)) int weft_emit_carried(u64 sk, u32 dir)
{
	struct conn *c = conn_of(sk);
	struct weft_carried *e;
	u32 tracestate, baggage, size;
	struct slot *s;

	if (!c)
		return 0;
	s = slot_of(c);
	if (!s)
		return 0;
	tracestate = s->carried.head.tracestate_len;
	baggage = 0;
	if (attribute_count && s->carried.head.baggage_len) {
		weft_refeed(sk, REFEED_ATTRIBUTES);
		baggage = s->baggage.len;
	}
	if (!tracestate && !baggage)
		return 0;
	e = (struct weft_carried *)s->lines; /* they have been written by now */
	event_head(&e->head, WEFT_EVENT_CARRIED, sizeof(*e) + tracestate + baggage);
	__builtin_memcpy(e->span_id, c->out.span_id, 8);
	e->tracestate_len = tracestate;
	e->baggage_len = baggage;
	e->role = dir == DIR_RX ? WEFT_ROLE_SERVER : WEFT_ROLE_CLIENT;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	if (tracestate)
		copy_tracestate(e->text, 0, tracestate, s->carried.text);
	if (baggage)
		copy_baggage(e->text, tracestate, baggage, s->baggage.text);
	size = e->head.length - 1;
	WEFT_BARRIER(size);
	size &= CARRIED_RECORD_MASK; /* at the very place, as in copy_baggage */
	event_copy(e, size + 1);
	return 0;
}

/* The request of sk is settled: its records, and its slot is free again. */
WEFT_INLINE void emit(struct conn *c, u64 sk, u32 dir, u32 propagation)
{
	if (dir == DIR_RX && !c->quiet)
		weft_take_up(sk);
	weft_emit_request(sk, dir, propagation);
	c->unsettled = 0;
	if (!c->slot)
		return;
	if (c->out.sampled)
		weft_emit_carried(sk, dir);
	slot_put(c);
}

/* What was to be written into the request of a virtual connection has been, or not:
 * its records, and those of its end if the call was given up meanwhile. The program's
 * own traceparent counts for more. */
__attribute__((noinline)) int weft_stream_settle(u64 key, u32 propagation)
{
	struct conn *c = conn_of(key);

	if (!c)
		return 0;
	if (c->head[REQUEST].traceparent_count)
		propagation = WEFT_PROPAGATION_OWN;
	emit(c, key, DIR_TX, propagation);
	if (!c->over)
		return 0;
	c->pending[c->first & (PIPELINE_MAX - 1)].rpc = c->rpc;
	weft_abandon(key, c->over - 1);
	slot_put(c);
	bpf_map_delete_elem(&conns, &key);
	return 0;
}
