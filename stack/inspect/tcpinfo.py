# SPDX-License-Identifier: GPL-2.0-or-later
"""struct tcp_info of one connection, field by field: value, unit, meaning.

    sock = connection(sockets(net.snapshot()), ["10.0.2.15:40000"])       by the peer's end, or by local end and peer's
    values(sock)                                                          {"tcpi_state": 1, ...}
    rows(values(sock)), changed(before, values(sock))                     name, value with unit, meaning or difference

The fields are those of include/uapi/linux/tcp.h as of the newest kernel that a profile mirrors; what an older one has
not is shown too, as this stack counts it all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from stack.include.tcp import TCP_INFINITE_SSTHRESH
from stack.include.tcp_states import TCP_STATE_NAMES
from stack.inspect.conversation import End, parse_end
from stack.inspect.snapshot import OPTIONS
from stack.inspect.ss import Sock

_PREFIX: Final = "tcpi_"
_SHOWN_ENDS: Final = 5

# Each field's unit and meaning, in the order in which they are shown.
FIELDS: Final[dict[str, tuple[str, str]]] = {
    "state": ("", "of the connection (TCP_ESTABLISHED is 1)"),
    "ca_state": ("", "of loss recovery"),
    "retransmits": ("", "timeouts in a row without an answer"),
    "probes": ("", "window probes and keepalives without an answer"),
    "backoff": ("", "how often the timeout was doubled"),
    "options": ("", "what both ends agreed on"),
    "snd_wscale": ("bits", "the peer's windows are shifted by"),
    "rcv_wscale": ("bits", "our windows are shifted by"),
    "delivery_rate_app_limited": (
        "",
        "1: the application, not the path, limited delivery_rate",
    ),
    "fastopen_client_fail": ("", "why Fast Open did not work (TFO_STATUS_UNSPEC is 0)"),
    "rto": ("us", "retransmission timeout"),
    "ato": ("us", "timeout of the delayed ACK"),
    "snd_mss": ("B", "payload of a segment that we send"),
    "rcv_mss": ("B", "payload of a segment that the peer sends, estimated"),
    "unacked": ("segments", "sent and not acknowledged"),
    "sacked": ("segments", "of these, SACKed"),
    "lost": ("segments", "of these, taken for lost"),
    "retrans": ("segments", "of these, sent again and still out"),
    "fackets": ("segments", "always 0 since Linux 4.15"),
    "last_data_sent": ("ms", "since we sent data"),
    "last_ack_sent": ("ms", "always 0, as in Linux"),
    "last_data_recv": ("ms", "since data came"),
    "last_ack_recv": ("ms", "since an ACK came"),
    "pmtu": ("B", "MTU of the path"),
    "rcv_ssthresh": ("B", "limit of the window that we offer"),
    "rtt": ("us", "round trip, smoothed"),
    "rttvar": ("us", "its mean deviation"),
    "snd_ssthresh": ("segments", "where slow start ends"),
    "snd_cwnd": ("segments", "congestion window"),
    "advmss": ("B", "MSS that we advertised"),
    "reordering": ("segments", "reordering that is tolerated"),
    "rcv_rtt": ("us", "round trip as the receiver sees it"),
    "rcv_space": ("B", "what the application reads in a round trip"),
    "total_retrans": ("segments", "sent again, ever"),
    "pacing_rate": ("B/s", "at which packets are spread"),
    "max_pacing_rate": ("B/s", "limit of that (SO_MAX_PACING_RATE)"),
    "bytes_acked": ("B", "acknowledged by the peer; our SYN and FIN count as one each"),
    "bytes_received": ("B", "received in order"),
    "segs_out": ("segments", "sent"),
    "segs_in": ("segments", "received"),
    "notsent_bytes": ("B", "written by the application and never sent"),
    "min_rtt": ("us", "smallest round trip of late"),
    "data_segs_in": ("segments", "received with data"),
    "data_segs_out": ("segments", "sent with data"),
    "delivery_rate": ("B/s", "at which data arrived at the peer, last sample"),
    "busy_time": ("us", "with data to send or unacknowledged"),
    "rwnd_limited": ("us", "of that, held back by the peer's window"),
    "sndbuf_limited": ("us", "of that, held back by a full send buffer"),
    "delivered": ("segments", "delivered to the peer, SYN included"),
    "delivered_ce": ("segments", "of these, marked by congestion (ECN)"),
    "bytes_sent": ("B", "sent, retransmissions included"),
    "bytes_retrans": ("B", "of that, retransmissions"),
    "dsack_dups": ("segments", "that the peer says it got twice"),
    "reord_seen": ("", "how often reordering was seen"),
    "rcv_ooopack": ("segments", "received out of order"),
    "snd_wnd": ("B", "window that the peer offers"),
    "rcv_wnd": ("B", "window that we offer"),
    "rehash": ("", "how often another path was tried"),
    "total_rto": ("", "timeouts, ever"),
    "total_rto_recoveries": ("", "runs of timeouts that the connection survived"),
    "total_rto_time": ("ms", "spent in these"),
    "received_ce": ("segments", "received with the CE mark"),
    "delivered_e1_bytes": ("B", "that arrived at the peer with ECT(1)"),
    "delivered_e0_bytes": ("B", "that arrived at the peer with ECT(0)"),
    "delivered_ce_bytes": ("B", "that arrived at the peer with CE"),
    "received_e1_bytes": ("B", "received with ECT(1)"),
    "received_e0_bytes": ("B", "received with ECT(0)"),
    "received_ce_bytes": ("B", "received with CE"),
    "accecn_fail_mode": ("", "why accurate ECN is off, bit by bit"),
    "accecn_opt_seen": ("", "whether the AccECN option came through"),
    "ecn_mode": ("", "0 none, 1 RFC 3168, 2 accurate, 3 not decided"),
}
_CA_STATES: Final = ("Open", "Disorder", "CWR", "Recovery", "Loss")
# What stands for "there is none" in a field
_NONE: Final = {
    ("snd_ssthresh", TCP_INFINITE_SSTHRESH): "none yet",
    ("min_rtt", 0xFFFFFFFF): "none yet",
    ("pacing_rate", (1 << 64) - 1): "no limit",
    ("max_pacing_rate", (1 << 64) - 1): "no limit",
}

Row = tuple[str, str, str]


class NoConnection(ValueError):
    """There is none, or not one, with these ends: fact, evidence, remedy."""

    def __init__(self, fact: str, evidence: str, remedy: str = "vnic ss -ta shows what there is") -> None:
        super().__init__(fact)
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy


def connection(socks: Sequence[Sock], ends: Sequence[str]) -> Sock:
    """The one with that peer, or with that local end and that peer; NoConnection."""
    wanted = [_end(text) for text in ends]
    tcp = [sock for sock in socks if sock.netid == "tcp" and sock.state != "LISTEN"]
    found = [sock for sock in tcp if _ends(sock)[-len(wanted) :] == wanted]
    named = " ".join(ends)
    if not found:
        raise NoConnection(f"there is no connection {named}", _what_there_is(tcp))
    if len(found) > 1:
        raise NoConnection(
            f"there are {len(found)} connections {named}", _what_there_is(found), "name both ends"
        )
    if not found[0].info:
        left = "yet" if found[0].state == "SYN-RECV" else "any more"
        raise NoConnection(
            f"the connection {named} has no struct tcp_info",
            f"it is in {found[0].state} and has no socket {left}",
            "vnic ss -tao shows what is known of it",
        )
    return found[0]


def _ends(sock: Sock) -> list[End]:
    return [(int(end.address), end.port) for end in (sock.local, sock.peer)]


def _end(text: str) -> End:
    try:
        return parse_end(text)
    except ValueError as error:
        raise NoConnection(
            f"{text!r} is no address with a port", str(error), "such as 10.0.2.15:40000 or [fd00::15]:40000"
        ) from error


def _what_there_is(socks: Sequence[Sock]) -> str:
    if not socks:
        return "there is no connection at all"
    shown = [f"{sock.local} {sock.peer} ({sock.state})" for sock in socks[:_SHOWN_ENDS]]
    more = len(socks) - len(shown)
    return "\n".join(["there are:", *shown, *([f"and {more} more"] if more else [])])


def values(sock: Sock) -> dict[str, int]:
    """The fields as the kernel numbers them, by the kernel's names."""
    options = sock.info[_PREFIX + "options"]
    bits = sum(bit for name, bit in OPTIONS.items() if options[name])
    found: dict[str, Any] = {**sock.info, _PREFIX + "options": bits}
    return {_PREFIX + name: found[_PREFIX + name] for name in FIELDS if _PREFIX + name in found}


