# SPDX-License-Identifier: GPL-2.0-or-later
"""Accurate ECN (RFC 9768) on connections; what a live kernel can show is in tests/differential/stimuli/accecn.py."""

from __future__ import annotations

from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.path import Frame, segment
from stack.api.sim import RawPeer, RawTcp, Segment, Sim
from stack.include.sk_buff import CHECKSUM_PARTIAL, SKB_GSO_TCP_ACCECN
from stack.include.sock import AF_INET6
from stack.include.tcp import SOL_TCP, TCP_CONGESTION, TCPOPT_ACCECN0
from stack.net.ipv4.proc import netstat_groups
from stack.net.ipv4.tcp import tcp_get_info
from stack.net.ipv4.tcp_output import OPTION_ACCECN, tcp_options_fit_accecn, tcp_out_options
from stack.stack import Stack

CE, ECT0 = 3, 2
MSS = 1448
INITIAL = bytes((TCPOPT_ACCECN0, 11, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1))


def ace(one: Segment) -> int:
    ae = one.packet.frame.data[66 if ":" in one.packet.src else 46] & 1
    return ae << 2 | ("W" in one.flags) << 1 | ("E" in one.flags)


def send(conn: RawTcp, flags: str, count: int, data: bytes = b"", **fields: Any) -> None:
    """A segment with that ACE field."""
    bits = flags + "E" * (count & 1) + "W" * (count >> 1 & 1)
    conn.send(bits, data, res1=count >> 2, **fields)


