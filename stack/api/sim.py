# SPDX-License-Identifier: GPL-2.0-or-later
"""A wire in virtual time: stacks and scripted raw hosts, joined by links that delay, lose, reorder and duplicate.

Theory of operation
-------------------
A ``Sim`` owns one ``ManualClock``, one seeded generator and a heap of
frames in flight.  ``step`` moves the clock to the next event - a frame's arrival or a stack's deadline - and does
everything due then: frames first, ``rx_done`` for who got some, then timers.  Nothing sleeps, so an hour of
protocol time takes what its packets take.  Same seed, same frames, byte for byte.

    sim = Sim(seed=1)
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net, delay_ns=10_000_000)
    ... listen on port 80 of ``net`` ...
    conn = peer.tcp(dport=80)
    conn.send("S", mss=1460)
    conn.expect("SA", seq=0, ack=1)
    conn.send("A")

A ``RawPeer`` is a host without a stack: it answers ARP for its address and, if it has IPv6 addresses, neighbour
solicitations for those, and nothing else; wherever a destination is an IPv6 address, it sends IPv6.  A ``RawTcp`` on it
builds and checks segments with sequence numbers relative to both ends' initial ones, and ``expect`` fails with the
segment that came instead.  Every frame that was put on a link is in ``sim.frames``, lost ones with ``lost`` set.

Impairments are per link and direction (``Link.forward`` is from the first to the second end): ``loss``, ``dup`` and
``reorder`` are probabilities, ``reorder_ns`` the extra delay of a reordered frame, ``rate_bps`` serialises frames
one after the other, ``drop_if`` decides on a frame as the test likes.  Where that is not enough - a queue that
overflows, bursts of loss, corruption, ECN marks, frames of many segments - a direction gets a ``stack.api.path.Path``,
which decides on everything else:

    sim.join(a, b, forward=Path(100_000_000, 25 * MSEC, queue_bytes=312_500, loss=Bernoulli(0.01)), backward=Path(...))

Every frame is kept in ``sim.frames`` unless ``Sim(keep_frames=False)``: long transfers need the memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from struct import Struct
from typing import Any, Protocol

from stack.api.path import Frame as Frame
from stack.api.path import Path
from stack.clock import ManualClock
from stack.include.ip import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IPHDR_STRUCT,
    IPPROTO_ICMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    in_aton,
    in_ntoa,
)
from stack.include.ipv6 import (
    FRAG_HDR_STRUCT,
    IPPROTO_ICMPV6,
    IPV6HDR_STRUCT,
    NDISC_NEIGHBOUR_ADVERTISEMENT,
    NDISC_NEIGHBOUR_SOLICITATION,
    NDISC_REDIRECT,
    NDISC_ROUTER_SOLICITATION,
    NEXTHDR_FRAGMENT,
    addrconf_ifid_eui48,
    in6_ntop,
    in6_pton,
    ipv6_addr_is_multicast,
    ipv6_eth_mc_map,
    ipv6hdr_at,
)
from stack.include.netdevice import NETDEV_TX_OK, net_device
from stack.include.sk_buff import CHECKSUM_PARTIAL, sk_buff
from stack.include.sysctl import SysctlValue
from stack.lib.checksum import csum_ipv6_magic, csum_partial, csum_tcpudp_magic, ip_compute_csum, ip_fast_csum
from stack.net.core.neighbour import neigh_add_permanent
from stack.net.core.skbuff import skb_linear_bytes
from stack.net.ipv4.devinet import ifaddrs
from stack.rng import SeededRng
from stack.stack import Stack

MSEC = 1_000_000
SEC = 1_000_000_000

_EVENTS_PER_INSTANT = 100_000
_TCP = Struct("!HHIIBBHHH")
_ARP = Struct("!HHBBH6sI6sI")
_FLAG_BITS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20, "E": 0x40, "W": 0x80}
_FLAG_ORDER = "SFRPAUEW"


class SimError(AssertionError):
    """What a script expected did not happen; the message has what came instead."""


# -- frames ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Packet:
    """An IP packet as a raw host sees it; ``body`` is what follows the IP header.  Of IPv6 ``ttl`` is the hop limit,
    ``tos`` the traffic class, ``df`` true; a fragment header is taken off into ``ip_id``, ``frag_off`` and
    ``more_fragments``, other extension headers stay in ``body``."""

    time_ns: int
    src: str
    dst: str
    proto: int
    ttl: int
    tos: int
    ip_id: int
    df: bool
    frag_off: int
    more_fragments: bool
    ip_options: bytes
    body: bytes
    frame: Frame
    flowlabel: int = 0

    def __str__(self) -> str:
        return f"{self.time_ns / 1e9:.6f} {self.src} > {self.dst} proto {self.proto} length {len(self.body)}"


@dataclass(slots=True)
class TcpOptions:
    """The options of a segment; ``kinds`` lists them in the order in which they stand, NOPs included."""

    mss: int | None = None
    wscale: int | None = None
    sackok: bool = False
    ts: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()
    kinds: tuple[int, ...] = ()
    raw: bytes = b""


@dataclass(slots=True)
class Segment:
    """A TCP segment with absolute sequence numbers; ``flags`` in the order SFRPAUEW."""

    packet: Packet
    sport: int
    dport: int
    seq: int
    ack: int
    flags: str
    window: int
    urg_ptr: int
    opts: TcpOptions
    payload: bytes
    checksum_ok: bool

    def __str__(self) -> str:
        p = self.packet
        text = f"{p.time_ns / 1e9:.6f} {p.src}:{self.sport} > {p.dst}:{self.dport} {self.flags or '-'}"
        text += f" seq {self.seq} ack {self.ack} win {self.window} len {len(self.payload)}"
        o = self.opts
        parts = [f"mss {o.mss}"] if o.mss is not None else []
        parts += ["sackOK"] if o.sackok else []
        parts += [f"TS {o.ts[0]} {o.ts[1]}"] if o.ts is not None else []
        parts += [f"wscale {o.wscale}"] if o.wscale is not None else []
        parts += [f"sack {b[0]}:{b[1]}" for b in o.sack]
        return text + (f" <{','.join(parts)}>" if parts else "")


def flags_to_bits(flags: str) -> int:
    """ "SA" as the header's flag byte; KeyError for a letter that is not one of SFRPAUEW."""
    bits = 0
    for letter in flags.replace(".", "A"):
        bits |= _FLAG_BITS[letter]
    return bits


