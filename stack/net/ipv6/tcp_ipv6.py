# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP over IPv6: net/ipv6/tcp_ipv6.c.

Theory of operation
-------------------
The path of a segment is that of tcp_ipv4.py, with IPv6's look-ups, checksum and answers; what TCP itself does is the
same code.  Three tables of operations make the difference:

    ipv6_specific               a socket of AF_INET6, and its IPv6 children
    ipv6_mapped                 the IPv4 child of a listener of AF_INET6: IPv4's functions, IPv6's socket options
    tcp_request_sock_ipv6_ops   how a SYN over IPv6 is answered

A listener of AF_INET6 that is bound to :: without IPV6_V6ONLY is in both families' look-ups.  An IPv4 SYN comes to
it through tcp_v4_rcv; its ``conn_request`` and ``syn_recv_sock`` look at ``skb->protocol`` and pass it on to IPv4's.
The child is a socket of AF_INET6 whose addresses are IPv4-mapped (RFC 3493, section 3.7).

A child of IPv6 has LOOPBACK4_IPV6 in place of its IPv4 addresses, so that no IPv4 segment ever matches it.

Signatures (RFC 2385, RFC 5925) are IPv4's with the longer addresses; a key for a mapped address is one of IPv4, and a
listener of both families may hold keys of both.

Left out: the receive backlog, early demux, IPV6_RECVPKTINFO and its relatives on a stream
(np->pktoptions).
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_INADDRERRORS,
    SKB_DROP_REASON_IP_INVALID_DEST,
    SKB_DROP_REASON_NO_SOCKET,
    SKB_DROP_REASON_NOT_SPECIFIED,
    SKB_DROP_REASON_OTHERHOST,
    SKB_DROP_REASON_PKT_TOO_SMALL,
    SKB_DROP_REASON_TCP_CSUM,
    SKB_DROP_REASON_TCP_LISTEN_OVERFLOW,
    SKB_DROP_REASON_TCP_MINTTL,
    SKB_NOT_DROPPED_YET,
)
from stack.include.dst import RTN_LOCAL, dst_metric_advmss, dst_mtu, flowi6
from stack.include.inet_connection_sock import inet_connection_sock_af_ops
from stack.include.ip import ETH_P_IP, INET_ECN_MASK, IPPROTO_TCP
from stack.include.ipv6 import (
    FLOWLABEL_REFLECT_TCP_RESET,
    ICMPV6_DEST_UNREACH,
    ICMPV6_NOROUTE,
    ICMPV6_PKT_TOOBIG,
    IPV6_MIN_MTU,
    IPV6HDR_LEN,
    inet6_protocol,
    ipv6_addr_is_linklocal,
    ipv6_addr_is_multicast,
    ipv6_addr_needs_scope_id,
    ipv6_addr_v4mapped,
    ipv6_hdr,
    ipv6_pinfo,
    ipv6hdr_at,
)
from stack.include.request_sock import request_sock_ops, tcp_request_sock
from stack.include.request_sock import tcp_request_sock_ops as tcp_request_sock_af_ops
from stack.include.sk_buff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    MAX_TCP_HEADER,
    PACKET_HOST,
    SKB_GSO_TCPV6,
    alloc_skb,
)
from stack.include.snmp import (
    ICMP6_INC_STATS,
    ICMP6_MIB_INERRORS,
    IP6_INC_STATS,
    IPSTATS_MIB_INHDRERRORS,
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_OUTOFWINDOWICMPS,
    LINUX_MIB_TCPMINTTLDROP,
    NET_INC_STATS,
    TCP_INC_STATS,
    TCP_MIB_CSUMERRORS,
    TCP_MIB_INERRS,
    TCP_MIB_INSEGS,
    TCP_MIB_OUTRSTS,
    TCP_MIB_OUTSEGS,
)
from stack.include.sock import (
    AF_INET,
    AF_INET6,
    proto,
    sk_acceptq_is_full,
    sk_set_txhash,
    sock_rps_save_rxhash,
)
from stack.include.tcp import (
    TCP_HEADER,
    TCP_HEADER_LEN,
    TCP_MD5SIG_EXT,
    TCP_MD5SIG_FLAG_IFINDEX,
    TCP_MD5SIG_FLAG_PREFIX,
    TCP_MD5SIG_MAXKEYLEN,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPOLEN_TSTAMP_ALIGNED,
    tcp_fastopen_cookie,
    tcp_hdr,
    tcp_listendrop,
    tcp_md5sig_key,
    tcp_move_syn,
    tcp_segs_in,
    tcp_skb_cb,
    tcp_sock,
    tcp_sock_af_ops,
    tcphdr,
)
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
)
from stack.lib.checksum import csum_fold, csum_ipv6_magic, csum_partial, tcp_v6_pseudo
from stack.net.core import sock as core_sock
from stack.net.core.secure_seq import secure_tcpv6_seq_and_ts_off, secure_tcpv6_ts_off
from stack.net.core.skbuff import consume_skb, kfree_skb_reason
from stack.net.core.sock import sk_setup_caps
from stack.net.ipv4 import (
    inet_connection_sock,
    inet_hashtables,
    inet_timewait_sock,
    tcp,
    tcp_ao,
    tcp_fastopen,
    tcp_input,
    tcp_ipv4,
    tcp_minisocks,
    tcp_output,
    tcp_timer,
)
from stack.net.ipv4 import inet_connection_sock as net_inet_connection_sock
from stack.net.ipv6 import (
    datagram,
    icmp,
    inet6_connection_sock,
    inet6_hashtables,
    ip6_output,
    ipv6_sockglue,
    route,
    syncookies,
)
from stack.seqnum import MASK32, between

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.inet_timewait_sock import tcp_timewait_sock
    from stack.include.ipv6 import ipv6hdr
    from stack.include.net import sockaddr_in, sockaddr_in6
    from stack.include.request_sock import request_sock
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

_DONE: Final = object()
_DOFF_SIGNED: Final = 9  # a header shorter than this (in words) has no room for the usual signatures
# struct tcp_md5sig: a sockaddr_storage with a sockaddr_in6, flags, prefixlen, keylen, ifindex, key
MD5SIG6: Final = Struct("=H6x16s104xBBHi80s")
IN6_LOOPBACK: Final = 1  # ::1
LOOPBACK4_IPV6: Final = 0x7F000006  # what an IPv6 socket has as its IPv4 addresses: 127.0.0.6, never on a wire


