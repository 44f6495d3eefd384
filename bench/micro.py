# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.micro``: the processor time that the stack alone takes, without guest, device and event loop.

A client made of ready frames talks to an echo, a one-byte and a sink server on a Stack with offloads.  Prints
microseconds of this process's CPU time, the best of several rounds: per connection (SYN, ACK, one byte, FIN both
ways), per 1-byte round trip, and per 64 KB received and sent.  What reading the clock costs is taken off, and what is
loaded is out of the collector's sight, as in ``vnic serve``.  ``--profile`` prints where it goes.

``--instructions`` counts the processor's instructions instead, client included (valgrind --tool=callgrind): the same
number on a busy machine and on a quiet one, so that small changes can be compared.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from struct import pack

from stack.api.bsd import Socket
from stack.clock import ManualClock
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO, net_device
from stack.include.sk_buff import CHECKSUM_PARTIAL, SKB_GSO_TCPV4, sk_buff
from stack.rng import SeededRng
from stack.stack import Stack

ETH_P_ARP = 0x0806
CLIENT_MAC, SERVER_MAC = bytes.fromhex("525400000001"), bytes.fromhex("525500000002")
CLIENT, SERVER = 0x0A00020F, 0x0A000202
FIN, SYN, PSH, ACK = 1, 2, 8, 16
PORT = 7


def _clock_ns() -> int:
    """What two readings one after the other are apart."""
    return min(-time.process_time_ns() + time.process_time_ns() for _ in range(1000))


CLOCK_NS = _clock_ns()


