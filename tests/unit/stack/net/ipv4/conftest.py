# SPDX-License-Identifier: GPL-2.0-or-later
"""A stack with two addresses, a raw host on its link, and UDP sockets without the socket layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, RawTcp, Segment, Sim
from stack.include.ip import IPPROTO_UDP
from stack.include.sock import AF_INET
from stack.net.core import sock as core_sock
from stack.net.ipv4 import udp
from stack.stack import Stack

UdpFactory = Callable[..., udp.udp_sock]
ListenFactory = Callable[..., Socket]


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=7)


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", "10.0.2.3/24")


@pytest.fixture
def peer(sim: Sim, net: Stack) -> RawPeer:
    return sim.add_peer("10.0.2.15", net)


@pytest.fixture
def udp_socket(net: Stack) -> UdpFactory:
    def make(port: int, addr: int = 0, **fields: object) -> udp.udp_sock:
        sk: udp.udp_sock = core_sock.sk_alloc(net, AF_INET, udp.udp_prot)
        core_sock.sock_init_data(None, sk)
        sk.sk_protocol = IPPROTO_UDP
        sk.sk_rcv_saddr = sk.inet_saddr = addr
        for name, value in fields.items():
            setattr(sk, name, value)
        if udp.udp_lib_get_port(sk, port):
            raise OSError(98, f"port {port} is taken")
        sk.inet_sport = sk.sk_num
        return sk

    return make


@pytest.fixture
def listen(net: Stack) -> ListenFactory:
    """A listening socket on port 80 of every address; ``before`` are (level, option, value) set before listen()."""

    def make(
        backlog: int = 5, port: int = 80, addr: str = "", before: tuple[tuple[int, int, int], ...] = ()
    ) -> Socket:
        sock = Socket(net)
        for option in before:
            sock.setsockopt(*option)
        sock.bind((addr, port))
        sock.listen(backlog)
        return sock

    return make


@dataclass
class Established:
    """An accepted connection: the raw host's end ``conn``, the application's ``sock`` and the tcp_sock ``sk``."""

    sim: Sim
    net: Stack
    conn: RawTcp
    sock: Socket
    sk: Any

    def flight(self, for_ns: int = 0) -> list[Segment]:
        """What the raw host got in that time, oldest first; its acknowledgment number moves along."""
        self.sim.settle()
        if for_ns:
            self.sim.run_for(for_ns)
        segments = []
        while self.conn.peer.inbox:
            segments.append(self.conn.expect())
        return segments

    def rel(self, segment: Segment) -> int:
        """The segment's sequence number, 1 for the first byte of the stream."""
        return (segment.seq - (self.conn.irs or 0)) & 0xFFFFFFFF


@pytest.fixture
def established() -> Callable[..., Established]:
    """Make a connection to port 80 of a fresh stack.  ``delay_ns`` each way, ``features`` of the device, ``sysctl``
    and ``profile`` of the stack, ``before`` socket options of the listener; the rest goes to the handshake."""

    def make(
        delay_ns: int = 0,
        features: int = 0,
        sysctl: dict[str, Any] | None = None,
        profile: str = "linux-6.1",
        before: tuple[tuple[int, int, Any], ...] = (),
        **handshake: Any,
    ) -> Established:
        sim = Sim(seed=1)
        net = sim.add_stack("10.0.2.2/24", features=features, profile=profile, sysctl=sysctl)
        peer = sim.add_peer("10.0.2.15", net, delay_ns=delay_ns)
        listener = Socket(net)
        for option in before:
            listener.setsockopt(*option)
        listener.bind(("", 80))
        listener.listen(5)
        conn = peer.tcp(80)
        conn.handshake(**handshake)
        sim.run_for(delay_ns)
        listener.setblocking(False)
        sock = listener.accept()[0]
        sock.setblocking(False)
        return Established(sim, net, conn, sock, sock._sock.sk)

    return make
