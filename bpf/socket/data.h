/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Bytes of one send or receive, fed to the parser of their direction. The same
 * code serves the three capture ways (user memory) and the sk_msg program
 * (kernel memory).
 */
#pragma once

#include "exchange.h"

enum {
	HOW_TX = 1,	/* == DIR_TX */
	HOW_KERNEL = 2, /* the address is a kernel one */
};

enum {
	FEED_SIGNAL = 1 << 30, /* stopped early: parser.signal says why */
	FEED_BUDGET = 1 << 29, /* too many steps, or memory not readable */
	FEED_BYTES = FEED_BUDGET - 1,
};

/* A whole head, whatever its lines. */
#define FEED_STEPS 520
#define STEP_TURNS 8 /* of them per call of weft_step: a usual head */
_Static_assert(FEED_STEPS >= HTTP1_HEAD_STEPS, "a head in one piece is read in one go");
/* Buffers and messages followed per call. */
#define FEEDS_MAX 48

/*
 * Parses n bytes of the window. Returns bytes consumed, with FEED_SIGNAL. On its
 * own, because it is most of what the verifier has to walk: here it starts from
 * one state, whatever led to the call.
 */
__attribute__((noinline)) int weft_parse(u64 sk, u32 dir, u32 n)
{
	struct conn *c = conn_of(sk);
	struct direction *d;
	u32 is_request, at;

	if (!c)
		return FEED_BUDGET;
	d = &c->dir[dir & 1];
	is_request = d->parser.is_request;
	at = d->at;
	WEFT_BARRIER(at);
	at &= READ_AHEAD - 1;
	n = http1_step(&d->parser, &c->head[is_request & 1], d->window + at, n);
	if (d->parser.signal == HTTP1_HEAD || d->parser.signal == HTTP1_END ||
	    d->parser.signal == HTTP1_RAW)
		n |= FEED_SIGNAL;
	return n;
}

/* Reads the next bytes into the window. False: they could not be read. */
WEFT_INLINE bool window_fill(struct direction *d, u64 addr, u32 len, u32 how)
{
	u32 n = len < READ_AHEAD ? len : READ_AHEAD;

	WEFT_BARRIER(n);
	if (n > READ_AHEAD)
		return false;
	if (how & HOW_KERNEL ? bpf_probe_read_kernel(d->window, n, (void *)addr) :
			       bpf_probe_read_user(d->window, n, (void *)addr)) {
		count(WEFT_COUNT_SKIPPED_FAULT);
		return false;
	}
	d->at = 0;
	d->held = n;
	return true;
}

/* The first byte of a message is next. */
WEFT_INLINE void message_begin(struct conn *c, u32 dir)
{
	u32 is_request = dir_is_request(c, dir);
	struct http1_parser *p = &c->dir[dir & 1].parser;
	u64 now = bpf_ktime_get_ns();

	http1_reset(p, head_of(c, is_request), is_request);
	if (dir == DIR_RX)
		http1_want(p, edge_names);
	if (is_request)
		c->start_ns = now;
	else
		c->response_ns = now;
}

/*
 * Takes body as it comes, or parses what the window holds of the len bytes at
 * addr, which are what is left. Returns bytes consumed, with FEED_SIGNAL, or
 * FEED_BUDGET.
 */
WEFT_INLINE u32 feed_step(struct conn *c, u64 sk, u64 addr, u32 len, u32 how)
{
	struct direction *d = &c->dir[how & 1];
	struct http1_parser *p = &d->parser;
	u64 skip = http1_skippable(p);
	u32 r;

	if (skip) {
		if (skip > len)
			skip = len;
		http1_skip(p, skip);
		d->held = 0;
		return (skip & FEED_BYTES) | (p->signal == HTTP1_END ? FEED_SIGNAL : 0);
	}
	if (p->signal == HTTP1_END || !p->head_bytes)
		message_begin(c, how & 1);
	if (!d->held && !window_fill(d, addr, len, how))
		return FEED_BUDGET;
	r = weft_parse(sk, how & 1, d->held);
	d->at += r & FEED_BYTES;
	d->held -= r & FEED_BYTES;
	if (p->signal == HTTP1_VALUE)
		weft_piece(sk, how & 1);
	else if (p->signal == HTTP1_NAME)
		weft_name(sk, how & 1);
	return r;
}

