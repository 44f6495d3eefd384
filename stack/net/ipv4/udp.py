# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP: net/ipv4/udp.c, with connect() from net/ipv4/datagram.c (RFC 768, RFC 1122 section 4.1).

A datagram goes to the socket that fits best: bound to its destination address before the wildcard, connected to its
sender before unconnected, bound to its device before not; equals with SO_REUSEPORT share by a hash of the addresses.
A broadcast goes to every socket that fits.  Nobody there: an ICMP port unreachable, and NoPorts.

A datagram waits in ``sk_receive_queue`` as the received packet itself, and counts against SO_RCVBUF; when that is
full it is dropped (RcvbufErrors).  Addresses in calls are (address, port) as host-order ints.

The tables are shared with IPv6 (net/ipv6/udp.py): a socket of AF_INET6 that is bound to any address or to an
IPv4-mapped one hangs where IPv4 looks, unless it said IPV6_V6ONLY.

A socket with UDP_SEGMENT (or a call with it as ancillary data) sends many datagrams at once, as one packet that is cut
by the device or on the way to it (udp_offload.py).  What comes as one such packet is cut before it waits, unless the
socket said UDP_GRO: it then reads all of it in one call, with the size of the datagrams as ancillary data.

Departures: no UDP-Lite, no encapsulation, no corking over several calls, no multicast groups.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_NO_SOCKET,
    SKB_DROP_REASON_PKT_TOO_SMALL,
    SKB_DROP_REASON_SKB_GSO_SEG,
    SKB_DROP_REASON_SOCKET_CLOSE,
    SKB_DROP_REASON_SOCKET_RCVBUFF,
    SKB_DROP_REASON_UDP_CSUM,
)
from stack.include.dst import RTCF_BROADCAST, RTCF_MULTICAST, flowi4, rtable
from stack.include.inet_sock import IP_PMTUDISC_DONT, inet_sock
from stack.include.ip import (
    ICMP_DEST_UNREACH,
    ICMP_FRAG_NEEDED,
    ICMP_PARAMETERPROB,
    ICMP_PORT_UNREACH,
    ICMP_SOURCE_QUENCH,
    ICMP_TIME_EXCEEDED,
    INADDR_LOOPBACK,
    IPPROTO_UDP,
    MSG_OOB,
    MSG_PEEK,
    NR_ICMP_UNREACH,
    UDPHDR_STRUCT,
    icmphdr,
    inet_sk_get_local_port_range,
    inet_skb_parm,
    iphdr,
    iphdr_at,
    ipv4_is_multicast,
    net_protocol,
    udphdr,
)
from stack.include.net import (
    MSG_ERRQUEUE,
    MSG_TRUNC,
    MSG_ZEROCOPY,
    SIOCINQ,
    SIOCOUTQ,
    cmsg_t,
    msghdr,
    optval_t,
)
from stack.include.net_tstamp import SOF_TIMESTAMPING_OPT_ID, SOF_TIMESTAMPING_TX_RECORD_MASK
from stack.include.netdevice import NETIF_F_HW_CSUM
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, SKB_GSO_UDP_L4, rx_truesize, sk_buff
from stack.include.snmp import (
    ICMP_INC_STATS,
    ICMP_MIB_INERRORS,
    IP_INC_STATS,
    IPSTATS_MIB_OUTDISCARDS,
    IPSTATS_MIB_OUTNOROUTES,
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
    AF_INET,
    AF_INET6,
    INT_MAX,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    SOCK_BROADCAST,
    SOCK_DEAD,
    SOCK_ZEROCOPY,
    proto,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_ESTABLISHED
from stack.include.udp import SOL_UDP, UDP_GRO, UDP_MAX_SEGMENTS, UDP_SEGMENT
from stack.lib.checksum import CSUM_MANGLED_0, csum_partial, csum_tcpudp_magic, tcp_v4_pseudo
from stack.net.core import dev as net_core_dev
from stack.net.core import scm, skbuff
from stack.net.core import sock as core_sock
from stack.net.ipv4 import af_inet, icmp, inet_connection_sock, ip_output, ip_sockglue, route

if TYPE_CHECKING:
    from stack.stack import Stack

Buffer = bytes | bytearray | memoryview
Address = tuple[int, int]

UDP_HEADER: Final = 8
_MAX_DATA: Final = 65535 - 20 - UDP_HEADER


class udp_sock(inet_sock):
    """struct udp_sock."""

    __slots__ = ("accept_udp_l4", "gro_enabled", "gso_size", "no_check6_rx", "pending")

    def __init__(self, net: Stack, family: int) -> None:
        super().__init__(net, family)
        self.no_check6_rx = False
        self.pending = 0
        self.gso_size = 0  # UDP_SEGMENT
        self.gro_enabled = self.accept_udp_l4 = False


class udp_table:
    """struct udp_table: ``hash`` by port, ``hash2`` by (address, port); newest first, as the kernel inserts."""

    __slots__ = ("hash", "hash2")

    def __init__(self) -> None:
        self.hash: dict[int, list[udp_sock]] = {}
        self.hash2: dict[Address, list[udp_sock]] = {}


def udp_init(net: Stack) -> None:
    net.udp_table = udp_table()


def udp_init_sock(sk: udp_sock) -> int:
    """sock_init_data() has done the rest."""
    return 0


# -- ports -------------------------------------------------------------------------------------------------------------


def udp_lib_lport_inuse(net: Stack, num: int, sk: udp_sock) -> bool:
    """Whether a socket on the port stands in the way of ``sk``."""
    return any(_bind_conflict(sk, sk2) for sk2 in net.udp_table.hash.get(num, ()))


def _bind_conflict(sk: udp_sock, sk2: udp_sock) -> bool:
    if sk2 is sk or (sk.sk_reuse and sk2.sk_reuse):
        return False
    if sk.sk_bound_dev_if and sk2.sk_bound_dev_if and sk.sk_bound_dev_if != sk2.sk_bound_dev_if:
        return False
    if not inet_connection_sock.inet_rcv_saddr_equal(sk, sk2):
        return False
    return not (sk.sk_reuseport and sk2.sk_reuseport)


def udp_lib_get_port(sk: udp_sock, snum: int) -> int:
    """Take the port, or a free one of the ephemeral range for 0; 0, or 1 if that is not possible."""
    net = sk.sk_net
    if not snum:
        snum = _free_port(net, sk)
        if not snum:
            return 1
    elif udp_lib_lport_inuse(net, snum, sk):
        return 1
    sk.sk_num = snum
    if not _hashed(sk):
        net.udp_table.hash.setdefault(snum, []).insert(0, sk)
        net.udp_table.hash2.setdefault(_hash2_key(sk), []).insert(0, sk)
    return 0


def _hash2_key(sk: udp_sock) -> Address:
    """(address, port) of the second table; any address and IPv4-mapped ones are IPv4's keys."""
    if sk.sk_family == AF_INET6:
        addr = sk.sk_v6_rcv_saddr
        return (addr & 0xFFFFFFFF if addr >> 32 == 0xFFFF else addr, sk.sk_num)
    return (sk.sk_rcv_saddr, sk.sk_num)


udp_v4_get_port = udp_lib_get_port


def _free_port(net: Stack, sk: udp_sock) -> int:
    low, high = inet_sk_get_local_port_range(sk)
    count = high - low + 1
    first = net.rng.get_random_u32_below(count)
    for i in range(count):
        port = low + (first + i) % count
        if port not in net.ipv4.sysctl_local_reserved_ports and not udp_lib_lport_inuse(net, port, sk):
            return port
    return 0


def _hashed(sk: udp_sock) -> bool:
    return sk in sk.sk_net.udp_table.hash.get(sk.sk_num, ())


def udp_lib_hash(sk: udp_sock) -> None:
    """UDP is hashed by its get_port."""
    raise AssertionError("udp_lib_hash is never called: udp_lib_get_port puts a socket into the table")


def udp_lib_unhash(sk: udp_sock) -> None:
    table = sk.sk_net.udp_table
    _remove(table.hash, sk.sk_num, sk)
    _remove(table.hash2, _hash2_key(sk), sk)


def _remove(table: dict[Any, list[udp_sock]], key: Any, sk: udp_sock) -> None:
    chain = table.get(key)
    if chain is not None and sk in chain:
        chain.remove(sk)
        if not chain:
            del table[key]


def udp_lib_rehash(sk: udp_sock, old_addr: int) -> None:
    """The local address changed from ``old_addr``: move the socket in the second table."""
    table = sk.sk_net.udp_table
    if _hashed(sk):
        _remove(table.hash2, (old_addr, sk.sk_num), sk)
        table.hash2.setdefault(_hash2_key(sk), []).insert(0, sk)


# -- look-up -----------------------------------------------------------------------------------------------------------


def compute_score(sk: udp_sock, saddr: int, sport: int, dif: int) -> int:
    """-1 if the socket does not fit; its local address and port do already.  One of AF_INET6 comes after IPv4's own."""
    if sk.sk_ipv6only:
        return -1
    score = 2 if sk.sk_family == AF_INET else 1
    if sk.sk_daddr:
        if sk.sk_daddr != saddr:
            return -1
        score += 4
    if sk.sk_dport:
        if sk.sk_dport != sport:
            return -1
        score += 4
    if sk.sk_bound_dev_if:
        if sk.sk_bound_dev_if != dif:
            return -1
        score += 4
    return score


def __udp4_lib_lookup(net: Stack, saddr: int, sport: int, daddr: int, dport: int, dif: int) -> udp_sock | None:
    """The socket a datagram from (saddr, sport) to (daddr, dport) belongs to."""
    hash2 = net.udp_table.hash2
    for key in ((daddr, dport), (0, dport)):
        chain = hash2.get(key)
        if chain:
            found = _udp4_lib_lookup2(net, chain, saddr, sport, daddr, dport, dif)
            if found is not None:
                return found
    return None


def _udp4_lib_lookup2(
    net: Stack, chain: list[udp_sock], saddr: int, sport: int, daddr: int, dport: int, dif: int
) -> udp_sock | None:
    result: udp_sock | None = None
    best = 0
    for sk in chain:
        score = compute_score(sk, saddr, sport, dif)
        if score > best:
            result, best = sk, score
    if result is not None and result.sk_reuseport and result.sk_state != TCP_ESTABLISHED:
        group = [
            sk for sk in chain if sk.sk_reuseport and compute_score(sk, saddr, sport, dif) == best
        ]
        mixed = hash((saddr, sport, daddr, dport, net.inet_ehash_secret)) & 0xFFFFFFFF
        result = group[mixed * len(group) >> 32]
    return result


# -- receive -----------------------------------------------------------------------------------------------------------


def udp_rcv(skb: sk_buff) -> int:
    return __udp4_lib_rcv(skb)


def __udp4_lib_rcv(skb: sk_buff) -> int:
    """Check a datagram and give it to its socket."""
    rt = skb._skb_refdst
    assert isinstance(rt, rtable)
    net = rt.net
    iph: iphdr = skb.h_iph
    if skb.len < UDP_HEADER:
        return _udp_drop(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    uh = udphdr(*UDPHDR_STRUCT.unpack_from(skb.head, skb.data))
    skb.h_th = uh
    if uh.len > skb.len or uh.len < UDP_HEADER:
        return _udp_drop(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    if uh.len < skb.len:
        skb.tail -= skb.len - uh.len
        skb.len = uh.len
    if uh.check and skb.ip_summed == CHECKSUM_NONE and not _checksum_ok(skb, iph):
        UDP_INC_STATS(net, UDP_MIB_CSUMERRORS)
        return _udp_drop(net, skb, SKB_DROP_REASON_UDP_CSUM)
    if rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        return __udp4_lib_mcast_deliver(net, skb, uh, iph)
    sk = __udp4_lib_lookup(net, iph.saddr, uh.source, iph.daddr, uh.dest, skb.skb_iif)
    if sk is not None:
        return udp_queue_rcv_skb(sk, skb)
    UDP_INC_STATS(net, UDP_MIB_NOPORTS)
    icmp.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NO_SOCKET)
    return 0


def _checksum_ok(skb: sk_buff, iph: iphdr) -> bool:
    wsum = csum_partial(memoryview(skb.head)[skb.data : skb.tail])
    return csum_tcpudp_magic(iph.saddr, iph.daddr, skb.len, IPPROTO_UDP, wsum) == 0


def _udp_drop(net: Stack, skb: sk_buff, reason: int) -> int:
    UDP_INC_STATS(net, UDP_MIB_INERRORS)
    skbuff.kfree_skb_reason(skb, reason)
    return 0


def __udp4_lib_mcast_deliver(net: Stack, skb: sk_buff, uh: udphdr, iph: iphdr) -> int:
    """A copy for every socket on the port that fits; without one IgnoredMulti, and no ICMP."""
    dif = skb.skb_iif
    takers = [
        sk
        for sk in net.udp_table.hash.get(uh.dest, ())
        if sk.sk_rcv_saddr in (0, iph.daddr) and compute_score(sk, iph.saddr, uh.source, dif) > 0
    ]
    if not takers:
        UDP_INC_STATS(net, UDP_MIB_IGNOREDMULTI)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NO_SOCKET)
        return 0
    for sk in takers[1:]:
        udp_queue_rcv_skb(sk, skb_clone(skb))
    return udp_queue_rcv_skb(takers[0], skb)


def skb_clone(skb: sk_buff) -> sk_buff:
    """The frame is shared, since nobody writes into a received one."""
    twin = sk_buff(skb.head, skb.data, skb.tail)
    twin.mac_header, twin.network_header = skb.mac_header, skb.network_header
    twin.transport_header, twin.dev, twin.skb_iif = skb.transport_header, skb.dev, skb.skb_iif
    twin._skb_refdst, twin.h_iph, twin.h_th = skb._skb_refdst, skb.h_iph, skb.h_th
    twin.pkt_type, twin.protocol, twin.ip_opt = skb.pkt_type, skb.protocol, skb.ip_opt
    twin.gso_size, twin.gso_segs, twin.gso_type = skb.gso_size, skb.gso_segs, skb.gso_type
    return twin


def udp_unexpected_gso(sk: udp_sock, skb: sk_buff) -> bool:
    """include/linux/udp.h: a packet of many datagrams for a socket that reads them one by one."""
    return skb.gso_type & SKB_GSO_UDP_L4 != 0 and not sk.accept_udp_l4


def udp_rcv_segment(sk: udp_sock, skb: sk_buff, ipv4: bool) -> list[sk_buff]:
    """include/net/udp.h: the datagrams of such a packet, each at its UDP header; [] if it is malformed, which counts
    as often as it has datagrams: not at all in a packet from a device, whose datagrams nobody has counted."""
    segs = net_core_dev.skb_gso_segment(skb)
    if not segs:
        sk.sk_drops += skb.gso_segs
        count = UDP_INC_STATS if ipv4 else UDP6_INC_STATS
        for _ in range(skb.gso_segs):
            count(sk.sk_net, UDP_MIB_INERRORS)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_SKB_GSO_SEG)
        return []
    skbuff.consume_skb(skb)
    for seg in segs:
        seg.data = seg.transport_header
        seg.len = seg.tail - seg.data
        seg.truesize = rx_truesize(seg.tail)
    return segs


