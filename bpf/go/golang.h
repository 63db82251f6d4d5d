/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the sites of Go programs have in common: arguments in registers, fields by
 * offset, the goroutine, whose child a call is, the socket under a net.Conn, and
 * connections under a virtual key, which the programs of bpf/socket then treat like
 * any other.
 *
 * These programs may be preempted: nothing here is kept per CPU, and each entry
 * has a bpf_tail_call, because the kernel gives programs without one a private
 * stack per CPU.
 */
#pragma once

#include "../socket/data.h"

/* Set by the loader before load: the memory of programs may be written. */
volatile const u8 go_writes;

/* Site → its program. Owner: user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, WEFT_GO_SITES);
	__type(key, u32);
	__type(value, u32);
} go_sites SEC(".maps");

/* As the kernel hands registers to the program of a uprobe. */
#if defined(__TARGET_ARCH_x86)
struct go_regs {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs,
		flags, sp, ss;
};
#define GO_G(ctx) ((ctx)->r14)
#define GO_SP(ctx) ((ctx)->sp)
#else
struct go_regs {
	u64 r[31], sp, pc, pstate;
};
#define GO_G(ctx) ((ctx)->r[28])
#define GO_SP(ctx) ((ctx)->sp)
#endif

/*
 * Word n, from 0, of the arguments (Go's ABIInternal): a string takes two words, a
 * slice three, an interface two, whose second is the data. n is a constant.
 */
WEFT_INLINE u64 go_arg(struct go_regs *ctx, u32 n)
{
#if defined(__TARGET_ARCH_x86)
	switch (n) {
	case 0:
		return ctx->ax;
	case 1:
		return ctx->bx;
	case 2:
		return ctx->cx;
	case 3:
		return ctx->di;
	case 4:
		return ctx->si;
	case 5:
		return ctx->r8;
	case 6:
		return ctx->r9;
	case 7:
		return ctx->r10;
	case 8:
		return ctx->r11;
	}
	return 0;
#else
	return n < 16 ? ctx->r[n] : 0;
#endif
}

/* Where a site finds itself. */
struct go_here {
	struct weft_target *t;
	struct weft_go_layout *l;
	u64 g;
	u64 goid;
	u32 tgid;
	u32 pad;
};

/* Does the jump that a guarded site sits on lead to the function's start? */
WEFT_INLINE bool go_stack_grows(struct go_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return ctx->flags & 0x41; /* CF or ZF */
#else
	return !(ctx->pstate >> 29 & 1) || ctx->pstate >> 30 & 1; /* C clear, or Z */
#endif
}

/* False: not a selected process, or one whose layout is not known, or the function
 * will start over. */
WEFT_INLINE bool go_enter(struct go_regs *ctx, struct go_here *h, u32 site)
{
	h->tgid = bpf_get_current_pid_tgid() >> 32;
	h->t = target_of(h->tgid);
	h->l = go_layout_of(h->t);
	if (!h->l || (h->l->guarded >> site & 1 && go_stack_grows(ctx)))
		return false;
	h->g = GO_G(ctx);
	h->goid = goid_of(h->l, h->g);
	return h->goid != 0;
}

/* The layout of the process that runs. For global functions. */
WEFT_INLINE struct weft_go_layout *go_layout(void)
{
	return go_layout_of(target_of(bpf_get_current_pid_tgid() >> 32));
}

/* The address of field f of the struct at `base`; 0 if base is, or f is not known. */
WEFT_INLINE u64 go_field(const struct weft_go_layout *l, u64 base, u32 f)
{
	u16 offset = l->offset[f];

	return base && offset != WEFT_GO_UNKNOWN ? base + offset : 0;
}

/* The word there: a pointer, an int, the first word of a string or slice. */
WEFT_INLINE u64 go_word(const struct weft_go_layout *l, u64 base, u32 f)
{
	u64 at = go_field(l, base, f);

	return at ? user_u64(at) : 0;
}

/* The data of the interface there. */
WEFT_INLINE u64 go_data(const struct weft_go_layout *l, u64 base, u32 f)
{
	u64 at = go_field(l, base, f);

	return at ? user_u64(at + 8) : 0;
}

/* --- Whose child ----------------------------------------------------------- */

/* Contexts followed from a call's to the one of a request that is being served. */
#define GO_CONTEXTS 64
#define GO_TOO_DEEP 0xffffffffffffffffULL

/* Is it the address of an object that Go's runtime has made, as that of an itab, with
 * which an interface begins, never is? The first 128 GB of what runtime.mallocinit asks for. */
WEFT_INLINE bool go_on_heap(u64 p)
{
#if defined(__TARGET_ARCH_x86)
	return p >> 37 == 0xc0 >> 5;
#else
	return p >> 37 == 0x40 >> 5;
#endif
}

/*
 * Span id of the exchange whose context.Context the one with this data descends
 * from; 0: of none; GO_TOO_DEEP: not found in GO_CONTEXTS steps. The types of
 * package context, and wrappers that embed a Context first, begin with the
 * interface of their parent. Of others nothing is believed: what is followed by
 * mistake ends nowhere, because only addresses that a server site has noted count.
 */
