# SPDX-License-Identifier: GPL-2.0-or-later
"""A stimulus on our Stack, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from devmodel.netdev.offload import finish
from devmodel.port import VnetHdr
from devmodel.virtio.spec import (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
)
from stack.api.bsd import SOCK_STREAM, Socket
from stack.clock import ManualClock
from stack.include.ip import in_aton
from stack.include.ipv6 import in6_pton
from stack.include.netdevice import (
    NETDEV_TX_OK,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    net_device,
)
from stack.include.sk_buff import CHECKSUM_PARTIAL, SKB_GSO_TCP_ECN, sk_buff
from stack.net.core.neighbour import neigh_add_permanent
from stack.net.core.skbuff import skb_linear_bytes
from stack.net.ipv4 import proc
from stack.net.ipv4.tcp import tcp_get_info
from stack.net.ipv6 import proc as proc6
from stack.rng import SeededRng
from stack.stack import Stack
from tests.differential.compare import Verdict, judge
from tests.differential.family import CLIENT, CLIENT6, SERVER, SERVER6
from tests.differential.runner import ECN_INFO, POLL_ALL, Run
from tests.differential.script import COMMON_SYSCTL, Stimulus

MSEC = 1_000_000
_START_NS = 20_000 * 1_000 * MSEC
_MAC = b"\x52\x54\0\0\0\1"
_PEER_MAC = b"\x52\x54\0\0\0\2"
_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}


def _finished(skb: sk_buff, frame: bytes) -> Iterable[bytes]:
    """The frames as they go out: checksums filled in and segments cut, as the kernel does in software for a device
    that can do neither."""
    hdr = VnetHdr()
    if skb.ip_summed == CHECKSUM_PARTIAL:
        hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
        hdr.csum_start, hdr.csum_offset = skb.csum_start - skb.data, skb.csum_offset
    if skb.gso_size:
        ipv6 = frame[12:14] == _ETHERTYPES[6]
        hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV6 if ipv6 else VIRTIO_NET_HDR_GSO_TCPV4
        hdr.gso_type |= VIRTIO_NET_HDR_GSO_ECN if skb.gso_type & SKB_GSO_TCP_ECN else 0
        hdr.gso_size = skb.gso_size
    return (b"".join(parts) for parts in finish(hdr, [frame]))


class OurSide:
    """A Stack with one device; what the kernel does in software for every device is an offload of this one."""

    def __init__(self, profile: str, sysctl: dict[str, Any], family: int = 4) -> None:
        self.family = family
        self.clock = ManualClock(_START_NS)
        self.net = Stack(self.clock, SeededRng(11), profile)
        self.refused = [name for name, value in sysctl.items() if not self._set(name, value)]
        self.dev = self.net.register_netdevice("tun0", _MAC, 1500)
        self.dev.features = NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN | NETIF_F_SG
        self.net.dev_addr_add(self.dev, f"{SERVER}/24")
        neigh_add_permanent(self.net.arp_tbl, in_aton(CLIENT), self.dev, _PEER_MAC)
        if family == 6:
            self.net.dev_addr_add(self.dev, f"{SERVER6}/64")
            neigh_add_permanent(self.net.nd_tbl, in6_pton(CLIENT6), self.dev, _PEER_MAC)
        self.dev.ndo_start_xmit = self._xmit
        self.out: list[tuple[int, bytes]] = []

    def _set(self, name: str, value: Any) -> bool:
        """Set a sysctl; False if this kernel does not take the value."""
        try:
            self.net.sysctl_set(name, value)
        except ValueError:
            return False
        return True

    def _xmit(self, skb: sk_buff, dev: net_device) -> int:
        frame = skb_linear_bytes(skb)
        if frame[12:14] in (_ETHERTYPES[4], _ETHERTYPES[self.family]):
            now = self.clock.now_ns()
            self.out.extend((now, bytes(one)[14:]) for one in _finished(skb, frame))
        return NETDEV_TX_OK

    def transmit(self, packet: bytes) -> None:
        self.net.netif_rx(self.dev, _MAC + _PEER_MAC + _ETHERTYPES[packet[0] >> 4] + packet)
        self.net.rx_done()

    def advance(self, ms: float) -> list[tuple[float, bytes]]:
        start = self.clock.now_ns()
        end = start + round(ms * MSEC)
        while (due := self.net.next_deadline()) is not None and due <= end:
            self.clock.set(max(due, self.clock.now_ns()))
            self.net.run_timers()
        self.clock.set(end)
        out, self.out = self.out, []
        return [((when - start) / MSEC, packet) for when, packet in out]

    def now_ms(self) -> float:
        return self.clock.now_ns() / MSEC

    def socket(self, family: int, kind: int = SOCK_STREAM) -> Socket:
        return Socket(self.net, family, kind)

    def poll(self, sock: Socket) -> int:
        return sock.poll() & POLL_ALL

    def ioctl(self, sock: Socket, request: int) -> int:
        return sock.ioctl(request)

    def ecn_info(self, sock: Socket) -> dict[str, int]:
        info = tcp_get_info(sock._sock.sk)
        known = ECN_INFO if self.net.profile.accecn else ECN_INFO[: ECN_INFO.index("received_ce")]
        return {name: info["tcpi_" + name] for name in known if "tcpi_" + name in info}

    def counters(self) -> dict[str, int]:
        groups = {**proc.snmp_groups(self.net), **proc.netstat_groups(self.net)}
        found = {f"{group}.{name}": value for group, names in groups.items() for name, value in names.items()}
        return {**found, **proc6.snmp6_counters(self.net)} if self.family == 6 else found


def run_ours(stimulus: Stimulus, profile: str) -> dict[str, Any]:
    """The outcome on a fresh Stack of that profile."""
    side = OurSide(profile, {**COMMON_SYSCTL, **stimulus.sysctl}, stimulus.family)
    if "udp-segment" in stimulus.name:
        side.dev.features = NETIF_F_SG  # as the devices are: it matters, and the stack does all of it itself
    outcome = Run(side, stimulus).run()
    outcome["sysctl"] = [f"{name if '.' in name else 'ipv4/' + name}: refused" for name in side.refused]
    return outcome


def judge_ours(stimulus: Stimulus, profile: str, real: dict[str, Any], side: str) -> Verdict:
    """Our outcome beside the ``real`` one of that ``side``.

    Real steps take longer than they say: a call in the guest goes over its console, and a host is busy.  A timer of
    the kernel's then ends in an earlier step than ours.  So what differs runs again with the time that each real step
    took, which has to be at least what the stimulus says."""
    verdict = judge(stimulus.name, run_ours(stimulus, profile), real, side)
    if not verdict.differences or "took" not in real:
        return verdict
    paced = judge(stimulus.name, run_ours(_paced(stimulus, real["took"]), profile), real, side)
    return verdict if paced.differences else paced


def _paced(stimulus: Stimulus, took: list[float]) -> Stimulus:
    steps = zip(stimulus.steps, took, strict=True)
    return replace(stimulus, steps=tuple(replace(s, wait=max(s.wait, ms)) for s, ms in steps))