def udp_queue_rcv_skb(sk: udp_sock, skb: sk_buff) -> int:
    if not skb.gso_type or not udp_unexpected_gso(sk, skb):
        return udp_queue_rcv_one_skb(sk, skb)
    for seg in udp_rcv_segment(sk, skb, True):
        udp_queue_rcv_one_skb(sk, seg)
    return 0


def udp_queue_rcv_one_skb(sk: udp_sock, skb: sk_buff) -> int:
    """Queue for reading; skb.data is at the payload from here on."""
    net = sk.sk_net
    skb.data += UDP_HEADER
    skb.len -= UDP_HEADER
    if core_sock.sock_queue_rcv_skb(sk, skb) == 0:
        return 0
    UDP_INC_STATS(net, UDP_MIB_RCVBUFERRORS)
    return _udp_drop(net, skb, SKB_DROP_REASON_SOCKET_RCVBUFF)


def udp_err(skb: sk_buff, info: int) -> int:
    """An ICMP error about a datagram of ours: an errno for its socket, if it is connected or asked for errors."""
    iph = iphdr_at(skb.head, skb.data)
    source, dest, _, _ = UDPHDR_STRUCT.unpack_from(skb.head, skb.data + iph.ihl * 4)
    rt = skb._skb_refdst
    assert isinstance(rt, rtable)
    net = rt.net
    icmph: icmphdr = skb.h_th
    sk = __udp4_lib_lookup(net, iph.daddr, dest, iph.saddr, source, skb.skb_iif)
    if sk is None:
        ICMP_INC_STATS(net, ICMP_MIB_INERRORS)
        return -errno.ENOENT
    err, hard = _icmp_errno(skb, sk, icmph, info)
    if err and (sk.recverr or (hard and sk.sk_state == TCP_ESTABLISHED)):
        if sk.recverr:
            ip_sockglue.ip_icmp_error(sk, skb, err, dest, info, skb.data + iph.ihl * 4 + UDP_HEADER)
        sk.sk_err = err
        sk.sk_error_report(sk)
    return 0


