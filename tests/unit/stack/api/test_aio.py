# SPDX-License-Identifier: GPL-2.0-or-later
"""asyncio's semantics on the stack, against a scripted peer in virtual time."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from aiohttp import web

from stack.api import aio
from stack.api.bsd import SOCK_DGRAM, Socket
from stack.clock import ManualClock

MSEC = 1_000_000
SEC = 1_000_000_000


# -- reading -----------------------------------------------------------------------------------------------------------


def test_listening_handshake_calls_connection_made(world, recorder):
    _, proto = world.opened()
    assert proto.names == ["made"]
    info = proto.transport.get_extra_info
    assert info("peername") == ("10.0.2.15", 40000)
    assert info("sockname") == ("10.0.2.2", 7)
    assert isinstance(info("socket"), Socket)
    assert info("nothing", "default") == "default"
    assert not proto.transport.is_closing()
    assert proto.transport.is_reading()


def test_established_segments_of_one_batch_are_one_read_and_one_ack(world):
    conn, proto = world.opened()
    for _ in range(40):  # beyond the immediate acknowledgements of a new connection
        conn.send("PA", b"warm up")
        world.drain(conn, rounds=1)
    proto.calls.clear()
    for part in (b"a" * 1000, b"b" * 1000, b"c" * 1000):
        conn.send("A", part)
    world.sim.settle()
    world.runner.batch_done()
    assert proto.calls == [("data", b"a" * 1000 + b"b" * 1000 + b"c" * 1000)]
    acks = _segments(world, conn)
    assert len(acks) == 1
    assert acks[0].ack - conn.isn == conn.snd_nxt


def test_established_answer_from_data_received_leaves_within_the_batch(world):
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    world.serve(Echo)
    conn = world.connect()
    conn.send("PA", b"hello")
    world.sim.settle()
    world.runner.batch_done()  # no turn of the loop
    assert b"".join(s.payload for s in _segments(world, conn)) == b"hello"


def test_resumed_clock_goes_on_from_the_frozen_time():
    clock = aio.ResumedClock(5 * SEC)
    first = clock.now_ns()
    assert 5 * SEC <= first < 65 * SEC
    assert clock.now_ns() >= first


def _server(proto: Any) -> aio.Server:
    server = proto.transport._server
    assert isinstance(server, aio.Server)
    return server


def test_adopted_connection_sends_what_waited_and_knows_its_end(world, recorder):
    conn, proto = world.opened(recorder(keep_open=True))
    conn.send("FA", window=0)
    world.settle()
    proto.transport.write(b"a" * 10_000_000)
    proto.transport.write_eof()
    state = proto.transport.freeze()
    assert (state["eof"], state["eof_received"], state["closing"]) == (True, True, False)
    assert len(state["buffer"]) > 2 * 1_000_000
    proto.transport._sk.sk_wq.clear()  # the process that had it is gone
    again = recorder(keep_open=True)
    adopted = _server(proto).adopt(state, again)
    world.settle()
    assert again.names == ["made", "pause"]
    assert adopted.get_write_buffer_size() == len(state["buffer"]) // 2
    assert adopted.get_extra_info("peername") == ("10.0.2.15", 40000)
    with pytest.raises(RuntimeError, match="after write_eof"):
        adopted.write(b"more")


def test_adopted_connection_that_was_closing_closes(world, recorder):
    conn, proto = world.opened()
    conn.send("A", window=0)
    proto.transport.write(b"a" * 10_000_000)
    proto.transport.close()
    state = proto.transport.freeze()
    again = recorder()
    assert _server(proto).adopt(state, again).is_closing()
    with pytest.raises(OSError, match="not connected"):
        _server(proto).adopt({**state, "fd": _server(proto).sockets[0].fileno()}, again)


def _segments(world: Any, conn: Any) -> list[Any]:
    world.sim.settle()
    found = []
    while world.peer.inbox:
        found.append(conn.expect())
    return found


def test_established_pause_reading_leaves_data_in_the_socket(world):
    conn, proto = world.opened()
    proto.transport.pause_reading()
    assert not proto.transport.is_reading()
    conn.send("PA", b"later")
    world.settle()
    assert proto.received == b""
    proto.transport.resume_reading()
    world.settle()
    assert proto.received == b"later"


def test_established_pause_reading_closes_the_window(world):
    conn, proto = world.opened()
    proto.transport.pause_reading()
    sent = 0
    for _ in range(80):
        conn.send("A", b"x" * 1448)
        sent += 1448
        world.sim.run_for(50 * MSEC)
    last = [s for s in _segments(world, conn) if "A" in s.flags][-1]
    assert last.window == 0
    proto.transport.resume_reading()
    world.settle()
    assert 60_000 < len(proto.received) < sent
    assert _segments(world, conn)[-1].window > 0


def test_established_fin_ends_with_eof_and_close(world):
    conn, proto = world.opened()
    conn.send("PFA", b"bye")
    world.settle()
    assert proto.calls == [("made",), ("data", b"bye"), ("eof",), ("lost", None)]
    assert "F" in "".join(s.flags for s in _segments(world, conn))


def test_established_fin_with_eof_received_true_stays_open_for_writing(world, recorder):
    conn, proto = world.opened(recorder(keep_open=True))
    conn.send("FA")
    world.settle()
    assert proto.names == ["made", "eof"]
    proto.transport.write(b"still here")
    assert world.drain(conn) == b"still here"
    proto.transport.close()
    world.settle()
    assert proto.calls[-1] == ("lost", None)
    assert proto.names.count("eof") == 1


def test_established_reset_by_peer_is_connection_lost_with_the_error(world):
    conn, proto = world.opened()
    conn.send("RA")
    world.settle()
    assert proto.names == ["made", "lost"]
    assert isinstance(proto.calls[-1][1], ConnectionResetError)
    assert not world.errors


def test_established_data_then_reset_delivers_the_data_first(world):
    conn, proto = world.opened()
    conn.send("PA", b"last words")
    conn.send("RA")
    world.settle()
    assert proto.received == b"last words"
    assert isinstance(proto.calls[-1][1], ConnectionResetError)


def test_data_received_raising_is_reported_and_ends_the_connection(world, recorder):
    class Broken(recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    conn, proto = world.opened(Broken())
    conn.send("PA", b"x")
    world.settle()
    assert [type(context["exception"]) for context in world.errors] == [ZeroDivisionError]
    assert proto.names == ["made", "lost"]
    assert isinstance(proto.calls[-1][1], ZeroDivisionError)


def test_eof_received_raising_is_reported_and_ends_the_connection(world, recorder):
    class Broken(recorder):
        def eof_received(self) -> bool | None:
            raise ZeroDivisionError

    conn, proto = world.opened(Broken())
    conn.send("FA")
    world.settle()
    assert isinstance(proto.calls[-1][1], ZeroDivisionError)
    assert len(world.errors) == 1


def test_buffered_protocol_gets_data_in_its_own_buffer(world):
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(4)
            self.got: list[bytes] = []
            self.eof = False

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.got.append(bytes(self.buffer[:nbytes]))

        def eof_received(self) -> None:
            self.eof = True

    proto = Buffered()
    world.serve(lambda: proto)
    conn = world.connect()
    conn.send("PFA", b"abcdefghij")
    world.settle()
    assert proto.got == [b"abcd", b"efgh", b"ij"]
    assert proto.eof


def test_get_buffer_empty_is_a_reported_error(world):
    class Buffered(asyncio.BufferedProtocol):
        lost: BaseException | None = None

        def get_buffer(self, sizehint: int) -> bytearray:
            return bytearray()

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost = exc

    proto = Buffered()
    world.serve(lambda: proto)
    conn = world.connect()
    conn.send("PA", b"x")
    world.settle()
    assert isinstance(proto.lost, RuntimeError)
    assert len(world.errors) == 1


def test_set_protocol_moves_the_stream_to_the_new_one(world, recorder):
    conn, first = world.opened()
    second = recorder()
    conn.send("PA", b"one")
    world.settle()
    first.transport.set_protocol(second)
    assert first.transport.get_protocol() is second
    conn.send("PA", b"two")
    world.settle()
    assert (first.received, second.received) == (b"one", b"two")


# -- writing -----------------------------------------------------------------------------------------------------------


def test_established_write_reaches_the_peer(world):
    conn, proto = world.opened()
    proto.transport.write(b"abc")
    proto.transport.writelines([b"de", bytearray(b"f"), memoryview(b"g")])
    assert world.drain(conn) == b"abcdefg"


def test_established_long_writelines_keeps_order(world):
    conn, proto = world.opened()
    pieces = [bytes([i]) * 9000 for i in range(5)]
    proto.transport.writelines(pieces)
    assert world.drain(conn) == b"".join(pieces)


def test_write_more_than_the_send_buffer_pauses_then_resumes(world):
    conn, proto = world.opened()
    data = bytes(range(256)) * 4096  # 1 MiB
    proto.transport.write(data)
    assert proto.names == ["made", "pause"]
    assert 64 * 1024 < proto.transport.get_write_buffer_size() < len(data)
    assert world.drain(conn, rounds=4000) == data
    assert proto.names == ["made", "pause", "resume"]
    assert proto.transport.get_write_buffer_size() == 0


def test_write_bytearray_may_be_changed_afterwards(world):
    conn, proto = world.opened()
    data = bytearray(b"a" * 500_000)
    proto.transport.write(data)
    data[:] = b"b" * 500_000
    assert world.drain(conn, rounds=2000) == b"a" * 500_000


def test_write_buffer_limits_decide_about_pausing(world):
    _, proto = world.opened()
    proto.transport.set_write_buffer_limits(high=4_000_000)
    proto.transport.write(bytes(1_000_000))
    assert proto.names == ["made"]
    assert proto.transport.get_write_buffer_limits() == (1_000_000, 4_000_000)


def test_write_of_text_is_a_type_error(world):
    _, proto = world.opened()
    with pytest.raises(TypeError, match="bytes-like"):
        proto.transport.write("text")


def test_write_eof_sends_fin_and_reading_goes_on(world):
    conn, proto = world.opened()
    assert proto.transport.can_write_eof()
    proto.transport.write(b"all")
    proto.transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        proto.transport.write(b"more")
    flags = ""
    got = b""
    for segment in _segments(world, conn):
        flags += segment.flags
        got += segment.payload
    assert got == b"all"
    assert flags.count("F") == 1
    conn.send("PA", b"heard")
    world.settle()
    assert proto.received == b"heard"


def test_write_eof_with_a_full_buffer_sends_fin_after_it(world):
    conn, proto = world.opened()
    proto.transport.write(bytes(700_000))
    proto.transport.write_eof()
    got = world.drain(conn, rounds=2000)
    assert len(got) == 700_000
    assert conn.rcv_nxt == 1 + 700_000 + 1  # SYN, data, FIN


def test_write_after_reset_is_dropped_quietly(world):
    conn, proto = world.opened()
    conn.send("RA")
    world.settle()
    proto.transport.write(b"into the void")
    world.settle()
    assert proto.names == ["made", "lost"]
    assert proto.transport.get_write_buffer_size() == 0
    assert not world.errors


# -- closing -----------------------------------------------------------------------------------------------------------


def test_close_sends_fin_and_calls_connection_lost_later_and_once(world):
    conn, proto = world.opened()
    proto.transport.close()
    assert proto.names == ["made"]  # never from inside the call
    assert proto.transport.is_closing()
    world.settle()
    proto.transport.close()
    proto.transport.abort()
    world.settle()
    assert proto.calls == [("made",), ("lost", None)]
    assert "F" in "".join(s.flags for s in _segments(world, conn))


def test_close_with_a_full_buffer_flushes_it_first(world):
    conn, proto = world.opened()
    data = bytes(range(256)) * 4000
    proto.transport.write(data)
    proto.transport.close()
    world.settle()
    assert proto.calls[-1] == ("pause",)
    assert world.drain(conn, rounds=3000) == data
    world.settle()
    assert proto.calls[-1] == ("lost", None)


def test_close_stops_reading(world):
    conn, proto = world.opened()
    proto.transport.write(bytes(1_000_000))
    proto.transport.close()
    conn.send("PA", b"too late")
    world.settle()
    assert proto.received == b""


def test_abort_with_unsent_data_resets(world):
    conn, proto = world.opened()
    proto.transport.write(bytes(1_000_000))
    proto.transport.abort()
    world.settle()
    assert proto.calls[-1] == ("lost", None)
    assert _segments(world, conn)[-1].flags in ("RA", "R")


def test_abort_with_nothing_unsent_closes_in_order(world):
    conn, proto = world.opened()
    proto.transport.abort()
    world.settle()
    assert [s.flags for s in _segments(world, conn)][-1] == "FA"
    assert proto.calls[-1] == ("lost", None)


def test_closed_socket_gives_its_descriptor_back(world):
    _, proto = world.opened()
    before = len(world.net.files.fdt)
    proto.transport.close()
    world.settle()
    assert len(world.net.files.fdt) == before - 1
    assert proto.transport.get_extra_info("tcp_info") is None


def test_tcp_info_of_an_open_connection_tells_its_state(world):
    _, proto = world.opened()
    info = proto.transport.get_extra_info("tcp_info")
    assert info["tcpi_state"] == 1
    assert info["tcpi_snd_mss"] == 1448


def test_proc_net_of_an_open_connection_shows_the_stacks_counters(world):
    _, proto = world.opened()
    files = proto.transport.get_extra_info("proc_net")
    assert set(files) == {"snmp", "netstat", "sockstat"}
    assert "PassiveOpens AttemptFails" in files["snmp"]
    assert files["sockstat"].splitlines()[1].startswith("TCP: inuse 2 ")


# -- servers -----------------------------------------------------------------------------------------------------------


def test_server_on_a_taken_port_is_address_in_use(world):
    world.serve(asyncio.Protocol)
    with pytest.raises(OSError, match=r"10\.0\.2\.2:7.*in use") as caught:
        world.serve(asyncio.Protocol)
    assert caught.value.errno == errno.EADDRINUSE


def test_server_on_a_foreign_address_is_not_available(world):
    with pytest.raises(OSError, match="no device of this stack") as caught:
        world.run(aio.create_server(world.runner, asyncio.Protocol, "10.9.9.9", 7))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert not world.net.files.fdt


def test_server_without_start_serving_refuses_until_told(world):
    server = world.serve(asyncio.Protocol, start_serving=False)
    conn = world.peer.tcp(dport=7)
    conn.send("S", mss=1460)
    assert conn.expect("RA", ack=1)
    assert not server.is_serving()
    world.run(server.start_serving())
    assert server.is_serving()
    world.connect(sport=40001)


def test_server_close_keeps_connections_and_wait_closed_waits_for_them(world):
    recorder_of: list[Any] = []

    class Once(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            recorder_of.append(transport)

    server = world.serve(Once)
    world.connect()
    server.close()
    assert server.sockets == ()
    waiter = world.loop.create_task(server.wait_closed())
    world.settle()
    assert not waiter.done()
    refused = world.peer.tcp(dport=7, sport=40001)
    refused.send("S", mss=1460)
    refused.expect("RA")
    server.close_clients()
    world.settle()
    assert waiter.done()
    assert recorder_of[0].is_closing()


def test_server_close_resets_who_was_not_accepted(world):
    server = world.serve(asyncio.Protocol)
    conn = world.peer.tcp(dport=7)
    conn.handshake()  # the loop gets no turn: it stays in the accept queue
    server.close()
    world.sim.settle()
    assert conn.expect().flags == "RA"


def test_serve_forever_ends_with_close(world):
    server = world.serve(asyncio.Protocol)
    task = world.loop.create_task(server.serve_forever())
    world.settle()
    assert not task.done()
    server.close()
    world.settle()
    assert task.cancelled()


def test_factory_raising_is_reported_and_the_next_connection_is_served(world, recorder):
    made: list[Any] = []

    def factory() -> asyncio.Protocol:
        if not made:
            made.append(None)
            raise ZeroDivisionError
        made.append(recorder())
        return made[-1]

    world.serve(factory)
    world.connect()
    assert [type(context["exception"]) for context in world.errors] == [ZeroDivisionError]
    assert "F" in world.peer.expect().flags
    world.connect(sport=40001)
    assert made[1].names == ["made"]


def test_factory_raising_does_not_keep_those_behind_it_waiting(world, recorder):
    made: list[Any] = [ZeroDivisionError, recorder(), recorder()]
    factory = iter(list(made))

    def make() -> asyncio.Protocol:
        one = next(factory)
        if one is ZeroDivisionError:
            raise one
        return one  # type: ignore[no-any-return]

    world.serve(make)
    for sport in (40000, 40001, 40002):
        world.peer.tcp(dport=7, sport=sport).handshake()
    world.settle()
    assert [proto.names for proto in made[1:]] == [["made"], ["made"]]


def test_accept_out_of_descriptors_is_reported(world):
    world.serve(asyncio.Protocol)
    world.net.files.max_fds = world.net.files.next_fd
    world.connect()
    assert [context["exception"].errno for context in world.errors] == [errno.EMFILE]


# -- unchanged programs ------------------------------------------------------------------------------------------------


def test_stream_handler_echoes_lines(world):
    done: list[bool] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        done.append(True)

    world.run(aio.start_server(world.runner, handler, "10.0.2.2", 7))
    conn = world.connect()
    conn.send("PA", b"one\ntw")
    assert world.drain(conn) == b"ONE\n"
    conn.send("PA", b"o\n")
    assert world.drain(conn) == b"TWO\n"
    conn.send("FA")
    world.drain(conn)
    assert done == [True]


def test_stream_handler_that_does_not_read_stops_at_twice_its_limit(world):
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.get_running_loop().create_future()

    server = world.run(aio.start_server(world.runner, handler, "10.0.2.2", 7, limit=1000))
    conn = world.connect()
    for _ in range(5):
        conn.send("PA", b"x" * 1000)
        world.settle()
    (transport,) = server._transports
    assert not transport.is_reading()
    for task in asyncio.all_tasks(world.loop):
        task.cancel()
    world.settle()


def test_aiohttp_server_answers_a_request(world):
    async def handler(request: Any) -> Any:
        return web.Response(text=f"you are {request.remote}")

    async def start() -> Any:
        server = web.Server(handler)
        return await aio.create_server(world.runner, server, "10.0.2.2", 80)

    world.run(start())
    conn = world.connect(port=80)
    conn.send("PA", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = world.drain(conn)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"you are 10.0.2.15")


def test_loop_sendfile_sends_a_file(world, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    conn, proto = world.opened()
    with path.open("rb") as file:
        task = world.loop.create_task(world.loop.sendfile(proto.transport, file))
        got = b""
        for _ in range(2000):
            got += world.drain(conn, rounds=20)
            if task.done():
                break
            world.run(asyncio.sleep(0))
        assert task.result() == 256_000
    assert got + world.drain(conn) == path.read_bytes()
    assert proto.transport.get_protocol() is proto


# -- datagrams ---------------------------------------------------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[Any] = []
        self.lost: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.got.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def test_datagram_endpoint_receives_and_answers(world):
    transport, proto = world.run(aio.create_datagram_endpoint(world.runner, Datagrams, ("10.0.2.2", 53)))
    assert transport.get_extra_info("sockname") == ("10.0.2.2", 53)
    world.peer.send_udp("10.0.2.2", 5000, 53, b"question")
    world.settle()
    assert proto.got == [(b"question", ("10.0.2.15", 5000))]
    transport.sendto(b"answer", ("10.0.2.15", 5000))
    world.settle()
    world.peer.expect_udp(53, 5000, b"answer")


def test_datagram_broadcast_needs_permission(world):
    _, proto = world.run(
        aio.create_datagram_endpoint(world.runner, Datagrams, ("0.0.0.0", 67), device="eth0")
    )
    proto.transport.sendto(b"x", ("255.255.255.255", 68))
    assert isinstance(proto.got[0], PermissionError)


def test_datagram_broadcast_without_a_device_has_no_route(world):
    _, proto = world.run(
        aio.create_datagram_endpoint(world.runner, Datagrams, ("0.0.0.0", 67), allow_broadcast=True)
    )
    proto.transport.sendto(b"x", ("255.255.255.255", 68))
    assert [exc.errno for exc in proto.got] == [errno.ENETUNREACH]


def test_datagram_broadcast_leaves_by_the_bound_device(world):
    _, proto = world.run(
        aio.create_datagram_endpoint(
            world.runner, Datagrams, ("0.0.0.0", 67), allow_broadcast=True, device="eth0"
        )
    )
    proto.transport.sendto(b"offer", ("255.255.255.255", 68))
    world.settle()
    assert world.sim.frames[-1].data[:6] == b"\xff" * 6
    assert world.sim.frames[-1].data.endswith(b"offer")


def test_datagram_received_raising_is_reported_and_the_endpoint_goes_on(world):
    class Stumbling(Datagrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"bad":
                raise ValueError("not mine")

    reports: list[Any] = []
    world.loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
    _, proto = world.run(aio.create_datagram_endpoint(world.runner, Stumbling, ("10.0.2.2", 53)))
    world.peer.send_udp("10.0.2.2", 5000, 53, b"bad")
    world.peer.send_udp("10.0.2.2", 5000, 53, b"good")
    world.settle()
    assert [data for data, _ in proto.got] == [b"bad", b"good"]
    assert [str(exc) for exc in reports] == ["not mine"]
    assert not proto.lost


def test_datagram_close_calls_connection_lost_once(world):
    transport, proto = world.run(aio.create_datagram_endpoint(world.runner, Datagrams, ("10.0.2.2", 53)))
    transport.close()
    assert proto.lost == []
    transport.abort()
    world.settle()
    assert proto.lost == [None]
    assert not world.net.files.fdt


# -- the runner --------------------------------------------------------------------------------------------------------


class TimerLoop:
    """Notes what is armed, in place of an event loop."""

    def __init__(self) -> None:
        self.armed: list[float] = []
        self.cancelled = 0

    def call_at(self, when: float, call: Any) -> Any:
        self.armed.append(when)
        self.call = call
        return self

    def cancel(self) -> None:
        self.cancelled += 1


class OnlyTime:
    """A Stack reduced to what a Runner asks of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.deadline: int | None = None
        self.ran = 0

    def next_deadline(self) -> int | None:
        return self.deadline

    def run_timers(self) -> int:
        self.ran += 1
        return 0

    def rx_done(self) -> None: ...


