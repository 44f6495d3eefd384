# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one stimulus against one side and writes down the answers.

A ``Side`` is a server that takes IP packets and gives some back while time passes, with sockets that have the calls
of Python's ``socket``: our Stack in virtual time (ours.py) or the host's kernel behind a TUN device (real.py).  The
outcome is a plain dict that json takes: ``answers`` (one dict of normalised fields per packet), ``calls`` (results of
the socket calls), ``infos`` (fields of each TCP_INFO asked for), ``mib`` (what the counters of /proc/net/snmp and
netstat, of IPv6 also snmp6, grew by), ``took`` (how long each step really took, in ms) and ``called`` (its call alone).

Normalised means without what is random by design: sequence numbers count from the initial ones, a TSval from
the first one of its flow with the elapsed time taken off, a later initial sequence number that follows the clock is
"clock", an IP id is "0", "first" or the step since the one before, an IPv6 flow label is "0", "the client's" (the last
that its packets of the flow had), "first", "same" or "other" than the flow's one before.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from struct import Struct
from typing import Any, Protocol

from stack.api.sim import bits_to_flags, build_tcp_options, flags_to_bits
from stack.include.net import MSG_TRUNC
from stack.include.sock import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM
from stack.include.tcp import TCPI_OPT_ECN, TCPI_OPT_ECN_SEEN
from stack.include.tcp_states import TCP_SYN_SENT
from stack.lib.checksum import ip_compute_csum
from stack.profile import PROFILES
from tests.differential import signature
from tests.differential.family import FAMILIES, Family, Head
from tests.differential.script import Stimulus

ISN = 1_000_000
ISN_NS = 64  # the server's initial sequence numbers count such
EPHEMERAL = 32768  # ports from here on are chosen by the kernel
RTO_LONG = 700_000  # us
ISN_MS = 3.0  # a real clock and ours may be so far apart within a step

MLD_ROUTERS = bytes.fromhex("ff020000000000000000000000000016")  # RFC 3810, section 5.2.14
MLD_ROBUSTNESS = 2
SETTLE_MS = 400.0

_TCP = Struct("!HHIIBBHHH")
_M32 = 0xFFFFFFFF

_POLL = {
    "IN": 1,
    "PRI": 2,
    "OUT": 4,
    "ERR": 8,
    "HUP": 0x10,
    "RDNORM": 0x40,
    "RDBAND": 0x80,
    "WRNORM": 0x100,
    "WRBAND": 0x200,
    "RDHUP": 0x2000,
}
POLL_ALL = sum(_POLL.values())

# struct tcp_info (include/uapi/linux/tcp.h) up to tcpi_snd_wnd, the last of Linux 6.1.
_INFO = Struct("=8B24I4Q6I4Q2I2Q4I")
_INFO_NAMES = (
    "state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "app_limited", "rto", "ato",
    "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent", "last_ack_sent",
    "last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh", "snd_cwnd", "advmss",
    "reordering", "rcv_rtt", "rcv_space", "total_retrans", "pacing_rate", "max_pacing_rate", "bytes_acked",
    "bytes_received", "segs_out", "segs_in", "notsent_bytes", "min_rtt", "data_segs_in", "data_segs_out",
    "delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited", "delivered", "delivered_ce", "bytes_sent",
    "bytes_retrans", "dsack_dups", "reord_seen", "rcv_ooopack", "snd_wnd",
)  # fmt: skip

# what later kernels have behind it
_INFO_LATER = Struct("=2I2HI")
_INFO_LATER_NAMES = ("rcv_wnd", "rehash", "total_rto", "total_rto_recoveries", "total_rto_time")

_OPTION_NAMES = {0: "eol", 1: "nop", 2: "mss", 3: "wscale", 4: "sackOK", 5: "sack", 8: "TS", 34: "fastopen"}


