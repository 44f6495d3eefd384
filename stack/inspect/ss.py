# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot's sockets as ss(8) shows the kernel's: states, queues, ends, timers, memory, struct tcp_info.

    socks = sockets(net.snapshot())                  UDP, then TCP: listeners, connections, requests, TIME_WAIT
    socks = [s for s in socks if wanted(s)]          stack.inspect.ssfilter makes ``wanted``
    text(socks, Columns(...), Details(...))          as ss writes into a pipe;  plain(sock) for json.dumps

What is known of the notation comes from ss's manual page and from what ss 6.1 prints.  Left out: user and inode, which
sockets of this stack have not, and what a congestion control tells of itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

# The kernel's states in ss's words, which also order the states of the manual page.
STATES: Final = {
    "ESTABLISHED": "ESTAB",
    "SYN_SENT": "SYN-SENT",
    "NEW_SYN_RECV": "SYN-RECV",
    "SYN_RECV": "SYN-RECV",
    "FIN_WAIT1": "FIN-WAIT-1",
    "FIN_WAIT2": "FIN-WAIT-2",
    "TIME_WAIT": "TIME-WAIT",
    "CLOSE": "UNCONN",
    "CLOSE_WAIT": "CLOSE-WAIT",
    "LAST_ACK": "LAST-ACK",
    "LISTEN": "LISTEN",
    "CLOSING": "CLOSING",
}
_RCV_SHUTDOWN: Final = 1
_SEND_SHUTDOWN: Final = 2
_UNLIMITED: Final = (1 << 64) - 1
_NO_RTT: Final = 0xFFFFFFFF
_INFINITE_SSTHRESH: Final = 0xFFFF  # ss takes anything from here for "none yet"
_FIRST_REORDERING: Final = 3  # TCP_FASTRETRANS_THRESH


@dataclass(frozen=True)
class End:
    """One end of a socket; of IPv6 ``address`` is the mapped IPv4 address where it is one."""

    shown: str  # "10.0.2.2", "[fd00::2]", "*": as it is printed
    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"{self.shown}:{self.port or '*'}"


@dataclass(frozen=True)
class Sock:
    """A socket, a request or what is in TIME_WAIT.  ``entry`` is the snapshot's."""

    netid: str
    state: str
    family: int  # 4 or 6
    recv_q: int
    send_q: int
    local: End
    peer: End
    entry: dict[str, Any] = field(repr=False)

    @cached_property
    def info(self) -> dict[str, Any]:
        """struct tcp_info; empty of what has none."""
        return self.entry.get("info") or {}

    @property
    def key(self) -> int:
        """What tells it from others: its cookie if it was asked for one, else its hash; 0 if it has neither."""
        return self.entry.get("cookie") or self.entry.get("hash") or 0


@dataclass(frozen=True)
class Details:
    """What is shown beyond the columns; each is ss's option of that letter.  ``pid`` is the back end's."""

    timer: bool = False  # -o
    info: bool = False  # -i
    memory: bool = False  # -m
    extended: bool = False  # -e
    processes: bool = False  # -p
    numeric: bool = False  # -n
    pid: int = 0


# -- from the snapshot -------------------------------------------------------------------------------------------------


def sockets(snapshot: dict[str, Any]) -> list[Sock]:
    """All of them, in the order in which they are shown."""
    devices = {dev["ifindex"]: dev["name"] for dev in snapshot["devices"]}
    tcp = snapshot["tcp"]
    kinds = (
        *(("udp", entry) for entry in snapshot["udp"]),
        *(("tcp", entry) for kind in _TCP_KINDS for entry in tcp[kind]),
    )
    return [_sock(netid, entry, devices) for netid, entry in kinds]


_TCP_KINDS: Final = ("listeners", "connections", "requests", "time_wait")


def _sock(netid: str, entry: dict[str, Any], devices: dict[int, str]) -> Sock:
    recv_q, send_q = entry.get("recv_q", 0), entry.get("send_q", 0)
    if entry["state"] == "LISTEN":
        recv_q, send_q = entry["ack_backlog"], entry["backlog"]
    dual = not entry.get("v6only", True)
    return Sock(
        netid,
        STATES[entry.get("substate", entry["state"])],
        6 if entry["local"].startswith("[") else 4,
        recv_q,
        send_q,
        _end(entry["local"], dual, devices.get(entry.get("dev", 0), "")),
        _end(entry["remote"], dual),
        entry,
    )


def _end(text: str, dual: bool, dev: str = "") -> End:
    """From "10.0.2.2:80" or "[fd00::2]:80".  A socket of IPv6 that takes IPv4 too (``dual``) has "*" for any."""
    host, _, port = text.rpartition(":")
    address = ip_address(host.strip("[]"))
    shown = "*" if address.version == 6 and address.is_unspecified and dual else host
    return End(f"{shown}%{dev}" if dev else shown, unmapped(address), int(port))


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address of "::ffff:10.0.2.15", any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


