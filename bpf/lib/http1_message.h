/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the HTTP/1 parser keeps of a message, and how its body is framed and
 * skipped. The bytes themselves are http1.h's.
 */
#pragma once

#ifndef WEFT_TARGET_MAX
#error "http1_message.h: include abi/event.h first"
#endif

#include "portable.h"

#define HTTP1_WINDOW 128      /* bytes examined per step; a power of two */
#define HTTP1_HEAD_MAX 16384  /* bytes of a header block, blank line included */
#define HTTP1_EMPTY_MAX 4     /* empty lines before a request line */
#define HTTP1_FIELDS_MAX 64   /* lines with meaning (enum http1_kind) per block */
#define HTTP1_NAME_MAX 48     /* bytes of a field name kept */
#define HTTP1_NAME_LONGEST 40 /* of the names that have or can be given a meaning */
#define HTTP1_VALUE_MAX 64    /* bytes of a field value kept, except Host */

/* Steps that any header block needs when it lies in one piece: one a window, two
 * a line with meaning, one a piece of a long value. */
#define HTTP1_HEAD_STEPS                                                                           \
	(HTTP1_HEAD_MAX / HTTP1_WINDOW + 2 * HTTP1_FIELDS_MAX + HTTP1_HEAD_MAX / HTTP1_VALUE_MAX + \
	 1)

/* What the caller should do now. */
enum http1_signal {
	HTTP1_MORE = 0, /* step again with the bytes that follow */
	HTTP1_HEAD = 1, /* header block complete: call http1_begin_body */
	HTTP1_BODY = 2, /* in body data: http1_skippable bytes need not be read */
	HTTP1_END = 3,	/* message complete: call http1_reset */
	HTTP1_RAW = 4,	/* not plain HTTP/1: hands off for good; see reason */
	/* The next two may be ignored; inside a header block. */
	HTTP1_VALUE = 5, /* value_raw bytes of a long value (kind) stand in value; if `ended`,
			  * its last ones. Step again; the next step forgets them. */
	HTTP1_NAME = 6,	 /* a name that may be one of the caller's (http1_want): http1_keep,
			  * or step again */
};

/* Why a connection went RAW. The values are exported; append only. */
enum http1_reason {
	HTTP1_REASON_NONE = 0,
	HTTP1_REASON_METHOD = 1,    /* the first line does not begin with a method */
	HTTP1_REASON_TARGET = 2,    /* request target empty or with a control byte */
	HTTP1_REASON_VERSION = 3,   /* no HTTP/1.0 or HTTP/1.1 where it should be */
	HTTP1_REASON_HTTP2 = 4,	    /* the preface of HTTP/2, or a HTTP/2 version */
	HTTP1_REASON_STATUS = 5,    /* status line malformed */
	HTTP1_REASON_LINE_END = 6,  /* CR without LF, or LF without CR */
	HTTP1_REASON_CONTROL = 7,   /* control byte in a value or reason phrase */
	HTTP1_REASON_NAME = 8,	    /* field name not a token, or space before ':' */
	HTTP1_REASON_FOLD = 9,	    /* line beginning with white space */
	HTTP1_REASON_TOO_LONG = 10, /* head or trailers over HTTP1_HEAD_MAX */
	HTTP1_REASON_LENGTH = 11,   /* Content-Length malformed or contradictory */
	HTTP1_REASON_CODING = 12,   /* Transfer-Encoding does not frame the message */
	HTTP1_REASON_FRAMING = 13,  /* both Content-Length and Transfer-Encoding */
	HTTP1_REASON_CHUNK = 14,    /* chunk framing malformed */
	HTTP1_REASON_FIELDS = 15,   /* over HTTP1_FIELDS_MAX lines with meaning */
	HTTP1_REASON_EMPTY = 16,    /* over HTTP1_EMPTY_MAX empty lines at the start */
	HTTP1_REASON_UPGRADE = 17,  /* set by the caller: 101, or CONNECT accepted */
	HTTP1_REASON_CALLER = 18,   /* set by the caller: bytes passed unseen, ... */
	HTTP1_REASON_COUNT = 19,
};

