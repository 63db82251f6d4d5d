/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * HTTP/1 of net/http. Its bytes, in the clear, are the socket tier's: here is told
 * which handler serves them and for whom a call is made, and where the kernel lets
 * memory be written, the head gets its lines before it leaves.
 *
 * Over TLS the socket shows nothing. There the connection is a virtual one, and its
 * parser is fed what the program has in its buffers.
 */
#pragma once

#include "../inject/golang.h"
#include "creator.h"

/* --- HTTP/1 over TLS: what is attached on demand ---------------------------- */

/* Is what it takes attached to this process? If not, user space is told, once. */
WEFT_INLINE bool go_tls_attached(struct go_here *h)
{
	struct weft_go *e;

	if (h->t->go_flags & WEFT_GO_USE_TLS_ATTACHED)
		return true;
	if (h->t->go_flags & WEFT_GO_USE_TLS)
		return false;
	e = event_reserve(sizeof(*e));
	if (!e)
		return false;
	h->t->go_flags |= WEFT_GO_USE_TLS;
	event_head(&e->head, WEFT_EVENT_GO, sizeof(*e));
	e->process_start_ns = h->t->start_ns;
	e->tgid = h->tgid;
	e->use = WEFT_GO_USE_TLS;
	event_submit_now(e);
	return false;
}

/* The socket under the *tls.Conn at user address `conn`; 0: there is none. */
WEFT_INLINE u64 go_tls_sock(const struct weft_go_layout *l, u64 conn)
{
	return weft_go_sock(go_data(l, conn, WEFT_GO_TLS_CONN));
}

/* The socket's own connection, whose bytes are not HTTP: when it closes, that of
 * `key` has ended. */
WEFT_INLINE void go_above(u64 sk, u64 key)
{
	struct conn *c = conn_of(sk);

	if (c && c->tuple == sock_tuple((struct sock *)sk))
		c->above = key;
}

/* --- A server --------------------------------------------------------------- */

/*
 * Feeds the head that a handler is about to serve from the bufio.Reader at user
 * address `reader`, which still holds it if it came in one piece: the bytes before
 * its read position. Returns 1 if they are a head, and nothing else.
 */
__attribute__((noinline)) int weft_go_read_head(u64 key, u64 reader)
{
	struct weft_go_layout *l = go_layout();
	u64 buf, used;
	u32 r;

	if (!l)
		return 0;
	buf = go_word(l, reader, WEFT_GO_READER_BUF);
	used = go_word(l, reader, WEFT_GO_READER_R);
	if (!buf || !used || used > HTTP1_HEAD_MAX)
		return 0;
	r = weft_feed(key, buf, used, DIR_RX);
	return r == (used | FEED_SIGNAL);
}

/* A request over TLS, read by this goroutine, of the *conn at user address `conn`.
 * Returns its span id; 0: it is not followed. */
__attribute__((noinline)) u64 weft_go_tls_serve(u64 conn)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_go_layout *l = go_layout();
	struct conn *c;
	u64 tls, sk, key, span_id;

	if (!l)
		return 0;
	tls = go_data(l, conn, WEFT_GO_CONN_RWC);
	sk = go_tls_sock(l, tls);
	if (!sk)
		return 0;
	key = virtual_key(tgid, tls, 0);
	c = conn_of(key);
	if (!c || c->sk != sk || c->first != c->last || c->role != WEFT_ROLE_SERVER ||
	    c->state != CONN_SYNCED || c->tgid != tgid) {
		if (weft_go_conn(key, sk, WEFT_ROLE_SERVER, WEFT_HTTP_TLS))
			return 0;
		go_above(sk, key);
		c = conn_of(key);
		if (!c)
			return 0;
	} else {
		parsers_reset(c);
	}
	if (!weft_go_read_head(key, go_word(l, conn, WEFT_GO_CONN_BUFR)) ||
	    c->dir[DIR_RX].parser.signal != HTTP1_HEAD) {
		count(WEFT_COUNT_CONTEXT_UNREAD);
		weft_go_conn_end(key, WEFT_END_LOST);
		return 0;
	}
	weft_go_request(key, DIR_RX);
	__builtin_memcpy(&span_id, c->out.span_id, 8);
	weft_go_settle(key, DIR_RX, WEFT_PROPAGATION_NONE);
	return span_id;
}

/* The exchange that the goroutine of h serves: the oldest that it has read and not
 * answered. 0: none. */
