# SPDX-License-Identifier: GPL-2.0-or-later
"""A Stack's tables as one plain dict: what ss, nstat, the pictures and the reports are views of.

Only ints, strings, booleans, None, lists and dicts, so that json.dumps takes it.  Addresses are text, times are
nanoseconds of the stack's clock (``time_ns``) or what a key's name says, sequence numbers are absolute.  A socket has
an ``id``, a number within this snapshot, so that pointers between entries (``listener``, ``owners``, ``child``) can be
drawn; from one snapshot to the next a socket is known by its addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stack.include.inet_connection_sock import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
)
from stack.include.ip import in_ntoa
from stack.include.ipv6 import in6_ntop
from stack.include.neighbour import NUD_STATE_NAMES, neigh_table
from stack.include.sock import AF_INET6
from stack.include.tcp import (
    TCPI_OPT_ECN,
    TCPI_OPT_ECN_SEEN,
    TCPI_OPT_SACK,
    TCPI_OPT_SYN_DATA,
    TCPI_OPT_TFO_CHILD,
    TCPI_OPT_TIMESTAMPS,
    TCPI_OPT_WSCALE,
)
from stack.include.tcp_states import (
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_STATE_NAMES,
    TCP_TIME_WAIT,
)
from stack.kernel.time.timer import jiffies, jiffies_to_msecs, timer_pending
from stack.net.core.sock import sk_get_meminfo
from stack.net.ipv4 import devinet, proc
from stack.net.ipv4.tcp import tcp_get_info
from stack.net.ipv6 import addrconf
from stack.net.ipv6 import proc as proc6

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.include.sock import sock, sock_common
    from stack.include.timer import timer_list
    from stack.stack import Stack

Table = list[dict[str, Any]]
_Sock = TypeVar("_Sock", bound="sock_common")
Descriptors = dict[int, list[int]]  # of the sockets, by id()


class _Refs:
    """Numbers objects in the order in which they are met: the same run gives the same numbers."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._alive: list[object] = []  # no id() may be used again while this counts

    def __call__(self, obj: object) -> int | None:
        if obj is None:
            return None
        self._alive.append(obj)
        return self._numbers.setdefault(id(obj), len(self._numbers) + 1)


_DEVICE_COUNTERS = (
    *("rx_packets", "rx_bytes", "rx_dropped", "rx_errors"),
    *("tx_packets", "tx_bytes", "tx_dropped"),
)


def snapshot(net: Stack) -> dict[str, Any]:
    """Everything; each part is also a function here."""
    return {
        "time_ns": net.clock.now_ns(),
        "jiffies": jiffies(net),
        "profile": net.profile.name,
        "next_deadline_ns": net.next_deadline(),
        "devices": devices(net),
        "routes": routes(net),
        "routes6": routes6(net),
        "neighbours": neighbours(net),
        "neighbours6": _neighbours(net, net.nd_tbl, in6_ntop),
        "fragments": {"queues": len(net.ipv4_fqdir.queues), "mem": net.ipv4_fqdir.mem},
        "fragments6": {"queues": len(net.ipv6_fqdir.queues), "mem": net.ipv6_fqdir.mem},
        "snmp": proc.snmp_groups(net),
        "snmp6": proc6.snmp6_counters(net),
        "netstat": proc.netstat_groups(net),
        "proc_net": proc.proc_net(net),
        "drop_reasons": dict(sorted(net.drop_reasons.items())),
        "udp": udp_sockets(net),
        "tcp": tcp_tables(net),
    }


def counters(net: Stack) -> dict[str, int]:
    """Every counter of /proc/net/snmp, netstat and snmp6, named as by nstat: "TcpExtListenDrops"."""
    groups = {**proc.snmp_groups(net), **proc.netstat_groups(net)}
    named = {group + name: value for group, names in groups.items() for name, value in names.items()}
    return {**named, **proc6.snmp6_counters(net)}


def devices(net: Stack) -> Table:
    return [_device(dev) for dev in net.devices.values()]


def _device(dev: net_device) -> dict[str, Any]:
    return {
        "name": dev.name,
        "ifindex": dev.ifindex,
        "mac": dev.dev_addr.hex(":"),
        "mtu": dev.mtu,
        "flags": dev.flags,
        "features": dev.features,
        "addresses": devinet.ifaddrs(dev),
        "addresses6": addrconf.ifaddrs6(dev),
        "tx_queue": len(dev.tx_queue),
        "stats": {name: getattr(dev.stats, name) for name in _DEVICE_COUNTERS},
    }


