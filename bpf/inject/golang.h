/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Writes prepared lines into the write buffer of a Go program, in which a request
 * head is being put together. The goroutine that does so stands still at the probe,
 * and nobody else touches its connection's buffer.
 *
 * First the bytes, behind what is in use, where they mean nothing; then the length,
 * in one word. So there is no moment at which half a line could leave.
 */
#pragma once

#include "../go/golang.h"
#include "../maps/control.h"
#include "lines.h"

/* Where lines go. */
struct go_buffer {
	u64 start; /* user address */
	u64 size;
	u64 used;  /* bytes of it */
	u64 count; /* user address of `used` */
};

#define GO_CAP_MAX (1 << 24) /* a buffer larger than this is none */

/* Is this an address in the executable? Tables of methods, which interfaces begin with,
 * and descriptions of types lie there. */
WEFT_INLINE bool go_in_image(struct go_here *h, u64 at)
{
	return at - (h->l->image + h->t->go_bias) < h->l->image_size;
}

/*
 * Does the running goroutine's g look like one: known to its thread, which knows it,
 * and with an identifier that has been given out? Asked before anything is written, as
 * is all that follows: the table of offsets may be wrong of a binary.
 */
WEFT_INLINE bool go_live(struct go_here *h)
{
	u64 m = go_word(h->l, h->g, WEFT_GO_G_M);

	if (go_current_g(h->l) != h->g || go_word(h->l, m, WEFT_GO_M_CURG) != h->g)
		return false;
	return !h->l->goidgen || h->goid <= user_u64(h->l->goidgen + h->t->go_bias);
}

/*
 * Reads a bufio.Writer. False: it is not one, as far as can be told: a buffer used as
 * far as n says, an io.Writer, no error.
 */
WEFT_INLINE bool go_buffer_of(struct go_here *h, u64 writer, struct go_buffer *b)
{
	u64 slice[3] = {}, at = go_field(h->l, writer, WEFT_GO_WRITER_BUF), error[2] = {};

	b->count = go_field(h->l, writer, WEFT_GO_WRITER_N);
	if (!at || !b->count || bpf_probe_read_user(slice, sizeof(slice), (void *)at) ||
	    bpf_probe_read_user(error, sizeof(error),
				(void *)go_field(h->l, writer, WEFT_GO_WRITER_ERR)))
		return false;
	b->start = slice[0];
	b->size = slice[1];
	b->used = user_u64(b->count);
	return b->start && b->size && b->size <= slice[2] && slice[2] <= GO_CAP_MAX &&
	       b->used <= b->size && !error[0] && !error[1] &&
	       go_in_image(h, go_word(h->l, writer, WEFT_GO_WRITER_WR));
}

/* Keeps for weft_go_store where lines may go, with room for the empty line behind. */
WEFT_INLINE void go_buffer_note(struct conn *c, const struct go_buffer *b)
{
	struct cursor *at = &c->dir[DIR_TX].cursor;

	at->where = b->count;
	at->addr = b->start + b->used;
	at->offset = b->used;
	at->left = b->size - b->used < 2 ? 0 : b->size - b->used - 2;
}

/* Copies n bytes, 1 to LINES_MAX, to user address `to`. Returns 0 when they stand there. */
WEFT_INLINE int go_store(u64 to, const u8 *from, u32 n)
{
	n--;
	WEFT_BARRIER(n);
	n &= LINES_MASK; /* at the very place, as in copy_baggage */
	return bpf_probe_write_user((void *)to, from, n + 1);
}

/*
 * Writes the lines of the connection with this key, put together by weft_lines, behind
 * what its cursor for sending says is in use of the program's buffer (go_buffer_note).
 * Returns 0 when they are part of the head.
 */
__attribute__((noinline)) int weft_go_store(u64 key)
{
	struct conn *c = conn_of(key);
	struct cursor *at;
	struct slot *s;
	int failed;
	u64 used;

	if (!go_writes || !c)
		return 1; /* where it is refused, not even what follows is loaded */
	at = &c->dir[DIR_TX].cursor;
	if (!c->out.lines_len || c->out.lines_len > at->left)
		return 1;
	if (c->out.lines_len == LINE_LEN) {
		failed = bpf_probe_write_user((void *)at->addr, c->out.line, LINE_LEN);
	} else {
		s = slot_of(c);
		failed = !s || go_store(at->addr, s->lines, c->out.lines_len);
	}
	used = at->offset + c->out.lines_len;
	return failed || bpf_probe_write_user((void *)at->where, &used, sizeof(used));
}
