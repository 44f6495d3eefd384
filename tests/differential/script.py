# SPDX-License-Identifier: GPL-2.0-or-later
"""What a stimulus is made of: steps as plain data, built by the short functions that the tables use.

A step is something that the raw client sends (``seg``, ``syn``, ``icmp``, ``udp``, ``ip``), a socket call of the
server (``listen``, ``accept``, ``recv``, ``send`` ...) or time that passes (``wait``).  After each step ``wait``
milliseconds pass, in which answers are collected; an answer belongs to the step in which it came.

Sequence numbers are relative: 0 is the SYN of the side that sends.  What a segment does not say is filled in from its
flow (``sport`` of the client, port of the server): ``seq`` is the next unsent byte, ``ack`` what came in order, and a
time stamp once both sides have offered one.  A segment with ``seq`` given leaves the flow's own numbers alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

WAIT_MS = 4.0  # after a segment
FIN_WAIT_MS = 14.0  # after a FIN, whose ACK may wait for two ticks of the kernel's clock
CALL_MS = 2.0  # after a socket call

Value = int | str | tuple[int, ...]  # of a sysctl

# On both sides of every stimulus: a namespace cannot always choose the profile's own congestion control, and reno is
# in every kernel.
COMMON_SYSCTL: dict[str, Value] = {"tcp_congestion_control": "reno"}


@dataclass(frozen=True)
class Step:
    """``kind`` is a method of runner.Run (with ``do_`` before it), ``args`` its arguments."""

    kind: str
    args: dict[str, Any]
    wait: float


@dataclass(frozen=True)
class Stimulus:
    """``sysctl`` are set on both sides (names of /proc/sys/net/ipv4, or core.* or ipv6.*); ``family`` (4 or 6) is that
    of every step that does not say its own."""

    name: str
    steps: tuple[Step, ...]
    sysctl: dict[str, Value] = field(default_factory=dict)
    family: int = 4


Steps = Step | Iterable["Steps"]


def flat(steps: Iterable[Steps]) -> list[Step]:
    out: list[Step] = []
    for step in steps:
        out.extend([step] if isinstance(step, Step) else flat(step))
    return out


def stimulus(name: str, *steps: Steps, **sysctl: Value) -> Stimulus:
    return Stimulus(name, tuple(flat(steps)), _sysctl_names(sysctl))


def stimulus6(name: str, *steps: Steps, **sysctl: Value) -> Stimulus:
    """One over IPv6."""
    return Stimulus(name, tuple(flat(steps)), _sysctl_names(sysctl), 6)


def _sysctl_names(sysctl: dict[str, Value]) -> dict[str, Value]:
    """ "core_somaxconn" stands for core.somaxconn, "ipv6_icmp__ratelimit" for ipv6.icmp.ratelimit."""
    starts = re.compile(r"^(core|ipv6)_")
    return {starts.sub(r"\1.", k).replace("__", "."): v for k, v in sysctl.items()}


# -- what the client sends ---------------------------------------------------------------------------------------------


def seg(flags: str, data: bytes = b"", *, wait: float | None = None, **fields: Any) -> Step:
    """A TCP segment.  Fields: seq, ack, win, urg, mss, wscale, sackok, ts (val, ecr), tsval, ts_off (ecr below the
    last TSval), sack (blocks relative to the server's SYN), opts (raw bytes put first), nots, sport, port, isn, doff,
    cut (bytes kept of the segment), md5 (the key to sign it with, RFC 2385), bad_checksum,
    zero_checksum, frags ((start, end, more) of the IP payload), and
    those of ``ip``.  ``port`` 0 is the one that the server connected from to ``sport``, and an ``ecr`` of None echoes
    its last time stamp."""
    if wait is None:
        wait = FIN_WAIT_MS if "F" in flags else WAIT_MS
    return Step("seg", {"flags": flags, "data": data, **fields}, wait)


FULL = {"mss": 1460, "sackok": True, "ts": (1000, 0), "wscale": 7}


def syn(*, wait: float = WAIT_MS, **fields: Any) -> Step:
    """A SYN with all the usual options; ``bare=True`` for one without any."""
    base = {} if fields.pop("bare", False) else FULL
    return seg("S", wait=wait, **{**base, **fields})


def ack(data: bytes = b"", **fields: Any) -> Step:
    return seg("PA" if data else "A", data, **fields)


def icmp(kind: int, code: int, *, rest: int = 0, wait: float = WAIT_MS, **fields: Any) -> Step:
    """An ICMP message.  ``data`` is its body; without it the body quotes a segment of the server's: fields ``seq``
    (relative), ``quote`` (bytes of it kept), sport, port, qsrc (source of the quoted packet)."""
    return Step("icmp", {"type": kind, "code": code, "rest": rest, **fields}, wait)


def udp(port: int, data: bytes = b"", *, wait: float = WAIT_MS, **fields: Any) -> Step:
    """A datagram.  Fields: sport, checksum ("good", "bad", "none"), length (of the header), frags, those of ``ip``."""
    return Step("udp", {"port": port, "data": data, **fields}, wait)


def ip(proto: int, body: bytes, *, wait: float = WAIT_MS, **fields: Any) -> Step:
    """A packet of the stimulus' family, or of ``family``.  Fields: ttl, tos, src, dst, pad (bytes behind the packet),
    frags; of IPv4 ip_id, frag, ip_options, tot_len, ihl, bad_ip_checksum; of IPv6 label, plen, version, and
    extension headers as (number, bytes, of which the first is filled in): ``ext`` in every fragment, ``inner`` behind
    the fragment header."""
    return Step("ip", {"proto": proto, "body": body, **fields}, wait)


def wait(ms: float) -> Step:
    return Step("nothing", {}, ms)


# -- the server's socket calls -----------------------------------------------------------------------------------------


def _call(name: str, *args: Any, sock: str, wait: float = CALL_MS, **more: Any) -> Step:
    return Step("call", {"name": name, "args": args, "sock": sock, **more}, wait)


def listen(
    backlog: int = 16, port: int = 80, *options: tuple[int, int, Any], sock: str = "L", **family: int
) -> Step:
    """socket(), setsockopt() of each option (level, name, value), bind(), listen()."""
    return Step(
        "listen", {"backlog": backlog, "port": port, "options": options, "sock": sock, **family}, CALL_MS
    )


def datagram(
    port: int, *options: tuple[int, int, Any], peer: int = 0, sock: str = "c", **family: int
) -> Step:
    """A UDP socket with those options on ``port``, connected to the client's port ``peer`` unless that is 0."""
    return Step("datagram", {"port": port, "sock": sock, "peer": peer, "options": options, **family}, CALL_MS)


def call(name: str, *args: Any, sock: str) -> Step:
    """Any other call of Python's socket."""
    return _call(name, *args, sock=sock, wait=0)


def newsocket(sock: str, *, v6: bool = False, datagram: bool = False) -> Step:
    """socket() and nothing more."""
    return Step("newsocket", {"sock": sock, "v6": v6, "dgram": datagram}, 0)


def options(level: int, name: int, values: Iterable[Any], sizes: Iterable[int] = (), sock: str = "c") -> Step:
    """getsockopt() of an option as an int and into a buffer of each size, before and after each setsockopt()."""
    args = {"level": level, "name": name, "values": tuple(values), "sizes": tuple(sizes), "sock": sock}
    return Step("options", args, 0)


def connect(
    port: int = 80, *options: tuple[int, int, Any], bind: int = 0, to: str = "", sock: str = "c"
) -> Step:
    """socket(), setsockopt() of each option, bind() unless ``bind`` is 0, connect() to that port of the client's (of
    ``to`` if given)."""
    return Step("connect", {"port": port, "options": options, "bind": bind, "to": to, "sock": sock}, CALL_MS)


def peer(flags: str, data: bytes = b"", *, port: int = 80, **fields: Any) -> Step:
    """A segment of the listener that the server connects to; fields as in ``seg``."""
    return seg(flags, data, sport=port, port=0, **fields)


def synack(**fields: Any) -> Step:
    """Its SYN-ACK with all the usual options; ``bare=True`` for one without any."""
    base = {} if fields.pop("bare", False) else {**FULL, "ts": (1000, None)}
    return peer("SA", **{**base, **fields})


def connected(*options: tuple[int, int, Any], **fields: Any) -> tuple[Step, ...]:
    """connect() to port 80 and its SYN-ACK, of which ``fields`` are."""
    return (connect(80, *options), synack(**fields))


def again(port: int = 80, sock: str = "c") -> Step:
    """connect() once more."""
    return _call("connect", ("10.0.2.15", port), sock=sock)


def sendto(data: bytes, flags: int = 0, port: int = 80, sock: str = "c", **more: Any) -> Step:
    """Data to that port of the client's; with MSG_FASTOPEN it connects."""
    return _call("sendto", data, flags, ("10.0.2.15", port), sock=sock, **more)


def stream(*options: tuple[int, int, Any], sock: str = "c") -> Step:
    """A TCP socket with those options, neither bound nor connected."""
    return Step("stream", {"options": options, "sock": sock}, CALL_MS)


def accept(sock: str = "L", into: str = "c") -> Step:
    return _call("accept", sock=sock, into=into)


def recv(size: int = 65536, flags: int = 0, sock: str = "c", **more: Any) -> Step:
    return _call("recv", size, flags, sock=sock, **more)


def recvmsg(size: int = 65536, room: int = 0, flags: int = 0, sock: str = "c", **more: Any) -> Step:
    """``room`` bytes for ancillary data."""
    return _call("recvmsg", size, room, flags, sock=sock, **more)


def poll(sock: str = "c") -> Step:
    """What poll(2) says when asked for everything."""
    return _call("poll", sock=sock, wait=0)


def ioctl(request: int, sock: str = "c") -> Step:
    return _call("ioctl", request, sock=sock, wait=0)


def send(data: bytes, flags: int = 0, sock: str = "c", **more: Any) -> Step:
    return _call("send", data, flags, sock=sock, **more)


def close(sock: str = "c", **more: Any) -> Step:
    return _call("close", sock=sock, **more)


def shutdown(how: int, sock: str = "c") -> Step:
    return _call("shutdown", how, sock=sock)


def setopt(level: int, name: int, value: Any, sock: str = "c") -> Step:
    return _call("setsockopt", level, name, value, sock=sock)


def getopt(level: int, name: int, *size: int, sock: str = "c") -> Step:
    """The value as an int, or with ``size`` as so many bytes."""
    return _call("getsockopt", level, name, *size, sock=sock)


# Of struct tcp_info, in the order of the C struct: what follows from the segments and not from the time they took.
INFO_FIELDS = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "snd_mss", "rcv_mss", "unacked",
    "sacked", "lost", "retrans", "fackets", "pmtu", "rcv_ssthresh", "snd_ssthresh", "snd_cwnd", "advmss", "reordering",
    "total_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in", "notsent_bytes", "data_segs_in",
    "data_segs_out", "delivered", "delivered_ce", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen",
    "rcv_ooopack", "snd_wnd",
)  # fmt: skip


def info(*fields: str, sock: str = "c", wait: float = 0) -> Step:
    """getsockopt(TCP_INFO), of which these fields are compared; without any those of INFO_FIELDS."""
    return Step("info", {"fields": fields or INFO_FIELDS, "sock": sock}, wait)


def handshake(sock: str = "c", without: str = "") -> Step:
    """``info`` of a socket that connects, with what became of Fast Open and of the RTO, but for one field."""
    fields = (*INFO_FIELDS, "fastopen_client_fail", "handshake_rto")
    return info(*(name for name in fields if name != without), sock=sock)


def ecn_info(sock: str = "c") -> Step:
    """What TCP_INFO says of congestion and of ECN."""
    return _call("ecn_info", sock=sock, wait=0)


def established(*options: tuple[int, int, Any], **fields: Any) -> tuple[Step, ...]:
    """A listener on port 80, a handshake and accept(); ``fields`` are those of the SYN."""
    win = {"win": fields["win"]} if "win" in fields else {}
    return (listen(16, 80, *options), syn(**fields), ack(**win), accept())
