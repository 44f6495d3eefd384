# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv6 frames that are nearly right: chains of extension headers, fragments, neighbour discovery and errors, then bytes
changed or cut.  No frame may raise, and none may stay: what waits for fragments is gone after their time."""

from __future__ import annotations

import random

import pytest

from stack.api.sim import SEC, RawPeer, Sim
from stack.include.ipv6 import in6_pton
from stack.net.ipv6 import route
from stack.stack import Stack

OURS = in6_pton("fd00::2").to_bytes(16, "big")
GROUP_MAC = bytes.fromhex("333300000001")
DESTINATIONS = (
    "fd00::2",
    "ff02::1",
    "fe80::5054:ff:fe00:1",
    "ff02::1:ff00:2",
    "ff02::2",
    "::1",
    "2001::1",
    "ff01::1",
)
SOURCES = (None, "::", "fe80::9", "ff02::1", "fd00::2", "fd00::99")
TYPES = (1, 2, 3, 4, 128, 129, 130, 133, 134, 135, 136, 137, 143, 200)


def icmp6(r: random.Random, peer: RawPeer, dst: str, src: str | None) -> bytes:
    quoted = peer.ip6_packet(
        r.choice((58, 6, 60, 44)), r.randbytes(r.randrange(40)), "fd00::15", src="fd00::2"
    )
    discovery = OURS + r.choice((b"", b"\1\1" + peer.mac, b"\2\1" + peer.mac))
    data = r.choice((r.randbytes(r.randrange(80)), discovery, quoted))
    return peer.icmp6_message(dst, r.choice(TYPES), r.choice((0, 0, 1, 4)), r.getrandbits(32), data, src)


def extension(r: random.Random, kind: int, nexthdr: int) -> bytes:
    if kind in (0, 60):
        return bytes((nexthdr, 0)) + r.choice((b"\1\4\0\0\0\0", r.randbytes(6)))
    if kind == 43:
        return bytes((nexthdr, r.choice((0, 0, 2)), r.randrange(6), r.choice((0, 0, 1)))) + r.randbytes(4)
    if kind == 44:
        offset = r.choice((0, 1, 8, 9, r.getrandbits(16)))
        return bytes((nexthdr, 0)) + offset.to_bytes(2, "big") + r.randrange(4).to_bytes(4, "big")
    return r.randbytes(8)


def packet(r: random.Random, peer: RawPeer) -> bytes:
    dst, src = r.choice(DESTINATIONS), r.choice(SOURCES)
    nexthdr = r.choice((58, 58, 58, 6, 17, 59, 253))
    body = icmp6(r, peer, dst, src) if nexthdr == 58 else r.randbytes(r.randrange(60))
    for _ in range(r.randrange(4)):
        kind = r.choice((0, 43, 44, 60, 59, 51, 6, 17))
        body, nexthdr = extension(r, kind, nexthdr) + body, kind
    raw = bytearray(peer.ip6_packet(nexthdr, body, dst, src=src, ttl=r.choice((255, 64))))
    for _ in range(r.choice((0, 0, 0, 1, 3))):
        raw[r.randrange(len(raw))] = r.randrange(256)
    return bytes(raw[: r.randrange(len(raw))] if r.random() < 0.1 else raw)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_no_ipv6_frame_raises_or_stays(seed: int) -> None:
    r = random.Random(seed)
    sim = Sim(seed=seed)
    net: Stack = sim.add_stack("fd00::2/64")
    dev = net.devices_by_name["eth0"]
    peer = sim.add_peer("10.0.2.15", net, addr6="fd00::15")
    net.ra_start(dev, "fd00::/64")
    for _ in range(500):
        head = r.choice((dev.dev_addr, GROUP_MAC)) + peer.mac + b"\x86\xdd"
        net.netif_rx(dev, head + packet(r, peer), ip_summed=r.choice((0, 1)))
        net.rx_done()
        if r.random() < 0.02:
            sim.run_for(r.randrange(30) * SEC)
        peer.inbox.clear()
    sim.run_for(200 * SEC)
    assert net.snapshot()["fragments6"] == {"queues": 0, "mem": 0}
    assert len(net.fib6.input_cache) <= route.RT6_CACHE_MAX
    assert net.snapshot()["snmp6"]["Ip6InDelivers"] > 20
    peer.inbox.clear()
    peer.send_icmp6("fd00::2", 128, 0, 1, b"still here")
    assert peer.expect_icmp6(129, 0).body[8:] == b"still here"
