# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket calls themselves: flags of recv and send, urgent data, poll, ioctl, ancillary data, the error queue."""

from __future__ import annotations

import socket
import struct

from tests.differential.script import (
    Step,
    accept,
    ack,
    close,
    datagram,
    established,
    getopt,
    icmp,
    ioctl,
    listen,
    poll,
    recv,
    recvmsg,
    seg,
    send,
    setopt,
    shutdown,
    stimulus,
    syn,
    udp,
    wait,
)

EST = established()
OOB, PEEK, TRUNC, WAITALL, MORE = (
    socket.MSG_OOB,
    socket.MSG_PEEK,
    socket.MSG_TRUNC,
    socket.MSG_WAITALL,
    0x8000,
)
DONTWAIT, NOSIGNAL, ERRQUEUE, EOR = socket.MSG_DONTWAIT, socket.MSG_NOSIGNAL, 0x2000, socket.MSG_EOR
SOL = socket.SOL_SOCKET
INLINE = setopt(SOL, socket.SO_OOBINLINE, 1)
INQ = setopt(socket.IPPROTO_TCP, 36, 1)
RD, WR, RDWR = socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR
ATMARK, SIOCINQ, SIOCOUTQ, SIOCOUTQNSD = 0x8905, 0x541B, 0x5411, 0x894B
TIMESTAMP, TIMESTAMPNS, TIMESTAMPING = 29, 35, 37
TX_SOFTWARE, RX_SOFTWARE, SOFTWARE, OPT_ID, TX_SCHED, TX_ACK, TSONLY = 2, 8, 16, 128, 256, 512, 2048
OPT_ID_TCP = 1 << 16
ERRORS = tuple(recvmsg(256, 256, ERRQUEUE) for _ in range(3))
MARK = ioctl(ATMARK)


def urgent(data: bytes, urg: int, **fields: object) -> Step:
    return seg("PAU", data, urg=urg, **fields)


def stamps(flags: int) -> Step:
    return setopt(SOL, TIMESTAMPING, flags)


def unreachable(code: int, port: int = 7, sport: int = 40000, kind: int = 3, rest: int = 0) -> Step:
    """An ICMP error about a datagram of the server's from ``port`` to the client's ``sport``."""
    quoted = struct.pack("!HHHH", port, sport, 8 + 5, 0) + b"hello"
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(quoted), 0, 0x4000, 64, 17, 0)
    quoted = header + socket.inet_aton("10.0.2.2") + socket.inet_aton("10.0.2.15") + quoted
    return icmp(kind, code, rest=rest, data=quoted)


IP_RECVERR = 11
RECVERR = (socket.IPPROTO_IP, IP_RECVERR, 1)
UDP_ERR = datagram(7, RECVERR, peer=40000)


def _segmented(size: int, *more: tuple[int, int, object]) -> Step:
    """A connected datagram socket with UDP_SEGMENT."""
    return datagram(7, (17, 103, size), *more, peer=40000)


