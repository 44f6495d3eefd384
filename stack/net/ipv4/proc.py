# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/net/snmp and /proc/net/netstat of one Stack: net/ipv4/proc.c.

The text is what `nstat` and `netstat -s` read: a line of names, a line of numbers, per group.  Counters that the
profile's kernel does not have are left out.  ICMP's counts by type come from the per-type counters, as in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from stack.include.snmp import (
    SNMP4_IPSTATS_IN_SNMP,
    snmp4_icmp_list,
    snmp4_ipstats_list,
    snmp4_net_list,
    snmp4_tcp_list,
    snmp4_udp_list,
)
from stack.include.tcp_states import TCP_CLOSE_WAIT, TCP_ESTABLISHED
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
    """/proc/net/snmp as dicts: Ip, Icmp, IcmpMsg (only what happened), Tcp, Udp."""
    return {
        "Ip": _ip(net),
        "Icmp": _icmp(net),
        "IcmpMsg": _icmpmsg(net),
        "Tcp": _tcp(net),
        "Udp": _known(net.profile, snmp4_udp_list, net.mib.udp_statistics),
    }


def netstat_groups(net: Stack) -> dict[str, Group]:
    """/proc/net/netstat as dicts: TcpExt, IpExt."""
    end = SNMP4_IPSTATS_IN_SNMP
    return {
        "TcpExt": _known(net.profile, snmp4_net_list, net.mib.net_statistics),
        "IpExt": _known(net.profile, snmp4_ipstats_list[end:], net.mib.ip_statistics[end:]),
    }


def _text(groups: dict[str, Group]) -> str:
    lines = []
    for name, group in groups.items():
        if group:
            lines.append(f"{name}: {' '.join(group)}")
            lines.append(f"{name}: {' '.join(str(v) for v in group.values())}")
    return "\n".join(lines) + "\n"


def snmp_seq_show(net: Stack) -> str:
    """The text of /proc/net/snmp."""
    return _text(snmp_groups(net))


def netstat_seq_show(net: Stack) -> str:
    """The text of /proc/net/netstat."""
    return _text(netstat_groups(net))


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
