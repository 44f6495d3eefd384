# SPDX-License-Identifier: GPL-2.0-or-later
"""An iperf3 server: TCP tests, both directions, parallel streams, limits by time, bytes or blocks.

The protocol, as iperf 3.x speaks it (each direction's integers are big-endian)
------------------------------------------------------------------------------
The client opens a control connection and sends a cookie of 37 bytes (36 characters and a NUL).  From then on the
server leads with single bytes, the states::

    server                          client
    PARAM_EXCHANGE (9)       -->
                             <--    parameters: 4 bytes of length, JSON
    CREATE_STREAMS (10)      -->
                             <--    one more connection per stream, each beginning with the same cookie
    TEST_START (1), TEST_RUNNING (2) -->
           ... data in the streams, the server sending if "reverse" ...
                             <--    TEST_END (4)
           ... the server closes the streams that it sent on ...
    EXCHANGE_RESULTS (13)    -->
                             <--    results: length, JSON
    results                  -->
    DISPLAY_RESULTS (14)     -->
                             <--    IPERF_DONE (16), and it closes

A client that gives up sends CLIENT_TERMINATE (12).  The server refuses with ACCESS_DENIED (-1) while it serves another
client, and ends a test that it cannot do with SERVER_ERROR (-2) and two integers: iperf's error number and an errno.
Streams are numbered 1, 3, 4, 5 ... in the order of their connections; results are matched by that number.

Limits: one test at a time, as the original; MAX_STREAMS streams, a JSON of MAX_JSON bytes, SETUP_S from one step of the
set-up to the next (a client that stops half-way must not lock the others out), MAX_TEST_S for a test.
Left out: UDP and SCTP tests, authentication; a client that asks for them gets SERVER_ERROR.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from vnic.services import tcpinfo

PORT = 5201

TEST_START = 1
TEST_RUNNING = 2
TEST_END = 4
PARAM_EXCHANGE = 9
CREATE_STREAMS = 10
SERVER_TERMINATE = 11
CLIENT_TERMINATE = 12
EXCHANGE_RESULTS = 13
DISPLAY_RESULTS = 14
IPERF_DONE = 16
ACCESS_DENIED = 0xFF  # -1 in a signed byte
SERVER_ERROR = 0xFE  # -2

# iperf's own error numbers (iperf_api.h): what the client prints a sentence for.
IENUMSTREAMS = 6
IEBLOCKSIZE = 7
IEUNIMP = 13
IERECVPARAMS = 114

COOKIE_SIZE = 37
MAX_STREAMS = 128  # as the client
MAX_JSON = 1 << 20
MAX_BLOCK = 1 << 20
SETUP_S = 15.0
MAX_TEST_S = 86400.0
DEFAULT_BLOCK = 128 * 1024
TURN = 4 << 20
_SOURCE = bytes(range(256)) * (MAX_BLOCK // 256)

Transport = asyncio.Transport


class ProtocolError(Exception):
    """The client said what no iperf3 client says, or asks for what is not offered."""

    def __init__(self, reason: str, number: int = IERECVPARAMS) -> None:
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the client asked for, checked."""

    parallel: int
    block: int
    reverse: bool
    bidirectional: bool
    limit: int  # bytes of all streams together; 0 for none
    omit: float
    seconds: float
    rate: float  # bits per second and stream; 0 for unlimited
    wants_output: bool

    @property
    def streams(self) -> int:
        return self.parallel * (2 if self.bidirectional else 1)


def parse_parameters(raw: bytes) -> Parameters:
    """The parameter JSON; ProtocolError if it is none or asks for what can't be done."""
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the parameters are no JSON: {error}") from error
    if not isinstance(told, dict):
        raise ProtocolError("the parameters are no JSON object")
    if told.get("udp") or told.get("sctp") or "authtoken" in told:
        raise ProtocolError("only TCP without authentication is offered", IEUNIMP)
    block = _number(told, "len", DEFAULT_BLOCK) or DEFAULT_BLOCK
    if not 1 <= block <= MAX_BLOCK:
        raise ProtocolError(f"a block of {block} bytes", IEBLOCKSIZE)
    parallel = _number(told, "parallel", 1)
    if not 1 <= parallel <= MAX_STREAMS:
        raise ProtocolError(f"{parallel} streams", IENUMSTREAMS)
    return Parameters(
        parallel=parallel,
        block=block,
        reverse=bool(told.get("reverse")),
        bidirectional=bool(told.get("bidirectional")),
        limit=_number(told, "num", 0) or _number(told, "blockcount", 0) * block,
        omit=float(_number(told, "omit", 0)),
        seconds=float(_number(told, "time", 0)),
        rate=float(_number(told, "bandwidth", 0)),
        wants_output=bool(told.get("get_server_output")),
    )


