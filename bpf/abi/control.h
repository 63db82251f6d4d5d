/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What user space writes and the programs read, and the other way round. */
#pragma once

/* Bits of struct weft_target.flags. */
enum weft_target_flag {
	WEFT_TARGET_STICKY = 1,	  /* stays selected across exec (weft exec) */
	WEFT_TARGET_PARENT = 2,	  /* not itself selected, its children are */
	WEFT_TARGET_QUIET = 4,	  /* no events and no context (the self-test) */
	WEFT_TARGET_MIGRATES = 8, /* work moves between threads: they tell nothing */
	WEFT_TARGET_GO = 16,	  /* in Go: without its layout, nothing tells whom a call is for */
};

struct weft_target {
	__u64 start_ns;	 /* start_boottime of the thread group leader */
	__u32 flags;	 /* enum weft_target_flag */
	__u32 index;	 /* which entry of `targets` selected it; user space's own */
	__u32 rules;	 /* bit i: sampling rule i is for this service */
	__u32 service;	 /* index of its rate limit */
	__u64 go_bias;	 /* added to the addresses of its layout: load bias of a PIE */
	__u32 go_layout; /* 1 + index into go_layouts; 0: not Go, or not known */
	__u32 go_flags;	 /* enum weft_go_use */
};

/* Bits of struct weft_target.go_flags. */
enum weft_go_use {
	WEFT_GO_USE_TLS = 1,	      /* HTTP/1 over TLS was seen: user space has been told */
	WEFT_GO_USE_TLS_ATTACHED = 2, /* and it has attached what it takes */
	/* A header block of HTTP/2, of gRPC, has been read whole: they are where they should. */
	WEFT_GO_USE_H2_READ = 4,
	WEFT_GO_USE_GRPC_READ = 8,
};

struct weft_control {
	__u64 deadline_ns; /* CLOCK_MONOTONIC; past it nothing is injected */
};

/* Headers, as bits of masks. */
enum weft_header {
	WEFT_HEADER_TRACEPARENT = 1,
	WEFT_HEADER_TRACESTATE = 2,
	WEFT_HEADER_BAGGAGE = 4,
};

/* Key of the policy's tries: a network, IPv4 as v4-mapped IPv6. */
struct weft_network {
	__u32 prefix; /* bits */
	__u8 address[16];
};

#define WEFT_KEYS_MAX 16
#define WEFT_EGRESS_MAX 64
#define WEFT_PORTS_MAX 4

/* Baggage keys, by hash; the layout of struct baggage_keys. */
struct weft_keys {
	__u32 count;
	__u32 any; /* not 0: every key */
	__u64 hash[WEFT_KEYS_MAX];
};

/* What may leave to a network. The first rule that covers address and port. */
struct weft_egress {
	__u16 port_low[WEFT_PORTS_MAX]; /* host order */
	__u16 port_high[WEFT_PORTS_MAX];
	__u8 ports;			/* ranges; 0: any port */
	__u8 headers;
	__u8 pad[6];
	struct weft_keys keys; /* count 0: all baggage */
};

#define WEFT_RULES_MAX 32
#define WEFT_RULE_PATH 64

/* For requests without a parent: the first rule that matches sets the share. */
struct weft_sampling_rule {
	__u64 threshold;	   /* as sampler_threshold */
	__u8 path[WEFT_RULE_PATH]; /* prefix of the request target */
	__u8 mask[WEFT_RULE_PATH]; /* 0xff for each byte of path */
	__u8 method[16];	   /* zero padded; empty: any */
	__u8 path_len;
	__u8 exact;		   /* the path ends here, or a query begins */
	__u8 reads;		   /* GET and HEAD only */
	__u8 pad[5];
};

/* A request header whose value becomes a baggage member. */
#define WEFT_EDGES_MAX 8
#define WEFT_EDGE_NAME 48 /* HTTP1_NAME_MAX */
#define WEFT_EDGE_KEY 64

struct weft_edge {
	__u8 name[WEFT_EDGE_NAME]; /* lower case, zero padded */
	__u8 key[WEFT_EDGE_KEY];   /* the member's key */
	__u64 hash;		   /* of the key */
	__u32 name_len;
	__u32 key_len;
};

/*
 * Counters, one per cause. The name after WEFT_COUNT_ in lower case, up to the
 * first underscore, is the metric; the rest is its `cause` label.
 */
