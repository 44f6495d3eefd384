# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial sequence numbers and time stamp offsets that nobody outside can guess: net/core/secure_seq.c.

RFC 6528: ISN = M + F(4-tuple, secret), where M advances by one each 64 ns (15.625 million/s) and F is a keyed hash.
The time stamp offset (RFC 7323, section 5.4) is the other half of the same hash: each 4-tuple has its own, always
the same.

Departure: for ISN and offset, which each connection computes, F is keyed BLAKE2s (RFC 7693), which Python has in C:
1 us against the 10 us of SipHash in Python.  Nobody outside can tell.
"""

from __future__ import annotations

from hashlib import blake2s
from struct import Struct
from typing import TYPE_CHECKING, Final

from stack.lib.siphash import siphash_4u32, siphash_in6
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.stack import Stack


_TUPLE: Final = Struct("!IIHH")
_PORTS: Final = Struct("!HH")
_DIGEST: Final = Struct("!II")


def seq_scale(net: Stack, seq: int) -> int:
    return (seq + (net.clock.real_ns() >> 6)) & MASK32


def secure_tcp_seq_and_ts_off(net: Stack, saddr: int, daddr: int, sport: int, dport: int) -> tuple[int, int]:
    """(ISN, time stamp offset) of a connection."""
    return _seq_and_ts_off(net, _TUPLE.pack(saddr, daddr, sport, dport))


def _seq_and_ts_off(net: Stack, words: bytes) -> tuple[int, int]:
    seq, ts_off = _DIGEST.unpack(blake2s(words, key=net.net_secret, digest_size=8).digest())
    return seq_scale(net, seq), ts_off if net.ipv4.sysctl_tcp_timestamps == 1 else 0


def secure_tcp_ts_off(net: Stack, saddr: int, daddr: int, sport: int, dport: int) -> int:
    """0 unless tcp_timestamps is 1 (2 means: no offset)."""
    if net.ipv4.sysctl_tcp_timestamps != 1:
        return 0
    return secure_tcp_seq_and_ts_off(net, saddr, daddr, sport, dport)[1]


def secure_tcpv6_seq_and_ts_off(net: Stack, saddr: int, daddr: int, sport: int, dport: int) -> tuple[int, int]:
    """(ISN, time stamp offset) of a connection over IPv6."""
    addresses = saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big")
    return _seq_and_ts_off(net, addresses + _PORTS.pack(sport, dport))


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