class Client:
    """The other end of the wire: builds frames, and reads sequence numbers from what comes back."""

    def __init__(self) -> None:
        self.clock = ManualClock(10**9)
        self.net = Stack(self.clock, SeededRng(1))
        self.dev = self.net.register_netdevice("eth0", SERVER_MAC)
        self.net.dev_addr_add(self.dev, "10.0.2.2/24")
        self.dev.features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO
        self.dev.ndo_start_xmit = self.take
        self.sent: list[sk_buff] = []
        self.seq = self.ack = self.tsecr = 0
        self._arp()
        self.listener = Socket(self.net)
        self.listener.bind(("10.0.2.2", PORT))
        self.listener.listen(1000)
        self.sport = 20000

    def _arp(self) -> None:
        head = b"\xff" * 6 + CLIENT_MAC + b"\x08\x06" + pack("!HHBBH", 1, 0x0800, 6, 4, 2)
        self.net.netif_rx(self.dev, head + CLIENT_MAC + pack("!I", CLIENT) + bytes(6) + pack("!I", SERVER))

    def take(self, skb: sk_buff, dev: net_device) -> int:
        if skb.protocol == ETH_P_ARP:
            self._arp()
        else:
            self.sent.append(skb)
        return 0

    def send(self, flags: int, payload: bytes = b"", gso: int = 0) -> None:
        """One segment of the current connection, with time stamps, its checksum left to the device."""
        self.clock.advance(20_000)
        options = pack("!BBII", 8, 10, self.clock.now_ns() // 1_000_000 & 0xFFFFFFFF, self.tsecr)
        if flags & SYN:
            options = pack("!HHBB", 0x0204, 1460, 4, 2) + options + b"\x01\x03\x03\x07"
        else:
            options = b"\x01\x01" + options
        doff = 20 + len(options)
        tcp = (
            pack("!HHIIBBHHH", self.sport, PORT, self.seq, self.ack, doff << 2, flags, 65535, 0, 0) + options
        )
        ip = pack("!BBHHHBBHII", 0x45, 0, 20 + doff + len(payload), 0, 0x4000, 64, 6, 0, CLIENT, SERVER)
        total = sum(int.from_bytes(ip[i : i + 2], "big") for i in range(0, 20, 2))
        check = 0xFFFF - ((total - 1) % 0xFFFF + 1)
        frame = SERVER_MAC + CLIENT_MAC + b"\x08\x00" + ip[:10] + pack("!H", check) + ip[12:] + tcp + payload
        self.seq = (self.seq + len(payload) + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        self.frame, self.gso = frame, gso
        self.deliver()

    def deliver(self) -> None:
        """What is measured: one frame through the stack."""
        began = time.process_time_ns()
        self.net.netif_rx(
            self.dev,
            self.frame,
            ip_summed=CHECKSUM_PARTIAL,
            csum_start=34,
            csum_offset=16,
            gso_size=self.gso,
            gso_type=SKB_GSO_TCPV4 if self.gso else 0,
        )
        self.net.rx_done()
        self.spent += time.process_time_ns() - began - CLOCK_NS

    spent = 0

    def timed(self, call: Callable[[], object]) -> object:
        began = time.process_time_ns()
        result = call()
        self.spent += time.process_time_ns() - began - CLOCK_NS
        return result

    def answered(self) -> None:
        """Take the last segment that the stack sent: acknowledge all of it with the next one."""
        self._take(self.sent[-1])
        self.sent.clear()

    def acknowledge_oldest(self) -> None:
        self._take(self.sent.pop(0))
        self.send(ACK)

    def _take(self, skb: sk_buff) -> None:
        tcp = skb.data + 34
        head = skb.head
        seq = int.from_bytes(head[tcp + 4 : tcp + 8], "big")
        doff, flags = head[tcp + 12] >> 4 << 2, head[tcp + 13]
        length = skb.tail - tcp - doff + skb.data_len
        self.ack = (seq + length + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        for offset in range(tcp + 20, tcp + doff - 9):
            if head[offset] == 8 and head[offset + 1] == 10:
                self.tsecr = int.from_bytes(head[offset + 2 : offset + 6], "big")
                break

    def connect(self) -> Socket:
        self.sport = 20000 + (self.sport - 19999) % 40000
        self.seq, self.ack, self.tsecr = 1000, 0, 0
        self.send(SYN)
        self.answered()
        self.send(ACK)
        accepted = self.timed(self.listener.accept)
        assert isinstance(accepted, tuple)
        conn: Socket = accepted[0]
        return conn

    def whole_connection(self) -> None:
        """Connect, one byte down, FIN, FIN."""
        conn = self.connect()
        self.timed(lambda: conn.send(b"x"))
        self.timed(conn.close)
        self.answered()
        self.send(ACK)
        self.send(ACK | FIN)
        self.clock.advance(10_000_000)
        self.timed(self.net.run_timers)
        self.sent.clear()


def per_connection(client: Client, count: int) -> float:
    client.spent = 0
    for _ in range(count):
        client.whole_connection()
    return client.spent / count / 1000


def per_round_trip(client: Client, count: int) -> float:
    conn = client.connect()
    client.spent = 0
    for _ in range(count):
        client.send(ACK | PSH, b"x")
        data = client.timed(lambda: conn.recv(65536))
        assert data == b"x"
        client.timed(lambda: conn.send(b"x"))
        client.answered()
    return client.spent / count / 1000


CHUNK = 44 * 1448  # bytes of "64 KB": what one GSO frame holds


def per_64k(client: Client, count: int) -> float:
    conn = client.connect()
    payload = bytes(CHUNK)
    client.spent = 0
    for _ in range(count):
        client.send(ACK | PSH, payload, gso=1448)
        client.timed(lambda: conn.recv(1 << 20))
        client.sent.clear()
    return client.spent / count / 1000


def per_64k_sent(client: Client, count: int) -> float:
    """A transfer under way: the application writes 64 KB at a time, four frames are in flight, each is acknowledged."""
    conn = client.connect()
    _transfer(client, conn, 200)  # until the window has grown
    client.spent = 0
    _transfer(client, conn, count)
    return client.spent / count / 1000


def _transfer(client: Client, conn: Socket, count: int) -> None:
    payload = bytes(CHUNK)
    left = count * CHUNK
    while left > 0:
        size = client.timed(lambda: _write(conn, payload))
        assert isinstance(size, int)
        left -= size
        while client.sent and (len(client.sent) > 4 or size < CHUNK):
            client.acknowledge_oldest()


def _write(conn: Socket, payload: bytes) -> int:
    """Bytes taken; 0 if the send buffer is full."""
    try:
        return conn.send(payload)
    except BlockingIOError:
        return 0


MEASURES: dict[str, Callable[[Client, int], float]] = {
    "connection": per_connection,
    "1-byte round trip": per_round_trip,
    "64 KB received": per_64k,
    "64 KB sent": per_64k_sent,
}


# -- instructions ----------------------------------------------------------------------------------------------------

FEW, MANY = 100, 500  # what starting takes is in both counts, and goes when they are subtracted


def instructions(name: str) -> float:
    """Per unit of that measure."""
    return (_counted(name, MANY) - _counted(name, FEW)) / (MANY - FEW)


def _counted(name: str, count: int) -> int:
    """All instructions of a process that starts, measures ``count`` units and ends; SystemExit without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit("valgrind is not there, which counts the instructions: apt-get install valgrind")
    argv = [
        valgrind,
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        sys.executable,
        "-m",
        "bench.micro",
    ]
    argv += ["--once", name, "--count", str(count)]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(argv, env=env, check=True, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"callgrind did not say how many it counted: {done.stderr[-300:]}")
    return int(found[1])


def once(name: str, count: int) -> None:
    """What is counted."""
    client = Client()
    gc.collect()
    gc.freeze()
    MEASURES[name](client, count)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.micro", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", choices=MEASURES, help="print where the time goes")
    parser.add_argument("--instructions", action="store_true", help="count them, in place of the time")
    parser.add_argument("--once", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.once:
        once(options.once, options.count)
        return 0
    if options.instructions:
        for name in MEASURES:
            print(f"{name:20} {instructions(name) / 1000:7.0f} thousand instructions", flush=True)
        return 0
    if options.profile:
        client = Client()
        profile = cProfile.Profile()
        profile.runcall(MEASURES[options.profile], client, options.count)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(45)
        return 0
    gc.collect()
    gc.freeze()
    for name, measure in MEASURES.items():
        best = min(measure(Client(), options.count) for _ in range(options.rounds))
        print(f"{name:20} {best:7.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