def _number(told: dict[str, Any], name: str, default: int) -> int:
    value = told.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 62:
        raise ProtocolError(f"{name} is {value!r}")
    return int(value)


class Stream:
    """One data connection: counts what comes, or sends as fast as the transport (or the rate asked for) lets it."""

    def __init__(self, test: Test, transport: Transport, number: int, sends: bool) -> None:
        self.test, self.transport, self.number, self.sends = test, transport, number, sends
        self.bytes = 0
        self.counting_from = 0  # bytes at the end of the omitted part
        self.paused = False
        self.running = False
        self.lost = False  # the connection has ended, ours or the client's doing
        self.retransmits_before = 0
        self._retransmits_at_end: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.running = True
        self.retransmits_before = self.retransmits()
        if self.sends:
            self.feed()

    def stop(self) -> None:
        self.running = False
        if self._timer is not None:
            self._timer.cancel()

    def finish(self) -> None:
        """The time is over.  A sender closes, as the original does: its client may be in a read that waits for the
        rest of a block, and would never come to read what the control connection says."""
        self._retransmits_at_end = self.retransmits()
        self.stop()
        if self.sends:
            self.transport.close()

    def end(self) -> None:
        """Close; what a sender still has queued is of no use to anybody."""
        self.stop()
        if self.lost:
            return
        if self.sends:
            self.transport.abort()
        else:
            self.transport.close()

    def received(self, count: int) -> None:
        if self.running:
            self.bytes += count

    def retransmits(self) -> int:
        if self._retransmits_at_end is not None:
            return self._retransmits_at_end
        return tcpinfo.tcp_info(self.transport).get("tcpi_total_retrans", self.retransmits_before)

    def feed(self) -> None:
        """Write blocks until the transport has enough, the limit is reached or the rate is used up; a client that
        takes them as fast as we write must not keep the loop from everybody else, so TURN bytes are one turn's."""
        block = _SOURCE[: self.test.parameters.block]
        end_of_turn = self.bytes + TURN
        while self.running and not self.paused and not self.transport.is_closing():
            if self.bytes >= end_of_turn:
                asyncio.get_running_loop().call_soon(self.feed)
                return
            room = self.test.room()
            if room == 0 or self._must_wait():
                return
            piece = block if room is None or room >= len(block) else block[:room]
            self.transport.write(piece)
            self.bytes += len(piece)

    def _must_wait(self) -> bool:
        """Pacing: true if this stream is ahead of its rate; it is then fed again when it no longer is."""
        rate = self.test.parameters.rate
        if not rate:
            return False
        ahead = self.bytes * 8 / rate - self.test.elapsed()
        if ahead <= 0:
            return False
        self._timer = asyncio.get_running_loop().call_later(ahead, self.feed)
        return True

    def result(self) -> dict[str, Any]:
        elapsed = max(0.0, self.test.elapsed() - self.test.parameters.omit)
        return {
            "id": self.number,
            "bytes": self.bytes - self.counting_from,
            "retransmits": self.retransmits() - self.retransmits_before if self.sends else -1,
            "jitter": 0,
            "errors": 0,
            "omitted_errors": 0,
            "packets": 0,
            "omitted_packets": 0,
            "start_time": 0,
            "end_time": elapsed,
        }


