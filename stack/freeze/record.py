# SPDX-License-Identifier: GPL-2.0-or-later
"""A run written down call by call, to be run again in virtual time: ``Recorder`` and ``Replay``.

Theory of operation
-------------------
A Stack is a function of its state, of the calls that are made on it, and of what clock and random numbers say.  So a
recording is a frozen stack, then each call with its arguments and with every reading of the clock during it, then the
frozen stack at the end.  Random numbers come from a seeded generator, whose state is part of the frozen one.

The calls are those of the two sides of a stack: frames and time (``netif_rx``, ``rx_done``, ``run_timers``,
``next_deadline``: an adapter and a Runner make them on the recorder instead of the stack) and sockets (the sys_* calls
of net/socket.c, and what transports call through ``sock.ops`` directly).  For the latter the recorder puts its own
functions into these tables while it runs; other stacks of the process pass through them.  Only the outermost call is
written, and what an application reads of the stack without a call is not.

A line is one JSON value:

    {"format": "vnic recording", "version": 1, "state": "..."}      a frozen stack as text
    {"blob": 3, "bytes": "..."}                                     data that is used more than once
    ["netif_rx", ["eth0", {"bytes": "..."}, 0, 0, 0, 0, 0], [123456789], 0, 0]
    {"end": "...", "readings": [...]}                               a frozen stack; missing if the run was cut short

A call has its name, arguments, readings of the clock in ns (those of the time of day are negative), its result (an int,
the length of bytes, or null), and the CRC-32 of the frames that left so far: replaying stops at the first call at which
one of these is another.

The file grows by twice the bytes that come in.  A program that chooses listeners (``Socket.attach_reuseport``) and
hooks are not recorded.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

from stack.clock import Clock
from stack.freeze.errors import FreezeError
from stack.freeze.reader import frozen_time, thaw
from stack.freeze.writer import freeze
from stack.include.netdevice import IFF_LOOPBACK, NETDEV_TX_OK, net_device
from stack.include.sk_buff import sk_buff
from stack.net import socket as net_socket
from stack.net.core.skbuff import skb_linear_bytes
from stack.net.ipv4 import af_inet
from stack.net.ipv6 import af_inet6
from stack.rng import SeededRng
from stack.stack import Stack

FORMAT: Final = "vnic recording"
VERSION: Final = 1

STACK_CALLS: Final = ("netif_rx", "rx_done", "run_timers", "next_deadline")
SYS_CALLS: Final = tuple(name for name in vars(net_socket) if name.startswith("sys_"))
SOCKET_CALLS: Final = ("getsockopt", "poll", "recvmsg", "sendmsg", "setsockopt", "shutdown")
_TABLES: Final = (
    af_inet.inet_stream_ops,
    af_inet.inet_dgram_ops,
    af_inet6.inet6_stream_ops,
    af_inet6.inet6_dgram_ops,
)
_BLOB_FROM: Final = 4096  # bytes; what is shorter is written where it is used
_BLOBS_KEPT: Final = 16

# Directions of a frame, as pcapng has them: to the stack, from the stack
INBOUND: Final = 1
OUTBOUND: Final = 2

Xmit = Callable[[sk_buff, net_device], int]
Seen = Callable[[int, bytes], None]


class _Listening:
    """A clock that writes down what it says during a call; the time of day as a negative number."""

    def __init__(self, clock: Clock) -> None:
        self.inner = clock
        self.readings: list[int] | None = None

    def now_ns(self) -> int:
        now = self.inner.now_ns()
        if self.readings is not None:
            self.readings.append(now)
        return now

    def real_ns(self) -> int:
        real = self.inner.real_ns()
        if self.readings is not None:
            self.readings.append(-real)
        return real


class _Blobs:
    """Data that is written once and referred to: long ``bytes``, and views of the end of such (what is left to send of
    a piece is one)."""

    def __init__(self, write: Callable[[Any], None]) -> None:
        self._write = write
        self._kept: dict[int, tuple[int, bytes]] = {}
        self._count = 0

    def told(self, value: Any) -> Any:
        if value is None or isinstance(value, int | float | str):
            return value
        if isinstance(value, tuple):
            return {"tuple": [self.told(one) for one in value]}
        if isinstance(value, bytes | bytearray | memoryview):
            return self._buffer(value)
        raise FreezeError(
            "the application made a call that cannot be recorded",
            f"an argument is {value!r}",
            "record without it: callables and objects of the application have no place in a file",
        )

    def _buffer(self, value: bytes | bytearray | memoryview) -> Any:
        kind = {bytes: "bytes", bytearray: "bytearray", memoryview: "view"}[type(value)]
        base = value.obj if isinstance(value, memoryview) else value
        if not isinstance(base, bytes) or len(base) < _BLOB_FROM or not base.endswith(value):
            return {kind: value.hex()}
        return {kind: self._number(base), "from": len(base) - len(value)}

    def _number(self, base: bytes) -> int:
        known = self._kept.get(id(base))
        if known is None:
            known = self._kept[id(base)] = (self._count, base)
            self._write({"blob": self._count, "bytes": base.hex()})
            self._count += 1
            if len(self._kept) > _BLOBS_KEPT:
                del self._kept[next(iter(self._kept))]
        return known[0]


class _Frames:
    """The CRC-32 of all that left a stack's devices."""

    def __init__(self, seen: Seen | None = None) -> None:
        self.crc = 0
        self._seen = seen

    def tap(self, dev: net_device, then: Xmit | None = None) -> None:
        dev.ndo_start_xmit = partial(self._sent, then)

    def _sent(self, then: Xmit | None, skb: sk_buff, dev: net_device) -> int:
        frame = skb_linear_bytes(skb)
        head = f"{dev.name} {skb.ip_summed} {skb.gso_size} {skb.gso_type} ".encode()
        self.crc = zlib.crc32(head + frame, self.crc)
        if self._seen is not None:
            self._seen(OUTBOUND, frame)
        return NETDEV_TX_OK if then is None else then(skb, dev)


