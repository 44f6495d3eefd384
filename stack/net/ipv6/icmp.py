# SPDX-License-Identifier: GPL-2.0-or-later
"""ICMPv6: net/ipv6/icmp.c (RFC 4443).

Received: echo requests are answered, neighbour discovery goes to ndisc.py, errors go to the ``err_handler`` of the
upper protocol of the packet that they quote (``inet6_protocol`` says with what).  A packet-too-big is learned by that
handler, as only it can tell whether the packet was ours.

Sent errors (section 2.4): never about an error or a redirect, nor to a group or an unknown source, nor about a packet
to a group - save packet too big and unknown option, which path MTU discovery and option processing need.  Limits: the
bucket of all errors (icmp_msgs_per_sec, shared with IPv4) and, for the types in ratemask, one per ratelimit ms and
peer after a burst of 6; hosts on our own links get four times that, as the kernel gives wide prefixes more.  An error
has at most 1280 bytes. """

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from stack.include.dropreason import (
    SKB_DROP_REASON_ICMP_CSUM,
    SKB_DROP_REASON_ICMP_IGNORED,
    SKB_DROP_REASON_PKT_TOO_SMALL,
)
from stack.include.dst import flowi6, rt6_info
from stack.include.inet_sock import inet_sock
from stack.include.ipv6 import (
    FLOWLABEL_REFLECT_ICMPV6_ECHO_REPLIES,
    ICMP6HDR_STRUCT,
    ICMPV6_DEST_UNREACH,
    ICMPV6_ECHO_REPLY,
    ICMPV6_ECHO_REQUEST,
    ICMPV6_ERRMSG_MAX,
    ICMPV6_INFOMSG_MASK,
    ICMPV6_PARAMPROB,
    ICMPV6_PKT_TOOBIG,
    ICMPV6_TIME_EXCEED,
    ICMPV6_UNK_OPTION,
    IP6_OFFSET,
    IPPROTO_ICMPV6,
    IPV6_MIN_MTU,
    IPV6HDR_LEN,
    NDISC_REDIRECT,
    NDISC_ROUTER_SOLICITATION,
    icmp6hdr,
    inet6_protocol,
    ipv6_addr_any,
    ipv6_addr_is_multicast,
    ipv6_addr_needs_scope_id,
    ipv6_pinfo,
    ipv6hdr,
    ipv6hdr_at,
)
from stack.include.sk_buff import CHECKSUM_NONE, PACKET_HOST
from stack.include.snmp import (
    ICMP6_INC_STATS,
    ICMP6_MIB_CSUMERRORS,
    ICMP6_MIB_INERRORS,
    ICMP6_MIB_INMSGS,
    ICMP6_MIB_OUTERRORS,
    ICMP6_MIB_OUTMSGS,
    ICMP6_MIB_RATELIMITHOST,
    ICMP6MSGIN_INC_STATS,
    ICMP6MSGOUT_INC_STATS,
)
from stack.include.sock import AF_INET6
from stack.kernel.time.timer import msecs_to_jiffies
from stack.lib.checksum import csum_ipv6_magic, csum_partial
from stack.net.core import skbuff
from stack.net.ipv4 import icmp as ipv4_icmp
from stack.net.ipv6 import addrconf, exthdrs_core, ip6_output, ndisc, protocol, route

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

# struct icmp6_err by code of a destination unreachable: the errno, and whether it ends a connection at once.
tab_unreach: tuple[tuple[int, bool], ...] = (
    (errno.ENETUNREACH, False),  # ICMPV6_NOROUTE
    (errno.EACCES, True),  # ICMPV6_ADM_PROHIBITED
    (errno.EHOSTUNREACH, False),  # ICMPV6_NOT_NEIGHBOUR
    (errno.EHOSTUNREACH, False),  # ICMPV6_ADDR_UNREACH
    (errno.ECONNREFUSED, True),  # ICMPV6_PORT_UNREACH
    (errno.EACCES, True),  # ICMPV6_POLICY_FAIL
    (errno.EACCES, True),  # ICMPV6_REJECT_ROUTE
)