# -- what is shown beside the columns ----------------------------------------------------------------------------------


def process_words(sock: Sock, shown: Details) -> str:
    """What ss has in its last column: users, timer, key and which directions are open."""
    entry = sock.entry
    words = []
    if shown.processes and entry.get("fds"):
        users = ",".join(f'("vnic",pid={shown.pid},fd={fd})' for fd in entry["fds"])
        words.append(f"users:({users})")
    if (shown.timer or shown.extended) and entry.get("timer"):
        words.append(timer_text(entry["timer"]))
    if shown.extended:
        words += _extended(sock)
    return " ".join(words)


def timer_text(timer: dict[str, Any]) -> str:
    """ "timer:(on,200ms,0)": name, time left, how often it has fired."""
    return f"timer:({timer['name']},{duration(timer['expires_ms'])},{timer['retrans']})"


def duration(ms: int) -> str:
    """Milliseconds as ss has them, which drops what does not matter beside larger units: "119min", "1min5sec",
    "59sec", "5.004ms" (five seconds and four milliseconds), "200ms"."""
    seconds, rest = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    if minutes:
        few = minutes < 10 and seconds
        return f"{minutes}min{seconds}sec" if few else f"{minutes}min"
    if seconds:
        return f"{seconds}.{rest:03}ms" if seconds < 10 and rest else f"{seconds}sec"
    return f"{rest:03}ms" if rest else "0ms"


def _extended(sock: Sock) -> Iterator[str]:
    entry = sock.entry
    if sock.key:
        yield f"sk:{sock.key:x}"
    if "shutdown" not in entry:
        return
    if sock.family == 6 and sock.state in ("LISTEN", "UNCONN"):
        yield f"v6only:{int(entry['v6only'])}"
    receives, sends = not entry["shutdown"] & _RCV_SHUTDOWN, not entry["shutdown"] & _SEND_SHUTDOWN
    yield f"{'<' if receives else '-'}-{'>' if sends else '-'}"


def info_words(sock: Sock, shown: Details) -> list[str]:
    """What ss writes below a socket: memory and struct tcp_info."""
    words = []
    if shown.memory and "mem" in sock.entry:
        words.append(skmem_text(sock.entry["mem"]))
    if shown.info and sock.info:
        words += tcp_words(sock, shown)
    return words


_SKMEM: Final = {
    "rmem_alloc": "r", "rcvbuf": "rb", "wmem_alloc": "t", "sndbuf": "tb", "fwd_alloc": "f", "wmem_queued": "w",
    "optmem": "o", "backlog": "bl", "drops": "d",
}  # fmt: skip


def skmem_text(mem: dict[str, int]) -> str:
    """ "skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d0)"."""
    return f"skmem:({','.join(f'{short}{mem[name]}' for name, short in _SKMEM.items())})"


# -- struct tcp_info in ss's notation ----------------------------------------------------------------------------------


def tcp_words(sock: Sock, shown: Details) -> list[str]:
    """ "cubic", "wscale:7,7", "rto:204" ... : what is zero or says nothing is left out, as ss does."""
    info = sock.info
    words = [
        *(_option_words(info) if shown.timer or shown.extended else ()),
        *_timing_words(info),
        *_valued(info, _SIZES),
        *_rate_words(info, shown.numeric),
        *_limit_words(info),
        *_queue_words(sock),
    ]
    return [word for word in words if word]


def _option_words(info: dict[str, Any]) -> Iterator[str]:
    options = info["tcpi_options"]
    names = {"timestamps": "ts", "sack": "sack", "ecn": "ecn", "ecn_seen": "ecnseen", "syn_data": "fastopen"}
    return (word for name, word in names.items() if options[name])


def _timing_words(info: dict[str, Any]) -> Iterator[str]:
    yield info["congestion_control"] or ""
    if info["tcpi_options"]["wscale"]:
        yield f"wscale:{info['tcpi_snd_wscale']},{info['tcpi_rcv_wscale']}"
    yield _ms("rto", info["tcpi_rto"])
    yield _number("backoff", info["tcpi_backoff"])
    if info["tcpi_rtt"]:
        yield f"rtt:{info['tcpi_rtt'] / 1000:g}/{info['tcpi_rttvar'] / 1000:g}"
    yield _ms("ato", info["tcpi_ato"])


