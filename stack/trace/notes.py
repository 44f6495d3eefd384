# SPDX-License-Identifier: GPL-2.0-or-later
"""What notes of a call tree show: which calls, chained how, with which arguments and results.

A person who draws a call tree leaves most of it out.  Level "notes" does so by this table; level "full" asks it only
for arguments and results.  ``SHOWN`` names, for a function, the calls that are drawn under it: what these call through
functions that are not drawn themselves counts as theirs.  For a function without an entry everything is drawn but
``NOISE`` and what is called there: accessors, counters, memory, clocks and timers; and but for the helpers that the
kernel has not, whose calls count as their caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from stack.include.tcp import TCP_CA_CWR, TCP_CA_Disorder, TCP_CA_Loss, TCP_CA_Open, TCP_CA_Recovery
from stack.include.tcp_states import TCP_STATE_NAMES

_PASSIVE_OPEN: Final = """
sys_bind: inet_bind fput_light
inet_bind: inet_csk_get_port
inet_csk_get_port: inet_bind_bucket_create inet_bind_hash inet_csk_bind_conflict
inet_bind_bucket_create:
inet_bind_hash: sk_add_bind_node
sk_add_bind_node:
inet_csk_bind_conflict:
fput_light:

sys_listen: inet_listen
inet_listen: inet_csk_listen_start
inet_csk_listen_start: reqsk_queue_alloc inet_csk_delack_init inet_csk_get_port inet_hash
reqsk_queue_alloc:
inet_csk_delack_init:
inet_hash: __inet_hash
__inet_hash:

tcp_v4_rcv: __inet_lookup_skb tcp_v4_do_rcv tcp_check_req tcp_child_process tcp_timewait_state_process
  tcp_v4_timewait_ack tcp_v4_send_reset
__inet_lookup_skb: __inet_lookup
__inet_lookup: __inet_lookup_established __inet_lookup_listener
__inet_lookup_established:
__inet_lookup_listener:
tcp_v4_do_rcv: tcp_rcv_state_process tcp_rcv_established cookie_v4_check tcp_child_process tcp_v4_send_reset
tcp_v4_conn_request: tcp_conn_request
tcp_conn_request: inet_reqsk_alloc tcp_parse_options tcp_openreq_init tcp_v4_init_req tcp_v4_init_sequence
  tcp_v4_route_req tcp_ecn_create_request cookie_init_sequence tcp_reqsk_record_syn
  inet_csk_reqsk_queue_hash_add tcp_v4_send_synack
inet_reqsk_alloc: reqsk_alloc
reqsk_alloc:
tcp_openreq_init:
tcp_v4_init_req: tcp_v4_save_options
tcp_v4_save_options:
tcp_v4_init_sequence:
tcp_v4_route_req: inet_csk_route_req
inet_csk_route_req: flowi4_init_output ip_route_output_flow
flowi4_init_output:
ip_route_output_flow:
tcp_ecn_create_request:
tcp_reqsk_record_syn:
inet_csk_reqsk_queue_hash_add: reqsk_queue_hash_req inet_csk_reqsk_queue_added
reqsk_queue_hash_req: inet_ehash_insert
inet_ehash_insert: sk_nulls_del_node_init_rcu __sk_nulls_add_node_rcu
sk_nulls_del_node_init_rcu:
__sk_nulls_add_node_rcu:
inet_csk_reqsk_queue_added:
tcp_v4_send_synack: tcp_make_synack __tcp_v4_send_check ip_build_and_send_pkt
tcp_make_synack:
__tcp_v4_send_check:
ip_build_and_send_pkt: ip_local_out
ip_local_out: __ip_local_out
__ip_local_out: dst_output
dst_output: ip_output
ip_output:

tcp_check_req: tcp_parse_options tcp_paws_reject tcp_in_window tcp_v4_syn_recv_sock sock_rps_save_rxhash
  tcp_synack_rtt_meas inet_csk_complete_hashdance
tcp_parse_options:
tcp_paws_reject:
tcp_in_window:
tcp_v4_syn_recv_sock: tcp_create_openreq_child inet_sk_rx_dst_set inet_csk_route_child_sock tcp_ca_openreq_child
  tcp_sync_mss dst_mtu dst_metric_advmss tcp_initialize_rcv_mss __inet_inherit_port inet_ehash_nolisten tcp_move_syn