def _devices(net: Stack) -> Iterator[net_device]:
    return (dev for dev in net.devices.values() if not dev.flags & IFF_LOOPBACK)


def _result(value: Any) -> int | None:
    if isinstance(value, tuple):
        value = value[0]
    if isinstance(value, bytes | memoryview | bytearray):
        return len(value)
    return value if isinstance(value, int) else None


# -- recording --------------------------------------------------------------------------------------------------------


class Recorder:
    """Records a stack from now on, between calls, until ``close``; ``write`` gets the lines.  Its methods stand for the
    stack's of the same name: whoever feeds the stack calls these.  ``seed`` is the state of the generator of random
    numbers, 64 bits from a good source, unless the stack has a seeded one."""

    def __init__(self, net: Stack, write: Callable[[str], Any], seed: int = 0) -> None:
        self.net = net
        self._write = write
        if not isinstance(net.rng, SeededRng):
            net.rng = SeededRng(seed)
        self._line({"format": FORMAT, "version": VERSION, "state": freeze(net)})
        self._clock = net.clock = _Listening(net.clock)
        self._blobs = _Blobs(self._line)
        self._frames = _Frames()
        for dev in _devices(net):
            self._frames.tap(dev, dev.ndo_start_xmit)
        self._descriptors: dict[int, int] = {}  # by id of the socket, as it was when last needed
        self._replaced: list[tuple[Any, str, Any]] = []
        self._replace_tables()

    def _line(self, value: Any) -> None:
        self._write(json.dumps(value, separators=(",", ":")) + "\n")

    def _replace_tables(self) -> None:
        for name in SYS_CALLS:
            self._replace(net_socket, name, partial(self._sys_call, name, getattr(net_socket, name)))
        for table in _TABLES:
            for name in SOCKET_CALLS:
                self._replace(table, name, partial(self._socket_call, name, getattr(table, name)))

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        self._replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, function)

    def close(self) -> None:
        """The state at the end, and everything as it was before, but for the generator.  A second call does nothing."""
        if not self._replaced:
            return
        for owner, name, function in reversed(self._replaced):
            setattr(owner, name, function)
        self._replaced.clear()
        readings: list[int] = []
        self._clock.readings = readings
        text = freeze(self.net)
        self._line({"end": text, "readings": readings})
        self.net.clock = self._clock.inner

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(self, name: str, arguments: Iterable[Any], function: Callable[..., Any], *given: Any) -> Any:
        """Make a call and write it down; what is called meanwhile is part of it."""
        if self._clock.readings is not None or not self._replaced:
            return function(*given)
        told = [self._blobs.told(one) for one in arguments]
        readings: list[int] = []
        self._clock.readings = readings
        result = None
        try:
            result = function(*given)
        finally:
            self._clock.readings = None
            self._line([name, told, readings, _result(result), self._frames.crc])
        return result

    def _sys_call(self, name: str, function: Callable[..., Any], net: Stack, *arguments: Any) -> Any:
        if net is not self.net:
            return function(net, *arguments)
        return self._call(name, arguments, function, net, *arguments)

    def _socket_call(self, name: str, function: Callable[..., Any], sock: Any, *arguments: Any) -> Any:
        if sock.net is not self.net or self._clock.readings is not None:
            return function(sock, *arguments)
        return self._call(name, (self._descriptor(sock), *arguments), function, sock, *arguments)

    def _descriptor(self, sock: Any) -> int:
        fdt = self.net.files.fdt
        file = fdt.get(self._descriptors.get(id(sock), -1))
        if file is None or file.private_data is not sock:
            self._descriptors = {id(file.private_data): fd for fd, file in fdt.items()}
        return self._descriptors.get(id(sock), -1)

    def netif_rx(
        self,
        dev: net_device,
        frame: bytes,
        *,
        csum_start: int = 0,
        csum_offset: int = 0,
        ip_summed: int = 0,
        gso_size: int = 0,
        gso_type: int = 0,
    ) -> int:
        offloads = {
            "csum_start": csum_start,
            "csum_offset": csum_offset,
            "ip_summed": ip_summed,
            "gso_size": gso_size,
            "gso_type": gso_type,
        }
        call = partial(self.net.netif_rx, dev, frame, **offloads)
        taken: int = self._call("netif_rx", (dev.name, frame, *offloads.values()), call)
        return taken

    def rx_done(self) -> None:
        self._call("rx_done", (), self.net.rx_done)

    def run_timers(self, now_ns: int | None = None) -> int:
        fired: int = self._call("run_timers", (now_ns,), self.net.run_timers, now_ns)
        return fired

    def next_deadline(self) -> int | None:
        deadline: int | None = self._call("next_deadline", (), self.net.next_deadline)
        return deadline

    def device_changed(self, dev: net_device) -> None:
        """The adapter has set what the device can do."""
        self._call("device_changed", (dev.name, dev.features, dev.gso_max_size), _nothing)