__attribute__((noinline)) u64 weft_go_descends(u64 data)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_target *t = target_of(tgid);
	struct go_context k = { .data = data, .tgid = tgid };
	struct weft_go_layout *l = go_layout_of(t);
	u64 *span_id;

	if (!t || !l)
		return 0;
	k.start_ns = t->start_ns;
	for (int i = 0; i < GO_CONTEXTS; i++) {
		u64 parent[2] = {};

		span_id = bpf_map_lookup_elem(&go_contexts, &k);
		if (span_id)
			return *span_id;
		if (bpf_probe_read_user(parent, sizeof(parent), (void *)k.data) || !parent[0])
			return 0;
		k.data = parent[1];
		if (l->flags & WEFT_GO_TIMER_POINTER && go_on_heap(parent[0]))
			k.data = parent[0];
		if (!k.data)
			return 0;
	}
	return GO_TOO_DEEP;
}

/* Had no goroutine this goid when b was noted? */
__attribute__((noinline)) int weft_go_born_since(u64 span_id, u64 goid)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);

	if (!x || !x->births.goidgen)
		return 0;
	if (goid > x->births.goidgen)
		return 1;
	for (u32 i = 0; i < GO_PS; i++)
		if (births_hold(x->births.goidgen, x->births.ps[i], goid))
			return 1;
	return 0;
}

/* --- Who serves ------------------------------------------------------------ */

/* The batch of the P at user address p, as births_of_p has it. */
WEFT_INLINE u32 go_batch(const struct weft_go_layout *l, u64 goidgen, u64 p)
{
	u64 at = go_field(l, p, WEFT_GO_P_GOIDCACHE);
	u64 ends = go_field(l, p, WEFT_GO_P_GOIDCACHEEND);
	u64 batch[2] = {};

	if (!at || !ends)
		return 0;
	if (ends - at == sizeof(u64)) {
		/* Beside each other, as in every version so far: one read. */
		bpf_probe_read_user(batch, sizeof(batch), (void *)at);
	} else {
		batch[0] = user_u64(at);
		batch[1] = user_u64(ends);
	}
	return batch[0] ? births_of_p(goidgen + 1 - batch[0], batch[1] - batch[0]) : 0;
}

/* Notes which goids are given to nobody yet: what follows is done by goroutines
 * that begin after the request. g is the one that asks: where there are more Ps than
 * are looked at, its own is the first of them. */
__attribute__((noinline)) int weft_go_births(u64 span_id, u64 g)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_target *t = target_of(tgid);
	struct weft_go_layout *l = go_layout_of(t);
	u64 goidgen, allp[2] = {}, own, p;

	if (!x || !l || !l->goidgen)
		return 0;
	goidgen = user_u64(l->goidgen + t->go_bias);
	if (l->allp)
		bpf_probe_read_user(allp, sizeof(allp), (void *)(l->allp + t->go_bias));
	own = !allp[1] || allp[1] > GO_PS;
	for (u32 i = 0; i < GO_PS; i++) {
		x->births.ps[i] = 0;
		if (i >= allp[1] + own)
			continue;
		if (own && !i)
			p = go_word(l, go_word(l, g, WEFT_GO_G_M), WEFT_GO_M_P);
		else
			p = user_u64(allp[0] + (i - own) * 8);
		x->births.ps[i] = go_batch(l, goidgen, p);
	}
	x->births.goidgen = goidgen;
	return 0;
}

/*
 * A handler begins: the context with this data, and whatever descends from it,
 * belongs to the server exchange span_id; its net/http.Request, or 0, tells the
 * route when the response leaves. With goid not 0 the exchange begins to count for
 * that goroutine, which did not read it. Returns 0 if there is such an exchange.
 */
__attribute__((noinline)) int weft_go_serve(u64 span_id, u64 data, u64 request, u64 goid)
{
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &span_id);
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct weft_target *t = target_of(tgid);
	struct go_context k = { .data = data, .tgid = tgid };

	if (!x || !t)
		return 1;
	k.start_ns = t->start_ns;
	if (goid && x->owner.kind == EXEC_NONE) {
		exec_key_of_goroutine(&x->owner, tgid, goid, t->start_ns);
		exec_arrive(&x->owner, span_id);
	}
	if (request)
		x->request = request;
	if (!data || x->context == data)
		return 0;
	x->context = data;
	if (bpf_map_update_elem(&go_contexts, &k, &span_id, BPF_ANY)) {
		x->context = 0;
		count(WEFT_COUNT_LOST_CONTEXTS_FULL);
	} else if (!bpf_map_lookup_elem(&exchanges, &span_id)) {
		bpf_map_delete_elem(&go_contexts, &k); /* ended meanwhile */
	}
	return 0;
}

/* --- The socket under a net.Conn ------------------------------------------- */

/* Descriptors above this are not believed. */
#define GO_FDS (1 << 20)

