# SPDX-License-Identifier: GPL-2.0-or-later
"""What the page shows of a back end: plain dicts made from a Stack and its Port, each of bounded size.

Nothing here changes the stack, and what a look costs does not grow with the connections but for counting them: the
``MAX_ROWS`` youngest are described, of the others only how many there are is said.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_interface
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from stack.include.tcp_states import TCP_NEW_SYN_RECV, TCP_TIME_WAIT
from stack.inspect import ss, tcpinfo
from stack.inspect.conversation import parse_end
from stack.inspect.snapshot import counters, devices, tcp_sockets, udp_sockets
from stack.trace.packets import state_name
from stack.trace.recorder import socket_flow
from vnic.control import flow_text

if TYPE_CHECKING:
    from devmodel.port import Port
    from stack.include.sock import sock_common
    from stack.stack import Stack

MAX_ROWS: Final = 100
MAX_ADDRESSES: Final = 4
_NO_TCP: Final[dict[str, list[Any]]] = {"listeners": [], "connections": [], "requests": [], "time_wait": []}
Ends = tuple[int, int, int, int]
"""Local address and port, the peer's, as ``stack.trace.recorder.socket_flow`` has them."""


def about(net: Stack, port: Port) -> dict[str, Any]:
    """What hardly ever changes: who this is.  ``addresses`` are those that a guest would type."""
    addresses = [a for dev in devices(net) for a in (*dev["addresses"], *dev["addresses6"])]
    return {
        "profile": net.profile.name,
        "port": port.name,
        "link_up": port.link_up,
        "addresses": [a for a in addresses if not _is_own(a)][:MAX_ADDRESSES],
    }


def _is_own(cidr: str) -> bool:
    address = ip_interface(cidr).ip
    return address.is_loopback or address.is_link_local


# -- sockets -----------------------------------------------------------------------------------------------------------


def parse_ends(text: str) -> Ends:
    """ "10.0.2.2:7 < 10.0.2.15:40000", as ``vnic.control.flow_text`` writes it; ValueError for anything else."""
    local, found, peer = text.partition(" < ")
    if not found:
        raise ValueError(f"{text[:100]!r} is no connection")
    return (*parse_end(local), *parse_end(peer))


def connections(net: Stack, port: int | None = None) -> dict[str, Any]:
    """What hangs in ehash, the youngest first, all of it or that with this port at either end: ``rows`` of some,
    ``more`` is how many others there are, ``states`` counts all of them."""
    found = [sk for sk in _youngest(net) if port is None or port in (sk.sk_num, sk.sk_dport)]
    states = Counter(ss.STATES[state_name(sk)] for sk in found)
    rows = [_connection(sk, sock) for sk, sock in _described(net, found[:MAX_ROWS])]
    return {"rows": rows, "more": len(found) - len(rows), "states": dict(sorted(states.items()))}


def _youngest(net: Stack) -> list[sock_common]:
    """As far as the chains tell: they come into ehash with their first member, and stay."""
    return [sk for chain in reversed(net.tcp_hashinfo.ehash.values()) for sk in chain]


def _described(net: Stack, chosen: list[sock_common]) -> list[tuple[sock_common, ss.Sock]]:
    """Each with what ss says of it, in the order given."""
    by_kind = sorted(chosen, key=lambda sk: _ORDER.get(sk.sk_state, 0))
    told = ss.sockets({"devices": [], "udp": [], "tcp": tcp_sockets(net, by_kind)})
    found = {id(sk): sock for sk, sock in zip(by_kind, told, strict=True)}
    return [(sk, found[id(sk)]) for sk in chosen]


_ORDER: Final = {TCP_NEW_SYN_RECV: 1, TCP_TIME_WAIT: 2}  # that of ss: connections, requests, TIME_WAIT


