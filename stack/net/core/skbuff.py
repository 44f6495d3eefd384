# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of packets, and what needs more than the struct: net/core/skbuff.c.

Every packet ends in one of two ways: ``consume_skb`` (it did its work) or ``kfree_skb_reason`` (it was dropped), which
counts the reason in ``net.drop_reasons`` and tells ``net.drop_hook``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stack.include.dropreason import drop_reason_names
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, Buffer, sk_buff
from stack.lib.checksum import CSUM_MANGLED_0, csum_fold, csum_partial

if TYPE_CHECKING:
    from stack.stack import Stack


def skb_net(skb: sk_buff) -> Stack | None:
    """The Stack a packet belongs to: by its device, its socket or its route."""
    if skb.dev is not None:
        return skb.dev.net
    if skb.sk is not None:
        return skb.sk.sk_net
    return skb._skb_refdst.net if skb._skb_refdst is not None else None


def skb_orphan(skb: sk_buff) -> None:
    """Give the packet's bytes back to its socket's budget and part from it."""
    destructor = skb.destructor
    if destructor is not None:
        skb.destructor = None
        destructor(skb)
    skb.sk = None


def kfree_skb_reason(skb: sk_buff, reason: int) -> None:
    """Drop a packet, with a reason of include/dropreason.py."""
    net = skb_net(skb)
    if net is not None:
        name = drop_reason_names[reason]
        net.drop_reasons[name] = net.drop_reasons.get(name, 0) + 1
        if net.drop_hook is not None:
            net.drop_hook(skb, reason)
    if skb.destructor is not None:
        skb_orphan(skb)


def consume_skb(skb: sk_buff) -> None:
    """The packet has done its work."""
    if skb.destructor is not None:
        skb_orphan(skb)


def skb_linear_bytes(skb: sk_buff) -> bytes:
    """The whole packet from ``data`` on, copied."""
    if not skb.frags:
        return bytes(memoryview(skb.head)[skb.data : skb.tail])
    return b"".join((memoryview(skb.head)[skb.data : skb.tail], *skb.frags))


def skb_checksum(skb: sk_buff, start: int, wsum: int = 0) -> int:
    """The sum over the packet from head offset ``start`` to the end of the last fragment."""
    if not skb.frags:
        return csum_partial(memoryview(skb.head)[start : skb.tail], wsum)
    parts: list[Buffer] = [memoryview(skb.head)[start : skb.tail], *skb.frags]
    if all(len(p) % 2 == 0 for p in parts[:-1]):
        for part in parts:
            wsum = csum_partial(part, wsum)
        return wsum
    return csum_partial(b"".join(parts), wsum)


def skb_checksum_help(skb: sk_buff) -> int:
    """Complete a CHECKSUM_PARTIAL packet in software (net/core/dev.c has it; a device without NETIF_F_HW_CSUM
    needs it).  A UDP checksum of zero becomes its other form; TCP's never is zero that way."""
    if skb.ip_summed != CHECKSUM_PARTIAL:
        return 0
    where = skb.csum_start + skb.csum_offset
    head = skb.head
    assert isinstance(head, bytearray)
    value = csum_fold(skb_checksum(skb, skb.csum_start)) or CSUM_MANGLED_0
    head[where] = value >> 8
    head[where + 1] = value & 255
    skb.ip_summed = CHECKSUM_NONE
    return 0
