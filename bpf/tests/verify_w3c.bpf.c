//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * tracestate.h and baggage.h as the agent's programs use them: global functions
 * (verified on their own, with scalars only, because kernels before 5.12 know no
 * other) that find their memory in a map. Attached nowhere; verify_w3c_test.go loads
 * it and runs it with BPF_PROG_TEST_RUN, a call for a program.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../lib/baggage.h"
#include "../lib/tracestate.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What a program is to work on, and what it answers. */
struct call {
	__u64 threshold;
	__u32 n;      /* bytes of piece, or of key */
	__u32 mode;   /* enum tracestate_mode */
	__u32 result; /* what the function returned */
	__u32 pad;
	__u8 piece[64];
	__u8 key[BAGGAGE_KEY_MAX];
	struct baggage_keys only, without;
};

struct text {
	struct tracestate tracestate;
	__u8 written[TRACESTATE_BUFFER];
	struct baggage_value value;
	struct baggage baggage;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct text);
} texts SEC(".maps");

static struct call *call_of(__u32 key)
{
	return bpf_map_lookup_elem(&calls, &key);
}

static struct text *text_of(__u32 key)
{
	return bpf_map_lookup_elem(&texts, &key);
}

__attribute__((noinline)) int w3c_reset(__u32 key)
{
	struct text *t = text_of(key);

	if (!t)
		return -1;
	tracestate_reset(&t->tracestate);
	baggage_reset(&t->baggage);
	baggage_value_reset(&t->value);
	return 0;
}

__attribute__((noinline)) int state_feed(__u32 key, __u32 n)
{
	struct call *c = call_of(key);
	struct text *t = text_of(key);

	if (!c || !t)
		return -1;
	tracestate_feed(&t->tracestate, c->piece, n);
	return 0;
}

__attribute__((noinline)) int state_line_end(__u32 key)
{
	struct text *t = text_of(key);

	if (!t)
		return -1;
	tracestate_line_end(&t->tracestate);
	return 0;
}

__attribute__((noinline)) int state_end(__u32 key)
{
	struct text *t = text_of(key);

	if (!t)
		return -1;
	return tracestate_end(&t->tracestate);
}

__attribute__((noinline)) int state_cut(__u32 key)
{
	struct text *t = text_of(key);

	if (!t)
		return -1;
	return tracestate_cut(&t->tracestate);
}

__attribute__((noinline)) int state_write(__u32 key, __u32 mode, __u64 threshold)
{
	struct text *t = text_of(key);

	if (!t)
		return -1;
	return tracestate_write(&t->tracestate, t->written, mode, threshold);
}

__attribute__((noinline)) int baggage_piece(__u32 key, __u32 n)
{
	struct call *c = call_of(key);
	struct text *t = text_of(key);

	if (!c || !t)
		return -1;
	baggage_feed(&t->baggage, c->piece, n, &c->only, &c->without);
	return 0;
}

/* Without lists, as on the way in. */
__attribute__((noinline)) int baggage_piece_all(__u32 key, __u32 n)
{
	struct call *c = call_of(key);
	struct text *t = text_of(key);

	if (!c || !t)
		return -1;
	baggage_feed(&t->baggage, c->piece, n, 0, 0);
	return 0;
}

__attribute__((noinline)) int baggage_next_line(__u32 key)
{
	struct text *t = text_of(key);

	if (!t)
		return -1;
	baggage_line_end(&t->baggage);
	return 0;
}

__attribute__((noinline)) int baggage_close(__u32 key)
{
	struct text *t = text_of(key);

	if (!t)
		return -1;
	return baggage_end(&t->baggage);
}

__attribute__((noinline)) int value_piece(__u32 key, __u32 n)
{
	struct call *c = call_of(key);
	struct text *t = text_of(key);

	if (!c || !t)
		return -1;
	baggage_escape(&t->value, c->piece, n);
	return 0;
}

__attribute__((noinline)) int member_add(__u32 key, __u32 n)
{
	struct call *c = call_of(key);
	struct text *t = text_of(key);

	if (!c || !t)
		return -1;
	return baggage_append(&t->baggage, c->key, n, &t->value);
}

#define PROGRAM(name, does)                  \
	SEC("raw_tp")                        \
	int name(void *ctx)                  \
	{                                    \
		struct call *c = call_of(0); \
                                             \
		if (c)                       \
			c->result = does;    \
		return 0;                    \
	}

PROGRAM(run_reset, w3c_reset(0))
PROGRAM(run_state_feed, state_feed(0, c->n))
PROGRAM(run_state_line_end, state_line_end(0))
PROGRAM(run_state_end, state_end(0))
PROGRAM(run_state_cut, state_cut(0))
PROGRAM(run_state_write, state_write(0, c->mode, c->threshold))
PROGRAM(run_baggage_feed, baggage_piece(0, c->n))
PROGRAM(run_baggage_feed_all, baggage_piece_all(0, c->n))
PROGRAM(run_baggage_line_end, baggage_next_line(0))
PROGRAM(run_baggage_end, baggage_close(0))
PROGRAM(run_value_feed, value_piece(0, c->n))
PROGRAM(run_append, member_add(0, c->n))