tcp_create_openreq_child: inet_csk_clone_lock tcp_init_xmit_timers
inet_csk_clone_lock: sk_clone_lock
sk_clone_lock: sk_prot_alloc
sk_prot_alloc:
tcp_init_xmit_timers:
inet_sk_rx_dst_set:
inet_csk_route_child_sock:
tcp_ca_openreq_child: tcp_assign_congestion_control tcp_set_ca_state
tcp_assign_congestion_control:
tcp_set_ca_state: bictcp_state
bictcp_state:
dst_mtu: ipv4_mtu
ipv4_mtu:
tcp_sync_mss: tcp_mtu_to_mss tcp_bound_to_half_wnd
tcp_mtu_to_mss:
tcp_bound_to_half_wnd:
dst_metric_advmss: ipv4_default_advmss
ipv4_default_advmss:
tcp_initialize_rcv_mss:
__inet_inherit_port: inet_bind_hash
inet_ehash_nolisten: inet_ehash_insert sock_prot_inuse_add
sock_prot_inuse_add:
tcp_move_syn:
sock_rps_save_rxhash:
tcp_synack_rtt_meas: skb_mstamp_us_delta tcp_ack_update_rtt
skb_mstamp_us_delta:
tcp_ack_update_rtt: tcp_update_rtt_min tcp_rtt_estimator tcp_set_rto
tcp_update_rtt_min:
tcp_rtt_estimator:
tcp_set_rto:
inet_csk_complete_hashdance: inet_csk_reqsk_queue_drop reqsk_queue_removed inet_csk_reqsk_queue_add
inet_csk_reqsk_queue_drop:
reqsk_queue_removed:
inet_csk_reqsk_queue_add: sk_acceptq_added
sk_acceptq_added:
tcp_child_process: tcp_rcv_state_process sock_def_readable

tcp_rcv_state_process: tcp_v4_conn_request tcp_rcv_synsent_state_process tcp_validate_incoming tcp_ack
  inet_sk_rebuild_header tcp_init_congestion_control tcp_mtup_init tcp_init_buffer_space sock_def_wakeup
  tcp_init_metrics tcp_update_pacing_rate tcp_initialize_rcv_mss tcp_fast_path_on tcp_urg tcp_data_queue
  tcp_data_snd_check tcp_ack_snd_check tcp_time_wait tcp_done tcp_reset
tcp_validate_incoming: tcp_reset tcp_send_challenge_ack tcp_send_dupack
tcp_ack: tcp_ack_update_window tcp_ecn_rcv_ecn_echo tcp_in_ack_event tcp_clean_rtx_queue tcp_fastretrans_alert
  tcp_cong_control tcp_xmit_recovery tcp_sacktag_write_queue
