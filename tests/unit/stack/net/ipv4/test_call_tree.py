# SPDX-License-Identifier: GPL-2.0-or-later
"""Who calls whom in the passive open: the kernel's order, function by function.

Each expected line is a function; what is indented under it are calls that it makes, in this order, with others
allowed between.  A helper of ours (one leading underscore) is transparent: its calls count as its caller's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, Sim
from stack.include import request_sock
from stack.net.ipv4 import inet_connection_sock, tcp_input, tcp_ipv4
from stack.stack import Stack

BIND = """
sys_bind
  inet_bind
    inet_csk_get_port
      inet_bind_bucket_create
      inet_bind_hash
        sk_add_bind_node
  fput_light
"""

LISTEN = """
sys_listen
  inet_listen
    inet_csk_listen_start
      reqsk_queue_alloc
      inet_csk_delack_init
      inet_csk_get_port
        inet_csk_bind_conflict
      inet_hash
        __inet_hash
"""

SYN = """
tcp_v4_rcv
  __inet_lookup_skb
    __inet_lookup
      __inet_lookup_established
      __inet_lookup_listener
  tcp_v4_do_rcv
    tcp_rcv_state_process
      tcp_v4_conn_request
        tcp_conn_request
          inet_reqsk_alloc
            reqsk_alloc
          tcp_parse_options
          tcp_openreq_init
          tcp_v4_init_req
            tcp_v4_save_options
          tcp_v4_init_sequence
          tcp_v4_route_req
            inet_csk_route_req
              flowi4_init_output
              ip_route_output_flow
          tcp_ecn_create_request
          tcp_reqsk_record_syn
          inet_csk_reqsk_queue_hash_add
            reqsk_queue_hash_req
              inet_ehash_insert
                __sk_nulls_add_node_rcu
            inet_csk_reqsk_queue_added
          tcp_v4_send_synack
            tcp_make_synack
            __tcp_v4_send_check
            ip_build_and_send_pkt
              ip_local_out
                __ip_local_out
                  dst_output
                    ip_output
"""

ACK = """
tcp_v4_rcv
  __inet_lookup_skb
    __inet_lookup
      __inet_lookup_established
  tcp_check_req
    tcp_parse_options
    tcp_paws_reject
    tcp_in_window
    tcp_v4_syn_recv_sock
      tcp_create_openreq_child
        inet_csk_clone_lock
          sk_clone_lock
            sk_prot_alloc
        tcp_init_xmit_timers
      inet_sk_rx_dst_set
      inet_csk_route_child_sock
      tcp_ca_openreq_child
        tcp_assign_congestion_control
        tcp_set_ca_state
          bictcp_state
      dst_mtu
        ipv4_mtu
      tcp_sync_mss
        tcp_mtu_to_mss
        tcp_bound_to_half_wnd
      dst_metric_advmss
        ipv4_default_advmss
      tcp_initialize_rcv_mss
      __inet_inherit_port
        inet_bind_hash
      inet_ehash_nolisten
        inet_ehash_insert
          sk_nulls_del_node_init_rcu
          __sk_nulls_add_node_rcu
        sock_prot_inuse_add
      tcp_move_syn
    sock_rps_save_rxhash
    tcp_synack_rtt_meas
      skb_mstamp_us_delta
      tcp_ack_update_rtt
        tcp_update_rtt_min
        tcp_rtt_estimator
        tcp_set_rto
    inet_csk_complete_hashdance
      inet_csk_reqsk_queue_drop
      reqsk_queue_removed
      inet_csk_reqsk_queue_add
        sk_acceptq_added
  tcp_child_process
    tcp_rcv_state_process
      tcp_validate_incoming
      tcp_ack
        tcp_ack_update_window
        tcp_ecn_rcv_ecn_echo
        tcp_in_ack_event
      tcp_init_transfer
        inet_sk_rebuild_header
        tcp_init_congestion_control
          bictcp_init
        tcp_mtup_init
        tcp_init_buffer_space
          tcp_fixup_rcvbuf
          tcp_sndbuf_expand
          tcp_full_space
      sock_def_wakeup
      tcp_init_metrics
      tcp_update_pacing_rate
      tcp_initialize_rcv_mss
      tcp_fast_path_on
      tcp_urg
      tcp_data_queue
      tcp_data_snd_check
      tcp_ack_snd_check
    sock_def_readable
      wake_up_interruptible_sync_poll
