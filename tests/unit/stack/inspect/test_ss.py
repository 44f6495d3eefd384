# SPDX-License-Identifier: GPL-2.0-or-later
"""Golden lines of ss, of connections in virtual time: the notation is that of ss 6.1."""

from __future__ import annotations

import json

import pytest

from stack.api import bsd
from stack.api.sim import MSEC, SEC, RawTcp, Sim
from stack.inspect import ss
from stack.inspect.ss import Details, Sock
from stack.stack import Stack

PLAIN = Details()
NETID = frozenset({"Netid"})
INFO = (
    "\t skmem:(r768,rb131072,t0,tb46080,f3328,w4728,o0,bl0,d0) ts sack cubic wscale:7,7 rto:212 rtt:10/5 ato:40 "
    "mss:1448 pmtu:1500 rcvmss:536 advmss:1448 cwnd:10 bytes_sent:3000 bytes_received:5 segs_out:4 segs_in:3 "
    "data_segs_out:3 data_segs_in:1 send 11.6Mbps lastsnd:8 lastrcv:12 lastack:28 pacing_rate 23.2Mbps delivered:1 "
    "app_limited busy:8ms unacked:3 rcv_space:14480 rcv_ssthresh:64088 minrtt:10 snd_wnd:8388480 rcv_wnd:65280"
)


class World:
    """A stack with a listener on port 2222, and a raw host 5 ms away."""

    def __init__(self) -> None:
        self.sim = Sim(seed=1)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24")
        self.peer = self.sim.add_peer("10.0.2.15", self.net, delay_ns=5 * MSEC)
        self.listener = bsd.Socket(self.net)
        self.listener.bind(("0.0.0.0", 2222))
        self.listener.listen(3)

    def connect(self) -> tuple[RawTcp, bsd.Socket]:
        conn = self.peer.tcp(2222)
        conn.handshake()
        self.sim.run_for(10 * MSEC)
        return conn, self.listener.accept()[0]

    def socks(self, *states: str) -> list[Sock]:
        return [s for s in ss.sockets(self.net.snapshot()) if not states or s.state in states]

    def lines(self, state: str, shown: Details = PLAIN) -> list[str]:
        """What is shown of the sockets in that state, without headings."""
        return ss.text(self.socks(state), shown, hidden=NETID, header=False).splitlines()


@pytest.fixture
def world() -> World:
    return World()


def test_listener_shows_accept_queue_and_backlog(world: World) -> None:
    for sport in (40000, 40001):
        world.peer.tcp(2222, sport=sport).handshake()
    world.sim.run_for(10 * MSEC)
    shown = Details(info=True, memory=True, extended=True, processes=True, pid=77)
    assert world.lines("LISTEN", shown) == [
        'LISTEN 2 3 0.0.0.0:2222 0.0.0.0:* users:(("vnic",pid=77,fd=3)) <->',
        "\t skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d0) cubic cwnd:10 unacked:2",
    ]


def test_half_open_connection_shows_as_syn_recv_with_its_timer(world: World) -> None:
    conn = world.peer.tcp(2222)
    conn.send("S", mss=1460)
    conn.expect("SA")
    shown = Details(timer=True, info=True, memory=True)
    assert world.lines("SYN-RECV", shown) == ["SYN-RECV 0 0 10.0.2.2:2222 10.0.2.15:40000 timer:(on,996ms,0)"]
    world.sim.run_for(1500 * MSEC)
    assert world.lines("SYN-RECV", shown)[0].endswith("timer:(on,1.516ms,1)")


def test_established_shows_timer_memory_and_tcp_info(world: World) -> None:
    conn, sock = world.connect()
    conn.send("PA", b"hello")
    world.sim.run_for(10 * MSEC)
    sock.send(b"x" * 3000)
    world.sim.run_for(5 * MSEC)
    shown = Details(timer=True, info=True, memory=True)
    assert world.lines("ESTAB", shown) == [
        "ESTAB 5 3000 10.0.2.2:2222 10.0.2.15:40000 timer:(on,012ms,0)",
        INFO,
    ]
    words = ss.info_words(world.socks("ESTAB")[0], Details(info=True, numeric=True))
    assert words[0] == "cubic"  # ts and sack need -o or -e
    assert "send 11584000bps" in words


