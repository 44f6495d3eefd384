# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP over IPv4: net/ipv4/tcp_ipv4.c.

Theory of operation
-------------------
``tcp_v4_rcv`` is where a segment enters: header and checksum are verified, then the tables say who it is for.

    found                      who judges
    a request (NEW_SYN_RECV)   tcp_check_req; a child goes on to tcp_child_process
    a TIME_WAIT socket         tcp_timewait_state_process; a new SYN may go on to the listener
    a listener                 tcp_v4_do_rcv -> (cookie?) -> tcp_rcv_state_process -> tcp_v4_conn_request
    a connection               tcp_v4_do_rcv -> tcp_rcv_established or tcp_rcv_state_process
    nobody                     tcp_v4_send_reset

A RST or ACK that no socket stands for (``tcp_v4_send_reset``, ``tcp_v4_send_ack``) is built from the segment it
answers: RFC 9293, section 3.10.7.1: to a segment with ACK a bare RST with seq = its ack, else RST+ACK with seq 0
and ack = what the segment covered; never a RST to a RST.  IP id 0, DF, window 0, no options.

``tcp_prot`` and ``ipv4_specific`` are what af_inet.py and the rest of TCP call.  ``tcp_v4_init`` fills tcp_prot
once, since its functions live in modules that import this one.

Signatures (RFC 2385): a listener has keys by peer (TCP_MD5SIG), a child its peer's alone.  ``tcp_inbound_md5_hash``
drops what is not signed as the keys say before anything else is looked at; every answer to a peer with a key is
signed, also those without a socket: by the listener's key, or the one that the TIME_WAIT socket kept.

The authentication option (RFC 5925) of kernels that know it is tcp_ao.py's.

Left out: the receive backlog (nobody owns a socket for long here), early demux.
"""

from __future__ import annotations

import errno
from hashlib import md5
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stack.include.dropreason import (
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
from stack.include.dst import RTCF_BROADCAST, RTCF_MULTICAST, RTN_LOCAL, dst_metric_advmss, dst_mtu, flowi4
from stack.include.inet_connection_sock import (
    ICSK_TIME_RETRANS,
    inet_connection_sock_af_ops,
    inet_csk_reset_xmit_timer,
    inet_csk_rto_backoff,
)
from stack.include.inet_sock import IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT
from stack.include.inet_timewait_sock import inet_timewait_death_row, tcp_timewait_sock, timewait_sock_ops
from stack.include.ip import (
    ICMP_DEST_UNREACH,
    ICMP_EXC_TTL,
    ICMP_FRAG_NEEDED,
    ICMP_HOST_UNREACH,
    ICMP_NET_UNREACH,
    ICMP_PARAMETERPROB,
    ICMP_TIME_EXCEEDED,
    INET_ECN_MASK,
    IPPROTO_TCP,
    icmp_hdr,
    ip_hdr,
    ip_reply_arg,
    iphdr_at,
    ipv4_is_loopback,
    net_protocol,
)
from stack.include.request_sock import request_sock_ops, tcp_request_sock
from stack.include.request_sock import tcp_request_sock_ops as tcp_request_sock_af_ops
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, PACKET_HOST, SKB_GSO_TCPV4
from stack.include.snmp import (
    ICMP_INC_STATS,
    ICMP_MIB_INERRORS,
    IP_INC_STATS,
    IPSTATS_MIB_OUTNOROUTES,
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
    SOCK_BINDADDR_LOCK,
    proto,
    sk_acceptq_is_full,
    sk_dst_reset,
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
    TCP_MSS_DEFAULT,
    TCP_RTO_MAX,
    TCP_TIMEOUT_INIT,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPOLEN_MD5SIG,
    TCPOLEN_MD5SIG_ALIGNED,
    TCPOLEN_TSTAMP_ALIGNED,
    TCPOPT_MD5SIG,
    TCPOPT_NOP,
    ktime_get_seconds,
    tcp_fastopen_cookie,
    tcp_hdr,
    tcp_listendrop,
    tcp_md5sig_info,
    tcp_md5sig_key,
    tcp_move_syn,
    tcp_rtx_queue_head,
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
from stack.kernel.time.timer import usecs_to_jiffies
from stack.lib.checksum import csum_fold, csum_partial, csum_tcpudp_nofold, tcp_v4_pseudo
from stack.net.core.secure_seq import secure_tcp_seq_and_ts_off, secure_tcp_ts_off
from stack.net.core.skbuff import consume_skb, kfree_skb_reason
from stack.net.core.sock import sk_gso_disable, sk_setup_caps
from stack.net.ipv4 import (
    af_inet,
    icmp,
    inet_connection_sock,
    inet_hashtables,
    inet_timewait_sock,
    ip_options,
    ip_output,
    ip_sockglue,
    route,
    syncookies,
    tcp,
    tcp_ao,
    tcp_cong,
    tcp_fastopen,
    tcp_input,
    tcp_minisocks,
    tcp_output,
    tcp_timer,
)
from stack.seqnum import MASK32, between

if TYPE_CHECKING:
    from collections.abc import Callable

    from stack.include.dst import dst_entry, rtable
    from stack.include.inet_sock import ip_options as ip_options_t
    from stack.include.inet_timewait_sock import tcp_timewait_sock
    from stack.include.ip import iphdr
    from stack.include.net import sockaddr_in
    from stack.include.request_sock import request_sock
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

signer_t: TypeAlias = "tcp_md5sig_key | tcp_ao.tcp_ao_signer"

_DONE: Final = object()
TS_OPTION: Final = 0x0101080A  # NOP, NOP, time stamp, 10 bytes
MD5_OPTION: Final = bytes((TCPOPT_NOP, TCPOPT_NOP, TCPOPT_MD5SIG, TCPOLEN_MD5SIG))
# A header shorter than this (in words) has no room for a signature.
_DOFF_WITH_MD5: Final = 10
_DOFF_SIGNED: Final = 9  # for an authentication option with its usual MAC of 12 bytes
# struct tcp_md5sig: a sockaddr_storage with a sockaddr_in, flags, prefixlen, keylen, ifindex, key
MD5SIG: Final = Struct("=H2x4s120xBBHi80s")
MD5_PSEUDO: Final = Struct("!IIBBH")
MD5_PSEUDO6: Final = Struct("!I3xB")
MD5SIG_KEY_SIZE: Final = 136  # sizeof(struct tcp_md5sig_key) on 64 bits


# -- answers without a socket ------------------------------------------------------------------------------------


def _reply_arg(skb: sk_buff, iov: bytearray, oif: int, tos: int) -> ip_reply_arg:
    iph: iphdr = skb.h_iph
    pseudo = csum_tcpudp_nofold(iph.daddr, iph.saddr, len(iov), IPPROTO_TCP, 0)
    return ip_reply_arg(iov, csum=pseudo, csumoffset=8, bound_dev_if=oif, tos=tos)


def tcp_v4_send_reset(sk: Any, skb: sk_buff) -> None:
    """Answer a segment that fits nobody; ``sk`` (listener, TIME_WAIT or None) lends its device."""
    th: tcphdr = skb.h_th
    if th.flags & TCPHDR_RST:
        return
    net = skb.dev.net if skb.dev is not None else sk.sk_net
    rt: Any = skb._skb_refdst
    if sk is None and (rt is None or rt.rt_type != RTN_LOCAL):
        return
    seq = ack_seq = 0
    flags = TCPHDR_RST
    if th.flags & TCPHDR_ACK:
        seq = th.ack_seq
    else:
        flags |= TCPHDR_ACK
        syn_fin = (th.flags & TCPHDR_SYN != 0) + (th.flags & TCPHDR_FIN != 0)
        ack_seq = (th.seq + syn_fin + skb.len - (th.doff << 2)) & MASK32
    signed, key = tcp_reset_key(sk, skb, seq, AF_INET, lambda: _sender(net, skb))
    if not signed:
        return
    size = TCP_HEADER_LEN + signature_size(key)
    rep = bytearray(size)
    TCP_HEADER.pack_into(rep, 0, th.dest, th.source, seq, ack_seq, size << 10 | flags, 0, 0, 0)
    iph: iphdr = skb.h_iph
    if key is not None:
        sign_reply(rep, TCP_HEADER_LEN, key, iph.daddr, iph.saddr)
    arg = _reply_arg(skb, rep, sk.sk_bound_dev_if if sk is not None else 0, iph.tos)
    ip_output.ip_send_unicast_reply(net, None, skb, skb.ip_opt, iph.saddr, iph.daddr, arg)
    TCP_INC_STATS(net, TCP_MIB_OUTSEGS)
    TCP_INC_STATS(net, TCP_MIB_OUTRSTS)


def tcp_reset_key(
    sk: Any, skb: sk_buff, seq: int, family: int, sender: Callable[[], Any]
) -> tuple[bool, signer_t | None]:
    """(whether a RST may go, the key to sign it with).  Where no socket is left, a signed segment gets its RST only if
    a listener on the port that it came from (``sender``) has the peer's key and the signature is right."""
    saddr = ip_hdr(skb).saddr
    if isinstance(sk, tcp_sock):
        if sk.ao_info is not None and tcp_ao.tcp_ao_do_lookup(sk, saddr, family, -1, -1) is not None:
            signer = tcp_ao.tcp_ao_prepare_reset(sk, skb, seq)
            return signer is not None, signer
        return True, tcp_md5_do_lookup(sk, 0, saddr, family) if sk.md5sig_info is not None else None
    th: tcphdr = skb.h_th
    signature = tcp_input.tcp_parse_md5sig_option(skb) if th.doff >= _DOFF_WITH_MD5 else None
    if signature is None:
        return True, None
    sk1 = sender()
    key = tcp_md5_do_lookup(sk1, 0, saddr, family) if sk1 is not None else None
    if key is None or signature != md5_hash_received(key, skb):
        return False, None
    return True, key