@pytest.fixture
def modern(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", profile="linux-7.3", sysctl={"tcp_ecn": 3})


@pytest.fixture
def client(sim: Sim, modern: Stack) -> RawPeer:
    return sim.add_peer("10.0.2.15", modern)


def accepted(
    sim: Sim, net: Stack, peer: RawPeer, opts: bytes = b"", before: tuple[Any, ...] = ()
) -> tuple[RawTcp, Any]:
    listener = Socket(net)
    for option in before:
        listener.setsockopt(*option)
    listener.bind(("", 80))
    listener.listen(5)
    conn = peer.tcp(80)
    send(conn, "S", 7, mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    synack = conn.expect()
    assert ace(synack) == 0b010
    conn.ts_on = True
    send(conn, "A", 2, options=opts)
    sim.settle()
    return conn, listener.accept()[0]


@pytest.mark.parametrize(("profile", "largest"), [("linux-6.18", 2), ("linux-7.3", 5)])
def test_sysctl_tcp_ecn_ends_where_the_kernels_does(sim: Sim, profile: str, largest: int) -> None:
    net = sim.add_stack("10.0.9.2/24", profile=profile)
    net.sysctl_set("tcp_ecn", largest)
    with pytest.raises(ValueError, match=f"0 to {largest} on {profile}"):
        net.sysctl_set("net.ipv4.tcp_ecn", largest + 1)
    assert net.sysctl_get("tcp_ecn") == largest


def test_listen_accurate_offer_over_ipv6(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", "fd00::2/64", profile="linux-7.3", sysctl={"tcp_ecn": 3})
    peer = sim.add_peer("10.0.2.15", net, addr6="fd00::15")
    listener = Socket(net, AF_INET6)
    listener.bind(("::", 80))
    listener.listen(5)
    conn = peer.tcp(80, dst="fd00::2")
    send(conn, "S", 7, mss=1440, sackok=True, ts=(1000, 0), wscale=7, tos=CE)
    assert ace(conn.expect()) == 0b110
    conn.ts_on = True
    send(conn, "A", 2, options=INITIAL)
    sim.settle()
    sock, _ = listener.accept()
    sock.send(b"hello")
    data = conn.expect()
    assert (ace(data), data.packet.tos) == (5, ECT0)
    send(conn, "PA", 5, b"x", tos=CE)
    assert ace(conn.expect()) == 6


def test_established_counts_both_ways_and_says_so_in_tcp_info(
    sim: Sim, modern: Stack, client: RawPeer
) -> None:
    conn, sock = accepted(sim, modern, client, INITIAL)
    send(conn, "PA", 5, b"x" * 100, tos=CE)
    assert ace(conn.expect()) == 6
    sock.send(b"y" * 500)
    assert ace(conn.expect()) == 6
    send(conn, "A", 6, ack=501, options=bytes((TCPOPT_ACCECN0, 8, 0, 0, 1, 0, 1, 0xF4)))
    sim.settle()
    info = tcp_get_info(sock._sock.sk)
    assert (info["tcpi_received_ce"], info["tcpi_received_ce_bytes"]) == (1, 100)
    assert (info["tcpi_delivered_ce"], info["tcpi_delivered_ce_bytes"]) == (1, 500)
    assert (info["tcpi_ecn_mode"], info["tcpi_accecn_opt_seen"]) == (2, 2)


def test_established_ce_reduces_once_per_round_trip(sim: Sim, modern: Stack, client: RawPeer) -> None:
    conn, sock = accepted(sim, modern, client)
    sock.send(b"x" * 10 * MSS)
    sim.settle()
    sk = sock._sock.sk
    thresholds = []
    for n in range(1, 11):
        send(conn, "A", 5 + n & 7, ack=1 + n * MSS)
        sim.settle()
        thresholds.append(sk.snd_ssthresh)
    assert len(set(thresholds)) == 1
    assert (sk.delivered_ce, sk.icsk_ca_state) == (10, 2)


def test_established_header_prediction_goes_by_ace(sim: Sim, modern: Stack, client: RawPeer) -> None:
    conn, sock = accepted(sim, modern, client)
    sk = sock._sock.sk
    for n, count in enumerate((5, 5, 6, 6)):
        sock.send(b"x")
        sim.settle()
        before = netstat_groups(modern)["TcpExt"]["TCPHPAcks"]
        send(conn, "A", count, ack=2 + n)
        sim.settle()
        assert sk.snd_una == sk.snd_nxt
        assert netstat_groups(modern)["TcpExt"]["TCPHPAcks"] - before == (n != 2)


def test_established_disconnect_forgets_it(sim: Sim, modern: Stack, client: RawPeer) -> None:
    conn, sock = accepted(sim, modern, client, INITIAL)
    send(conn, "PA", 5, b"x", tos=CE)
    sim.settle()
    sk = sock._sock.sk
    assert sk.received_ce == 1
    sk.sk_prot.disconnect(sk, 0)
    assert (sk.ecn_flags, sk.received_ce, sk.saw_accecn_opt, sk.received_ecn_bytes) == (0, 0, 0, [0, 0, 0])


def test_established_dctcp_with_accurate_counts(sim: Sim, modern: Stack, client: RawPeer) -> None:
    """DCTCP's alpha moves by what ACE says: two of the ten segments."""
    modern.sysctl_set("tcp_allowed_congestion_control", "reno cubic dctcp")
    conn, sock = accepted(sim, modern, client, before=((SOL_TCP, TCP_CONGESTION, b"dctcp"),))
    sock.send(b"x" * 10 * MSS)
    sim.settle()
    sk = sock._sock.sk
    before = sk.icsk_ca_priv.dctcp_alpha
    send(conn, "A", 7, ack=1 + 10 * MSS)
    sim.settle()
    assert (sk.icsk_ca_ops.name, sk.delivered_ce) == ("dctcp", 2)
    assert sk.icsk_ca_priv.dctcp_alpha < before


@pytest.mark.parametrize(
    ("blocks", "required", "remaining", "fields", "left", "space"),
    [
        (0, 0, 28, 3, 0, 12),
        (0, 0, 8, 2, 0, 8),
        (0, 0, 4, 0, 0, 4),
        (0, 1, 4, None, 0, 0),
        (1, 3, 16, 3, 1, 12),
        (3, 3, 0, None, 3, 0),
        (3, 2, 0, 2, 2, 0),
        (4, 0, 4, 1, 4, 4),
        (4, 3, 4, 3, 3, 4),
        (2, 3, 8, None, 2, 0),
        (3, 0, 0, 0, 3, 0),
    ],
)
def test_option_finds_room_beside_sack(
    blocks: int, required: int, remaining: int, fields: int | None, left: int, space: int
) -> None:
    """Fields that have to be told take SACK blocks' place, but the first two; an option of two or five bytes takes the
    place of SACK's NOPs."""
    opts = tcp_out_options()
    opts.num_sack_blocks = blocks
    assert tcp_options_fit_accecn(opts, required, remaining) == space
    assert opts.num_sack_blocks == left
    assert bool(opts.options & OPTION_ACCECN) == (fields is not None)
    assert opts.num_accecn_fields == (fields or 0)


@pytest.mark.parametrize(("accecn", "flags"), [(True, [0x90] * 3), (False, [0x90, 0x10, 0x10])])
def test_segmentation_repeats_cwr_of_accurate_ecn(accecn: bool, flags: list[int]) -> None:
    """CWR is one of the three bits of a count, not a signal that is given once."""
    headers = bytearray(54)
    headers[12:15] = b"\x08\0\x45"
    headers[46], headers[47] = 0x50, 0x90
    frame = Frame(0, "a", "b", bytes(headers) + bytes(2500), CHECKSUM_PARTIAL, 34, 16)
    frame.gso_size, frame.gso_type = 1000, 1 | (SKB_GSO_TCP_ACCECN if accecn else 0)
    assert [one.data[47] for one in segment(frame)] == flags