def icmpv6_init(net: Stack) -> None:
    """The socket that ICMPv6 sends from, and its place in the table of protocols."""
    sk = inet_sock(net, AF_INET6)
    sk.sk_protocol = IPPROTO_ICMPV6
    sk.pinet6 = ipv6_pinfo()
    net.icmp6_sk = sk
    protocol.inet6_add_protocol(net, inet6_protocol(icmpv6_rcv, icmpv6_err), IPPROTO_ICMPV6)


def icmpv6_err_convert(icmp6_type: int, code: int) -> tuple[bool, int]:
    """(whether a connection ends at once, the errno) for an error."""
    if icmp6_type == ICMPV6_DEST_UNREACH:
        err, fatal = tab_unreach[code] if code < len(tab_unreach) else (errno.EPROTO, True)
        return fatal, err
    if icmp6_type == ICMPV6_PKT_TOOBIG:
        return False, errno.EMSGSIZE
    if icmp6_type == ICMPV6_PARAMPROB:
        return True, errno.EPROTO
    if icmp6_type == ICMPV6_TIME_EXCEED:
        return False, errno.EHOSTUNREACH
    return False, errno.EPROTO


# -- limits ------------------------------------------------------------------------------------------------------------


def icmpv6_mask_allow(net: Stack, icmp6_type: int) -> bool:
    """Whether the type is free of limits: information, and errors outside ratemask."""
    if icmp6_type & ICMPV6_INFOMSG_MASK:
        return True
    return not net.ipv6.sysctl_icmpv6_ratemask >> icmp6_type & 1


def icmpv6_global_allow(net: Stack, icmp6_type: int) -> bool:
    return icmpv6_mask_allow(net, icmp6_type) or ipv4_icmp.icmp_global_allow(net)


def icmpv6_xrlim_allow(net: Stack, rt: rt6_info, icmp6_type: int, daddr: int) -> bool:
    if icmpv6_mask_allow(net, icmp6_type) or rt.dev is net.loopback_dev:
        return True
    timeout = msecs_to_jiffies(net.ipv6.sysctl_icmpv6_time) >> ((128 - rt.rt6i_plen) >> 5)
    if not timeout or ipv4_icmp.inet_peer_xrlim_allow(net, daddr, timeout):
        return True
    ICMP6_INC_STATS(net, ICMP6_MIB_RATELIMITHOST)
    return False


# -- sending -----------------------------------------------------------------------------------------------------------


def icmpv6_message(icmp6_type: int, code: int, data: int, body: bytes, saddr: int, daddr: int) -> bytes:
    """A whole message with its checksum."""
    raw = ICMP6HDR_STRUCT.pack(icmp6_type, code, 0, data) + body
    check = csum_ipv6_magic(saddr, daddr, len(raw), IPPROTO_ICMPV6, csum_partial(raw))
    return raw[:2] + check.to_bytes(2, "big") + raw[4:]


def icmpv6_out_count(net: Stack, icmp6_type: int) -> None:
    ICMP6MSGOUT_INC_STATS(net, icmp6_type)
    ICMP6_INC_STATS(net, ICMP6_MIB_OUTMSGS)


def icmpv6_push_pending_frames(
    net: Stack, icmp6_type: int, code: int, data: int, body: bytes, fl6: flowi6, rt: rt6_info, tclass: int
) -> None:
    """Build the message and send it."""
    fl6.flowi6_proto = IPPROTO_ICMPV6
    raw = icmpv6_message(icmp6_type, code, data, body, fl6.saddr, fl6.daddr)
    skb = ip6_output.ip6_make_skb(net, net.icmp6_sk, raw, b"", rt, fl6, tclass, route.ip6_dst_hoplimit(rt))
    if isinstance(skb, int):
        ICMP6_INC_STATS(net, ICMP6_MIB_OUTERRORS)
        return
    icmpv6_out_count(net, icmp6_type)
    ip6_output.ip6_send_skb(net, skb)


