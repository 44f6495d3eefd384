# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket calls in states that they are not for, and what poll() says there."""

from __future__ import annotations

import socket

from tests.differential.script import (
    Step,
    accept,
    ack,
    call,
    close,
    datagram,
    established,
    getopt,
    ioctl,
    listen,
    newsocket,
    poll,
    recv,
    recvmsg,
    seg,
    send,
    shutdown,
    stimulus,
    syn,
    udp,
    wait,
)

EST = established()
F, D = newsocket("F"), newsocket("d", datagram=True)
RD, WR, RDWR = socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR
OOB, PEEK, ERRQUEUE, WAITALL = socket.MSG_OOB, socket.MSG_PEEK, 0x2000, socket.MSG_WAITALL
ANY, PEER = "0.0.0.0", "10.0.2.15"
SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, ATMARK = 0x541B, 0x5411, 0x894B, 0x8905
SO_ERROR = getopt(socket.SOL_SOCKET, socket.SO_ERROR)


def bind(sock: str, port: int, host: str = ANY) -> Step:
    return call("bind", (host, port), sock=sock)


def connect(sock: str, port: int = 9, host: str = PEER) -> Step:
    return call("connect", (host, port), sock=sock)


def again(sock: str, backlog: int = 5) -> Step:
    """listen() on a socket that is there."""
    return call("listen", backlog, sock=sock)


def everything(sock: str) -> tuple[Step, ...]:
    """Calls that change nothing where they fail, and what a reader and a writer hear."""
    return (
        poll(sock),
        recv(9, sock=sock),
        recvmsg(0, sock=sock),
        recv(9, PEEK, sock=sock),
        recv(9, OOB, sock=sock),
        recv(9, ERRQUEUE, sock=sock),
        *(ioctl(request, sock) for request in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, ATMARK)),
        accept(sock, into="none"),
        shutdown(3, sock),
        shutdown(-1, sock),
        send(b"", sock=sock),
        send(b"x", sock=sock),
        poll(sock),
    )


