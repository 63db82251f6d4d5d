/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Header fields as a Go program keeps them, a name and a value each: hpack.HeaderField
 * in slices, net/http.Header in maps. They are put where the HTTP/1 parser puts those
 * it reads, so that what follows is the same for both.
 */
#pragma once

#include "creator.h"

/* Fields read of a header block, and pieces of one value. */
#define GO_FIELDS_MAX 192
#define GO_PIECES_MAX (BAGGAGE_MAX / HTTP1_VALUE_MAX + 2)
/* Values read of one name of a net/http.Header. */
#define GO_VALUES_MAX 8

struct go_string {
	u64 at;
	u64 len;
};

/* Copies a string of the program's to `to`, `room` bytes, a power of two. Returns how
 * many bytes are there now. */
WEFT_INLINE u32 go_copy(u8 *to, u32 room, u64 at, u64 len)
{
	u32 n = len < room ? len : room;

	if (!n)
		return 0;
	n--;
	WEFT_BARRIER(n);
	n &= room - 1;
	return bpf_probe_read_user(to, n + 1, (void *)at) ? 0 : n + 1;
}

WEFT_INLINE u32 go_dir(const struct conn *c)
{
	return c->role == WEFT_ROLE_SERVER ? DIR_RX : DIR_TX;
}

/* A value with meaning, whose kind the parser of its direction has: hands it out in
 * pieces, as the parser does. */
__attribute__((noinline)) int weft_go_value(u64 key, u64 at, u64 len)
{
	struct conn *c = conn_of(key);
	struct http1_parser *p;
	u32 dir;

	if (!c)
		return 0;
	dir = go_dir(c);
	p = &c->dir[dir & 1].parser;
	c->dir[dir & 1].cursor.addr = at;
	c->dir[dir & 1].cursor.offset = len;
	WEFT_NOUNROLL
	for (int i = 0; i < GO_PIECES_MAX; i++) {
		struct cursor *next = &c->dir[dir & 1].cursor;
		u32 n;

		WEFT_FORGET(); /* all ways through a turn meet here */
		n = go_copy(p->value, HTTP1_VALUE_MAX, next->addr, next->offset);
		p->value_raw = n;
		p->value_len = n;
		p->ended = next->offset <= HTTP1_VALUE_MAX;
		weft_piece(key, dir);
		if (p->ended)
			break;
		next->addr += HTTP1_VALUE_MAX;
		next->offset -= HTTP1_VALUE_MAX;
	}
	WEFT_FORGET();
	p->kind = HTTP1_KIND_NONE;
	return 0;
}

/* The name at user address `at` into p->name, in lower case. */
WEFT_INLINE void go_name(struct http1_parser *p, u64 at, u32 len)
{
	__builtin_memset(p->name, 0, sizeof(p->name));
	p->name_len = len;
	WEFT_BARRIER(len);
	len &= 63; /* it is HTTP1_NAME_LONGEST at most; see copy_baggage */
	if (bpf_probe_read_user(p->name, len, (void *)at))
		p->name_len = 0;
#pragma unroll
	for (int i = 0; i < HTTP1_NAME_MAX; i += 8) {
		u64 word = weft_load64(p->name + i);

		weft_store64(p->name + i, word | weft_between(word, 'A', 'Z') >> 2);
	}
}

/* A string is the target. One that cannot be read is left to user space. */
WEFT_INLINE void go_target(struct conn *c, struct http1_head *h, u64 at, u64 len)
{
	h->target_len = go_copy(h->target, WEFT_TARGET_MAX, at, len);
	h->target_total = len < 0xffff ? len : 0xffff;
	if (len && !h->target_len) {
		weft_store64(h->target, at);
		c->http |= WEFT_HTTP_UNREAD;
	}
}

/* Fields whose value is kept whole, or whose value alone tells: those HTTP/2 has in
 * place of a first line, content-type, and traceparent. True if it was one. */
