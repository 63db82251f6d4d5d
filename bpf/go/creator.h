/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Who made a goroutine, and who made that one, up to one that serves a request. A
 * goroutine knows its creator's goid only; the creator's own g, from which the next
 * step is read, is looked for in runtime.allgs, once for each goid. A goroutine that has
 * ended leaves its g as it is until Go uses it for another.
 */
#pragma once

#include "golang.h"

/* Generations between a call and the goroutine that serves. */
#define GO_CREATORS 8

/* Entries of runtime.allgs looked at, the newest ones. */
#define GO_GS 2048

/* No g has that goid any more, or it is not among those looked at. */
#define GO_GONE 0xffffffffffffffffULL
/* Not known now. */
#define GO_MOVED 0xfffffffffffffffeULL

/* runtime.gobuf, as far as it is the same in all versions. */
struct go_sched {
	u64 sp;
	u64 pc;
	u64 g;
};

/*
 * goid of the creator of the goroutine whose g this may be, if that still has this
 * goid; else GO_GONE.
 *
 * Go uses the g of one that has ended for a new one, and writes the new creator before
 * the new goid. In between, sched is as gostartcallfn leaves it: at the start of the
 * function, one word below the top of the stack. No goroutine that has run is like
 * that: it runs (sp is 0), or stands somewhere inside. What is written first is read
 * last, which on amd64 other processors see in that order. The stack of a new one
 * may be moved while its goid is still the old one: then startpc has been written.
 */
__attribute__((noinline)) u64 weft_go_creator_in(u64 g, u64 goid)
{
	struct weft_go_layout *l = go_layout();
	struct go_sched sched = {};
	u64 creator, top, start;

	if (!l)
		return GO_GONE;
	creator = go_word(l, g, WEFT_GO_G_PARENT_GOID);
	top = go_word(l, g, WEFT_GO_G_STKTOPSP);
	if (bpf_probe_read_user(&sched, sizeof(sched), (void *)go_field(l, g, WEFT_GO_G_SCHED)))
		return GO_GONE;
	start = go_word(l, g, WEFT_GO_G_STARTPC);
	if (go_word(l, g, WEFT_GO_G_GOID) != goid || sched.g != g || !top || !start)
		return GO_GONE;
	if (sched.sp && (sched.pc == start || top - sched.sp <= 8))
		return GO_GONE;
	return creator;
}

/* Pointers to g read at a time. */
#define GO_GS_READ 8

/* Which of GO_GS_READ pointers to g, at user address `at`, is that of goroutine goid;
 * 0: none. */
__attribute__((noinline)) u64 weft_go_g_among(u64 at, u64 goid)
{
	struct weft_go_layout *l = go_layout();
	u64 g[GO_GS_READ] = {};

	if (!l || bpf_probe_read_user(g, sizeof(g), (void *)at))
		return 0;
#pragma unroll
	for (int i = 0; i < GO_GS_READ; i++)
		if (user_u64(g[i] + l->offset[WEFT_GO_G_GOID]) == goid)
			return g[i];
	return 0;
}

/* goid of the creator of goroutine goid, from its g in runtime.allgs; 0: the runtime
 * made it; GO_GONE; GO_MOVED. */
__attribute__((noinline)) u64 weft_go_search(u64 goid)
{
	struct weft_target *t = target_of(bpf_get_current_pid_tgid() >> 32);
	struct weft_go_layout *l = go_layout_of(t);
	u64 gs, n, at, g;

	if (!l || !l->allgs || l->offset[WEFT_GO_G_SCHED] == WEFT_GO_UNKNOWN ||
	    l->offset[WEFT_GO_G_STKTOPSP] == WEFT_GO_UNKNOWN)
		return GO_GONE;
	at = l->allgs + t->go_bias;
	n = user_u64(at + 8); /* written after the pointer: the array is as long */
	gs = user_u64(at);
	if (!gs || n >> 32)
		return GO_GONE;
	at = gs + n * 8;
	for (u32 i = 0; i < GO_GS / GO_GS_READ; i++) {
		if (i * GO_GS_READ >= n)
			break;
		at -= GO_GS_READ * 8;
		if ((i + 1) * GO_GS_READ > n)
			at = gs; /* the last look: some of these have been seen */
		g = weft_go_g_among(at, goid);
		if (g)
			return weft_go_creator_in(g, goid);
	}
	/* An array that has been given up may hold anything. */
	at = l->allgs + t->go_bias;
	return user_u64(at) == gs ? GO_GONE : GO_MOVED;
}