def _sender(net: Stack, skb: sk_buff) -> Any:
    """Who listens on the port that a segment came from."""
    iph, port = ip_hdr(skb), tcp_hdr(skb).source
    return inet_hashtables.inet_lookup_listener(net, iph.saddr, port, iph.daddr, port, skb.skb_iif)


def signature_size(key: signer_t | None) -> int:
    if key is None:
        return 0
    return TCPOLEN_MD5SIG_ALIGNED if isinstance(key, tcp_md5sig_key) else tcp_ao.tcp_ao_len_aligned(key.key)


def sign_reply(rep: bytearray, at: int, key: signer_t, saddr: int, daddr: int) -> None:
    """Put the option at ``rep[at:]``, the last one there, of a segment that is only a header."""
    if not isinstance(key, tcp_md5sig_key):
        tcp_ao.tcp_ao_sign_reply(rep, at, key, saddr, daddr)
        return
    rep[at : at + 4] = MD5_OPTION
    rep[at + 4 : at + 20] = tcp_md5_hash_hdr(key, daddr, saddr, rep)


def tcp_v4_send_ack(
    sk: Any,
    skb: sk_buff,
    seq: int,
    ack: int,
    win: int,
    tsval: int,
    tsecr: int,
    oif: int,
    key: signer_t | None,
    tos: int,
) -> None:
    """An ACK for a request or a TIME_WAIT socket; with a time stamp if there is one to echo, signed if there is a
    key."""
    th: tcphdr = skb.h_th
    net = sk.sk_net
    options_end = TCP_HEADER_LEN + (TCPOLEN_TSTAMP_ALIGNED if tsecr else 0)
    size = options_end + signature_size(key)
    rep = bytearray(size)
    TCP_HEADER.pack_into(rep, 0, th.dest, th.source, seq, ack, size << 10 | TCPHDR_ACK, win, 0, 0)
    if tsecr:
        rep[20:32] = (TS_OPTION << 64 | (tsval & MASK32) << 32 | tsecr).to_bytes(12, "big")
    iph: iphdr = skb.h_iph
    if key is not None:
        sign_reply(rep, options_end, key, iph.daddr, iph.saddr)
    arg = _reply_arg(skb, rep, oif, tos)
    ip_output.ip_send_unicast_reply(net, None, skb, skb.ip_opt, iph.saddr, iph.daddr, arg)
    TCP_INC_STATS(net, TCP_MIB_OUTSEGS)


def tcp_time_stamp_raw(net: Stack) -> int:
    """The TSval clock without any offset: milliseconds."""
    return net.clock.now_ns() // 1_000_000


def tcp_v4_timewait_ack(tw: tcp_timewait_sock, skb: sk_buff) -> None:
    """Repeat the last ACK of a connection that is over."""
    tcp_v4_send_ack(
        tw,
        skb,
        tw.tw_snd_nxt,
        tw.tw_rcv_nxt,
        tw.tw_rcv_wnd >> tw.tw_rcv_wscale,
        tcp_time_stamp_raw(tw.sk_net) + tw.tw_ts_offset,
        tw.tw_ts_recent,
        tw.sk_bound_dev_if,
        tw.tw_md5_key or tcp_ao.tcp_ao_connection_signer(tw, tw.tw_snd_nxt),
        tw.tw_tos,
    )