# Of struct tcp_info: name and offset of 32-bit members; the last has the states of Accurate ECN.
_TCP_INFO = (
    ("snd_ssthresh", 76),
    ("snd_cwnd", 80),
    ("delivered", 192),
    ("delivered_ce", 196),
    ("received_ce", 248),
    ("delivered_e1_bytes", 252),
    ("delivered_e0_bytes", 256),
    ("delivered_ce_bytes", 260),
    ("received_e1_bytes", 264),
    ("received_e0_bytes", 268),
    ("received_ce_bytes", 272),
)
_ACCECN_STATE = 276
_ECN_OPTIONS = TCPI_OPT_ECN | TCPI_OPT_ECN_SEEN
TCP_INFO_SIZE = _ACCECN_STATE + 4
ECN_INFO = (
    "options",
    "ca_state",
    *(name for name, _ in _TCP_INFO),
    "accecn_fail_mode",
    "accecn_opt_seen",
    "ecn_mode",
)


def ecn_info(raw: bytes, profile: str) -> dict[str, int]:
    """ECN_INFO of a kernel's struct tcp_info, as far as it is that long."""
    found = {"ca_state": raw[1], "options": raw[5]}
    for name, at in _TCP_INFO:
        if at + 4 <= len(raw):
            found[name] = int.from_bytes(raw[at : at + 4], "little")
    if len(raw) < TCP_INFO_SIZE:
        return found
    state = int.from_bytes(raw[_ACCECN_STATE:TCP_INFO_SIZE], "little")
    if PROFILES[profile].accecn_offered:
        found |= {
            "ecn_mode": state & 3,
            "accecn_opt_seen": state >> 2 & 3,
            "accecn_fail_mode": state >> 4 & 15,
        }
    else:
        found |= {"accecn_fail_mode": state & 0xFFFF, "accecn_opt_seen": state >> 16}
    return found


class Side(Protocol):
    """A server."""

    def transmit(self, packet: bytes) -> None:
        """Give it an IP packet."""

    def advance(self, ms: float) -> list[tuple[float, bytes]]:
        """Let time pass; the IP packets that it sent, each with when (ms after the call)."""

    def now_ms(self) -> float:
        """Its clock."""

    def socket(self, family: int, kind: int = SOCK_STREAM) -> Any:
        """A new socket of AF_INET or AF_INET6 that does not block."""

    def poll(self, sock: Any) -> int:
        """What poll(2) says of a socket, asked for POLL_ALL."""

    def ioctl(self, sock: Any, request: int) -> int:
        """The int that a request gives."""

    def ecn_info(self, sock: Any) -> dict[str, int]:
        """What TCP_INFO says of congestion and of ECN: ECN_INFO, as far as this kernel has it."""

    def counters(self) -> dict[str, int]:
        """ "TcpExt.ListenDrops" and so on; of a stimulus over IPv6 also "Ip6InReceives" and so on."""


def settle(side: Side) -> None:
    """Let pass what a device says of a new IPv6 address: its group is reported as often as robustness asks."""
    left, deadline = MLD_ROBUSTNESS, side.now_ms() + SETTLE_MS
    while left > 0 and side.now_ms() < deadline:
        left -= sum(packet[24:40] == MLD_ROUTERS for _, packet in side.advance(4))


@dataclass
class Flow:
    """A connection as its client sees it."""

    isn: int = ISN
    irs: int | None = None
    irs_ms: float = 0.0  # when it came
    snd_nxt: int = 0
    rcv_nxt: int = 0
    ts_offered: bool = False
    ts_on: bool = False
    ts_val: int = 1000
    ts_recent: int = 0
    ts_first: int | None = None
    ts_first_ms: float = 0.0
    last_id: int | None = None
    connect_isn: int | None = None  # of the server's last SYN without ACK
    label_given: int = 0  # the last of the client's packets
    label_last: int | None = None  # the last of the server's