WEFT_INLINE bool go_short_field(struct conn *c, struct http1_parser *p, struct http1_head *h,
				u64 at, u64 len)
{
	u64 a = weft_load64(p->name), b = weft_load64(p->name + 8);

	if (a == WEFT_WORD(':', 'p', 'a', 't', 'h', 0, 0, 0) && !b) {
		go_target(c, h, at, len);
		return true;
	}
	if (a == WEFT_WORD(':', 'm', 'e', 't', 'h', 'o', 'd', 0)) {
		h->method_len = go_copy(h->method, WEFT_METHOD_MAX, at, len);
		return true;
	}
	if ((a == WEFT_WORD(':', 'a', 'u', 't', 'h', 'o', 'r', 'i') &&
	     b == WEFT_WORD('t', 'y', 0, 0, 0, 0, 0, 0)) ||
	    (a == WEFT_WORD('h', 'o', 's', 't', 0, 0, 0, 0) && !h->host_len &&
	     c->role == WEFT_ROLE_SERVER)) {
		h->host_len = go_copy(h->host, WEFT_HOST_MAX, at, len);
		return true;
	}
	if (a == WEFT_WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-') &&
	    b == WEFT_WORD('t', 'y', 'p', 'e', 0, 0, 0, 0)) {
		weft_store64(p->value + 16, 0);
		go_copy(p->value, 32, at, len);
		/* …, …+proto, …; but not …-web */
		if (p->value[16] != '-' &&
		    weft_load64(p->value) == WEFT_WORD('a', 'p', 'p', 'l', 'i', 'c', 'a', 't') &&
		    weft_load64(p->value + 8) == WEFT_WORD('i', 'o', 'n', '/', 'g', 'r', 'p', 'c'))
			c->http |= WEFT_HTTP_GRPC;
		return true;
	}
	if (a == WEFT_WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r') &&
	    b == WEFT_WORD('e', 'n', 't', 0, 0, 0, 0, 0)) {
		if (!h->traceparent_count) {
			go_copy(h->traceparent, HTTP1_VALUE_MAX, at, len);
			h->traceparent_len = len < 0xffff ? len : 0xffff;
		}
		if (h->traceparent_count < 0xff)
			h->traceparent_count++;
		return true;
	}
	return false;
}

/* Those handed out in pieces: p->kind. */
WEFT_INLINE void go_long_field(struct conn *c, struct http1_parser *p, struct http1_head *h,
			       u64 key)
{
	u64 a = weft_load64(p->name), b = weft_load64(p->name + 8);

	p->kind = HTTP1_KIND_NONE;
	if (a == WEFT_WORD('t', 'r', 'a', 'c', 'e', 's', 't', 'a') &&
	    b == WEFT_WORD('t', 'e', 0, 0, 0, 0, 0, 0)) {
		p->kind = HTTP1_KIND_TRACESTATE;
		if (h->tracestate_count < 0xff)
			h->tracestate_count++;
	} else if (a == WEFT_WORD('b', 'a', 'g', 'g', 'a', 'g', 'e', 0)) {
		p->kind = HTTP1_KIND_BAGGAGE;
		if (h->baggage_count < 0xff)
			h->baggage_count++;
	} else if (c->role == WEFT_ROLE_SERVER &&
		   edge_names >> ((p->name[0] + 5 * p->name_len) & 63) & 1) {
		weft_name(key, DIR_RX);
	}
}

#define GO_NAMES                                                                      \
	(HTTP1_NAME_BIT(':', 5) | HTTP1_NAME_BIT(':', 7) | HTTP1_NAME_BIT(':', 10) |  \
	 HTTP1_NAME_BIT('h', 4) | HTTP1_NAME_BIT('c', 12) | HTTP1_NAME_BIT('t', 11) | \
	 HTTP1_NAME_BIT('t', 10) | HTTP1_NAME_BIT('b', 7))

#define GO_TRACEPARENT_LEN 11
#define GO_PATH_LEN 5

/*
 * May the name of this length at user address `at` be one with a meaning? -1: it cannot
 * be read, as a constant whose page is not there.
 */
WEFT_INLINE int go_name_counts(const struct conn *c, u64 at, u64 len)
{
	u64 names = GO_NAMES | (c->role == WEFT_ROLE_SERVER ? edge_names : 0);
	u8 first = 0;

	if (!len || len > HTTP1_NAME_LONGEST)
		return 0;
	if (bpf_probe_read_user(&first, 1, (void *)at))
		return -1;
	if (first - (u32)'A' < 26)
		first |= 0x20;
	return names >> ((first + 5 * len) & 63) & 1;
}

