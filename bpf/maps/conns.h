/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * conns: address of the kernel's struct sock, or a virtual key (bpf/go/golang.h)
 * → struct conn.
 * Owner: made at the first send or receive of a selected process on that
 * socket, deleted when the socket reaches TCP_CLOSE. An address is reused, so
 * `tuple` must match too, or the entry belongs to a socket that is gone.
 * Full: the connection is not followed, counted as LOST_CONNS_FULL.
 *
 * A virtual key names what a Go program keeps for a connection, or a stream, whose
 * bytes mean nothing in the socket; its top bit is clear, a kernel address's is
 * set.
 *
 * Each direction has its own state: one thread may receive while another
 * sends. The socket lock is not held in the capture hooks; two threads in the
 * same direction show up as a gap and end in a resynchronisation.
 */
#pragma once

#include "counters.h"
#include "../abi/event.h"
#include "../lib/http1.h"
#include "../lib/http2.h"
#include "../lib/traceparent.h"

enum {
	DIR_RX = 0,
	DIR_TX = 1,
};

/* Index of struct conn.head: whether the message is a request. */
enum {
	RESPONSE = 0,
	REQUEST = 1,
};

enum conn_state {
	CONN_SYNCED = 1,   /* every byte seen, or a boundary was found */
	CONN_UNSYNCED = 2, /* joined midway: wait for one whole response */
	CONN_HANDSOFF = 3, /* not HTTP, or no longer: never looked at again */
	CONN_HTTP2 = 4,	   /* its sends are HTTP/2; receives are not looked at */
};

/* Bytes read at once for the parser, which takes them HTTP1_WINDOW at a time; a
 * power of two. */
#define READ_AHEAD 256
_Static_assert((READ_AHEAD & (READ_AHEAD - 1)) == 0, "offsets into the window are masked");

/* Unanswered requests followed per connection; a power of two. */
#define PIPELINE_MAX 8

struct pending {
	u64 span_id;
	u64 request_body;
	u64 first_byte_ns;
	u16 status;
	u8 is_head;
	u8 is_connect;
	u8 sampled;
	u8 rpc; /* 1 + the gRPC status; 0: none */
	u8 pad[2];
};

/* What is left of the send or receive being parsed. Here rather than in
 * registers: the verifier forgets memory, so that every turn looks alike. */
struct cursor {
	u64 where;  /* next iovec */
	u64 addr;   /* next byte */
	u64 offset; /* into the next iovec's buffer */
	u32 left;   /* bytes at addr */
	u32 total;  /* bytes left in all */
	u32 moved;  /* bytes in all */
	u32 nr;	    /* iovecs left */
};

/* Of the sends of an HTTP/2 connection. */
struct http2_sends {
	struct http2_reader reader;
	u32 bare; /* requests for which nothing was to be written */
	u32 met;  /* requests for which something was */
};

struct direction {
	u32 next_seq; /* sequence number of the next byte expected here */
	u32 fed;      /* bytes parsed of the stretch at hand */
	u32 at;	      /* the next of them in the window */
	u32 held;     /* bytes there from `at` on */
	struct cursor cursor;
	union {
		struct http1_parser parser;
		struct http2_sends http2; /* CONN_HTTP2 */
	};
	/* The bytes being parsed: not on the stack, not per CPU (programs may be
	 * preempted). What is behind READ_AHEAD is never filled: a step from any
	 * place before it is shown a whole HTTP1_WINDOW. */
	u8 window[READ_AHEAD + HTTP1_WINDOW];
};

/* What a request became; kept from its header block to its event. */
struct outgoing {
	struct traceparent wire; /* as it came in; not on the stack, which is scarce */
	u8 trace_id[16];
	u8 span_id[8];
	u8 parent_id[8];
	u64 threshold; /* of the head decision */
	u32 lines_len; /* bytes to be written into the request */
	u8 flags;
	u8 rule;       /* enum weft_parent_rule */
	u8 sampled;
	u8 mark;       /* enum tracestate_mode: what becomes of tracestate's ot=th */
	u8 write;      /* enum weft_header bits: what the sk_msg program is to write */
	u8 written;    /* weft's line stands in the head already */
	u8 linked;     /* wire holds the claim of an untrusted peer */
	u8 carry;      /* enum carried_class of a server's exchange */
	u8 pad[4];
	u8 line[72];   /* "traceparent: " + 55 + CR LF = 70 */
};

/* Nobody does yet: weft_go_serve will say. */
#define GOID_LATER 0xffffffffffffffffULL

struct conn {
	u64 tuple;	 /* ports and remote address, folded */
	u64 start_ns;	 /* first byte of the request being received or sent */
	u64 response_ns; /* first byte of the response */
	u64 process_start_ns;
	u32 tgid;
	u32 tid;   /* last thread that moved request bytes */
	u8 role;   /* enum weft_role */
	u8 state;  /* enum conn_state */
	u8 by_msg; /* its sends are read by the sk_msg program */
	u8 resync; /* 1 + the direction of the response being followed to find a boundary */
	u8 first;  /* pending[first & mask] is the oldest unanswered */
	u8 last;
	u8 quiet;  /* the self-test's own */
	u8 trust;  /* of the peer's network: 0 not asked yet, 1 trusted, 2 not */
	u16 slot;  /* 1 + the slot it holds; 0: none; or SLOT_DENIED (maps/slots.h) */
	u8 egress; /* 1 + the egress rule for the peer; 0: not asked yet; 255: none */
	u8 http;   /* enum weft_http, of a virtual connection */
	u16 local_port;
	u16 remote_port;
	u8 local_addr[16]; /* both as the event has them */
	u8 remote_addr[16];
	u64 sk;		   /* of a virtual connection: the socket under it; 0: not known */
	u64 above;	   /* of a socket: the virtual connection over it that ends with it */
	u64 departs;	   /* its key in go_departures; 0: the same */
	u64 goid;	   /* of a virtual connection: who serves it; 0: who runs now; GOID_LATER */
	u64 object;	   /* of a virtual connection: what its sites have to find again */
	u8 writes;	   /* of a virtual connection: its heads are edited in user memory */
	u8 unsettled; /* of a virtual connection: a request's records are still to be written */
	u8 over;      /* of a virtual connection: 1 + enum weft_end, if the call ended unsent */
	u8 rpc;	      /* and how, as in struct pending */
	u8 greeted;   /* the peer began with SETTINGS of HTTP/2, before anything was sent */
	u8 pad[3];
	struct pending pending[PIPELINE_MAX];
	struct outgoing out;
	struct direction dir[2];
	struct http1_head head[2]; /* of the message being read: RESPONSE, REQUEST */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct conn);
} conns SEC(".maps");

/* A struct conn is too large for the stack: new entries are copied from here,
 * then set up in place. Never written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct conn);
} blank_conn SEC(".maps");

/*
 * The key of what is kept at address `object` of process tgid, or of one stream of
 * it. Of a stream on a socket, as the sk_msg program meets it: tgid 0 and the
 * socket's address.
 */
WEFT_INLINE u64 virtual_key(u32 tgid, u64 object, u32 stream)
{
	u64 h = object ^ ((u64)tgid << 32 | stream) * 0x9e3779b97f4a7c15ULL;

	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	h ^= h >> 32;
	return h & 0x7fffffffffffffffULL;
}

WEFT_INLINE bool key_is_virtual(u64 key)
{
	return !(key >> 63);
}

WEFT_INLINE struct conn *conn_of(u64 sk)
{
	return bpf_map_lookup_elem(&conns, &sk);
}