class Test:
    """One client's test: its control connection and streams."""

    def __init__(self, server: Iperf3Server, cookie: bytes, control: Transport) -> None:
        self.server, self.cookie, self.control = server, cookie, control
        self.state = PARAM_EXCHANGE
        self.parameters = Parameters(1, DEFAULT_BLOCK, False, False, 0, 0.0, 0.0, 0.0, False)
        self.streams: list[Stream] = []
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._began = 0.0
        self._ended: float | None = None
        self._cpu = os.times()
        self._knows_retransmits = False
        self._used_cpu = (0.0, 0.0, 0.0)  # total, user and system, percent of one processor
        self._deadline: asyncio.TimerHandle | None = None
        self._omitting: asyncio.TimerHandle | None = None
        self._enter(PARAM_EXCHANGE, SETUP_S)

    # -- what the streams ask ----------------------------------------------------------------------------------------

    def elapsed(self) -> float:
        """Seconds since the streams were started, up to the end of the test."""
        return (self._loop.time() if self._ended is None else self._ended) - self._began

    def room(self) -> int | None:
        """Bytes that may still be sent; None for no limit (with an omitted part the client alone knows the end)."""
        if not self.parameters.limit or self.parameters.omit:
            return None
        return max(0, self.parameters.limit - sum(stream.bytes for stream in self.streams if stream.sends))

    # -- events ------------------------------------------------------------------------------------------------------

    def control_received(self, data: bytes) -> None:
        """Bytes on the control connection; ends the test when they make no sense."""
        self._buffer += data
        try:
            while self.state and self._step():
                pass
        except ProtocolError as error:
            self._refuse(error)

    def add_stream(self, transport: Transport) -> Stream | None:
        """A further connection with our cookie; None if none is expected."""
        if self.state != CREATE_STREAMS or len(self.streams) >= self.parameters.streams:
            return None
        index = len(self.streams)
        sends = self.parameters.reverse
        if self.parameters.bidirectional:
            sends = index >= self.parameters.parallel
        stream = Stream(self, transport, 1 if index == 0 else index + 2, sends)
        self.streams.append(stream)
        if len(self.streams) == self.parameters.streams:
            self._loop.call_soon(self._start)
        return stream

    def close(self) -> None:
        """End everything; the server is free for the next client."""
        self.state = 0
        for timer in (self._deadline, self._omitting):
            if timer is not None:
                timer.cancel()
        for stream in self.streams:
            stream.end()
        self.control.close()
        self.server.done(self)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _enter(self, state: int, deadline_s: float) -> None:
        """Go to ``state`` and tell the client; it must lead on before the deadline."""
        self.state = state
        self.control.write(bytes([state]))
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(deadline_s, self.close)

    def _step(self) -> bool:
        """Use what lies in the buffer; False if more is needed."""
        if self.state == PARAM_EXCHANGE:
            return self._on_json(self._on_parameters)
        if self.state == EXCHANGE_RESULTS:
            return self._on_json(self._on_results)
        if not self._buffer:
            return False
        said, self._buffer = self._buffer[0], self._buffer[1:]
        if said == TEST_END and self.state == TEST_RUNNING:
            self._end()
        elif said in (IPERF_DONE, CLIENT_TERMINATE):
            self.close()
        else:
            raise ProtocolError(f"state {said} while in state {self.state}")
        return True

    def _on_json(self, use: Callable[[bytes], None]) -> bool:
        if len(self._buffer) < 4:
            return False
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MAX_JSON:
            raise ProtocolError(f"a JSON of {length} bytes")
        if len(self._buffer) < 4 + length:
            return False
        raw, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
        use(raw)
        return True

    def _on_parameters(self, raw: bytes) -> None:
        self.parameters = parse_parameters(raw)
        self._enter(CREATE_STREAMS, SETUP_S)

    def _start(self) -> None:
        if self.state != CREATE_STREAMS:
            return
        self._enter(TEST_START, SETUP_S)
        patience = self.parameters.seconds + self.parameters.omit + SETUP_S
        self._enter(TEST_RUNNING, min(patience, MAX_TEST_S) if self.parameters.seconds else MAX_TEST_S)
        self._began, self._cpu = self._loop.time(), os.times()
        if self.parameters.omit:
            self._omitting = self._loop.call_later(self.parameters.omit, self._end_of_omission)
        for stream in self.streams:
            stream.start()

    def _end_of_omission(self) -> None:
        for stream in self.streams:
            stream.counting_from = stream.bytes
            stream.retransmits_before = stream.retransmits()

    def _end(self) -> None:
        self._ended = self._loop.time()
        self._used_cpu = _cpu_percent(self._cpu, os.times())
        self._knows_retransmits = any(
            "tcpi_total_retrans" in tcpinfo.tcp_info(stream.transport) for stream in self.streams
        )
        for stream in self.streams:
            stream.finish()
        self._enter(EXCHANGE_RESULTS, SETUP_S)

    def _on_results(self, raw: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            self.server.last_client_results = json.loads(raw)
        own = json.dumps(self.results()).encode()
        self.control.write(struct.pack(">I", len(own)) + own)
        self._enter(DISPLAY_RESULTS, SETUP_S)

    def results(self) -> dict[str, Any]:
        """What the client prints as the server's side."""
        total, user, system = self._used_cpu
        sends = any(stream.sends for stream in self.streams)
        told: dict[str, Any] = {
            "cpu_util_total": total,
            "cpu_util_user": user,
            "cpu_util_system": system,
            "sender_has_retransmits": int(self._knows_retransmits) if sends else -1,
            "congestion_used": "cubic",
            "streams": [stream.result() for stream in self.streams],
        }
        if self.parameters.wants_output:
            told["server_output_text"] = self._output(told)
        return told

    def _output(self, told: dict[str, Any]) -> str:
        lines = ["vnic iperf3 server"]
        for stream, result in zip(self.streams, told["streams"], strict=True):
            seconds = max(result["end_time"], 1e-6)
            role = "sender" if stream.sends else "receiver"
            mbits = result["bytes"] * 8 / seconds / 1e6
            rate = f"{result['bytes']} Bytes  {mbits:.1f} Mbits/sec"
            lines.append(f"[{stream.number:3}] 0.00-{seconds:.2f} sec  {rate}  {role}")
        return "\n".join(lines) + "\n"

    def _refuse(self, error: ProtocolError) -> None:
        self.server.last_error = str(error)
        self.control.write(bytes([SERVER_ERROR]) + struct.pack(">ii", error.number, 0))
        self.close()


def _cpu_percent(before: os.times_result, after: os.times_result) -> tuple[float, float, float]:
    elapsed = max(after.elapsed - before.elapsed, 1e-6)
    user = 100 * (after.user - before.user) / elapsed
    system = 100 * (after.system - before.system) / elapsed
    return user + system, user, system


class Iperf3Server:
    """The listening side: a protocol factory, and at most one test."""

    def __init__(self) -> None:
        self.test: Test | None = None
        self.counters = dict.fromkeys(("tests", "refused_busy", "refused_cookie"), 0)
        self.last_error = ""
        self.last_client_results: Any = None

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self)

    def begin(self, cookie: bytes, control: Transport) -> Test:
        self.counters["tests"] += 1
        self.test = Test(self, cookie, control)
        return self.test

    def done(self, test: Test) -> None:
        if self.test is test:
            self.test = None