tcp_ack_update_window:
tcp_ecn_rcv_ecn_echo:
tcp_in_ack_event:
inet_sk_rebuild_header:
tcp_init_congestion_control: bictcp_init
bictcp_init:
tcp_mtup_init:
tcp_init_buffer_space: tcp_fixup_rcvbuf tcp_sndbuf_expand tcp_full_space
tcp_fixup_rcvbuf:
tcp_sndbuf_expand:
tcp_full_space:
sock_def_wakeup:
tcp_init_metrics:
tcp_update_pacing_rate:
tcp_fast_path_on:
tcp_urg:
tcp_data_snd_check: tcp_write_xmit
tcp_ack_snd_check: __tcp_ack_snd_check
sock_def_readable: wake_up_interruptible_sync_poll
wake_up_interruptible_sync_poll:
"""


def _table(text: str) -> dict[str, frozenset[str]]:
    shown: dict[str, frozenset[str]] = {}
    for line in text.replace("\n  ", " ").splitlines():
        name, found, calls = line.partition(":")
        if found:
            shown[name] = frozenset(calls.split())
    return shown


SHOWN: Final = _table(_PASSIVE_OPEN)

# Functions whose call goes on in the line of their caller: "tcp_sync_mss -> dst_mtu -> ipv4_mtu".  Under those of the
# pairs nothing more is drawn.
CHAINED: Final = frozenset(
    {"dst_mtu", "ipv4_mtu", "ipv4_default_advmss", "bictcp_init", "wake_up_interruptible_sync_poll"}
)
CHAINED_UNDER: Final = frozenset({("__inet_inherit_port", "inet_bind_hash")})

# Pointers through which calls are remarked upon: those of the address family, which one has to know to read on.
REMARKED: Final = "af_ops"

# An empty line stands before these: what came before is another subject.
NEW_PARAGRAPH: Final = frozenset({("__inet_lookup_skb", "tcp_v4_do_rcv")})

NOISE_FILES: Final = (
    "stack/include/",
    "stack/lib/",
    "stack/kernel/",
    "stack/seqnum.py",
    "stack/clock.py",
    "stack/rng.py",
)
_NOISE: Final = """
sockfd_lookup_light get_unused_fd_flags fd_install sock_alloc sock_alloc_file
kfree_skb_reason consume_skb skb_net skb_orphan skb_clone skb_set_owner_r sk_rmem_schedule sk_forced_mem_schedule
sock_rfree skb_slices tcp_init_nondata_skb tcp_stream_alloc_skb tcp_write_queue_purge sk_stream_kill_queues
tcp_release_cb tcp_checksum_complete tcp_try_rmem_schedule
tcp_mstamp_refresh tcp_rate_skb_sent tcp_rate_skb_delivered tcp_rate_check_app_limited tcp_update_skb_after_send
tcp_chrono_start tcp_chrono_stop tcp_rbtree_insert tcp_acceptable_seq tcp_rack_sent_after tcp_minshall_update
tcp_current_mss ipv4_mtu ipv4_default_advmss ip4_dst_hoplimit ip_mtu_locked ip_select_ident_segs sk_can_gso
tcp_init_tso_segs tcp_set_skb_tso_segs tcp_check_space tcp_check_oom tcp_rto_min_us tcp_rto_delta_us
tcp_stream_memory_free tcp_should_autocork tcp_mark_push __sk_dst_check sk_setup_caps tcp_event_ack_sent
tcp_clear_xmit_timers sk_reset_timer sk_stop_timer sock_needs_netstamp tcp_clear_md5_list
tcp_fastopen_destroy_cipher tcp_metrics_block __tcp_get_metrics
inet_addr_type inet_bhash2_update_saddr inet_bind2_bucket_find inet_bind2_bucket_create inet_bind2_bucket_destroy
inet_send_prepare cookie_hash tcp_reset_key ip_hdr_protocol signature_size begin_numbers
"""
NOISE: Final = frozenset(_NOISE.split())

_CA_STATES: Final = {
    TCP_CA_Open: "TCP_CA_Open",
    TCP_CA_Disorder: "TCP_CA_Disorder",
    TCP_CA_CWR: "TCP_CA_CWR",
    TCP_CA_Recovery: "TCP_CA_Recovery",
    TCP_CA_Loss: "TCP_CA_Loss",
}

_ARGUMENTS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "tcp_set_ca_state": lambda values: _CA_STATES[values["ca_state"]],
    "tcp_set_state": lambda values: f"TCP_{TCP_STATE_NAMES[values['state']]}",
}


def _found(result: Any) -> str:
    return "found" if result is not None else ""


_RESULTS: Final[dict[str, Callable[[Any], str]]] = {
    "__inet_lookup_established": _found,
    "__inet_lookup_listener": _found,
    "tcp_ecn_rcv_ecn_echo": lambda result: "true" if result else "false",
}


def is_helper(name: str) -> bool:
    """Whether a function is one that the kernel has not, a part of another that is too long here."""
    return name.startswith("_") and not name.startswith("__")


def arguments_of(name: str, frame: FrameType) -> str:
    """The arguments that are worth a word, from a call's frame."""
    text = _ARGUMENTS.get(name)
    return text(frame.f_locals) if text is not None else ""


def result_of(name: str, result: object) -> str:
    """A word about a call's result, if it is worth one."""
    text = _RESULTS.get(name)
    return text(result) if text is not None else ""