def _net(skb: sk_buff) -> Stack:
    assert skb.dev is not None
    return skb.dev.net


def inet6_sk(sk: Any) -> ipv6_pinfo:
    """include/linux/ipv6.h: what a socket of AF_INET6 has besides."""
    np: ipv6_pinfo = sk.pinet6
    return np


def tcp_v6_iif(skb: sk_buff) -> int:
    """The device that a segment came by."""
    return skb.skb_iif


# -- answers without a socket ------------------------------------------------------------------------------------


def tcp_v6_send_response(
    sk: Any,
    skb: sk_buff,
    seq: int,
    ack: int,
    win: int,
    tsval: int,
    tsecr: int,
    oif: int,
    rst: bool,
    tclass: int,
    label: int,
    key: tcp_ipv4.signer_t | None,
    txhash: int = 0,
) -> None:
    """A RST or ACK that no socket stands for, with the segment's addresses and ports exchanged: a time stamp if there
    is one to echo, a signature if there is a key, hop limit and route as for any packet of this host."""
    th = tcp_hdr(skb)
    net = sk.sk_net if sk is not None else _net(skb)
    options_end = TCP_HEADER_LEN + (TCPOLEN_TSTAMP_ALIGNED if tsecr else 0)
    size = options_end + tcp_ipv4.signature_size(key)
    flags = size << 10 | (TCPHDR_RST if rst else TCPHDR_ACK)
    if rst and not th.flags & TCPHDR_ACK:
        flags |= TCPHDR_ACK
    rep = bytearray(size)
    TCP_HEADER.pack_into(rep, 0, th.dest, th.source, seq, ack, flags, win, 0, 0)
    if tsecr:
        rep[20:32] = (tcp_ipv4.TS_OPTION << 64 | (tsval & MASK32) << 32 | tsecr).to_bytes(12, "big")
    fl6 = _reply_flow(skb, oif, label)
    if key is not None:
        tcp_ipv4.sign_reply(rep, options_end, key, fl6.saddr, fl6.daddr)
    check = csum_ipv6_magic(fl6.saddr, fl6.daddr, size, IPPROTO_TCP, csum_partial(rep))
    rep[16:18] = check.to_bytes(2, "big")
    dst = route.ip6_route_output(net, None, fl6)
    if isinstance(dst, int):
        return
    buff = _reply_skb(rep)
    buff._skb_refdst = dst
    buff.hash = txhash
    ip6_output.ip6_xmit(net.tcp6_ctl_sk, buff, fl6, fl6.flowi6_mark, None, tclass & ~INET_ECN_MASK)
    TCP_INC_STATS(net, TCP_MIB_OUTSEGS)
    if rst:
        TCP_INC_STATS(net, TCP_MIB_OUTRSTS)


def _reply_flow(skb: sk_buff, oif: int, label: int) -> flowi6:
    iph, th = ipv6_hdr(skb), tcp_hdr(skb)
    fl6 = flowi6()
    fl6.daddr, fl6.saddr = iph.saddr, iph.daddr
    fl6.flowlabel = label
    fl6.flowi6_proto = IPPROTO_TCP
    fl6.flowi6_oif = oif or (tcp_v6_iif(skb) if ipv6_addr_needs_scope_id(fl6.daddr) else 0)
    fl6.fl6_dport, fl6.fl6_sport = th.source, th.dest
    return fl6


def _reply_skb(rep: bytearray) -> sk_buff:
    buff = alloc_skb(MAX_TCP_HEADER + len(rep))
    buff.data -= len(rep)
    buff.len = len(rep)
    head = buff.head
    assert isinstance(head, bytearray)
    head[buff.data : buff.tail] = rep
    buff.transport_header = buff.data
    buff.ip_summed = CHECKSUM_NONE
    return buff


def ipv6_unicast_destination(skb: sk_buff) -> bool:
    """include/net/ip6_route.h: whether the packet was sent to an address of ours (not to a group)."""
    rt: Any = skb._skb_refdst
    return rt is not None and rt.rt_type == RTN_LOCAL


def tcp_v6_send_reset(sk: Any, skb: sk_buff) -> None:
    """Answer a segment that fits nobody; ``sk`` (listener, TIME_WAIT or None) lends its device."""
    th = tcp_hdr(skb)
    if th.flags & TCPHDR_RST:
        return
    if sk is None and not ipv6_unicast_destination(skb):
        return
    seq = ack_seq = label = txhash = 0
    if th.flags & TCPHDR_ACK:
        seq = th.ack_seq
    else:
        syn_fin = (th.flags & TCPHDR_SYN != 0) + (th.flags & TCPHDR_FIN != 0)
        ack_seq = (th.seq + syn_fin + skb.len - (th.doff << 2)) & MASK32
    if sk is None:
        if _net(skb).ipv6.sysctl_flowlabel_reflect & FLOWLABEL_REFLECT_TCP_RESET:
            label = ipv6_hdr(skb).flowlabel
    elif sk.sk_state == TCP_TIME_WAIT:
        label, txhash = sk.tw_flowlabel, sk.tw_txhash
    else:
        label = ipv6_hdr(skb).flowlabel if inet6_sk(sk).repflow else 0
        txhash = sk.sk_txhash
    signed, key = tcp_ipv4.tcp_reset_key(sk, skb, seq, AF_INET6, lambda: _sender(skb))
    if not signed:
        return
    oif = sk.sk_bound_dev_if if sk is not None else 0
    tcp_v6_send_response(sk, skb, seq, ack_seq, 0, 0, 0, oif, True, ipv6_hdr(skb).tclass, label, key, txhash)


def _sender(skb: sk_buff) -> Any:
    """Who listens on the port that a segment came from."""
    net, hdr, port = _net(skb), ipv6_hdr(skb), tcp_hdr(skb).source
    return inet6_hashtables.inet6_lookup_listener(
        net, net.tcp_hashinfo, hdr.saddr, port, hdr.daddr, port, tcp_v6_iif(skb), skb
    )