def tcp_v4_reqsk_send_ack(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock) -> None:
    """The ACK that a request answers something unacceptable with."""
    seq = (req.snt_isn + 1) & MASK32 if sk.sk_state == TCP_LISTEN else sk.snd_nxt
    tcp_v4_send_ack(
        sk,
        skb,
        seq,
        req.rcv_nxt,
        req.rsk_rcv_wnd >> req.rcv_wscale,
        tcp_time_stamp_raw(sk.sk_net) + req.ts_off,
        req.ts_recent,
        0,
        request_signer(sk, skb, req, AF_INET),
        ip_hdr(skb).tos,
    )


def request_signer(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, family: int) -> signer_t | None:
    """What a request's ACK is signed with."""
    if req.used_tcp_ao:
        return tcp_ao.tcp_ao_request_signer(sk, req)
    return tcp_md5_do_lookup(sk, 0, ip_hdr(skb).saddr, family) if sk.md5sig_info is not None else None


# -- signatures (RFC 2385) ---------------------------------------------------------------------------------------


def tcp_md5_do_lookup(sk: tcp_sock, l3index: int, addr: int, family: int) -> tcp_md5sig_key | None:
    """The socket's key for a peer: the one with the longest prefix that covers ``addr``."""
    if sk.md5sig_info is None:
        return None
    best: tcp_md5sig_key | None = None
    width = 128 if family == AF_INET6 else 32
    for key in sk.md5sig_info.head:
        if key.family != family or (key.flags & TCP_MD5SIG_FLAG_IFINDEX and key.l3index != l3index):
            continue
        if (key.addr ^ addr) >> (width - key.prefixlen):
            continue
        if best is None or key.prefixlen > best.prefixlen:
            best = key
    return best


def tcp_md5_do_lookup_exact(
    sk: tcp_sock, addr: int, family: int, prefixlen: int, l3index: int, flags: int
) -> tcp_md5sig_key | None:
    """The key that was set for just this."""
    if sk.md5sig_info is None:
        return None
    wanted = (addr, family, prefixlen, l3index, flags)
    for key in sk.md5sig_info.head:
        if (key.addr, key.family, key.prefixlen, key.l3index, key.flags) == wanted:
            return key
    return None


def tcp_v4_md5_lookup(sk: tcp_sock, addr_sk: Any) -> tcp_md5sig_key | None:
    """The key for the peer of ``addr_sk``, a connection or a request."""
    return tcp_md5_do_lookup(sk, 0, addr_sk.sk_daddr, AF_INET)


def tcp_md5_do_add(
    sk: tcp_sock, addr: int, family: int, prefixlen: int, l3index: int, flags: int, newkey: bytes
) -> int:
    """Set a key, or change it; 0, or -ENOMEM if they would need more than net.core.optmem_max."""
    key = tcp_md5_do_lookup_exact(sk, addr, family, prefixlen, l3index, flags)
    if key is not None:
        key.key = newkey
        return 0
    head = sk.md5sig_info.head if sk.md5sig_info is not None else []
    if (len(head) + 1) * MD5SIG_KEY_SIZE >= sk.sk_net.core.sysctl_optmem_max:
        return -errno.ENOMEM
    if sk.md5sig_info is None:
        sk.md5sig_info = tcp_md5sig_info()
    sk_gso_disable(sk)
    sk.md5sig_info.head.insert(0, tcp_md5sig_key(addr, family, prefixlen, l3index, flags, newkey))
    return 0


def tcp_md5_do_del(sk: tcp_sock, addr: int, family: int, prefixlen: int, l3index: int, flags: int) -> int:
    """Remove a key; 0 or -ENOENT."""
    key = tcp_md5_do_lookup_exact(sk, addr, family, prefixlen, l3index, flags)
    if key is None or sk.md5sig_info is None:
        return -errno.ENOENT
    sk.md5sig_info.head.remove(key)
    return 0


def tcp_clear_md5_list(sk: tcp_sock) -> None:
    sk.md5sig_info = None


def tcp_v4_parse_md5_keys(sk: tcp_sock, optname: int, optval: int | bytes) -> int:
    """setsockopt(TCP_MD5SIG or TCP_MD5SIG_EXT) with a struct tcp_md5sig: 0, -EINVAL, -ENOENT (nothing to remove) or
    -ENOMEM.  A key of length 0 removes."""
    if isinstance(optval, int) or len(optval) < MD5SIG.size:
        return -errno.EINVAL
    family, raw, cmd_flags, cmd_prefixlen, keylen, ifindex, key = MD5SIG.unpack_from(optval)
    if family != AF_INET:
        return -errno.EINVAL
    extended = optname == TCP_MD5SIG_EXT
    flags = cmd_flags & TCP_MD5SIG_FLAG_IFINDEX
    prefixlen = 32
    if extended and cmd_flags & TCP_MD5SIG_FLAG_PREFIX:
        prefixlen = cmd_prefixlen
    # An interface would have to be a VRF's.
    if prefixlen > 32 or (extended and flags and ifindex) or keylen > TCP_MD5SIG_MAXKEYLEN:
        return -errno.EINVAL
    addr = int.from_bytes(raw, "big")
    if not keylen:
        return tcp_md5_do_del(sk, addr, AF_INET, prefixlen, 0, flags)
    return tcp_md5_do_add(sk, addr, AF_INET, prefixlen, 0, flags, key[:keylen])


def tcp_md5_hash_headers(family: int, daddr: int, saddr: int, header: bytes | bytearray, length: int) -> bytes:
    """What is hashed first (RFC 2385, section 2.0): pseudo-header (RFC 8200, section 8.1, for IPv6), and TCP header
    without options and checksum."""
    if family == AF_INET6:
        pseudo = saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big") + MD5_PSEUDO6.pack(length, IPPROTO_TCP)
    else:
        pseudo = MD5_PSEUDO.pack(saddr, daddr, 0, IPPROTO_TCP, length)
    return pseudo + header[:16] + b"\0\0" + header[18:20]


def tcp_md5_hash_hdr(key: tcp_md5sig_key, daddr: int, saddr: int, segment: bytearray) -> bytes:
    """The signature of a segment without data."""
    headers = tcp_md5_hash_headers(key.family, daddr, saddr, segment, len(segment))
    return md5(headers + key.key, usedforsecurity=False).digest()


def tcp_md5_hash_skb(key: tcp_md5sig_key, daddr: int, saddr: int, skb: sk_buff) -> bytes:
    """The signature of a whole segment, its header at skb.transport_header."""
    start = skb.transport_header
    head = skb.head
    length = skb.tail - start + sum(map(len, skb.frags))
    headers = tcp_md5_hash_headers(key.family, daddr, saddr, head[start : start + TCP_HEADER_LEN], length)
    digest = md5(headers, usedforsecurity=False)
    digest.update(memoryview(head)[start + (head[start + 12] >> 4) * 4 : skb.tail])
    for frag in skb.frags:
        digest.update(frag)
    digest.update(key.key)
    return digest.digest()


