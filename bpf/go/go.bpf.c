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
#include "router.h"
#include "../inject/buffered.h"

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
GO_SITE(SERVE_TLS, go_on_serve_tls)
GO_SITE(ROUNDTRIP, go_on_roundtrip)
GO_SITE(WRITE, go_on_write)
GO_SITE(TLS_WRITE, go_on_tls_write)
GO_SITE(TLS_RESPONSE, go_on_tls_response)
GO_SITE(TLS_IDLE, go_on_tls_idle)
GO_SITE(TLS_CLOSE, go_on_tls_close)

GO_SITE(H2_SERVER_HEADERS, go_on_h2_headers_bundled)
GO_SITE(H2_HANDLER, go_on_h2_handler_bundled)
GO_SITE(H2_SERVER_END, go_on_h2_server_end_bundled)
GO_SITE(H2_SERVER_RESET, go_on_h2_server_reset_bundled)
GO_SITE(H2_ROUNDTRIP, go_on_h2_roundtrip)
GO_SITE(H2_REQUEST, go_on_h2_request_bundled)
GO_SITE(H2_RESPONSE, go_on_h2_response_bundled)
GO_SITE(H2_CLIENT_END, go_on_h2_client_end)

GO_SITE(XNET_SERVER_HEADERS, go_on_h2_headers_xnet)
GO_SITE(XNET_HANDLER, go_on_h2_handler_xnet)
GO_SITE(XNET_SERVER_END, go_on_h2_server_end_xnet)
GO_SITE(XNET_SERVER_RESET, go_on_h2_server_reset_xnet)
GO_SITE(XNET_ROUNDTRIP, go_on_h2_roundtrip)
GO_SITE(XNET_REQUEST, go_on_h2_request_xnet)
GO_SITE(XNET_RESPONSE, go_on_h2_response_xnet)
GO_SITE(XNET_CLIENT_END, go_on_h2_client_end)

GO_SITE(GRPC_HANDLER, go_on_grpc_handler)
GO_SITE(GRPC_STATUS, go_on_grpc_status)
GO_SITE(GRPC_SERVER_END, go_on_grpc_server_end)
GO_SITE(GRPC_HANDLER_STATUS, go_on_grpc_handler_status)
GO_SITE(GRPC_NEWSTREAM, go_on_grpc_newstream)
GO_SITE(GRPC_QUEUED, go_on_grpc_queued)
GO_SITE(GRPC_ORIGINATE, go_on_grpc_originate)
GO_SITE(GRPC_CLIENT_END, go_on_grpc_client_end)

GO_SITE(CHI_BEGIN, go_on_chi_begin)
GO_SITE(CHI_END, go_on_chi_end)
GO_SITE(GIN_BEGIN, go_on_gin_begin)
GO_SITE(GIN_END, go_on_gin_end)
GO_SITE(GIN_ROUTE, go_on_gin_route)
GO_SITE(MUX_ROUTE, go_on_mux_route)

/* Not loaded where the kernel lets nobody write the memory of programs. */
GO_SITE(H2_WRITE, go_on_h2_write_bundled)
GO_SITE(XNET_WRITE, go_on_h2_write_xnet)
GO_SITE(GRPC_WRITE, go_on_grpc_write)
GO_SITE(GRPC_WROTE, go_on_grpc_wrote)

const enum weft_go_site *btf_go_site __attribute__((unused));
const struct weft_go_layout *btf_go_layout __attribute__((unused));

char LICENSE[] SEC("license") = "GPL";