def tcp_v6_send_ack(
    sk: Any,
    skb: sk_buff,
    seq: int,
    ack: int,
    win: int,
    tsval: int,
    tsecr: int,
    oif: int,
    key: tcp_ipv4.signer_t | None,
    tclass: int,
    label: int,
    txhash: int,
) -> None:
    """An ACK for a request or a TIME_WAIT socket."""
    tcp_v6_send_response(sk, skb, seq, ack, win, tsval, tsecr, oif, False, tclass, label, key, txhash)


def tcp_v6_timewait_ack(tw: tcp_timewait_sock, skb: sk_buff) -> None:
    """Repeat the last ACK of a connection that is over."""
    tcp_v6_send_ack(
        tw,
        skb,
        tw.tw_snd_nxt,
        tw.tw_rcv_nxt,
        tw.tw_rcv_wnd >> tw.tw_rcv_wscale,
        tcp_ipv4.tcp_time_stamp_raw(tw.sk_net) + tw.tw_ts_offset,
        tw.tw_ts_recent,
        tw.sk_bound_dev_if,
        tw.tw_md5_key or tcp_ao.tcp_ao_connection_signer(tw, tw.tw_snd_nxt),
        tw.tw_tclass,
        tw.tw_flowlabel,
        tw.tw_txhash,
    )


def tcp_v6_reqsk_send_ack(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock) -> None:
    """The ACK that a request answers something unacceptable with."""
    seq = (req.snt_isn + 1) & MASK32 if sk.sk_state == TCP_LISTEN else sk.snd_nxt
    tcp_v6_send_ack(
        sk,
        skb,
        seq,
        req.rcv_nxt,
        req.rsk_rcv_wnd >> req.rcv_wscale,
        tcp_ipv4.tcp_time_stamp_raw(sk.sk_net) + req.ts_off,
        req.ts_recent,
        sk.sk_bound_dev_if,
        tcp_ipv4.request_signer(sk, skb, req, AF_INET6),
        ipv6_hdr(skb).tclass,
        0,
        req.txhash,
    )


# -- signatures (RFC 2385) ---------------------------------------------------------------------------------------


def tcp_v6_md5_lookup(sk: tcp_sock, addr_sk: Any) -> tcp_md5sig_key | None:
    """The key for the peer of a connection or request."""
    return tcp_ipv4.tcp_md5_do_lookup(sk, 0, addr_sk.sk_v6_daddr, AF_INET6)


def tcp_v6_md5_hash_skb(key: tcp_md5sig_key, sk: Any, skb: sk_buff) -> bytes:
    """The signature of a segment that we send for a connection or a request."""
    return tcp_ipv4.tcp_md5_hash_skb(key, sk.sk_v6_daddr, sk.sk_v6_rcv_saddr, skb)


def tcp_v6_parse_md5_keys(sk: tcp_sock, optname: int, optval: int | bytes) -> int:
    """setsockopt(TCP_MD5SIG or TCP_MD5SIG_EXT) with a struct tcp_md5sig: 0, -EINVAL, -ENOENT (nothing to remove) or
    -ENOMEM.  A key of length 0 removes.  A mapped address is a peer of IPv4, and its prefix one of IPv4."""
    if isinstance(optval, int) or len(optval) < MD5SIG6.size:
        return -errno.EINVAL
    family, raw, cmd_flags, cmd_prefixlen, keylen, ifindex, key = MD5SIG6.unpack_from(optval)
    if family != AF_INET6:
        return -errno.EINVAL
    addr = int.from_bytes(raw, "big")
    mapped = ipv6_addr_v4mapped(addr)
    width = 32 if mapped else 128
    extended = optname == TCP_MD5SIG_EXT
    flags = cmd_flags & TCP_MD5SIG_FLAG_IFINDEX
    prefixlen = cmd_prefixlen if extended and cmd_flags & TCP_MD5SIG_FLAG_PREFIX else width
    if prefixlen > width or (extended and flags and ifindex) or keylen > TCP_MD5SIG_MAXKEYLEN:
        return -errno.EINVAL
    peer = (addr & MASK32, AF_INET) if mapped else (addr, AF_INET6)
    if not keylen:
        return tcp_ipv4.tcp_md5_do_del(sk, *peer, prefixlen, 0, flags)
    return tcp_ipv4.tcp_md5_do_add(sk, *peer, prefixlen, 0, flags, key[:keylen])


def _inherit_keys(sk: tcp_sock, newsk: tcp_sock, req: tcp_request_sock) -> bool:
    """Of the listener's keys the child takes its peer's; False if the one that it has to sign with is gone."""
    key = tcp_v6_md5_lookup(sk, newsk)
    if key is not None:
        tcp_ipv4.tcp_md5_do_add(newsk, newsk.sk_v6_daddr, AF_INET6, 128, 0, key.flags, key.key)
    return tcp_ao.tcp_ao_copy_all_matching(sk, newsk, req)


# -- the request -------------------------------------------------------------------------------------------------


def tcp_v6_init_sequence(skb: sk_buff, req: tcp_request_sock) -> int:
    """Our ISN for the connection that a SYN asks for; the offset of its time stamps goes into the request."""
    isn, req.ts_off = tcp_v6_init_seq_and_ts_off(_net(skb), skb)
    return isn


def tcp_v6_init_ts_off(net: Stack, skb: sk_buff) -> int:
    iph, th = ipv6_hdr(skb), tcp_hdr(skb)
    return secure_tcpv6_ts_off(net, iph.daddr, iph.saddr, th.dest, th.source)


def tcp_v6_init_seq_and_ts_off(net: Stack, skb: sk_buff) -> tuple[int, int]:
    """(ISN, offset of our time stamps): both halves of one keyed hash of the 4-tuple."""
    iph, th = ipv6_hdr(skb), tcp_hdr(skb)
    return secure_tcpv6_seq_and_ts_off(net, iph.daddr, iph.saddr, th.dest, th.source)