def routes(net: Stack) -> Table:
    """The main table, in the order in which it is searched."""
    return [
        {
            "dst": f"{in_ntoa(r.prefix)}/{r.prefixlen}",
            "gateway": in_ntoa(r.gateway) if r.gateway else None,
            "dev": r.dev.name,
            "prefsrc": in_ntoa(r.prefsrc) if r.prefsrc else None,
            "proto": r.proto,
        }
        for r in net.fib.main
    ]


def routes6(net: Stack) -> Table:
    """The main table of IPv6, in the order in which it is searched."""
    return [
        {
            "dst": f"{in6_ntop(r.prefix)}/{r.plen}",
            "gateway": in6_ntop(r.gateway) if r.gateway else None,
            "dev": r.dev.name,
            "proto": r.proto,
        }
        for r in net.fib6.main
    ]


def neighbours(net: Stack) -> Table:
    return _neighbours(net, net.arp_tbl, in_ntoa)


def _neighbours(net: Stack, tbl: neigh_table, ntop: Callable[[int], str]) -> Table:
    now = jiffies(net)
    return [
        {
            "dst": ntop(n.primary_key),
            "dev": n.dev.name,
            "lladdr": n.ha.hex(":") if n.ha else None,
            "state": NUD_STATE_NAMES[n.nud_state],
            "probes": n.probes,
            "queued": len(n.arp_queue),
            "confirmed_ms_ago": jiffies_to_msecs(now - n.confirmed),
        }
        for n in tbl.hash.values()
    ]


def _descriptors(net: Stack) -> Descriptors:
    """Which descriptors of the stack's own table hold each socket; dup() makes several."""
    found: Descriptors = {}
    for fd, file in sorted(net.files.fdt.items()):
        if file.private_data is not None:
            found.setdefault(id(file.private_data.sk), []).append(fd)
    return found


# The numbers of SO_MEMINFO, in its order (SK_MEMINFO_*).
_MEMINFO: Final = (
    *("rmem_alloc", "rcvbuf", "wmem_alloc", "sndbuf", "fwd_alloc"),
    *("wmem_queued", "optmem", "backlog", "drops"),
)


def _full_socket(sk: sock, fds: Descriptors) -> dict[str, Any]:
    """What a socket has that is neither a request nor what is left of one in TIME_WAIT.  ``cookie`` is 0 until somebody
    asks the socket for it: looking does not change the stack."""
    return {
        "fds": fds.get(id(sk), []),
        "cookie": sk.sk_cookie,
        "shutdown": sk.sk_shutdown,
        "v6only": sk.sk_ipv6only,
        "dev": sk.sk_bound_dev_if,
        "mem": dict(zip(_MEMINFO, memoryview(sk_get_meminfo(sk)).cast("I"), strict=True)),
    }


def udp_sockets(net: Stack, most: int | None = None) -> Table:
    """All of them, or the first ``most``."""
    fds = _descriptors(net)
    return [
        {
            **_full_socket(sk, fds),
            "state": TCP_STATE_NAMES[sk.sk_state],
            "local": _local(sk),
            "remote": _remote(sk),
            "recv_q": sk.sk_rmem_alloc,
            "send_q": sk.sk_wmem_alloc,
            "rcvbuf": sk.sk_rcvbuf,
        }
        for sk in islice(_members(net.udp_table.hash), most)
    ]


def _local(sk: sock_common) -> str:
    """ "10.0.2.2:80", "[fd00::2]:80"."""
    if sk.sk_family == AF_INET6:
        return f"[{in6_ntop(sk.sk_v6_rcv_saddr)}]:{sk.sk_num}"
    return f"{in_ntoa(sk.sk_rcv_saddr)}:{sk.sk_num}"


def _remote(sk: sock_common) -> str:
    if sk.sk_family == AF_INET6:
        return f"[{in6_ntop(sk.sk_v6_daddr)}]:{sk.sk_dport}"
    return f"{in_ntoa(sk.sk_daddr)}:{sk.sk_dport}"


# -- TCP ---------------------------------------------------------------------------------------------------------------


