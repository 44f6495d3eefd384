# SPDX-License-Identifier: GPL-2.0-or-later
"""setsockopt() and getsockopt(): every option with good, bad and odd values on sockets of each kind and state.

One stimulus for each option sets each of its values and reads it back, whole and cut, on these sockets:

    F  a stream, just made                   L  a listener             c  an established child of L
    d  a datagram socket, just made          F6, d6  the same of AF_INET6

What an option does to segments is the other files' business.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from tests.differential.script import (
    Stimulus,
    ack,
    datagram,
    established,
    getopt,
    info,
    listen,
    newsocket,
    options,
    poll,
    recv,
    recvmsg,
    seg,
    send,
    setopt,
    stimulus,
    udp,
)

Value = int | bytes

INTS: tuple[Value, ...] = (1, 0, 2, -1, 255, 256, 0x7FFFFFFF)
RAW: tuple[Value, ...] = (b"", b"\1", b"\1\0\0", b"\1\0\0\0", b"\0\0\0\0\1\0\0\0")
FLAG: tuple[Value, ...] = (1, 0, 2, -1, *RAW)
SIZES = (1, 3, 4, 8, 16)
ALL = "F L c d F6 d6"
STREAMS = ["F", "L", "c", "F6"]


@dataclass(frozen=True)
class Option:
    """``values`` are set in that order; ``sizes`` of the buffer that reads back; ``socks`` as above."""

    name: str
    number: int
    values: tuple[Value, ...] = FLAG
    sizes: tuple[int, ...] = SIZES
    socks: str = ALL


def timeval(seconds: int, usec: int) -> bytes:
    return struct.pack("=qq", seconds, usec)


def linger(onoff: int, seconds: int) -> bytes:
    return struct.pack("=ii", onoff, seconds)


TIMES = (
    timeval(1, 500_000), timeval(0, 0), timeval(-1, 0), timeval(0, 1), timeval(0, 1_000_000), timeval(0, -1),
    timeval(3, 4000), timeval(1 << 40, 0), timeval(0, 0)[:8], 1,
)  # fmt: skip
LINGER = (
    linger(1, 5),
    linger(0, 7),
    linger(1, 0),
    linger(1, -1),
    linger(2, 1 << 30),
    linger(0, 0),
    b"",
    1,
    linger(1, 5)[:7],
)
BUFFER = (1, 0, -1, 2303, 4000, 100_000, 1 << 20, 0x7FFFFFFF, 0x3FFFFFFF, b"", b"\1\0")

SOCKET = (
    Option("debug", 1),
    Option("reuseaddr", 2),
    Option("type", 3, (1,)),
    Option("error", 4, (1,)),
    Option("dontroute", 5),
    Option("broadcast", 6),
    Option("sndbuf", 7, BUFFER),
    Option("rcvbuf", 8, BUFFER),
    Option("keepalive", 9),
    Option("oobinline", 10),
    Option("no-check", 11),
    Option("priority", 12, INTS + RAW),
    Option("linger", 13, LINGER),
    Option("bsdcompat", 14),
    Option("reuseport", 15),
    Option("passcred", 16, (1, 0)),
    Option("peercred", 17, (1,), (1, 4, 12, 16)),
    Option("rcvlowat", 18, (4, 0, -1, 1 << 20, 0x7FFFFFFF, *RAW)),
    Option("sndlowat", 19, (4,)),
    Option("rcvtimeo", 20, TIMES),
    Option("sndtimeo", 21, TIMES),
    Option("bindtodevice", 25, (b"lo", b"lo\0xx", b"", b"eth7\0", b"l", 0, b"\0"), (3, 15, 16, 20)),
    Option("peername", 28, (1,), (1, 8, 16, 20)),
    Option("timestamp", 29),
    Option("acceptconn", 30, (1,)),
    Option("sndbufforce", 32, BUFFER),
    Option("rcvbufforce", 33, BUFFER),
    Option("passsec", 34, (1, 0)),
    Option("timestampns", 35),
    Option("mark", 36, INTS + RAW),
    Option("timestamping", 37, (16, 0, 2, 1 << 10, 8 | 16, 1 << 20, -1, 128, *RAW)),
    Option("protocol", 38, (1,)),
    Option("domain", 39, (1,)),
    Option("rxq-ovfl", 40),
    Option("wifi-status", 41),
    Option("peek-off", 42, (0, 5, -1, -2, 0x7FFFFFFF, *RAW)),
    Option("nofcs", 43),
    Option("select-err-queue", 45),
    Option("busy-poll", 46, (0, 50, -1, 0x7FFFFFFF, *RAW)),
    Option(
        "max-pacing-rate",
        47,
        (1_000_000, 0, -1, -2, struct.pack("=q", 1 << 33), struct.pack("=q", -1), b"\1\0\0\0\1\0", *RAW),
    ),
    Option("incoming-cpu", 49, (1, -1, 0, *RAW), socks="F d F6 d6"),
    Option("cnx-advice", 53, FLAG),
    Option("meminfo", 55, (1,), (1, 4, 8, 36, 40), "F L d F6 d6"),
    Option("incoming-napi-id", 56, (1,), socks="F L d"),
    Option("peergroups", 59, (1,)),
    Option("zerocopy", 60, (1, 0, 2, -1, *RAW)),
    Option("bindtoifindex", 62, (0, -1, 7000, *RAW[:3])),
    Option("timestamp-new", 63),
    Option("timestampns-new", 64),
    Option("timestamping-new", 65, (16, 0, -1, *RAW)),
    Option("rcvtimeo-new", 66, TIMES),
    Option("sndtimeo-new", 67, TIMES),
    Option("detach-reuseport-bpf", 68, FLAG),
    Option("prefer-busy-poll", 69),
    Option("busy-poll-budget", 70, (8, 0, -1, 65535, 65536, *RAW)),
    Option("buf-lock", 72, (1, 2, 3, 0, 4, -1, *RAW)),
    Option("reserve-mem", 73, (0, 4096, -1, *RAW)),
    Option("txrehash", 74, (1, 0, -1, 2, -2, *RAW)),
    Option("rcvmark", 75),
    Option("unknown", 9999, FLAG),
)

TCP = (
    Option("not-tcp", 1, (1,), socks="d d6"),
    Option("nodelay", 1),
    Option("maxseg", 2, (536, 87, 88, 1460, 32767, 32768, 0, -1, *RAW)),
    Option("cork", 3),
    Option("keepidle", 4, (1, 0, 32767, 32768, -1, *RAW)),
    Option("keepintvl", 5, (1, 0, 32767, 32768, -1, *RAW)),
    Option("keepcnt", 6, (1, 0, 127, 128, -1, *RAW)),
    Option("syncnt", 7, (1, 0, 127, 128, -1, *RAW)),
    Option("linger2", 8, (1, 0, 60, 61, 120, 121, 1 << 30, -1, -5, *RAW)),
    Option("defer-accept", 9, (1, 0, 5, 30, 200, 1 << 20, -1, *RAW)),
    Option("window-clamp", 10, (5000, 0, 1, 1 << 20, 0x7FFFFFFF, -1, *RAW)),
    Option("info", 11, (1,), ()),
    Option("quickack", 12, FLAG),
    Option(
        "congestion", 13, (b"reno", b"cubic", b"reno\0x", b"nosuch", b"", b"r" * 20, 1), (2, 4, 8, 16, 20)
    ),
    Option("number-15", 15),
    Option("thin-linear-timeouts", 16, FLAG),
    Option("thin-dupack", 17, FLAG),
    Option("user-timeout", 18, (1000, 0, -1, 0x7FFFFFFF, *RAW)),
    Option("fastopen", 23, (5, 0, -1, 1 << 20, *RAW)),
    Option("notsent-lowat", 25, (1, 0, 4096, -1, 0x7FFFFFFF, *RAW)),
    Option("cc-info", 26, (1,), (4, 20)),
    Option("save-syn", 27, (1, 2, 3, 0, -1, *RAW)),
    Option("saved-syn", 28, (1,), (1, 100, 100)),
    Option("ulp", 31, (b"nosuch", b"", b"n" * 20)),
    Option("fastopen-key", 33, (b"k" * 16, b"k" * 32, b"k" * 15, b"", 1), (4, 16, 20, 32)),
    Option("fastopen-no-cookie", 34, FLAG),
    Option("inq", 36, FLAG),
    Option("tx-delay", 37, (1000, 0, -1, *RAW)),
    Option("rto-min-us", 45, (5000, 1, 200_000, 250_000, 0, -1, *RAW)),
    Option("delack-max-us", 46, (5000, 1, 200_000, 250_000, 0, -1, *RAW)),
    Option("unknown", 200, FLAG),
)

BYTES: tuple[Value, ...] = (1, 0, 2, 255, 256, -1, -2, *RAW)
IP = (
    Option("tos", 1, (0x10, 0x13, 0, 0xFF, 0x100, -1, 0xB8, *RAW)),
    Option("ttl", 2, BYTES),
    Option("hdrincl", 3),
    Option("options", 4, (b"\1\1\1\0", b"\x44", b"", b"\1" * 41, b"\1"), (1, 4, 8, 40)),
    Option("router-alert", 5),
    Option("recvopts", 6),
    Option("retopts", 7),
    Option("pktinfo", 8),
    Option("mtu-discover", 10, (0, 1, 2, 3, 4, 5, 6, -1, *RAW)),
    Option("recverr", 11),
    Option("recvttl", 12),
    Option("recvtos", 13),
    Option("mtu", 14, (1,)),
    Option("freebind", 15),
    Option("passsec", 18),
    Option("transparent", 19),
    Option("recvorigdstaddr", 20),
    Option("minttl", 21, BYTES),
    Option("nodefrag", 22),
    Option("checksum", 23),
    Option("bind-address-no-port", 24),
    Option("recvfragsize", 25),
    Option("recverr-rfc4884", 26),
    Option("multicast-if", 32, (0, b"\12\0\2\2", b"\12\0\2\3", b"\1")),
    Option("multicast-ttl", 33, BYTES),
    Option("multicast-loop", 34),
    Option("multicast-all", 49),
    Option("unicast-if", 50, (0, 1, -1, b"\0\0\0\1", b"\1")),
    Option("local-port-range", 51, (0, 2000 | 3000 << 16, 3000 | 2000 << 16, 70, 80 << 16, -1, *RAW)),
    Option("protocol", 52, (1,)),
    Option("unknown", 120, FLAG),
)

IPV6 = (
    Option("2292pktinfo", 2),
    Option("2292hoplimit", 8),
    Option("flowinfo", 11),
    Option("unicast-hops", 16, BYTES),
    Option("multicast-if", 17, (0, 1, 7000, -1)),
    Option("multicast-hops", 18, BYTES),
    Option("multicast-loop", 19),
    Option("mtu-discover", 23, (0, 1, 2, 3, 4, 5, 6, -1, *RAW)),
    Option("mtu", 24, (1279, 1280, 1500, 0, -1)),
    Option("recverr", 25),
    Option("v6only", 26),
    Option("multicast-all", 29),
    Option("router-alert", 22, (1, -1)),
    Option("recverr-rfc4884", 31),
    Option("recvpktinfo", 49),
    Option("recvhoplimit", 51),
    Option("dontfrag", 62),
    Option("recvtclass", 66),
    Option("tclass", 67, BYTES),
    Option("autoflowlabel", 70),
    Option("minhopcount", 73, BYTES),
    Option("recvorigdstaddr", 74),
    Option("transparent", 75),
    Option("unicast-if", 76, (0, 1, -1, b"\0\0\0\1")),
    Option("recvfragsize", 77),
    Option("freebind", 78),
    Option("unknown", 120, FLAG),
)

UDP = (
    Option("segment", 103, (1400, 0, 1, 65535, 65536, -1, *RAW)),
    Option("gro", 104),
)

LEVELS: dict[str, tuple[int, tuple[Option, ...]]] = {
    "socket": (1, SOCKET),
    "tcp": (6, TCP),
    "ip": (0, IP),
    "ipv6": (41, IPV6),
    "udp": (17, UDP),
}
_MAKE = {
    "F": newsocket("F"),
    "d": newsocket("d", datagram=True),
    "F6": newsocket("F6", v6=True),
    "d6": newsocket("d6", v6=True, datagram=True),
}


def _of(level: str, number: int, option: Option) -> Stimulus:
    socks = option.socks.split()
    if level == "tcp" and option.socks == ALL:
        socks = STREAMS
    make = [_MAKE[sock] for sock in socks if sock in _MAKE]
    probes = [options(number, option.number, option.values, option.sizes, sock=sock) for sock in socks]
    return stimulus(f"opt-{level}-{option.name}", established(), *make, *probes)


# -- what an option does -------------------------------------------------------------------------------------------

SOL, TCP_LEVEL, IP_LEVEL = 1, 6, 0
PEEK, TRUNC = socket.MSG_PEEK, socket.MSG_TRUNC
EST = established()
PEEK_OFF, RCVLOWAT, RCVBUF, WINDOW_CLAMP = 42, 18, 8, 10
RR = b"\x07\x07\x04" + bytes(4) + b"\0"


def asked(*numbers: int, level: int = IP_LEVEL) -> tuple[tuple[int, int, int], ...]:
    return tuple((level, number, 1) for number in numbers)


ZEROCOPY = setopt(SOL, 60, 1)
MSG_ZEROCOPY, ERRQUEUE = 0x4000000, 0x2000
NOTICE = recvmsg(9, 200, ERRQUEUE)
RTO_FIELDS = ("length", "rehash", "total_rto", "total_rto_recoveries", "backoff", "total_retrans", "ca_state")

EFFECTS = [
    stimulus(
        "opt-zerocopy-send",
        EST,
        ZEROCOPY,
        send(b"x" * 2000, MSG_ZEROCOPY, wait=4),
        NOTICE,
        ack(),
        poll(),
        NOTICE,
        NOTICE,
        tcp_early_retrans=0,
    ),
    stimulus(
        "opt-zerocopy-in-a-row",
        EST,
        ZEROCOPY,
        *(send(b"x" * 1448, MSG_ZEROCOPY, wait=4) for _ in range(3)),
        ack(ack=1449),
        NOTICE,
        ack(),
        NOTICE,
        NOTICE,
        send(b"y", MSG_ZEROCOPY, wait=4),
        ack(),
        NOTICE,
        tcp_early_retrans=0,
    ),
    stimulus(
        "opt-zerocopy-joined",
        EST,
        ZEROCOPY,
        *(send(b"x" * 1448, MSG_ZEROCOPY, wait=4) for _ in range(3)),
        ack(),
        NOTICE,
        NOTICE,
        tcp_early_retrans=0,
    ),
    stimulus(
        "opt-zerocopy-unasked",
        EST,
        send(b"x" * 2000, MSG_ZEROCOPY, wait=4),
        ack(),
        poll(),
        NOTICE,
        tcp_early_retrans=0,
    ),
    stimulus("opt-zerocopy-empty", EST, ZEROCOPY, send(b"", MSG_ZEROCOPY), poll(), NOTICE),
    stimulus(
        "opt-zerocopy-reset",
        EST,
        ZEROCOPY,
        send(b"x" * 2000, MSG_ZEROCOPY, wait=4),
        seg("R", seq=1),
        poll(),
        NOTICE,
        NOTICE,
        tcp_early_retrans=0,
    ),
    stimulus(
        "opt-zerocopy-udp",
        datagram(7, (SOL, 60, 1), peer=40000),
        send(b"hello", MSG_ZEROCOPY),
        poll(),
        NOTICE,
        send(b"a", MSG_ZEROCOPY),
        NOTICE,
    ),
    stimulus(
        "opt-info-length",
        EST,
        info("length"),
        info("length", "state", "unacked", "sacked", "snd_cwnd", sock="L"),
    ),
    stimulus(
        "opt-info-timeouts", EST, send(b"x", wait=1000), info(*RTO_FIELDS), ack(wait=8), info(*RTO_FIELDS)
    ),
    stimulus("opt-info-new", EST, newsocket("F"), info(sock="F")),
    stimulus(
        "opt-peek-off",
        EST,
        setopt(SOL, PEEK_OFF, 0),
        ack(b"hello "),
        ack(b"world"),
        *(recv(4, PEEK) for _ in range(4)),
        recv(5),
        getopt(SOL, PEEK_OFF),
        recv(9, PEEK),
        recv(9),
        recv(9, PEEK),
        getopt(SOL, PEEK_OFF),
        ack(b"again"),
        recv(9, PEEK),
        seg("FA", b"!", wait=60),
        *(recv(9, PEEK) for _ in range(3)),
        recv(),
        recv(),
    ),
    stimulus(
        "opt-peek-off-far",
        EST,
        setopt(SOL, PEEK_OFF, 9),
        ack(b"hello"),
        recv(9, PEEK),
        recv(9),
        recv(9, PEEK),
    ),
    stimulus(
        "opt-peek-off-off",
        EST,
        ack(b"hello"),
        setopt(SOL, PEEK_OFF, 2),
        recv(2, PEEK),
        setopt(SOL, PEEK_OFF, -1),
        recv(2, PEEK),
        getopt(SOL, PEEK_OFF),
    ),
    stimulus(
        "opt-peek-off-udp",
        datagram(7, (SOL, PEEK_OFF, 0)),
        udp(7, b"hello"),
        udp(7, b""),
        udp(7, b"world!"),
        *(recv(3, PEEK) for _ in range(6)),
        getopt(SOL, PEEK_OFF),
        recv(2),
        getopt(SOL, PEEK_OFF),
        *(recvmsg(9, 0, PEEK) for _ in range(3)),
        recv(9),
        recv(9),
        recv(9),
        getopt(SOL, PEEK_OFF),
    ),
    stimulus("opt-timestamp-new", datagram(7, (SOL, 63, 1)), udp(7, b"a"), recvmsg(9, 200)),
    stimulus("opt-timestampns-new", datagram(7, (SOL, 64, 1)), udp(7, b"a"), recvmsg(9, 200)),
    stimulus("opt-timestamping-new", datagram(7, (SOL, 65, 8 | 16)), udp(7, b"a"), recvmsg(9, 200)),
    stimulus(
        "opt-timestamp-both", datagram(7, (SOL, 35, 1), (SOL, 65, 8 | 16)), udp(7, b"a"), recvmsg(9, 200)
    ),
    stimulus("opt-rcvmark", datagram(7, (SOL, 75, 1)), udp(7, b"a"), recvmsg(9, 200)),
    stimulus("opt-rxq-ovfl", datagram(7, (SOL, 40, 1)), udp(7, b"a"), recvmsg(9, 200)),
    stimulus("opt-no-check", datagram(7, (SOL, 11, 1), peer=40000), send(b"hello")),
    stimulus(
        "opt-recvorigdstaddr", datagram(7, *asked(20, 8, 12, 13)), udp(7, b"a", tos=0x48), recvmsg(9, 200)
    ),
    stimulus(
        "opt-recvfragsize",
        datagram(7, *asked(25)),
        udp(7, b"a" * 92, frags=((0, 64, True), (64, 100, False))),
        recvmsg(99, 200),
        udp(7, b"a"),
        recvmsg(9, 200),
    ),
    stimulus(
        "opt-recvopts",
        datagram(7, *asked(6)),
        udp(7, b"a", ip_options=RR),
        recvmsg(9, 200),
        udp(7, b"a"),
        recvmsg(9, 200),
    ),
    stimulus("opt-retopts", datagram(7, *asked(7)), udp(7, b"a", ip_options=RR), recvmsg(9, 200)),
    stimulus(
        "opt-recvopts-both",
        datagram(7, *asked(6, 7, 23, 18)),
        udp(7, b"a", ip_options=b"\1\1\1\0"),
        recvmsg(9, 200),
    ),
    stimulus(
        "opt-rcvlowat-grows",
        EST,
        setopt(SOL, RCVLOWAT, 300_000),
        getopt(SOL, RCVLOWAT),
        getopt(SOL, RCVBUF),
        getopt(TCP_LEVEL, WINDOW_CLAMP),
        ack(b"x"),
        poll(),
    ),
    stimulus(
        "opt-rcvlowat-locked",
        EST,
        setopt(SOL, RCVBUF, 20_000),
        setopt(SOL, RCVLOWAT, 300_000),
        getopt(SOL, RCVLOWAT),
        getopt(SOL, RCVBUF),
        getopt(TCP_LEVEL, WINDOW_CLAMP),
        setopt(SOL, 72, 0),
        setopt(SOL, RCVLOWAT, 300_000),
        getopt(SOL, RCVLOWAT),
        getopt(SOL, RCVBUF),
    ),
    stimulus("opt-thin-linear", established((TCP_LEVEL, 16, 1)), send(b"x", wait=2600), ack()),
    stimulus("opt-thin-linear-sysctl", EST, send(b"x", wait=1500), ack(), tcp_thin_linear_timeouts=1),
    stimulus("opt-rto-min-us", EST, setopt(TCP_LEVEL, 45, 40_000), send(b"x", wait=600), ack()),
    stimulus(
        "opt-delack-max-us",
        EST,
        setopt(TCP_LEVEL, 46, 12_000),
        setopt(TCP_LEVEL, 12, 0),
        ack(b"x", wait=80),
        recv(),
    ),
    stimulus(
        "opt-other-level",
        listen(),
        options(77, 1, (1, b""), (4,), sock="L"),
        newsocket("F6", v6=True),
        options(77, 1, (1, b""), (4,), sock="F6"),
    ),
    stimulus(
        "opt-saved-syn-cut",
        established((TCP_LEVEL, 27, 1)),
        *(getopt(TCP_LEVEL, 28, size) for size in (10, 59, 60, 60)),
    ),
]

STIMULI = [
    _of(level, number, option) for level, (number, all_) in LEVELS.items() for option in all_
] + EFFECTS