def tcp_v6_init_req(req: tcp_request_sock, sk_listener: tcp_sock, skb: sk_buff) -> None:
    """Addresses of the SYN; a link-local peer is only known together with its device."""
    iph = ipv6_hdr(skb)
    req.sk_v6_daddr = iph.saddr
    req.sk_v6_rcv_saddr = iph.daddr
    req.sk_bound_dev_if = sk_listener.sk_bound_dev_if
    if not req.sk_bound_dev_if and ipv6_addr_is_linklocal(iph.saddr):
        req.sk_bound_dev_if = tcp_v6_iif(skb)
    if inet6_sk(sk_listener).repflow:
        req.pktopts_flowlabel = iph.flowlabel


def tcp_v6_route_req(sk: tcp_sock, skb: sk_buff, fl: object, req: tcp_request_sock) -> dst_entry | None:
    """The route to the peer of a request, or None."""
    return inet6_connection_sock.inet6_csk_route_req(sk, flowi6(), req, IPPROTO_TCP)


def tcp_v6_reqsk_destructor(req: request_sock) -> None:
    """A request over IPv6 keeps nothing that has to be given back (no pktopts here)."""


def tcp_v6_send_synack(
    sk: tcp_sock,
    dst: dst_entry | None,
    fl: object,
    req: tcp_request_sock,
    foc: tcp_fastopen_cookie | None,
    synack_type: int,
    syn_skb: sk_buff | None,
) -> int:
    """Send the SYN-ACK of a request; ``dst`` None (a resend) looks the route up.  0, or nonzero if it did not go."""
    fl6 = flowi6()
    found = inet6_connection_sock.inet6_csk_route_req(sk, fl6, req, IPPROTO_TCP) if dst is None else dst
    if found is None:
        return -1
    skb = tcp_output.tcp_make_synack(sk, found, req, foc, synack_type, syn_skb)
    __tcp_v6_send_check(skb, req.sk_v6_rcv_saddr, req.sk_v6_daddr)
    fl6.daddr, fl6.saddr = req.sk_v6_daddr, req.sk_v6_rcv_saddr
    fl6.flowlabel = req.pktopts_flowlabel
    fl6.flowi6_proto = IPPROTO_TCP
    fl6.fl6_sport, fl6.fl6_dport = req.sk_num, req.sk_dport
    np = inet6_sk(sk)
    tclass = np.tclass
    if sk.sk_net.ipv4.sysctl_tcp_reflect_tos:
        tclass = req.syn_tos & ~INET_ECN_MASK | tclass & INET_ECN_MASK
    err = ip6_output.ip6_xmit(sk, skb, fl6, skb.mark or sk.sk_mark, np.opt, tclass)
    return err if err < 0 else 0


def __tcp_v6_send_check(skb: sk_buff, saddr: int, daddr: int) -> None:
    """Put the pseudo-header sum into the checksum field and leave the rest to the device (or dev_queue_xmit)."""
    start = skb.transport_header
    head = skb.head
    assert isinstance(head, bytearray)
    pseudo = tcp_v6_pseudo(saddr, daddr, skb.len)
    head[start + 16] = pseudo >> 8
    head[start + 17] = pseudo & 255
    skb.csum_start = start
    skb.csum_offset = 16
    skb.ip_summed = CHECKSUM_PARTIAL


def tcp_v6_send_check(sk: tcp_sock, skb: sk_buff) -> None:
    __tcp_v6_send_check(skb, inet6_sk(sk).saddr, sk.sk_v6_daddr)


def tcp_v6_conn_request(sk: tcp_sock, skb: sk_buff) -> int:
    """A SYN to a listener of AF_INET6; returns what tcp_conn_request does.  One that was sent to a group, or from an
    IPv4-mapped address, is dropped."""
    if skb.protocol == ETH_P_IP:
        return tcp_ipv4.tcp_v4_conn_request(sk, skb)
    if not ipv6_unicast_destination(skb):
        tcp_listendrop(sk)
        return SKB_DROP_REASON_IP_INVALID_DEST
    if ipv6_addr_v4mapped(ipv6_hdr(skb).saddr):
        IP6_INC_STATS(sk.sk_net, IPSTATS_MIB_INHDRERRORS)
        return SKB_DROP_REASON_IP_INADDRERRORS  # such a packet has no business on a wire: RFC 4038, section 7
    return tcp_input.tcp_conn_request(tcp6_request_sock_ops, tcp_request_sock_ipv6_ops, sk, skb)


# -- the child ---------------------------------------------------------------------------------------------------


def tcp_v6_connect(sk: tcp_sock, addr: sockaddr_in6) -> int:
    """Begin a connection: 0 once the SYN is on its way, or a negative errno.  To :: means to this host; a link-local
    address needs its device (-EINVAL without); an IPv4-mapped one makes it a connection of IPv4 (-ENETUNREACH if the
    socket is IPV6_V6ONLY)."""
    net, np = sk.sk_net, inet6_sk(sk)
    daddr = addr[0] or IN6_LOOPBACK
    if ipv6_addr_is_multicast(daddr):
        return -errno.ENETUNREACH
    if ipv6_addr_needs_scope_id(daddr):
        if addr[3] and sk.sk_bound_dev_if not in (0, addr[3]):
            return -errno.EINVAL
        sk.sk_bound_dev_if = sk.sk_bound_dev_if or addr[3]
        if not sk.sk_bound_dev_if:
            return -errno.EINVAL
    if sk.rx_opt.ts_recent_stamp and sk.sk_v6_daddr != daddr:
        tcp_ipv4.forget_peer(sk)
    if ipv6_addr_v4mapped(daddr):
        return _connect_mapped(sk, (daddr & MASK32, addr[1]))
    fl6 = flowi6()
    fl6.flowi6_proto, fl6.daddr, fl6.saddr = IPPROTO_TCP, daddr, sk.sk_v6_rcv_saddr or np.saddr
    fl6.flowi6_oif, fl6.flowi6_mark = sk.sk_bound_dev_if, sk.sk_mark
    fl6.fl6_dport, fl6.fl6_sport = addr[1], sk.inet_sport
    dst = route.ip6_route_output(net, sk, fl6)
    if isinstance(dst, int):
        return dst
    if not sk.sk_v6_rcv_saddr:
        inet_hashtables.inet_bhash2_update_saddr(sk, fl6.saddr, AF_INET6)
    np.saddr = fl6.saddr
    sk.inet_saddr = sk.sk_rcv_saddr = LOOPBACK4_IPV6
    sk.sk_v6_daddr, sk.sk_daddr, sk.sk_dport = daddr, LOOPBACK4_IPV6, addr[1]
    sk.sk_gso_type = SKB_GSO_TCPV6
    sk_setup_caps(sk, dst)
    sk.icsk_ext_hdr_len = 0
    sk_set_txhash(sk)
    sk.rx_opt.mss_clamp = IPV6_MIN_MTU - TCP_HEADER_LEN - IPV6HDR_LEN
    tcp.tcp_set_state(sk, TCP_SYN_SENT)
    err = inet6_hashtables.inet6_hash_connect(sk)
    if not err:
        isn, ts_off = secure_tcpv6_seq_and_ts_off(net, np.saddr, daddr, sk.inet_sport, addr[1])
        tcp_ipv4.begin_numbers(sk, isn, ts_off)
        if tcp_fastopen.tcp_fastopen_defer_connect(sk):
            return 0
        err = tcp_output.tcp_connect(sk)
    if err:
        tcp_ipv4.connect_failed(sk)
    return err