def rows(info: dict[str, int]) -> Iterator[Row]:
    """Name, value with its unit, meaning."""
    for name, value in info.items():
        field = name.removeprefix(_PREFIX)
        yield name, _shown(field, value), FIELDS[field][1]


def changed(before: dict[str, int], now: dict[str, int]) -> Iterator[Row]:
    """The fields that are not what they were, with the difference."""
    for name, value in now.items():
        if value != before[name]:
            yield name, _shown(name.removeprefix(_PREFIX), value), f"{value - before[name]:+}"


def _shown(field: str, value: int) -> str:
    """ "10000 us", "1 ESTABLISHED", "7 timestamps sack wscale", "none yet"."""
    if (field, value) in _NONE:
        return _NONE[field, value]
    return f"{value} {_words(field, value)}".rstrip()


def _words(field: str, value: int) -> str:
    if field == "state":
        return TCP_STATE_NAMES.get(value, "")
    if field == "ca_state":
        return _CA_STATES[value] if value < len(_CA_STATES) else ""
    if field == "options":
        return " ".join(name for name, bit in OPTIONS.items() if value & bit)
    return FIELDS[field][0]


def head(sock: Sock) -> str:
    """ "10.0.2.2:7 < 10.0.2.15:40000 ESTAB cubic": the connection's ends, local one first."""
    return f"{sock.local} < {sock.peer} {sock.state} {sock.info['congestion_control'] or ''}".rstrip()


def text(table: Sequence[Row]) -> str:
    """In columns."""
    widths = [max((len(row[i]) for row in table), default=0) for i in (0, 1)]
    return "".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {rest}\n" for name, value, rest in table)
