// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The one object user space loads. Its programs share their maps; the loader
 * drops those of the capture ways it does not use before loading.
 */
#include "socket/capture.h"
#include "socket/lifecycle.h"
#include "inject/message.h"
#include "inject/receive.h"
#include "inject/sockops.h"

/* Types user space reads keep their BTF only if something refers to them. */
const enum weft_event_type *btf_event_type __attribute__((unused));
const enum weft_process_op *btf_process_op __attribute__((unused));
const enum weft_target_flag *btf_target_flag __attribute__((unused));
const enum weft_counter *btf_counter __attribute__((unused));
const enum weft_header *btf_header __attribute__((unused));
const enum weft_end *btf_end __attribute__((unused));
const enum weft_role *btf_role __attribute__((unused));
const enum weft_parent_rule *btf_parent_rule __attribute__((unused));
const enum weft_propagation *btf_propagation __attribute__((unused));
const enum weft_http *btf_http __attribute__((unused));
const struct weft_event_head *btf_head __attribute__((unused));
const struct weft_request *btf_request __attribute__((unused));
const struct weft_brief *btf_brief __attribute__((unused));
const struct weft_carried *btf_carried __attribute__((unused));
const struct weft_response *btf_response __attribute__((unused));
const struct weft_route *btf_route __attribute__((unused));
const enum weft_router *btf_router __attribute__((unused));
const struct weft_unread *btf_unread __attribute__((unused));
const enum weft_unread_kind *btf_unread_kind __attribute__((unused));
const struct weft_process *btf_process __attribute__((unused));
const struct weft_socket *btf_socket __attribute__((unused));
const struct weft_control *btf_control __attribute__((unused));
const struct weft_network *btf_network __attribute__((unused));
const struct weft_keys *btf_keys __attribute__((unused));
const struct weft_egress *btf_egress __attribute__((unused));
const struct weft_sampling_rule *btf_sampling_rule __attribute__((unused));
const struct weft_edge *btf_edge __attribute__((unused));
const struct weft_go *btf_go __attribute__((unused));
const struct weft_go_layout *btf_go_layout __attribute__((unused));
const enum weft_go_use *btf_go_use __attribute__((unused));
const enum weft_go_site *btf_go_site __attribute__((unused));

char LICENSE[] SEC("license") = "GPL";