def md5_hash_received(key: tcp_md5sig_key, skb: sk_buff) -> bytes:
    """What a received segment should be signed with."""
    iph: iphdr = skb.h_iph
    return tcp_md5_hash_skb(key, iph.daddr, iph.saddr, skb)


def tcp_v4_md5_hash_skb(key: tcp_md5sig_key, sk: Any, skb: sk_buff) -> bytes:
    """The signature of a segment that we send for a connection or a request."""
    return tcp_md5_hash_skb(key, sk.sk_daddr, sk.sk_rcv_saddr, skb)


# -- the request -------------------------------------------------------------------------------------------------


def tcp_v4_init_sequence(skb: sk_buff, req: tcp_request_sock) -> int:
    """Our ISN for the connection that a SYN asks for; the offset of its time stamps, the other half of the same hash,
    goes into the request."""
    isn, req.ts_off = tcp_v4_init_seq_and_ts_off(_net(skb), skb)
    return isn


def tcp_v4_init_ts_off(net: Stack, skb: sk_buff) -> int:
    iph: iphdr = skb.h_iph
    th: tcphdr = skb.h_th
    return secure_tcp_ts_off(net, iph.daddr, iph.saddr, th.dest, th.source)


def tcp_v4_init_seq_and_ts_off(net: Stack, skb: sk_buff) -> tuple[int, int]:
    """(ISN, offset of our time stamps): both halves of one keyed hash of the 4-tuple."""
    iph: iphdr = skb.h_iph
    th: tcphdr = skb.h_th
    return secure_tcp_seq_and_ts_off(net, iph.daddr, iph.saddr, th.dest, th.source)


def _net(skb: sk_buff) -> Stack:
    assert skb.dev is not None
    return skb.dev.net


def tcp_v4_save_options(net: Stack, skb: sk_buff) -> ip_options_t | None:
    """The IP options of the SYN as the answer must carry them."""
    if skb.ip_opt is None or not skb.ip_opt.optlen:
        return None
    return ip_options.ip_options_echo(net, skb.ip_opt, skb)


def tcp_v4_init_req(req: tcp_request_sock, sk_listener: tcp_sock, skb: sk_buff) -> None:
    iph: iphdr = skb.h_iph
    req.sk_rcv_saddr = iph.daddr
    req.sk_daddr = iph.saddr
    req.ireq_opt = tcp_v4_save_options(sk_listener.sk_net, skb)


def tcp_v4_route_req(sk: tcp_sock, skb: sk_buff, fl4: flowi4, req: tcp_request_sock) -> rtable | None:
    """The route to the peer of a request, or None."""
    return inet_connection_sock.inet_csk_route_req(sk, fl4, req)


def tcp_v4_reqsk_destructor(req: request_sock) -> None:
    assert isinstance(req, tcp_request_sock)
    req.ireq_opt = None


def tcp_v4_send_synack(
    sk: tcp_sock,
    dst: dst_entry | None,
    fl4: flowi4 | None,
    req: tcp_request_sock,
    foc: tcp_fastopen_cookie | None,
    synack_type: int,
    syn_skb: sk_buff | None,
) -> int:
    """Send the SYN-ACK of a request; ``dst`` None (a resend) looks the route up.  0, or nonzero if it did not go."""
    if dst is None:
        dst = inet_connection_sock.inet_csk_route_req(sk, fl4 or flowi4(), req)
        if dst is None:
            return -1
    skb = tcp_output.tcp_make_synack(sk, dst, req, foc, synack_type, syn_skb)
    __tcp_v4_send_check(skb, req.sk_rcv_saddr, req.sk_daddr)
    tos = req.syn_tos & ~INET_ECN_MASK if sk.sk_net.ipv4.sysctl_tcp_reflect_tos else sk.tos
    return ip_output.ip_build_and_send_pkt(skb, sk, req.sk_rcv_saddr, req.sk_daddr, req.ireq_opt, tos)


def __tcp_v4_send_check(skb: sk_buff, saddr: int, daddr: int) -> None:
    """Put the pseudo-header sum into the checksum field and leave the rest to the device (or dev_queue_xmit)."""
    start = skb.transport_header
    head = skb.head
    assert isinstance(head, bytearray)
    # No route has filled in skb.len beyond TCP yet: it is header and payload.
    pseudo = tcp_v4_pseudo(saddr, daddr, skb.len)
    head[start + 16] = pseudo >> 8
    head[start + 17] = pseudo & 255
    skb.csum_start = start
    skb.csum_offset = 16
    skb.ip_summed = CHECKSUM_PARTIAL


def tcp_v4_send_check(sk: tcp_sock, skb: sk_buff) -> None:
    __tcp_v4_send_check(skb, sk.inet_saddr, sk.sk_daddr)


def tcp_v4_conn_request(sk: tcp_sock, skb: sk_buff) -> int:
    """A SYN to a listener; returns what tcp_conn_request does.  One that was sent to a broadcast address is
    dropped."""
    rt: Any = skb._skb_refdst
    if rt is not None and rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        tcp_listendrop(sk)
        return SKB_DROP_REASON_IP_INVALID_DEST
    return tcp_input.tcp_conn_request(tcp_request_sock_ops, tcp_request_sock_ipv4_ops, sk, skb)


# -- the active open ---------------------------------------------------------------------------------------------


def tcp_twsk_unique(sk: tcp_sock, tw: tcp_timewait_sock, want_tw: bool) -> bool:
    """Whether a connecting socket may take the place of a TIME_WAIT socket (RFC 6191): its peer must have sent time
    stamps, by which old segments will be told, and with ``want_tw`` (a port that was chosen for the application)
    tcp_tw_reuse must allow it: 1 always, 2 between local addresses, and not within the second of the last segment."""
    reuse = sk.sk_net.ipv4.sysctl_tcp_tw_reuse
    if reuse == 2 and not _loopback(tw):
        reuse = 0
    if not tw.tw_ts_recent_stamp:
        return False
    if want_tw and not (reuse and ktime_get_seconds(sk.sk_net) > tw.tw_ts_recent_stamp):
        return False
    if not sk.repair:
        # Beyond what the peer can have of the old connection in its window (RFC 1323, appendix B.2).
        sk.write_seq = (tw.tw_snd_nxt + 65535 + 2) & MASK32 or 1
        sk.rx_opt.ts_recent = tw.tw_ts_recent
        sk.rx_opt.ts_recent_stamp = tw.tw_ts_recent_stamp
    return True


def _loopback(tw: tcp_timewait_sock) -> bool:
    if tw.sk_bound_dev_if == tw.sk_net.loopback_dev.ifindex:
        return True
    if tw.sk_family == AF_INET6 and tw.sk_v6_daddr >> 32 != 0xFFFF:
        return tw.sk_v6_daddr == 1 or tw.sk_v6_rcv_saddr == 1
    return ipv4_is_loopback(tw.sk_daddr) or ipv4_is_loopback(tw.sk_rcv_saddr)