/*
 * Where in the message the next byte stands. The order matters: up to
 * HTTP1_PHASE_KEEP bytes may be taken in runs, everything before
 * HTTP1_PHASE_HEAD_DONE is inside a header or trailer block, and from
 * HTTP1_PHASE_DATA on no byte is parsed.
 */
enum http1_phase {
	HTTP1_PHASE_NAME = 0,	  /* at a line's start or in its name */
	HTTP1_PHASE_SKIP = 1,	  /* value nobody asked for */
	HTTP1_PHASE_PHRASE = 2,	  /* reason phrase */
	HTTP1_PHASE_TARGET = 3,
	HTTP1_PHASE_KEEP = 4,	  /* value with meaning */
	HTTP1_PHASE_VALUE_LF = 5, /* CR after a value seen */
	HTTP1_PHASE_BLANK_LF = 6, /* CR of the empty line seen */
	HTTP1_PHASE_START = 7,	  /* before a request line */
	HTTP1_PHASE_START_LF = 8, /* CR of an empty line seen */
	HTTP1_PHASE_METHOD = 9,
	HTTP1_PHASE_VERSION = 10, /* request: "HTTP/1.x" CR */
	HTTP1_PHASE_STATUS = 11,  /* response: "HTTP/1.x NNN" */
	HTTP1_PHASE_LINE_LF = 12, /* CR of the first line seen */
	HTTP1_PHASE_HEAD_DONE = 13,
	HTTP1_PHASE_CHUNK_SIZE = 14,
	HTTP1_PHASE_CHUNK_EXT = 15,
	HTTP1_PHASE_CHUNK_LF = 16,     /* CR of the size line seen */
	HTTP1_PHASE_CHUNK_END = 17,    /* CR after chunk data */
	HTTP1_PHASE_CHUNK_END_LF = 18, /* LF after chunk data */
	HTTP1_PHASE_DATA = 19,	       /* body by Content-Length */
	HTTP1_PHASE_CHUNK_DATA = 20,
	HTTP1_PHASE_CLOSE = 21,	       /* body until the connection closes */
	HTTP1_PHASE_DONE = 22,
	HTTP1_PHASE_RAW = 23,
};

/* Lines with meaning. Upgrade has none beyond its presence. */
enum http1_kind {
	HTTP1_KIND_NONE = 0,
	HTTP1_KIND_HOST = 1,
	HTTP1_KIND_LENGTH = 2,
	HTTP1_KIND_CODING = 3,
	HTTP1_KIND_TRACEPARENT = 4,
	/* Long ones, handed out in pieces (HTTP1_VALUE). */
	HTTP1_KIND_TRACESTATE = 5,
	HTTP1_KIND_BAGGAGE = 6,
	HTTP1_KIND_CALLER = 7, /* and up: http1_keep(p, which) is KIND_CALLER + which */
};

/* One per direction of a connection; http1_reset makes it valid. */
struct http1_parser {
	__u64 names;		     /* http1_name_bit of the names with meaning */
	__u64 wanted;		     /* likewise, of the caller's */
	__u64 remaining;	     /* bytes left of the counted body or of this chunk */
	__u64 body_bytes;	     /* body so far, chunk framing excluded */
	__u8 name[HTTP1_NAME_MAX];   /* field name in lower case, zero padded */
	__u8 value[HTTP1_VALUE_MAX]; /* field value without leading white space */
	__u32 head_bytes;	     /* of this header block, from http1_reset */
	__u32 blank_at;		     /* at HTTP1_HEAD: where the empty line's CR stands */
	__u32 trailer_bytes;
	__u32 pos;		     /* in the window; of meaning during a step only */
	__u32 limit;		     /* likewise */
	__u16 name_len;
	__u16 value_raw;	     /* value so far, trailing white space included */
	__u16 value_len;	     /* and excluded */
	__u16 ext_len;		     /* of this chunk's extensions */
	__u8 phase;		     /* enum http1_phase */
	__u8 signal;		     /* enum http1_signal, set by every call */
	__u8 reason;		     /* enum http1_reason, when signal is HTTP1_RAW */
	__u8 is_request;
	__u8 kind;		     /* enum http1_kind of the line being read */
	__u8 pending;		     /* the same, for a line that waits to be interpreted */
	__u8 trailer;		     /* the block being read is the trailers */
	__u8 matched;		     /* bytes of "HTTP/1.x NNN" seen */
	__u8 empty_lines;
	__u8 digits;		     /* of the chunk size */
	__u8 fields;		     /* lines interpreted */
	__u8 in_block;		     /* this step began in a header or trailer block */
	__u8 stop;		     /* this step ends here */
	__u8 named;		     /* a name waits to be looked at */
	__u8 begun;		     /* of this value something but white space was seen */
	__u8 piece;		     /* HTTP1_VALUE is due, or was given last */
	__u8 ended;		     /* and with it the line */
	__u8 pad[3];
};