def icmpv6_send(skb: sk_buff, icmp6_type: int, code: int, info: int) -> None:
    """icmp6_send(): tell the sender of ``skb`` (its network header in place) that it could not be delivered."""
    dev = skb.dev
    hdr = skb.h_iph
    if dev is None or not isinstance(hdr, ipv6hdr) or not _error_may_answer(skb, hdr, icmp6_type, code):
        return
    net = dev.net
    if not icmpv6_global_allow(net, icmp6_type):
        return
    fl6 = flowi6()
    fl6.daddr = hdr.saddr
    if addrconf.ipv6_chk_addr(net, hdr.daddr, dev if ipv6_addr_needs_scope_id(hdr.daddr) else None):
        fl6.saddr = hdr.daddr
    fl6.flowi6_oif = dev.ifindex if ipv6_addr_needs_scope_id(hdr.saddr) else 0
    rt = route.ip6_route_output(net, None, fl6)
    if isinstance(rt, int) or not icmpv6_xrlim_allow(net, rt, icmp6_type, hdr.saddr):
        return
    quoted = bytes(memoryview(skb.head)[skb.network_header : skb.tail][: IPV6_MIN_MTU - IPV6HDR_LEN - 8])
    icmpv6_push_pending_frames(net, icmp6_type, code, info, quoted, fl6, rt, 0)


def icmpv6_param_prob(skb: sk_buff, code: int, pointer: int, reason: int) -> None:
    """A parameter problem at byte ``pointer`` of the packet, and the packet's end."""
    icmpv6_send(skb, ICMPV6_PARAMPROB, code, pointer)
    skbuff.kfree_skb_reason(skb, reason)


def _error_may_answer(skb: sk_buff, hdr: ipv6hdr, icmp6_type: int, code: int) -> bool:
    if ipv6_addr_is_multicast(hdr.daddr) or skb.pkt_type != PACKET_HOST:
        unknown_option = icmp6_type == ICMPV6_PARAMPROB and code == ICMPV6_UNK_OPTION
        if icmp6_type != ICMPV6_PKT_TOOBIG and not unknown_option:
            return False
    if ipv6_addr_any(hdr.saddr) or ipv6_addr_is_multicast(hdr.saddr):
        return False
    return not is_ineligible(skb, hdr)


def is_ineligible(skb: sk_buff, hdr: ipv6hdr) -> bool:
    """Whether the packet is an ICMPv6 error or a redirect itself, as far as a fragment tells."""
    start = skb.network_header + IPV6HDR_LEN
    found = exthdrs_core.ipv6_skip_exthdr(skb.head, start, skb.tail, hdr.nexthdr)
    if found is None:
        return False
    at, nexthdr, frag_off = found
    if frag_off & IP6_OFFSET or nexthdr != IPPROTO_ICMPV6:
        return False
    if at >= skb.tail:
        return not frag_off
    return skb.head[at] <= ICMPV6_ERRMSG_MAX or skb.head[at] == NDISC_REDIRECT


# -- receiving ---------------------------------------------------------------------------------------------------------


def icmpv6_rcv(skb: sk_buff) -> int:
    """Check the message and hand it to its type's function; skb.data is at its header."""
    assert skb.dev is not None
    net = skb.dev.net
    hdr: ipv6hdr = skb.h_iph
    ICMP6_INC_STATS(net, ICMP6_MIB_INMSGS)
    message = memoryview(skb.head)[skb.data : skb.tail]
    if skb.ip_summed == CHECKSUM_NONE and csum_ipv6_magic(
        hdr.saddr, hdr.daddr, len(message), IPPROTO_ICMPV6, csum_partial(message)
    ):
        ICMP6_INC_STATS(net, ICMP6_MIB_CSUMERRORS)
        return _icmp6_error(net, skb, SKB_DROP_REASON_ICMP_CSUM)
    if len(message) < ICMP6HDR_STRUCT.size:
        return _icmp6_error(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    icmph = icmp6hdr(*ICMP6HDR_STRUCT.unpack_from(skb.head, skb.data))
    skb.h_th = icmph
    icmp6_type = icmph.icmp6_type
    ICMP6MSGIN_INC_STATS(net, icmp6_type)
    if NDISC_ROUTER_SOLICITATION <= icmp6_type <= NDISC_REDIRECT:
        return ndisc.ndisc_rcv(skb)
    skb.data += 8
    skb.len -= 8
    if icmp6_type == ICMPV6_ECHO_REQUEST:
        return icmpv6_echo_reply(net, skb)
    if not icmp6_type & ICMPV6_INFOMSG_MASK:
        return icmpv6_notify(net, skb, icmp6_type, icmph.icmp6_code, icmph.data)
    # Echo replies (there are no ping sockets), MLD and information of unknown type: RFC 4443, section 2.4 (b).
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_ICMP_IGNORED)
    return 0