# ss's name of a field, which is shown unless it is zero
_SIZES: Final = {
    "mss": "snd_mss", "pmtu": "pmtu", "rcvmss": "rcv_mss", "advmss": "advmss", "cwnd": "snd_cwnd",
    "ssthresh": "snd_ssthresh", "bytes_sent": "bytes_sent", "bytes_retrans": "bytes_retrans",
    "bytes_acked": "bytes_acked", "bytes_received": "bytes_received", "segs_out": "segs_out", "segs_in": "segs_in",
    "data_segs_out": "data_segs_out", "data_segs_in": "data_segs_in",
}  # fmt: skip
_LAST: Final = {"lastsnd": "last_data_sent", "lastrcv": "last_data_recv", "lastack": "last_ack_recv"}
_RECEIVING: Final = {"rcv_space": "rcv_space", "rcv_ssthresh": "rcv_ssthresh", "notsent": "notsent_bytes"}
_REST: Final = {
    "rcv_ooopack": "rcv_ooopack", "snd_wnd": "snd_wnd", "rcv_wnd": "rcv_wnd", "rehash": "rehash",
}  # fmt: skip


def _valued(info: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    for name, member in names.items():
        value = info["tcpi_" + member]
        if name != "ssthresh" or value < _INFINITE_SSTHRESH:
            yield _number(name, value)


def _number(name: str, value: int) -> str:
    return f"{name}:{value}" if value else ""


def _ms(name: str, us: int) -> str:
    return f"{name}:{us / 1000:g}" if us else ""


def _rate_words(info: dict[str, Any], numeric: bool) -> Iterator[str]:
    if info["tcpi_rtt"] and info["tcpi_snd_mss"]:
        a_window = info["tcpi_snd_cwnd"] * info["tcpi_snd_mss"] * 8
        yield f"send {rate(a_window * 1_000_000 / info['tcpi_rtt'], numeric)}"
    yield from _valued(info, _LAST)
    pacing, most = info["tcpi_pacing_rate"], info["tcpi_max_pacing_rate"]
    if pacing not in (0, _UNLIMITED):
        limit = f"/{rate(most * 8, numeric)}" if most not in (0, _UNLIMITED) else ""
        yield f"pacing_rate {rate(pacing * 8, numeric)}{limit}"
    if info["tcpi_delivery_rate"]:
        yield f"delivery_rate {rate(info['tcpi_delivery_rate'] * 8, numeric)}"
    yield _number("delivered", info["tcpi_delivered"])
    yield _number("delivered_ce", info["tcpi_delivered_ce"])
    if info["tcpi_delivery_rate_app_limited"] and info["tcpi_delivered"]:
        yield "app_limited"


def rate(bits: float, numeric: bool) -> str:
    """Bits per second: "23.1Gbps", or "23130352936bps" if ``numeric``."""
    if numeric:
        return f"{bits:.0f}bps"
    for unit in ("", "K", "M", "G"):
        if bits < 1000:
            return f"{bits:.3g}{unit}bps"
        bits /= 1000
    return f"{bits:.3g}Tbps"


def _limit_words(info: dict[str, Any]) -> Iterator[str]:
    """How long it was busy, and which part of that it was held back by the peer's window and by the send buffer."""
    busy = info["tcpi_busy_time"]
    if busy:
        yield f"busy:{busy // 1000}ms"
    for name in ("rwnd_limited", "sndbuf_limited"):
        held = info["tcpi_" + name]
        if held and busy:
            yield f"{name}:{held // 1000}ms({100 * held / busy:.1f}%)"


def _queue_words(sock: Sock) -> Iterator[str]:
    info = sock.info
    yield _number("unacked", info["tcpi_unacked"])
    if info["tcpi_retrans"] or info["tcpi_total_retrans"]:
        yield f"retrans:{info['tcpi_retrans']}/{info['tcpi_total_retrans']}"
    yield _number("lost", info["tcpi_lost"])
    if sock.state != "LISTEN":  # which has its backlog there
        yield _number("sacked", info["tcpi_sacked"])
    yield _number("dsack_dups", info["tcpi_dsack_dups"])
    if info["tcpi_reordering"] != _FIRST_REORDERING:
        yield _number("reordering", info["tcpi_reordering"])
    yield _number("reord_seen", info["tcpi_reord_seen"])
    yield _ms("rcv_rtt", info["tcpi_rcv_rtt"])
    yield from _valued(info, _RECEIVING)
    if info["tcpi_min_rtt"] != _NO_RTT:
        yield _ms("minrtt", info["tcpi_min_rtt"])
    yield from _valued(info, _REST)


# -- all of it ---------------------------------------------------------------------------------------------------------

HEADINGS: Final = ("Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port")


def cells(sock: Sock) -> tuple[str, ...]:
    """A socket in the columns of HEADINGS."""
    return (sock.netid, sock.state, str(sock.recv_q), str(sock.send_q), str(sock.local), str(sock.peer))


def visible(columns: Sequence[str], hidden: frozenset[str]) -> list[str]:
    """Without the columns of these headings."""
    return [text for heading, text in zip(HEADINGS, columns, strict=True) if heading not in hidden]


def text(
    socks: list[Sock], shown: Details, *, hidden: frozenset[str] = frozenset(), header: bool = True
) -> str:
    """As ss writes it: the columns just as wide as they have to be, addresses to the right and ports to the left of
    their colons; without the columns of these headings, and the headings only if they are wanted."""
    rows = [*([HEADINGS] if header else []), *map(cells, socks)]
    lines = [visible(line, hidden) for line in _aligned(rows)]
    written = [_written(line, "", []) for line in lines[: len(rows) - len(socks)]]
    for line, sock in zip(lines[len(rows) - len(socks) :], socks, strict=True):
        written.append(_written(line, process_words(sock, shown), info_words(sock, shown)))
    return "".join(written)


def _aligned(rows: list[tuple[str, ...]]) -> list[list[str]]:
    if not rows:
        return []
    split = [[*row[:4], *(part for end in row[4:] for part in end.rsplit(":", 1))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*split, strict=True)]
    return [
        [
            *(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False)),
            f"{row[4]:>{widths[4]}}:{row[5]:<{widths[5]}}",
            f"{row[6]:>{widths[6]}}:{row[7]:<{widths[7]}}",
        ]
        for row in split
    ]


