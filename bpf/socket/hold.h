/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * A program keeps its CPU from beginning to end.
 *
 * The kernel runs a tracing program at most once at a time on a CPU: it counts
 * in prog->active, and a run that finds another there is skipped. Where the
 * kernel preempts programs, that other may be one of a task that was put aside
 * for milliseconds, and what is skipped is another task's send or receive.
 *
 * Preemption off alone would not help: what is due happens as it is switched on
 * again, which is inside the program still. With interrupts off it does not, and
 * switching these on again looks for no due preemption: the next place that does
 * is behind the program's end.
 *
 * What is left is the way from the count to cpu_hold, and an interrupt between
 * cpu_release and the end of the count. For that a hook has a spare: a second
 * entry with a count of its own, which jumps to the same program. So a program
 * behind a spare usually runs twice, and finds the second time that all is done.
 */
#pragma once

#include "../include/kernel.h"

extern void bpf_preempt_disable(void) __weak __ksym;
extern void bpf_preempt_enable(void) __weak __ksym;
extern void bpf_local_irq_save(unsigned long *flags__irq_flag) __weak __ksym;
extern void bpf_local_irq_restore(unsigned long *flags__irq_flag) __weak __ksym;

/* Set by the loader where the kernel has these functions (6.14; 6.15 to allow
 * calls of global functions between them), which takes them out elsewhere. */
volatile const u8 holds_cpu = 0;

WEFT_INLINE void cpu_hold(void)
{
	if (holds_cpu)
		bpf_preempt_disable();
}

/* On its own, so that the flags are not on the stack of the program, which has
 * little left on. */
static __attribute__((noinline)) void cpu_give(void)
{
	unsigned long flags;

	bpf_local_irq_save(&flags);
	bpf_preempt_enable();
	bpf_local_irq_restore(&flags);
}

WEFT_INLINE void cpu_release(void)
{
	if (holds_cpu)
		cpu_give();
}

/* The whole of a program that the kernel might preempt. */
#define WEFT_HELD(work)        \
	({                     \
		cpu_hold();    \
		work;          \
		cpu_release(); \
		0;             \
	})