def _icmp_errno(skb: sk_buff, sk: udp_sock, icmph: icmphdr, info: int) -> tuple[int, bool]:
    if icmph.type == ICMP_TIME_EXCEEDED:
        return errno.EHOSTUNREACH, False
    if icmph.type == ICMP_PARAMETERPROB:
        return errno.EPROTO, True
    if icmph.type == ICMP_SOURCE_QUENCH or icmph.type != ICMP_DEST_UNREACH:
        return 0, False
    if icmph.code == ICMP_FRAG_NEEDED:
        route.ipv4_sk_update_pmtu(skb, sk, info)
        return (errno.EMSGSIZE, True) if sk.pmtudisc != IP_PMTUDISC_DONT else (0, False)
    return icmp.icmp_err_convert[icmph.code] if icmph.code <= NR_ICMP_UNREACH else (errno.EHOSTUNREACH, False)


def __skb_recv_udp(sk: udp_sock, flags: int, off: int = 0) -> tuple[sk_buff, int] | int:
    """The next datagram as a packet (payload from skb.data; ``skb.h_th`` and ``ip_hdr`` say between whom) and how many
    of its bytes to pass over; a pending error first; -EAGAIN if nothing waits.  MSG_PEEK passes over ``off`` bytes of
    what waits."""
    if sk.sk_err:
        err, sk.sk_err = sk.sk_err, 0
        return -err
    queue = sk.sk_receive_queue
    if flags & MSG_PEEK:
        return _peek_at(sk, off)
    if not queue:
        return -errno.EAGAIN
    return queue.popleft(), 0