def test_runner_rearms_only_for_an_earlier_deadline():
    loop, stack = TimerLoop(), OnlyTime()
    runner = aio.Runner(stack, loop, timers=True)  # type: ignore[arg-type]
    for deadline in (None, 40 * MSEC, 200 * MSEC, 10 * MSEC):
        stack.deadline = deadline
        runner.batch_done()
    assert loop.armed == [0.04, 0.01]
    assert loop.cancelled == 1
    stack.deadline = SEC
    loop.call()
    assert stack.ran == 1
    assert loop.armed[-1] == 1.0


def test_runner_with_a_manual_clock_arms_nothing():
    loop, stack = TimerLoop(), OnlyTime()
    stack.deadline = 1
    aio.Runner(stack, loop).batch_done()  # type: ignore[arg-type]
    assert loop.armed == []


def test_runner_flushes_after_what_a_task_sent(world):
    flushed: list[bool] = []
    world.runner.flush = lambda: flushed.append(True)
    _, proto = world.opened()
    flushed.clear()
    proto.transport.write(b"x")
    assert flushed == []
    world.loop.call_soon(world.loop.stop)
    world.loop.run_forever()
    assert flushed == [True]


def test_runner_closed_has_told_protocols_and_peers_and_does_no_more(world):
    flushed: list[bool] = []
    conn, proto = world.opened()
    world.runner.flush = lambda: flushed.append(True)
    proto.transport.close()
    world.runner.close()
    world.runner.close()
    assert proto.calls[-1] == ("lost", None)
    assert flushed == [True]
    assert _segments(world, conn)[-1].flags == "FA"
    world.runner.post(lambda: proto.calls.append(("never",)))
    world.loop.call_soon(world.loop.stop)
    world.loop.run_forever()
    assert proto.calls[-1] == ("lost", None)


def test_system_rng_draws_below_its_ceiling():
    rng = aio.SystemRng()
    draws = [rng.get_random_u32_below(3) for _ in range(400)]
    assert set(draws) == {0, 1, 2}
    assert len(rng.get_random_bytes(5000)) == 5000
    assert rng.get_random_bytes(16) != rng.get_random_bytes(16)
    with pytest.raises(ValueError, match="empty"):
        rng.get_random_u32_below(0)


def test_bsd_socket_in_a_protocol_takes_options(world):
    _, proto = world.opened()
    sock = proto.transport.get_extra_info("socket")
    assert sock.getsockopt(6, 1) == 1  # TCP_NODELAY, as asyncio sets it
    sock.setsockopt(1, 9, True)
    assert sock.getsockopt(1, 9) == 1
    assert sock.type != SOCK_DGRAM
