# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP over IPv6: net/ipv6/udp.c, with connect() from net/ipv6/datagram.c (RFC 768, RFC 8200 section 8.1).

Ports and queues are those of net/ipv4/udp.py.  A socket of AF_INET6 bound to :: without IPV6_V6ONLY gets IPv4's
datagrams too, from ::ffff:a.b.c.d, and what it sends to such an address goes by IPv4.  A datagram over IPv6 has to
have a checksum.  Addresses in calls are (address, port, flowinfo, scope_id).

Departures: as in net/ipv4/udp.py; who joined a group is not asked on delivery: a datagram to a group that the device
is in goes to every socket that fits.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_NO_SOCKET,
    SKB_DROP_REASON_PKT_TOO_SMALL,
    SKB_DROP_REASON_SOCKET_RCVBUFF,
    SKB_DROP_REASON_UDP_CSUM,
)
from stack.include.dst import RTN_LOCAL, dst_mtu, flowi6, rt6_info
from stack.include.ip import ETH_P_IP, IPPROTO_UDP, MSG_OOB, MSG_PEEK, UDPHDR_STRUCT, udphdr
from stack.include.ipv6 import (
    ICMPV6_DEST_UNREACH,
    ICMPV6_PKT_TOOBIG,
    ICMPV6_PORT_UNREACH,
    IPV6_PMTUDISC_DONT,
    IPV6HDR_LEN,
    inet6_protocol,
    ipv6_addr_is_multicast,
    ipv6_addr_needs_scope_id,
    ipv6_addr_set_v4mapped,
    ipv6_addr_v4mapped,
    ipv6_hdr,
    ipv6hdr_at,
)
from stack.include.net import MSG_ERRQUEUE, MSG_ZEROCOPY, msghdr, optval_t, sockaddr_in6
from stack.include.netdevice import NETIF_F_HW_CSUM
from stack.include.sk_buff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
)
from stack.include.snmp import (
    ICMP6_INC_STATS,
    ICMP6_MIB_INERRORS,
    IP6_INC_STATS,
    IPSTATS_MIB_OUTDISCARDS,
    IPSTATS_MIB_OUTOCTETS,
    IPSTATS_MIB_OUTREQUESTS,
    UDP6_INC_STATS,
    UDP_INC_STATS,
    UDP_MIB_CSUMERRORS,
    UDP_MIB_IGNOREDMULTI,
    UDP_MIB_INDATAGRAMS,
    UDP_MIB_INERRORS,
    UDP_MIB_NOPORTS,
    UDP_MIB_OUTDATAGRAMS,
    UDP_MIB_RCVBUFERRORS,
    UDP_MIB_SNDBUFERRORS,
)
from stack.include.sock import (
    AF_INET6,
    INT_MAX,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    proto,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_ESTABLISHED
from stack.include.udp import SOL_UDP
from stack.lib.checksum import CSUM_MANGLED_0, csum_ipv6_magic, csum_partial, tcp_v6_pseudo
from stack.net.core import scm, skbuff
from stack.net.core import sock as core_sock
from stack.net.ipv4 import udp
from stack.net.ipv4.udp import UDP_HEADER, udp_sock
from stack.net.ipv6 import datagram, icmp, ip6_output, ipv6_sockglue, route

if TYPE_CHECKING:
    from stack.include.ipv6 import ipv6hdr
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

Buffer = bytes | bytearray | memoryview

LOOPBACK4_IPV6: Final = 0x7F000006  # in place of IPv4 addresses, as in tcp_ipv6.py
_MAX_DATA: Final = 65535 - UDP_HEADER


# -- look-up -----------------------------------------------------------------------------------------------------------


def compute_score(sk: udp_sock, saddr: int, sport: int, dif: int) -> int:
    """-1 if the socket does not fit; its local address and port do already."""
    if sk.sk_family != AF_INET6 or ipv6_addr_v4mapped(sk.sk_v6_rcv_saddr):
        return -1
    score = 1
    for own, theirs in (
        (sk.sk_v6_daddr, saddr),
        (sk.sk_dport, sport),
        (sk.sk_bound_dev_if, dif),
    ):
        if own:
            if own != theirs:
                return -1
            score += 1
    return score


def __udp6_lib_lookup(net: Stack, saddr: int, sport: int, daddr: int, dport: int, dif: int) -> udp_sock | None:
    """The socket a datagram from (saddr, sport) to (daddr, dport) belongs to."""
    hash2 = net.udp_table.hash2
    for key in ((daddr, dport), (0, dport)):
        chain = [sk for sk in hash2.get(key, ()) if sk.sk_v6_rcv_saddr == key[0]]
        found = _udp6_lib_lookup2(net, chain, saddr, sport, daddr, dport, dif)
        if found is not None:
            return found
    return None


def _udp6_lib_lookup2(
    net: Stack, chain: list[udp_sock], saddr: int, sport: int, daddr: int, dport: int, dif: int
) -> udp_sock | None:
    result: udp_sock | None = None
    best = 0
    for sk in chain:
        score = compute_score(sk, saddr, sport, dif)
        if score > best:
            result, best = sk, score
    if result is not None and result.sk_reuseport and result.sk_state != TCP_ESTABLISHED:
        group = [sk for sk in chain if sk.sk_reuseport and compute_score(sk, saddr, sport, dif) == best]
        mixed = hash((saddr, sport, daddr, dport, net.inet_ehash_secret)) & 0xFFFFFFFF
        result = group[mixed * len(group) >> 32]
    return result


# -- receive -----------------------------------------------------------------------------------------------------------


def udpv6_rcv(skb: sk_buff) -> int:
    return __udp6_lib_rcv(skb)


def __udp6_lib_rcv(skb: sk_buff) -> int:
    """Check a datagram and give it to its socket."""
    assert skb.dev is not None
    net = skb.dev.net
    hdr = ipv6_hdr(skb)
    length = skb.tail - skb.data
    if length < UDP_HEADER:
        return _udp_drop(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    uh = udphdr(*UDPHDR_STRUCT.unpack_from(skb.head, skb.data))
    skb.h_th = uh
    uh.len = uh.len or length  # RFC 2675: 0 stands for all of it
    if not UDP_HEADER <= uh.len <= length:
        return _udp_drop(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    skb.tail -= length - uh.len
    skb.len = uh.len
    if not uh.check or (skb.ip_summed == CHECKSUM_NONE and not _checksum_ok(skb, hdr)):
        UDP6_INC_STATS(net, UDP_MIB_CSUMERRORS)
        return _udp_drop(net, skb, SKB_DROP_REASON_UDP_CSUM)
    rt: Any = skb._skb_refdst
    if rt is None or rt.rt_type != RTN_LOCAL:
        return __udp6_lib_mcast_deliver(net, skb, uh, hdr)
    sk = __udp6_lib_lookup(net, hdr.saddr, uh.source, hdr.daddr, uh.dest, skb.skb_iif)
    if sk is not None:
        return udpv6_queue_rcv_skb(sk, skb)
    UDP6_INC_STATS(net, UDP_MIB_NOPORTS)
    icmp.icmpv6_send(skb, ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH, 0)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NO_SOCKET)
    return 0


def _checksum_ok(skb: sk_buff, hdr: ipv6hdr) -> bool:
    wsum = csum_partial(memoryview(skb.head)[skb.data : skb.tail])
    return csum_ipv6_magic(hdr.saddr, hdr.daddr, skb.len, IPPROTO_UDP, wsum) == 0


def _udp_drop(net: Stack, skb: sk_buff, reason: int) -> int:
    UDP6_INC_STATS(net, UDP_MIB_INERRORS)
    skbuff.kfree_skb_reason(skb, reason)
    return 0


def __udp6_lib_mcast_deliver(net: Stack, skb: sk_buff, uh: udphdr, hdr: ipv6hdr) -> int:
    """A copy for every socket on the port that fits; without one IgnoredMulti, and no ICMPv6."""
    takers = [
        sk
        for sk in net.udp_table.hash.get(uh.dest, ())
        if sk.sk_v6_rcv_saddr in (0, hdr.daddr) and compute_score(sk, hdr.saddr, uh.source, skb.skb_iif) > 0
    ]
    if not takers:
        UDP6_INC_STATS(net, UDP_MIB_IGNOREDMULTI)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NO_SOCKET)
        return 0
    for sk in takers[1:]:
        udpv6_queue_rcv_skb(sk, udp.skb_clone(skb))
    return udpv6_queue_rcv_skb(takers[0], skb)


def udpv6_queue_rcv_skb(sk: udp_sock, skb: sk_buff) -> int:
    if not skb.gso_type or not udp.udp_unexpected_gso(sk, skb):
        return udpv6_queue_rcv_one_skb(sk, skb)
    for seg in udp.udp_rcv_segment(sk, skb, False):
        udpv6_queue_rcv_one_skb(sk, seg)
    return 0


def udpv6_queue_rcv_one_skb(sk: udp_sock, skb: sk_buff) -> int:
    """Queue for reading; skb.data is at the payload from here on."""
    skb.data += UDP_HEADER
    skb.len -= UDP_HEADER
    if core_sock.sock_queue_rcv_skb(sk, skb) == 0:
        return 0
    UDP6_INC_STATS(sk.sk_net, UDP_MIB_RCVBUFERRORS)
    return _udp_drop(sk.sk_net, skb, SKB_DROP_REASON_SOCKET_RCVBUFF)


def udpv6_err(skb: sk_buff, type_: int, code: int, info: int) -> int:
    """An ICMPv6 error about a datagram of ours: an errno for its socket, if it is connected or asked for errors."""
    assert skb.dev is not None
    net = skb.dev.net
    hdr = ipv6hdr_at(skb.head, skb.data)
    if skb.transport_header + UDP_HEADER > skb.tail:
        return -errno.ENOENT
    source, dest, _, _ = UDPHDR_STRUCT.unpack_from(skb.head, skb.transport_header)
    sk = __udp6_lib_lookup(net, hdr.daddr, dest, hdr.saddr, source, skb.skb_iif)
    if sk is None:
        ICMP6_INC_STATS(net, ICMP6_MIB_INERRORS)
        return -errno.ENOENT
    hard, err = icmp.icmpv6_err_convert(type_, code)
    assert sk.pinet6 is not None
    if type_ == ICMPV6_PKT_TOOBIG:
        route.ip6_sk_update_pmtu(skb, sk, info)
        hard = sk.pinet6.pmtudisc != IPV6_PMTUDISC_DONT
    if sk.pinet6.recverr or (hard and sk.sk_state == TCP_ESTABLISHED):
        payload = skb.transport_header + UDP_HEADER
        datagram.ipv6_icmp_error(sk, skb, err, type_, code, dest, info, payload)
        sk.sk_err = err
        sk.sk_error_report(sk)
    return 0


def udpv6_recvmsg(sk: udp_sock, size: int, flags: int, msg: msghdr | None = None) -> Any:
    """One datagram of either family, cut to ``size`` bytes, and who sent it; or a negative errno.  MSG_ERRQUEUE reads
    the error queue."""
    if flags & MSG_ERRQUEUE:
        return udp.udp_recv_error(sk, size, msg)
    found = udp.__skb_recv_udp(sk, flags, core_sock.sk_peek_offset(sk, flags))
    if isinstance(found, int):
        return found
    skb, off = found
    data = udp.udp_copy(sk, skb, off, size, flags, msg)
    if skb.protocol == ETH_P_IP:
        count, peer = UDP_INC_STATS, (ipv6_addr_set_v4mapped(skb.h_iph.saddr), skb.h_th.source, 0, 0)
    else:
        saddr = ipv6_hdr(skb).saddr
        scope = skb.skb_iif if ipv6_addr_needs_scope_id(saddr) else 0
        count, peer = UDP6_INC_STATS, (saddr, skb.h_th.source, 0, scope)
    if msg is not None:
        scm.sock_recv_cmsgs(msg, sk, skb)
        udp.udp_cmsg_recv(msg, sk, skb)
        datagram.ip6_datagram_recv_ctl(msg, sk, skb)
    if not flags & MSG_PEEK:
        count(sk.sk_net, UDP_MIB_INDATAGRAMS)
        skbuff.consume_skb(skb)
    return data, peer


# -- send --------------------------------------------------------------------------------------------------------------


def udpv6_sendmsg(
    sk: udp_sock, data: Buffer, addr: sockaddr_in6 | None, flags: int, msg: msghdr | None = None
) -> int:
    """Send one datagram; bytes taken or a negative errno.  ``addr`` None sends to the connected peer."""
    if flags & MSG_OOB:
        return -errno.EOPNOTSUPP
    if addr is None:
        if sk.sk_state != TCP_ESTABLISHED:
            return -errno.EDESTADDRREQ
        addr = (sk.sk_v6_daddr, sk.sk_dport, 0, sk.sk_bound_dev_if)
    elif not addr[1]:
        return -errno.EINVAL
    if ipv6_addr_v4mapped(addr[0]):
        if sk.sk_ipv6only:
            return -errno.ENETUNREACH
        return udp.udp_sendmsg(sk, data, (addr[0] & 0xFFFFFFFF, addr[1]), flags, msg)
    tsflags, gso_size = sk.sk_tsflags, sk.gso_size
    if msg is not None and msg.msg_control:
        tsflags = scm.sock_cmsg_tsflags(sk, msg.msg_control)
        gso_size = udp.udp_cmsg_send(msg.msg_control, gso_size)
        if tsflags < 0 or gso_size < 0:
            return -errno.EINVAL
    if len(data) > _MAX_DATA:
        return -errno.EMSGSIZE
    if not sk.sk_num and _autobind(sk):
        return -errno.EAGAIN
    fl6 = flowi6()
    dst = _udp6_route(sk, addr, fl6)
    if isinstance(dst, int):
        return dst
    err = core_sock.sock_alloc_send_pskb(sk)
    if err:
        IP6_INC_STATS(sk.sk_net, IPSTATS_MIB_OUTDISCARDS)
        if err == -errno.EAGAIN:
            UDP6_INC_STATS(sk.sk_net, UDP_MIB_SNDBUFERRORS)
        return err
    err = udp_v6_send_skb(sk, data, fl6, dst, tsflags, gso_size)
    if err < 0:
        return err
    if flags & MSG_ZEROCOPY:
        udp.udp_zerocopy(sk, data)
    return len(data)


def _autobind(sk: udp_sock) -> int:
    if udp.udp_lib_get_port(sk, 0):
        return -errno.EAGAIN
    sk.inet_sport = sk.sk_num
    return 0


def _udp6_route(sk: udp_sock, addr: sockaddr_in6, fl6: flowi6) -> rt6_info | int:
    np = sk.pinet6
    assert np is not None
    daddr = addr[0] or 1  # to :: means to this host, as in the kernel
    scope = addr[3] if ipv6_addr_needs_scope_id(daddr) else 0
    if scope and sk.sk_bound_dev_if and scope != sk.sk_bound_dev_if:
        return -errno.EINVAL
    fl6.daddr, fl6.saddr = daddr, np.saddr
    fl6.fl6_sport, fl6.fl6_dport = sk.sk_num, addr[1]
    oif = sk.sk_bound_dev_if or scope
    if ipv6_addr_is_multicast(daddr):
        oif = oif or np.mcast_oif
    fl6.flowi6_proto, fl6.flowi6_oif, fl6.flowi6_mark = IPPROTO_UDP, oif or np.ucast_oif, sk.sk_mark
    return route.ip6_route_output(sk.sk_net, sk, fl6)


def udp_v6_send_skb(
    sk: udp_sock, data: Buffer, fl6: flowi6, dst: rt6_info, tsflags: int, gso_size: int = 0
) -> int:
    """Build the datagram with its checksum and send it; 0 or a negative errno.  The device finishes the checksum if
    it can and the datagram is not cut; always of many datagrams, for which ``gso_size`` asks."""
    net = sk.sk_net
    length = len(data) + UDP_HEADER
    partial = dst.dev.features & NETIF_F_HW_CSUM and length + IPV6HDR_LEN <= dst_mtu(dst)
    partial = bool(partial or gso_size)
    assert sk.pinet6 is not None
    if not gso_size and sk.pinet6.dontfrag and length + IPV6HDR_LEN > dst_mtu(dst):
        datagram.ipv6_local_error(sk, errno.EMSGSIZE, fl6.daddr, sk.sk_dport, dst_mtu(dst))
        return -errno.EMSGSIZE
    if partial:
        check = tcp_v6_pseudo(fl6.saddr, fl6.daddr, length, IPPROTO_UDP)
    else:
        wsum = csum_partial(data, fl6.fl6_sport + fl6.fl6_dport + length)
        check = csum_ipv6_magic(fl6.saddr, fl6.daddr, length, IPPROTO_UDP, wsum) or CSUM_MANGLED_0
    header = UDPHDR_STRUCT.pack(fl6.fl6_sport, fl6.fl6_dport, length, check)
    np = sk.pinet6
    assert np is not None
    hlimit = np.mcast_hops if ipv6_addr_is_multicast(fl6.daddr) else np.hop_limit
    if hlimit < 0:
        hlimit = route.ip6_dst_hoplimit(dst)
    skb = ip6_output.ip6_make_skb(net, sk, header, data, dst, fl6, np.tclass, hlimit)
    if isinstance(skb, int):
        return skb
    if partial:
        skb.ip_summed = CHECKSUM_PARTIAL
        skb.csum_start, skb.csum_offset = skb.transport_header, 6
    if gso_size:
        length = skb.len
        err = udp.udp_gso_set(sk, skb, gso_size, dst_mtu(dst), False)
        if err:
            # Kernels count a packet when it is made, not when it leaves; its bytes too, if they do not count fragments.
            IP6_INC_STATS(net, IPSTATS_MIB_OUTREQUESTS)
            net.mib.ipv6_statistics[IPSTATS_MIB_OUTOCTETS] += 0 if net.profile.octets_by_fragment else length
            return err
    udp.udp_tx_timestamp(sk, skb, tsflags)
    core_sock.skb_set_owner_w(skb, sk)
    err = ip6_output.ip6_send_skb(net, skb)
    if err == -errno.ENOBUFS and not np.recverr:
        # A full queue is a loss like any other, unless the application asked to hear of it.
        UDP6_INC_STATS(net, UDP_MIB_SNDBUFERRORS)
        return 0
    if err < 0:
        return err
    UDP6_INC_STATS(net, UDP_MIB_OUTDATAGRAMS)
    return 0


# -- connect, close ----------------------------------------------------------------------------------------------------


def ip6_datagram_connect(sk: udp_sock, addr: sockaddr_in6) -> int:
    """net/ipv6/datagram.c: fix the peer; datagrams of others are no longer received.  An IPv4-mapped peer makes it a
    socket of IPv4."""
    if ipv6_addr_v4mapped(addr[0]):
        return _connect_mapped(sk, addr)
    np = sk.pinet6
    assert np is not None
    sk.sk_dst_cache = None
    fl6 = flowi6()
    dst = _udp6_route(sk, addr, fl6)
    if isinstance(dst, int):
        return dst
    if ipv6_addr_needs_scope_id(fl6.daddr):
        sk.sk_bound_dev_if = sk.sk_bound_dev_if or addr[3]
    old = sk.sk_v6_rcv_saddr
    np.saddr = np.saddr or fl6.saddr
    if not old:
        sk.sk_v6_rcv_saddr = fl6.saddr
        sk.sk_rcv_saddr = sk.inet_saddr = LOOPBACK4_IPV6
    udp.udp_lib_rehash(sk, old)
    if not sk.sk_num and _autobind(sk):
        return -errno.EAGAIN
    sk.sk_v6_daddr, sk.sk_dport = fl6.daddr, addr[1]
    sk.sk_daddr = LOOPBACK4_IPV6
    sk.sk_state = TCP_ESTABLISHED
    return 0


def _connect_mapped(sk: udp_sock, addr: sockaddr_in6) -> int:
    if sk.sk_ipv6only:
        return -errno.ENETUNREACH
    old = sk.sk_v6_rcv_saddr & 0xFFFFFFFF
    # IPv4 moves the socket in the table itself; until then its key has to be what it was.
    err = udp.ip4_datagram_connect(sk, (addr[0] & 0xFFFFFFFF, addr[1]))
    if err:
        return err
    assert sk.pinet6 is not None
    sk.sk_v6_daddr = ipv6_addr_set_v4mapped(sk.sk_daddr)
    before = sk.sk_v6_rcv_saddr
    sk.sk_v6_rcv_saddr = sk.pinet6.saddr = ipv6_addr_set_v4mapped(sk.sk_rcv_saddr)
    if not before:
        udp.udp_lib_rehash(sk, old)
    return 0


def udpv6_disconnect(sk: udp_sock, flags: int) -> int:
    """connect(AF_UNSPEC): back to receiving from everybody."""
    sk.sk_state = TCP_CLOSE
    sk.sk_daddr = sk.sk_v6_daddr = sk.sk_dport = 0
    sk.sk_dst_cache = None
    if not sk.sk_userlocks & SOCK_BINDADDR_LOCK:
        udp.udp_lib_unhash(sk)
        sk.sk_rcv_saddr = sk.inet_saddr = sk.sk_v6_rcv_saddr = 0
        assert sk.pinet6 is not None
        sk.pinet6.saddr = 0
        if sk.sk_userlocks & SOCK_BINDPORT_LOCK:
            udp.udp_lib_get_port(sk, sk.sk_num)
    elif not sk.sk_userlocks & SOCK_BINDPORT_LOCK:
        udp.udp_lib_unhash(sk)
    if not sk.sk_userlocks & SOCK_BINDPORT_LOCK:
        sk.sk_num = sk.inet_sport = 0
    return 0


def udpv6_setsockopt(sk: udp_sock, level: int, optname: int, optval: optval_t) -> int:
    """Options of the levels SOL_UDP, SOL_IPV6 and SOL_IP."""
    if level == SOL_UDP:
        return udp.udp_lib_setsockopt(sk, optname, optval)
    return ipv6_sockglue.ipv6_setsockopt(sk, level, optname, optval)


def udpv6_getsockopt(sk: udp_sock, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, optval_t]:
    if level == SOL_UDP:
        return udp.udp_lib_getsockopt(sk, optname)
    return ipv6_sockglue.ipv6_getsockopt(sk, level, optname, optlen)


udpv6_prot: proto = proto(
    "UDPv6",
    slab=udp_sock,
    init=udp.udp_init_sock,
    close=udp.udp_lib_close,
    connect=ip6_datagram_connect,
    disconnect=udpv6_disconnect,
    setsockopt=udpv6_setsockopt,
    getsockopt=udpv6_getsockopt,
    ioctl=udp.udp_ioctl,
    sendmsg=udpv6_sendmsg,
    recvmsg=udpv6_recvmsg,
    hash=udp.udp_lib_hash,
    unhash=udp.udp_lib_unhash,
    get_port=udp.udp_lib_get_port,
)

udpv6_protocol = inet6_protocol(udpv6_rcv, udpv6_err)