def test_established_that_retransmits_shows_what_was_lost(world: World) -> None:
    _, sock = world.connect()
    sock.send(b"x" * 100)
    world.sim.run_for(600 * MSEC)
    (line, info) = world.lines("ESTAB", Details(timer=True, info=True))
    assert "timer:(on," in line
    assert line.endswith(",1)")
    for word in (
        "backoff:1",
        "cwnd:1",
        "ssthresh:7",
        "retrans:1/2",
        "lost:1",
        "bytes_retrans:200",
        "unacked:1",
    ):
        assert word in info.split()


def test_established_that_is_idle_shows_its_keepalive_timer(world: World) -> None:
    _, sock = world.connect()
    assert world.lines("ESTAB", Details(timer=True)) == ["ESTAB 0 0 10.0.2.2:2222 10.0.2.15:40000"]
    sock.setsockopt(1, 9, 1)
    world.sim.run_for(20 * MSEC)
    assert world.lines("ESTAB", Details(timer=True))[0].endswith("timer:(keepalive,119min,0)")


def test_established_that_meets_a_closed_window_shows_persist(world: World) -> None:
    conn, sock = world.connect()
    conn.send("PA", b"nearly ")
    conn.send("PA", b"full", window=0)
    world.sim.run_for(10 * MSEC)
    sock.send(b"x" * 100)
    assert "timer:(persist," in world.lines("ESTAB", Details(timer=True))[0]


def test_closed_connection_shows_its_way_to_time_wait(world: World) -> None:
    conn, sock = world.connect()
    sock.shutdown(bsd.SHUT_WR)
    (line,) = world.lines("FIN-WAIT-1", Details(extended=True))
    assert line.endswith("<--")
    sock.close()
    world.sim.run_for(5 * MSEC)
    conn.send("A", ack=2)
    world.sim.run_for(10 * MSEC)
    (line,) = world.lines("FIN-WAIT-2", Details(timer=True))
    assert line == "FIN-WAIT-2 0 0 10.0.2.2:2222 10.0.2.15:40000 timer:(timewait,59sec,0)"
    conn.send("FA", ack=2)
    world.sim.run_for(10 * MSEC)
    shown = Details(timer=True, info=True, memory=True, extended=True, processes=True)
    (line,) = world.lines("TIME-WAIT", shown)
    assert line.startswith("TIME-WAIT 0 0 10.0.2.2:2222 10.0.2.15:40000 timer:(timewait,59sec,0) sk:")
    world.sim.run_for(61 * SEC)
    assert world.socks("TIME-WAIT") == []


def test_udp_shows_queues_device_and_peer(world: World) -> None:
    sock = bsd.Socket(world.net, type=bsd.SOCK_DGRAM)
    sock.setsockopt(1, 25, b"eth0")
    sock.bind(("0.0.0.0", 53))
    world.peer.send_udp("10.0.2.2", 5000, 53, b"question")
    world.sim.run_for(10 * MSEC)
    assert world.lines("UNCONN") == ["UNCONN 768 0 0.0.0.0%eth0:53 0.0.0.0:*"]
    sock.connect(("10.0.2.15", 5000))
    assert world.lines("ESTAB") == ["ESTAB 768 0 10.0.2.2%eth0:53 10.0.2.15:5000"]


