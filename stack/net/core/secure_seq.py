# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial sequence numbers and time stamp offsets that nobody outside can guess: net/core/secure_seq.c.

RFC 6528: ISN = M + F(4-tuple, secret), where M advances by one each 64 ns (15.625 million/s) and F is SipHash.
The time stamp offset (RFC 7323, section 5.4) is the other half of the same hash: each 4-tuple has its own, always
the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.lib.siphash import siphash_3u32, siphash_4u32, siphash_in6
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.stack import Stack


def seq_scale(net: Stack, seq: int) -> int:
    return (seq + (net.clock.real_ns() >> 6)) & MASK32


def secure_tcp_seq_and_ts_off(net: Stack, saddr: int, daddr: int, sport: int, dport: int) -> tuple[int, int]:
    """(ISN, time stamp offset) of a connection."""
    hash_ = siphash_3u32(saddr, daddr, sport << 16 | dport, net.net_secret)
    ts_off = hash_ >> 32 if net.ipv4.sysctl_tcp_timestamps == 1 else 0
    return seq_scale(net, hash_ & MASK32), ts_off


def secure_tcp_ts_off(net: Stack, saddr: int, daddr: int, sport: int, dport: int) -> int:
    """0 unless tcp_timestamps is 1 (2 means: no offset)."""
    if net.ipv4.sysctl_tcp_timestamps != 1:
        return 0
    return secure_tcp_seq_and_ts_off(net, saddr, daddr, sport, dport)[1]


def secure_tcpv6_seq_and_ts_off(net: Stack, saddr: int, daddr: int, sport: int, dport: int) -> tuple[int, int]:
    """(ISN, time stamp offset) of a connection over IPv6."""
    hash_ = siphash_in6(saddr, daddr, (sport << 16 | dport,), net.net_secret)
    ts_off = hash_ >> 32 if net.ipv4.sysctl_tcp_timestamps == 1 else 0
    return seq_scale(net, hash_ & MASK32), ts_off


def secure_tcpv6_ts_off(net: Stack, saddr: int, daddr: int, sport: int, dport: int) -> int:
    if net.ipv4.sysctl_tcp_timestamps != 1:
        return 0
    return secure_tcpv6_seq_and_ts_off(net, saddr, daddr, sport, dport)[1]


# -- ephemeral ports (RFC 6056) -----------------------------------------------------------------------------------

EPHEMERAL_PORT_SHUFFLE_PERIOD: Final = 10_000_000_000  # ns


def _timeseed(net: Stack) -> int:
    return net.clock.now_ns() // EPHEMERAL_PORT_SHUFFLE_PERIOD & MASK32


def secure_ipv4_port_ephemeral(net: Stack, saddr: int, daddr: int, dport: int) -> int:
    """64 bits by which the walk for a local port to that destination begins; others every ten seconds."""
    return siphash_4u32(saddr, daddr, dport, _timeseed(net), net.net_secret)


def secure_ipv6_port_ephemeral(net: Stack, saddr: int, daddr: int, dport: int) -> int:
    return siphash_in6(saddr, daddr, (_timeseed(net), dport), net.net_secret)