def _peek_at(sk: udp_sock, off: int) -> tuple[sk_buff, int] | int:
    """The datagram at SO_PEEK_OFF; an empty one is met once."""
    if sk.sk_peek_off < 0:
        return (sk.sk_receive_queue[0], 0) if sk.sk_receive_queue else -errno.EAGAIN
    for skb in sk.sk_receive_queue:
        if off < skb.len:
            return skb, off
        if not skb.len and not off:
            skb.cb = skb.cb or inet_skb_parm()
            if not skb.cb.peeked:
                skb.cb.peeked = True
                return skb, 0
        off -= skb.len
    return -errno.EAGAIN


def udp_ioctl(sk: udp_sock, cmd: int) -> tuple[int, int]:
    """(0, value) of SIOCOUTQ (bytes that the device still holds) and SIOCINQ (size of the first datagram that waits, 0
    if none does), or (-ENOTTY, 0)."""
    if cmd == SIOCOUTQ:
        return 0, sk.sk_wmem_alloc
    if cmd == SIOCINQ:
        return 0, sk.sk_receive_queue[0].len if sk.sk_receive_queue else 0
    return -errno.ENOTTY, 0


def udp_recv_error(sk: udp_sock, size: int, msg: msghdr | None) -> Any:
    """MSG_ERRQUEUE: an error's payload and where the packet that it is about was going (None for a time stamp)."""
    msg = msg if msg is not None else msghdr()
    data = af_inet.inet_recv_error(sk, size, msg)
    return data if isinstance(data, int) else (data, msg.msg_name)