def bits_to_flags(bits: int) -> str:
    return "".join(letter for letter in _FLAG_ORDER if bits & _FLAG_BITS[letter])


def build_tcp_options(
    mss: int | None = None,
    sackok: bool = False,
    ts: tuple[int, int] | None = None,
    wscale: int | None = None,
    sack: Sequence[tuple[int, int]] = (),
    raw: bytes = b"",
) -> bytes:
    """Option bytes in Linux's order and padding; ``raw`` goes first, the whole is padded with EOL to 32 bits."""
    out = bytearray(raw)
    if mss is not None:
        out += b"\x02\x04" + mss.to_bytes(2, "big")
    if ts is not None:
        out += (b"\x04\x02" if sackok else b"\x01\x01") + b"\x08\x0a"
        out += ts[0].to_bytes(4, "big") + ts[1].to_bytes(4, "big")
    elif sackok:
        out += b"\x01\x01\x04\x02"
    if wscale is not None:
        out += b"\x01\x03\x03" + bytes([wscale])
    if sack:
        out += b"\x01\x01\x05" + bytes([2 + 8 * len(sack)])
        for left, right in sack:
            out += left.to_bytes(4, "big") + right.to_bytes(4, "big")
    return bytes(out) + bytes(-len(out) % 4)


def parse_tcp_options(raw: bytes) -> TcpOptions:
    """The options of a segment; parsing ends at the first malformed one."""
    opts = TcpOptions(raw=raw)
    kinds: list[int] = []
    at = 0
    while at < len(raw) and raw[at] != 0:
        kind = raw[at]
        kinds.append(kind)
        if kind == 1:
            at += 1
            continue
        length = raw[at + 1] if at + 1 < len(raw) else 0
        if length < 2 or at + length > len(raw):
            break
        _set_option(opts, kind, raw[at + 2 : at + length])
        at += length
    opts.kinds = tuple(kinds)
    return opts


def _set_option(opts: TcpOptions, kind: int, value: bytes) -> None:
    if kind == 2 and len(value) == 2:
        opts.mss = int.from_bytes(value, "big")
    elif kind == 3 and len(value) == 1:
        opts.wscale = value[0]
    elif kind == 4 and not value:
        opts.sackok = True
    elif kind == 5:
        words = [int.from_bytes(value[i : i + 4], "big") for i in range(0, len(value), 4)]
        opts.sack = tuple(zip(words[0::2], words[1::2], strict=False))
    elif kind == 8 and len(value) == 8:
        opts.ts = (int.from_bytes(value[:4], "big"), int.from_bytes(value[4:], "big"))


def _addr(text: str) -> int:
    return in6_pton(text) if ":" in text else in_aton(text)


def parse_packet6(frame: Frame) -> Packet:
    """The frame's IPv6 packet; SimError if the stack sent a malformed header."""
    data = frame.data
    if len(data) < 54 or data[14] >> 4 != 6:
        raise SimError(f"a malformed IPv6 header was sent: {data[:54].hex()}")
    hdr = ipv6hdr_at(data, 14)
    body = data[54 : 54 + hdr.payload_len]
    if len(body) != hdr.payload_len:
        raise SimError(f"an IPv6 packet of {len(body)} bytes says that it has {hdr.payload_len}")
    proto, ident, frag = hdr.nexthdr, 0, 0
    if proto == NEXTHDR_FRAGMENT:
        proto, _, frag, ident = FRAG_HDR_STRUCT.unpack_from(body)
        body = body[8:]
    ends = in6_ntop(hdr.saddr), in6_ntop(hdr.daddr)
    return Packet(
        frame.time_ns,
        *ends,
        proto,
        hdr.hop_limit,
        hdr.tclass,
        ident,
        True,
        frag & 0xFFF8,
        bool(frag & 1),
        b"",
        body,
        frame,
        hdr.flowlabel,
    )


