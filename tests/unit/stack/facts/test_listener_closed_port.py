# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts 19 to 22: what else a listener and a closed port answer."""

from __future__ import annotations

import pytest
from measured import FULL, ISN, Host

from stack.api.sim import SEC, Segment


def _is_bare_rst(segment: Segment) -> bool:
    packet = segment.packet
    shape = (segment.window, segment.opts.raw, segment.payload, segment.urg_ptr)
    header = (packet.ip_id, packet.df, packet.ttl, packet.tos, packet.ip_options)
    return shape == (0, b"", b"", 0) and header == (0, True, 64, 0, b"")


@pytest.mark.fact(19, "to a listener: SYN+FIN, SYN+RST, FIN, RST, no flags, PSH+URG get silence")
@pytest.mark.parametrize("flags", ["SF", "SR", "F", "R", "", "PU"])
def test_fact_19_listener_is_silent(host: Host, flags: str) -> None:
    sock = host.listen()
    host.peer.tcp(80).send(flags, ack=777)
    host.peer.expect_nothing(5 * SEC)
    assert host.count("Tcp:OutRsts") == host.count("Tcp:OutSegs") == 0
    assert sock.sk.icsk_accept_queue.qlen == 0  # type: ignore[attr-defined]


@pytest.mark.fact(20, "to a listener: anything else with ACK gets a bare RST, seq = its ack")
@pytest.mark.parametrize("flags", ["A", "SA", "FA", "PA"])
@pytest.mark.parametrize("ack", [1, 777, 0xFFFFFFFF])
def test_fact_20_listener_resets_an_ack(host: Host, flags: str, ack: int) -> None:
    host.listen()
    host.peer.tcp(80).send(flags, b"abc" if flags == "PA" else b"", ack=ack)
    assert _is_bare_rst(host.peer.expect("R", seq=ack, ack=0))
    host.peer.expect_nothing(2 * SEC)
    assert host.count("Tcp:OutRsts") == 1


@pytest.mark.fact(21, "closed port, no ACK: RST+ACK, seq 0, ack = seq + payload + SYN + FIN")
@pytest.mark.parametrize("payload", [b"", b"abc"])
@pytest.mark.parametrize(("flags", "extra"), [("S", 1), ("F", 1), ("SF", 2), ("P", 0), ("", 0), ("PU", 0)])
def test_fact_21_closed_port_without_ack(host: Host, flags: str, extra: int, payload: bytes) -> None:
    host.peer.tcp(81).send(flags, payload)
    host.peer.expect("RA", seq=0, ack=ISN + len(payload) + extra)
    host.peer.expect_nothing(2 * SEC)
    assert host.count("Tcp:OutRsts") == 1


@pytest.mark.fact(21, "closed port, ACK: RST, seq = its ack")
@pytest.mark.parametrize("flags", ["A", "SA", "FA", "PA"])
def test_fact_21_closed_port_with_ack(host: Host, flags: str) -> None:
    host.peer.tcp(81).send(flags, b"abc", ack=99)
    host.peer.expect("R", seq=99, ack=0)
    host.peer.expect_nothing(2 * SEC)


@pytest.mark.fact(21, "never a RST for a RST")
@pytest.mark.parametrize("port", [80, 81])
@pytest.mark.parametrize("flags", ["R", "RA", "SR", "RF"])
def test_fact_21_no_rst_for_a_rst(host: Host, port: int, flags: str) -> None:
    host.listen()
    host.peer.tcp(port).send(flags, ack=5)
    host.peer.expect_nothing(2 * SEC)
    assert host.count("Tcp:OutRsts") == 0


@pytest.mark.fact(22, "RSTs: window 0, no options, IP id 0, DF, TTL 64")
@pytest.mark.parametrize(("port", "flags"), [(81, "S"), (81, "A"), (81, "F"), (80, "A"), (80, "FA")])
def test_fact_22_shape_of_a_rst(host: Host, port: int, flags: str) -> None:
    host.listen()
    host.peer.tcp(port).send(flags, ack=99, **FULL)
    assert _is_bare_rst(host.peer.expect_segment())