def udp_copy(sk: udp_sock, skb: sk_buff, off: int, size: int, flags: int, msg: msghdr | None) -> bytes:
    """What recvmsg() gives of a datagram from byte ``off`` on, and what it says: whether it was cut, and with MSG_TRUNC
    how long it was."""
    size = max(size, 0)
    data = bytes(skb.head[skb.data + off : min(skb.tail, skb.data + off + size)])
    if msg is not None and skb.len - off > size:
        msg.msg_flags |= MSG_TRUNC
    if msg is not None and flags & MSG_TRUNC and skb.len > len(data):
        msg.msg_len = skb.len
    if flags & MSG_PEEK:
        core_sock.sk_peek_offset_fwd(sk, len(data))
    else:
        core_sock.sk_peek_offset_bwd(sk, len(data))
    return data


def udp_recvmsg(sk: udp_sock, size: int, flags: int, msg: msghdr | None = None) -> Any:
    """One datagram, cut to ``size`` bytes, and who sent it: (bytes, address); or a negative errno, -EAGAIN also after
    shutdown(SHUT_RD) (one who waits in the kernel would get an empty datagram then).  MSG_ERRQUEUE reads the error
    queue."""
    if flags & MSG_ERRQUEUE:
        return udp_recv_error(sk, size, msg)
    found = __skb_recv_udp(sk, flags, core_sock.sk_peek_offset(sk, flags))
    if isinstance(found, int):
        return found
    skb, off = found
    data = udp_copy(sk, skb, off, size, flags, msg)
    peer = (skb.h_iph.saddr, skb.h_th.source)
    if msg is not None:
        scm.sock_recv_cmsgs(msg, sk, skb)
        udp_cmsg_recv(msg, sk, skb)
        ip_sockglue.ip_cmsg_recv(msg, sk, skb)
    if not flags & MSG_PEEK:
        UDP_INC_STATS(sk.sk_net, UDP_MIB_INDATAGRAMS)
        skbuff.consume_skb(skb)
    return data, peer