def _connect_mapped(sk: tcp_sock, addr: sockaddr_in) -> int:
    """To an IPv4-mapped address: IPv4's functions from here on, and IPv6's again if it cannot begin."""
    if sk.sk_ipv6only:
        return -errno.ENETUNREACH
    sk.icsk_af_ops, sk.af_specific = ipv6_mapped, tcp_sock_ipv6_mapped_specific
    err = tcp_ipv4.tcp_v4_connect(sk, addr)
    if err:
        sk.icsk_af_ops, sk.af_specific = ipv6_specific, tcp_sock_ipv6_specific
        sk.sk_v6_daddr = 0
    return err


def inet6_sk_rx_dst_set(sk: tcp_sock, skb: sk_buff) -> None:
    """The route that the peer's packets come by."""
    sk.sk_rx_dst = skb._skb_refdst


def _clone_pinfo(newsk: tcp_sock, sk: tcp_sock) -> ipv6_pinfo:
    """A child has the listener's IPv6 options."""
    old, np = inet6_sk(sk), ipv6_pinfo()
    np.hop_limit, np.min_hopcount = old.hop_limit, old.min_hopcount
    np.mcast_hops, np.mcast_oif, np.mc_loop = old.mcast_hops, old.mcast_oif, old.mc_loop
    np.tclass, np.pmtudisc, np.recverr = old.tclass, old.pmtudisc, old.recverr
    np.repflow, np.sndflow = old.repflow, old.sndflow
    np.autoflowlabel, np.autoflowlabel_set = old.autoflowlabel, old.autoflowlabel_set
    np.rxopt, np.opt = old.rxopt, old.opt
    np.ucast_oif, np.mc_all, np.frag_size = old.ucast_oif, old.mc_all, old.frag_size
    np.dontfrag, np.recverr_rfc4884 = old.dontfrag, old.recverr_rfc4884
    newsk.pinet6 = np
    newsk.sk_ipv6only = sk.sk_ipv6only
    return np


def _mapped_child(
    sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, dst: dst_entry | None, req_unhash: Any
) -> tuple[tcp_sock | None, bool]:
    """IPv4's child, as a socket of AF_INET6."""
    newsk, own_req = tcp_ipv4.tcp_v4_syn_recv_sock(sk, skb, req, dst, req_unhash)
    if newsk is None:
        return None, False
    np = _clone_pinfo(newsk, sk)
    np.saddr = newsk.sk_v6_rcv_saddr
    newsk.icsk_af_ops = ipv6_mapped
    newsk.af_specific = tcp_sock_ipv6_mapped_specific
    # The MSS counted 40 bytes of header while the socket still had the listener's operations.
    tcp_output.tcp_sync_mss(newsk, newsk.icsk_pmtu_cookie)
    return newsk, own_req


def _set_addresses(newsk: tcp_sock, req: tcp_request_sock, skb: sk_buff, np: ipv6_pinfo) -> None:
    newsk.sk_v6_daddr = req.sk_v6_daddr
    newsk.sk_v6_rcv_saddr = np.saddr = req.sk_v6_rcv_saddr
    newsk.sk_bound_dev_if = req.sk_bound_dev_if
    newsk.sk_daddr = newsk.sk_rcv_saddr = newsk.inet_saddr = LOOPBACK4_IPV6
    newsk.inet_opt = None
    newsk.icsk_ext_hdr_len = np.opt.opt_nflen + np.opt.opt_flen if np.opt is not None else 0
    np.mcast_oif = tcp_v6_iif(skb)
    np.mcast_hops = ipv6_hdr(skb).hop_limit
    np.flow_label = ipv6_hdr(skb).flowlabel if np.repflow else 0
    if newsk.sk_net.ipv4.sysctl_tcp_reflect_tos:
        np.tclass = req.syn_tos & ~INET_ECN_MASK


def tcp_v6_syn_recv_sock(
    sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, dst: dst_entry | None, req_unhash: Any
) -> tuple[tcp_sock | None, bool]:
    """The third ACK makes the child: see tcp_v4_syn_recv_sock."""
    if skb.protocol == ETH_P_IP:
        return _mapped_child(sk, skb, req, dst, req_unhash)
    if sk_acceptq_is_full(sk):
        NET_INC_STATS(sk.sk_net, LINUX_MIB_LISTENOVERFLOWS)
        tcp_listendrop(sk)
        return None, False
    if dst is None:
        dst = inet6_connection_sock.inet6_csk_route_req(sk, flowi6(), req, IPPROTO_TCP)
        if dst is None:
            tcp_listendrop(sk)
            return None, False
    newsk = tcp_minisocks.tcp_create_openreq_child(sk, req, skb)
    newsk.sk_gso_type = SKB_GSO_TCPV6
    inet6_sk_rx_dst_set(newsk, skb)
    _set_addresses(newsk, req, skb, _clone_pinfo(newsk, sk))
    if not _inherit_keys(sk, newsk, req):
        return _put_and_exit(sk, newsk)
    sk_setup_caps(newsk, dst)
    tcp_minisocks.tcp_ca_openreq_child(newsk, dst)
    tcp_output.tcp_sync_mss(newsk, dst_mtu(dst))
    newsk.advmss = tcp_output.tcp_mss_clamp(sk, dst_metric_advmss(dst))
    tcp_input.tcp_initialize_rcv_mss(newsk)
    if inet_hashtables.__inet_inherit_port(sk, newsk) < 0:
        return _put_and_exit(sk, newsk)
    own_req = inet_hashtables.inet_ehash_nolisten(newsk, req_unhash, check_dup=req_unhash is None)
    if own_req:
        tcp_move_syn(newsk, req)
    elif req_unhash is None:
        return None, False  # a cookie for a 4-tuple that is taken meanwhile
    return newsk, own_req


