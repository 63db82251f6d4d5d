/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The receiving half of sockets in the sockhash, attached only where the kernel
 * needs it. Since 6.18.14, 6.12.75 and 6.6.128 FIONREAD on any socket in a
 * sockmap counts only what waits in the sockmap's own receive queue; without a
 * receive program nothing ever does, so programs that ask (nginx, Java, Qt)
 * are told that nothing has arrived. With this program, which passes everything
 * on unread, received bytes do wait there, and the count is right again.
 */
#pragma once

#include "../include/kernel.h"

SEC("sk_skb/verdict")
int weft_receive(struct __sk_buff *skb)
{
	return SK_PASS;
}
