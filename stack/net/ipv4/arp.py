# SPDX-License-Identifier: GPL-2.0-or-later
"""ARP: net/ipv4/arp.c (RFC 826; RFC 5227 for probes).

What is answered: a request for an address of ours, on any device (arp_ignore=0), also the probe of a duplicate address
detection (sender 0.0.0.0).  What is learned: the sender of a request to us (STALE), the answer to our own request
(REACHABLE), and a change of a known neighbour's address.  An unknown neighbour is not learned from what others
say among themselves, nor from a gratuitous ARP (arp_accept=0).  An address that changed less than locktime (1 s) ago is
not overridden by a request.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, cast

from stack.include.dropreason import SKB_DROP_REASON_ARP_INVALID, SKB_DROP_REASON_OTHERHOST
from stack.include.dst import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, RTN_UNICAST, dst_link_failure
from stack.include.ip import ETH_P_ARP, ETH_P_IP, ETH_ZLEN, ipv4_is_loopback, ipv4_is_multicast
from stack.include.neighbour import (
    NEIGH_UPDATE_F_OVERRIDE,
    NUD_REACHABLE,
    NUD_STALE,
    NUD_VALID,
    neigh_table,
    neighbour,
)
from stack.include.netdevice import IFF_LOOPBACK, IFF_NOARP
from stack.include.sk_buff import PACKET_HOST, PACKET_OTHERHOST, alloc_skb
from stack.include.sock import AF_INET
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies
from stack.net.core import dev as net_core_dev
from stack.net.core import neighbour as net_core_neighbour
from stack.net.core import skbuff
from stack.net.ethernet import eth
from stack.net.ipv4 import devinet, fib_frontend

if TYPE_CHECKING:
    from stack.include.dst import rtable
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

ARPHRD_ETHER: Final = 1
ARPHRD_IEEE802: Final = 6
ARPOP_REQUEST: Final = 1
ARPOP_REPLY: Final = 2

# hardware type, protocol type, their lengths, operation, sender's and target's hardware and protocol addresses
_ARP: Final = Struct("!HHBBH6sI6sI")


def arp_init(net: Stack) -> None:
    net.arp_tbl = neigh_table(net, AF_INET, ETH_P_IP, HZ, arp_constructor, arp_solicit, arp_error_report)
    net_core_neighbour.neigh_table_init(net.arp_tbl)


def arp_constructor(neigh: neighbour) -> int:
    """Addresses that need no question: broadcast, multicast (RFC 1112, section 6.4) and everything on loopback."""
    net = neigh.tbl.net
    addr, dev = neigh.primary_key, neigh.dev
    neigh.type = fib_frontend.inet_addr_type_table(net, addr, dev)
    if dev.flags & (IFF_LOOPBACK | IFF_NOARP):
        net_core_neighbour.neigh_set_noarp(neigh, dev.dev_addr)
    elif neigh.type == RTN_MULTICAST:
        net_core_neighbour.neigh_set_noarp(neigh, b"\x01\x00\x5e" + (addr & 0x7FFFFF).to_bytes(3, "big"))
    elif neigh.type == RTN_BROADCAST:
        net_core_neighbour.neigh_set_noarp(neigh, eth.ETH_BROADCAST)
    return 0


def ip_neigh_for_gw(rt: rtable, skb: sk_buff) -> neighbour | None:
    """include/net/route.h: the neighbour that a route's packet goes to; None if the table is full."""
    key = rt.rt_gateway or skb.h_iph.daddr
    if rt.dev.flags & IFF_LOOPBACK:
        key = 0
    return net_core_neighbour.neigh_create(rt.net.arp_tbl, key, rt.dev)


# -- sending -----------------------------------------------------------------------------------------------------------


def arp_send(
    dev: net_device, op: int, dest_ip: int, src_ip: int, dest_hw: bytes, src_hw: bytes, target_hw: bytes
) -> None:
    """Build and send one ARP packet, padded to the shortest Ethernet frame."""
    skb = alloc_skb(ETH_ZLEN)
    head = cast(bytearray, skb.head)
    head[0:14] = dest_hw + src_hw + ETH_P_ARP.to_bytes(2, "big")
    _ARP.pack_into(head, 14, ARPHRD_ETHER, ETH_P_IP, 6, 4, op, src_hw, src_ip, target_hw, dest_ip)
    skb.data = skb.mac_header = 0
    skb.network_header = 14
    skb.len = ETH_ZLEN
    skb.dev = dev
    skb.protocol = ETH_P_ARP
    net_core_dev.dev_queue_xmit(skb)


