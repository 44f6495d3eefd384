# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/net/snmp, /proc/net/netstat and /proc/net/sockstat of one Stack: net/ipv4/proc.c.

The text is what `nstat`, `netstat -s` and `ss -s` read: of the first two a line of names and a line of numbers per
group, in the kernel's order.  Counters that the profile's kernel does not have are left out.  ICMP's counts by type
come from the per-type counters, as in the kernel.  UDP-Lite is there with zeros, since the kernels print it; a kernel
with Multipath TCP adds a group MPTcpExt, which this stack has not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from stack.include.snmp import (
    SNMP4_IPSTATS_IN_SNMP,
    snmp4_icmp_list,
    snmp4_ipstats_list,
    snmp4_net_list,
    snmp4_tcp_list,
    snmp4_udp_list,
)
from stack.include.tcp_states import TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_NEW_SYN_RECV, TCP_TIME_WAIT
from stack.profile import Profile

if TYPE_CHECKING:
    from stack.stack import Stack

# RFC 4022: 1 is "other"; times in ms; no fixed limit of connections.
_TCP_CONSTANTS: Final = {"RtoAlgorithm": 1, "RtoMin": 200, "RtoMax": 120000, "MaxConn": -1}

# icmpmibmap: the ICMP types that have a counter of their own.
_ICMP_TYPES: Final = {
    "DestUnreachs": 3,
    "TimeExcds": 11,
    "ParmProbs": 12,
    "SrcQuenchs": 4,
    "Redirects": 5,
    "Echos": 8,
    "EchoReps": 0,
    "Timestamps": 13,
    "TimestampReps": 14,
    "AddrMasks": 17,
    "AddrMaskReps": 18,
}

# icmpmsg_put(): so many types on a line.
_PERLINE: Final = 16
_PAGE: Final = 4096

Group = dict[str, int]


def _known(profile: Profile, names: Iterable[str], values: Iterable[int]) -> Group:
    absent = profile.absent_counters
    return {n: v for n, v in zip(names, values, strict=True) if n not in absent}


def _ip(net: Stack) -> Group:
    end = SNMP4_IPSTATS_IN_SNMP
    named = _known(net.profile, snmp4_ipstats_list[:end], net.mib.ip_statistics[:end])
    return {"Forwarding": 2, "DefaultTTL": net.ipv4.sysctl_ip_default_ttl, **named}


def _icmp(net: Stack) -> Group:
    stats = net.mib.icmp_statistics
    group = _known(net.profile, snmp4_icmp_list, stats)
    by_type = net.mib.icmpmsg_statistics
    for name, number in _ICMP_TYPES.items():
        group["In" + name] = by_type[number]
        group["Out" + name] = by_type[256 + number]
    return group


def _icmpmsg(net: Stack) -> Group:
    counts = net.mib.icmpmsg_statistics
    group = {f"InType{n}": counts[n] for n in range(256) if counts[n]}
    group.update({f"OutType{n}": counts[256 + n] for n in range(256) if counts[256 + n]})
    return group


def curr_estab(net: Stack) -> int:
    """Connections that are ESTABLISHED or CLOSE_WAIT: a gauge, so it is counted in the table."""
    chains = net.tcp_hashinfo.ehash.values()
    return sum(sk.sk_state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT) for chain in chains for sk in chain)


def _tcp(net: Stack) -> Group:
    group = _known(net.profile, snmp4_tcp_list, net.mib.tcp_statistics)
    group.update(_TCP_CONSTANTS)
    group["CurrEstab"] = curr_estab(net)
    return group


def snmp_groups(net: Stack) -> dict[str, Group]:
    """/proc/net/snmp as dicts: Ip, Icmp, IcmpMsg (only what happened), Tcp, Udp, UdpLite."""
    udp = _known(net.profile, snmp4_udp_list, net.mib.udp_statistics)
    return {
        "Ip": _ip(net),
        "Icmp": _icmp(net),
        "IcmpMsg": _icmpmsg(net),
        "Tcp": _tcp(net),
        "Udp": udp,
        "UdpLite": dict.fromkeys(udp, 0),
    }