def tcp_v4_connect(sk: tcp_sock, addr: sockaddr_in) -> int:
    """Begin a connection: 0 once the SYN is on its way, or a negative errno (-EINVAL, -ENETUNREACH, -EADDRNOTAVAIL)."""
    net = sk.sk_net
    daddr = nexthop = addr[0]
    opt = sk.inet_opt
    if opt is not None and opt.srr:
        if not daddr:
            return -errno.EINVAL
        nexthop = opt.faddr
    fl4 = flowi4()
    rt = route.ip_route_connect(
        net, fl4, nexthop, sk.inet_saddr, sk.sk_bound_dev_if, IPPROTO_TCP, sk.inet_sport, addr[1], sk
    )
    if isinstance(rt, int):
        if rt == -errno.ENETUNREACH:
            IP_INC_STATS(net, IPSTATS_MIB_OUTNOROUTES)
        return rt
    if rt.rt_flags & (RTCF_MULTICAST | RTCF_BROADCAST):
        return -errno.ENETUNREACH
    if opt is None or not opt.srr:
        daddr = fl4.daddr
    sk.inet_saddr = sk.inet_saddr or fl4.saddr
    _bind_source(sk, sk.inet_saddr)
    if sk.rx_opt.ts_recent_stamp and sk.sk_daddr != daddr:
        forget_peer(sk)
    sk.sk_dport, sk.sk_daddr = addr[1], daddr
    if sk.sk_family == AF_INET6:
        sk.sk_v6_daddr = 0xFFFF << 32 | daddr
    sk.icsk_ext_hdr_len = opt.optlen if opt is not None else 0
    sk.rx_opt.mss_clamp = TCP_MSS_DEFAULT
    sk_set_txhash(sk)
    tcp.tcp_set_state(sk, TCP_SYN_SENT)
    err = inet_hashtables.inet_hash_connect(sk)
    if not err:
        sk.sk_gso_type = SKB_GSO_TCPV4
        sk_setup_caps(sk, rt)
        isn, ts_off = secure_tcp_seq_and_ts_off(net, sk.inet_saddr, daddr, sk.inet_sport, addr[1])
        begin_numbers(sk, isn, ts_off)
        if tcp_fastopen.tcp_fastopen_defer_connect(sk):
            return 0
        err = tcp_output.tcp_connect(sk)
    if err:
        connect_failed(sk)
    return err


def _bind_source(sk: tcp_sock, saddr: int) -> None:
    """The local address is known now; a socket that was bound to a port of any address is listed under this one."""
    if sk.sk_rcv_saddr != saddr:
        inet_hashtables.inet_bhash2_update_saddr(sk, saddr, AF_INET)


def forget_peer(sk: tcp_sock) -> None:
    """What a socket that connected before remembers of another peer."""
    sk.rx_opt.ts_recent = sk.rx_opt.ts_recent_stamp = 0
    if not sk.repair:
        sk.write_seq = 0


def begin_numbers(sk: tcp_sock, isn: int, ts_off: int) -> None:
    """The initial sequence number, unless the TIME_WAIT socket before us set it, the offset of the time stamps, and
    the first IP id."""
    if not sk.repair:
        sk.write_seq = sk.write_seq or isn
        sk.tsoffset = ts_off
    sk.inet_id = sk.sk_net.rng.get_random_u32() & 0xFFFF


def connect_failed(sk: tcp_sock) -> None:
    """Back to a closed socket, its port given back."""
    tcp.tcp_set_state(sk, TCP_CLOSE)
    if not sk.sk_userlocks & SOCK_BINDADDR_LOCK:
        inet_hashtables.inet_bhash2_update_saddr(sk, 0, sk.sk_family)
        sk.inet_saddr = 0
    sk_dst_reset(sk)
    sk.sk_route_caps = 0
    sk.sk_dport = 0


# -- the child ---------------------------------------------------------------------------------------------------


def inet_sk_rx_dst_set(sk: tcp_sock, skb: sk_buff) -> None:
    """The route that the peer's packets come by."""
    sk.sk_rx_dst = skb._skb_refdst


def _set_addresses(newsk: tcp_sock, req: tcp_request_sock, skb: sk_buff) -> None:
    iph: iphdr = skb.h_iph
    newsk.sk_daddr = req.sk_daddr
    newsk.sk_rcv_saddr = newsk.inet_saddr = req.sk_rcv_saddr
    newsk.sk_bound_dev_if = req.sk_bound_dev_if
    newsk.inet_opt = req.ireq_opt
    newsk.icsk_ext_hdr_len = req.ireq_opt.optlen if req.ireq_opt is not None else 0
    if newsk.sk_family == AF_INET6:  # the IPv4 child of a dual-stack listener: sk_daddr_set(), sk_rcv_saddr_set()
        newsk.sk_v6_daddr = 0xFFFF << 32 | req.sk_daddr
        newsk.sk_v6_rcv_saddr = 0xFFFF << 32 | req.sk_rcv_saddr
    newsk.mc_ttl = iph.ttl
    newsk.rcv_tos = iph.tos
    newsk.inet_id = newsk.sk_net.rng.get_random_u32() & 0xFFFF
    if newsk.sk_net.ipv4.sysctl_tcp_reflect_tos:
        newsk.tos = req.syn_tos & ~INET_ECN_MASK


def tcp_v4_syn_recv_sock(
    sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, dst: dst_entry | None, req_unhash: Any
) -> tuple[tcp_sock | None, bool]:
    """The third ACK makes the child.  (child, whether it took the place of ``req_unhash``), or (None, False): the
    accept queue is full (ListenOverflows) or there is no route; either counts in ListenDrops.  (None, False) also for a
    cookie (no ``req_unhash``) whose 4-tuple is in ehash already."""
    if sk_acceptq_is_full(sk):
        NET_INC_STATS(sk.sk_net, LINUX_MIB_LISTENOVERFLOWS)
        tcp_listendrop(sk)
        return None, False
    newsk = tcp_minisocks.tcp_create_openreq_child(sk, req, skb)
    newsk.sk_gso_type = SKB_GSO_TCPV4
    inet_sk_rx_dst_set(newsk, skb)
    _set_addresses(newsk, req, skb)
    if dst is None:
        dst = inet_connection_sock.inet_csk_route_child_sock(sk, newsk, req)
        if dst is None:
            return _put_and_exit(sk, newsk)
    _inherit_md5_key(sk, newsk)
    if not tcp_ao.tcp_ao_copy_all_matching(sk, newsk, req):
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
        req.ireq_opt = None
    elif req_unhash is None:
        return None, False  # a cookie for a 4-tuple that is taken meanwhile
    return newsk, own_req