class Run:
    """One stimulus on one side; ``run()`` gives the outcome."""

    def __init__(self, side: Side, stimulus: Stimulus) -> None:
        self.side = side
        self.stimulus = stimulus
        self.family = FAMILIES[stimulus.family]
        self.flows: dict[tuple[int, int], Flow] = {}
        self.connecting: dict[int, int] = {}  # a port of the client's: the server's that connected to it last
        self.socks: dict[str, Any] = {}
        self.answers: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.infos: list[dict[str, int]] = []
        self.elapsed = 0.0
        self.ip_id = 100

    def run(self) -> dict[str, Any]:
        before = self.side.counters()
        took: list[float] = []
        called: list[float] = []
        for number, step in enumerate(self.stimulus.steps):
            start = self.side.now_ms()
            getattr(self, "do_" + step.kind)(**step.args)
            self.elapsed = self.side.now_ms()
            called.append(round(self.elapsed - start, 3))
            for ms, packet in self.side.advance(step.wait):
                self._answer(number, ms, packet)
            took.append(round(self.side.now_ms() - start, 3))
        after = self.side.counters()
        mib = {k: after[k] - before.get(k, 0) for k in after if after[k] != before.get(k, 0)}
        times = {"took": took, "called": called}
        return {"answers": self.answers, "calls": self.calls, "infos": self.infos, "mib": mib, **times}

    # -- sending ---------------------------------------------------------------------------------------------------

    def do_nothing(self) -> None:
        pass

    def flow(self, sport: int, port: int) -> Flow:
        return self.flows.setdefault((sport, port), Flow())

    def do_seg(
        self,
        flags: str,
        data: bytes,
        *,
        sport: int = 40000,
        port: int = 80,
        seq: int | None = None,
        ack: int | None = None,
        win: int = 65535,
        urg: int = 0,
        doff: int | None = None,
        cut: int | None = None,
        bad_checksum: bool = False,
        zero_checksum: bool = False,
        isn: int | None = None,
        reserved: int = 0,
        md5: bytes | None = None,
        **more: Any,
    ) -> None:
        port = port or self.connecting.get(sport, 0)
        flow = self.flow(sport, port)
        flow.isn = flow.isn if isn is None else isn
        flow.label_given = more.get("label", 0)
        bits = flags_to_bits(flags)
        options = (signature.UNSIGNED if md5 is not None else b"") + self._options(flow, bits, more)
        base = flow.irs or 0
        seq_abs = (flow.isn + (flow.snd_nxt if seq is None else seq)) & _M32
        ack_abs = (
            (base + (flow.rcv_nxt if ack is None else ack)) & _M32 if bits & 0x10 or ack is not None else 0
        )
        words = (20 + len(options)) // 4 if doff is None else doff
        head = [sport, port, seq_abs, ack_abs, words << 4 | reserved, bits, win]
        raw = _TCP.pack(*head, 0, urg) + options + data
        raw = raw if cut is None else raw[:cut]
        family, addresses = self._ends(more)
        if md5 is not None:
            raw = signature.sign(addresses, raw, md5)
        check = family.checksum(addresses, 6, len(raw), raw)
        check = 0 if zero_checksum else check ^ 1 if bad_checksum else check
        raw = (raw[:16] + check.to_bytes(2, "big") + raw[18:])[: len(raw)]
        if seq is None:
            flow.snd_nxt += len(data) + bool(bits & 2) + bool(bits & 1)
        self.do_ip(6, raw, **more)

    def _ends(self, more: dict[str, Any]) -> tuple[Family, bytes]:
        """The family of a packet with those fields, and its source and destination."""
        family = FAMILIES[more.get("family", self.family.number)]
        return family, family.addresses(more.get("src", family.client), more.get("dst", family.server))

    def _options(self, flow: Flow, bits: int, more: dict[str, Any]) -> bytes:
        ts = more.pop("ts", None)
        nots, tsval, ts_off = more.pop("nots", False), more.pop("tsval", None), more.pop("ts_off", 0)
        if bits & 2 and ts is not None:
            flow.ts_offered, flow.ts_val = True, ts[0]
            flow.ts_on = flow.ts_on or flow.ts_first is not None
        if tsval is not None:
            flow.ts_val = tsval
        if ts is None and flow.ts_on and not bits & 4 and not nots:
            ts = (flow.ts_val & _M32, (flow.ts_recent - ts_off) & _M32)
        if ts is not None and ts[1] is None:
            ts = (ts[0], (flow.ts_recent - ts_off) & _M32)
        base = flow.irs or 0
        blocks = [((left + base) & _M32, (right + base) & _M32) for left, right in more.pop("sack", ())]
        names = ("mss", "sackok", "wscale")
        known = {n: more.pop(n) for n in names if n in more}
        return build_tcp_options(ts=ts, sack=blocks, raw=more.pop("opts", b""), **known)

    def do_icmp(
        self,
        type: int,
        code: int,
        rest: int,
        *,
        data: bytes | None = None,
        seq: int = 0,
        quote: int = 8,
        sport: int = 40000,
        port: int = 80,
        qsrc: str | None = None,
        bad_checksum: bool = False,
        **more: Any,
    ) -> None:
        family, addresses = self._ends(more)
        if data is None:
            port = port or self.connecting.get(sport, 0)
            flow = self.flow(sport, port)
            inner = _TCP.pack(port, sport, ((flow.irs or 0) + seq) & _M32, 0, 5 << 4, 0x12, 1000, 0, 0)[
                :quote
            ]
            data = family.quoted(6, 20, qsrc or family.server, family.client) + inner
        raw = bytes((type, code, 0, 0)) + rest.to_bytes(4, "big") + data
        pseudo = family.icmp_pseudo
        check = family.checksum(addresses, family.icmp, len(raw), raw) if pseudo else ip_compute_csum(raw)
        check ^= 1 if bad_checksum else 0
        self.do_ip(family.icmp, raw[:2] + check.to_bytes(2, "big") + raw[4:], **more)

    def do_udp(
        self,
        port: int,
        data: bytes,
        *,
        sport: int = 40000,
        checksum: str = "good",
        length: int | None = None,
        **more: Any,
    ) -> None:
        size = 8 + len(data) if length is None else length
        head = b"".join(v.to_bytes(2, "big") for v in (sport, port, size, 0))
        family, addresses = self._ends(more)
        check = family.checksum(addresses, 17, size, head + data) or 0xFFFF
        check = {"good": check, "bad": check ^ 1, "none": 0}[checksum]
        self.do_ip(17, head[:6] + check.to_bytes(2, "big") + data, **more)

    def do_ip(self, proto: int, body: bytes, *, family: int | None = None, **fields: Any) -> None:
        ident, self.ip_id = self.ip_id, self.ip_id + 1
        for packet in FAMILIES[family or self.family.number].packets(proto, body, ident, **fields):
            self.side.transmit(packet)

    # -- socket calls ----------------------------------------------------------------------------------------------

    def do_listen(
        self, backlog: int, port: int, options: tuple[Any, ...], sock: str, family: int | None = None
    ) -> None:
        self._bound(SOCK_STREAM, port, options, sock, family)
        self._record("listen", sock, self._try(sock, "listen", (backlog,)))

    def do_stream(self, options: tuple[tuple[int, int, Any], ...], sock: str) -> None:
        self.socks[sock] = self.side.socket(self.family.af)
        for option in options:
            self._record("setsockopt", sock, self._try(sock, "setsockopt", option))

    def do_connect(
        self, port: int, options: tuple[tuple[int, int, Any], ...], bind: int, to: str, sock: str
    ) -> None:
        self.do_stream(options, sock)
        if bind:
            self._record("bind", sock, self._try(sock, "bind", ((self.family.any, bind),)))
        self._record("connect", sock, self._try(sock, "connect", ((to or self.family.client, port),)))

    def do_datagram(
        self, port: int, sock: str, peer: int, options: tuple[Any, ...], family: int | None = None
    ) -> None:
        """A UDP socket on that port; connected to the client's port ``peer`` unless that is 0."""
        self._bound(SOCK_DGRAM, port, options, sock, family)
        if peer:
            self.socks[sock].connect((FAMILIES[family or self.family.number].client, peer))

    def _bound(self, kind: int, port: int, options: tuple[Any, ...], sock: str, family: int | None) -> None:
        of = FAMILIES[family or self.family.number]
        self.socks[sock] = self.side.socket(of.af, kind)
        for option in options:
            self._record("setsockopt", sock, self._try(sock, "setsockopt", option))
        self._record("bind", sock, self._try(sock, "bind", ((of.any, port),)))

    def do_newsocket(self, sock: str, v6: bool, dgram: bool) -> None:
        self.socks[sock] = self.side.socket(AF_INET6 if v6 else AF_INET, SOCK_DGRAM if dgram else SOCK_STREAM)

    def do_options(
        self, level: int, name: int, values: tuple[Any, ...], sizes: tuple[int, ...], sock: str
    ) -> None:
        def read() -> str:
            found = [self._read_option(sock, level, name, size) for size in (0, *sizes)]
            return " ".join(text for i, text in enumerate(found) if not i or text != found[i - 1])

        self._record("getsockopt", sock, read())
        for value in values:
            result = self._try(sock, "setsockopt", (level, name, value))
            self._record(f"setsockopt {value!r}", sock, f"{result}: {read()}")

    def _read_option(self, sock: str, level: int, name: int, size: int) -> str:
        try:
            result = self.socks[sock].getsockopt(level, name, size)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error.errno))
        return result.hex() or "empty" if isinstance(result, bytes) else str(result)

    def do_call(self, name: str, args: tuple[Any, ...], sock: str, into: str | None = None) -> None:
        self._record(name, sock, self._try(sock, name, args, into))

    def do_info(self, fields: tuple[str, ...], sock: str) -> None:
        if sock not in self.socks:
            self.infos.append({})
            return
        raw = self.socks[sock].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1024)
        found = dict(zip(_INFO_NAMES, _INFO.unpack_from(raw), strict=True)) | {"length": len(raw)}
        if len(raw) > _INFO.size:
            found |= zip(_INFO_LATER_NAMES, _INFO_LATER.unpack_from(raw, _INFO.size), strict=True)
        found["fastopen_client_fail"] = found["app_limited"] >> 1 & 3  # bits of the same byte
        found["handshake_rto"] = _handshake_rto(found["state"], found["rto"])
        self.infos.append({name: found[name] for name in fields if name in found})

    def _record(self, name: str, sock: str, result: str) -> None:
        self.calls.append(f"{name}({sock}) = {result}")

    def _try(self, sock: str, name: str, args: tuple[Any, ...], into: str | None = None) -> str:
        if sock not in self.socks:
            return "no socket"
        try:
            result = self._call(self.socks[sock], name, args)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error.errno))
        if into is not None:
            conn, (host, port, *_) = result
            conn.setblocking(False)
            self.socks[into] = conn
            return f"{host}:{port if host == self.family.client else _port_text(port)}"
        if name == "recvmsg":
            return _message(*result)
        if name == "recv" and args[1] & MSG_TRUNC:
            return f"{len(result)} bytes"  # nothing was written into the caller's memory
        return _bytes(result) if isinstance(result, bytes) else str(result)

    def _call(self, sock: Any, name: str, args: tuple[Any, ...]) -> Any:
        if name == "ecn_info":
            info = self.side.ecn_info(sock)
            info["options"] &= _ECN_OPTIONS
            return " ".join(f"{field}={info[field]}" for field in ECN_INFO if field in info)
        if name == "poll":
            return _poll_text(self.side.poll(sock))
        if name == "ioctl":
            return self.side.ioctl(sock, *args)
        return getattr(sock, name)(*args)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, step: int, ms: float, packet: bytes) -> None:
        family = FAMILIES[packet[0] >> 4]
        head = family.head(packet)
        out: dict[str, Any] = {"step": step, "ms": round(ms, 1), **head.fields}
        if head.proto == 6 and not head.later:
            self._tcp_answer(out, ms, family, head)
        else:
            self._identify(out, family, head, None)
            text = head.proto == family.icmp and not head.later
            out["body"] = self._icmp_text(family, head) if text else head.body.hex()
        self.answers.append(out)

    @staticmethod
    def _identify(out: dict[str, Any], family: Family, head: Head, flow: Flow | None) -> None:
        """The field that tells one packet from another: IPv4's id, or IPv6's flow label."""
        if family.number == 6:
            out["label"] = _label(flow, head.label)
            return
        if flow is None:
            out["id"] = "0" if head.ip_id == 0 else "random"
            return
        first = flow.last_id is None
        out["id"] = (
            "0"
            if head.ip_id == 0
            else "first"
            if first
            else f"+{(head.ip_id - (flow.last_id or 0)) & 0xFFFF}"
        )
        flow.last_id = head.ip_id or flow.last_id

    @staticmethod
    def _icmp_text(family: Family, head: Head) -> str:
        body = head.body
        whole = family.checksum(head.addresses, family.icmp, len(body), body)
        ok = "" if not (whole if family.icmp_pseudo else ip_compute_csum(body)) else " bad checksum"
        return (
            f"type {body[0]} code {body[1]} rest {body[4:8].hex()} {len(body) - 8} bytes {body[8:].hex()}{ok}"
        )

    def _tcp_answer(self, out: dict[str, Any], ms: float, family: Family, head: Head) -> None:
        body, addrs = head.body, head.addresses
        sport, dport, seq, ack, words, bits, win, _, urg = _TCP.unpack_from(body)
        flow = self.flow(dport, sport)
        flags = bits_to_flags(bits)
        if flow.irs is None and bits & 2:
            flow.irs, flow.irs_ms = seq, self.elapsed + ms
        if bits & 0x12 == 2 and seq != flow.connect_isn:
            # connect(), not a SYN sent again: a new connection, also where the ports are those of an old one.
            flow.connect_isn, flow.last_id = seq, None
            self.connecting[dport] = sport
            out["from"] = _port_text(sport)
        data = body[words >> 4 << 2 :]
        out.update(port=dport, flags=flags, win=win, data=len(data))
        if family.checksum(addrs, 6, len(body), body):
            out["bad_checksum"] = True
        if data:
            out["bytes"] = data[:16].hex()
        if urg or words & 15:
            out["urg"], out["reserved"] = urg, words & 15
        out["seq"] = self._relative_seq(flow, seq, bits, self.elapsed + ms)
        out["ack"] = "zero" if ack == 0 else _signed(ack - flow.isn)
        self._identify(out, family, head, flow)
        out["opts"] = self._option_text(out, flow, bits, ms, body[20 : words >> 4 << 2])
        if (at := out["opts"].find("kind19")) >= 0:
            found = out["opts"][at : at + 38]
            out["opts"] = out["opts"].replace(
                found, "md5 " + signature.verdict(addrs, body, bytes.fromhex(found[6:]))
            )
        self._advance(flow, bits, seq, len(data))

    @staticmethod
    def _relative_seq(flow: Flow, seq: int, bits: int, now_ms: float) -> int | str:
        """From the flow's first ISN; "clock" for a later one that grew as the clock did (RFC 6528: 64 ns each)."""
        if seq == 0:
            return "zero"
        found = _signed(seq - (flow.irs or 0))
        grown = found * ISN_NS / 1e6 - (now_ms - flow.irs_ms)
        return "clock" if bits & 2 and found and abs(grown) < ISN_MS else found

    @staticmethod
    def _advance(flow: Flow, bits: int, seq: int, size: int) -> None:
        rel = (seq - (flow.irs or 0)) & _M32
        end = rel + size + bool(bits & 2) + bool(bits & 1)
        if not bits & 4 and rel <= flow.rcv_nxt < end:
            flow.rcv_nxt = end

    def _option_text(self, out: dict[str, Any], flow: Flow, bits: int, ms: float, raw: bytes) -> str:
        parts: list[str] = []
        at = 0
        while at < len(raw):
            kind = raw[at]
            size = 1 if kind < 2 else raw[at + 1]
            if size < 1 or at + size > len(raw):
                parts.append("broken " + raw[at:].hex())
                break
            parts.append(self._one_option(out, flow, bits, ms, kind, raw[at + min(size, 2) : at + size]))
            at += size
        return ",".join(parts)

    def _one_option(
        self, out: dict[str, Any], flow: Flow, bits: int, ms: float, kind: int, value: bytes
    ) -> str:
        name = _OPTION_NAMES.get(kind, f"kind{kind}")
        if kind == 8:
            val, ecr = int.from_bytes(value[:4], "big"), int.from_bytes(value[4:], "big")
            now = self.elapsed + ms
            if flow.ts_first is None:
                flow.ts_first, flow.ts_first_ms = val, now
            out["tsval"] = round(_signed(val - flow.ts_first) - (now - flow.ts_first_ms))
            flow.ts_recent = val
            flow.ts_on = flow.ts_on or bool(bits & 2 and flow.ts_offered)
            return f"TS ecr {ecr}"
        if kind == 5:
            edges = [
                _signed(int.from_bytes(value[i : i + 4], "big") - flow.isn) for i in range(0, len(value), 4)
            ]
            return "sack " + " ".join(f"{a}:{b}" for a, b in zip(edges[::2], edges[1::2], strict=True))
        if kind == 34 and value:
            return f"fastopen {len(value)} bytes"  # made with a random key
        return f"{name} {int.from_bytes(value, 'big')}" if value and kind in (2, 3) else name + value.hex()


