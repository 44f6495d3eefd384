# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of packets, and what needs more than the struct: net/core/skbuff.c.

Every packet ends in one of two ways: ``consume_skb`` (it did its work) or ``kfree_skb_reason`` (it was dropped), which
counts the reason in ``net.drop_reasons`` and tells ``net.drop_hook``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from stack.include.dropreason import drop_reason_names
from stack.include.errqueue import (
    SO_EE_CODE_ZEROCOPY_COPIED,
    SO_EE_ORIGIN_ICMP,
    SO_EE_ORIGIN_ICMP6,
    SO_EE_ORIGIN_TIMESTAMPING,
    SO_EE_ORIGIN_ZEROCOPY,
    sock_exterr_skb,
)
from stack.include.ip import IPPROTO_TCP
from stack.include.net_tstamp import (
    SCM_TSTAMP_SND,
    SKBTX_SW_TSTAMP,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_TSONLY,
)
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, PACKET_OUTGOING, Buffer, sk_buff
from stack.include.sock import SOCK_DEAD
from stack.lib.checksum import CSUM_MANGLED_0, csum_fold, csum_partial

if TYPE_CHECKING:
    from stack.include.sock import sock
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


# -- the error queue ---------------------------------------------------------------------------------------------


def sock_queue_err_skb(sk: sock, skb: sk_buff) -> int:
    """Put a packet, whose cb is a sock_exterr_skb, into the error queue; -ENOMEM if the receive buffer is full."""
    if sk.sk_rmem_alloc + skb.truesize >= sk.sk_rcvbuf:
        return -errno.ENOMEM
    skb_orphan(skb)
    skb.sk = sk
    skb.destructor = sock_rmem_free
    sk.sk_rmem_alloc += skb.truesize
    skb.pkt_type = PACKET_OUTGOING
    sk.sk_error_queue.append(skb)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_error_report(sk)
    return 0


def sock_rmem_free(skb: sk_buff) -> None:
    assert skb.sk is not None
    skb.sk.sk_rmem_alloc -= skb.truesize


def _is_icmp_err_skb(skb: sk_buff) -> bool:
    return skb.cb.ee_origin in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6)


def sock_dequeue_err_skb(sk: sock) -> sk_buff | None:
    """The oldest entry of the error queue.  SO_ERROR goes on with the next ICMP error, or is clear after the last."""
    queue = sk.sk_error_queue
    if not queue:
        return None
    skb = queue.popleft()
    icmp_next = bool(queue) and _is_icmp_err_skb(queue[0])
    if icmp_next:
        sk.sk_err = queue[0].cb.ee_errno
    elif _is_icmp_err_skb(skb):
        sk.sk_err = 0
    if queue:
        sk.sk_error_report(sk)
    return skb


def __msg_zerocopy_callback(sk: sock, number: int) -> None:
    """The data of the call with MSG_ZEROCOPY of that number are the application's again.  Calls in a row share one
    entry (ee_info to ee_data); the device copied them, as a TAP's reader does (SO_EE_CODE_ZEROCOPY_COPIED)."""
    if sk.sk_flags & SOCK_DEAD:
        return
    queue = sk.sk_error_queue
    last = queue[-1].cb if queue else None
    if last is not None and last.ee_origin == SO_EE_ORIGIN_ZEROCOPY and last.ee_data + 1 == number:
        last.ee_data = number
        sk.sk_error_report(sk)
        return
    skb = sk_buff(b"", 0, 0)
    skb.cb = sock_exterr_skb(0, SO_EE_ORIGIN_ZEROCOPY, ee_code=SO_EE_CODE_ZEROCOPY_COPIED, ee_info=number)
    skb.cb.ee_data = number
    queue.append(skb)
    sk.sk_error_report(sk)


def __skb_tstamp_tx(orig_skb: sk_buff, sk: sock, tstype: int) -> None:
    """A packet was handed to the queue (SCM_TSTAMP_SCHED), to the device (_SND) or was acknowledged (_ACK): say when in
    the error queue, with a copy of the packet unless SOF_TIMESTAMPING_OPT_TSONLY."""
    flags = sk.sk_tsflags
    if flags & SOF_TIMESTAMPING_OPT_TSONLY:
        skb = sk_buff(b"", 0, 0)
    else:
        data = skb_linear_bytes(orig_skb)
        skb = sk_buff(data, 0, len(data))
    skb.tstamp = sk.sk_net.clock.real_ns()
    serr = skb.cb = sock_exterr_skb(errno.ENOMSG, SO_EE_ORIGIN_TIMESTAMPING, ee_info=tstype)
    if flags & SOF_TIMESTAMPING_OPT_ID and orig_skb.shinfo is not None:
        serr.ee_data = orig_skb.shinfo.tskey
        if sk.sk_protocol == IPPROTO_TCP:
            serr.ee_data = (serr.ee_data - sk.sk_tskey) & 0xFFFFFFFF
    sock_queue_err_skb(sk, skb)


def skb_tx_timestamp(skb: sk_buff) -> None:
    """What a driver calls when it hands the packet to the hardware."""
    if skb.shinfo is not None and skb.shinfo.tx_flags & SKBTX_SW_TSTAMP and skb.sk is not None:
        __skb_tstamp_tx(skb, skb.sk, SCM_TSTAMP_SND)


# -- bytes and checksums -----------------------------------------------------------------------------------------


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