/* The same, remembered: a goid is never given twice. */
__attribute__((noinline)) u64 weft_go_creator(u64 goid)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_target *t = target_of(tgid);
	struct go_goroutine k = { .goid = goid, .tgid = tgid };
	u64 *known, creator;

	if (!t)
		return GO_GONE;
	k.start_ns = t->start_ns;
	known = bpf_map_lookup_elem(&go_creators, &k);
	if (known)
		return *known;
#if !defined(__TARGET_ARCH_x86)
	return GO_GONE; /* the order of reads: see weft_go_creator_in */
#endif
	creator = weft_go_search(goid);
	if (creator == GO_MOVED)
		creator = weft_go_search(goid);
	if (creator != GO_MOVED)
		bpf_map_update_elem(&go_creators, &k, &creator, BPF_ANY);
	return creator;
}

/* Remembers what a goroutine says of itself. */
WEFT_INLINE void go_creator_note(struct weft_target *t, u32 tgid, u64 goid, u64 creator)
{
	struct go_goroutine k = { .start_ns = t->start_ns, .goid = goid, .tgid = tgid };

	if (!bpf_map_lookup_elem(&go_creators, &k))
		bpf_map_update_elem(&go_creators, &k, &creator, BPF_ANY);
}

/*
 * Span id of the exchange that goroutine goid was made for, by `creator` or by one that
 * creator was made by. 0: of none, counted; as `why`, if nothing else is known. The
 * nearest that serves anything decides: what it has made since its request began, it made
 * for that, and so with what that made.
 */
__attribute__((noinline)) u64 weft_go_made_for(u64 goid, u64 creator, u32 why)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_target *t = target_of(tgid);
	struct exec_state *s;
	struct exec_key k;
	u64 parent;

	if (!t)
		return 0;
	go_creator_note(t, tgid, goid, creator);
	exec_key_of_goroutine(&k, tgid, creator, t->start_ns);
	for (u32 i = 0; i < GO_CREATORS && creator; i++) {
		k.id = creator;
		s = bpf_map_lookup_elem(&threads, &k);
		if (s && s->in_flight) {
			parent = s->in_flight == 1 ? s->sum : 0;
			if (parent && weft_go_born_since(parent, goid))
				return parent;
			why = WEFT_COUNT_UNPROVEN_CREATOR;
			break;
		}
		goid = creator;
		creator = weft_go_creator(goid);
		if (creator >= GO_MOVED) {
			why = WEFT_COUNT_UNPROVEN_GONE;
			break;
		}
	}
	count(why);
	return 0;
}

/*
 * Decides whose child the call is that the goroutine of g is making with a context
 * of this data, and leaves that for who writes the request: `key` as in
 * go_departures, with the socket's tuple or 0. Everything is asked of the caller's
 * own goroutine, while it makes the call.
 */
__attribute__((noinline)) int weft_go_depart(u64 key, u64 tuple, u64 g, u64 data)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, why = WEFT_COUNT_UNPROVEN_NONE;
	struct weft_target *t = target_of(tgid);
	struct weft_go_layout *l = go_layout_of(t);
	struct go_departure d = { .tuple = tuple }, *last;
	struct exec_state *s;
	struct exec_key k;
	u64 creator;

	if (!l)
		return 0;
	d.parent = weft_go_descends(data);
	d.rule = WEFT_PARENT_CONTEXT;
	if (d.parent == GO_TOO_DEEP) {
		why = WEFT_COUNT_UNPROVEN_DEEP;
		d.parent = 0;
	}
	if (d.parent)
		goto out;
	exec_key_of_goroutine(&k, tgid, goid_of(l, g), t->start_ns);
	s = bpf_map_lookup_elem(&threads, &k);
	if (s && s->in_flight > 1) {
		d.rule = WEFT_PARENT_AMBIGUOUS;
		goto out;
	}
	d.rule = WEFT_PARENT_GOROUTINE;
	d.parent = s && s->in_flight == 1 ? s->sum : 0;
	if (d.parent)
		goto out;
	d.rule = WEFT_PARENT_CREATOR;
	creator = go_word(l, g, WEFT_GO_G_PARENT_GOID);
	if (creator)
		d.parent = weft_go_made_for(k.id, creator, why);
	else
		count(why);
	if (!d.parent)
		d.rule = WEFT_PARENT_NONE;
out:
	last = tuple ? bpf_map_lookup_elem(&go_departures, &key) : 0;
	if (last)
		*last = d; /* a socket's has a place of its own */
	else if (bpf_map_update_elem(&go_departures, &key, &d, BPF_ANY))
		count(WEFT_COUNT_LOST_DEPARTURES_FULL);
	return 0;
}
