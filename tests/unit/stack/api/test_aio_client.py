# SPDX-License-Identifier: GPL-2.0-or-later
"""asyncio clients on a Stack: open_connection, create_connection, sock_connect."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any

import pytest

from stack.api.aio import create_connection, open_connection, sock_connect
from stack.api.bsd import Socket
from stack.api.sim import SEC, RawTcp

SERVER = ("10.0.2.15", 80)


def begin(world: Any, coroutine: Coroutine[Any, Any, Any]) -> tuple[asyncio.Task[Any], RawTcp]:
    """Let a client connect until its SYN is out; its task and the raw server."""
    task = world.loop.create_task(coroutine)
    world.settle()
    syn = world.peer.expect_segment()
    conn = world.peer.tcp(syn.sport, sport=80)
    conn.irs, conn.rcv_nxt = syn.seq, 1
    return task, conn


def test_open_connection_reads_and_writes(world: Any) -> None:
    task, conn = begin(world, open_connection(world.runner, *SERVER))
    conn.send("SA", mss=1460)
    world.settle()
    conn.expect("A", seq=1, ack=1)
    reader, writer = task.result()
    assert writer.get_extra_info("peername") == SERVER
    writer.write(b"question")
    world.settle()
    assert conn.expect("PA", seq=1).payload == b"question"
    conn.send("PA", b"answer")
    conn.send("FA")
    world.settle()
    assert world.run(reader.read()) == b"answer"
    writer.close()
    world.settle()


def test_create_connection_calls_the_protocol(world: Any, recorder: type[Any]) -> None:
    task, conn = begin(
        world, create_connection(world.runner, recorder, *SERVER, local_addr=("10.0.2.2", 5000))
    )
    assert conn.dport == 5000
    conn.send("SA", mss=1460)
    world.settle()
    transport, protocol = task.result()
    conn.expect("A")
    conn.send("R")
    world.settle()
    assert protocol.names == ["made", "lost"]
    assert isinstance(protocol.calls[1][1], ConnectionResetError)
    assert transport.is_closing()


def test_open_connection_refused(world: Any) -> None:
    task, conn = begin(world, open_connection(world.runner, *SERVER))
    conn.send("RA", seq=0)
    world.settle()
    with pytest.raises(ConnectionRefusedError, match=r"connect to 10\.0\.2\.15:80: nobody listens there"):
        task.result()
    assert not world.net.tcp_hashinfo.bhash


def test_open_connection_timed_out(world: Any) -> None:
    task, _ = begin(world, open_connection(world.runner, *SERVER))
    world.pass_time(150 * SEC)
    assert isinstance(task.exception(), TimeoutError)


def test_open_connection_without_a_route(world: Any) -> None:
    with pytest.raises(OSError, match="no route") as caught:
        world.run(open_connection(world.runner, "192.0.2.1", 80))
    assert caught.value.errno == errno.ENETUNREACH


def test_open_connection_cancelled_lets_go_of_the_port(world: Any) -> None:
    task, conn = begin(world, open_connection(world.runner, *SERVER))
    task.cancel()
    world.settle()
    assert task.cancelled()
    assert not world.net.tcp_hashinfo.bhash
    conn.send("SA", mss=1460)
    world.settle()
    conn.expect("R", seq=1)


def test_sock_connect_waits_for_a_connection_that_was_begun(world: Any) -> None:
    """As asyncio does, to which EALREADY is a BlockingIOError like EINPROGRESS."""
    sock = Socket(world.net)
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    task, conn = begin(world, sock_connect(world.runner, sock, SERVER))
    assert not task.done()
    conn.send("SA", mss=1460)
    world.settle()
    assert task.done()
    assert task.exception() is None
    assert sock.getpeername() == SERVER


def test_create_connection_without_address(world: Any, recorder: type[Any]) -> None:
    with pytest.raises(ValueError, match="needs a host"):
        world.run(create_connection(world.runner, recorder))


# -- Fast Open -------------------------------------------------------------------------------------------------------

COOKIE = b"\x22\x0achocchip\x01\x01"


def learn_a_cookie(world: Any) -> None:
    """A first connection with ``fastopen``, on which the server gives a cookie."""
    task, conn = begin(world, open_connection(world.runner, *SERVER, fastopen=True))
    conn.send("SA", mss=1460, options=COOKIE)
    world.settle()
    conn.expect("A", seq=1)
    _, writer = task.result()
    writer.close()
    world.settle()
    conn.expect("FA")
    conn.send("R")


def test_open_connection_with_fastopen_sends_the_first_write_with_the_syn(world: Any) -> None:
    learn_a_cookie(world)
    reader, writer = world.run(open_connection(world.runner, *SERVER, fastopen=True))
    world.peer.expect_nothing()
    assert writer.get_extra_info("peername") == SERVER
    writer.write(b"question")
    world.settle()
    syn = world.peer.expect_segment()
    assert (syn.flags, syn.payload) == ("S", b"question")
    conn = world.peer.tcp(syn.sport, sport=80)
    conn.irs, conn.rcv_nxt = syn.seq, 9
    conn.send("SA", b"answer", mss=1460)
    world.settle()
    assert conn.expect(seq=9, ack=7).payload == b""
    assert world.run(reader.read(100)) == b"answer"
    writer.write(b"more")
    world.settle()
    assert conn.expect("PA", seq=9).payload == b"more"


def test_open_connection_with_fastopen_more_than_a_syn_takes(world: Any) -> None:
    learn_a_cookie(world)
    _, writer = world.run(open_connection(world.runner, *SERVER, fastopen=True))
    data = bytes(range(256)) * 10
    writer.write(data)
    world.settle()
    syn = world.peer.expect_segment()
    assert syn.payload == data[:1420]
    conn = world.peer.tcp(syn.sport, sport=80)
    conn.irs, conn.rcv_nxt = syn.seq, 1 + 1420
    conn.send("SA", mss=1460)
    world.settle()
    conn.expect("A", seq=1421)
    assert conn.expect("PA", seq=1421).payload == data[1420:]


def test_create_connection_with_fastopen_refused_is_told_by_connection_lost(
    world: Any, recorder: type[Any]
) -> None:
    learn_a_cookie(world)
    transport, protocol = world.run(create_connection(world.runner, recorder, *SERVER, fastopen=True))
    transport.write(b"question")
    world.settle()
    syn = world.peer.expect_segment()
    conn = world.peer.tcp(syn.sport, sport=80)
    conn.irs, conn.rcv_nxt = syn.seq, 9
    conn.send("RA", seq=0)
    world.settle()
    assert protocol.names == ["made", "lost"]
    assert isinstance(protocol.calls[1][1], ConnectionRefusedError)


# -- what else can go wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [(0, errno.ENETUNREACH), (1, errno.EHOSTUNREACH), (3, errno.ECONNREFUSED), (13, errno.EHOSTUNREACH)],
)
def test_open_connection_icmp_unreachable(world: Any, code: int, error: int) -> None:
    task = world.loop.create_task(open_connection(world.runner, *SERVER))
    world.settle()
    syn = world.peer.expect_segment()
    world.peer.send_icmp("10.0.2.2", 3, code, 0, syn.packet.frame.data[14 : 14 + 28])
    world.settle()
    assert isinstance(task.exception(), OSError)
    assert task.exception().errno == error


def test_open_connection_host_without_a_link_address(world: Any) -> None:
    task = world.loop.create_task(open_connection(world.runner, "10.0.2.77", 80))
    world.settle()
    world.pass_time(5 * SEC)
    assert task.exception().errno == errno.EHOSTUNREACH