enum weft_counter {
	WEFT_COUNT_EVENTS_WRITTEN,	 /* records handed to the ring */
	WEFT_COUNT_LOST_RING_FULL,
	WEFT_COUNT_LOST_CONNS_FULL,	 /* connection not tracked */
	WEFT_COUNT_LOST_EXCHANGES_FULL,	 /* no context for its departures */
	WEFT_COUNT_LOST_THREADS_FULL,
	WEFT_COUNT_LOST_CALLS_FULL,	 /* entry of a send or receive not remembered */
	WEFT_COUNT_LOST_TARGETS_FULL,	 /* forked child not selected */
	WEFT_COUNT_LOST_SLOTS_FULL,	 /* no room to read or write tracestate and baggage */
	WEFT_COUNT_LOST_CARRIED_FULL,	 /* and none to keep them */
	WEFT_COUNT_LOST_CONTEXTS_FULL,	 /* a Go request's context.Context not remembered */
	WEFT_COUNT_LOST_DEPARTURES_FULL, /* a Go call's parent not handed to who writes it */
	WEFT_COUNT_SKIPPED_OPAQUE,	 /* bytes passed by a call whose buffer is not followed */
	WEFT_COUNT_SKIPPED_COMPAT,	 /* 32-bit program on the tracepoint way */
	WEFT_COUNT_SKIPPED_FAULT,	 /* user memory was not readable */
	WEFT_COUNT_SKIPPED_SEGMENTS,	 /* more iovec segments than are followed */
	WEFT_COUNT_DESYNC_GAP,		 /* bytes passed unseen inside a message head */
	WEFT_COUNT_DESYNC_BUDGET,	 /* too many steps in one send or receive */
	WEFT_COUNT_DESYNC_PIPELINE,	 /* more unanswered requests than are followed */
	WEFT_COUNT_DESYNC_UNEXPECTED,	 /* response without request, or data where none belongs */
	WEFT_COUNT_RESYNC_DONE,	       /* a full response seen: the connection is followed again */
	WEFT_COUNT_HANDSOFF_RAW,       /* not plain HTTP/1: left alone for good */
	WEFT_COUNT_HANDSOFF_UPGRADE,
	WEFT_COUNT_HANDSOFF_HTTP2,     /* HTTP/2, and nobody has anything to write into it */
	WEFT_COUNT_HTTP2_FOLLOWED,     /* connections of clients, from their preface on */
	WEFT_COUNT_HTTP2_JOINED,       /* the same, from a frame of which a program tells */
	WEFT_COUNT_HTTP2_LOST,	       /* bytes passed unseen: left alone for good */
	WEFT_COUNT_HTTP2_MIDWAY,       /* requests on connections that could not be joined yet */
	WEFT_COUNT_HTTP2_NO_DEPARTURE, /* requests for which nothing was to be written */
	WEFT_COUNT_REQUESTS_SERVER,
	WEFT_COUNT_REQUESTS_CLIENT,
	WEFT_COUNT_UNSAMPLED_SERVER,   /* exchange sampled out: context but no event */
	WEFT_COUNT_UNSAMPLED_CLIENT,
	WEFT_COUNT_LIMITED_ROOTS,      /* sampled out by the rate limit */
	WEFT_COUNT_CONTEXT_INVALID,    /* inbound traceparent malformed */
	WEFT_COUNT_CONTEXT_DUPLICATE,  /* inbound traceparent repeated */
	WEFT_COUNT_CONTEXT_NONE,       /* no inbound traceparent */
	WEFT_COUNT_CONTEXT_UNREAD,     /* over TLS: the head is no longer in the read buffer */
	WEFT_COUNT_CONTEXT_CONTINUED,
	WEFT_COUNT_CONTEXT_UNTRUSTED,  /* inbound context of a network that is not trusted */
	WEFT_COUNT_TRACESTATE_KEPT,
	WEFT_COUNT_TRACESTATE_INVALID, /* malformed: dropped whole */
	WEFT_COUNT_TRACESTATE_CUT,     /* members dropped: over TRACESTATE_MAX */
	WEFT_COUNT_BAGGAGE_KEPT,
	WEFT_COUNT_BAGGAGE_MALFORMED,  /* members left out */
	WEFT_COUNT_BAGGAGE_CUT,	       /* members dropped: over BAGGAGE_MAX or BAGGAGE_MEMBERS */
	WEFT_COUNT_BAGGAGE_SET,	       /* members made of a request header */
	WEFT_COUNT_PARENT_AMBIGUOUS,
	WEFT_COUNT_PARENT_NONE,
	WEFT_COUNT_PARENT_THREAD,
	WEFT_COUNT_PARENT_SOLE,
	WEFT_COUNT_PARENT_ADOPTED,
	WEFT_COUNT_PARENT_CONTEXT,
	WEFT_COUNT_PARENT_GOROUTINE,
	WEFT_COUNT_PARENT_CREATOR,
	WEFT_COUNT_UNPROVEN_NONE,    /* Go: neither context nor goroutine nor creator serves one */
	WEFT_COUNT_UNPROVEN_DEEP,    /* and the chain of contexts is longer than is walked */
	WEFT_COUNT_UNPROVEN_ENDED,   /* the request it was made for has been answered */
	WEFT_COUNT_UNPROVEN_CREATOR, /* made by a goroutine that serves one: not known that for it */
	WEFT_COUNT_UNPROVEN_MEMORY,  /* the goroutine could not be read */
	WEFT_COUNT_UNPROVEN_GONE,    /* one of those it was made by has left no trace */
	WEFT_COUNT_INJECTED_SOCKET,  /* by sk_msg */
	WEFT_COUNT_INJECTED_MEMORY,  /* into the program's own write buffer */
	WEFT_COUNT_WRITTEN_TRACESTATE,
	WEFT_COUNT_WRITTEN_BAGGAGE,
	WEFT_COUNT_WITHHELD_TRACEPARENT, /* by the egress policy */
	WEFT_COUNT_WITHHELD_TRACESTATE,
	WEFT_COUNT_WITHHELD_BAGGAGE,
	WEFT_COUNT_WITHHELD_SPACE,  /* baggage or tracestate: the head would grow too long */
	WEFT_COUNT_REFUSED_SPLIT,   /* the final CRLF CRLF is split over sends */
	WEFT_COUNT_REFUSED_ROOM,    /* send buffer nearly full */
	WEFT_COUNT_REFUSED_MEMORY,  /* push or pull failed; bytes restored */
	WEFT_COUNT_REFUSED_FAR,	    /* head too far into the message */
	WEFT_COUNT_REFUSED_NAGLE,   /* would wait for a delayed ACK: see LINEAR_MAX */
	WEFT_COUNT_REFUSED_FRAMES,  /* HTTP/2: the header block takes several frames */
	WEFT_COUNT_REFUSED_PADDED,  /* HTTP/2: the header block is padded */
	WEFT_COUNT_REFUSED_LONG,    /* HTTP/2: the frame would exceed 16,384 bytes */
	WEFT_COUNT_REFUSED_OFF,	    /* inject: [] or self-test failed */
	WEFT_COUNT_REFUSED_EXPIRED, /* the agent's deadline has passed */
	WEFT_COUNT_REFUSED_DAMAGED, /* could neither write nor restore: send failed */
	WEFT_COUNT_REFUSED_BUFFER,  /* no room in the program's write buffer */
	WEFT_COUNT_REFUSED_LIVE,    /* the program's memory is not as its version says */
	WEFT_COUNT_REFUSED_VERSION, /* offsets of that version are not known for certain */
	WEFT_COUNT_REFUSED_TLS,	    /* encrypted, and the kernel lets nobody write user memory */
	WEFT_COUNT_REFUSED_FAULT,   /* the program's write buffer could not be written */
	WEFT_COUNT_MIGRATES_SEEN,   /* process found to move requests between threads */
	WEFT_COUNT_SOCKHASH_ADDED,
	WEFT_COUNT_SOCKHASH_FAILED,
	WEFT_COUNT_MAX,
};

_Static_assert(sizeof(struct weft_target) == 40, "target");
_Static_assert(sizeof(struct weft_network) == 20, "network");
_Static_assert(sizeof(struct weft_egress) == 160, "egress rule");
_Static_assert(sizeof(struct weft_sampling_rule) == 160, "sampling rule");
_Static_assert(sizeof(struct weft_edge) == 128, "edge header");
