# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP Fast Open between our stack and the host's own kernel, each as client and as server, over IPv4 and IPv6: a TUN
device in a private network namespace, our stack at its other end.

The test starts this file again; that process makes the namespace, which ends with it, and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from devmodel.netdev.offload import finish
from devmodel.port import VnetHdr
from devmodel.virtio.spec import VIRTIO_NET_HDR_F_NEEDS_CSUM
from stack.api.bsd import Socket
from stack.clock import ManualClock
from stack.include.ip import in_aton
from stack.include.ipv6 import in6_pton
from stack.include.net import MSG_FASTOPEN
from stack.include.netdevice import NETDEV_TX_OK, NETIF_F_HW_CSUM, net_device
from stack.include.sk_buff import CHECKSUM_PARTIAL, sk_buff
from stack.net.core.neighbour import neigh_add_permanent
from stack.net.core.skbuff import skb_linear_bytes
from stack.net.ipv4 import proc
from stack.rng import SeededRng
from stack.stack import Stack
from tests.differential.real import enter_namespace

ROOT = Path(__file__).parents[2]
KERNEL = {socket.AF_INET: "10.0.2.2", socket.AF_INET6: "fd00::2"}
OURS = {socket.AF_INET: "10.0.2.15", socket.AF_INET6: "fd00::15"}
MAC, KERNEL_MAC = b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\2"
TCP, TCP_FASTOPEN = socket.IPPROTO_TCP, 23
PORT = 80
DEADLINE_S = 5.0


class World:
    """Our Stack on this namespace's TUN device, in real time; ``sent`` counts the packets that it sent."""

    def __init__(self) -> None:
        self.tun = enter_namespace()
        _write("ipv4/tcp_fastopen", "3")
        _write("ipv6/conf/tun0/disable_ipv6", "0")
        address = f"{KERNEL[socket.AF_INET6]}/64"
        subprocess.run(["ip", "-6", "address", "add", address, "dev", "tun0", "nodad"], check=True)
        self.clock = ManualClock(time.monotonic_ns())
        self.net = Stack(self.clock, SeededRng(1), sysctl={"tcp_fastopen": 3})
        self.dev = self.net.register_netdevice("tun0", MAC, 1500)
        self.dev.features = NETIF_F_HW_CSUM
        for family, size, table in (
            (socket.AF_INET, 24, self.net.arp_tbl),
            (socket.AF_INET6, 64, self.net.nd_tbl),
        ):
            self.net.dev_addr_add(self.dev, f"{OURS[family]}/{size}")
            of_text = in_aton if family == socket.AF_INET else in6_pton
            neigh_add_permanent(table, of_text(KERNEL[family]), self.dev, KERNEL_MAC)
        self.dev.ndo_start_xmit = self._xmit
        self.sent = 0

    def _xmit(self, skb: sk_buff, dev: net_device) -> int:
        frame, hdr = skb_linear_bytes(skb), VnetHdr()
        if skb.ip_summed == CHECKSUM_PARTIAL:
            hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
            hdr.csum_start, hdr.csum_offset = skb.csum_start - skb.data, skb.csum_offset
        for parts in finish(hdr, [frame]):
            packet = b"".join(parts)[14:]
            self.sent += packet[9 if packet[0] >> 4 == 4 else 6] == socket.IPPROTO_TCP
            os.write(self.tun, packet)
        return NETDEV_TX_OK

    def turn(self, listen: bool = True) -> None:
        """A moment of real time, with what the kernel sent unless we shall not ``listen`` to it."""
        ready = select.select([self.tun] if listen else [], [], [], 0.005)[0]
        self.clock.set(max(time.monotonic_ns(), self.clock.now_ns()))
        if ready:
            packet = os.read(self.tun, 65536)
            kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
            self.net.netif_rx(self.dev, MAC + KERNEL_MAC + kind + packet)
            self.net.rx_done()
        self.net.run_timers()

    def until(self, call: Any, listen: bool = True) -> Any:
        """A socket call of either side, tried until it does not have to wait."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                return call()
            self.turn(listen)
        raise TimeoutError(f"{call} waited for {DEADLINE_S:g} s")


def _write(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value)


def kernel_counter(name: str) -> int:
    names, values = (
        line.split() for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()[:2]
    )
    return int(values[names.index(name)])


def our_counter(world: World, name: str) -> int:
    return proc.netstat_groups(world.net)["TcpExt"][name]


def main() -> None:
    world = World()
    seen = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for ours_connects in (True, False):
            seen[f"{family.name} {'ours' if ours_connects else 'kernel'}"] = run(world, family, ours_connects)
    seen["kernel active"] = kernel_counter("TCPFastOpenActive")
    seen["kernel passive"] = kernel_counter("TCPFastOpenPassive")
    seen["our active"] = our_counter(world, "TCPFastOpenActive")
    seen["our passive"] = our_counter(world, "TCPFastOpenPassive")
    print(json.dumps(seen))


def run(world: World, family: socket.AddressFamily, ours_connects: bool) -> dict[str, Any]:
    """A first connection, which brings a cookie, and a second one, whose data are read before the client hears of
    anything."""

    def kernel_socket() -> socket.socket:
        sock = socket.socket(family)
        sock.setblocking(False)
        return sock

    def our_socket() -> Socket:
        return Socket(world.net, int(family))

    client, server = (our_socket, kernel_socket) if ours_connects else (kernel_socket, our_socket)
    to = (KERNEL if ours_connects else OURS)[family], PORT
    listener: Any = server()
    listener.setsockopt(TCP, TCP_FASTOPEN, 5)
    listener.bind(to)
    listener.listen(5)

    first: Any = client()
    with pytest.raises(BlockingIOError):
        first.sendto(b"first", MSG_FASTOPEN, to)
    child, _ = world.until(listener.accept)
    world.until(lambda: first.send(b"first"))
    got = [world.until(lambda: child.recv(100)).decode()]
    first.close()
    child.close()
    for _ in range(20):
        world.turn()

    second: Any = client()
    before = world.sent
    taken = second.sendto(b"second", MSG_FASTOPEN, to)
    # Our client does not listen until the kernel's server has the data; our server's SYN-ACK is on its way when it has.
    child, _ = world.until(listener.accept, listen=not ours_connects)
    got.append(world.until(lambda: child.recv(100), listen=not ours_connects).decode())
    packets = world.sent - before
    child.send(b"reply")
    got.append(world.until(lambda: second.recv(100)).decode())
    for sock in (second, child, listener):
        sock.close()
    return {"taken": taken, "got": got, "packets": packets}


@pytest.mark.root
@pytest.mark.slow
def test_fast_open_with_linux_both_ways() -> None:
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("needs root and /dev/net/tun, for a network namespace with a TUN device")
    done = subprocess.run(
        [sys.executable, __file__],
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    one = {"taken": 6, "got": ["first", "second", "reply"], "packets": 1}
    for family in ("AF_INET", "AF_INET6"):
        assert seen[f"{family} ours"] == one  # the SYN alone had left
        assert seen[f"{family} kernel"] == one  # nothing but the SYN-ACK had left
    assert [seen[f"{who} {side}"] for who in ("kernel", "our") for side in ("active", "passive")] == [
        2,
        2,
        2,
        2,
    ]


if __name__ == "__main__":
    main()