class _Connection(asyncio.Protocol):
    """Undecided until its cookie is complete, then the control connection or a stream of the test."""

    def __init__(self, server: Iperf3Server) -> None:
        self._server = server
        self._cookie = b""
        self._role: Test | Stream | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(SETUP_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        role = self._role
        if isinstance(role, Stream):
            role.received(len(data))
        elif role is not None:
            role.control_received(bytes(data))
        else:
            self._identify(bytes(data))

    def _identify(self, data: bytes) -> None:
        missing = COOKIE_SIZE - len(self._cookie)
        self._cookie += data[:missing]
        if len(self._cookie) < COOKIE_SIZE or self._transport.is_closing():
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._take_role()
        if len(data) > missing and self._role is not None:
            self.data_received(data[missing:])

    def _take_role(self) -> None:
        test = self._server.test
        if test is None:
            self._role = self._server.begin(self._cookie, self._transport)
            return
        if test.cookie == self._cookie:
            self._role = test.add_stream(self._transport)
        if self._role is None:
            self._deny("refused_cookie" if test.cookie == self._cookie else "refused_busy")

    def _deny(self, counter: str) -> None:
        self._server.counters[counter] += 1
        self._transport.write(bytes([ACCESS_DENIED]))
        self._transport.close()

    def pause_writing(self) -> None:
        if isinstance(self._role, Stream):
            self._role.paused = True

    def resume_writing(self) -> None:
        if isinstance(self._role, Stream):
            self._role.paused = False
            self._role.feed()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        role = self._role
        if isinstance(role, Stream):
            role.stop()
            role.lost = True
        elif role is not None and role.state:
            role.close()
