// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The object for Go programs, loaded once one of them is traced. It shares the maps
 * of weft.bpf.c, which has them first, by name.
 *
 * What is attached are the entries: they jump to the program of their site through
 * go_sites, so that the programs can change hands while uprobes stay. One entry for
 * all sites where the kernel tells it which one it is in (the cookie of a
 * uprobe_multi link), one for each elsewhere.
 */
#include "http1.h"

/* Site → its program. Owner: user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, WEFT_GO_SITES);
	__type(key, u32);
	__type(value, u32);
} go_sites SEC(".maps");

SEC("uprobe")
int go_entry(struct go_regs *ctx)
{
	bpf_tail_call(ctx, &go_sites, bpf_get_attach_cookie(ctx));
	return 0;
}

#define GO_ENTRY(site)                                              \
	SEC("uprobe")                                               \
	int go_entry_##site(struct go_regs *ctx)                    \
	{                                                           \
		bpf_tail_call(ctx, &go_sites, WEFT_GO_SITE_##site); \
		return 0;                                           \
	}

/*
 * The program of a site. The jump leads nowhere, slot WEFT_GO_SITE_NONE is empty: it
 * keeps the kernel from giving the program a private stack, which would be per CPU
 * while the program may be preempted.
 */
#define GO_SITE(site, function)                                           \
	GO_ENTRY(site)                                                    \
	SEC("uprobe")                                                     \
	int go_site_##site(struct go_regs *ctx)                           \
	{                                                                 \
		struct go_here h = {};                                    \
                                                                          \
		if (go_enter(ctx, &h, WEFT_GO_SITE_##site))               \
			function(ctx, &h);                                \
		else                                                      \
			bpf_tail_call(ctx, &go_sites, WEFT_GO_SITE_NONE); \
		return 0;                                                 \
	}

GO_SITE(SERVE, go_on_serve)
GO_SITE(ROUNDTRIP, go_on_roundtrip)

const enum weft_go_site *btf_go_site __attribute__((unused));
const struct weft_go_layout *btf_go_layout __attribute__((unused));

char LICENSE[] SEC("license") = "GPL";