/* What a header block said. Complete at HTTP1_HEAD; until then partial. */
struct http1_head {
	__u64 content_length;	/* bytes, if have_length */
	__u16 status;		/* response: 100 to 999 */
	__u16 target_len;	/* bytes held in target */
	__u16 target_total;	/* and on the wire */
	__u16 host_len;		/* bytes held in host */
	__u16 traceparent_len;	/* of the first traceparent, trimmed, may exceed what is held */
	__u8 traceparent_count; /* lines of that name */
	__u8 tracestate_count;
	__u8 baggage_count;
	__u8 method_len;
	__u8 http_minor;  /* 0 or 1 */
	__u8 have_length;
	__u8 have_coding; /* a Transfer-Encoding line was there */
	__u8 chunked;	  /* and its last coding is chunked */
	__u8 have_host;
	__u8 upgrade;	  /* an Upgrade line was there */
	__u8 pad[4];
	__u8 method[WEFT_METHOD_MAX];
	__u8 traceparent[HTTP1_VALUE_MAX]; /* first line of that name, zero padded */
	__u8 host[WEFT_HOST_MAX];
	__u8 target[WEFT_TARGET_MAX];
};

_Static_assert((HTTP1_WINDOW & (HTTP1_WINDOW - 1)) == 0, "window is used as a mask");
_Static_assert((WEFT_METHOD_MAX & (WEFT_METHOD_MAX - 1)) == 0, "method index is masked");
_Static_assert(HTTP1_NAME_LONGEST - 1 + 8 <= HTTP1_NAME_MAX, "a name is stored by words");
_Static_assert(sizeof(struct http1_parser) == 192, "parser state");
_Static_assert(sizeof(struct http1_head) == 496, "head");

/* Names are told apart by one bit first: most lines mean nothing. */
WEFT_INLINE __u64 http1_name_bit(__u8 first, __u32 len)
{
	return 1ULL << ((first + 5 * len) & 63);
}

#define HTTP1_NAME_BIT(first, len) (1ULL << (((first) + 5 * (len)) & 63))
#define HTTP1_NAMES_RESPONSE                                                     \
	(HTTP1_NAME_BIT('c', 14) |			 /* content-length */    \
	 HTTP1_NAME_BIT('t', 17) |			 /* transfer-encoding */ \
	 HTTP1_NAME_BIT('u', 7))			 /* upgrade */
#define HTTP1_NAMES_REQUEST                                                \
	(HTTP1_NAMES_RESPONSE | HTTP1_NAME_BIT('h', 4) | /* host */        \
	 HTTP1_NAME_BIT('t', 11) |			 /* traceparent */ \
	 HTTP1_NAME_BIT('t', 10) |			 /* tracestate */  \
	 HTTP1_NAME_BIT('b', 7))			 /* baggage */

/* Zeroed name, so that a shorter name leaves nothing of a longer one. */
WEFT_INLINE void http1_line(struct http1_parser *p)
{
	__builtin_memset(p->name, 0, sizeof(p->name));
	p->name_len = 0;
	p->kind = HTTP1_KIND_NONE;
	p->phase = HTTP1_PHASE_NAME;
}