def _inherit_md5_key(sk: tcp_sock, newsk: tcp_sock) -> None:
    """Of the listener's keys the child takes its peer's."""
    if sk.md5sig_info is None:
        return
    key = tcp_md5_do_lookup(sk, 0, newsk.sk_daddr, AF_INET)
    if key is not None:
        tcp_md5_do_add(newsk, newsk.sk_daddr, AF_INET, 32, 0, key.flags, key.key)


def _put_and_exit(sk: tcp_sock, newsk: tcp_sock) -> tuple[None, bool]:
    newsk.inet_opt = None
    inet_connection_sock.inet_csk_prepare_forced_close(newsk)
    tcp.tcp_done(newsk)
    tcp_listendrop(sk)
    return None, False


# -- ICMP errors -------------------------------------------------------------------------------------------------


def tcp_req_err(req: tcp_request_sock, seq: int, abort: bool) -> None:
    """An ICMP error about a SYN-ACK: a hard one with the right sequence number ends the request."""
    if seq != req.snt_isn:
        NET_INC_STATS(req.sk_net, LINUX_MIB_OUTOFWINDOWICMPS)
    elif abort:
        listener = req.rsk_listener
        inet_connection_sock.inet_csk_reqsk_queue_drop(listener, req)
        tcp_listendrop(listener)


def tcp_v4_err(skb: sk_buff, info: int) -> int:
    """An ICMP error about a segment of ours; skb.data is at the IP header that it quotes, ``info`` the next hop's
    MTU of a fragmentation-needed.  0 or -ENOENT (nobody sent that)."""
    net = _net(skb)
    iph = iphdr_at(skb.head, skb.data)
    at = skb.data + iph.ihl * 4
    sport, dport = int.from_bytes(skb.head[at : at + 2], "big"), int.from_bytes(skb.head[at + 2 : at + 4], "big")
    seq = int.from_bytes(skb.head[at + 4 : at + 8], "big")
    icmph = icmp_hdr(skb)
    sk = inet_hashtables.__inet_lookup_established(
        net, net.tcp_hashinfo, iph.daddr, dport, iph.saddr, sport, skb.skb_iif
    )
    if sk is None:
        ICMP_INC_STATS(net, ICMP_MIB_INERRORS)
        return -errno.ENOENT
    if sk.sk_state == TCP_TIME_WAIT:
        return 0
    if sk.sk_state == TCP_NEW_SYN_RECV:
        tcp_req_err(sk, seq, _icmp_aborts_request(icmph.type, icmph.code))
        return 0
    if sk.sk_state == TCP_CLOSE or tcp_ao.tcp_ao_ignore_icmp(sk, AF_INET, icmph.type, icmph.code):
        return 0
    if iph.ttl < sk.min_ttl:
        # As in Linux it is the TTL of the quoted header, our own packet's, that IP_MINTTL is held against.
        NET_INC_STATS(net, LINUX_MIB_TCPMINTTLDROP)
        return 0
    # The SYN-ACK of a Fast Open child is in nobody's queue, but an error about it counts.
    snd_una = sk.snd_una if sk.fastopen_rsk is None else sk.fastopen_rsk.snt_isn
    if not between(seq, snd_una, sk.snd_nxt):
        NET_INC_STATS(net, LINUX_MIB_OUTOFWINDOWICMPS)
        return 0
    if icmph.type == ICMP_DEST_UNREACH and icmph.code in (ICMP_NET_UNREACH, ICMP_HOST_UNREACH):
        if sk.fastopen_rsk is None:
            tcp_ld_RTO_revert(sk, seq)
    _err_for_connection(sk, skb, info, at)
    return 0


def tcp_ld_RTO_revert(sk: tcp_sock, seq: int) -> None:
    """RFC 6069: an unreachable about the segment that the RTO resent says that the path is down, not congested: take
    one doubling of the timeout back, and resend at once if the shorter one is over already."""
    if seq != sk.snd_una or not sk.icsk_retransmits or not sk.icsk_backoff:
        return
    head = tcp_rtx_queue_head(sk)
    if head is None:
        return
    sk.icsk_backoff -= 1
    if sk.srtt_us:
        tcp_input.tcp_set_rto(sk)
    else:
        sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.icsk_rto = inet_csk_rto_backoff(sk, TCP_RTO_MAX)
    tcp_output.tcp_mstamp_refresh(sk)
    remaining = usecs_to_jiffies(max(tcp_input.tcp_rto_delta_us(sk), 0))
    if remaining > 0:
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, remaining, TCP_RTO_MAX)
    else:
        tcp_timer.tcp_retransmit_timer(sk)


def _icmp_aborts_request(type_: int, code: int) -> bool:
    if type_ == ICMP_PARAMETERPROB:
        return True
    if type_ == ICMP_TIME_EXCEEDED:
        return code == ICMP_EXC_TTL
    return type_ == ICMP_DEST_UNREACH and code in (ICMP_NET_UNREACH, ICMP_HOST_UNREACH)


def _err_for_connection(sk: tcp_sock, skb: sk_buff, info: int, th: int) -> None:
    """The error of an ICMP message; ``th`` is the offset into head of the quoted TCP header."""
    icmph = icmp_hdr(skb)
    type_, code = icmph.type, icmph.code
    if type_ == ICMP_PARAMETERPROB:
        err = errno.EPROTO
    elif type_ == ICMP_TIME_EXCEEDED:
        err = errno.EHOSTUNREACH
    elif type_ == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED:
        tcp_v4_mtu_reduced(sk, info)
        return
    elif type_ == ICMP_DEST_UNREACH and code < len(icmp.icmp_err_convert):
        err = icmp.icmp_err_convert[code][0]
    else:
        return
    # A Fast Open child that accept() gave out is treated like an established connection.
    fastopen = sk.fastopen_rsk
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV) and not (fastopen is not None and fastopen.sk is None):
        # With or without IP_RECVERR: a traceroute by TCP reads it with MSG_ERRQUEUE.
        ip_sockglue.ip_icmp_error(sk, skb, err, sk.sk_dport, info, th)
        tcp.tcp_done_with_error(sk, err)
    elif sk.recverr:
        sk.sk_err = err
        sk.sk_error_report(sk)
    else:
        # RFC 1122, section 4.2.3.9: a soft error, told only if the connection fails later.
        sk.sk_err_soft = err