/* Parses on in [addr, addr + len), of which d->fed bytes are done, for STEP_TURNS
 * at most. Returns FEED_SIGNAL, FEED_BUDGET or 0. */
__attribute__((noinline)) int weft_step(u64 sk, u64 addr, u32 len, u32 how)
{
	struct conn *c = conn_of(sk);
	struct direction *d;

	if (!c)
		return FEED_BUDGET;
	d = &c->dir[how & 1];
	WEFT_NOUNROLL
	for (int i = 0; i < STEP_TURNS; i++) {
		u32 r, pos;

		WEFT_FORGET(); /* all ways through a turn meet here */
		pos = d->fed;
		if (pos >= len)
			break;
		r = feed_step(c, sk, addr + pos, len - pos, how);
		if (r & FEED_BUDGET)
			return FEED_BUDGET;
		d->fed = pos + (r & FEED_BYTES);
		if (r & FEED_SIGNAL)
			return FEED_SIGNAL;
	}
	return 0;
}

/* Parses [addr, addr + len) until a boundary or for FEED_STEPS. Returns bytes
 * consumed, with FEED_SIGNAL at a boundary, or FEED_BUDGET when it gave up. */
__attribute__((noinline)) int weft_feed(u64 sk, u64 addr, u32 len, u32 how)
{
	struct conn *c = conn_of(sk);
	struct direction *d;
	u32 r = 0;

	if (!c)
		return FEED_BUDGET;
	d = &c->dir[how & 1];
	d->fed = 0;
	d->held = 0;
	WEFT_NOUNROLL
	for (int i = 0; i < FEED_STEPS / STEP_TURNS; i++) {
		WEFT_FORGET();
		if (d->fed >= len)
			break;
		r = weft_step(sk, addr, len, how);
		if (r & FEED_BUDGET)
			return FEED_BUDGET;
		if (r)
			break;
	}
	WEFT_FORGET();
	return (d->fed & FEED_BYTES) | (r & FEED_SIGNAL);
}

/* Accounts for bytes which passed unseen before position `start`. False: they
 * fell where they mattered, and the connection is out of step now. */
WEFT_INLINE bool conn_catch_up(struct conn *c, u64 sk, u32 dir, u32 start)
{
	struct direction *d = &c->dir[dir & 1];
	u32 gap = start - d->next_seq;

	if (!gap || c->state != CONN_SYNCED)
		return true;
	if ((s32)gap > 0 && http1_skippable(&d->parser) >= gap) {
		http1_skip(&d->parser, gap);
		if (d->parser.signal == HTTP1_END)
			weft_signal(sk, dir);
		return true;
	}
	conn_desync(c, sk, WEFT_COUNT_DESYNC_GAP);
	return false;
}

/* Layout of weft_data's `meta`. */
#define META_TX 1ULL	   /* direction */
#define META_IOV 2ULL	   /* `where` is an iovec array, not a buffer */
#define META_IOV_USER 4ULL /* the array itself is in user memory */
#define META_OPAQUE 8ULL   /* the bytes cannot be read */
#define META_NR(n) ((u64)((n) & 0xffff) << 16)
#define META_OFFSET(o) ((u64)(u32)(o) << 32)

/* Does an unsynchronised connection show the start of a response here? */
WEFT_INLINE bool looks_like_response(u64 addr)
{
	char b[8] = {};

	return bpf_probe_read_user(b, 7, (void *)addr) == 0 && b[0] == 'H' && b[1] == 'T' &&
	       b[2] == 'T' && b[3] == 'P' && b[4] == '/' && b[5] == '1' && b[6] == '.';
}

