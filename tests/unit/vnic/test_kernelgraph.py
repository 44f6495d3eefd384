# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from vnic import callgraph, kernelgraph
from vnic.kernelgraph import KernelCall, NoKernelTrace

TRACE = """\
# tracer: function_graph
#
# CPU  DURATION                  FUNCTION CALLS
# |     |   |                     |   |   |   |
 0)   0.500 us    |      } /* the end of something that began before */
 0)               |  tcp_v4_rcv() {
 0) + 11.117 us   |    __inet_lookup_established();
 0)               |    tcp_v4_do_rcv() {
 0)   1.552 us    |      _raw_spin_lock();
 0)               |      tcp_rcv_state_process() {
 0) ! 145.355 us  |        tcp_v4_conn_request.part.0();
 0) + 31.087 us   |      }
 0)   1.002 us    |      kmem_cache_alloc();
 0)               |      /* a comment of the tracer */
 0) ! 160.398 us  |    }
 ------------------------------------------
 1)  nc-123       =>    swapper-0
 ------------------------------------------
 0)               |    cubictcp_state();
 0) @ 1000.01 us  |  }
 0)               |  __sys_bind() {
 0)               |    do_softirq() {
 0)               |      tcp_v4_rcv() {
 0)   1.000 us    |        tcp_v4_send_reset();
 0)   1.000 us    |      }
 0)   1.000 us    |    }
 0)   1.000 us    |    inet_bind();
 0)   1.000 us    |  }
"""


def test_trace_becomes_trees_with_the_names_of_the_source() -> None:
    segment, bind, inner = kernelgraph.parse(TRACE)
    assert list(segment.names()) == [
        "tcp_v4_rcv",
        "__inet_lookup_established",
        "tcp_v4_do_rcv",
        "_raw_spin_lock",
        "tcp_rcv_state_process",
        "tcp_v4_conn_request",
        "kmem_cache_alloc",
        "bictcp_state",
    ]
    assert bind.name == "sys_bind"
    assert inner.name == "tcp_v4_rcv"


def test_segment_that_came_in_an_interrupt_has_a_tree_of_its_own() -> None:
    assert list(kernelgraph.find(kernelgraph.parse(TRACE), "closed_port").names()) == [
        "tcp_v4_rcv",
        "tcp_v4_send_reset",
    ]


def test_memory_locks_and_interrupts_are_left_out() -> None:
    trees = kernelgraph.parse(TRACE)
    assert "\n".join(kernelgraph.draw(kernelgraph.find(trees, "receive_syn"))) == (
        "tcp_v4_rcv\n"
        "  -> __inet_lookup_established\n"
        "  -> tcp_v4_do_rcv\n"
        "    -> tcp_rcv_state_process\n"
        "      -> tcp_v4_conn_request\n"
        "  -> bictcp_state"
    )
    assert list(kernelgraph.find(trees, "bind").names()) == ["sys_bind", "inet_bind"]


def test_function_that_the_compiler_cut_in_two_is_one() -> None:
    tree = KernelCall("tcp_send_ack", [KernelCall("tcp_send_ack", [KernelCall("tcp_transmit_skb")])])
    assert list(kernelgraph.pruned(tree).names()) == ["tcp_send_ack", "tcp_transmit_skb"]


def test_step_that_was_not_recorded_is_named_with_what_was() -> None:
    with pytest.raises(NoKernelTrace, match="did not go through the step listen") as caught:
        kernelgraph.find(kernelgraph.parse(TRACE), "listen")
    assert "3 trees were recorded, of sys_bind, tcp_v4_rcv" in caught.value.evidence
    with pytest.raises(NoKernelTrace) as caught:
        kernelgraph.find([], "bind")
    assert "of nothing" in caught.value.evidence


def test_comparison_marks_what_only_one_side_calls() -> None:
    ours = callgraph.trace(callgraph.SCENES["bind"])
    kernel = KernelCall("sys_bind", [KernelCall("inet_bind", [KernelCall("inet_of_tomorrow")])])
    lines = kernelgraph.compare(ours.root, kernel)
    assert lines[:3] == ["  sys_bind", "    -> inet_bind", "-     -> inet_of_tomorrow"]
    assert "+     -> inet_csk_get_port" in lines


@pytest.mark.slow
def test_share_counts_tcp_functions_only() -> None:
    tree = KernelCall(
        "tcp_v4_rcv", [KernelCall("tcp_of_tomorrow"), KernelCall("ip_output"), KernelCall("kfree")]
    )
    assert kernelgraph.mirrored([tree]) == (frozenset({"tcp_v4_rcv"}), frozenset({"tcp_of_tomorrow"}))


@pytest.mark.parametrize("name", kernelgraph.SCENES)
def test_every_step_of_the_kernels_is_one_of_ours(name: str) -> None:
    assert name in callgraph.SCENES