def tcp_v4_mtu_reduced(sk: tcp_sock, mtu: int) -> None:
    """Path MTU discovery (RFC 1191): smaller segments from here on, and at once for what was lost."""
    if sk.sk_state in (TCP_LISTEN, TCP_CLOSE):
        return
    dst = inet_connection_sock.inet_csk_update_pmtu(sk, mtu)
    if dst is None:
        return
    mtu = dst_mtu(dst)
    if IP_PMTUDISC_DONT < sk.pmtudisc < IP_PMTUDISC_OMIT - 1 and sk.icsk_pmtu_cookie > mtu:
        tcp_output.tcp_sync_mss(sk, mtu)
        tcp_input.tcp_simple_retransmit(sk)


# -- receiving ---------------------------------------------------------------------------------------------------


def tcp_v4_cookie_check(sk: tcp_sock, skb: sk_buff) -> Any:
    """Anything but a SYN at a listener may answer a cookie: the child then, else the listener, or None (done with)."""
    if tcp_hdr(skb).flags & TCPHDR_SYN:
        return sk
    return syncookies.cookie_v4_check(sk, skb)


def tcp_v4_do_rcv(sk: tcp_sock, skb: sk_buff) -> int:
    """A segment for a listener or a connection."""
    state = sk.sk_state
    if state == TCP_ESTABLISHED:
        tcp_input.tcp_rcv_established(sk, skb)
        return 0
    rsk = sk
    if state == TCP_LISTEN:
        #> ^ sk_state == TCP_LISTEN
        nsk = tcp_v4_cookie_check(sk, skb)
        if nsk is None:
            # An answer to a cookie of ours that comes to nothing.
            full = sk_acceptq_is_full(sk)
            kfree_skb_reason(
                skb, SKB_DROP_REASON_TCP_LISTEN_OVERFLOW if full else SKB_DROP_REASON_NOT_SPECIFIED
            )
            return 0
        if nsk is not sk:
            reason = tcp_minisocks.tcp_child_process(sk, nsk, skb)
            if reason:
                return _reset_and_drop(nsk, skb, reason)
            return 0
    else:
        sock_rps_save_rxhash(sk, skb)
    reason = tcp_input.tcp_rcv_state_process(sk, skb)
    return _reset_and_drop(rsk, skb, reason) if reason else 0


def _reset_and_drop(sk: Any, skb: sk_buff, reason: int) -> int:
    tcp_v4_send_reset(sk, skb)
    kfree_skb_reason(skb, reason)
    return 0


def tcp_v4_fill_cb(skb: sk_buff, iph: iphdr, th: tcphdr) -> None:
    """TCP's view of a received segment: its sequence space."""
    flags = th.flags
    end_seq = th.seq + skb.len - (th.doff << 2)
    if flags & (TCPHDR_SYN | TCPHDR_FIN):
        end_seq += (flags & TCPHDR_SYN != 0) + (flags & TCPHDR_FIN != 0)
    cb = tcp_skb_cb(th.seq, end_seq & MASK32, flags)
    cb.ack_seq = th.ack_seq
    cb.ip_dsfield = iph.tos
    cb.header = skb.ip_opt
    skb.cb = cb


