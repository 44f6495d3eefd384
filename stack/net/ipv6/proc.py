# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/net/snmp6 of one Stack: net/ipv6/proc.c.

One line per counter.  Types of ICMPv6 messages have a named line each, and a numbered one for every type that was seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.snmp import (
    icmp6type2name,
    snmp4_udp_list,
    snmp6_icmp6_list,
    snmp6_ipstats_list,
)

if TYPE_CHECKING:
    from stack.stack import Stack

_WIDTH: Final = 32


def snmp6_counters(net: Stack) -> dict[str, int]:
    """All lines by name, in the order of the file; those that the profile's kernel lacks are left out."""
    mib = net.mib
    absent = net.profile.absent_counters
    out: dict[str, int] = {}
    for prefix, names, values in (
        ("Ip6", snmp6_ipstats_list, mib.ipv6_statistics),
        ("Icmp6", snmp6_icmp6_list, mib.icmpv6_statistics),
    ):
        out.update({name: values[at] for name, at in names if name.removeprefix(prefix) not in absent})
    by_type = mib.icmpv6msg_statistics
    for way, base in (("In", 0), ("Out", 256)):
        for icmp6_type, name in icmp6type2name:
            out[f"Icmp6{way}{name}"] = by_type[base + icmp6_type]
    for number in range(256):
        for way, base in (("In", 0), ("Out", 256)):
            if by_type[base + number]:
                out[f"Icmp6{way}Type{number}"] = by_type[base + number]
    for name, value in zip(snmp4_udp_list, mib.udp_stats_in6, strict=True):
        out[f"Udp6{name}"] = value
    return out


def snmp6_seq_show(net: Stack) -> str:
    """The text of /proc/net/snmp6."""
    return "".join(f"{name:<{_WIDTH}}\t{value}\n" for name, value in snmp6_counters(net).items())
