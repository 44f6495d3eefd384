# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.attack``: does memory stay flat, and who still gets through, while a hostile guest floods?

Virtual time, no guest: the frames go straight into one Stack behind ``stack.api.sim``'s wire.  Beside the flood a
client that was connected before keeps sending blocks to an echo server and checks what comes back, and new clients
connect (twice: in the middle of the flood and at its end).  What the stack answers to strangers is counted and thrown
away.

One flood is of perfect clients: whole connections, until the application has no descriptor left (EMFILE).  From there
on nobody can connect, as on Linux; so there the two new clients come after the application has let go of them all.

A flood is a generator of frames (``FLOODS``).  Its first tenth, at least 6,000 frames, fills the tables up to their
bounds; memory is measured from there on, as the process' resident set or, for tests, in the interpreter's blocks.
Prints one Markdown row for each flood, and fails (exit code 1) if a client did not get through or memory grew by more
than ``--growth`` MiB.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim, SimError, build_tcp_options, flags_to_bits
from stack.include.ip import IPHDR_STRUCT, IPPROTO_TCP, IPPROTO_UDP, in_aton
from stack.include.netdevice import NETDEV_TX_OK, NETIF_F_HW_CSUM, NETIF_F_SG, net_device
from stack.include.sk_buff import CHECKSUM_UNNECESSARY, sk_buff
from stack.include.sysctl import SysctlValue
from stack.include.tcp import TCP_HEADER
from stack.lib.checksum import ip_fast_csum
from stack.net.core.skbuff import consume_skb

SERVER = "10.0.2.2"
CLIENT = "10.0.2.15"
NEIGHBOURS = 0x0A030000  # 10.3/16: on the link, and nobody there answers ARP
PORT = 80
CLOSED_PORT = 81
BATCH = 64
BATCH_NS = MSEC // 2  # 128,000 packets a second
BLOCK = 1000
WARM_UP = 6000
WARM_UP_PARTS = 8
_MAC = bytes((0x52, 0x54, 0, 0, 0, 1))
_ETH = _MAC + b"\x52\x54\0\xee\x02\x0f" + b"\x08\x00"
_SERVER = in_aton(SERVER)
_SYN_OPTIONS = build_tcp_options(1460, True, (1, 0), 7)


def ip_frame(proto: int, saddr: int, body: bytes, *, ip_id: int = 0, frag: int = 0x4000) -> bytes:
    """An Ethernet frame with an IPv4 packet for the server."""
    fields = (0x45, 0, 20 + len(body), ip_id, frag, 64, proto)
    head = IPHDR_STRUCT.pack(*fields, 0, saddr, _SERVER)
    return _ETH + IPHDR_STRUCT.pack(*fields, ip_fast_csum(head, 5), saddr, _SERVER) + body