def udp_cmsg_recv(msg: msghdr, sk: udp_sock, skb: sk_buff) -> None:
    """include/linux/udp.h: how long each datagram is, of many that are read at once."""
    if sk.gro_enabled and skb.gso_type & SKB_GSO_UDP_L4:
        scm.put_cmsg(msg, SOL_UDP, UDP_GRO, skb.gso_size.to_bytes(4, "little"))


# -- send --------------------------------------------------------------------------------------------------------------


def udp_sendmsg(
    sk: udp_sock, data: Buffer, addr: Address | None, flags: int, msg: msghdr | None = None, *, saddr: int = 0
) -> int:
    """Send one datagram; bytes taken or a negative errno.  ``addr`` None sends to the connected peer; ``saddr`` is
    the source address, which an IP_PKTINFO in ``msg`` sets too, as UDP_SEGMENT does the size of datagrams."""
    tsflags = sk.sk_tsflags
    gso_size = sk.gso_size
    if msg is not None and msg.msg_control:
        tsflags = scm.sock_cmsg_tsflags(sk, msg.msg_control)
        gso_size = udp_cmsg_send(msg.msg_control, gso_size)
        saddr = ip_sockglue.ip_cmsg_send(msg.msg_control)
        if tsflags < 0 or saddr < 0 or gso_size < 0:
            return -errno.EINVAL
    net = sk.sk_net
    if len(data) > 0xFFFF:
        return -errno.EMSGSIZE
    if flags & MSG_OOB:
        return -errno.EOPNOTSUPP
    if addr is None:
        if sk.sk_state != TCP_ESTABLISHED:
            return -errno.EDESTADDRREQ
        addr = (sk.sk_daddr, sk.sk_dport)
    elif not addr[1]:
        return -errno.EINVAL
    if not sk.sk_num:
        if udp_lib_get_port(sk, 0):
            return -errno.EAGAIN
        sk.inet_sport = sk.sk_num
    fl4 = flowi4()
    rt = _udp_route(net, sk, addr, saddr, fl4)
    if isinstance(rt, int):
        return rt
    err = core_sock.sock_alloc_send_pskb(sk)
    if err:
        IP_INC_STATS(net, IPSTATS_MIB_OUTDISCARDS)
        if err == -errno.EAGAIN:
            UDP_INC_STATS(net, UDP_MIB_SNDBUFERRORS)
        return err
    err = udp_send_skb(sk, data, addr[1], fl4, rt, tsflags, gso_size)
    if err < 0:
        return err
    if flags & MSG_ZEROCOPY:
        udp_zerocopy(sk, data)
    return len(data)


def udp_cmsg_send(control: list[cmsg_t], gso_size: int) -> int:
    """The size of datagrams that a call asks for, ``gso_size`` if it does not, or -EINVAL."""
    for level, type_, data in control:
        if level == SOL_UDP:
            if type_ != UDP_SEGMENT or len(data) != 2:
                return -errno.EINVAL
            gso_size = int.from_bytes(data, "little")
    return gso_size


def udp_zerocopy(sk: udp_sock, data: Buffer) -> None:
    """A datagram was copied as it was built: a call with MSG_ZEROCOPY is done at once."""
    if len(data) and sk.sk_flags & SOCK_ZEROCOPY:
        number, sk.sk_zckey = sk.sk_zckey, (sk.sk_zckey + 1) & 0xFFFFFFFF
        skbuff.__msg_zerocopy_callback(sk, number)


def _udp_route(net: Stack, sk: udp_sock, addr: Address, saddr: int, fl4: flowi4) -> rtable | int:
    fl4.daddr = addr[0] or INADDR_LOOPBACK
    fl4.saddr = saddr or sk.inet_saddr
    fl4.fl4_sport, fl4.fl4_dport = sk.sk_num, addr[1]
    oif = sk.sk_bound_dev_if
    if ipv4_is_multicast(fl4.daddr):
        oif = oif or sk.mc_index
        fl4.saddr = fl4.saddr or sk.mc_addr
    fl4.flowi4_proto, fl4.flowi4_oif, fl4.flowi4_tos = IPPROTO_UDP, oif or sk.uc_index, sk.tos
    rt = route.ip_route_output_flow(net, fl4, sk)
    if isinstance(rt, int):
        if rt == -errno.ENETUNREACH:
            IP_INC_STATS(net, IPSTATS_MIB_OUTNOROUTES)
        return rt
    if rt.rt_flags & RTCF_BROADCAST and not sk.sk_flags & SOCK_BROADCAST:
        return -errno.EACCES
    return rt


