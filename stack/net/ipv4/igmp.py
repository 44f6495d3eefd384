# SPDX-License-Identifier: GPL-2.0-or-later
"""Multicast groups of a device: net/ipv4/igmp.c.

Every device with an IPv4 address is in 224.0.0.1, all systems of the link (RFC 1112, section 4), and in no other group:
there is no IP_ADD_MEMBERSHIP.  As that group is never reported (RFC 2236, section 6), a query has no answer and
``igmp_rcv`` only checks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dropreason import SKB_DROP_REASON_IP_CSUM, SKB_DROP_REASON_PKT_TOO_SMALL
from stack.include.ip import net_protocol
from stack.include.sk_buff import CHECKSUM_NONE
from stack.lib.checksum import ip_compute_csum
from stack.net.core import skbuff

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.net.ipv4.devinet import in_device

IGMP_ALL_HOSTS: Final = 0xE0000001  # 224.0.0.1
IGMP_MINLEN: Final = 8  # RFC 2236, section 2


def ip_mc_up(in_dev: in_device) -> None:
    """The device's first address makes it a member of all systems."""
    if IGMP_ALL_HOSTS not in in_dev.mc_list:
        in_dev.mc_list.append(IGMP_ALL_HOSTS)


def ip_check_mc(in_dev: in_device, mc_addr: int) -> bool:
    """Whether packets to the group are for us."""
    return mc_addr in in_dev.mc_list


def igmp_rcv(skb: sk_buff) -> int:
    """A query or somebody's report: nothing of ours follows from a sound one."""
    if skb.len < IGMP_MINLEN:
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    elif skb.ip_summed == CHECKSUM_NONE and ip_compute_csum(memoryview(skb.head)[skb.data : skb.tail]):
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IP_CSUM)
    else:
        skbuff.consume_skb(skb)
    return 0


igmp_protocol = net_protocol(igmp_rcv, None)