/* Hands off for good. Also for the caller: an upgrade, bytes passed unseen. */
WEFT_INLINE void http1_hands_off(struct http1_parser *p, __u8 reason)
{
	p->phase = HTTP1_PHASE_RAW;
	p->signal = HTTP1_RAW;
	p->reason = reason;
}

/* Before each message, the first included. A RAW parser is revived by this too. */
WEFT_INLINE void http1_reset(struct http1_parser *p, struct http1_head *h, int is_request)
{
	__builtin_memset(p, 0, sizeof(*p));
	__builtin_memset(h, 0, sizeof(*h));
	p->is_request = is_request != 0;
	p->names = is_request ? HTTP1_NAMES_REQUEST : HTTP1_NAMES_RESPONSE;
	p->phase = is_request ? HTTP1_PHASE_START : HTTP1_PHASE_STATUS;
}

/* After http1_reset: a request's lines of this name (lower case) are announced
 * by HTTP1_NAME, others now and then too. */
WEFT_INLINE void http1_want(struct http1_parser *p, __u64 name_bits)
{
	if (p->is_request)
		p->wanted = name_bits;
}

/* At HTTP1_NAME: the value of this line is to be handed out. */
WEFT_INLINE void http1_keep(struct http1_parser *p, __u8 which)
{
	p->kind = HTTP1_KIND_CALLER + which;
	p->phase = HTTP1_PHASE_KEEP;
}

WEFT_INLINE int http1_until_close(const struct http1_parser *p)
{
	return p->phase == HTTP1_PHASE_CLOSE;
}

/* Statuses whose response never has a body, whatever its fields say. */
WEFT_INLINE int http1_status_no_body(__u16 status)
{
	return status < 200 || status == 204 || status == 304;
}

/* Body bytes that may pass without being looked at; 0 if they must be stepped. */
WEFT_INLINE __u64 http1_skippable(const struct http1_parser *p)
{
	__u8 phase = p->phase;

	if (phase == HTTP1_PHASE_CLOSE)
		return ~0ULL;
	if (phase == HTTP1_PHASE_DATA || phase == HTTP1_PHASE_CHUNK_DATA)
		return p->remaining;
	return 0;
}

/* n body bytes have passed; more than http1_skippable counts as that many. */
WEFT_INLINE void http1_skip(struct http1_parser *p, __u64 n)
{
	__u8 phase = p->phase;
	__u64 left;

	if (phase == HTTP1_PHASE_CLOSE) {
		p->body_bytes += n;
		return;
	}
	if (phase != HTTP1_PHASE_DATA && phase != HTTP1_PHASE_CHUNK_DATA)
		return;
	left = p->remaining;
	if (n > left)
		n = left;
	p->body_bytes += n;
	p->remaining = left - n;
	if (n != left)
		return;
	if (phase == HTTP1_PHASE_DATA) {
		p->phase = HTTP1_PHASE_DONE;
		p->signal = HTTP1_END;
	} else {
		p->phase = HTTP1_PHASE_CHUNK_END;
		p->signal = HTTP1_MORE;
	}
}

/*
 * After HTTP1_HEAD: chooses the framing by RFC 9112 section 6.3 and sets signal
 * to MORE (chunked), BODY or END. no_body is what only the exchange can tell:
 * response to HEAD, 2xx to CONNECT, http1_status_no_body.
 */
WEFT_INLINE void http1_begin_body(struct http1_parser *p, const struct http1_head *h, int no_body)
{
	if (p->phase != HTTP1_PHASE_HEAD_DONE)
		return;
	p->phase = HTTP1_PHASE_DONE;
	p->signal = HTTP1_END;
	if (no_body)
		return;
	if (h->chunked) {
		p->phase = HTTP1_PHASE_CHUNK_SIZE;
		p->signal = HTTP1_MORE;
	} else if (h->have_length && !h->have_coding) {
		if (!h->content_length)
			return;
		p->remaining = h->content_length;
		p->phase = HTTP1_PHASE_DATA;
		p->signal = HTTP1_BODY;
	} else if (!p->is_request) {
		p->phase = HTTP1_PHASE_CLOSE;
		p->signal = HTTP1_BODY;
	}
}
