//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * bpf/lib as the agent's programs use it, small enough to see what a verifier
 * makes of it: a global function (verified on its own) per parser step, called
 * from a bounded loop. Attached nowhere; verify_test.go loads it, and runs it
 * with BPF_PROG_TEST_RUN on a message put into the map.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../abi/event.h"
#include "../lib/http1.h"
#include "../lib/traceparent.h"

#define STEPS 160
#define MESSAGE_MAX 32768

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct slot {
	struct http1_parser parser;
	struct http1_head head;
	struct traceparent context;
	__u32 message_len;
	__u32 used;
	__u32 steps;
	__u32 result; /* enum traceparent_result */
	__u8 window[HTTP1_WINDOW];
	__u8 message[MESSAGE_MAX + HTTP1_WINDOW];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

static struct slot *slot_of(__u32 key)
{
	return bpf_map_lookup_elem(&slots, &key);
}

__attribute__((noinline)) int parse_step(__u32 key, __u32 n)
{
	struct slot *s = slot_of(key);

	if (!s)
		return -1;
	return http1_step(&s->parser, &s->head, s->window, n);
}

/* What follows a step: chooses the framing, skips body data; bytes skipped. */
__attribute__((noinline)) int parse_body(__u32 key, __u32 left)
{
	struct slot *s = slot_of(key);
	__u64 skip;

	if (!s)
		return -1;
	if (s->parser.signal == HTTP1_HEAD)
		http1_begin_body(&s->parser, &s->head, 0);
	skip = http1_skippable(&s->parser);
	if (skip > left)
		skip = left;
	http1_skip(&s->parser, skip);
	return skip;
}

__attribute__((noinline)) int parse_context(__u32 key)
{
	struct slot *s = slot_of(key);

	if (!s)
		return -1;
	s->result = traceparent_parse(s->head.traceparent, s->head.traceparent_len, &s->context);
	return 0;
}

SEC("raw_tp")
int parse_message(void *ctx)
{
	struct slot *s = slot_of(0);
	__u32 used = 0;
	__u32 i;

	if (!s)
		return -1;
	http1_reset(&s->parser, &s->head, 1);
	WEFT_NOUNROLL
	for (i = 0; i < STEPS; i++) {
		__u32 left = s->message_len - used;

		if (used > MESSAGE_MAX || used >= s->message_len || s->parser.signal >= HTTP1_END)
			break;
		if (bpf_probe_read_kernel(s->window, sizeof(s->window), s->message + used))
			break;
		used += parse_step(0, left);
		used += parse_body(0, s->message_len - used);
	}
	s->used = used;
	s->steps = i;
	if (s->head.traceparent_count == 1)
		parse_context(0);
	return 0;
}

SEC("raw_tp")
int format_context(void *ctx)
{
	struct slot *s = slot_of(0);

	if (!s)
		return -1;
	traceparent_format(s->message, s->context.trace_id, s->context.span_id, s->context.flags);
	return 0;
}