"""

# The lines of the tree that are no calls: marker comments, by the function that has them.
MARKERS = {
    inet_connection_sock.inet_csk_get_port: [
        "goto have_snum:",
        "goto tb_not_found:  tb == NULL",
        "goto tb_found:",
        "goto tb_not_found:  tb != NULL",
        "goto success:",
    ],
    inet_connection_sock.inet_csk_listen_start: ["set sk->sk_state = TCP_LISTEN"],
    tcp_ipv4.tcp_v4_do_rcv: ["sk_state == TCP_LISTEN"],
    request_sock.reqsk_alloc: ["req->rsk_listener = sk_listener;"],
    tcp_input.inet_reqsk_alloc: ["ireq->ireq_state = TCP_NEW_SYN_RECV;"],
    tcp_ipv4._rcv_request: ["sk->sk_state == TCP_NEW_SYN_RECV"],
    tcp_input.tcp_ack: ["return 1"],
    tcp_input._rcv_acked: ["sk_state == TCP_SYN_RECV"],
    tcp_input._syn_recv_acked: ["TCP_ESTABLISHED", "out of switch"],
    tcp_input._rcv_data: ["switch TCP_ESTABLISHED"],
}

Node = tuple[str, list[Any]]


class Recorder:
    """The tree of calls into the stack's functions while it is entered."""

    def __init__(self) -> None:
        self.root: Node = ("", [])
        self._stack: list[Node] = [self.root]

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            node: Node = (frame.f_code.co_name, [])
            self._stack[-1][1].append(node)
            self._stack.append(node)
        elif event == "return" and len(self._stack) > 1:
            self._stack.pop()


def record(action: Callable[[], object]) -> Node:
    recorder = Recorder()
    sys.setprofile(recorder)
    try:
        action()
    finally:
        sys.setprofile(None)
    return recorder.root


def calls(node: Node) -> Iterator[Node]:
    """The calls of a function, helpers of ours taken apart."""
    for child in node[1]:
        if child[0].startswith("_") and not child[0].startswith("__"):
            yield from calls(child)
        else:
            yield child


def find(node: Node, name: str) -> Node | None:
    """The first call of that name, at any depth."""
    for child in node[1]:
        found = child if child[0] == name else find(child, name)
        if found is not None:
            return found
    return None


def parse(text: str) -> list[Node]:
    roots: list[Node] = []
    open_nodes: list[tuple[int, list[Any]]] = [(-1, roots)]
    for line in text.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        while open_nodes[-1][0] >= depth:
            open_nodes.pop()
        node: Node = (line.strip(), [])
        open_nodes[-1][1].append(node)
        open_nodes.append((depth, node[1]))
    return roots


def check(wanted: Node, got: Node, path: str = "") -> None:
    """Each wanted call has to come, in order, and to make its own calls in turn."""
    path = f"{path} -> {wanted[0]}"
    seen = list(calls(got))
    at = 0
    for child in wanted[1]:
        names = [node[0] for node in seen[at:]]
        assert child[0] in names, f"{path} does not call {child[0]} here: after {at} calls come {names}"
        at += names.index(child[0]) + 1
        check(child, seen[at - 1], path)


def check_all(text: str, action: Callable[[], object]) -> None:
    root = record(action)
    for wanted in parse(text):
        got = find(root, wanted[0])
        assert got is not None, f"{wanted[0]} is never called"
        check(wanted, got)


@pytest.fixture
def sock(net: Stack) -> Socket:
    return Socket(net)


def test_bind_call_tree(sock: Socket) -> None:
    check_all(BIND, lambda: sock.bind(("", 2222)))


def test_listen_call_tree(sock: Socket) -> None:
    sock.bind(("", 2222))
    check_all(LISTEN, lambda: sock.listen(5))


def test_listen_syn_call_tree(sock: Socket, peer: RawPeer, sim: Sim) -> None:
    sock.bind(("", 2222))
    sock.listen(5)
    peer.tcp(2222).send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    check_all(SYN, sim.settle)


def test_new_syn_recv_ack_call_tree(sock: Socket, peer: RawPeer, sim: Sim) -> None:
    sock.bind(("", 2222))
    sock.listen(5)
    sock.on_event = lambda _sock, _mask: None
    conn = peer.tcp(2222)
    conn.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    conn.expect("SA")
    conn.ts_on = True
    sim.run_for(1_000_000)
    conn.send("A")
    check_all(ACK, sim.settle)


@pytest.mark.parametrize("function", MARKERS, ids=lambda function: function.__name__)
def test_markers_stand_in_their_function_in_order(function: Callable[..., object]) -> None:
    lines = inspect.getsource(function).splitlines()
    found = [line.partition("#> ")[2] for line in lines if line.lstrip().startswith("#> ")]
    assert found == MARKERS[function]


def test_check_notices_a_missing_call_and_a_wrong_order() -> None:
    got: Node = ("", [("a", [("b", []), ("_helper", [("c", [])])])])
    check(parse("a\n  b\n  c")[0], got[1][0])
    for wrong in ("a\n  c\n  b", "a\n  b\n    c", "a\n  d"):
        with pytest.raises(AssertionError, match="does not call"):
            check(parse(wrong)[0], got[1][0])