def _put_and_exit(sk: tcp_sock, newsk: tcp_sock) -> tuple[None, bool]:
    net_inet_connection_sock.inet_csk_prepare_forced_close(newsk)
    tcp.tcp_done(newsk)
    tcp_listendrop(sk)
    return None, False


# -- ICMPv6 errors -----------------------------------------------------------------------------------------------


def tcp_v6_err(skb: sk_buff, type_: int, code: int, info: int) -> int:
    """An ICMPv6 error about a segment of ours; skb.data is at the IPv6 header that it quotes, skb.transport_header at
    the TCP header behind it.  0 or -ENOENT (nobody sent that)."""
    net = _net(skb)
    hdr = ipv6hdr_at(skb.head, skb.data)
    at = skb.transport_header
    if at + 8 > skb.tail:
        return -errno.ENOENT
    sport, dport = int.from_bytes(skb.head[at : at + 2], "big"), int.from_bytes(skb.head[at + 2 : at + 4], "big")
    seq = int.from_bytes(skb.head[at + 4 : at + 8], "big")
    sk = inet6_hashtables.__inet6_lookup_established(
        net, net.tcp_hashinfo, hdr.daddr, dport, hdr.saddr, sport, skb.skb_iif
    )
    if sk is None:
        ICMP6_INC_STATS(net, ICMP6_MIB_INERRORS)
        return -errno.ENOENT
    if sk.sk_state == TCP_TIME_WAIT:
        return 0
    fatal, err = icmp.icmpv6_err_convert(type_, code)
    if sk.sk_state == TCP_NEW_SYN_RECV:
        tcp_ipv4.tcp_req_err(sk, seq, fatal)
        return 0
    if sk.sk_state == TCP_CLOSE or tcp_ao.tcp_ao_ignore_icmp(sk, AF_INET6, type_, code):
        return 0
    if ipv6_hdr(skb).hop_limit < inet6_sk(sk).min_hopcount:
        NET_INC_STATS(net, LINUX_MIB_TCPMINTTLDROP)
        return 0
    # The SYN-ACK of a Fast Open child is in nobody's queue, but an error about it counts.
    snd_una = sk.snd_una if sk.fastopen_rsk is None else sk.fastopen_rsk.snt_isn
    if not between(seq, snd_una, sk.snd_nxt):
        NET_INC_STATS(net, LINUX_MIB_OUTOFWINDOWICMPS)
    elif type_ == ICMPV6_PKT_TOOBIG:
        tcp_v6_mtu_reduced(sk, info)
    else:
        if type_ == ICMPV6_DEST_UNREACH and code == ICMPV6_NOROUTE and sk.fastopen_rsk is None:
            tcp_ipv4.tcp_ld_RTO_revert(sk, seq)
        _err_for_connection(sk, skb, err, (type_, code, info))
    return 0


def _err_for_connection(sk: tcp_sock, skb: sk_buff, err: int, said: tuple[int, int, int]) -> None:
    """``said``: type, code and value of the ICMPv6 message."""
    # A Fast Open child that accept() gave out is treated like an established connection.
    fastopen = sk.fastopen_rsk
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV) and not (fastopen is not None and fastopen.sk is None):
        type_, code, info = said
        datagram.ipv6_icmp_error(sk, skb, err, type_, code, sk.sk_dport, info, skb.transport_header)
        tcp.tcp_done_with_error(sk, err)
    elif inet6_sk(sk).recverr:
        sk.sk_err = err
        sk.sk_error_report(sk)
    else:
        # RFC 1122, section 4.2.3.9: a soft error, told only if the connection fails later.
        sk.sk_err_soft = err


def tcp_v6_mtu_reduced(sk: tcp_sock, mtu: int) -> None:
    """Path MTU discovery (RFC 8201): smaller segments from here on, and at once for what was lost."""
    if sk.sk_state in (TCP_LISTEN, TCP_CLOSE):
        return
    # A message that would not make the segments smaller tells nothing new.
    if tcp_output.tcp_mtu_to_mss(sk, mtu) >= sk.mss_cache:
        return
    dst = inet6_connection_sock.inet6_csk_update_pmtu(sk, mtu)
    if dst is None:
        return
    if sk.icsk_pmtu_cookie > dst_mtu(dst):
        tcp_output.tcp_sync_mss(sk, dst_mtu(dst))
        tcp_input.tcp_simple_retransmit(sk)


# -- receiving ---------------------------------------------------------------------------------------------------


def tcp_v6_cookie_check(sk: tcp_sock, skb: sk_buff) -> Any:
    """Anything but a SYN at a listener may answer a cookie: the child then, else the listener, or None (done with)."""
    if tcp_hdr(skb).flags & TCPHDR_SYN:
        return sk
    return syncookies.cookie_v6_check(sk, skb)


