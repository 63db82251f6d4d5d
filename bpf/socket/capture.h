/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The three ways in. Each finds the socket, the number of bytes that really
 * moved and the program's buffers, and calls on_send or on_recv. The loader
 * loads one way only, chosen by trying.
 */
#pragma once

#include "handlers.h"
#include "hold.h"
#include "../maps/calls.h"

/* --- fentry and kprobe: buffers from the msghdr at entry ------------------ */

/*
 * Describes msg_iter before the kernel advances it. The kind of iterator is a
 * bit mask before 5.14 and an enumeration since, whose values moved more than
 * once: they are asked of BTF.
 */
WEFT_INLINE void call_describe(struct msghdr *msg, struct call *call)
{
	struct iov_iter *it = __builtin_preserve_access_index(&msg->msg_iter);
	struct iov_iter___iov *old = (void *)it;
	struct iov_iter___mask *mask = (void *)it;
	u64 offset = BPF_CORE_READ(it, iov_offset);
	u64 nr = BPF_CORE_READ(it, nr_segs);

	call->where = 0;
	call->meta = META_OPAQUE;
	if (bpf_core_field_exists(it->iter_type)) {
		u32 type = BPF_CORE_READ(it, iter_type);

		if (bpf_core_field_exists(it->ubuf) &&
		    bpf_core_enum_value_exists(enum iter_type___ubuf, ITER_UBUF) &&
		    type == bpf_core_enum_value(enum iter_type___ubuf, ITER_UBUF)) {
			call->where = (u64)BPF_CORE_READ(it, ubuf) + offset;
			call->meta = 0;
			return;
		}
		if (type != bpf_core_enum_value(enum iter_type___ubuf, ITER_IOVEC))
			return;
		call->where = bpf_core_field_exists(it->__iov) ? (u64)BPF_CORE_READ(it, __iov) :
								 (u64)BPF_CORE_READ(old, iov);
	} else {
		if (!(BPF_CORE_READ(mask, type) & 4))
			return;
		call->where = (u64)BPF_CORE_READ(mask, iov);
	}
	call->meta = META_IOV | META_NR(nr > 0xffff ? 0xffff : nr) | META_OFFSET(offset);
}

WEFT_INLINE int call_enter(struct sock *sk, struct msghdr *msg)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call call = { .sk = (u64)sk, .meta = META_OPAQUE };

	if (!target_of(id >> 32))
		return 0;
	if (msg)
		call_describe(msg, &call);
	if (bpf_map_update_elem(&calls, &id, &call, BPF_ANY))
		count(WEFT_COUNT_LOST_CALLS_FULL);
	return 0;
}

WEFT_INLINE int call_return(u32 dir, int ret)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *p, call;

	if (!target_of(id >> 32))
		return 0;
	p = bpf_map_lookup_elem(&calls, &id);
	if (!p)
		return 0;
	call = *p;
	bpf_map_delete_elem(&calls, &id);
	if (dir == DIR_TX)
		on_send((struct sock *)call.sk, call.where, call.meta, ret);
	else
		on_recv((struct sock *)call.sk, call.where, call.meta, ret);
	return 0;
}

SEC("fentry/tcp_sendmsg")
int fentry_send(u64 *ctx)
{
	return WEFT_HELD(
		call_enter((struct sock *)ctx_arg(ctx, 0), (struct msghdr *)ctx_arg(ctx, 1)));
}

SEC("fexit/tcp_sendmsg")
int fexit_send(u64 *ctx)
{
	return WEFT_HELD(call_return(DIR_TX, ctx[3]));
}

SEC("fentry/tcp_recvmsg")
int fentry_recv(u64 *ctx)
{
	return WEFT_HELD(
		call_enter((struct sock *)ctx_arg(ctx, 0), (struct msghdr *)ctx_arg(ctx, 1)));
}

/* The return value stands behind the arguments, and tcp_recvmsg loses one now
 * and then: six until 5.18, five since (ec095263a965), four in 7.x. */
SEC("fexit/tcp_recvmsg")
int fexit_recv_4(u64 *ctx)
{
	return WEFT_HELD(call_return(DIR_RX, ctx[4]));
}

SEC("fexit/tcp_recvmsg")
int fexit_recv_5(u64 *ctx)
{
	return WEFT_HELD(call_return(DIR_RX, ctx[5]));
}

SEC("fexit/tcp_recvmsg")
int fexit_recv_6(u64 *ctx)
{
	return WEFT_HELD(call_return(DIR_RX, ctx[6]));
}

/* Receives of sockets that the receive program reads (bpf/inject/receive.h) do
 * not pass through tcp_recvmsg. */
SEC("fentry/tcp_bpf_recvmsg_parser")
int fentry_recv_parser(u64 *ctx)
{
	return WEFT_HELD(
		call_enter((struct sock *)ctx_arg(ctx, 0), (struct msghdr *)ctx_arg(ctx, 1)));
}