/*
 * A name as long as traceparent: notes where it is, if that is what was read. If it
 * could not be read, it is what was noted there, or else not known: false.
 */
WEFT_INLINE bool go_knows_traceparent(struct http1_parser *p, u64 at)
{
	struct weft_target *t = target_of(bpf_get_current_pid_tgid() >> 32);
	struct weft_go_layout *l = go_layout_of(t);
	bool known;

	if (!t || !l)
		return false;
	at -= t->go_bias;
	known = at && (at == l->traceparent[0] || at == l->traceparent[1]);
	if (p->name_len) {
		if (!known && at - l->image < l->image_size &&
		    weft_load64(p->name) == WEFT_WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r') &&
		    weft_load64(p->name + 8) == WEFT_WORD('e', 'n', 't', 0, 0, 0, 0, 0)) {
			l->traceparent[1] = l->traceparent[0];
			l->traceparent[0] = at;
		}
		return true;
	}
	if (!known)
		return false;
	__builtin_memset(p->name, 0, sizeof(p->name));
	weft_store64(p->name, WEFT_WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r'));
	weft_store64(p->name + 8, WEFT_WORD('e', 'n', 't', 0, 0, 0, 0, 0));
	p->name_len = GO_TRACEPARENT_LEN;
	return true;
}

/* One field of the request of a virtual connection; lens: of its name, then, from bit
 * 32 on, of its value. Returns 0, or 1 if it may be a traceparent that is not known. */
__attribute__((noinline)) int weft_go_field(u64 key, u64 name, u64 value, u64 lens)
{
	u32 name_len = lens, value_len = lens >> 32;
	struct conn *c = conn_of(key);
	struct http1_parser *p;
	struct http1_head *h;
	int counts;

	if (!c)
		return 0;
	p = &c->dir[go_dir(c) & 1].parser;
	h = &c->head[REQUEST];
	counts = go_name_counts(c, name, name_len);
	if (!counts)
		return 0;
	p->name_len = 0;
	if (counts > 0)
		go_name(p, name, name_len);
	if (!p->name_len) {
		/* Those of HTTP/2 itself come first. */
		if (name_len == GO_PATH_LEN && !h->target_total)
			go_target(c, h, value, value_len);
		if (name_len != GO_TRACEPARENT_LEN)
			return 0;
	}
	if (name_len == GO_TRACEPARENT_LEN && !go_knows_traceparent(p, name))
		return 1;
	if (go_short_field(c, p, h, value, value_len))
		return 0;
	go_long_field(c, p, h, key);
	if (p->kind)
		weft_go_value(key, value, value_len);
	return 0;
}

/* sizeof(hpack.HeaderField): two strings, and a bool. */
#define GO_HPACK_SIZE 40

/* The first n fields of the []hpack.HeaderField at `at`. Returns 0 if those are all,
 * and could be read. */
__attribute__((noinline)) int weft_go_fields(u64 key, u64 at, u64 n)
{
	struct weft_go_layout *l = go_layout();
	u64 name, value;
	u32 lost = 0;

	if (!l || !at)
		return 1;
	name = go_field(l, at, WEFT_GO_HPACK_NAME);
	value = go_field(l, at, WEFT_GO_HPACK_VALUE);
	if (!name || !value)
		return 1;
	for (u32 i = 0; i < GO_FIELDS_MAX; i++) {
		struct go_string s[2] = {};

		if (i >= n)
			return lost;
		if (bpf_probe_read_user(&s[0], sizeof(s[0]), (void *)(name + i * GO_HPACK_SIZE)) ||
		    bpf_probe_read_user(&s[1], sizeof(s[1]), (void *)(value + i * GO_HPACK_SIZE)))
			return 1;
		lost |= weft_go_field(key, s[0].at, s[1].at, (u32)s[0].len | s[1].len << 32) & 1;
	}
	return lost | (n > GO_FIELDS_MAX);
}
