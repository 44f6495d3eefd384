# SPDX-License-Identifier: GPL-2.0-or-later
"""struct inet_sock and struct ip_options: include/net/inet_sock.h."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.sock import sock
from stack.include.tcp_states import TCP_TRANSITIONS, tcp_transition_text

if TYPE_CHECKING:
    from stack.include.ipv6 import ipv6_pinfo
    from stack.stack import Stack

IP_PMTUDISC_DONT: Final = 0
IP_PMTUDISC_WANT: Final = 1
IP_PMTUDISC_DO: Final = 2
IP_PMTUDISC_PROBE: Final = 3
IP_PMTUDISC_INTERFACE: Final = 4
IP_PMTUDISC_OMIT: Final = 5


class ip_options:
    """struct ip_options: the options of an IPv4 header as received (``data``, at most 40 bytes) and what
    ``ip_options_compile`` found in them.  ``rr_needaddr``, ``ts_needaddr`` and ``ts_needtime``: whoever sends the
    options fills the entry before the pointer; ``is_changed``: a receiver has filled one."""

    __slots__ = (
        "data",
        "faddr",
        "is_changed",
        "is_strictroute",
        "nexthop",
        "optlen",
        "router_alert",
        "rr",
        "rr_needaddr",
        "srr",
        "ts",
        "ts_needaddr",
        "ts_needtime",
    )

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.optlen = len(data)
        self.faddr = self.nexthop = 0
        self.srr = self.rr = self.ts = self.router_alert = 0
        self.is_strictroute = self.is_changed = False
        self.rr_needaddr = self.ts_needaddr = self.ts_needtime = False


class inet_sock(sock):
    """struct inet_sock.  The kernel's ``inet_daddr``, ``inet_rcv_saddr``, ``inet_dport`` and ``inet_num`` are
    names for members of sock_common, here as there; ``inet_saddr`` and ``inet_sport`` are its own."""

    __slots__ = (
        "bind_address_no_port",
        "cmsg_flags",
        "cork_queue",
        "defer_connect",
        "freebind",
        "inet_id",
        "inet_opt",
        "inet_saddr",
        "inet_sport",
        "local_port_range",
        "mc_addr",
        "mc_all",
        "mc_index",
        "mc_loop",
        "mc_ttl",
        "min_ttl",
        "pinet6",
        "pmtudisc",
        "rcv_tos",
        "recverr",
        "recverr_rfc4884",
        "tos",
        "transparent",
        "uc_index",
        "uc_ttl",
    )

    def __init__(self, net: Stack, family: int) -> None:
        super().__init__(net, family)
        self.inet_saddr = 0
        self.inet_sport = 0
        self.inet_id = 0
        self.inet_opt: ip_options | None = None
        self.tos = 0
        self.rcv_tos = 0
        self.uc_ttl = -1
        self.mc_ttl = 1
        self.mc_loop = True
        self.mc_all = False
        self.mc_index = 0  # the device that multicasts leave by
        self.mc_addr = 0  # and the address that they come from
        self.uc_index = 0  # the same of anything else, if nothing decides
        self.local_port_range = 0  # the upper end's 16 bits, then the lower end's
        self.bind_address_no_port = False
        self.min_ttl = 0
        self.pinet6: ipv6_pinfo | None = None  # of an AF_INET6 socket
        self.pmtudisc = IP_PMTUDISC_WANT
        self.recverr = False
        self.recverr_rfc4884 = False
        self.freebind = False
        self.transparent = False
        self.cmsg_flags = 0
        self.cork_queue: list[bytes] = []
        self.defer_connect = False  # connect() is done, and the SYN waits for data (TCP_FASTOPEN_CONNECT)


def inet_sk_set_state(sk: inet_sock, state: int) -> None:
    """The one door through which a TCP socket changes its state: net/ipv4/af_inet.c."""
    old = sk.sk_state
    assert old == state or (old, state) in TCP_TRANSITIONS, tcp_transition_text(old, state)
    sk.sk_state = state