def tcp_v6_do_rcv(sk: tcp_sock, skb: sk_buff) -> int:
    """A segment for a listener or a connection."""
    if skb.protocol == ETH_P_IP:
        return tcp_ipv4.tcp_v4_do_rcv(sk, skb)
    state = sk.sk_state
    if state == TCP_ESTABLISHED:
        tcp_input.tcp_rcv_established(sk, skb)
        return 0
    if state == TCP_LISTEN:
        nsk = tcp_v6_cookie_check(sk, skb)
        if nsk is None:
            # An answer to a cookie of ours that comes to nothing.
            full = sk_acceptq_is_full(sk)
            kfree_skb_reason(
                skb, SKB_DROP_REASON_TCP_LISTEN_OVERFLOW if full else SKB_DROP_REASON_NOT_SPECIFIED
            )
            return 0
        if nsk is not sk:
            reason = tcp_minisocks.tcp_child_process(sk, nsk, skb)
            return _reset_and_drop(nsk, skb, reason) if reason else 0
    else:
        sock_rps_save_rxhash(sk, skb)
    reason = tcp_input.tcp_rcv_state_process(sk, skb)
    return _reset_and_drop(sk, skb, reason) if reason else 0


def _reset_and_drop(sk: Any, skb: sk_buff, reason: int) -> int:
    tcp_v6_send_reset(sk, skb)
    kfree_skb_reason(skb, reason)
    return 0


def tcp_v6_fill_cb(skb: sk_buff, hdr: ipv6hdr, th: tcphdr) -> None:
    """TCP's view of a received segment: its sequence space."""
    flags = th.flags
    end_seq = th.seq + skb.len - (th.doff << 2)
    if flags & (TCPHDR_SYN | TCPHDR_FIN):
        end_seq += (flags & TCPHDR_SYN != 0) + (flags & TCPHDR_FIN != 0)
    cb = tcp_skb_cb(th.seq, end_seq & MASK32, flags)
    cb.ack_seq = th.ack_seq
    cb.ip_dsfield = hdr.tclass
    skb.cb = cb


def tcp_v6_rcv(skb: sk_buff) -> int:
    """A segment for this host; skb.data is at its TCP header."""
    net = _net(skb)
    if skb.pkt_type != PACKET_HOST:
        kfree_skb_reason(skb, SKB_DROP_REASON_OTHERHOST)
        return 0
    net.mib.tcp_statistics[TCP_MIB_INSEGS] += 1
    headlen = skb.tail - skb.data
    if headlen < TCP_HEADER_LEN:
        kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_SMALL)  # and no InErrs: as over IPv4
        return 0
    th = tcphdr(*TCP_HEADER.unpack_from(skb.head, skb.data))
    if th.doff < 5:
        return _bad_packet(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    if headlen < th.doff << 2:
        kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_SMALL)
        return 0
    skb.h_th = th
    hdr = ipv6_hdr(skb)
    if skb.ip_summed == CHECKSUM_NONE and tcp_v6_csum_error(skb, hdr):
        TCP_INC_STATS(net, TCP_MIB_CSUMERRORS)
        return _bad_packet(net, skb, SKB_DROP_REASON_TCP_CSUM)
    tcp_v6_fill_cb(skb, hdr, th)
    sk = inet6_hashtables.__inet6_lookup_skb(net, hdr, skb, th.source, th.dest)
    while sk is not None:
        state = sk.sk_state
        if state in (TCP_NEW_SYN_RECV, TCP_TIME_WAIT):
            sk = (_rcv_request if state == TCP_NEW_SYN_RECV else _do_time_wait)(net, skb, hdr, th, sk)
            if sk is _DONE:
                return 0
            continue
        if sk.pinet6.min_hopcount > hdr.hop_limit:
            NET_INC_STATS(net, LINUX_MIB_TCPMINTTLDROP)
            kfree_skb_reason(skb, SKB_DROP_REASON_TCP_MINTTL)
            return 0
        if state != TCP_ESTABLISHED or th.doff >= _DOFF_SIGNED or sk.md5sig_info is not None or sk.ao_info is not None:
            reason = tcp.tcp_inbound_hash(sk, None, skb, hdr.saddr, AF_INET6)
            if reason:
                return _drop_unsigned(sk, skb, reason)
        if state != TCP_LISTEN:
            tcp_segs_in(sk, skb)
        return tcp_v6_do_rcv(sk, skb)
    tcp_v6_send_reset(None, skb)
    kfree_skb_reason(skb, SKB_DROP_REASON_NO_SOCKET)
    return 0


def _drop_unsigned(sk: tcp_sock, skb: sk_buff, reason: int) -> int:
    sk.sk_drops += 1
    kfree_skb_reason(skb, reason)
    return 0


def tcp_v6_csum_error(skb: sk_buff, hdr: ipv6hdr) -> bool:
    segment = memoryview(skb.head)[skb.data : skb.tail]
    return csum_fold(csum_partial(segment) + tcp_v6_pseudo(hdr.saddr, hdr.daddr, len(segment))) != 0


def _bad_packet(net: Stack, skb: sk_buff, reason: int) -> int:
    TCP_INC_STATS(net, TCP_MIB_INERRS)
    kfree_skb_reason(skb, reason)
    return 0


def _rcv_request(net: Stack, skb: sk_buff, hdr: ipv6hdr, th: tcphdr, req: tcp_request_sock) -> Any:
    """A segment for a request: whom to try next, or _DONE (as in tcp_ipv4.py)."""
    sk: tcp_sock = req.rsk_listener
    unsigned = tcp.tcp_inbound_hash(sk, req, skb, hdr.saddr, AF_INET6)
    if unsigned:
        _drop_unsigned(sk, skb, unsigned)
        return _DONE
    if sk.sk_state != TCP_LISTEN:
        inet_connection_sock.inet_csk_reqsk_queue_drop_and_put(sk, req)
        return inet6_hashtables.__inet6_lookup_skb(net, hdr, skb, th.source, th.dest)
    nsk = tcp_minisocks.tcp_check_req(sk, skb, req, False)
    if nsk is None:
        if req.drop_reason == SKB_NOT_DROPPED_YET:
            consume_skb(skb)
        else:
            kfree_skb_reason(skb, req.drop_reason)
        return _DONE
    if nsk is sk:
        return sk
    reason = tcp_minisocks.tcp_child_process(sk, nsk, skb)
    if reason:
        _reset_and_drop(nsk, skb, reason)
    return _DONE