/* Moves the cursor to the next buffer. False: there is none. */
WEFT_INLINE bool cursor_next(struct cursor *at, u64 meta)
{
	struct iovec v = {};
	int failed;

	if (!at->nr || !at->total)
		return false;
	if (meta & META_IOV_USER)
		failed = bpf_probe_read_user(&v, sizeof(v), (void *)at->where);
	else
		failed = bpf_probe_read_kernel(&v, sizeof(v), (void *)at->where);
	if (failed) {
		count(WEFT_COUNT_SKIPPED_FAULT);
		return false;
	}
	at->where += sizeof(v);
	at->nr--;
	if (v.iov_len <= at->offset) {
		at->offset -= v.iov_len;
		return true;
	}
	at->addr = v.iov_base + at->offset;
	v.iov_len -= at->offset;
	at->offset = 0;
	at->left = v.iov_len < at->total ? v.iov_len : at->total;
	return true;
}

/* May these bytes of an unsynchronised connection be fed? Only as the response
 * whose end will be a boundary. */
WEFT_INLINE bool resync_follows(struct conn *c, u32 dir, struct cursor *at)
{
	if (c->resync == dir + 1)
		return true;
	if (c->resync) {
		c->resync = 0; /* something crossed it: no boundary */
		return false;
	}
	if (at->total != at->moved || !looks_like_response(at->addr))
		return false;
	c->resync = dir + 1;
	c->role = dir == DIR_RX ? WEFT_ROLE_CLIENT : WEFT_ROLE_SERVER;
	parsers_reset(c);
	return true;
}

#define SETTINGS_HEADER 9
#define SETTINGS_TYPE 4

/*
 * Is this what a server of HTTP/2 sends by itself? Its SETTINGS may be here before the
 * client has sent its preface (RFC 9113, section 3.4), so that who speaks first is no
 * client. What the client sends will tell.
 */
WEFT_INLINE bool server_greets(struct conn *c, const struct cursor *at)
{
	u8 head[SETTINGS_HEADER] = {};

	if (c->greeted)
		return true;
	if (c->state != CONN_SYNCED || c->role != WEFT_ROLE_SERVER || c->last ||
	    c->dir[DIR_RX].parser.head_bytes || at->total != at->moved ||
	    at->left < SETTINGS_HEADER || bpf_probe_read_user(head, sizeof(head), (void *)at->addr))
		return false;
	/* Length below 16,384, type, no flags, stream 0. */
	if (head[0] || head[1] >= 0x40 || head[3] != SETTINGS_TYPE || head[4] || head[5] ||
	    head[6] || head[7] || head[8])
		return false;
	c->greeted = 1;
	c->role = WEFT_ROLE_CLIENT;
	parsers_reset(c);
	return true;
}

/* Feeds up to the next boundary or buffer. Returns 1 when there is no more to
 * do, 2 when the rest must not be looked at. */
__attribute__((noinline)) int weft_turn(u64 sk, u64 meta)
{
	struct conn *c = conn_of(sk);
	u32 dir = meta & META_TX;
	struct cursor *at;
	bool finding;
	u32 r, used;

	if (!c)
		return 2;
	at = &c->dir[dir].cursor;
	if (!at->left && !cursor_next(at, meta))
		return 1;
	if (!at->left)
		return 0;
	if (dir == DIR_RX && server_greets(c, at))
		return 2;
	finding = c->state == CONN_UNSYNCED;
	if (finding && !resync_follows(c, dir, at))
		return 2;
	r = weft_feed(sk, at->addr, at->left, dir);
	if (r & FEED_BUDGET) {
		conn_desync(c, sk, WEFT_COUNT_DESYNC_BUDGET);
		return 2;
	}
	used = r & FEED_BYTES;
	if (used > at->left)
		used = at->left;
	at->addr += used;
	at->left -= used;
	at->total -= used;
	if (!(r & FEED_SIGNAL))
		return 0;
	if (weft_signal(sk, dir))
		emit(c, sk, dir,
		     dir == DIR_RX			? WEFT_PROPAGATION_NONE :
		     c->out.written			? WEFT_PROPAGATION_INJECTED :
		     c->out.rule == WEFT_PARENT_ADOPTED ? WEFT_PROPAGATION_OWN :
							  WEFT_PROPAGATION_OBSERVED);
	if (finding && c->state == CONN_SYNCED && at->total) {
		/* More bytes behind the response: it was not one. */
		c->state = CONN_UNSYNCED;
		return 2;
	}
	return c->state == CONN_HANDSOFF ? 2 : 0;
}