def udp_send_skb(
    sk: udp_sock, data: Buffer, dport: int, fl4: flowi4, rt: rtable, tsflags: int = 0, gso_size: int = 0
) -> int:
    """Build the datagram with its checksum and send it; 0 or a negative errno.  The device finishes the checksum if
    it can and the datagram is not cut; always of many datagrams, for which ``gso_size`` asks."""
    net = sk.sk_net
    length = len(data) + UDP_HEADER
    ttl = sk.mc_ttl if rt.rt_flags & RTCF_MULTICAST else ip_output.ip_select_ttl(sk, rt)
    partial = rt.dev.features & NETIF_F_HW_CSUM and length + 20 <= route.ipv4_mtu(rt) and sk.inet_opt is None
    partial = bool(partial or gso_size)
    if sk.sk_no_check_tx:
        check = 0
    elif partial:
        check = tcp_v4_pseudo(fl4.saddr, fl4.daddr, length, IPPROTO_UDP)
    else:
        check = _udp_check(sk.sk_num, dport, length, data, fl4)
    header = UDPHDR_STRUCT.pack(sk.sk_num, dport, length, check) if length <= 0xFFFF else bytes(8)
    skb = ip_output.ip_make_skb(sk, header, data, rt, fl4, sk.tos, ttl, gso=gso_size > 0)
    if isinstance(skb, int):
        if skb == -errno.EMSGSIZE:
            ip_sockglue.ip_local_error(sk, errno.EMSGSIZE, fl4.daddr, sk.sk_dport, route.ipv4_mtu(rt))
        return skb
    if partial and not sk.sk_no_check_tx:
        skb.ip_summed = CHECKSUM_PARTIAL
        skb.csum_start, skb.csum_offset = skb.transport_header, 6
    if gso_size:
        err = udp_gso_set(sk, skb, gso_size, ip_output.ip_skb_dst_mtu(sk, rt), bool(sk.sk_no_check_tx))
        if err:
            return err
    udp_tx_timestamp(sk, skb, tsflags)
    core_sock.skb_set_owner_w(skb, sk)
    err = ip_output.ip_send_skb(net, skb)
    if err == -errno.ENOBUFS and not sk.recverr:
        # A full queue is a loss like any other, unless the application asked to hear of it.
        UDP_INC_STATS(net, UDP_MIB_SNDBUFERRORS)
        return 0
    if err == 0:
        UDP_INC_STATS(net, UDP_MIB_OUTDATAGRAMS)
    return err


