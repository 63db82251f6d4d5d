/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Who runs, in a Go program: the goroutine, read from thread-local storage, so that
 * no switch between goroutines has to be traced. Any hook may ask.
 */
#pragma once

#include "../maps/conns.h"
#include "../maps/exchanges.h"
#include "../maps/targets.h"

/* The register by which a thread finds its own storage. */
WEFT_INLINE u64 thread_pointer(struct task_struct *task)
{
#if defined(__TARGET_ARCH_x86)
	return KERNEL_READ(task, thread.fsbase);
#else
	return KERNEL_READ(task, thread.uw.tp_value);
#endif
}

/* A pointer, or 0, at user address `at`. */
WEFT_INLINE u64 user_u64(u64 at)
{
	u64 v = 0;

	bpf_probe_read_user(&v, sizeof(v), (void *)at);
	return v;
}

WEFT_INLINE u32 user_u32(u64 at)
{
	u32 v = 0;

	bpf_probe_read_user(&v, sizeof(v), (void *)at);
	return v;
}

/* The layout of a process whose goroutines can be told apart; 0: of none such. */
WEFT_INLINE struct weft_go_layout *go_layout_of(const struct weft_target *t)
{
	struct weft_go_layout *l;

	if (!t || !t->go_layout)
		return 0;
	l = go_layout_at(t->go_layout);
	return l && l->flags & WEFT_GO_GOROUTINES ? l : 0;
}

/* goid of the user goroutine of g, which may be the one that a thread schedules on. */
WEFT_INLINE u64 goid_of(const struct weft_go_layout *l, u64 g)
{
	u64 goid = user_u64(g + l->offset[WEFT_GO_G_GOID]);

	if (goid)
		return goid;
	g = user_u64(g + l->offset[WEFT_GO_G_M]);
	if (!g)
		return 0;
	g = user_u64(g + l->offset[WEFT_GO_M_CURG]);
	return g ? user_u64(g + l->offset[WEFT_GO_G_GOID]) : 0;
}

/* g as thread-local storage has it, or the register it lives in; 0: not readable. */
WEFT_INLINE u64 go_current_g(const struct weft_go_layout *l)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u64 tp;

#if defined(__TARGET_ARCH_arm64)
	if (l->flags & WEFT_GO_G_REGISTER) {
		/* What the program had in its registers when it entered the kernel. */
		struct pt_regs *regs =
			(struct pt_regs *)(BPF_CORE_READ(task, stack) + THREAD_SIZE) - 1;

		return BPF_CORE_READ(regs, regs[28]);
	}
#endif
	tp = thread_pointer(task);

	return tp ? user_u64(tp + (s64)l->tls_g) : 0;
}

/* goid of what runs now, in process tgid; 0: not of a Go program, or not known. */
__attribute__((noinline)) u64 weft_goid(u32 tgid)
{
	struct weft_go_layout *l = go_layout_of(target_of(tgid));
	u64 g;

	if (!l)
		return 0;
	g = go_current_g(l);
	return g ? goid_of(l, g) : 0;
}

/*
 * What runs now, in the process of t: its goroutine where that can be told, else
 * its thread. Only in hooks that run in that process.
 */
WEFT_INLINE void exec_key_of_current(struct exec_key *k, const struct weft_target *t)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 start_ns = t ? t->start_ns : 0, goid;

	exec_key_of_thread(k, id >> 32, id, start_ns);
	if (!go_layout_of(t))
		return;
	goid = weft_goid(id >> 32);
	if (goid)
		exec_key_of_goroutine(k, id >> 32, goid, start_ns);
}