STIMULI = [
    # flags of recv
    stimulus(
        "sock-recv-peek", EST, ack(b"hello"), recv(3, PEEK), recv(9, PEEK), recv(2), recv(9, PEEK), recv()
    ),
    stimulus("sock-recv-trunc", EST, ack(b"hello"), recv(2, TRUNC), recv(1), recv(9, TRUNC), recv()),
    stimulus("sock-recv-peek-trunc", EST, ack(b"hello"), recv(9, PEEK | TRUNC), recv()),
    stimulus("sock-recv-waitall", EST, ack(b"hello"), recv(9, WAITALL | DONTWAIT), recv(9, WAITALL)),
    stimulus(
        "sock-recv-zero",
        EST,
        recvmsg(0),
        ack(b"hello"),
        recvmsg(0),
        recv(),
        seg("FA", wait=60),
        recvmsg(0),
        recv(),
    ),
    stimulus("sock-recv-empty", EST, recv(), recv(9, PEEK), recv(9, OOB), recv(9, ERRQUEUE)),
    stimulus("sock-recv-listener", listen(), recv(sock="L"), recv(9, OOB, sock="L"), send(b"x", sock="L")),
    stimulus(
        "sock-recv-peek-fin", EST, seg("FA", b"hi", wait=60), recv(9, PEEK), recv(9), recv(9, PEEK), recv(9)
    ),
    stimulus("sock-recv-after-rst", EST, ack(b"hello"), seg("R"), recv(), recv(), recv()),
    stimulus("sock-recv-after-shutdown", EST, ack(b"hello"), shutdown(RD), recv(2), recv(), recv()),
    stimulus("sock-recvmsg-flags", EST, ack(b"hello"), recvmsg(2), recvmsg(9, 0, PEEK), recvmsg(9)),
    # flags of send
    stimulus("sock-send-more", EST, send(b"ab", MORE, wait=30), send(b"cd", wait=4), ack()),
    stimulus("sock-send-more-alone", EST, send(b"ab", MORE, wait=260), ack()),
    stimulus("sock-send-eor", EST, send(b"ab", EOR), send(b"cd", wait=4), ack()),
    stimulus("sock-send-nosignal", EST, shutdown(WR), send(b"x", NOSIGNAL), ack()),
    stimulus("sock-send-empty", EST, send(b""), shutdown(WR), send(b"")),
    stimulus("sock-send-after-rst", EST, seg("R"), send(b"x"), send(b"x"), getopt(SOL, socket.SO_ERROR)),
    # urgent data received
    stimulus("sock-urg-oob", EST, urgent(b"hello!", 6), poll(), recv(9), recv(9, OOB), recv(9, OOB), poll()),
    stimulus("sock-urg-oob-peek", EST, urgent(b"ab", 2), recv(9, OOB | PEEK), recv(9, OOB), recv(9)),
    stimulus("sock-urg-middle", EST, urgent(b"abcdef", 3), MARK, recv(9), MARK, recv(9, PEEK), recv(9), MARK),
    stimulus("sock-urg-first-byte", EST, urgent(b"abc", 1), poll(), MARK, recv(9), MARK, recv(9, OOB)),
    stimulus("sock-urg-only", EST, urgent(b"!", 1), poll(), ioctl(SIOCINQ), recv(9), recv(1, OOB), recv(9)),
    stimulus("sock-urg-inline", EST, INLINE, urgent(b"abc", 2), poll(), recv(9, OOB), recv(9), MARK, recv(9)),
    stimulus("sock-urg-inline-late", EST, urgent(b"abc", 2), INLINE, recv(9), recv(9), recv(9, OOB)),
    stimulus(
        "sock-urg-beyond",
        EST,
        urgent(b"ab", 5),
        poll(),
        recv(9, OOB),
        recv(9),
        ack(b"cdefg"),
        poll(),
        recv(9),
    ),
    stimulus("sock-urg-beyond-oob", EST, urgent(b"ab", 5), ack(b"cdefg"), recv(9, OOB), recv(9), recv(9)),
    stimulus(
        "sock-urg-twice", EST, urgent(b"ab", 2), urgent(b"cd", 2), recv(9, OOB), recv(9), recv(9), recv(9)
    ),
    stimulus(
        "sock-urg-twice-read", EST, urgent(b"ab", 2), recv(9), urgent(b"cd", 2), recv(9), MARK, recv(9, OOB)
    ),
    stimulus("sock-urg-read-then-new", EST, urgent(b"!", 1), urgent(b"?", 1), recv(9, OOB), recv(9), poll()),
    stimulus("sock-urg-older", EST, urgent(b"abcd", 4), urgent(b"xy", 1, seq=1), recv(9, OOB), recv(9)),
    stimulus("sock-urg-in-peek", EST, urgent(b"abcd", 2), recv(9, PEEK), recv(9), recv(9, PEEK), recv(9)),
    stimulus("sock-urg-trunc", EST, urgent(b"abcd", 2), recv(9, TRUNC), recv(9), recv(9, OOB)),
    stimulus(
        "sock-urg-out-of-order",
        EST,
        seg("PAU", b"cd", seq=3, urg=2),
        poll(),
        recv(9, OOB),
        ack(b"ab"),
        recv(9),
    ),
    stimulus("sock-urg-stdurg", EST, urgent(b"abcd", 2), recv(9), recv(9, OOB), recv(9), tcp_stdurg=1),
    stimulus(
        "sock-urg-fin",
        EST,
        seg("FAU", b"abc", urg=3, wait=60),
        poll(),
        recv(9),
        recv(9),
        recv(9, OOB),
        recv(9),
    ),
    stimulus("sock-urg-rst", EST, urgent(b"abc", 3), seg("R"), recv(9, OOB), recv(9)),
    stimulus("sock-urg-zero-pointer", EST, urgent(b"abc", 0), poll(), recv(9), recv(9, OOB)),
    stimulus(
        "sock-urg-inq",
        EST,
        urgent(b"abcdef", 4),
        ioctl(SIOCINQ),
        recv(9),
        ioctl(SIOCINQ),
        recv(9),
        ioctl(SIOCINQ),
    ),
    stimulus(
        "sock-urg-lowat",
        EST,
        setopt(SOL, socket.SO_RCVLOWAT, 4),
        urgent(b"ab", 2),
        poll(),
        ack(b"cd"),
        poll(),
    ),
    stimulus("sock-urg-size-0", EST, urgent(b"ab", 2), recvmsg(0, 0, OOB), recvmsg(9, 0, OOB)),
    # urgent data sent
    stimulus("sock-send-oob", EST, send(b"hello", OOB, wait=4), ack()),
    stimulus("sock-send-oob-behind", EST, send(b"abc"), send(b"!", OOB, wait=4), send(b"def", wait=4), ack()),
    stimulus(
        "sock-send-oob-window",
        established(win=4),
        send(b"abcdefgh", OOB, wait=4),
        ack(win=100, wait=8),
        ack(),
    ),
    stimulus(
        "sock-send-oob-zero-window",
        established(win=0),
        send(b"abc", OOB, wait=320),
        ack(win=100, wait=8),
        ack(),
    ),
    stimulus("sock-send-oob-resent", EST, send(b"ab", OOB, wait=300), ack(), send(b"cd", wait=4), ack()),
    stimulus("sock-send-oob-closed", EST, shutdown(WR), send(b"x", OOB)),
    # poll
    stimulus("sock-poll-listener", listen(), poll("L"), syn(), ack(), poll("L"), accept(), poll("L"), poll()),
    stimulus("sock-poll-data", EST, poll(), ack(b"hello"), poll(), recv(2), poll(), recv(), poll()),
    stimulus("sock-poll-fin", EST, seg("FA"), poll(), recv(), poll(), shutdown(WR), poll()),
    stimulus("sock-poll-rst", EST, seg("R"), poll(), recv(), poll(), getopt(SOL, socket.SO_ERROR)),
    stimulus("sock-poll-shutdown-wr", EST, shutdown(WR), poll(), wait(3), ack(), poll(), seg("FA"), poll()),
    stimulus("sock-poll-shutdown-rd", EST, shutdown(RD), poll(), ack(b"x"), poll(), recv()),
    stimulus("sock-poll-shutdown-both", EST, shutdown(RDWR), poll(), wait(3), ack(), seg("FA"), poll()),
    stimulus(
        "sock-poll-lowat", EST, setopt(SOL, socket.SO_RCVLOWAT, 4), ack(b"abc"), poll(), ack(b"d"), poll()
    ),
    stimulus(
        "sock-poll-lowat-fin", EST, setopt(SOL, socket.SO_RCVLOWAT, 4), seg("FA", b"abc"), poll(), recv()
    ),
    stimulus(
        "sock-poll-send-full",
        established(win=0),
        setopt(SOL, socket.SO_SNDBUF, 2304),
        *(step for _ in range(2) for step in (send(b"x" * 4000), poll())),
    ),
    stimulus(
        "sock-poll-notsent",
        established(win=0),
        setopt(socket.IPPROTO_TCP, 25, 100),
        send(b"x" * 40),
        poll(),
        send(b"x" * 20),
        poll(),
        send(b"x" * 50),
        poll(),
        send(b"x" * 50),
    ),
    stimulus(
        "sock-poll-syn-flags", listen(), syn(), poll("L"), ack(b"early"), poll("L"), accept(), poll(), recv()
    ),
    # shutdown
    stimulus("sock-shutdown-listener-rd", listen(), shutdown(RD, "L"), poll("L"), accept(), syn()),
    stimulus("sock-shutdown-listener-wr", listen(), shutdown(WR, "L"), poll("L"), syn(), ack(), accept()),
    stimulus("sock-shutdown-bad", EST, shutdown(3), shutdown(-1), poll()),
    stimulus(
        "sock-shutdown-rd-wr", EST, shutdown(RD), shutdown(WR), wait(3), poll(), ack(), seg("FA"), recv()
    ),
    stimulus("sock-shutdown-closed", EST, seg("R"), shutdown(RD), shutdown(RDWR), poll(), recv()),
    stimulus(
        "sock-shutdown-time-wait",
        EST,
        shutdown(WR),
        wait(3),
        seg("FA"),
        shutdown(WR),
        poll(),
        recv(),
        send(b"x"),
    ),
    # ioctl
    stimulus(
        "sock-inq",
        EST,
        ioctl(SIOCINQ),
        ack(b"hello"),
        ioctl(SIOCINQ),
        recv(2),
        ioctl(SIOCINQ),
        seg("FA"),
        ioctl(SIOCINQ),
    ),
    stimulus(
        "sock-outq",
        established(win=4),
        send(b"abcdef"),
        ioctl(SIOCOUTQ),
        ioctl(SIOCOUTQNSD),
        ack(),
        ioctl(SIOCOUTQ),
    ),
    stimulus(
        "sock-outq-fin", EST, send(b"abc"), shutdown(WR), wait(3), ioctl(SIOCOUTQ), ack(), ioctl(SIOCOUTQ)
    ),
    stimulus(
        "sock-ioctl-listener", listen(), *(ioctl(n, "L") for n in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, ATMARK))
    ),
    stimulus("sock-ioctl-unknown", EST, ioctl(0x5499), ioctl(0x54FE)),
    # ancillary data
    stimulus(
        "sock-inq-cmsg", EST, INQ, ack(b"hello"), recvmsg(2, 64), recvmsg(9, 64), seg("FA"), recvmsg(9, 64)
    ),
    stimulus("sock-inq-cmsg-fin", EST, INQ, seg("FA", b"hello", wait=60), recvmsg(5, 64), recvmsg(5, 64)),
    stimulus(
        "sock-inq-cmsg-room",
        EST,
        INQ,
        ack(b"hello"),
        recvmsg(1, 0),
        recvmsg(1, 16),
        recvmsg(1, 18),
        recvmsg(1, 20),
    ),
    stimulus(
        "sock-inq-getopt",
        EST,
        getopt(6, 36),
        INQ,
        getopt(6, 36),
        setopt(6, 36, 2),
        setopt(6, 36, 0),
        getopt(6, 36),
    ),
    stimulus(
        "sock-timestamp",
        EST,
        setopt(SOL, TIMESTAMP, 1),
        ack(b"hello"),
        recvmsg(9, 64),
        getopt(SOL, TIMESTAMP),
    ),
    stimulus(
        "sock-timestampns",
        EST,
        setopt(SOL, TIMESTAMPNS, 1),
        ack(b"hello"),
        recvmsg(9, 64),
        getopt(SOL, TIMESTAMPNS),
    ),
    stimulus(
        "sock-timestamp-both",
        EST,
        setopt(SOL, TIMESTAMPNS, 1),
        setopt(SOL, TIMESTAMP, 1),
        ack(b"a"),
        recvmsg(9, 64),
    ),
    stimulus(
        "sock-timestamping-rx",
        EST,
        stamps(RX_SOFTWARE | SOFTWARE),
        ack(b"hello"),
        recvmsg(2, 99),
        recvmsg(9, 99),
    ),
    stimulus(
        "sock-timestamping-tx",
        EST,
        stamps(TX_SOFTWARE | SOFTWARE),
        send(b"hello", wait=4),
        poll(),
        *ERRORS,
        poll(),
    ),
    stimulus(
        "sock-timestamping-all",
        EST,
        stamps(TX_SOFTWARE | TX_SCHED | TX_ACK | SOFTWARE | OPT_ID | TSONLY),
        send(b"hello", wait=4),
        ack(),
        *ERRORS,
        recvmsg(9, 99, ERRQUEUE),
    ),
    stimulus(
        "sock-timestamping-id",
        EST,
        send(b"before", wait=4),
        ack(),
        stamps(TX_ACK | SOFTWARE | OPT_ID | TSONLY),
        send(b"abc", wait=4),
        send(b"defgh", wait=4),
        ack(),
        *ERRORS,
    ),
    stimulus(
        "sock-timestamping-id-tcp",
        EST,
        send(b"before", wait=4),
        stamps(TX_ACK | SOFTWARE | OPT_ID | OPT_ID_TCP | TSONLY),
        send(b"abc", wait=4),
        ack(),
        *ERRORS[:2],
    ),
    stimulus(
        "sock-timestamping-data", EST, stamps(TX_ACK | SOFTWARE), send(b"hello", wait=4), ack(), *ERRORS[:2]
    ),
    stimulus(
        "sock-timestamping-part",
        EST,
        stamps(TX_ACK | SOFTWARE | OPT_ID | TSONLY),
        send(b"x" * 3000, wait=4),
        ack(ack=1449),
        *ERRORS[:1],
        ack(ack=3001),
        *ERRORS[:2],
    ),
    stimulus(
        "sock-timestamping-resent",
        EST,
        stamps(TX_SOFTWARE | SOFTWARE | OPT_ID | TSONLY),
        send(b"x", wait=300),
        ack(),
        *ERRORS,
    ),
    stimulus(
        "sock-timestamping-bad",
        EST,
        stamps(1 << 20),
        stamps(OPT_ID_TCP),
        stamps(-1),
        getopt(SOL, TIMESTAMPING),
    ),
    stimulus("sock-timestamping-listener", listen(), setopt(SOL, TIMESTAMPING, OPT_ID, sock="L")),
    # errors
    stimulus("sock-error-icmp", EST, icmp(3, 1, seq=1), poll(), getopt(SOL, socket.SO_ERROR), recv()),
    stimulus(
        "sock-error-icmp-recverr",
        EST,
        setopt(*RECVERR),
        send(b"x"),
        icmp(3, 1, seq=1),
        poll(),
        recv(),
        *ERRORS[:1],
        getopt(SOL, socket.SO_ERROR),
        wait(3),
        ack(),
    ),
    stimulus(
        "sock-error-cleared",
        EST,
        ack(b"x"),
        seg("R"),
        getopt(SOL, socket.SO_ERROR),
        getopt(SOL, socket.SO_ERROR),
        recv(),
        recv(),
    ),
    # datagrams
    stimulus(
        "sock-udp-recv",
        datagram(7),
        udp(7, b"hello"),
        ioctl(SIOCINQ),
        recvmsg(2, 0, PEEK),
        recv(2, TRUNC),
        recvmsg(),
    ),
    stimulus("sock-udp-cut", datagram(7), udp(7, b"hello"), udp(7, b"next"), recvmsg(2), recvmsg(9)),
    stimulus(
        "sock-udp-poll", datagram(7), poll(), udp(7, b"hello"), poll(), recv(), poll(), shutdown(RDWR), poll()
    ),
    stimulus(
        "sock-udp-shutdown",
        datagram(7, peer=40000),
        shutdown(RDWR),
        poll(),
        recv(),
        send(b"x"),
        udp(7, b"x"),
        recv(),
    ),
    stimulus("sock-udp-oob", datagram(7, peer=40000), send(b"x", OOB), udp(7, b"hi"), recv(9, OOB)),
    stimulus(
        "sock-udp-outq",
        datagram(7, peer=40000),
        send(b"x"),
        ioctl(SIOCOUTQ),
        ioctl(SIOCOUTQNSD),
        ioctl(ATMARK),
    ),
    stimulus("sock-udp-timestamp", datagram(7, (SOL, TIMESTAMP, 1)), udp(7, b"hi"), recvmsg(9, 99)),
    stimulus(
        "sock-udp-timestamping",
        datagram(7, (SOL, TIMESTAMPING, RX_SOFTWARE | SOFTWARE)),
        udp(7, b"hi"),
        recvmsg(9, 99),
    ),
    stimulus(
        "sock-udp-cmsg",
        datagram(7, (0, socket.IP_RECVTOS, 1), (0, 8, 1), (0, 12, 1)),
        udp(7, b"hi", tos=0x48, ttl=33),
        recvmsg(9, 256),
        udp(7, b"hi"),
        recvmsg(9, 30),
    ),
    stimulus(
        "sock-udp-tx-timestamps",
        datagram(7, (SOL, TIMESTAMPING, TX_SOFTWARE | TX_SCHED | SOFTWARE | OPT_ID | TSONLY), peer=40000),
        send(b"one"),
        send(b"two"),
        poll(),
        *ERRORS,
        *ERRORS[:2],
    ),
    stimulus(
        "sock-udp-tx-data",
        datagram(7, (SOL, TIMESTAMPING, TX_SCHED | SOFTWARE), peer=40000),
        send(b"one"),
        *ERRORS[:2],
    ),
    stimulus("sock-udp-refused", datagram(7, peer=40000), unreachable(3), poll(), recv(), recv()),
    stimulus(
        "sock-udp-recverr", UDP_ERR, send(b"hello"), unreachable(3), poll(), *ERRORS[:2], poll(), recv()
    ),
    stimulus("sock-udp-recverr-first", UDP_ERR, unreachable(3), recv(), *ERRORS[:1], recv()),
    stimulus(
        "sock-udp-recverr-two",
        UDP_ERR,
        unreachable(3),
        unreachable(1),
        *ERRORS[:1],
        recv(),
        *ERRORS[:1],
        recv(),
    ),
    stimulus(
        "sock-udp-recverr-soft", UDP_ERR, unreachable(1), poll(), getopt(SOL, socket.SO_ERROR), *ERRORS[:2]
    ),
    stimulus("sock-udp-recverr-ttl", UDP_ERR, unreachable(0, kind=11), recv(), *ERRORS[:1]),
    stimulus("sock-udp-recverr-mtu", UDP_ERR, unreachable(4, rest=1000), recv(), *ERRORS[:1]),
    stimulus("sock-udp-recverr-cut", UDP_ERR, unreachable(3), recvmsg(2, 40, ERRQUEUE), recv()),
    stimulus("sock-udp-recverr-off", UDP_ERR, unreachable(3), setopt(0, IP_RECVERR, 0), *ERRORS[:1], recv()),
    stimulus(
        "sock-udp-recverr-unconnected", datagram(7, RECVERR), unreachable(3), poll(), recv(), *ERRORS[:1]
    ),
    stimulus(
        "sock-udp-too-long",
        datagram(7, RECVERR, (0, 10, 2), peer=40000),
        send(b"x" * 2000),
        poll(),
        *ERRORS[:2],
    ),
    # datagrams of one size by one call; the guest's card sums no checksums, the TUN device neither
    stimulus("sock-udp-segment", _segmented(1000), send(b"x" * 3001), send(b"y" * 1000), send(b"z" * 7)),
    stimulus("sock-udp-segment-off", _segmented(0), send(b"x" * 1400)),
    stimulus("sock-udp-segment-mtu", _segmented(1472), send(b"x" * 2944)),
    stimulus("sock-udp-segment-above-mtu", _segmented(1473), send(b"x" * 1473), send(b"x" * 100)),
    stimulus("sock-udp-segment-many", _segmented(1), send(b"x" * 20), send(b"x" * 129)),
    stimulus("sock-udp-segment-empty", _segmented(1), send(b"")),
    stimulus("sock-udp-segment-df", _segmented(1000, (0, 10, 2)), send(b"x" * 3001)),
    stimulus("sock-udp-segment-no-pmtu", _segmented(1000, (0, 10, 0)), send(b"x" * 3001)),
    stimulus("sock-udp-segment-no-check", _segmented(1000, (SOL, 11, 1)), send(b"x" * 3001), send(b"x")),
    stimulus("sock-udp-segment-options", _segmented(1464, (0, 4, b"\1" * 8)), send(b"x" * 3001)),
    stimulus("sock-udp-gro", datagram(7, (17, 104, 1)), udp(7, b"hello"), recvmsg(9, 99)),
    # close and linger
    stimulus(
        "sock-linger-on",
        EST,
        setopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0)),
        ack(b"x"),
        close(wait=4),
    ),
    stimulus("sock-accept-twice", listen(), accept(), syn(), accept(), ack(), accept(), accept()),
]