def _icmp6_error(net: Stack, skb: sk_buff, reason: int) -> int:
    ICMP6_INC_STATS(net, ICMP6_MIB_INERRORS)
    skbuff.kfree_skb_reason(skb, reason)
    return 0


def icmpv6_echo_reply(net: Stack, skb: sk_buff) -> int:
    """RFC 4443, section 4.2: the same data back, from the address that was asked or, for a group, one of ours."""
    hdr: ipv6hdr = skb.h_iph
    assert skb.dev is not None
    to_group = ipv6_addr_is_multicast(hdr.daddr)
    ignore = net.ipv6.sysctl_icmpv6_echo_ignore_all or (to_group and net.ipv6.sysctl_icmpv6_echo_ignore_multicast)
    if ignore:
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_ICMP_IGNORED)
        return 0
    fl6 = flowi6()
    fl6.daddr = hdr.saddr
    fl6.saddr = 0 if to_group else hdr.daddr
    fl6.flowi6_oif = skb.dev.ifindex if ipv6_addr_needs_scope_id(hdr.saddr) else 0
    if net.ipv6.sysctl_flowlabel_reflect & FLOWLABEL_REFLECT_ICMPV6_ECHO_REPLIES:
        fl6.flowlabel = hdr.flowlabel
    rt = ip6_output.ip6_dst_lookup_flow(net, None, fl6)
    if isinstance(rt, rt6_info):
        body = bytes(memoryview(skb.head)[skb.data : skb.tail])
        icmph: icmp6hdr = skb.h_th
        icmpv6_push_pending_frames(net, ICMPV6_ECHO_REPLY, 0, icmph.data, body, fl6, rt, hdr.tclass)
    skbuff.consume_skb(skb)
    return 0


def icmpv6_notify(net: Stack, skb: sk_buff, icmp6_type: int, code: int, info: int) -> int:
    """Give an error to the upper protocol of the packet that it quotes, which needs 8 bytes of its header to know whose
    packet it was; skb.data is at the quoted packet."""
    if skb.tail - skb.data < IPV6HDR_LEN:
        return _icmp6_error(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    inner = ipv6hdr_at(skb.head, skb.data)
    found = exthdrs_core.ipv6_skip_exthdr(skb.head, skb.data + IPV6HDR_LEN, skb.tail, inner.nexthdr)
    if inner.version != 6 or found is None or found[2] & IP6_OFFSET or found[0] + 8 > skb.tail:
        return _icmp6_error(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    at, nexthdr, _ = found
    ipprot = net.inet6_protos[nexthdr]
    if ipprot is None or ipprot.err_handler is None:
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_ICMP_IGNORED)
        return 0
    skb.transport_header = at
    ipprot.err_handler(skb, icmp6_type, code, info)
    skbuff.consume_skb(skb)
    return 0


def icmpv6_err(skb: sk_buff, icmp6_type: int, code: int, info: int) -> int:
    """An error about an ICMPv6 message of ours: only its MTU matters."""
    if icmp6_type == ICMPV6_PKT_TOOBIG:
        assert skb.dev is not None
        inner = ipv6hdr_at(skb.head, skb.data)
        route.ip6_update_pmtu(skb, skb.dev.net, info, skb.dev.ifindex, inner.daddr)
    return 0