def _label(flow: Flow | None, label: int) -> str:
    if not label or flow is None:
        return "some" if label else "0"
    last, flow.label_last = flow.label_last, label
    if label == flow.label_given:
        return "the client's"
    return "first" if last is None else "same" if label == last else "other"


def _bytes(data: bytes) -> str:
    return f"{len(data)} bytes {data[:32]!r}"


def _poll_text(mask: int) -> str:
    return " ".join(name for name, bit in _POLL.items() if mask & bit) or "nothing"


def _message(data: bytes, control: list[tuple[int, int, bytes]], flags: int, peer: Any) -> str:
    """recvmsg()'s result, the digits of times left out."""
    texts = [_control(level, kind, value) for level, kind, value in control]
    return f"{_bytes(data)} {texts} flags {flags:#x} from {peer if peer and len(peer) > 1 else None}"


def _control(level: int, kind: int, value: bytes) -> str:
    if level == 1 and kind in (29, 35, 37, 63, 64, 65):
        times = [value[i : i + 16] != bytes(16) for i in range(0, len(value), 16)]
        return f"{level}/{kind} times {times}"
    return f"{level}/{kind} {value.hex()}"


def _handshake_rto(state: int, rto: int) -> int:
    """In us before the first sample of the round trip; after that 1 if it is longer than ordinary ones make it."""
    return rto if state == TCP_SYN_SENT else int(rto > RTO_LONG)


def _port_text(port: int) -> str:
    return f"{port}" if port < EPHEMERAL else f"ephemeral, {'odd' if port & 1 else 'even'}"


def _signed(n: int) -> int:
    n &= _M32
    return n - (1 << 32) if n >> 31 else n
