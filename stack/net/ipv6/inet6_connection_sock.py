# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes of a connection over IPv6, and how its segments leave: net/ipv6/inet6_connection_sock.c.

A request and its child ask for the route back to the peer with the pair of addresses that the SYN had.  A connection
keeps its route in ``sk_dst_cache`` until that is no longer good (a router lowered the path MTU, an address went).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stack.include.dropreason import SKB_DROP_REASON_IP_OUTNOROUTES
from stack.include.dst import flowi6
from stack.include.ip import IPPROTO_TCP
from stack.net.core.skbuff import kfree_skb_reason
from stack.net.core.sock import __sk_dst_check, sk_setup_caps
from stack.net.ipv6 import ip6_output, route

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.inet_connection_sock import inet_connection_sock
    from stack.include.sk_buff import sk_buff


def inet6_csk_route_req(sk: inet_connection_sock, fl6: flowi6, req: Any, proto: int) -> dst_entry | None:
    """The route back to whoever sent the SYN, None if there is none; ``fl6`` becomes its key."""
    fl6.flowi6_proto = proto
    fl6.daddr = req.sk_v6_daddr
    fl6.saddr = req.sk_v6_rcv_saddr
    fl6.flowi6_oif = req.sk_bound_dev_if
    fl6.flowi6_mark = req.ir_mark
    fl6.fl6_dport = req.sk_dport
    fl6.fl6_sport = req.sk_num
    dst = ip6_output.ip6_dst_lookup_flow(sk.sk_net, sk, fl6)
    return None if isinstance(dst, int) else dst


def flowi6_of_socket(sk: Any) -> flowi6:
    """The key of a connected socket's route."""
    fl6 = flowi6()
    np = sk.pinet6
    fl6.flowi6_proto = sk.sk_protocol
    fl6.daddr = sk.sk_v6_daddr
    fl6.saddr = np.saddr
    fl6.flowlabel = np.flow_label
    fl6.flowi6_oif = sk.sk_bound_dev_if
    fl6.flowi6_mark = sk.sk_mark
    fl6.fl6_sport = sk.inet_sport
    fl6.fl6_dport = sk.sk_dport
    return fl6


def inet6_csk_route_socket(sk: inet_connection_sock, fl6: flowi6) -> dst_entry | int:
    """The connection's route: the cached one while it is good, else a new one, which is kept."""
    dst = __sk_dst_check(sk, 0)
    if dst is not None:
        return dst
    found = route.ip6_route_output(sk.sk_net, sk, fl6)
    if not isinstance(found, int):
        sk_setup_caps(sk, found)
    return found


def inet6_csk_xmit(sk: inet_connection_sock, skb: sk_buff, fl_unused: object) -> int:
    """Send a segment of a connection; skb.data is at the TCP header.  0 or a negative errno."""
    fl6 = flowi6_of_socket(sk)
    dst = inet6_csk_route_socket(sk, fl6)
    if isinstance(dst, int):
        sk.sk_err_soft = -dst
        sk.sk_route_caps = 0
        skb.sk = skb.sk or sk  # the packet has neither route nor device to say whose it was
        kfree_skb_reason(skb, SKB_DROP_REASON_IP_OUTNOROUTES)
        return dst
    skb._skb_refdst = dst
    skb.hash = sk.sk_txhash  # skb_set_hash_from_sk(), of __tcp_transmit_skb(): IPv4 has no use for it
    np = sk.pinet6
    assert np is not None
    return ip6_output.ip6_xmit(sk, skb, fl6, sk.sk_mark, None, np.tclass)


def inet6_csk_update_pmtu(sk: inet_connection_sock, mtu: int) -> dst_entry | None:
    """A router said that the path takes ``mtu`` bytes at most; the route that knows it now, or None."""
    fl6 = flowi6_of_socket(sk)
    dst = inet6_csk_route_socket(sk, fl6)
    if isinstance(dst, int):
        return None
    dst.ops.update_pmtu(dst, sk, None, mtu)
    dst = inet6_csk_route_socket(sk, fl6)
    return None if isinstance(dst, int) else dst


def inet6_csk_route_child_sock(sk: inet_connection_sock, req: Any) -> dst_entry | None:
    """The route that the child is going to keep."""
    return inet6_csk_route_req(sk, flowi6(), req, IPPROTO_TCP)


def inet6_sk_rebuild_header(sk: Any) -> int:
    """net/ipv6/af_inet6.c: make sure that a connected socket has a good route; 0, or the negative errno of the
    look-up."""
    dst = inet6_csk_route_socket(sk, flowi6_of_socket(sk))
    if isinstance(dst, int):
        sk.sk_route_caps = 0
        sk.sk_err_soft = -dst
        return dst
    return 0