STIMULI = [
    # a stream that is nothing yet
    stimulus("state-new", F, *everything("F")),
    stimulus(
        "state-new-shutdown", F, shutdown(RD, "F"), poll("F"), shutdown(WR, "F"), poll("F"), recv(9, sock="F")
    ),
    stimulus(
        "state-new-shutdown-both",
        F,
        shutdown(RDWR, "F"),
        poll("F"),
        send(b"x", sock="F"),
        bind("F", 80),
        again("F"),
        poll("F"),
    ),
    stimulus("state-new-listen", F, again("F"), poll("F"), again("F", 0), accept("F", into="x")),
    stimulus("state-bound", F, bind("F", 90), bind("F", 90), bind("F", 91), *everything("F")),
    stimulus("state-bound-elsewhere", F, bind("F", 90, "10.9.9.9"), bind("F", 90, "10.0.2.2"), bind("F", 90)),
    stimulus(
        "state-bound-to-broadcast", F, bind("F", 90, "255.255.255.255"), D, bind("d", 90, "255.255.255.255")
    ),
    stimulus("state-bound-to-group", F, bind("F", 90, "224.0.0.1"), D, bind("d", 90, "224.0.0.1")),
    stimulus("state-bound-in-use", listen(), F, bind("F", 80), bind("F", 81), again("F")),
    stimulus("state-bound-in-use-closed", listen(), F, close("L"), bind("F", 80), again("F")),
    # a listener
    stimulus("state-listen", listen(), *everything("L")),
    stimulus(
        "state-listen-again",
        listen(0),
        again("L", 3),
        bind("L", 81),
        *(seg("S", mss=1460, sport=40000 + i) for i in range(2)),
    ),
    stimulus("state-listen-connect", listen(), connect("L"), poll("L")),
    stimulus(
        "state-listen-shutdown-wr", listen(), shutdown(WR, "L"), poll("L"), syn(), ack(), accept(), poll()
    ),
    stimulus(
        "state-listen-shutdown-rd",
        listen(),
        syn(),
        ack(),
        shutdown(RD, "L"),
        poll("L"),
        accept(),
        syn(sport=40001),
    ),
    stimulus(
        "state-listen-shutdown-listen",
        listen(),
        shutdown(RD, "L"),
        again("L"),
        poll("L"),
        syn(),
        ack(),
        accept(),
    ),
    # a connection
    stimulus(
        "state-established",
        EST,
        bind("c", 90),
        again("c"),
        connect("c"),
        accept("c", into="x"),
        *everything("c"),
    ),
    stimulus("state-established-waitall", EST, ack(b"ab"), recv(9, WAITALL), recv(9, WAITALL)),
    stimulus("state-close-wait", EST, seg("FA"), *everything("c"), again("c"), connect("c")),
    stimulus(
        "state-fin-wait-1",
        EST,
        shutdown(WR),
        *everything("c"),
        shutdown(WR),
        shutdown(RD),
        again("c"),
        connect("c"),
        ack(),
    ),
    stimulus(
        "state-fin-wait-2",
        EST,
        shutdown(WR),
        wait(2),
        ack(),
        *everything("c"),
        shutdown(WR),
        shutdown(RDWR),
        poll(),
    ),
    stimulus(
        "state-closing",
        EST,
        shutdown(WR),
        wait(2),
        seg("FA", ack=1),
        *everything("c"),
        shutdown(WR),
        SO_ERROR,
        ack(),
    ),
    stimulus(
        "state-last-ack",
        EST,
        seg("FA"),
        shutdown(WR),
        wait(2),
        *everything("c"),
        shutdown(WR),
        SO_ERROR,
        ack(),
    ),
    stimulus(
        "state-time-wait",
        EST,
        shutdown(WR),
        wait(2),
        ack(),
        seg("FA"),
        *everything("c"),
        shutdown(WR),
        connect("c"),
        again("c"),
    ),
    stimulus(
        "state-closed-by-both",
        EST,
        seg("FA"),
        shutdown(WR),
        wait(2),
        ack(),
        *everything("c"),
        shutdown(WR),
        again("c"),
    ),
    stimulus(
        "state-reset", EST, seg("R"), poll(), SO_ERROR, poll(), *everything("c"), shutdown(WR), again("c")
    ),
    stimulus("state-reset-unread", EST, ack(b"hello"), seg("R"), *everything("c"), SO_ERROR),
    stimulus("state-reset-listen", EST, seg("R"), SO_ERROR, again("c"), poll()),
    stimulus("state-shutdown-rd", EST, ack(b"hello"), shutdown(RD), *everything("c"), shutdown(RD), ack()),
    stimulus("state-shutdown-both", EST, shutdown(RDWR), *everything("c"), shutdown(RDWR), ack()),
    # datagrams
    stimulus("state-datagram", D, *everything("d"), bind("d", 7), bind("d", 8), again("d")),
    stimulus(
        "state-datagram-bound", datagram(7), *everything("c"), udp(7, b"abc"), poll(), ioctl(SIOCINQ), recv(9)
    ),
    stimulus(
        "state-datagram-connected",
        datagram(7, peer=40000),
        *everything("c"),
        connect("c", 40001),
        udp(7, b"x"),
        poll(),
    ),
    stimulus(
        "state-datagram-shutdown-rd",
        datagram(7, peer=40000),
        shutdown(RD),
        poll(),
        udp(7, b"x"),
        poll(),
        recv(9),
    ),
    stimulus(
        "state-datagram-shutdown-wr",
        datagram(7, peer=40000),
        shutdown(WR),
        poll(),
        send(b"x"),
        udp(7, b"x"),
        recv(9),
    ),
    stimulus("state-datagram-shutdown-both", datagram(7, peer=40000), shutdown(RDWR), *everything("c")),
    stimulus("state-datagram-port-zero", D, connect("d", 0), poll("d")),
]