def _nothing() -> None:
    pass


# -- replaying --------------------------------------------------------------------------------------------------------


class _Remembering:
    """A clock that says what a recorded one said, and between calls what it said last."""

    def __init__(self, now_ns: int) -> None:
        self.readings: Iterator[int] | None = None
        self.now = now_ns
        self.real = 0  # not known before it was asked for

    def now_ns(self) -> int:
        if self.readings is not None:
            self.now = self._next()
        return self.now

    def real_ns(self) -> int:
        if self.readings is not None:
            self.real = -self._next()
        return self.real

    def _next(self) -> int:
        assert self.readings is not None
        for reading in self.readings:
            return reading
        raise _differs("the stack looks at the clock more often than it did")


def _differs(evidence: str) -> FreezeError:
    return FreezeError(
        "the replayed run is not the recorded one",
        evidence,
        "replay with the version of vnic that recorded; if it was this one, report it with the file",
    )


def _damaged(evidence: str) -> FreezeError:
    return FreezeError(
        "the recording is damaged", evidence, "record again, or take an undamaged copy of the file"
    )


class Replay:
    """Runs a recording again, from its lines.  ``seen(direction, frame)``, if set, is told of each frame.

    replay = Replay(open(path))
    replay.run()            # FreezeError where something else happens than what was recorded
    replay.net, replay.calls, replay.complete
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.seen: Seen | None = None
        head = _json(next(self._lines, ""))
        if not isinstance(head, dict) or head.get("format") != FORMAT or head.get("version") != VERSION:
            raise FreezeError(
                "this is no recording",
                f"its first line has no format {FORMAT!r}, version {VERSION}",
                "name another file",
            )
        state = str(head.get("state"))
        self._clock = _Remembering(frozen_time(state))
        self.began_ns = self._clock.now
        self.net = thaw(state, self._clock).stack
        self.calls = 0
        self.complete = False
        self._frames = _Frames(self._told)
        for dev in _devices(self.net):
            self._frames.tap(dev)
        self._blobs: dict[int, bytes] = {}

    @property
    def now_ns(self) -> int:
        """What the clock said last."""
        return self._clock.now

    def _told(self, direction: int, frame: bytes) -> None:
        if self.seen is not None:
            self.seen(direction, frame)

    def run(self, calls: int | None = None) -> None:
        """All of it, or so many calls; ``complete`` says whether the end was there and its state was the same."""
        for line in self._lines:
            entry = _json(line)
            if isinstance(entry, list):
                self._call(entry)
                if self.calls == calls:
                    return
            elif isinstance(entry, dict) and "blob" in entry:
                self._blobs[entry["blob"]] = bytes.fromhex(entry["bytes"])
            elif isinstance(entry, dict) and "end" in entry:
                self._end(entry)
            else:
                raise _damaged(f"line {line[:60]!r}")

    def _call(self, entry: list[Any]) -> None:
        try:
            name, told, readings, result, crc = entry
            arguments = [self._value(one) for one in told]
            call = self._found(name, arguments)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _damaged(f"call {self.calls + 1}: {error!r}") from error
        self._clock.readings = iter(readings)
        ours = _result(call(*arguments))
        where = f"call {self.calls + 1}, {name}"
        if next(self._clock.readings, None) is not None:
            raise _differs(f"{where}: the stack looks at the clock less often than it did")
        if ours != result:
            raise _differs(f"{where}: it returns {ours}, and returned {result}")
        if self._frames.crc != crc:
            raise _differs(f"{where}: other frames leave than left")
        self._clock.readings = None
        self.calls += 1

    def _found(self, name: Any, arguments: list[Any]) -> Callable[..., Any]:
        """The function of a recorded call; no other can be named."""
        if name in ("netif_rx", "device_changed"):
            arguments[0] = self.net.devices_by_name[arguments[0]]
            return self._netif_rx if name == "netif_rx" else _device_changed
        if name in STACK_CALLS:
            method: Callable[..., Any] = getattr(self.net, name)
            return method
        if name in SYS_CALLS:
            return partial(getattr(net_socket, name), self.net)
        if name in SOCKET_CALLS:
            sock = net_socket.sockfd_lookup_light(self.net, arguments[0])
            if sock is None:
                raise ValueError(f"there is no descriptor {arguments[0]}")
            arguments[0] = sock
            call: Callable[..., Any] = getattr(sock.ops, name)
            return call
        raise ValueError(f"there is no call {str(name)[:40]!r}")

    def _netif_rx(
        self, dev: net_device, frame: bytes, start: int, offset: int, summed: int, size: int, kind: int
    ) -> int:
        self._told(INBOUND, frame)
        return self.net.netif_rx(
            dev, frame, csum_start=start, csum_offset=offset, ip_summed=summed, gso_size=size, gso_type=kind
        )

    def _value(self, told: Any) -> Any:
        if not isinstance(told, dict):
            return told
        if "tuple" in told:
            return tuple(self._value(one) for one in told["tuple"])
        kind = next(iter(told))
        inner = told[kind]
        raw = bytes.fromhex(inner) if isinstance(inner, str) else self._blobs[inner]
        if kind == "view":
            return memoryview(raw)[told.get("from", 0) :]
        return bytearray(raw) if kind == "bytearray" else raw

    def _end(self, entry: dict[str, Any]) -> None:
        self._clock.readings = iter(entry["readings"])
        ours, recorded = freeze(self.net).splitlines(), str(entry["end"]).splitlines()
        if ours != recorded:
            pairs = zip(ours, recorded, strict=False)
            one = next(((a, b) for a, b in pairs if a != b), (f"{len(ours)} lines", f"{len(recorded)} lines"))
            raise _differs(f"the state at the end: {one[0][:100]!r}, and it was {one[1][:100]!r}")
        self._clock.readings = None
        self.complete = True


def _device_changed(dev: net_device, features: int, gso_max_size: int) -> None:
    dev.features, dev.gso_max_size = features, gso_max_size


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise _damaged(f"line {line[:40]!r}: {error}") from None