SEC("fexit/tcp_bpf_recvmsg_parser")
int fexit_recv_parser_4(u64 *ctx)
{
	return WEFT_HELD(call_return(DIR_RX, ctx[4]));
}

SEC("fexit/tcp_bpf_recvmsg_parser")
int fexit_recv_parser_5(u64 *ctx)
{
	return WEFT_HELD(call_return(DIR_RX, ctx[5]));
}

SEC("kprobe/tcp_bpf_recvmsg_parser")
int kprobe_recv_parser(struct pt_regs *ctx)
{
	return call_enter((struct sock *)REGS_ARG1(ctx), (struct msghdr *)REGS_ARG2(ctx));
}

SEC("kretprobe/tcp_bpf_recvmsg_parser")
int kretprobe_recv_parser(struct pt_regs *ctx)
{
	return call_return(DIR_RX, REGS_RET(ctx));
}

/* sendfile and splice before 6.5: whole pages, whose bytes weft need not see,
 * but whose number ends a response. */
SEC("fentry/tcp_sendpage")
int fentry_sendpage(u64 *ctx)
{
	return call_enter((struct sock *)ctx_arg(ctx, 0), 0);
}

SEC("fexit/tcp_sendpage")
int fexit_sendpage(u64 *ctx)
{
	return call_return(DIR_TX, ctx[5]);
}

SEC("kprobe/tcp_sendmsg")
int kprobe_send(struct pt_regs *ctx)
{
	return call_enter((struct sock *)REGS_ARG1(ctx), (struct msghdr *)REGS_ARG2(ctx));
}

SEC("kretprobe/tcp_sendmsg")
int kretprobe_send(struct pt_regs *ctx)
{
	return call_return(DIR_TX, REGS_RET(ctx));
}

SEC("kprobe/tcp_recvmsg")
int kprobe_recv(struct pt_regs *ctx)
{
	return call_enter((struct sock *)REGS_ARG1(ctx), (struct msghdr *)REGS_ARG2(ctx));
}

SEC("kretprobe/tcp_recvmsg")
int kretprobe_recv(struct pt_regs *ctx)
{
	return call_return(DIR_RX, REGS_RET(ctx));
}

SEC("kprobe/tcp_sendpage")
int kprobe_sendpage(struct pt_regs *ctx)
{
	return call_enter((struct sock *)REGS_ARG1(ctx), 0);
}

SEC("kretprobe/tcp_sendpage")
int kretprobe_sendpage(struct pt_regs *ctx)
{
	return call_return(DIR_TX, REGS_RET(ctx));
}

/* --- tracepoint: buffers from the system call's registers ----------------- */

/* Describes the buffers of the system call this thread is in. */
WEFT_INLINE void syscall_describe(u64 *where, u64 *meta)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs((void *)task);
	struct user_msghdr_layout m = {};
	u64 nr;

	*where = 0;
	*meta = META_OPAQUE;
	if (TASK_IS_COMPAT(task)) {
		count(WEFT_COUNT_SKIPPED_COMPAT);
		return;
	}
	switch ((u32)REGS_SYSCALL(regs)) {
	case NR_read:
	case NR_write:
	case NR_sendto:
	case NR_recvfrom:
		*where = REGS_ARG2(regs);
		*meta = 0;
		return;
	case NR_readv:
	case NR_writev:
		*where = REGS_ARG2(regs);
		nr = REGS_ARG3(regs);
		break;
	case NR_sendmsg:
	case NR_recvmsg:
		if (bpf_probe_read_user(&m, sizeof(m), (void *)REGS_ARG2(regs))) {
			count(WEFT_COUNT_SKIPPED_FAULT);
			return;
		}
		*where = m.iov;
		nr = m.iovlen;
		break;
	default:
		return;
	}
	*meta = META_IOV | META_IOV_USER | META_NR(nr > 0xffff ? 0xffff : nr);
}

WEFT_INLINE void send_length(u64 *ctx)
{
	int ret = ctx[1];
	u64 where, meta;

	if (!target_of(bpf_get_current_pid_tgid() >> 32))
		return;
	syscall_describe(&where, &meta);
	on_send((struct sock *)ctx_arg(ctx, 0), where, meta, ret);
}

SEC("tp_btf/sock_send_length")
int tp_send(u64 *ctx)
{
	if ((int)ctx[1] <= 0)
		return 0; /* before anything else: nothing was sent */
	return WEFT_HELD(send_length(ctx));
}

WEFT_INLINE void recv_length(u64 *ctx)
{
	int ret = ctx[1];
	u64 where, meta;

	if (!target_of(bpf_get_current_pid_tgid() >> 32))
		return;
	syscall_describe(&where, &meta);
	on_recv((struct sock *)ctx_arg(ctx, 0), where, meta, ret);
}

SEC("tp_btf/sock_recv_length")
int tp_recv(u64 *ctx)
{
	if ((int)ctx[1] < 0)
		return 0; /* most receives of an event loop: nothing has come */
	return WEFT_HELD(recv_length(ctx));
}
