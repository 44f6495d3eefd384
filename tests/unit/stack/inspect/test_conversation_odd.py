# SPDX-License-Identifier: GPL-2.0-or-later
"""Segments of captures that no sane end sends, or only seldom."""

from __future__ import annotations

from struct import pack

from stack.inspect.conversation import ACK, KEEPALIVE, PSH, RETRANSMISSION, Packet, conversations


def packet(
    sport: int, dport: int, seq: int, ack: int, flags: int, payload: bytes = b"", options: bytes = b""
) -> Packet:
    size = 20 + len(options)
    tcp = pack("!HHIIBBHHH", sport, dport, seq, ack, size // 4 << 4, flags, 1000, 0, 0) + options + payload
    ip = pack("!BBHHHBBHII", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, 1 + (sport > dport), 1 + (sport < dport))
    return Packet(0, None, bytes(12) + b"\x08\x00" + ip + tcp)


def test_sack_without_an_ack_of_an_end_never_seen_is_left_out() -> None:
    sack = b"\x01\x01\x05\x0a" + pack("!II", 100, 200)
    (found,) = conversations([packet(40000, 80, 1, 0, PSH, b"x", sack)])
    assert found.segments[0].sack == ()


def test_last_byte_sent_again_is_a_keepalive_only_once_it_was_acknowledged() -> None:
    byte, reply = packet(40000, 80, 100, 500, ACK | PSH, b"x"), packet(80, 40000, 500, 101, ACK)
    (found,) = conversations([byte, byte, reply, byte])
    assert [one.notes for one in found.segments] == [(), (RETRANSMISSION,), (), (KEEPALIVE,)]