def tcp_tables(net: Stack, chosen: Sequence[sock_common] | None = None) -> dict[str, Any]:
    """What hangs in inet_hashinfo, by kind, and the bind buckets with their owners.  With ``chosen`` only these, and
    the buckets that one of them is in; a bind bucket names its other owners too."""
    info = net.tcp_hashinfo
    ref = _Refs()
    kinds = _by_kind(net, _tcp_members(net) if chosen is None else chosen, ref)
    shown = None if chosen is None else {id(sk) for sk in chosen}
    return {
        **kinds,
        "bind_buckets": [
            {
                "bucket": slot,
                "port": tb.port,
                "fastreuse": tb.fastreuse,
                "fastreuseport": tb.fastreuseport,
                "owners": [ref(sk) for sk in tb.owners],
            }
            for slot, chain in info.bhash.items()
            for tb in chain
            if shown is None or any(id(sk) in shown for sk in tb.owners)
        ],
        "listening_buckets": _chains(info.listening_hash, shown, ref),
        "ehash_buckets": _chains(info.ehash, shown, ref),
    }


def _chains(
    table: dict[int, list[sock_common]], shown: set[int] | None, ref: _Refs
) -> dict[int, list[int | None]]:
    kept = {
        slot: [ref(sk) for sk in chain if shown is None or id(sk) in shown] for slot, chain in table.items()
    }
    return {slot: chain for slot, chain in kept.items() if chain}


def tcp_sockets(net: Stack, chosen: Iterable[sock_common]) -> dict[str, Table]:
    """These alone, by kind, as ``tcp_tables`` has them: for who looks often and shows a few of many."""
    return _by_kind(net, chosen, _Refs())


def _tcp_members(net: Stack) -> Iterator[sock_common]:
    """Who hangs in listening_hash, then who hangs in ehash."""
    yield from _members(net.tcp_hashinfo.listening_hash)
    yield from _members(net.tcp_hashinfo.ehash)


def _members(table: Mapping[Any, Iterable[_Sock]]) -> Iterator[_Sock]:
    return (sk for chain in table.values() for sk in chain)


def _by_kind(net: Stack, chosen: Iterable[sock_common], ref: _Refs) -> dict[str, Table]:
    found: dict[int, list[sock_common]] = {}
    for sk in chosen:
        found.setdefault(sk.sk_state if sk.sk_state in _KINDS else TCP_ESTABLISHED, []).append(sk)
    fds = _descriptors(net)
    return {
        "listeners": [_listener(sk, ref, fds) for sk in found.get(TCP_LISTEN, ())],
        "requests": [_request(sk, ref) for sk in found.get(TCP_NEW_SYN_RECV, ())],
        "connections": [_connection(sk, ref, fds) for sk in found.get(TCP_ESTABLISHED, ())],
        "time_wait": [_time_wait(sk, ref) for sk in found.get(TCP_TIME_WAIT, ())],
    }


_KINDS: Final = (TCP_LISTEN, TCP_NEW_SYN_RECV, TCP_TIME_WAIT)  # any other state is a connection's


def _common(sk: sock_common, ref: _Refs) -> dict[str, Any]:
    return {
        "id": ref(sk),
        "state": TCP_STATE_NAMES[sk.sk_state],
        "local": _local(sk),
        "remote": _remote(sk),
        "hash": sk.sk_hash,
    }


def _listener(sk: Any, ref: _Refs, fds: Descriptors) -> dict[str, Any]:
    queue = sk.icsk_accept_queue
    return {
        **_common(sk, ref),
        **_full_socket(sk, fds),
        "backlog": sk.sk_max_ack_backlog,
        "ack_backlog": sk.sk_ack_backlog,
        "qlen": queue.qlen,
        "young": queue.young,
        "accept_queue": [{"request": ref(req), "child": ref(req.sk)} for req in queue.rskq_accept_head],
        "bind_bucket": sk.icsk_bind_hash.port if sk.icsk_bind_hash is not None else None,
        "info": tcp_info(sk),
    }