def _do_time_wait(net: Stack, skb: sk_buff, hdr: ipv6hdr, th: tcphdr, tw: tcp_timewait_sock) -> Any:
    """A segment for a connection that is over.  The listener if a new connection may begin, else _DONE."""
    status = tcp_minisocks.tcp_timewait_state_process(tw, skb, th)
    if status == tcp_minisocks.TCP_TW_SYN:
        sk2 = inet6_hashtables.inet6_lookup_listener(
            net, net.tcp_hashinfo, hdr.saddr, th.source, hdr.daddr, th.dest, tcp_v6_iif(skb), skb
        )
        if sk2 is not None:
            inet_timewait_sock.inet_twsk_deschedule_put(tw)
            return sk2
        status = tcp_minisocks.TCP_TW_ACK
    if status == tcp_minisocks.TCP_TW_ACK:
        tcp_v6_timewait_ack(tw, skb)
    elif status == tcp_minisocks.TCP_TW_RST:
        tcp_v6_send_reset(tw, skb)
        inet_timewait_sock.inet_twsk_deschedule_put(tw)
    consume_skb(skb)
    return _DONE


# -- birth and death ---------------------------------------------------------------------------------------------


def tcp_v6_init_sock(sk: tcp_sock) -> int:
    tcp.tcp_init_sock(sk)
    sk.icsk_af_ops = ipv6_specific
    sk.af_specific = tcp_sock_ipv6_specific
    return 0


tcp6_request_sock_ops: request_sock_ops = request_sock_ops(
    AF_INET6,
    tcp_request_sock,
    send_ack=tcp_v6_reqsk_send_ack,
    send_reset=tcp_v6_send_reset,
    destructor=tcp_v6_reqsk_destructor,
)

tcp_sock_ipv6_specific: tcp_sock_af_ops = tcp_sock_af_ops(
    md5_lookup=tcp_v6_md5_lookup, calc_md5_hash=tcp_v6_md5_hash_skb, md5_parse=tcp_v6_parse_md5_keys
)

# Of a socket of AF_INET6 whose peer is one of IPv4.
tcp_sock_ipv6_mapped_specific: tcp_sock_af_ops = tcp_sock_af_ops(
    md5_lookup=tcp_ipv4.tcp_v4_md5_lookup,
    calc_md5_hash=tcp_ipv4.tcp_v4_md5_hash_skb,
    md5_parse=tcp_v6_parse_md5_keys,
)

tcp_request_sock_ipv6_ops: tcp_request_sock_af_ops = tcp_request_sock_af_ops(
    IPV6_MIN_MTU - IPV6HDR_LEN - TCP_HEADER_LEN,
    init_req=tcp_v6_init_req,
    init_seq=tcp_v6_init_sequence,
    init_ts_off=tcp_v6_init_ts_off,
    init_seq_and_ts_off=tcp_v6_init_seq_and_ts_off,
    route_req=tcp_v6_route_req,
    send_synack=tcp_v6_send_synack,
    req_md5_lookup=tcp_v6_md5_lookup,
    calc_md5_hash=tcp_v6_md5_hash_skb,
)

ipv6_specific: inet_connection_sock_af_ops = inet_connection_sock_af_ops(
    IPV6HDR_LEN,
    28,
    queue_xmit=inet6_connection_sock.inet6_csk_xmit,
    send_check=tcp_v6_send_check,
    rebuild_header=inet6_connection_sock.inet6_sk_rebuild_header,
    sk_rx_dst_set=inet6_sk_rx_dst_set,
    conn_request=tcp_v6_conn_request,
    syn_recv_sock=tcp_v6_syn_recv_sock,
    setsockopt=ipv6_sockglue.ipv6_setsockopt,
    getsockopt=ipv6_sockglue.ipv6_getsockopt,
    mtu_reduced=tcp_v6_mtu_reduced,
)

ipv6_mapped: inet_connection_sock_af_ops = inet_connection_sock_af_ops(
    20,
    28,
    queue_xmit=tcp_ipv4.ipv4_specific.queue_xmit,
    send_check=tcp_ipv4.tcp_v4_send_check,
    sk_rx_dst_set=tcp_ipv4.inet_sk_rx_dst_set,
    conn_request=tcp_v6_conn_request,
    syn_recv_sock=tcp_v6_syn_recv_sock,
    setsockopt=ipv6_sockglue.ipv6_setsockopt,
    getsockopt=ipv6_sockglue.ipv6_getsockopt,
    mtu_reduced=tcp_ipv4.tcp_v4_mtu_reduced,
)

tcpv6_prot: proto = proto("TCPv6", slab=tcp_sock, init=tcp_v6_init_sock, destroy=tcp_ipv4.tcp_v4_destroy_sock)


def tcpv6_init() -> None:
    """Fill tcpv6_prot and the tables of operations with what IPv4's have and with what imports this module."""
    tcp6_request_sock_ops.rtx_syn_ack = tcp_output.tcp_rtx_synack
    tcp6_request_sock_ops.syn_ack_timeout = tcp_timer.tcp_syn_ack_timeout
    tcp_request_sock_ipv6_ops.cookie_init_seq = syncookies.cookie_v6_init_sequence
    ipv6_mapped.rebuild_header = tcp_ipv4.ipv4_specific.rebuild_header
    for name in (
        "close",
        "disconnect",
        "accept",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "keepalive",
        "set_rcvlowat",
        "ioctl",
        "recvmsg",
        "sendmsg",
        "stream_memory_free",
        "release_cb",
        "hash",
        "unhash",
        "get_port",
    ):
        setattr(tcpv6_prot, name, getattr(tcp_ipv4.tcp_prot, name))
    tcpv6_prot.connect = tcp_v6_connect
    tcpv6_prot.twsk_prot = tcp_ipv4.tcp_timewait_sock_ops
    tcpv6_prot.rsk_prot = tcp6_request_sock_ops


def tcpv6_net_init(net: Stack) -> None:
    """TCP's part of IPv6 in a new namespace: the socket that lends itself to answers nobody else stands for."""
    tcpv6_init()
    sk = core_sock.sk_alloc(net, AF_INET6, tcpv6_prot)
    core_sock.sock_init_data(None, sk)
    sk.sk_protocol = IPPROTO_TCP
    sk.pinet6 = ipv6_pinfo()
    net.tcp6_ctl_sk = sk


tcpv6_protocol = inet6_protocol(tcp_v6_rcv, tcp_v6_err)