/* struct sock of file descriptor fd of the process that runs; 0: no TCP socket. */
__attribute__((noinline)) u64 weft_fd_sock(u32 fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct files_struct *open = KERNEL_READ(task, files);
	struct fdtable *table = KERNEL_READ(open, fdt);
	struct socket *socket;
	struct file **files, *file = 0;
	struct sock *sk;

	if (fd >= KERNEL_READ(table, max_fds))
		return 0;
	files = KERNEL_READ(table, fd);
	if (bpf_probe_read_kernel(&file, sizeof(file), files + fd) || !file)
		return 0;
	socket = KERNEL_READ(file, private_data);
	if (!socket || KERNEL_READ(socket, file) != file)
		return 0;
	sk = BPF_CORE_READ(socket, sk);
	return sk && sock_is_tcp(sk) ? (u64)sk : 0;
}

/* struct sock under the *net.TCPConn at user address `conn`; 0: it is none. */
__attribute__((noinline)) u64 weft_go_sock(u64 conn)
{
	struct weft_go_layout *l = go_layout();
	u64 fd;

	if (!l)
		return 0;
	conn = go_word(l, conn, WEFT_GO_TCPCONN_FD);
	fd = go_field(l, conn, WEFT_GO_NETFD_SYSFD);
	if (!fd)
		return 0;
	fd = user_u64(fd);
	return fd < GO_FDS ? weft_fd_sock(fd) : 0;
}

/* Conns around one another: crypto/tls.Conn, and the wrappers of gRPC and h2c, begin
 * with the net.Conn they are around. */
#define GO_CONNS 4

/* struct sock under any such net.Conn, and how many there are around the innermost. */
WEFT_INLINE u64 go_net_sock(u64 conn, u32 *around)
{
	u64 sk = 0;

	for (u32 i = 0; i < GO_CONNS; i++) {
		sk = weft_go_sock(conn);
		*around = i;
		if (sk || !conn)
			break;
		conn = user_u64(conn + 8);
	}
	return sk;
}

/* --- Virtual connections --------------------------------------------------- */

/*
 * Makes the connection of virtual key `key`, of the process that runs, in the place
 * of what may be there; sk: the socket under it, 0 if that is not known; role: enum
 * weft_role; http: enum weft_http. Returns 0 if there is one now: conn_of(key).
 */
__attribute__((noinline)) int weft_go_conn(u64 key, u64 sk, u32 role, u32 http)
{
	u64 id = bpf_get_current_pid_tgid();
	struct weft_target *t = target_of(id >> 32);
	struct conn *c = conn_of(key), *blank;
	u32 zero = 0;

	if (c) {
		weft_abandon(key, WEFT_END_LOST);
		slot_put(c);
		bpf_map_delete_elem(&conns, &key);
	}
	blank = bpf_map_lookup_elem(&blank_conn, &zero);
	if (!t || !blank)
		return 1;
	bpf_map_update_elem(&conns, &key, blank, BPF_ANY);
	c = conn_of(key);
	if (!c) {
		count(WEFT_COUNT_LOST_CONNS_FULL);
		return 1;
	}
	c->sk = sk;
	if (sk)
		conn_name(c, (struct sock *)sk);
	else
		c->remote_addr[10] = c->remote_addr[11] = 0xff;
	c->tgid = id >> 32;
	c->tid = id;
	c->process_start_ns = t->start_ns;
	c->quiet = !!(t->flags & WEFT_TARGET_QUIET);
	c->http = http;
	c->role = role;
	c->state = CONN_SYNCED;
	parsers_reset(c);
	return 0;
}

/* Ends it: what is unanswered ends so, and its memory is free. */
__attribute__((noinline)) int weft_go_conn_end(u64 key, u32 end)
{
	struct conn *c = conn_of(key);

	if (!c)
		return 0;
	weft_abandon(key, end);
	slot_put(c);
	bpf_map_delete_elem(&conns, &key);
	return 0;
}

/*
 * The request of a virtual connection is complete in head[REQUEST], and what it
 * carries in its slot. Decides about it: weft_serve or weft_depart, by dir. Then
 * weft_go_settle, once what out.write names has been written or not.
 */
__attribute__((noinline)) int weft_go_request(u64 key, u32 dir)
{
	struct conn *c = conn_of(key);

	if (c)
		on_request_head(c, key, dir);
	return 0;
}

/* Writes its records; for a server's, its context begins to hold for departures. */
__attribute__((noinline)) int weft_go_settle(u64 key, u32 dir, u32 propagation)
{
	struct conn *c = conn_of(key);

	if (c)
		emit(c, key, dir, propagation);
	return 0;
}

/* The response of a virtual connection has begun: its status. */
WEFT_INLINE void go_response(struct conn *c, u16 status)
{
	struct pending *p = &c->pending[c->first & (PIPELINE_MAX - 1)];

	if (c->first == c->last || status < 200)
		return;
	p->status = status;
	p->first_byte_ns = bpf_ktime_get_ns();
	if (c->role == WEFT_ROLE_SERVER)
		on_server_response(p);
}