/*
 * Finds or makes the connection on which this thread, of a selected process, has
 * just moved n bytes. by_msg: asked by the sk_msg program, before the bytes are
 * moved. Returns it if the bytes are to be looked at.
 */
WEFT_INLINE struct conn *conn_open(u64 sk, u32 dir, u32 n, bool by_msg)
{
	u64 id = bpf_get_current_pid_tgid();
	struct conn *c = conn_of(sk);
	struct weft_target *t;

	if (!c || c->tuple != sock_tuple((struct sock *)sk)) {
		weft_conn_new(sk, dir, n);
		c = conn_of(sk);
	}
	/* Of HTTP/2 the sk_msg program alone sees to anything. */
	if (!c || (by_msg ? c->state == CONN_HANDSOFF : c->state >= CONN_HANDSOFF))
		return 0;
	if (by_msg)
		c->by_msg = 1;
	else if (dir == DIR_TX && c->by_msg)
		return 0;
	if (c->role == WEFT_ROLE_UNKNOWN && c->state == CONN_SYNCED) {
		/* HTTP clients speak first. */
		c->role = dir == DIR_RX ? WEFT_ROLE_SERVER : WEFT_ROLE_CLIENT;
		parsers_reset(c);
	}
	if (!dir_is_request(c, dir))
		return c;
	c->tid = id;
	if (c->tgid == id >> 32)
		return c;
	/* The socket was inherited, or handed over. */
	t = target_of(id >> 32);
	if (!t)
		return 0;
	c->tgid = id >> 32;
	c->process_start_ns = t->start_ns;
	return c;
}

/* The n bytes that just moved on sk. Global: shared by every capture program. */
__attribute__((noinline)) int weft_data(u64 sk, u64 where, u64 meta, u32 n)
{
	u32 dir = meta & META_TX;
	struct conn *c = conn_open(sk, dir, n, false);
	struct http1_parser *p;
	struct direction *d;
	u32 end;
	int done = 0;

	if (!c)
		return 0;
	d = &c->dir[dir];
	p = &d->parser;
	end = sock_seq((struct sock *)sk, dir);
	if (d->next_seq == end)
		return 0; /* MSG_PEEK: nothing moved; or a spare, and it was seen */
	/* A receive that also meets the peer's FIN moves copied_seq past it: as if
	 * it stood before these bytes, as there are none behind. */
	if (dir == DIR_RX && end - n - d->next_seq == 1 &&
	    KERNEL_READ((struct sock *)sk, sk_shutdown) & RCV_SHUTDOWN)
		d->next_seq++;
	if (!conn_catch_up(c, sk, dir, meta & META_OPAQUE ? end : end - n))
		goto out;
	if (meta & META_OPAQUE) {
		/* Unseen. What the gap means was settled just now, so that a
		 * response ended by sendfile ends now. */
		count(WEFT_COUNT_SKIPPED_OPAQUE);
		goto out;
	}
	d->cursor.where = where;
	d->cursor.addr = where;
	d->cursor.offset = meta >> 32;
	d->cursor.nr = (meta >> 16) & 0xffff;
	d->cursor.left = meta & META_IOV ? 0 : n;
	d->cursor.total = n;
	d->cursor.moved = n;
	for (int i = 0; i < FEEDS_MAX && !done && d->cursor.total; i++)
		done = weft_turn(sk, meta);
	if (done == 2 || !d->cursor.total)
		goto out;
	count(WEFT_COUNT_SKIPPED_SEGMENTS);
	if (c->state != CONN_SYNCED)
		goto out;
	if (http1_skippable(p) >= d->cursor.total) {
		http1_skip(p, d->cursor.total);
		if (p->signal == HTTP1_END)
			weft_signal(sk, dir);
	} else {
		conn_desync(c, sk, WEFT_COUNT_DESYNC_BUDGET);
	}
out:
	d->next_seq = end;
	return 0;
}
