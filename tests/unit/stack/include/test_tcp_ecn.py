# SPDX-License-Identifier: GPL-2.0-or-later
"""Accurate ECN's arithmetic (RFC 9768): the ACE field, codepoints of the handshake, the option's counters."""

from __future__ import annotations

import pytest

from stack.api.sim import Sim
from stack.include.ip import INET_ECN_CE, INET_ECN_ECT_0, INET_ECN_ECT_1, INET_ECN_NOT_ECT
from stack.include.sk_buff import sk_buff
from stack.include.sock import AF_INET
from stack.include.tcp import (
    TCP_ECN_MODE_ACCECN,
    TCP_ECN_MODE_RFC3168,
    TCP_ECN_SEEN,
    TCPHDR_AE,
    TCPHDR_CWR,
    TCPHDR_ECE,
    TCPHDR_SYN,
    TCPOPT_ACCECN0,
    TCPOPT_ACCECN1,
    tcp_accecn_option,
    tcp_skb_cb,
    tcp_sock,
    tcphdr,
)
from stack.include.tcp_ecn import (
    TCP_ACCECN_OPT_COUNTER_SEEN,
    TCP_ACCECN_OPT_EMPTY_SEEN,
    TCP_ACCECN_OPT_FAIL_SEEN,
    tcp_accecn_ace,
    tcp_accecn_ace_flags,
    tcp_accecn_option_fields,
    tcp_accecn_option_init,
    tcp_accecn_reflector_flags,
    tcp_accecn_set_ace,
    tcp_accecn_syn_requested,
    tcp_ecn_received_counters,
    tcp_ect_transition_valid,
    tcp_update_ecn_bytes,
)
from stack.net.core import sock as core_sock
from stack.net.ipv4 import tcp_ipv4

MIB = 1 << 20


@pytest.fixture
def sk() -> tcp_sock:
    net = Sim(seed=1).add_stack("10.0.0.1/24", profile="linux-7.3")
    made: tcp_sock = core_sock.sk_alloc(net, AF_INET, tcp_ipv4.tcp_prot)
    made.ecn_flags = TCP_ECN_MODE_ACCECN
    return made


def header(ace: int) -> tcphdr:
    return tcphdr(1, 2, 0, 0, 5 << 12 | TCPHDR_SYN | tcp_accecn_ace_flags(ace), 0, 0, 0)


def packet(tos: int, segments: int = 0) -> sk_buff:
    skb = sk_buff(b"", 0, 0)
    skb.cb = tcp_skb_cb(0, 0, 0)
    skb.cb.ip_dsfield = tos
    skb.gso_segs = segments
    return skb


@pytest.mark.parametrize("ace", range(8))
def test_ace_is_read_as_it_is_written(ace: int) -> None:
    assert tcp_accecn_ace(header(ace)) == ace


def test_ace_bits_are_ae_cwr_ece() -> None:
    assert [tcp_accecn_ace_flags(1 << bit) for bit in range(3)] == [TCPHDR_ECE, TCPHDR_CWR, TCPHDR_AE]


@pytest.mark.parametrize(
    ("ect", "ace"),
    [(INET_ECN_NOT_ECT, 0b010), (INET_ECN_ECT_1, 0b011), (INET_ECN_ECT_0, 0b100), (INET_ECN_CE, 0b110)],
)
def test_handshake_reflects_the_codepoint(ect: int, ace: int) -> None:
    """RFC 9768, tables 2 and 3."""
    assert tcp_accecn_reflector_flags(ect) == tcp_accecn_ace_flags(ace)


def test_syn_offers_with_any_flags_that_are_not_classic() -> None:
    assert [ace for ace in range(8) if not tcp_accecn_syn_requested(header(ace))] == [0b000, 0b011]


def test_path_may_only_mark_ce() -> None:
    valid = {(a, b) for a in range(4) for b in range(4) if tcp_ect_transition_valid(a, b)}
    assert valid == {(0, 0), (1, 1), (2, 2), (3, 3), (1, 3), (2, 3)}


@pytest.mark.parametrize(("received", "ace"), [(0, 5), (2, 7), (3, 0), (8, 5), (12, 1)])
def test_ace_counts_from_five_modulo_eight(sk: tcp_sock, received: int, ace: int) -> None:
    sk.received_ce, sk.received_ce_pending = received, 4
    assert tcp_accecn_set_ace(sk, 0) == tcp_accecn_ace_flags(ace)
    assert sk.received_ce_pending == 0