def _connection(sk: sock_common, sock: ss.Sock) -> dict[str, Any]:
    info, timer = sock.info, sock.entry.get("timer")
    return {
        "key": flow_text(socket_flow(sk)),
        "state": sock.state,
        "local": str(sock.local),
        "peer": str(sock.peer),
        "recv_q": sock.recv_q,
        "send_q": sock.send_q,
        "cwnd": info.get("tcpi_snd_cwnd"),
        "rtt_us": info.get("tcpi_rtt"),
        "retrans": info.get("tcpi_total_retrans"),
        "timer": timer["name"] if timer else "",
    }


def listeners(net: Stack) -> dict[str, Any]:
    """TCP's with their queues, then UDP's sockets."""
    info = net.tcp_hashinfo
    listening = [sk for chain in info.listening_hash.values() for sk in chain]
    udp = sum(map(len, net.udp_table.hash.values()))
    snapshot = {
        "devices": [],
        "udp": udp_sockets(net, MAX_ROWS),
        "tcp": {**_NO_TCP, **tcp_sockets(net, listening[:MAX_ROWS])},
    }
    socks = sorted(ss.sockets(snapshot), key=lambda sock: sock.netid)  # tcp first
    rows = [_listener(sock) for sock in socks[:MAX_ROWS]]
    return {"rows": rows, "more": len(listening) + udp - len(rows)}


def _listener(sock: ss.Sock) -> dict[str, Any]:
    """``backlog`` is the limit of both queues, the accepted-to-be (``recv_q``) and the half-open (``qlen``)."""
    tcp = sock.state == "LISTEN"
    return {
        "netid": sock.netid,
        "local": str(sock.local),
        "recv_q": sock.recv_q,
        "backlog": sock.entry["backlog"] if tcp else None,
        "qlen": sock.entry["qlen"] if tcp else None,
        "young": sock.entry["young"] if tcp else None,
    }


def detail(net: Stack, ends: Ends) -> dict[str, Any]:
    """All that is known of the connection with these ends: struct tcp_info if it has one, else what there is."""
    sk = next((sk for sk in _youngest(net) if socket_flow(sk) == ends), None)
    if sk is None:
        return {"gone": True}
    ((_, sock),) = _described(net, [sk])
    shown = ss.Details(timer=True, info=True, memory=True, extended=True)
    head = f"{sock.local} < {sock.peer} {sock.state}"
    words = [*ss.process_words(sock, shown).split(), *ss.info_words(sock, ss.Details(memory=True))]
    rows = list(tcpinfo.rows(tcpinfo.values(sock))) if sock.info else []
    return {"head": head, "words": words, "rows": rows}


# -- counters ----------------------------------------------------------------------------------------------------------


def counted(net: Stack, port: Port) -> dict[str, int]:
    """Everything that is counted, but for zeros: the kernel's counters by nstat's names, "eth0 rx_packets" of devices,
    "port tx_frames" of the port, "drop NO_SOCKET" of dropped packets."""
    found = dict(counters(net))
    for dev in devices(net):
        found |= {f"{dev['name']} {name}": value for name, value in dev["stats"].items()}
    found |= {f"port {name}": value for name, value in port.stats().items()}
    found |= {f"drop {name}": value for name, value in net.drop_reasons.items()}
    return {name: value for name, value in found.items() if value}


def seconds(net: Stack) -> float:
    """The stack's clock."""
    return net.clock.now_ns() / 1e9


# -- the tables as a picture -------------------------------------------------------------------------------------------

MAX_DRAWN: Final = 40  # sockets of each kind


def drawn(net: Stack) -> tuple[list[sock_common], int]:
    """Whom a picture of the tables shows, and how many it leaves out."""
    members = net.tcp_hashinfo
    listening = [sk for chain in members.listening_hash.values() for sk in chain]
    hashed = _youngest(net)
    chosen = [*islice(listening, MAX_DRAWN), *islice(hashed, MAX_DRAWN)]
    return chosen, len(listening) + len(hashed) - len(chosen)
