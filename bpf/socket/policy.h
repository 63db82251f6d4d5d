/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Whose context is believed, and what may leave to whom. Asked once per
 * connection: its peer does not change. A peer whose address is not known (a virtual
 * connection over something that is no TCP socket) counts as 0.0.0.0, port 0: what
 * names networks or ports does not mean it, what is for every network does.
 */
#pragma once

#include "position.h"
#include "../maps/policy.h"

/* Set by the loader before load. */
volatile const u8 trust_restricted; /* 0: every network is trusted */

WEFT_INLINE bool conn_trusted(struct conn *c)
{
	struct weft_network n;
	u64 *believed;

	if (!trust_restricted)
		return true;
	if (!c->trust) {
		peer_network(c, &n);
		believed = bpf_map_lookup_elem(&trusted, &n);
		c->trust = believed && *believed ? 1 : 2;
	}
	return c->trust == 1;
}

#define EGRESS_NONE 255

/* The egress rule for the peer of sk. */
__attribute__((noinline)) int weft_egress_find(u64 sk)
{
	struct conn *c = conn_of(sk);
	struct weft_network n;
	u16 port;
	u64 *rules;

	if (!c)
		return 0;
	c->egress = EGRESS_NONE;
	peer_network(c, &n);
	port = c->remote_port;
	rules = bpf_map_lookup_elem(&egress, &n);
	if (!rules)
		return 0;
	for (u32 i = 0; i < WEFT_EGRESS_MAX; i++) {
		struct weft_egress *r;

		if (!(*rules >> i & 1))
			continue;
		r = egress_rule(i);
		if (r && egress_covers_port(r, port)) {
			c->egress = i + 1;
			return 0;
		}
	}
	return 0;
}

/* What may leave on this connection. */
WEFT_INLINE u8 conn_egress_headers(struct conn *c, u64 sk)
{
	struct weft_egress *r;

	if (!c->egress)
		weft_egress_find(sk);
	if (!c->egress || c->egress == EGRESS_NONE)
		return 0;
	r = egress_rule(c->egress - 1);
	return r ? r->headers : 0;
}