WEFT_INLINE u64 go_served(struct go_here *h, u64 conn)
{
	struct exec_state *s;
	struct exec_key k;
	struct conn *c;
	u64 sk;

	exec_key_of_goroutine(&k, h->tgid, h->goid, h->t->start_ns);
	s = bpf_map_lookup_elem(&threads, &k);
	if (!s || !s->in_flight)
		return 0;
	if (s->in_flight == 1)
		return s->sum;
	/* Pipelined: the handler is for the first. */
	sk = weft_go_sock(go_data(h->l, conn, WEFT_GO_CONN_RWC));
	c = sk ? conn_of(sk) : 0;
	if (!c || c->first == c->last || c->role != WEFT_ROLE_SERVER)
		return 0;
	return c->pending[c->first & (PIPELINE_MAX - 1)].span_id;
}

/* The goroutine of h serves exchange span_id; 0: none that is followed. */
WEFT_INLINE void go_serves(struct go_here *h, u64 span_id, u64 request)
{
	u64 data = go_data(h->l, request, WEFT_GO_REQUEST_CTX);

	if (span_id && !weft_go_serve(span_id, data, request, 0))
		weft_go_births(span_id, h->g);
}

/* serverHandler.ServeHTTP(rw, req): a handler begins, in the goroutine that read the
 * request. */
WEFT_INLINE void go_on_serve(struct go_regs *ctx, struct go_here *h)
{
	u64 request = go_arg(ctx, 3), conn;

	if (go_word(h->l, request, WEFT_GO_REQUEST_PROTOMAJOR) != 1)
		return; /* its own sites have told */
	conn = go_word(h->l, go_arg(ctx, 2), WEFT_GO_RESPONSE_CONN);
	if (!go_word(h->l, conn, WEFT_GO_CONN_TLSSTATE))
		go_serves(h, go_served(h, conn), request);
	else if (go_tls_attached(h))
		bpf_tail_call(ctx, &go_sites, WEFT_GO_SITE_SERVE_TLS);
}

/* The same over TLS: a program of its own, because most of it is the parser. */
WEFT_INLINE void go_on_serve_tls(struct go_regs *ctx, struct go_here *h)
{
	u64 conn = go_word(h->l, go_arg(ctx, 2), WEFT_GO_RESPONSE_CONN);

	go_serves(h, weft_go_tls_serve(conn), go_arg(ctx, 3));
}

/* (*tls.Conn).Write(b): a server's response, or a piece of it. */
WEFT_INLINE void go_on_tls_write(struct go_regs *ctx, struct go_here *h)
{
	u64 key = virtual_key(h->tgid, go_arg(ctx, 0), 0), n = go_arg(ctx, 2);
	struct conn *c = conn_of(key);
	struct direction *d;
	int done = 0;

	if (!c || c->role != WEFT_ROLE_SERVER || c->state != CONN_SYNCED || n > 0x7fffffff)
		return;
	d = &c->dir[DIR_TX];
	d->cursor.where = 0;
	d->cursor.addr = go_arg(ctx, 1);
	d->cursor.offset = 0;
	d->cursor.nr = 0;
	d->cursor.left = n;
	d->cursor.total = n;
	d->cursor.moved = n;
	for (int i = 0; i < FEEDS_MAX && !done && d->cursor.total; i++)
		done = weft_turn(key, META_TX);
}

/* --- A client --------------------------------------------------------------- */

/* What a client's connection over TLS is kept under: its reader, because that is what
 * all its sites have. */
WEFT_INLINE u64 go_client_key(struct go_here *h, u64 connection)
{
	return virtual_key(h->tgid, go_word(h->l, connection, WEFT_GO_PERSISTCONN_BR), 0);
}

/* (*persistConn).roundTrip(req): the caller's goroutine hands a request to the one
 * that writes on this connection. */
WEFT_INLINE void go_on_roundtrip(struct go_regs *ctx, struct go_here *h)
{
	u64 connection = go_arg(ctx, 0), request = go_arg(ctx, 1), data, sk;

	request = go_word(h->l, request, WEFT_GO_TRANSPORTREQUEST_REQUEST);
	data = go_data(h->l, request, WEFT_GO_REQUEST_CTX);
	if (go_word(h->l, connection, WEFT_GO_PERSISTCONN_TLSSTATE)) {
		if (go_tls_attached(h))
			weft_go_depart(go_client_key(h, connection), 0, h->g, data);
		return;
	}
	sk = weft_go_sock(go_data(h->l, connection, WEFT_GO_PERSISTCONN_CONN));
	if (sk)
		weft_go_depart(sk, sock_tuple((struct sock *)sk), h->g, data);
}

/* Feeds the head that stands in a write buffer, all of it but the empty line, which is
 * at user address `empty`. Returns 1 if that is what stands there. */