def _request(req: Any, ref: _Refs) -> dict[str, Any]:
    timer = req.rsk_timer
    return {
        **_common(req, ref),
        "listener": ref(req.rsk_listener),
        "rcv_isn": req.rcv_isn,
        "snt_isn": req.snt_isn,
        "mss": req.mss,
        "num_retrans": req.num_retrans,
        "num_timeout": req.num_timeout,
        "expires_ns": timer.when_ns if timer is not None and timer.armed else None,
        "timer": _timer_of(req, timer, "on", req.num_retrans),
        "options": {
            "tstamp_ok": req.tstamp_ok,
            "sack_ok": bool(req.sack_ok),
            "wscale_ok": req.wscale_ok,
            "snd_wscale": req.snd_wscale,
            "rcv_wscale": req.rcv_wscale,
            "ecn_ok": req.ecn_ok,
        },
    }


def _connection(sk: Any, ref: _Refs, fds: Descriptors) -> dict[str, Any]:
    return {
        **_common(sk, ref),
        **_full_socket(sk, fds),
        "recv_q": (sk.rcv_nxt - sk.copied_seq) & 0xFFFFFFFF if sk.sk_state != TCP_LISTEN else 0,
        "send_q": (sk.write_seq - sk.snd_una) & 0xFFFFFFFF,
        "error": sk.sk_err,
        "bind_bucket": sk.icsk_bind_hash.port if sk.icsk_bind_hash is not None else None,
        "timer": _timer(sk),
        "info": tcp_info(sk),
    }


# Which names inet_diag has for the timer of icsk_pending.
_PENDING: Final = {
    ICSK_TIME_RETRANS: "on",
    ICSK_TIME_REO_TIMEOUT: "on",
    ICSK_TIME_LOSS_PROBE: "on",
    ICSK_TIME_PROBE0: "persist",
}


def _timer(sk: Any) -> dict[str, Any] | None:
    """The one timer of a connection that inet_diag tells of: what is in flight before what is only watched; None if
    nothing runs.  ``expires_ms`` as asked for, before the wheel rounds it; ``retrans`` is how often it fired."""
    name = _PENDING.get(sk.icsk_pending)
    if name is not None:
        retrans = sk.icsk_probes_out if name == "persist" else sk.icsk_retransmits
        return {"name": name, "expires_ms": _ms_until(sk, sk.icsk_timeout), "retrans": retrans}
    return _timer_of(sk, sk.sk_timer, "keepalive", sk.icsk_probes_out)


def _timer_of(sk: sock_common, timer: timer_list | None, name: str, retrans: int) -> dict[str, Any] | None:
    if timer is None or not timer_pending(timer):
        return None
    return {"name": name, "expires_ms": _ms_until(sk, timer.expires), "retrans": retrans}


def _ms_until(sk: sock_common, expires: int) -> int:
    return jiffies_to_msecs(max(expires - jiffies(sk.sk_net), 0))


# tcpi_options, bit by bit
OPTIONS: Final = {
    "timestamps": TCPI_OPT_TIMESTAMPS,
    "sack": TCPI_OPT_SACK,
    "wscale": TCPI_OPT_WSCALE,
    "ecn": TCPI_OPT_ECN,
    "ecn_seen": TCPI_OPT_ECN_SEEN,
    "syn_data": TCPI_OPT_SYN_DATA,
    "tfo_child": TCPI_OPT_TFO_CHILD,
}


def tcp_info(sk: Any) -> dict[str, Any]:
    """struct tcp_info in tcp_get_info()'s units, its options by name, with the sequence numbers beside it."""
    info: dict[str, Any] = dict(tcp_get_info(sk))
    options = info["tcpi_options"]
    info.update(
        tcpi_options={name: bool(options & bit) for name, bit in OPTIONS.items()},
        congestion_control=sk.icsk_ca_ops.name if sk.icsk_ca_ops is not None else None,
        snd_una=sk.snd_una,
        snd_nxt=sk.snd_nxt,
        write_seq=sk.write_seq,
        rcv_nxt=sk.rcv_nxt,
        copied_seq=sk.copied_seq,
    )
    return info


def _time_wait(tw: Any, ref: _Refs) -> dict[str, Any]:
    return {
        **_common(tw, ref),
        "substate": TCP_STATE_NAMES[tw.tw_substate],
        "snd_nxt": tw.tw_snd_nxt,
        "rcv_nxt": tw.tw_rcv_nxt,
        "expires_ns": tw.tw_timer.when_ns if tw.tw_timer.armed else None,
        "timer": _timer_of(tw, tw.tw_timer, "timewait", 0),
    }