def _written(columns: list[str], process: str, info: list[str]) -> str:
    line = " ".join([*columns, process]).rstrip() + "\n"
    return line + f"\t {' '.join(info)}\n" if info else line


def plain(sock: Sock, pid: int = 0) -> dict[str, Any]:
    """What json.dumps takes: everything that is known, with the names of the snapshot.  ``users`` are the back end's
    ``pid`` and the stack's descriptors."""
    entry = sock.entry
    kept = ("timer", "mem", "info", "dev", "v6only", "shutdown", "cookie", "hash")
    return {
        "netid": sock.netid,
        "state": sock.state,
        "recv_q": sock.recv_q,
        "send_q": sock.send_q,
        "local": entry["local"].rpartition(":")[0].strip("[]"),
        "local_port": sock.local.port,
        "peer": entry["remote"].rpartition(":")[0].strip("[]"),
        "peer_port": sock.peer.port,
        "users": [{"name": "vnic", "pid": pid, "fd": fd} for fd in entry.get("fds", ())],
        **{name: entry[name] for name in kept if name in entry},
    }


# -- ss -s -------------------------------------------------------------------------------------------------------------


def summary(snapshot: dict[str, Any]) -> dict[str, Any]:
    """How many sockets there are: by what they do, and by protocol and family."""
    socks = sockets(snapshot)
    stat = _sockstat(snapshot["proc_net"]["sockstat"])
    hashed = [sock for sock in socks if sock.netid == "tcp" and "fds" in sock.entry]
    udp = [sock for sock in socks if sock.netid == "udp"]
    estab = sum(sock.state == "ESTAB" for sock in hashed)
    tcp = stat["TCP"]
    families = {name: _by_family(found) for name, found in (("UDP", udp), ("TCP", hashed))}
    return {
        "total": stat["sockets"]["used"],
        "tcp": {
            "total": tcp["alloc"] + tcp["tw"],
            "estab": estab,
            "closed": max(tcp["alloc"] - len(hashed), 0),
            "orphaned": tcp["orphan"],
            "timewait": tcp["tw"],
        },
        "transport": {**families, "INET": _by_family(udp + hashed), "FRAG": _fragments(snapshot)},
    }


def _sockstat(lines: str) -> dict[str, dict[str, int]]:
    """/proc/net/sockstat, "TCP: inuse 2 orphan 0 ...", by line and name."""
    found = {}
    for line in lines.splitlines():
        name, *words = line.split()
        found[name.rstrip(":")] = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    return found


def _by_family(socks: list[Sock]) -> list[int]:
    """Total, IPv4, IPv6."""
    ipv6 = sum(sock.family == 6 for sock in socks)
    return [len(socks), len(socks) - ipv6, ipv6]


def _fragments(snapshot: dict[str, Any]) -> list[int]:
    ipv4, ipv6 = snapshot["fragments"]["queues"], snapshot["fragments6"]["queues"]
    return [ipv4 + ipv6, ipv4, ipv6]


def summary_text(counted: dict[str, Any]) -> str:
    tcp = counted["tcp"]
    states = ", ".join(f"{name} {tcp[name]}" for name in ("estab", "closed", "orphaned", "timewait"))
    rows = [("Transport", "Total", "IP", "IPv6"), *((name, *n) for name, n in counted["transport"].items())]
    table = "\n".join(f"{a:<9} {b:<9} {c:<9} {d}" for a, b, c, d in rows)
    return f"Total: {counted['total']}\nTCP:   {tcp['total']} ({states})\n\n{table}\n"
