/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Puts the client-role sockets of selected processes where the sk_msg program
 * sees their sends. Attached to the cgroups of selected processes.
 */
#pragma once

#include "../maps/sockhash.h"
#include "../maps/targets.h"
#include "../maps/control.h"

/*
 * A process this young may not have been looked at by user space yet. Its first
 * connections are let in on trust: the cgroup is that of selected processes, and
 * the sk_msg program asks again, on every send, whether it is selected.
 */
#define NEWBORN_NS 300000000ULL

WEFT_INLINE bool task_is_newborn(struct task_struct *task)
{
	return bpf_ktime_get_boot_ns() - BPF_CORE_READ(task, group_leader, start_boottime) <
	       NEWBORN_NS;
}

SEC("sockops")
int weft_sockops(struct bpf_sock_ops *ctx)
{
	u64 key = bpf_get_socket_cookie(ctx);
	struct task_struct *task;
	u32 tgid;

	if (ctx->family != AF_INET && ctx->family != AF_INET6)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		/* Runs in connect(2). pid_tgid is not offered to sockops
		 * before 6.10, the current task is. */
		task = (struct task_struct *)bpf_get_current_task();
		tgid = BPF_CORE_READ(task, tgid);
		if (target_of(tgid) || task_is_newborn(task))
			bpf_map_update_elem(&opening, &key, &key, BPF_ANY);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		/* Soft interrupt: whose socket it is was noted above. */
		if (bpf_map_delete_elem(&opening, &key))
			break;
		count(bpf_sock_hash_update(ctx, &sockets, &key, BPF_NOEXIST) ?
			      WEFT_COUNT_SOCKHASH_FAILED :
			      WEFT_COUNT_SOCKHASH_ADDED);
		break;
	}
	return 1;
}