def parse_packet(frame: Frame) -> Packet | None:
    """The frame's IPv4 packet, None if it has none; SimError if the stack sent a malformed header."""
    data = frame.data
    if len(data) < 34 or int.from_bytes(data[12:14], "big") != ETH_P_IP:
        return None
    ver_ihl, tos, tot_len, ip_id, frag, ttl, proto, _, saddr, daddr = IPHDR_STRUCT.unpack_from(data, 14)
    ihl = (ver_ihl & 15) * 4
    if ver_ihl >> 4 != 4 or 14 + tot_len > len(data) or ip_fast_csum(data[14:], ihl // 4):
        raise SimError(f"a malformed IPv4 header was sent: {data[:54].hex()}")
    return Packet(
        frame.time_ns,
        in_ntoa(saddr),
        in_ntoa(daddr),
        proto,
        ttl,
        tos,
        ip_id,
        bool(frag & 0x4000),
        (frag & 0x1FFF) * 8,
        bool(frag & 0x2000),
        data[34 : 14 + ihl],
        data[14 + ihl : 14 + tot_len],
        frame,
    )


def parse_segment(packet: Packet) -> Segment:
    """A packet's TCP segment; SimError if it is cut short."""
    body = packet.body
    if len(body) < 20 or (doff := (body[12] >> 4) * 4) < 20 or doff > len(body):
        raise SimError(f"a malformed TCP header was sent: {body[:20].hex()}")
    sport, dport, seq, ack, _, bits, window, _, urg = _TCP.unpack_from(body)
    ok = packet.frame.ip_summed == CHECKSUM_PARTIAL or not csum_tcpudp_magic(
        _addr(packet.src), _addr(packet.dst), len(body), IPPROTO_TCP, csum_partial(body)
    )
    opts = parse_tcp_options(body[20:doff])
    return Segment(packet, sport, dport, seq, ack, bits_to_flags(bits), window, urg, opts, body[doff:], ok)


# -- links -------------------------------------------------------------------------------------------------------------


class Endpoint(Protocol):
    """Who sits at the end of a link."""

    name: str

    def receive(self, frame: Frame) -> None: ...


@dataclass(slots=True)
class Direction:
    """One way of a link."""

    delay_ns: int = 0
    rate_bps: int = 0
    loss: float = 0.0
    dup: float = 0.0
    reorder: float = 0.0
    reorder_ns: int = 1_000_000
    drop_if: Callable[[Frame], bool] | None = None
    path: Path | None = None
    busy_until: int = 0
    sent: int = 0
    dropped: int = 0


@dataclass(slots=True)
class Link:
    """Two ends, and what happens to frames each way."""

    a: Endpoint
    b: Endpoint
    forward: Direction = field(default_factory=Direction)
    backward: Direction = field(default_factory=Direction)


class StackEnd:
    """A stack's device at the end of a link."""

    def __init__(self, sim: Sim, name: str, net: Stack, dev: net_device) -> None:
        self.sim = sim
        self.name = name
        self.net = net
        self.dev = dev
        dev.ndo_start_xmit = self.ndo_start_xmit

    def ndo_start_xmit(self, skb: sk_buff, dev: net_device) -> int:
        frame = Frame(self.sim.clock.now_ns(), self.name, "", skb_linear_bytes(skb))
        if skb.ip_summed == CHECKSUM_PARTIAL:
            frame.ip_summed = CHECKSUM_PARTIAL
            frame.csum_start, frame.csum_offset = skb.csum_start - skb.data, skb.csum_offset
        frame.gso_size, frame.gso_type = skb.gso_size, skb.gso_type if skb.gso_size else 0
        self.sim.transmit(self, frame)
        return NETDEV_TX_OK

    def receive(self, frame: Frame) -> None:
        self.net.netif_rx(
            self.dev,
            frame.data,
            csum_start=frame.csum_start,
            csum_offset=frame.csum_offset,
            ip_summed=frame.ip_summed,
            gso_size=frame.gso_size,
            gso_type=frame.gso_type,
        )
        self.sim.touched[id(self.net)] = self.net


# -- the simulation ----------------------------------------------------------------------------------------------------


class Sim:
    """See the head of the file."""

    def __init__(self, seed: int = 0, start_ns: int = 0, keep_frames: bool = True) -> None:
        self.clock = ManualClock(start_ns)
        self.keep_frames = keep_frames
        self.rng = SeededRng(seed)
        self.stacks: list[Stack] = []
        self.links: dict[str, Link] = {}  # by the name of each end
        self.frames: list[Frame] = []
        self.touched: dict[int, Stack] = {}
        self._flight: list[tuple[int, int, Endpoint, Frame]] = []
        self._serial = 0

    # building

    def add_stack(
        self,
        *cidrs: str,
        mac: bytes | None = None,
        mtu: int = 1500,
        features: int = 0,
        profile: str = "linux-6.1",
        sysctl: dict[str, SysctlValue] | None = None,
    ) -> Stack:
        """A stack with one device ``eth0`` and these addresses; ``features`` are the device's NETIF_F_ bits."""
        net = Stack(self.clock, SeededRng(self.rng.get_random_u32()), profile, sysctl)
        number = len(self.stacks) + 1
        dev = net.register_netdevice("eth0", mac or bytes((0x52, 0x54, 0, 0, 0, number)), mtu)
        dev.features = features
        for cidr in cidrs:
            net.dev_addr_add(dev, cidr)
        self.stacks.append(net)
        return net

    def end(self, net: Stack, dev_name: str = "eth0") -> StackEnd:
        """A fresh link end on a stack's device."""
        return StackEnd(self, f"stack{self.stacks.index(net)}.{dev_name}", net, net.devices_by_name[dev_name])

    def add_peer(
        self,
        addr: str,
        net: Stack,
        *,
        delay_ns: int = 0,
        dev_name: str = "eth0",
        resolve: bool = False,
        addr6: str | None = None,
        **both: Any,
    ) -> RawPeer:
        """A raw host linked to a stack's device (which has no link yet), with an IPv6 address too if ``addr6`` is
        given.  The stack knows the peer's Ethernet address as a permanent neighbour, unless ``resolve`` leaves it to
        ARP and neighbour discovery.  ``both`` are fields of ``Direction``."""
        dev = net.devices_by_name[dev_name]
        peer = RawPeer(self, f"peer{len(self.links)}", addr, dev.dev_addr, addr6)
        self.link(self.end(net, dev_name), peer, delay_ns=delay_ns, **both)
        if not resolve:
            neigh_add_permanent(net.arp_tbl, in_aton(addr), dev, peer.mac)
            for own in peer.addrs6:
                neigh_add_permanent(net.nd_tbl, in6_pton(own), dev, peer.mac)
        return peer

    def join(
        self,
        a: Stack,
        b: Stack,
        *,
        delay_ns: int = 0,
        forward: Path | None = None,
        backward: Path | None = None,
        **both: Any,
    ) -> Link:
        """Link the ``eth0`` of two stacks, each way through a path if there is one."""
        link = self.link(self.end(a), self.end(b), delay_ns=delay_ns, **both)
        link.forward.path, link.backward.path = forward, backward
        return link

    def link(self, a: Endpoint, b: Endpoint, *, delay_ns: int = 0, **both: Any) -> Link:
        link = Link(a, b, Direction(delay_ns=delay_ns, **both), Direction(delay_ns=delay_ns, **both))
        for end in (a, b):
            if end.name in self.links:
                raise ValueError(f"{end.name} is linked already")
            self.links[end.name] = link
        return link

    # moving frames

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.get_random_u32() < probability * 4294967296

    def transmit(self, end: Endpoint, frame: Frame) -> None:
        """Put a frame on the link of ``end``."""
        link = self.links.get(end.name)
        if link is None:
            return
        way, to = (link.forward, link.b) if end.name == link.a.name else (link.backward, link.a)
        frame.dst = to.name
        if self.keep_frames:
            self.frames.append(frame)
        way.sent += 1
        if (way.drop_if is not None and way.drop_if(frame)) or self._chance(way.loss):
            frame.lost = True
            way.dropped += 1
            return
        if way.path is not None:
            for when, packet in way.path.send(self.clock.now_ns(), frame):
                self._enqueue(when, to, packet)
            return
        start = max(self.clock.now_ns(), way.busy_until)
        if way.rate_bps:
            start += len(frame.data) * 8 * SEC // way.rate_bps
            way.busy_until = start
        when = start + way.delay_ns
        if self._chance(way.reorder):
            when += way.reorder_ns
        self._enqueue(when, to, frame)
        if self._chance(way.dup):
            self._enqueue(when, to, frame)

    def _enqueue(self, when: int, to: Endpoint, frame: Frame) -> None:
        self._serial += 1
        heappush(self._flight, (when, self._serial, to, frame))

    # time

    def now_ns(self) -> int:
        return self.clock.now_ns()

    def next_event(self) -> int | None:
        """When something happens next; None if nothing ever will."""
        times = [d for net in self.stacks if (d := net.next_deadline()) is not None]
        if self._flight:
            times.append(self._flight[0][0])
        return max(min(times), self.clock.now_ns()) if times else None

    def step(self, limit_ns: int | None = None) -> bool:
        """Go to the next event and do all that is due; False (at ``limit_ns``, if given) if there is none by then."""
        when = self.next_event()
        if when is None or (limit_ns is not None and when > limit_ns):
            if limit_ns is not None and limit_ns > self.clock.now_ns():
                self.clock.set(limit_ns)
            return False
        self.clock.set(when)
        self._deliver(when)
        for net in self.stacks:
            net.run_timers()
        return True

    def _deliver(self, now: int) -> None:
        due: list[tuple[Endpoint, Frame]] = []
        while self._flight and self._flight[0][0] <= now:
            _, _, to, frame = heappop(self._flight)
            due.append((to, frame))
        for to, frame in due:
            to.receive(frame)
        touched, self.touched = self.touched, {}
        for net in touched.values():
            net.rx_done()

    def run_until(self, until: int | Callable[[], bool], limit_ns: int = 3600 * SEC) -> bool:
        """Run to a time (ns of the clock), or until a condition holds: False if ``limit_ns`` passed, or all was
        silent, before it did."""
        if isinstance(until, int):
            while self._guarded_step(until):
                pass
            return True
        limit = self.clock.now_ns() + limit_ns
        while not until():
            if not self._guarded_step(limit):
                return until()
        return True

    def run_for(self, delta_ns: int) -> None:
        self.run_until(self.clock.now_ns() + delta_ns)

    def settle(self) -> None:
        """Run until no frame is in flight; timers due meanwhile fire, later ones stay."""
        while self._flight:
            self._guarded_step(None)

    def _guarded_step(self, limit_ns: int | None) -> bool:
        now = self.clock.now_ns()
        if not self.step(limit_ns):
            return False
        self._instant = self._instant + 1 if self.clock.now_ns() == now else 0
        if self._instant > _EVENTS_PER_INSTANT:
            raise SimError(f"{_EVENTS_PER_INSTANT} events at {now} ns without time passing: something loops")
        return True

    _instant = 0


# -- the scripted host -------------------------------------------------------------------------------------------------


class RawPeer:
    """A host of raw frames: ``inbox`` has the IP packets that came and were not yet expected.  It answers ARP for its
    address while ``answer_arp`` is set, and neighbour solicitations for ``addrs6`` (the address given and its
    link-local one) while ``answer_nd`` is.  Neighbour discovery goes to ``nd_seen`` instead of ``inbox``."""

    def __init__(self, sim: Sim, name: str, addr: str, remote_mac: bytes, addr6: str | None = None) -> None:
        self.sim = sim
        self.name = name
        self.addr = addr
        self.mac = b"\x52\x54\x00\xee" + in_aton(addr).to_bytes(4, "big")[2:]
        self.remote_mac = remote_mac
        self.answer_arp = True
        self.arp_seen: list[tuple[int, str, str]] = []  # (operation, sender's address, target's)
        self.inbox: deque[Packet] = deque()
        self.ip_id = 1
        self.addr6 = addr6
        self.addr6_ll = in6_ntop(0xFE80 << 112 | addrconf_ifid_eui48(self.mac))
        self.addrs6 = (addr6, self.addr6_ll) if addr6 is not None else ()
        self.answer_nd = True
        self.nd_seen: list[Packet] = []

    # frames

    def send_frame(self, data: bytes, **offload: Any) -> None:
        """Put a finished Ethernet frame on the link; ``offload`` are fields of ``Frame``."""
        self.sim.transmit(self, Frame(self.sim.now_ns(), self.name, "", data, **offload))

    def receive(self, frame: Frame) -> None:
        frame_type = int.from_bytes(frame.data[12:14], "big")
        if frame_type == ETH_P_ARP:
            self._receive_arp(frame.data)
        elif frame_type == ETH_P_IP:
            packet = parse_packet(Frame(self.sim.now_ns(), *_frame_rest(frame)))
            if packet is not None:
                self.inbox.append(packet)
        elif frame_type == ETH_P_IPV6:
            self._receive_ipv6(parse_packet6(Frame(self.sim.now_ns(), *_frame_rest(frame))))

    def _receive_ipv6(self, packet: Packet) -> None:
        body = packet.body
        discovery = packet.proto == IPPROTO_ICMPV6 and not packet.frag_off
        if not discovery or not NDISC_ROUTER_SOLICITATION <= body[0] <= NDISC_REDIRECT:
            self.inbox.append(packet)
            return
        self.nd_seen.append(packet)
        target = in6_ntop(int.from_bytes(body[8:24], "big"))
        if body[0] == NDISC_NEIGHBOUR_SOLICITATION and self.answer_nd and target in self.addrs6:
            answer = body[8:24] + b"\x02\x01" + self.mac
            self.send_icmp6(
                packet.src, NDISC_NEIGHBOUR_ADVERTISEMENT, 0, 0x60000000, answer, src=target, ttl=255
            )

    def _receive_arp(self, data: bytes) -> None:
        *_, op, sha, sip, _tha, tip = _ARP.unpack_from(data, 14)
        self.arp_seen.append((op, in_ntoa(sip), in_ntoa(tip)))
        if op == 1 and self.answer_arp and in_ntoa(tip) == self.addr:
            self.send_arp(2, in_ntoa(sip), dest_mac=sha, target_mac=sha)

    def send_arp(
        self,
        op: int,
        target: str,
        *,
        dest_mac: bytes = b"\xff" * 6,
        target_mac: bytes = bytes(6),
        sender: str | None = None,
        sender_mac: bytes | None = None,
    ) -> None:
        """An ARP packet: 1 asks for ``target``, 2 answers it."""
        sha = sender_mac or self.mac
        sip = in_aton(self.addr if sender is None else sender)
        body = _ARP.pack(1, ETH_P_IP, 6, 4, op, sha, sip, target_mac, in_aton(target))
        self.send_frame((dest_mac + self.mac + ETH_P_ARP.to_bytes(2, "big") + body).ljust(60, b"\0"))

    # packets

    def ip_packet(
        self,
        proto: int,
        body: bytes,
        dst: str,
        *,
        src: str | None = None,
        ttl: int = 64,
        tos: int = 0,
        ip_id: int | None = None,
        frag: int = 0x4000,
        ip_options: bytes = b"",
    ) -> bytes:
        """An IPv4 packet with a correct header; ``frag`` is the 16-bit field, ``ip_options`` padded by the caller."""
        if ip_id is None:
            ip_id = self.ip_id
            self.ip_id = (self.ip_id + 1) & 0xFFFF
        ihl = 5 + len(ip_options) // 4
        fields = (0x40 | ihl, tos, 4 * ihl + len(body), ip_id, frag, ttl, proto)
        addrs = (in_aton(src or self.addr), in_aton(dst))
        head = IPHDR_STRUCT.pack(*fields, 0, *addrs) + ip_options
        check = ip_fast_csum(head, ihl)
        return IPHDR_STRUCT.pack(*fields, check, *addrs) + ip_options + body

    def ip6_packet(
        self,
        proto: int,
        body: bytes,
        dst: str,
        *,
        src: str | None = None,
        ttl: int = 64,
        tos: int = 0,
        flowlabel: int = 0,
    ) -> bytes:
        """An IPv6 packet; ``ttl`` is the hop limit, ``tos`` the traffic class.  Extension headers are the first part of
        ``body``, ``proto`` then that of the first one."""
        source = in6_pton(self._source(dst, src)).to_bytes(16, "big")
        word = 6 << 28 | tos << 20 | flowlabel
        return (
            IPV6HDR_STRUCT.pack(word, len(body), proto, ttl, source, in6_pton(dst).to_bytes(16, "big")) + body
        )

    def _source(self, dst: str, src: str | None) -> str:
        """The address to send from: of the destination's family."""
        return src or ((self.addr6 or self.addr6_ll) if ":" in dst else self.addr)

    def send_ip(
        self, proto: int, body: bytes, dst: str, *, dest_mac: bytes | None = None, **fields: Any
    ) -> None:
        """Send an IP packet; ``fields`` are those of ``ip_packet`` or ``ip6_packet``."""
        if ":" in dst:
            if dest_mac is None:
                group = ipv6_addr_is_multicast(in6_pton(dst))
                dest_mac = ipv6_eth_mc_map(in6_pton(dst)) if group else self.remote_mac
            head = dest_mac + self.mac + ETH_P_IPV6.to_bytes(2, "big")
            self.send_frame(head + self.ip6_packet(proto, body, dst, **fields))
            return
        head = (dest_mac or self.remote_mac) + self.mac + ETH_P_IP.to_bytes(2, "big")
        self.send_frame((head + self.ip_packet(proto, body, dst, **fields)).ljust(60, b"\0"))

    def send_udp(
        self, dst: str, sport: int, dport: int, data: bytes, *, checksum: bool = True, **fields: Any
    ) -> None:
        head = b"".join(v.to_bytes(2, "big") for v in (sport, dport, 8 + len(data), 0))
        if checksum:
            src = _addr(self._source(dst, fields.get("src")))
            check = csum_tcpudp_magic(src, _addr(dst), 8 + len(data), IPPROTO_UDP, csum_partial(head + data))
            head = head[:6] + (check or 0xFFFF).to_bytes(2, "big")
        self.send_ip(IPPROTO_UDP, head + data, dst, **fields)

    def send_icmp(
        self, dst: str, icmp_type: int, code: int, rest: int = 0, data: bytes = b"", **fields: Any
    ) -> None:
        """An ICMP message; ``rest`` are the header's last 32 bits."""
        head = bytes((icmp_type, code, 0, 0)) + rest.to_bytes(4, "big")
        check = ip_compute_csum(head + data)
        self.send_ip(IPPROTO_ICMP, head[:2] + check.to_bytes(2, "big") + head[4:] + data, dst, **fields)

    def icmp6_message(
        self, dst: str, icmp6_type: int, code: int, rest: int = 0, data: bytes = b"", src: str | None = None
    ) -> bytes:
        """An ICMPv6 message with its checksum; ``rest`` are the header's last 32 bits."""
        raw = bytes((icmp6_type, code, 0, 0)) + rest.to_bytes(4, "big") + data
        ends = in6_pton(self._source(dst, src)), in6_pton(dst)
        check = csum_ipv6_magic(*ends, len(raw), IPPROTO_ICMPV6, csum_partial(raw))
        return raw[:2] + check.to_bytes(2, "big") + raw[4:]

    def send_icmp6(
        self, dst: str, icmp6_type: int, code: int, rest: int = 0, data: bytes = b"", **fields: Any
    ) -> None:
        """Send one; ``fields`` are those of ``ip6_packet``."""
        raw = self.icmp6_message(dst, icmp6_type, code, rest, data, fields.get("src"))
        self.send_ip(IPPROTO_ICMPV6, raw, dst, **fields)

    def send_tcp(
        self,
        dst: str,
        sport: int,
        dport: int,
        flags: str,
        seq: int,
        ack: int = 0,
        payload: bytes = b"",
        *,
        window: int = 65535,
        options: bytes = b"",
        urg_ptr: int = 0,
        res1: int = 0,
        bad_checksum: bool = False,
        **fields: Any,
    ) -> None:
        """A TCP segment with absolute numbers; ``options`` from build_tcp_options(), ``res1`` the four reserved bits
        (1: Accurate ECN's AE)."""
        doff = (20 + len(options)) // 4 << 4 | res1
        numbers = (sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, doff, flags_to_bits(flags), window)
        raw = _TCP.pack(*numbers, 0, urg_ptr) + options + payload
        src = _addr(self._source(dst, fields.get("src")))
        check = csum_tcpudp_magic(src, _addr(dst), len(raw), IPPROTO_TCP, csum_partial(raw))
        raw = _TCP.pack(*numbers, check ^ 1 if bad_checksum else check, urg_ptr) + options + payload
        self.send_ip(IPPROTO_TCP, raw, dst, **fields)

    # expectations

    def next_packet(self, proto: int, within_ns: int = 0) -> Packet | None:
        """The oldest packet of a protocol, waiting ``within_ns`` (and whatever is in flight now) for it."""
        self.sim.settle()
        if not self._has(proto) and within_ns:
            self.sim.run_until(lambda: self._has(proto), within_ns)
        for packet in self.inbox:
            if packet.proto == proto:
                self.inbox.remove(packet)
                return packet
        return None

    def _has(self, proto: int) -> bool:
        return any(p.proto == proto for p in self.inbox)

    def expect_icmp(self, icmp_type: int, code: int, within_ns: int = 0) -> Packet:
        """The next ICMP message, which has to be this one; its body starts with the type."""
        packet = self.next_packet(IPPROTO_ICMP, within_ns)
        if packet is None or packet.body[0] != icmp_type or packet.body[1] != code:
            raise SimError(f"expected ICMP type {icmp_type} code {code}, got {_what(packet)}")
        if ip_compute_csum(packet.body):
            raise SimError(f"an ICMP message with a wrong checksum was sent: {packet.body.hex()}")
        return packet

    def expect_icmp6(self, icmp6_type: int, code: int, within_ns: int = 0) -> Packet:
        """The next ICMPv6 message that is not neighbour discovery, which has to be this one."""
        packet = self.next_packet(IPPROTO_ICMPV6, within_ns)
        if packet is None or packet.body[0] != icmp6_type or packet.body[1] != code:
            raise SimError(f"expected ICMPv6 type {icmp6_type} code {code}, got {_what(packet)}")
        _check_icmp6(packet)
        return packet

    def expect_udp(self, sport: int, dport: int, data: bytes | None = None, within_ns: int = 0) -> Packet:
        """The next datagram; returns its packet (payload from body[8:])."""
        packet = self.next_packet(IPPROTO_UDP, within_ns)
        ports = (sport, dport)
        if (
            packet is None
            or (int.from_bytes(packet.body[:2], "big"), int.from_bytes(packet.body[2:4], "big")) != ports
        ):
            raise SimError(f"expected a datagram {sport} > {dport}, got {_what(packet)}")
        if data is not None and packet.body[8:] != data:
            raise SimError(f"expected the payload {data!r}, got {packet.body[8:]!r}")
        return packet

    def expect_segment(self, within_ns: int = 0) -> Segment:
        """The next TCP segment, whatever it is, with a correct checksum."""
        packet = self.next_packet(IPPROTO_TCP, within_ns)
        if packet is None:
            raise SimError(f"expected a TCP segment within {within_ns / 1e6} ms, got nothing")
        segment = parse_segment(packet)
        if not segment.checksum_ok:
            raise SimError(f"a segment with a wrong checksum was sent: {segment}")
        return segment

    def expect(
        self,
        flags: str | None = None,
        *,
        seq: int | None = None,
        ack: int | None = None,
        length: int | None = None,
        payload: bytes | None = None,
        window: int | None = None,
        within_ns: int = 0,
    ) -> Segment:
        """The next TCP segment, with absolute numbers; each argument that is given has to match."""
        segment = self.expect_segment(within_ns)
        wanted = {"flags": flags, "seq": seq, "ack": ack, "window": window, "payload": payload}
        _match(segment, wanted, length, segment.seq, segment.ack)
        return segment

    def expect_nothing(self, for_ns: int = 0) -> None:
        """No IP packet comes, nor has come unexpected."""
        self.sim.settle()
        if for_ns:
            self.sim.run_for(for_ns)
        if self.inbox:
            raise SimError(f"expected nothing, got {_what(self.inbox[0])}")

    def tcp(self, dport: int, *, dst: str | None = None, sport: int = 40000, isn: int = 1_000_000) -> RawTcp:
        """A connection's end; ``dst`` defaults to the first address of the stack at the other end."""
        return RawTcp(self, dst or self._other_addr(), sport, dport, isn)

    def _other_addr(self) -> str:
        link = self.sim.links[self.name]
        other = link.a if link.b is self else link.b
        if not isinstance(other, StackEnd):
            raise ValueError("the other end is no stack: give dst=")
        return ifaddrs(other.dev)[0].partition("/")[0]


def _frame_rest(frame: Frame) -> tuple[Any, ...]:
    return (
        frame.src,
        frame.dst,
        frame.data,
        frame.ip_summed,
        frame.csum_start,
        frame.csum_offset,
        frame.gso_size,
        frame.gso_type,
    )


def _check_icmp6(packet: Packet) -> None:
    ends = in6_pton(packet.src), in6_pton(packet.dst)
    body = packet.body
    if csum_ipv6_magic(*ends, len(body), IPPROTO_ICMPV6, csum_partial(body)):
        raise SimError(f"an ICMPv6 message with a wrong checksum was sent: {body.hex()}")


def _what(packet: Packet | None) -> str:
    if packet is None:
        return "nothing"
    return str(parse_segment(packet)) if packet.proto == IPPROTO_TCP and not packet.frag_off else str(packet)


def _match(segment: Segment, wanted: dict[str, Any], length: int | None, seq: int, ack: int) -> None:
    got = {"seq": seq, "ack": ack}
    for name, value in wanted.items():
        if value is None:
            continue
        have = got[name] if name in got else getattr(segment, name)
        if name == "flags":
            value = bits_to_flags(flags_to_bits(value))
        if have != value:
            raise SimError(f"expected {name} {value!r}, got {have!r} in: {segment} (seq {seq} ack {ack})")
    if length is not None and len(segment.payload) != length:
        raise SimError(f"expected {length} bytes of payload, got {len(segment.payload)} in: {segment}")


class RawTcp:
    """One end of a scripted connection.  Sequence numbers are relative: 0 is the SYN of the side that sends.

    ``send`` fills in what is not given: seq is the next unsent byte, ack what came in order so far (``rcv_nxt``),
    and a time stamp once ``ts_on`` is set (``ts_val``, ``ts_recent``).  ``expect`` keeps those in step."""

    def __init__(self, peer: RawPeer, dst: str, sport: int, dport: int, isn: int) -> None:
        self.peer = peer
        self.dst = dst
        self.sport = sport
        self.dport = dport
        self.isn = isn
        self.irs: int | None = None
        self.snd_nxt = 0
        self.rcv_nxt = 0
        self.window = 65535
        self.ts_on = False
        self.ts_val = 1000
        self.ts_recent = 0

    def send(
        self,
        flags: str,
        payload: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        window: int | None = None,
        mss: int | None = None,
        wscale: int | None = None,
        sackok: bool = False,
        ts: tuple[int, int] | None = None,
        sack: Sequence[tuple[int, int]] = (),
        options: bytes = b"",
        **fields: Any,
    ) -> None:
        """Send a segment; with ``seq`` given the connection's own numbers stay as they are.  ``sack`` blocks are
        relative to the other side's SYN; ``options`` are raw bytes put first; ``fields`` those of
        RawPeer.send_tcp."""
        at = self.snd_nxt if seq is None else seq
        bits = flags_to_bits(flags)
        if ack is None:
            ack = self.rcv_nxt
        if ts is None and self.ts_on and not bits & 0x04:
            ts = (self.ts_val, self.ts_recent)
        base = self.irs or 0
        blocks = [((left + base) & 0xFFFFFFFF, (right + base) & 0xFFFFFFFF) for left, right in sack]
        raw = build_tcp_options(mss, sackok, ts, wscale, blocks, options)
        self.peer.send_tcp(
            self.dst,
            self.sport,
            self.dport,
            flags,
            self.isn + at,
            base + ack if bits & 0x10 else 0,
            payload,
            window=self.window if window is None else window,
            options=raw,
            **fields,
        )
        if seq is None:
            self.snd_nxt += len(payload) + bool(bits & 0x02) + bool(bits & 0x01)

    def expect(
        self,
        flags: str | None = None,
        *,
        seq: int | None = None,
        ack: int | None = None,
        length: int | None = None,
        payload: bytes | None = None,
        window: int | None = None,
        within_ns: int = 0,
    ) -> Segment:
        """The next TCP segment at the peer, which has to be of this connection and to match what is given."""
        segment = self.peer.expect_segment(within_ns)
        if (segment.sport, segment.dport) != (self.dport, self.sport):
            raise SimError(f"expected a segment {self.dport} > {self.sport}, got {segment}")
        if self.irs is None and "S" in segment.flags:
            self.irs = segment.seq
        rel_seq = (segment.seq - (self.irs or 0)) & 0xFFFFFFFF
        rel_ack = (segment.ack - self.isn) & 0xFFFFFFFF
        wanted = {"flags": flags, "seq": seq, "ack": ack, "window": window, "payload": payload}
        _match(segment, wanted, length, rel_seq, rel_ack)
        self._advance(segment, rel_seq)
        return segment

    def _advance(self, segment: Segment, rel_seq: int) -> None:
        if segment.opts.ts is not None:
            self.ts_recent = segment.opts.ts[0]
        end = rel_seq + len(segment.payload) + ("S" in segment.flags) + ("F" in segment.flags)
        if rel_seq <= self.rcv_nxt < end:
            self.rcv_nxt = end

    def expect_nothing(self, for_ns: int = 0) -> None:
        self.peer.expect_nothing(for_ns)

    def handshake(
        self,
        *,
        mss: int = 1460,
        wscale: int | None = 7,
        sackok: bool = True,
        ts: bool = True,
        window: int = 65535,
    ) -> Segment:
        """SYN, SYN-ACK, ACK; returns the SYN-ACK.  Later windows are sent as given, unscaled."""
        self.window = window
        self.send("S", mss=mss, wscale=wscale, sackok=sackok, ts=(self.ts_val, 0) if ts else None)
        segment = self.expect("SA", seq=0, ack=1)
        self.ts_on = ts and segment.opts.ts is not None
        self.send("A")
        self.peer.sim.settle()
        return segment