def test_ipv6_listener_of_both_families_shows_stars_and_mapped_peers() -> None:
    sim = Sim(seed=1)
    net = sim.add_stack("10.0.2.2/24", "fd00::2/64")
    peer = sim.add_peer("10.0.2.15", net, addr6="fd00::15")
    for port, only in ((80, 0), (81, 1)):
        sock = bsd.Socket(net, bsd.AF_INET6)
        sock.setsockopt(41, 26, only)
        sock.bind(("::", port))
        sock.listen(1)
    peer.tcp(80).handshake()
    peer.tcp(80, dst="fd00::2", sport=40001).handshake()
    shown = ss.text(ss.sockets(net.snapshot()), Details(extended=True)).splitlines()
    assert shown[0] == "Netid State  Recv-Q Send-Q     Local Address:Port       Peer Address:Port"
    ends = {(line.split()[4], line.split()[5]) for line in shown[1:]}
    assert ends == {
        ("*:80", "*:*"),
        ("[::]:81", "[::]:*"),
        ("[::ffff:10.0.2.2]:80", "[::ffff:10.0.2.15]:40000"),
        ("[fd00::2]:80", "[fd00::15]:40001"),
    }
    assert [line.split("v6only:")[1] for line in shown if "v6only" in line] == ["0 <->", "1 <->"]


def test_columns_are_as_wide_as_they_have_to_be(world: World) -> None:
    world.connect()
    assert ss.text(world.socks(), PLAIN) == (
        "Netid State  Recv-Q Send-Q Local Address:Port Peer Address:Port\n"
        "tcp   LISTEN 0      3            0.0.0.0:2222      0.0.0.0:*\n"
        "tcp   ESTAB  0      0           10.0.2.2:2222    10.0.2.15:40000\n"
    )
    assert ss.text([], PLAIN, hidden=NETID) == "State Recv-Q Send-Q Local Address:Port Peer Address:Port\n"
    assert ss.text([], PLAIN, hidden=NETID, header=False) == ""


def test_plain_has_everything_and_no_notation(world: World) -> None:
    world.connect()
    listener, child = (json.loads(json.dumps(ss.plain(sock, 77))) for sock in world.socks())
    assert (listener["local"], listener["local_port"], listener["peer_port"]) == ("0.0.0.0", 2222, 0)
    assert child["users"] == [{"name": "vnic", "pid": 77, "fd": 4}]
    assert (child["state"], child["peer"], child["peer_port"]) == ("ESTAB", "10.0.2.15", 40000)
    assert child["info"]["tcpi_rtt"] == 10_000
    assert child["timer"] is None


def test_looking_changes_nothing_in_the_stack(world: World) -> None:
    from stack.freeze.writer import freeze

    world.connect()
    before = freeze(world.net)
    ss.sockets(world.net.snapshot())
    assert freeze(world.net) == before


def test_summary_counts_by_state_and_family(world: World) -> None:
    world.connect()
    bsd.Socket(world.net, type=bsd.SOCK_DGRAM).bind(("", 53))
    unused = bsd.Socket(world.net)
    assert ss.summary_text(ss.summary(world.net.snapshot())) == (
        "Total: 4\n"
        "TCP:   3 (estab 1, closed 1, orphaned 0, timewait 0)\n"
        "\n"
        "Transport Total     IP        IPv6\n"
        "UDP       1         1         0\n"
        "TCP       2         2         0\n"
        "INET      3         3         0\n"
        "FRAG      0         0         0\n"
    )
    unused.close()


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0ms"),
        (4, "004ms"),
        (204, "204ms"),
        (1000, "1sec"),
        (5004, "5.004ms"),
        (59_996, "59sec"),
        (60_000, "1min"),
        (65_300, "1min5sec"),
        (7_196_000, "119min"),
    ],
)
def test_duration_drops_what_does_not_matter(ms: int, shown: str) -> None:
    assert ss.duration(ms) == shown


def test_rate_has_three_digits_or_all() -> None:
    assert [ss.rate(bits, False) for bits in (7, 23_200_000, 23_130_352_936, 5e12)] == [
        "7bps",
        "23.2Mbps",
        "23.1Gbps",
        "5Tbps",
    ]
    assert ss.rate(23_130_352_936, True) == "23130352936bps"