def tcp_frame(
    saddr: int,
    sport: int,
    dport: int,
    flags: str,
    seq: int,
    ack: int = 0,
    rest: bytes = b"",
    options: int = 0,
) -> bytes:
    """A segment whose checksum is left to the receiver's word (as a guest's is that offloads it); ``rest`` is
    ``options`` bytes of options and the payload."""
    offset = (5 + options // 4) << 12 | flags_to_bits(flags)
    return ip_frame(IPPROTO_TCP, saddr, TCP_HEADER.pack(sport, dport, seq, ack, offset, 65535, 0, 0) + rest)


class Victim:
    """A stack with an echo server, a client that is connected, and the wire between them."""

    def __init__(self, seed: int = 1, sysctl: dict[str, SysctlValue] | None = None) -> None:
        self.rng = random.Random(seed)
        self.sim = Sim(seed=seed)
        self.net = self.sim.add_stack(
            "10.0.2.2/8", mac=_MAC, features=NETIF_F_SG | NETIF_F_HW_CSUM, sysctl=sysctl
        )
        self.dev: net_device = self.net.devices_by_name["eth0"]
        self.peer: RawPeer = self.sim.add_peer(CLIENT, self.net)
        self.net.route_add("0.0.0.0/0", via=CLIENT)
        self._friends = {in_aton(CLIENT)}
        self._to_friends = self.dev.ndo_start_xmit
        self.dev.ndo_start_xmit = self.ndo_start_xmit
        self.strangers: Callable[[bytes], None] | None = None
        self.answers = 0
        self.listener = Socket(self.net)
        self.listener.bind(("", PORT))
        self.listener.listen(128)
        self.children: list[Socket] = []
        self.held: list[Socket] = []  # connections of the flood's that the application holds on to
        self.echoed = 0
        self.clients = 0
        self.client = self.connect()

    def ndo_start_xmit(self, skb: sk_buff, dev: net_device) -> int:
        """To the client if it is his; anything else is counted, and shown to ``strangers`` if that is set."""
        at = skb.data
        if int.from_bytes(skb.head[at + 30 : at + 34], "big") in self._friends:
            assert self._to_friends is not None
            return self._to_friends(skb, dev)
        self.answers += 1
        if self.strangers is not None:
            self.strangers(bytes(skb.head[at : skb.tail]))
        consume_skb(skb)
        return NETDEV_TX_OK

    def connect(self) -> RawTcp:
        """A client's handshake, from a fresh port; SimError if the server does not answer it."""
        self.sim.settle()
        self.peer.inbox.clear()
        self.clients += 1
        conn = self.peer.tcp(PORT, sport=40000 + self.clients)
        conn.handshake()
        self.serve()
        self.echo(conn)
        return conn

    def serve(self) -> None:
        """The application: accept what waits, echo what the client sent (strangers are never read)."""
        try:
            while True:
                child, (host, _) = self.listener.accept()
                (self.children if host == CLIENT else self.held).append(child)
        except OSError:
            pass
        for child in self.children:
            try:
                while data := child.recv(65536):
                    child.send(data)
            except OSError:
                pass

    def let_go(self) -> None:
        """The application closes all connections but the client's."""
        while self.held:
            self.held.pop().close()
        self.sim.run_for(SEC)
        self.serve()
        while self.held:
            self.held.pop().close()

    def echo(self, conn: RawTcp) -> None:
        """One block there and back; SimError if it does not come back whole."""
        block = self.rng.randbytes(BLOCK)
        conn.send("PA", block)
        self.sim.settle()
        self.serve()
        got = b""
        while len(got) < len(block):
            got += conn.expect(within_ns=SEC).payload
        if got != block:
            raise SimError("the echo differs from what was sent")
        conn.send("A")
        self.sim.settle()
        self.peer.inbox.clear()
        self.echoed += len(block)

    def flood(self, frames: Iterator[bytes], limit: int, every: int) -> int:
        """Feed up to ``limit`` frames; a block is echoed after each ``every``.  Returns how many there were."""
        net, dev, sim = self.net, self.dev, self.sim
        sent, due = 0, every
        for frame in frames:
            net.netif_rx(dev, frame, ip_summed=CHECKSUM_UNNECESSARY)
            sent += 1
            if sent % BATCH == 0:
                net.rx_done()
                sim.run_for(BATCH_NS)
                self.peer.inbox.clear()
                sim.frames.clear()
                self.serve()
            if sent >= due:
                due += every
                self.echo(self.client)
            if sent >= limit:
                break
        net.rx_done()
        return sent


# -- the floods --------------------------------------------------------------------------------------------------------


def _stranger(rng: random.Random) -> int:
    """Any unicast address that is neither ours nor on the link."""
    return rng.randrange(0x0B000000, 0x7F000000)


def syn_flood(v: Victim) -> Iterator[bytes]:
    """SYNs from all over the world, each from another host."""
    rng = v.rng
    while True:
        port, seq = rng.randrange(1024, 65536), rng.getrandbits(32)
        yield tcp_frame(_stranger(rng), port, PORT, "S", seq, 0, _SYN_OPTIONS, len(_SYN_OPTIONS))


def cookie_flood(v: Victim) -> Iterator[bytes]:
    """Third ACKs with made-up cookies, while the listener hands out real ones."""
    rng, syns = v.rng, syn_flood(v)
    for _ in range(256):
        yield next(syns)
    while True:
        port, seq, ack = rng.randrange(1024, 65536), rng.getrandbits(32), rng.getrandbits(32)
        yield next(syns) if rng.random() < 0.01 else tcp_frame(_stranger(rng), port, PORT, "A", seq, ack)


def _blind(v: Victim) -> tuple[int, int, int]:
    """A sequence and an acknowledgement number that a stranger guesses for the client's connection, never the exact
    ones; two in three are in the window.  The port is the client's."""
    conn, rng = v.client, v.rng
    exact = (conn.isn + conn.snd_nxt) & 0xFFFFFFFF
    seq = rng.getrandbits(32) if rng.random() < 0.33 else (exact + rng.randrange(40000, 60000)) & 0xFFFFFFFF
    return conn.sport, seq + (seq == exact), rng.getrandbits(32)


def rst_flood(v: Victim) -> Iterator[bytes]:
    """RSTs that a blind attacker aims at the client's connection (RFC 5961, section 3), and SYNs (section 4)."""
    saddr = in_aton(CLIENT)
    while True:
        port, seq, _ = _blind(v)
        yield tcp_frame(saddr, port, PORT, "R" if v.rng.random() < 0.8 else "S", seq & 0xFFFFFFFF)


def data_flood(v: Victim) -> Iterator[bytes]:
    """Data that a blind attacker aims at the client's connection (RFC 5961, section 5), and at closed ports."""
    rng, saddr, junk = v.rng, in_aton(CLIENT), bytes(512)
    while True:
        port, seq, ack = _blind(v)
        if rng.random() < 0.5:
            # In the window an acknowledgement of what was never sent has to save the connection.
            ack = (v.client.irs or 0) + v.client.rcv_nxt + rng.randrange(1 << 20, 1 << 30)
            yield tcp_frame(saddr, port, PORT, "PA", seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, junk)
        else:
            yield tcp_frame(_stranger(rng), port, CLOSED_PORT, "PA", seq & 0xFFFFFFFF, ack, junk)


def fragment_flood(v: Victim) -> Iterator[bytes]:
    """First, middle and last fragments of datagrams that never complete."""
    rng = v.rng
    while True:
        saddr, ip_id = _stranger(rng), rng.getrandbits(16)
        kind = rng.randrange(3)
        frag = (0x2000, 0x2000 | rng.randrange(1, 4000), rng.randrange(1, 8000))[kind]
        yield ip_frame(IPPROTO_UDP, saddr, bytes(8 * rng.randrange(1, 180)), ip_id=ip_id, frag=frag)


def port_scan(v: Victim) -> Iterator[bytes]:
    """Every TCP and UDP port, again and again, in an order and with flags as nmap has."""
    rng = v.rng
    while True:
        saddr, ports = _stranger(rng), list(range(1, 65536))
        rng.shuffle(ports)
        for port in ports:
            seq, flags = rng.getrandbits(32), rng.choice(("S", "S", "S", "F", "", "FPU", "A"))
            yield tcp_frame(saddr, 40000, port, flags, seq)
            yield ip_frame(IPPROTO_UDP, saddr, (40000 << 48 | port << 32 | 8 << 16).to_bytes(8, "big"))


def neighbour_flood(v: Victim) -> Iterator[bytes]:
    """SYNs from addresses on the link that answer no ARP request: the answers wait for them."""
    rng = v.rng
    while True:
        saddr, port = NEIGHBOURS + rng.getrandbits(11), rng.randrange(1024, 65536)
        yield tcp_frame(saddr, port, rng.choice((PORT, CLOSED_PORT)), "S", rng.getrandbits(32))


def connection_flood(v: Victim) -> Iterator[bytes]:
    """Whole handshakes from ever new hosts, each with six kilobytes behind holes and then silence: only a limit on
    memory and sockets stops these, for each of them is a perfect client."""
    rng, answers = v.rng, list[bytes]()
    v.strangers = answers.append
    while True:
        port, seq = rng.randrange(1024, 65536), rng.getrandbits(32)
        saddr = _stranger(rng)
        yield tcp_frame(saddr, port, PORT, "S", seq, 0, _SYN_OPTIONS, len(_SYN_OPTIONS))
        for answer in answers:
            if answer[47] & 0x3F != 0x12:
                continue
            host, to = int.from_bytes(answer[30:34], "big"), int.from_bytes(answer[36:38], "big")
            ack = int.from_bytes(answer[38:42], "big") + 1 & 0xFFFFFFFF
            mine = int.from_bytes(answer[42:46], "big")
            yield tcp_frame(host, to, PORT, "A", mine, ack)
            for gap in range(2000, 14000, 2000):
                yield tcp_frame(host, to, PORT, "PA", mine + gap & 0xFFFFFFFF, ack, bytes(1000))
        answers.clear()


FLOODS: dict[str, Callable[[Victim], Iterator[bytes]]] = {
    "syn": syn_flood,
    "cookie": cookie_flood,
    "rst": rst_flood,
    "data": data_flood,
    "fragment": fragment_flood,
    "scan": port_scan,
    "neighbour": neighbour_flood,
    "connection": connection_flood,
}
COUNTS = {"scan": 200_000, "neighbour": 200_000, "connection": 200_000}
MILLION = 1_000_000


# -- the measurement ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """``packets`` after the warm-up took ``seconds``; memory at its end and at most; what went through."""

    name: str
    packets: int
    seconds: float
    memory_before: int
    memory_peak: int
    answers: int
    echoed: int
    new_clients: int

    @property
    def growth(self) -> int:
        return self.memory_peak - self.memory_before


def rss() -> int:
    """The resident set of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def blocks() -> int:
    """How many blocks the interpreter has allocated: as good for finding a leak, exact, and it costs nothing."""
    gc.collect()
    return sys.getallocatedblocks()


def run(
    name: str,
    packets: int,
    memory: Callable[[], int],
    parts: int = 10,
    warm_up: int = WARM_UP,
    victim: Victim | None = None,
) -> Result:
    """One flood, ``warm_up`` frames and then ``packets``; memory is looked at after each of ``parts``.  SimError if a
    client's transfer or connection fails."""
    victim = victim or Victim()
    frames = FLOODS[name](victim)
    every = max(packets // 100, 200)
    if name == "connection":
        warm_up = max(warm_up, 9 * victim.net.files.max_fds)
    before = 0
    for _ in range(
        WARM_UP_PARTS
    ):  # caches that are emptied when full go up and down: their top is what counts
        victim.flood(frames, warm_up // WARM_UP_PARTS, every)
        before = max(before, memory())
    peak = before
    clients = sent = 0
    started = time.perf_counter()
    for part in range(parts):
        sent += victim.flood(frames, packets // parts, every)
        peak = max(peak, memory())
        if part in (parts // 2, parts - 1) and name != "connection":
            victim.connect()
            clients += 1
    seconds = time.perf_counter() - started
    if name == "connection":
        victim.let_go()
        clients = len([victim.connect() for _ in range(2)])
    return Result(name, sent, seconds, before, peak, victim.answers, victim.echoed, clients)


def row(result: Result) -> str:
    mib = 1 << 20
    cells = (
        result.name,
        f"{result.packets:,}",
        f"{result.seconds:.1f}",
        f"{result.seconds / result.packets * 1e6:.0f}",
        f"{result.memory_peak / mib:.1f}",
        f"{result.growth / mib:+.1f}",
        f"{result.answers:,}",
        f"{result.echoed / 1000:.0f}",
        f"{result.new_clients} of 2",
    )
    return "| " + " | ".join(cells) + " |"


HEADER = """\
| flood | packets | seconds | us each | peak MiB | growth MiB | answers | kB echoed meanwhile | new clients |
|---|---|---|---|---|---|---|---|---|"""


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 if a flood got a client out of the way or made memory grow."""
    parser = argparse.ArgumentParser(prog="python -m bench.attack", description="floods against one stack")
    parser.add_argument("floods", nargs="*", metavar="flood", help=f"of: {', '.join(FLOODS)} (default: all)")
    parser.add_argument(
        "--packets", type=int, help="frames of each flood (default: a million; the last three 200,000)"
    )
    parser.add_argument("--growth", type=float, default=8.0, help="MiB that memory may grow by (default: 8)")
    options = parser.parse_args(argv)
    unknown = [name for name in options.floods if name not in FLOODS]
    if unknown:
        parser.error(f"no such flood: {', '.join(unknown)}")
    print(HEADER)
    failed = 0
    for name in options.floods or FLOODS:
        packets = options.packets or COUNTS.get(name, MILLION)
        try:
            result = run(name, packets, rss, warm_up=max(WARM_UP, packets // 10))
        except SimError as error:
            print(f"| {name} | a client did not get through: {error} |", flush=True)
            failed = 1
            continue
        print(row(result), flush=True)
        failed |= result.growth > options.growth * (1 << 20)
        gc.collect()
    return failed


if __name__ == "__main__":
    sys.exit(main())
