//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * bpf/lib/http2.h and hpack.h as the agent's programs use them: a global function
 * per frame, called from a bounded loop. Attached nowhere; verify_http2_test.go
 * loads it, and runs it with BPF_PROG_TEST_RUN on a stream put into the map.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../lib/http2.h"
#include "../lib/hpack.h"

#define FRAMES 512
#define STREAM_MAX 32768

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct connection {
	struct http2_reader reader;
	__u32 len;    /* of the stream */
	__u32 at;     /* done with */
	__u32 frames;
	__u32 opened; /* streams */
	__u32 grow;   /* of these, how many could take grow_by more bytes */
	__u32 grow_by;
	__u32 value_len;
	__u32 field_len;
	__u8 ids[24];
	__u8 field[128];
	__u8 stream[STREAM_MAX + 64];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct connection);
} connections SEC(".maps");

static struct connection *connection_of(__u32 key)
{
	return bpf_map_lookup_elem(&connections, &key);
}

/* Takes up to one frame header; 1: there is no more. */
__attribute__((noinline)) int frame_step(__u32 key)
{
	struct connection *c = connection_of(key);
	__u32 at, left, n, have;
	struct http2_reader *r;

	if (!c)
		return 1;
	r = &c->reader;
	at = c->at;
	left = c->len - at;
	n = http2_skippable(r);
	if (n > left)
		n = left;
	http2_skip(r, n);
	at += n;
	left -= n;
	n = http2_wanted(r);
	if (n > left)
		n = left;
	c->at = at + n;
	if (!n)
		return 1;
	have = r->have;
	WEFT_OPAQUE(at);
	WEFT_OPAQUE(n);
	WEFT_OPAQUE(have);
	at &= STREAM_MAX - 1;
	n &= HTTP2_BYTES_MASK;
	have &= HTTP2_BYTES_MASK;
	bpf_probe_read_kernel(r->bytes + have, n, c->stream + at);
	http2_take(r, n);
	if (r->signal != HTTP2_FRAME)
		return 0;
	c->frames++;
	c->opened += r->opens;
	c->grow += r->opens && http2_growth(r, c->grow_by) == HTTP2_GROWS;
	return 0;
}

SEC("raw_tp")
int read_stream(void *ctx)
{
	struct connection *c = connection_of(0);
	__u32 i;

	if (!c)
		return -1;
	http2_reset(&c->reader, 0);
	WEFT_NOUNROLL
	for (i = 0; i < FRAMES; i++)
		if (frame_step(0))
			break;
	return 0;
}

SEC("raw_tp")
int write_traceparent(void *ctx)
{
	struct connection *c = connection_of(0);

	if (!c)
		return -1;
	hpack_traceparent(c->field, c->ids, c->ids + 16, 1);
	c->field_len = HPACK_TRACEPARENT_LEN;
	return 0;
}

SEC("raw_tp")
int write_tracestate(void *ctx)
{
	struct connection *c = connection_of(0);

	if (!c)
		return -1;
	c->field_len = hpack_tracestate(c->field, c->value_len);
	return 0;
}

SEC("raw_tp")
int write_baggage(void *ctx)
{
	struct connection *c = connection_of(0);

	if (!c)
		return -1;
	c->field_len = hpack_baggage(c->field, c->value_len);
	return 0;
}