def netstat_groups(net: Stack) -> dict[str, Group]:
    """/proc/net/netstat as dicts: TcpExt, IpExt."""
    end = SNMP4_IPSTATS_IN_SNMP
    return {
        "TcpExt": _known(net.profile, snmp4_net_list, net.mib.net_statistics),
        "IpExt": _known(net.profile, snmp4_ipstats_list[end:], net.mib.ip_statistics[end:]),
    }


def _lines(name: str, group: Group) -> list[str]:
    return [f"{name}: {' '.join(group)}", f"{name}: {' '.join(str(v) for v in group.values())}"]


def icmpmsg_put(group: Group) -> list[str]:
    """Only the types that happened, at most 16 on a pair of lines."""
    items = list(group.items())
    lines = []
    for at in range(0, len(items), _PERLINE):
        lines += _lines("IcmpMsg", dict(items[at : at + _PERLINE]))
    return lines


def _text(groups: dict[str, Group]) -> str:
    lines = []
    for name, group in groups.items():
        lines += icmpmsg_put(group) if name == "IcmpMsg" else _lines(name, group)
    return "\n".join(lines) + "\n"


def snmp_seq_show(net: Stack) -> str:
    """The text of /proc/net/snmp."""
    return _text(snmp_groups(net))


def netstat_seq_show(net: Stack) -> str:
    """The text of /proc/net/netstat."""
    return _text(netstat_groups(net))


def _pages(socks: Iterable[Any]) -> int:
    """What the sockets' queues hold, in pages."""
    return sum((sk.sk_rmem_alloc + sk.sk_wmem_queued + _PAGE - 1) // _PAGE for sk in socks)


def _opened(net: Stack) -> list[Any]:
    """The sockets that an application has a descriptor of."""
    return [file.private_data.sk for file in net.files.fdt.values() if file.private_data is not None]


def _tcp_socks(net: Stack) -> dict[int, Any]:
    """Every full TCP socket, by identity: those in the tables and those that only a descriptor holds."""
    info = net.tcp_hashinfo
    chains = (*info.ehash.values(), *info.listening_hash.values())
    small = (TCP_NEW_SYN_RECV, TCP_TIME_WAIT)
    socks = {id(sk): sk for chain in chains for sk in chain if sk.sk_state not in small}
    socks.update({id(sk): sk for sk in _opened(net) if sk.sk_prot.name == "TCP"})
    return socks


def sockstat_seq_show(net: Stack) -> str:
    """The text of /proc/net/sockstat: sockets by protocol, memory in pages (FRAG: in bytes).

    ``inuse`` counts the sockets in the protocol's tables, ``alloc`` every full socket, ``tw`` those in TIME_WAIT,
    ``orphan`` those that no application has."""
    tcp = _tcp_socks(net)
    udp = {id(sk): sk for chain in net.udp_table.hash.values() for sk in chain}
    opened = {id(sk) for sk in _opened(net)}
    frag = net.ipv4_fqdir
    return (
        f"sockets: used {len(opened | tcp.keys() | udp.keys())}\n"
        f"TCP: inuse {net.core.prot_inuse.get('TCP', 0)} orphan {net.ipv4.tcp_orphan_count}"
        f" tw {net.tcp_death_row.tw_refcount} alloc {len(tcp)} mem {_pages(tcp.values())}\n"
        f"UDP: inuse {len(udp)} mem {_pages(udp.values())}\n"
        "UDPLITE: inuse 0\nRAW: inuse 0\n"
        f"FRAG: inuse {len(frag.queues)} memory {frag.mem}\n"
    )


def proc_net(net: Stack) -> dict[str, str]:
    """The three files by name."""
    return {
        "snmp": snmp_seq_show(net),
        "netstat": netstat_seq_show(net),
        "sockstat": sockstat_seq_show(net),
    }


def counters(net: Stack) -> Group:
    """All counters that are not 0, named as `nstat` does: "TcpExtListenOverflows", "IpInReceives"."""
    out: Group = {}
    for groups in (snmp_groups(net), netstat_groups(net)):
        for prefix, group in groups.items():
            out.update({prefix + name: value for name, value in group.items() if value})
    for name in (*_TCP_CONSTANTS, "Forwarding", "DefaultTTL"):
        out.pop("Tcp" + name, None)
        out.pop("Ip" + name, None)
    return out