def arp_solicit(neigh: neighbour, skb: sk_buff | None) -> None:
    """Ask for a neighbour: to its known address while probing, to all otherwise.  The sender's address is that of the
    packet that waits if it is ours, else the best of the device (arp_announce=0)."""
    dev = neigh.dev
    target = neigh.primary_key
    saddr = skb.h_iph.saddr if skb is not None else 0
    if not saddr or fib_frontend.inet_addr_type(dev.net, saddr) != RTN_LOCAL:
        saddr = devinet.inet_select_addr(dev, target)
    dest_hw = eth.ETH_BROADCAST
    if neigh.probes <= neigh.tbl.parms.ucast_probes and neigh.nud_state & NUD_VALID:
        dest_hw = neigh.ha
    arp_send(dev, ARPOP_REQUEST, target, saddr, dest_hw, dev.dev_addr, bytes(6))


def arp_error_report(neigh: neighbour, skb: sk_buff) -> None:
    """A packet waited for an answer that did not come."""
    dst_link_failure(skb)


def arp_send_gratuitous(net: Stack, dev: net_device, addr: int) -> None:
    """Tell the link of a new address (arp_notify; RFC 5227, section 3)."""
    arp_send(dev, ARPOP_REQUEST, addr, addr, eth.ETH_BROADCAST, dev.dev_addr, bytes(6))


# -- receiving ---------------------------------------------------------------------------------------------------------


def arp_rcv(skb: sk_buff) -> int:
    """Refuse what is not Ethernet/IPv4 ARP for us, then work it."""
    dev = skb.dev
    assert dev is not None
    if dev.flags & IFF_NOARP or skb.pkt_type == PACKET_OTHERHOST:
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_OTHERHOST)
        return 1
    if skb.len < _ARP.size:
        return _arp_bad(skb)
    return arp_process(dev.net, dev, skb)


def _arp_bad(skb: sk_buff) -> int:
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_ARP_INVALID)
    return 1


def arp_process(net: Stack, dev: net_device, skb: sk_buff) -> int:
    hrd, pro, hln, pln, op, sha, sip, _, tip = _ARP.unpack_from(skb.head, skb.data)
    if devinet.in_dev_get(dev) is None or hrd not in (ARPHRD_ETHER, ARPHRD_IEEE802) or pro != ETH_P_IP:
        return _arp_bad(skb)
    if hln != 6 or pln != 4 or op not in (ARPOP_REQUEST, ARPOP_REPLY):
        return _arp_bad(skb)
    if ipv4_is_multicast(tip) or ipv4_is_loopback(tip) or eth.is_multicast_ether_addr(sha) or sha == dev.dev_addr:
        return _arp_bad(skb)
    if ipv4_is_multicast(sip) or sip == 0xFFFFFFFF:
        return _arp_bad(skb)
    handled = op == ARPOP_REQUEST and _arp_request(net, dev, sha, sip, tip)
    if not handled:
        _arp_learn(net, dev, skb, op, sha, sip, tip)
    skbuff.consume_skb(skb)
    return 0


def _arp_request(net: Stack, dev: net_device, sha: bytes, sip: int, tip: int) -> bool:
    """Answer a request for an address of ours; True if that was one."""
    if fib_frontend.inet_addr_type(net, tip) != RTN_LOCAL or _arp_ignore(dev, tip):
        return False
    if sip == 0:
        arp_send(dev, ARPOP_REPLY, sip, tip, sha, dev.dev_addr, sha)
        return True
    if sip != tip and fib_frontend.inet_addr_type(net, sip) == RTN_UNICAST:
        net_core_neighbour.neigh_event_ns(net.arp_tbl, sha, sip, dev)
        arp_send(dev, ARPOP_REPLY, sip, tip, sha, dev.dev_addr, sha)
        return True
    return False


def _arp_ignore(dev: net_device, tip: int) -> bool:
    in_dev = devinet.in_dev_get(dev)
    return in_dev is not None and in_dev.cnf_arp_ignore > 0 and not devinet.inet_confirm_addr(dev.net, dev, tip)


def _arp_learn(net: Stack, dev: net_device, skb: sk_buff, op: int, sha: bytes, sip: int, tip: int) -> None:
    """Update an entry that exists; a reply to us makes it REACHABLE, anything else STALE."""
    neigh = net_core_neighbour.neigh_lookup(net.arp_tbl, sip, dev)
    in_dev = devinet.in_dev_get(dev)
    if neigh is None and in_dev is not None and in_dev.cnf_arp_accept and sip:
        if op == ARPOP_REPLY or sip == tip:
            neigh = net_core_neighbour.neigh_create(net.arp_tbl, sip, dev)
    if neigh is None:
        return
    locked = jiffies(net) < neigh.updated + neigh.tbl.parms.locktime and bool(neigh.ha)
    override = not locked or sip == tip
    unicast_reply = op == ARPOP_REPLY and skb.pkt_type == PACKET_HOST
    state = NUD_REACHABLE if unicast_reply else NUD_STALE
    net_core_neighbour.neigh_update(neigh, sha, state, NEIGH_UPDATE_F_OVERRIDE if override else 0)