def udp_gso_set(sk: udp_sock, skb: sk_buff, gso_size: int, mtu: int, no_check: bool) -> int:
    """A packet, which begins with its IP header, is to be cut into datagrams of ``gso_size``; 0, or a negative errno
    and the packet is gone.  In the kernel this is a part of udp_send_skb() and udp_v6_send_skb()."""
    headers = skb.transport_header + UDP_HEADER - skb.data
    datalen = skb.len - headers
    assert skb._skb_refdst is not None
    err = 0
    if headers + min(gso_size, datalen) > mtu:
        err = -errno.EMSGSIZE
    elif datalen > gso_size * UDP_MAX_SEGMENTS or no_check:
        err = -errno.EINVAL
    elif not (sk.sk_net.profile.udp_gso_any_device or skb._skb_refdst.dev.features & NETIF_F_HW_CSUM):
        err = -errno.EIO
    if err:
        skbuff.consume_skb(skb)
    elif datalen > gso_size:
        skb.gso_size, skb.gso_type, skb.gso_segs = gso_size, SKB_GSO_UDP_L4, -(-datalen // gso_size)
    return err


def udp_tx_timestamp(sk: udp_sock, skb: sk_buff, tsflags: int) -> None:
    """A datagram carries its socket's wish to be told when it leaves; each has the next number."""
    if tsflags & SOF_TIMESTAMPING_TX_RECORD_MASK:
        skb.shinfo = scm.__sock_tx_timestamp(tsflags)
        if tsflags & SOF_TIMESTAMPING_OPT_ID:
            skb.shinfo.tskey = sk.sk_tskey
            sk.sk_tskey = (sk.sk_tskey + 1) & 0xFFFFFFFF


def _udp_check(sport: int, dport: int, length: int, data: Buffer, fl4: flowi4) -> int:
    wsum = csum_partial(data, sport + dport + length)
    return csum_tcpudp_magic(fl4.saddr, fl4.daddr, length, IPPROTO_UDP, wsum) or CSUM_MANGLED_0


# -- connect, close ----------------------------------------------------------------------------------------------------


def ip4_datagram_connect(sk: udp_sock, addr: Address) -> int:
    """net/ipv4/datagram.c: fix the peer; datagrams of others are no longer received."""
    net = sk.sk_net
    sk.sk_dst_cache = None
    fl4 = flowi4()
    rt = _udp_route(net, sk, addr, 0, fl4)
    if isinstance(rt, int):
        return rt
    old = sk.sk_rcv_saddr
    sk.inet_saddr = sk.inet_saddr or fl4.saddr
    sk.sk_rcv_saddr = sk.sk_rcv_saddr or fl4.saddr
    udp_lib_rehash(sk, old)
    if not sk.sk_num:
        if udp_lib_get_port(sk, 0):
            return -errno.EAGAIN
        sk.inet_sport = sk.sk_num
    sk.sk_daddr, sk.sk_dport = fl4.daddr, addr[1]
    sk.sk_state = TCP_ESTABLISHED
    sk.inet_id = net.rng.get_random_u32() & 0xFFFF
    sk.sk_dst_cache = rt
    return 0


def __udp_disconnect(sk: udp_sock, flags: int) -> int:
    """connect(AF_UNSPEC): back to receiving from everybody."""
    sk.sk_state = TCP_CLOSE
    sk.sk_daddr = sk.sk_dport = 0
    sk.sk_dst_cache = None
    if not sk.sk_userlocks & SOCK_BINDADDR_LOCK:
        old = sk.sk_rcv_saddr
        sk.sk_rcv_saddr = sk.inet_saddr = 0
        udp_lib_rehash(sk, old)
    if not sk.sk_userlocks & SOCK_BINDPORT_LOCK:
        udp_lib_unhash(sk)
        sk.sk_num = sk.inet_sport = 0
    return 0


def udp_lib_close(sk: udp_sock, timeout: int) -> None:
    """sk_common_release(): out of the tables, what waits is dropped."""
    udp_lib_unhash(sk)
    sk.sk_flags |= SOCK_DEAD
    sk.sk_state = TCP_CLOSE
    while sk.sk_receive_queue:
        skbuff.kfree_skb_reason(sk.sk_receive_queue.popleft(), SKB_DROP_REASON_SOCKET_CLOSE)
    core_sock.sk_free(sk)


def udp_lib_setsockopt(sk: udp_sock, optname: int, optval: optval_t) -> int:
    """UDP's own options: UDP_SEGMENT and UDP_GRO.  Corking and encapsulation are not there."""
    if optname not in (UDP_SEGMENT, UDP_GRO):
        return -errno.ENOPROTOOPT
    if not isinstance(optval, int):
        if len(optval) < 4:
            return -errno.EINVAL
        optval = int.from_bytes(optval[:4], "little", signed=True)
    if optname == UDP_GRO:
        sk.gro_enabled = sk.accept_udp_l4 = bool(optval)
    elif 0 <= optval <= 0xFFFF:
        sk.gso_size = optval
    else:
        return -errno.EINVAL
    return 0


def udp_lib_getsockopt(sk: udp_sock, optname: int) -> tuple[int, optval_t]:
    if optname == UDP_SEGMENT:
        return 0, sk.gso_size
    return (0, int(sk.gro_enabled)) if optname == UDP_GRO else (-errno.ENOPROTOOPT, 0)


def udp_setsockopt(sk: udp_sock, level: int, optname: int, optval: optval_t) -> int:
    """Options of the levels SOL_UDP and SOL_IP."""
    if level == SOL_UDP:
        return udp_lib_setsockopt(sk, optname, optval)
    return ip_sockglue.ip_setsockopt(sk, level, optname, optval)


def udp_getsockopt(sk: udp_sock, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, optval_t]:
    if level == SOL_UDP:
        return udp_lib_getsockopt(sk, optname)
    return ip_sockglue.ip_getsockopt(sk, level, optname, optlen)


udp_prot: proto = proto(
    "UDP",
    slab=udp_sock,
    init=udp_init_sock,
    close=udp_lib_close,
    connect=ip4_datagram_connect,
    disconnect=__udp_disconnect,
    setsockopt=udp_setsockopt,
    getsockopt=udp_getsockopt,
    ioctl=udp_ioctl,
    sendmsg=udp_sendmsg,
    recvmsg=udp_recvmsg,
    hash=udp_lib_hash,
    unhash=udp_lib_unhash,
    get_port=udp_v4_get_port,
)
udp_protocol: net_protocol = net_protocol(udp_rcv, udp_err)