__attribute__((noinline)) int weft_go_write_head(u64 key, u64 start, u32 used, u64 empty)
{
	struct conn *c = conn_of(key);
	struct http1_parser *p;

	if (!c || used > HTTP1_HEAD_MAX)
		return 0;
	p = &c->dir[DIR_TX].parser;
	if ((u32)weft_feed(key, start, used, DIR_TX) != used || p->phase != HTTP1_PHASE_NAME ||
	    p->name_len || p->head_bytes != used)
		return 0;
	return weft_feed(key, empty, 2, DIR_TX) == (2 | FEED_SIGNAL) && p->signal == HTTP1_HEAD;
}

/* Will the socket tier follow what is about to be sent on sk, as a request of a
 * client? Else nobody would report the span whose id the line has. */
WEFT_INLINE bool go_socket_follows(u64 sk)
{
	struct conn *c = conn_of(sk);

	if (!c || c->tuple != sock_tuple((struct sock *)sk))
		return sock_fresh((struct sock *)sk, 0, 0);
	return c->state == CONN_SYNCED && c->role == WEFT_ROLE_CLIENT;
}

/*
 * May lines be written into this buffer, and has traceparent room there? Asked before
 * anything is decided, so that in the clear the socket tier may still do it all.
 */
WEFT_INLINE bool go_may_write(struct go_here *h, const struct go_buffer *b)
{
	u32 why = 0;

	if (!(h->l->flags & WEFT_GO_WRITES))
		why = WEFT_COUNT_REFUSED_VERSION;
	else if (!agent_alive())
		why = WEFT_COUNT_REFUSED_EXPIRED;
	else if (!go_live(h))
		why = WEFT_COUNT_REFUSED_LIVE;
	else if (b->used + LINE_LEN + 2 > b->size)
		why = WEFT_COUNT_REFUSED_BUFFER;
	if (why)
		count(why);
	return !why;
}

/*
 * Decides about the request whose head the virtual connection `key` was fed, and
 * writes its lines. Returns an enum weft_propagation.
 */
__attribute__((noinline)) int weft_go_write(u64 key)
{
	struct conn *c = conn_of(key);
	struct outgoing *o;

	if (!c)
		return WEFT_PROPAGATION_NONE;
	o = &c->out;
	on_request_head(c, key, DIR_TX); /* not by a call: frames are scarce here */
	if (c->head[REQUEST].traceparent_count)
		return WEFT_PROPAGATION_OWN;
	if (!inject_headers)
		return WEFT_PROPAGATION_OBSERVED;
	if (!c->writes)
		return WEFT_PROPAGATION_REFUSED;
	if (!(o->write & WEFT_HEADER_TRACEPARENT))
		return WEFT_PROPAGATION_WITHHELD;
	weft_lines(key);
	if (o->lines_len > c->dir[DIR_TX].cursor.left) {
		if (c->departs) {
			/* In the clear: the socket tier has room for all of them. */
			count(WEFT_COUNT_REFUSED_BUFFER);
			return WEFT_PROPAGATION_REFUSED;
		}
		count(WEFT_COUNT_WITHHELD_SPACE);
		o->write = WEFT_HEADER_TRACEPARENT;
		weft_lines(key);
	}
	if (weft_go_store(key)) {
		count(WEFT_COUNT_REFUSED_FAULT);
		return WEFT_PROPAGATION_REFUSED;
	}
	count(WEFT_COUNT_INJECTED_MEMORY);
	if (o->write & WEFT_HEADER_TRACESTATE)
		count(WEFT_COUNT_WRITTEN_TRACESTATE);
	if (o->write & WEFT_HEADER_BAGGAGE)
		count(WEFT_COUNT_WRITTEN_BAGGAGE);
	return WEFT_PROPAGATION_INJECTED;
}

/*
 * In the clear: decided and written here, reported by the socket tier, which finds in
 * go_departures what the line says. What is not written here is all its own.
 */
__attribute__((noinline)) int weft_go_write_clear(u64 key, u64 sk)
{
	struct conn *c = conn_of(key);
	struct go_departure *d;
	struct outgoing *o;

	d = bpf_map_lookup_elem(&go_departures, &sk);
	if (!c || !d || d->tuple != c->tuple || c->head[REQUEST].traceparent_count ||
	    !(conn_egress_headers(c, key) & inject_headers & WEFT_HEADER_TRACEPARENT))
		return 0;
	c->departs = sk;
	o = &c->out;
	if (weft_go_write(key) != WEFT_PROPAGATION_INJECTED)
		return 0;
	d = bpf_map_lookup_elem(&go_departures, &sk);
	if (!d)
		return 0;
	__builtin_memcpy(d->trace_id, o->trace_id, 16);
	__builtin_memcpy(d->span_id, o->span_id, 8);
	__builtin_memcpy(d->parent_id, o->parent_id, 8);
	d->flags = o->flags;
	d->rule = o->rule;
	d->sampled = o->sampled;
	d->written = 1;
	return 0;
}