def tcp_v4_rcv(skb: sk_buff) -> int:
    """A segment for this host; skb.data is at its TCP header."""
    net = _net(skb)
    if skb.pkt_type != PACKET_HOST:
        kfree_skb_reason(skb, SKB_DROP_REASON_OTHERHOST)
        return 0
    net.mib.tcp_statistics[TCP_MIB_INSEGS] += 1
    headlen = skb.tail - skb.data
    if headlen < TCP_HEADER_LEN:
        return _too_short(skb)
    th = tcphdr(*TCP_HEADER.unpack_from(skb.head, skb.data))
    if th.doff < 5:
        return _bad_packet(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    if headlen < th.doff << 2:
        return _too_short(skb)
    skb.h_th = th
    iph: iphdr = skb.h_iph
    if skb.ip_summed == CHECKSUM_NONE and _csum_error(skb, iph):
        TCP_INC_STATS(net, TCP_MIB_CSUMERRORS)
        return _bad_packet(net, skb, SKB_DROP_REASON_TCP_CSUM)
    tcp_v4_fill_cb(skb, iph, th)
    sk = inet_hashtables.__inet_lookup_skb(net, iph, skb, th.source, th.dest)
    while sk is not None:
        state = sk.sk_state
        if state in (TCP_NEW_SYN_RECV, TCP_TIME_WAIT):
            sk = (_rcv_request if state == TCP_NEW_SYN_RECV else _do_time_wait)(net, skb, iph, th, sk)
            if sk is _DONE:
                return 0
            continue
        if sk.min_ttl and iph.ttl < sk.min_ttl:
            NET_INC_STATS(net, LINUX_MIB_TCPMINTTLDROP)
            kfree_skb_reason(skb, SKB_DROP_REASON_TCP_MINTTL)
            return 0
        if state != TCP_ESTABLISHED or th.doff >= _DOFF_SIGNED or sk.md5sig_info is not None or sk.ao_info is not None:
            reason = tcp.tcp_inbound_hash(sk, None, skb, iph.saddr, AF_INET)
            if reason:
                return _drop_unsigned(sk, skb, reason)
        if state != TCP_LISTEN:
            tcp_segs_in(sk, skb)
        return tcp_v4_do_rcv(sk, skb)
    tcp_v4_send_reset(None, skb)
    kfree_skb_reason(skb, SKB_DROP_REASON_NO_SOCKET)
    return 0


def _drop_unsigned(sk: tcp_sock, skb: sk_buff, reason: int) -> int:
    sk.sk_drops += 1
    kfree_skb_reason(skb, reason)
    return 0


def _csum_error(skb: sk_buff, iph: iphdr) -> bool:
    segment = memoryview(skb.head)[skb.data : skb.tail]
    return csum_fold(csum_partial(segment) + tcp_v4_pseudo(iph.saddr, iph.daddr, len(segment))) != 0


def _too_short(skb: sk_buff) -> int:
    """The header is not all there: dropped, and no error is counted."""
    kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    return 0


def _bad_packet(net: Stack, skb: sk_buff, reason: int) -> int:
    TCP_INC_STATS(net, TCP_MIB_INERRS)
    kfree_skb_reason(skb, reason)
    return 0


def _rcv_request(net: Stack, skb: sk_buff, iph: iphdr, th: tcphdr, req: tcp_request_sock) -> Any:
    """A segment for a request.  Whom to try next: the listener if that has to answer, whoever the tables say (None:
    nobody) if the listener is gone; _DONE if the segment has been dealt with."""
    #> -> sk->sk_state == TCP_NEW_SYN_RECV
    sk: tcp_sock = req.rsk_listener
    unsigned = tcp.tcp_inbound_hash(sk, req, skb, iph.saddr, AF_INET)
    if unsigned:
        _drop_unsigned(sk, skb, unsigned)
        return _DONE
    if sk.sk_state != TCP_LISTEN:
        inet_connection_sock.inet_csk_reqsk_queue_drop_and_put(sk, req)
        return inet_hashtables.__inet_lookup_skb(net, iph, skb, th.source, th.dest)
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


def _do_time_wait(net: Stack, skb: sk_buff, iph: iphdr, th: tcphdr, tw: tcp_timewait_sock) -> Any:
    """A segment for a connection that is over.  The listener if a new connection may begin, else _DONE."""
    status = tcp_minisocks.tcp_timewait_state_process(tw, skb, th)
    if status == tcp_minisocks.TCP_TW_SYN:
        sk2 = inet_hashtables.inet_lookup_listener(
            net, iph.saddr, th.source, iph.daddr, th.dest, skb.skb_iif, skb
        )
        if sk2 is not None:
            inet_timewait_sock.inet_twsk_deschedule_put(tw)
            return sk2
        status = tcp_minisocks.TCP_TW_ACK
    if status == tcp_minisocks.TCP_TW_ACK:
        tcp_v4_timewait_ack(tw, skb)
    elif status == tcp_minisocks.TCP_TW_RST:
        tcp_v4_send_reset(tw, skb)
        inet_timewait_sock.inet_twsk_deschedule_put(tw)
    consume_skb(skb)
    return _DONE


# -- birth and death ---------------------------------------------------------------------------------------------


def tcp_v4_init_sock(sk: tcp_sock) -> int:
    tcp.tcp_init_sock(sk)
    sk.icsk_af_ops = ipv4_specific
    sk.af_specific = tcp_sock_ipv4_specific
    return 0


def tcp_v4_destroy_sock(sk: tcp_sock) -> None:
    """Timers, queues, congestion control and the port go."""
    tcp_timer.tcp_clear_xmit_timers(sk)
    tcp_cong.tcp_cleanup_congestion_control(sk)
    tcp_clear_md5_list(sk)
    sk.ao_info = None
    tcp.tcp_write_queue_purge(sk)
    tcp_fastopen.tcp_fastopen_active_disable_ofo_check(sk)
    for skb in sk.out_of_order_queue:
        consume_skb(skb)
    sk.out_of_order_queue = []
    if sk.icsk_bind_hash is not None:
        inet_hashtables.inet_put_port(sk)
    sk.saved_syn = None
    tcp.tcp_free_fastopen_req(sk)
    tcp_fastopen.tcp_fastopen_destroy_cipher(sk)
    sk_dst_reset(sk)


tcp_request_sock_ops: request_sock_ops = request_sock_ops(
    AF_INET,
    tcp_request_sock,
    send_ack=tcp_v4_reqsk_send_ack,
    send_reset=tcp_v4_send_reset,
    destructor=tcp_v4_reqsk_destructor,
)

tcp_request_sock_ipv4_ops: tcp_request_sock_af_ops = tcp_request_sock_af_ops(
    TCP_MSS_DEFAULT,
    init_req=tcp_v4_init_req,
    init_seq=tcp_v4_init_sequence,
    init_ts_off=tcp_v4_init_ts_off,
    init_seq_and_ts_off=tcp_v4_init_seq_and_ts_off,
    route_req=tcp_v4_route_req,
    send_synack=tcp_v4_send_synack,
    req_md5_lookup=tcp_v4_md5_lookup,
    calc_md5_hash=tcp_v4_md5_hash_skb,
)

tcp_sock_ipv4_specific: tcp_sock_af_ops = tcp_sock_af_ops(
    md5_lookup=tcp_v4_md5_lookup, calc_md5_hash=tcp_v4_md5_hash_skb, md5_parse=tcp_v4_parse_md5_keys
)

ipv4_specific: inet_connection_sock_af_ops = inet_connection_sock_af_ops(
    20,
    16,
    queue_xmit=ip_output.ip_queue_xmit,
    send_check=tcp_v4_send_check,
    sk_rx_dst_set=inet_sk_rx_dst_set,
    conn_request=tcp_v4_conn_request,
    syn_recv_sock=tcp_v4_syn_recv_sock,
    mtu_reduced=tcp_v4_mtu_reduced,
)

tcp_timewait_sock_ops: timewait_sock_ops = timewait_sock_ops(tcp_twsk_unique)

tcp_prot: proto = proto("TCP", memory_allocated=True, slab=tcp_sock, init=tcp_v4_init_sock, destroy=tcp_v4_destroy_sock)


def tcp_v4_init() -> None:
    """Fill tcp_prot and the tables of operations with what lives in modules that import this one."""
    tcp_request_sock_ops.rtx_syn_ack = tcp_output.tcp_rtx_synack
    tcp_request_sock_ops.syn_ack_timeout = tcp_timer.tcp_syn_ack_timeout
    tcp_request_sock_ipv4_ops.cookie_init_seq = syncookies.cookie_v4_init_sequence
    ipv4_specific.rebuild_header = af_inet.inet_sk_rebuild_header
    ipv4_specific.setsockopt = ip_sockglue.ip_setsockopt
    ipv4_specific.getsockopt = ip_sockglue.ip_getsockopt
    tcp_prot.connect = tcp_v4_connect
    tcp_prot.twsk_prot = tcp_timewait_sock_ops
    tcp_prot.close = tcp.tcp_close
    tcp_prot.disconnect = tcp.tcp_disconnect
    tcp_prot.accept = inet_connection_sock.inet_csk_accept
    tcp_prot.shutdown = tcp.tcp_shutdown
    tcp_prot.setsockopt = tcp.tcp_setsockopt
    tcp_prot.getsockopt = tcp.tcp_getsockopt
    tcp_prot.keepalive = tcp_timer.tcp_set_keepalive
    tcp_prot.set_rcvlowat = tcp.tcp_set_rcvlowat
    tcp_prot.ioctl = tcp.tcp_ioctl
    tcp_prot.recvmsg = tcp.tcp_recvmsg
    tcp_prot.sendmsg = tcp.tcp_sendmsg
    tcp_prot.release_cb = tcp_output.tcp_release_cb
    tcp_prot.stream_memory_free = tcp.tcp_stream_memory_free
    tcp_prot.hash = inet_hashtables.inet_hash
    tcp_prot.unhash = inet_hashtables.inet_unhash
    tcp_prot.get_port = inet_connection_sock.inet_csk_get_port
    tcp_prot.rsk_prot = tcp_request_sock_ops


def tcp_sk_init(net: Stack) -> None:
    """TCP's part of a new namespace."""
    tcp_v4_init()
    net.tcp_hashinfo = inet_hashtables.inet_hashinfo_init(net)
    net.tcp_death_row = inet_timewait_death_row(net.tcp_hashinfo)
    net.tcp_metrics = {}


tcp_protocol: net_protocol = net_protocol(tcp_v4_rcv, tcp_v4_err, icmp_strict_tag_validation=True)
