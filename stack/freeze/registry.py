# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions and tables of functions a frozen stack may name.

A state refers to code: the function of a timer, the callbacks of a socket, the tables of its protocol.  A frozen stack
has them by name, and thaw takes the names listed here and no others, so that a file from somebody else cannot make this
process call what its author likes.  Who adds a timer or a callback adds its name; a unit test reads the sources for
functions that are stored somewhere and complains about those that are missing.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from stack.include import sock as include_sock
from stack.net.core import dev, neighbour, request_sock, skbuff, sock, stream
from stack.net.ipv4 import (
    af_inet,
    arp,
    inet_connection_sock,
    inet_timewait_sock,
    ip_fragment,
    ip_input,
    ip_output,
    route,
    tcp_bbr,
    tcp_cong,
    tcp_cubic,
    tcp_dctcp,
    tcp_ipv4,
    tcp_output,
    tcp_timer,
    udp,
)
from stack.net.ipv6 import (
    af_inet6,
    ip6_input,
    ip6_output,
    ndisc,
    radv,
    reassembly,
    tcp_ipv6,
)
from stack.net.ipv6 import route as route6
from stack.net.ipv6 import udp as udp6

# What fields hold that are declared Callable.
_FUNCTIONS: Final[tuple[tuple[ModuleType, str], ...]] = (
    (include_sock, "_no_op"),
    (dev, "loopback_xmit"),
    (neighbour, "neigh_periodic_work neigh_timer_handler"),
    (request_sock, "_never"),
    (
        sock,
        "_no_timer sock_def_destruct sock_def_error_report sock_def_readable sock_def_wakeup sock_def_write_space",
    ),
    (sock, "sock_rfree sock_wfree"),
    (skbuff, "sock_rmem_free"),
    (stream, "sk_stream_write_space"),
    (af_inet, "inet_sock_destruct"),
    (arp, "arp_constructor arp_error_report arp_solicit"),
    (inet_connection_sock, "reqsk_timer_handler"),
    (inet_timewait_sock, "tw_timer_handler"),
    (ip_fragment, "ip_expire"),
    (ip_input, "ip_local_deliver"),
    (ip_output, "ip_output ip_mc_output"),
    (route, "ip_error"),
    (tcp_output, "tcp_pace_kick tcp_sync_mss tcp_wfree"),
    (tcp_timer, "tcp_compressed_ack_kick tcp_delack_timer tcp_keepalive_timer tcp_write_timer"),
    (ip6_input, "ip6_input ip6_mc_input"),
    (ip6_output, "ip6_output"),
    (ndisc, "ndisc_constructor ndisc_error_report ndisc_solicit"),
    (radv, "ra_timer"),
    (reassembly, "ip6_frag_expire"),
    (route6, "ip6_forward ip6_pkt_discard"),
)

# The tables of functions, of which there is one each per process: struct proto, proto_ops and the like.
_TABLES: Final[tuple[tuple[ModuleType, str], ...]] = (
    (af_inet, "inet_stream_ops inet_dgram_ops"),
    (route, "ipv4_dst_ops"),
    (tcp_bbr, "tcp_bbr_cong_ops"),
    (tcp_cong, "tcp_reno"),
    (tcp_cubic, "cubictcp"),
    (tcp_dctcp, "dctcp_ops dctcp_reno"),
    (
        tcp_ipv4,
        "tcp_request_sock_ops tcp_request_sock_ipv4_ops tcp_sock_ipv4_specific ipv4_specific tcp_prot",
    ),
    (udp, "udp_prot"),
    (af_inet6, "inet6_stream_ops inet6_dgram_ops"),
    (route6, "ip6_dst_ops"),
    (
        tcp_ipv6,
        "tcp6_request_sock_ops tcp_request_sock_ipv6_ops tcp_sock_ipv6_specific tcp_sock_ipv6_mapped_specific",
    ),
    (tcp_ipv6, "ipv6_specific ipv6_mapped tcpv6_prot"),
    (udp6, "udpv6_prot"),
)


def _named(table: tuple[tuple[ModuleType, str], ...]) -> dict[str, Any]:
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module, names in table
        for name in names.split()
    }


FUNCTIONS: Final[dict[str, Any]] = _named(_FUNCTIONS)
TABLES: Final[dict[str, Any]] = _named(_TABLES)
NAME_OF: Final[dict[int, str]] = {id(value): name for name, value in (*FUNCTIONS.items(), *TABLES.items())}