def test_ace_of_the_handshake_is_left_alone(sk: tcp_sock) -> None:
    sk.received_ce, sk.received_ce_pending = 1, 1
    flags = tcp_accecn_reflector_flags(INET_ECN_CE)
    assert tcp_accecn_set_ace(sk, flags) == flags
    assert sk.received_ce_pending == 1


def test_option_counters_start_at_one_one_and_zero() -> None:
    assert tcp_accecn_option_fields([0, 0, 0], 3) == bytes((0, 0, 1, 0, 0, 0, 0, 0, 1))
    assert tcp_accecn_option_fields([4, 5, 6], 2) == bytes((0, 0, 5, 0, 0, 6))


def test_option_counters_are_24_bits() -> None:
    assert tcp_accecn_option_fields([0, (1 << 24) + 6, 0], 3)[6:] == bytes((0, 0, 7))


@pytest.mark.parametrize(
    ("kind", "body", "seen"),
    [
        (TCPOPT_ACCECN0, b"", TCP_ACCECN_OPT_EMPTY_SEEN),
        (TCPOPT_ACCECN0, b"\0\0\1", TCP_ACCECN_OPT_COUNTER_SEEN),
        (TCPOPT_ACCECN0, b"\0\0\0", TCP_ACCECN_OPT_FAIL_SEEN),
        (TCPOPT_ACCECN1, b"\0\0\1\0\0\0\0\0\0", TCP_ACCECN_OPT_FAIL_SEEN),
        (TCPOPT_ACCECN1, b"\0\0\1\0\0\0\0\0\1", TCP_ACCECN_OPT_COUNTER_SEEN),
    ],
)
def test_first_option_shows_a_path_that_zeroes(kind: int, body: bytes, seen: int) -> None:
    assert tcp_accecn_option_init(tcp_accecn_option(kind, body)) == seen


def test_option_orders_are_each_others_reverse() -> None:
    body = bytes((0, 0, 1, 0, 0, 2, 0, 0, 3))
    assert tcp_accecn_option(TCPOPT_ACCECN0, body).counters() == [(2, 1), (3, 2), (1, 3)]
    assert tcp_accecn_option(TCPOPT_ACCECN1, body).counters() == [(1, 1), (3, 2), (2, 3)]


def test_delivered_bytes_follow_24_bits_forwards_and_backwards(sk: tcp_sock) -> None:
    sk.delivered_ecn_bytes[1] = (1 << 24) - 10
    assert tcp_update_ecn_bytes(sk, INET_ECN_ECT_0, 1 + 20) == 30
    assert tcp_update_ecn_bytes(sk, INET_ECN_ECT_0, 1 + 15) == -5
    assert sk.delivered_ecn_bytes == [0, (1 << 24) + 15, 0]


def test_received_segments_of_a_train_count_each(sk: tcp_sock) -> None:
    tcp_ecn_received_counters(sk, packet(INET_ECN_CE, segments=7), 7 * 1448)
    assert (sk.received_ce, sk.received_ce_pending, sk.received_ecn_bytes) == (7, 7, [0, 0, 7 * 1448])


def test_received_pending_is_four_bits(sk: tcp_sock) -> None:
    for _ in range(20):
        tcp_ecn_received_counters(sk, packet(INET_ECN_CE), 0)
    assert (sk.received_ce, sk.received_ce_pending) == (20, 15)


def test_received_codepoint_decides_how_many_fields_are_needed(sk: tcp_sock) -> None:
    needed = []
    for tos in (INET_ECN_ECT_1, INET_ECN_CE, INET_ECN_ECT_0):
        sk.accecn_minlen = 0
        tcp_ecn_received_counters(sk, packet(tos), 1)
        needed.append(sk.accecn_minlen)
    assert needed == [1, 2, 3]


def test_received_4_mib_demand_an_option(sk: tcp_sock) -> None:
    demands = []
    for _ in range(9):
        tcp_ecn_received_counters(sk, packet(INET_ECN_ECT_0), MIB)
        demands.append(sk.accecn_opt_demand)
        sk.accecn_opt_demand = 0
    assert demands == [2, 0, 0, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(("mode", "seen"), [(0, TCP_ECN_SEEN), (TCP_ECN_MODE_RFC3168, 0)])
def test_received_counters_run_in_every_mode(sk: tcp_sock, mode: int, seen: int) -> None:
    sk.ecn_flags = mode
    tcp_ecn_received_counters(sk, packet(INET_ECN_CE), 10)
    assert (sk.received_ce, sk.received_ecn_bytes, sk.accecn_opt_demand) == (1, [0, 0, 10], 0)
    assert sk.ecn_flags == mode | seen
