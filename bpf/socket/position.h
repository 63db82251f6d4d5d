/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Where in the byte stream a send or receive was. weft does not count the
 * bytes it was shown; it reads the kernel's own sequence numbers, so that bytes
 * which passed by a way no hook covers (sendfile on old kernels, io_uring,
 * splice) are noticed as a gap instead of shifting everything after them.
 */
#pragma once

#include "../maps/slots.h"
#include "../maps/targets.h"

/*
 * Tells a socket from the next one at the same address. In two reads, because it
 * is asked at every send and receive: both ports, and for IPv4 both addresses.
 * (inet_sock_set_state deletes the connections of closed sockets anyway.)
 */
WEFT_INLINE u64 sock_tuple(struct sock *sk)
{
	u64 ports = KERNEL_READ(sk, __sk_common.skc_portpair);

	return KERNEL_READ(sk, __sk_common.skc_addrpair) ^ ports << 32 ^ ports;
}

/* Sequence number one past the last byte written (tx) or read (rx). */
WEFT_INLINE u32 sock_seq(struct sock *sk, u32 dir)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;

	return dir == DIR_TX ? KERNEL_READ(tp, write_seq) : KERNEL_READ(tp, copied_seq);
}

/* Bytes the program has received so far on this connection. The softirq may
 * move both counters between the two reads: read until they stand still. */
WEFT_INLINE u64 sock_received(struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	u64 total = 0;

#pragma unroll
	for (int i = 0; i < 3; i++) {
		u64 before = KERNEL_READ(tp, bytes_received);
		u32 queued = KERNEL_READ(tp, rcv_nxt) - KERNEL_READ(tp, copied_seq);

		total = before - queued;
		if (before == KERNEL_READ(tp, bytes_received))
			break;
	}
	return total;
}

/* Bytes the program has sent so far; an active open counts one more, its SYN. */
WEFT_INLINE u64 sock_sent(struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	u64 total = 0;

#pragma unroll
	for (int i = 0; i < 3; i++) {
		u64 before = KERNEL_READ(tp, bytes_acked);
		u32 unacked = KERNEL_READ(tp, write_seq) - KERNEL_READ(tp, snd_una);

		total = before + unacked;
		if (before == KERNEL_READ(tp, bytes_acked))
			break;
	}
	return total;
}

/*
 * True if nothing but the bytes now moving has passed on this connection. One
 * more either way: an active open's SYN counts as sent, a FIN as received.
 */
WEFT_INLINE bool sock_fresh(struct sock *sk, u64 rx, u64 tx)
{
	return sock_received(sk) - rx <= 1 && sock_sent(sk) - tx <= 1;
}

WEFT_INLINE bool sock_is_tcp(struct sock *sk)
{
	u16 family = KERNEL_READ(sk, __sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) &&
	       KERNEL_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* Notes both ends, for the events. IPv4 as v4-mapped. */
WEFT_INLINE void conn_name(struct conn *c, struct sock *s)
{
	c->local_port = BPF_CORE_READ(s, __sk_common.skc_num);
	c->remote_port = __builtin_bswap16(BPF_CORE_READ(s, __sk_common.skc_dport));
	if (BPF_CORE_READ(s, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO((struct in6_addr___weft *)c->local_addr, s,
				   __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr___weft *)c->remote_addr, s,
				   __sk_common.skc_v6_daddr);
	} else {
		u64 both = BPF_CORE_READ(s, __sk_common.skc_addrpair);
		__be32 local = both >> 32, remote = both;

		c->local_addr[10] = c->local_addr[11] = 0xff;
		c->remote_addr[10] = c->remote_addr[11] = 0xff;
		__builtin_memcpy(c->local_addr + 12, &local, 4);
		__builtin_memcpy(c->remote_addr + 12, &remote, 4);
	}
}

/* Makes the connection of sk, on which n bytes have just moved in dir. */
__attribute__((noinline)) int weft_conn_new(u64 key, u32 dir, u32 n)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sock *sk = (struct sock *)key;
	u32 tgid = id >> 32, zero = 0;
	struct weft_target *t = target_of(tgid);
	struct conn *c = conn_of(key);
	struct conn *blank;

	if (c) {
		slot_put(c); /* of a socket that is gone */
		bpf_map_delete_elem(&conns, &key);
	}
	/* Peeked, not moved: too early for a new connection. */
	if (!t || !sock_is_tcp(sk) || (dir == DIR_RX && sock_received(sk) < n))
		return 0;
	blank = bpf_map_lookup_elem(&blank_conn, &zero);
	if (!blank)
		return 0;
	bpf_map_update_elem(&conns, &key, blank, BPF_ANY);
	c = conn_of(key);
	if (!c) {
		count(WEFT_COUNT_LOST_CONNS_FULL);
		return 0;
	}
	c->tuple = sock_tuple(sk);
	conn_name(c, sk);
	c->dir[DIR_RX].next_seq = sock_seq(sk, DIR_RX) - (dir == DIR_RX ? n : 0);
	c->dir[DIR_TX].next_seq = sock_seq(sk, DIR_TX) - (dir == DIR_TX ? n : 0);
	c->tgid = tgid;
	c->tid = id;
	c->process_start_ns = t->start_ns;
	c->quiet = !!(t->flags & WEFT_TARGET_QUIET);
	c->state = sock_fresh(sk, dir == DIR_RX ? n : 0, dir == DIR_TX ? n : 0) ? CONN_SYNCED :
										  CONN_UNSYNCED;
	return 0;
}
