/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Connections that end, sockets that begin to listen, processes that start,
 * fork and exit. All on BTF tracepoints, which every supported kernel has.
 */
#pragma once

#include "handlers.h"
#include "hold.h"

/* Set by the loader: exec, exit and listen of any process are reported so that
 * user space can match them; weft exec needs only its own descendants. */
volatile const u8 discover = 1;

WEFT_INLINE void emit_process(u8 op, u32 tgid, u32 parent, u64 start_ns, u16 port)
{
	struct weft_process *e = event_reserve(sizeof(*e));

	if (!e)
		return;
	event_head(&e->head, WEFT_EVENT_PROCESS, sizeof(*e));
	e->process_start_ns = start_ns;
	e->tgid = tgid;
	e->parent_tgid = parent;
	e->port = port;
	e->op = op;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	event_submit_now(e);
}

WEFT_INLINE u64 task_start(struct task_struct *t)
{
	return BPF_CORE_READ(t, group_leader, start_boottime);
}

/* The socket under a virtual connection closes. */
WEFT_INLINE void on_state_above(u64 key, u64 sk)
{
	struct conn *c = conn_of(key);

	if (!c || c->sk != sk)
		return;
	if (c->role == WEFT_ROLE_SERVER && http1_until_close(&c->dir[DIR_TX].parser))
		weft_finish(key, c->dir[DIR_TX].parser.body_bytes, WEFT_END_COMPLETE);
	weft_abandon(key, WEFT_END_CLOSED);
	slot_put(c);
	bpf_map_delete_elem(&conns, &key);
}

/* The socket changed state: what does that mean for its exchanges? */
WEFT_INLINE void on_state(struct sock *sk, int from, int to)
{
	u64 key = (u64)sk;
	struct conn *c;
	u32 err;

	if (to != TCP_FIN_WAIT1 && to != TCP_LAST_ACK && to != TCP_CLOSE)
		return;
	c = conn_of(key);
	if (!c)
		return;
	if (c->above) {
		on_state_above(c->above, key);
		c->above = 0;
	}
	if (c->state == CONN_SYNCED && c->first != c->last) {
		u32 server = c->role == WEFT_ROLE_SERVER;
		u32 rsp = server ? DIR_TX : DIR_RX;

		/* close(2), not shutdown(SHUT_WR): a client that only stops
		 * sending still waits for its response. */
		if (!server && to != TCP_CLOSE && !(BPF_CORE_READ(sk, sk_shutdown) & RCV_SHUTDOWN))
			return;
		/* Closing is how a response without a length ends: the server's
		 * own close, or the client's after the server's. */
		if (to == (server ? TCP_FIN_WAIT1 : TCP_LAST_ACK) ||
		    (server && to == TCP_LAST_ACK)) {
			if (http1_until_close(&c->dir[rsp].parser))
				weft_finish(key, c->dir[rsp].parser.body_bytes, WEFT_END_COMPLETE);
		}
		err = BPF_CORE_READ(sk, sk_err);
		weft_abandon(key, to == TCP_CLOSE && err ? WEFT_END_RESET : WEFT_END_CLOSED);
	}
	if (to == TCP_CLOSE) {
		bpf_map_delete_elem(&go_departures, &key);
		slot_put(c);
		bpf_map_delete_elem(&conns, &key);
	}
}

WEFT_INLINE void state_set(u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx_arg(ctx, 0);
	int from = ctx[1], to = ctx[2];

	if (KERNEL_READ(sk, sk_protocol) != IPPROTO_TCP)
		return;
	if (to == TCP_LISTEN && discover) {
		struct task_struct *t = (struct task_struct *)bpf_get_current_task();

		emit_process(WEFT_PROCESS_LISTEN, bpf_get_current_pid_tgid() >> 32, 0,
			     task_start(t), BPF_CORE_READ(sk, __sk_common.skc_num));
	}
	on_state(sk, from, to);
}

SEC("tp_btf/inet_sock_set_state")
int weft_state(u64 *ctx)
{
	return WEFT_HELD(state_set(ctx));
}

WEFT_INLINE void process_forked(u64 *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx_arg(ctx, 0);
	struct task_struct *child = (struct task_struct *)ctx_arg(ctx, 1);
	u32 ptgid = BPF_CORE_READ(parent, tgid);
	u32 tgid = BPF_CORE_READ(child, tgid);
	struct weft_target *t, mine;

	if (tgid == ptgid)
		return; /* a thread */
	t = bpf_map_lookup_elem(&targets, &ptgid);
	if (!t)
		return;
	/* It runs the same image until it executes another, but is not attached to. */
	mine = *t;
	mine.start_ns = BPF_CORE_READ(child, start_boottime);
	mine.flags = t->flags & ~(WEFT_TARGET_PARENT | WEFT_TARGET_QUIET);
	mine.go_flags = 0;
	mine.go_layout = 0;
	if (t->flags & WEFT_TARGET_QUIET && !(t->flags & WEFT_TARGET_PARENT))
		return;
	if (bpf_map_update_elem(&targets, &tgid, &mine, BPF_ANY)) {
		count(WEFT_COUNT_LOST_TARGETS_FULL);
		return;
	}
	emit_process(WEFT_PROCESS_FORK, tgid, ptgid, mine.start_ns, 0);
}

SEC("tp_btf/sched_process_fork")
int weft_fork(u64 *ctx)
{
	return WEFT_HELD(process_forked(ctx));
}

WEFT_INLINE void process_execed(u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx_arg(ctx, 0);
	u32 tgid = BPF_CORE_READ(task, tgid);

	if (!discover && !bpf_map_lookup_elem(&targets, &tgid))
		return;
	emit_process(WEFT_PROCESS_EXEC, tgid, 0, task_start(task), 0);
}

SEC("tp_btf/sched_process_exec")
int weft_exec(u64 *ctx)
{
	return WEFT_HELD(process_execed(ctx));
}

WEFT_INLINE void process_exited(u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx_arg(ctx, 0);
	u32 tgid = BPF_CORE_READ(task, tgid);
	struct weft_target *t = bpf_map_lookup_elem(&targets, &tgid);
	struct exec_key k;
	u64 call = ((u64)tgid << 32) | (u32)BPF_CORE_READ(task, pid);

	if (!t)
		return;
	exec_key_of_thread(&k, tgid, BPF_CORE_READ(task, pid), t->start_ns);
	bpf_map_delete_elem(&threads, &k);
	bpf_map_delete_elem(&calls, &call);
	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return; /* other threads go on */
	emit_process(WEFT_PROCESS_EXIT, tgid, 0, t->start_ns, 0);
	bpf_map_delete_elem(&targets, &tgid);
}

SEC("tp_btf/sched_process_exit")
int weft_exit(u64 *ctx)
{
	return WEFT_HELD(process_exited(ctx));
}