/* The virtual connection of one head goes, and reports nothing. */
WEFT_INLINE void go_conn_drop(u64 key)
{
	struct conn *c = conn_of(key);

	if (!c)
		return;
	slot_put(c);
	bpf_map_delete_elem(&conns, &key);
}

/* (*Request).write(w), about to end the head with an empty line. */
WEFT_INLINE void go_on_write(struct go_regs *ctx, struct go_here *h)
{
	u64 writer = go_arg(ctx, 1), connection, key, sk, tls;
	struct go_buffer b;
	struct conn *c;
	bool may;

	connection = go_data(h->l, writer, WEFT_GO_WRITER_WR);
	if (go_word(h->l, connection, WEFT_GO_PERSISTCONN_BW) != writer || go_arg(ctx, 3) != 2)
		return; /* of somebody else's */
	tls = go_word(h->l, connection, WEFT_GO_PERSISTCONN_TLSSTATE);
	if ((tls && !go_tls_attached(h)) || (!tls && !go_writes))
		return;
	if (!go_buffer_of(h, writer, &b) || !b.used) {
		count(WEFT_COUNT_REFUSED_LIVE);
		return;
	}
	sk = go_data(h->l, connection, WEFT_GO_PERSISTCONN_CONN);
	sk = tls ? go_tls_sock(h->l, sk) : weft_go_sock(sk);
	if (!sk || (!tls && !go_socket_follows(sk)))
		return;
	if (tls && !go_writes && inject_headers)
		count(WEFT_COUNT_REFUSED_TLS);
	may = go_writes && go_may_write(h, &b);
	if (!tls && !may)
		return;
	key = go_client_key(h, connection);
	if (weft_go_conn(key, sk, WEFT_ROLE_CLIENT, tls ? WEFT_HTTP_TLS : 0))
		return;
	c = conn_of(key);
	if (!c)
		return;
	c->writes = may;
	if (!weft_go_write_head(key, b.start, b.used, go_arg(ctx, 2))) {
		count(WEFT_COUNT_REFUSED_LIVE);
		go_conn_drop(key);
		return;
	}
	go_buffer_note(c, &b);
	if (!tls) {
		c->tuple = sock_tuple((struct sock *)sk);
		weft_go_write_clear(key, sk);
		go_conn_drop(key);
		return;
	}
	go_above(sk, key);
	weft_go_settle(key, DIR_TX, weft_go_write(key));
}

/* The call of readTransfer(msg, r): the head of a response has been read. */
WEFT_INLINE void go_on_tls_response(struct go_regs *ctx, struct go_here *h)
{
	u64 key = virtual_key(h->tgid, go_arg(ctx, 2), 0), status;
	struct conn *c = conn_of(key);

	if (!c || c->role != WEFT_ROLE_CLIENT)
		return;
	status = go_word(h->l, go_arg(ctx, 1), WEFT_GO_CLIENTRESPONSE_STATUS);
	go_response(c, status);
	if (status == 101)
		weft_go_conn_end(key, WEFT_END_UPGRADED);
}

/* The connection of a client is done with a request: with a response it is whole. */
__attribute__((noinline)) int weft_go_tls_done(u64 key, u32 otherwise)
{
	struct conn *c = conn_of(key);

	if (!c || c->role != WEFT_ROLE_CLIENT || c->first == c->last)
		return 0;
	if (c->pending[c->first & (PIPELINE_MAX - 1)].status)
		otherwise = WEFT_END_COMPLETE;
	return weft_finish(key, 0, otherwise);
}

/* (*Transport).tryPutIdleConn(pconn): also before its first request. */
WEFT_INLINE void go_on_tls_idle(struct go_regs *ctx, struct go_here *h)
{
	weft_go_tls_done(go_client_key(h, go_arg(ctx, 1)), WEFT_END_LOST);
}

/* (*persistConn).closeLocked(err). */
WEFT_INLINE void go_on_tls_close(struct go_regs *ctx, struct go_here *h)
{
	u64 key = go_client_key(h, go_arg(ctx, 0));

	weft_go_tls_done(key, WEFT_END_CLOSED);
	weft_go_conn_end(key, WEFT_END_CLOSED);
}
