/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * on_send and on_recv: the one set of handlers behind the three capture ways.
 * `where` and `meta` describe the program's buffers as weft_data takes them.
 */
#pragma once

#include "data.h"

/* Argument n of a BTF-typed context as a plain number: the verifier would
 * otherwise track it as a kernel pointer, which global functions do not take. */
WEFT_INLINE u64 ctx_arg(u64 *ctx, u32 n)
{
	u64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), ctx + n);
	return v;
}

WEFT_INLINE void on_send(struct sock *sk, u64 where, u64 meta, int ret)
{
	if (ret > 0)
		weft_data((u64)sk, where, meta | META_TX, ret);
}

WEFT_INLINE void on_recv_end(struct sock *sk)
{
	struct conn *c = conn_of((u64)sk);

	/* A receive of no bytes is the peer's FIN, if one has come. */
	if (!c || c->role != WEFT_ROLE_CLIENT || c->state != CONN_SYNCED ||
	    c->tuple != sock_tuple(sk) || !(KERNEL_READ(sk, sk_shutdown) & RCV_SHUTDOWN))
		return;
	if (http1_until_close(&c->dir[DIR_RX].parser))
		weft_finish((u64)sk, c->dir[DIR_RX].parser.body_bytes, WEFT_END_COMPLETE);
	weft_abandon((u64)sk, WEFT_END_CLOSED);
}

WEFT_INLINE void on_recv(struct sock *sk, u64 where, u64 meta, int ret)
{
	if (ret == 0)
		on_recv_end(sk);
	if (ret > 0)
		weft_data((u64)sk, where, meta, ret);
}
