# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv4, UDP and ICMP headers and the values in them: include/uapi/linux/{ip,in,udp,icmp}.h, include/net/ip.h.

Addresses are host-order ints.  A header of a received packet is unpacked once, into a small object that the packet
carries (``ip_hdr(skb)``); on the way out the bytes are packed straight into the header room.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

Buffer = bytes | bytearray | memoryview

ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_IPV6: Final = 0x86DD
ETH_HLEN: Final = 14
ETH_ALEN: Final = 6
ETH_ZLEN: Final = 60

IPPROTO_IP: Final = 0
IPPROTO_ICMP: Final = 1
IPPROTO_IGMP: Final = 2
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_IPV6: Final = 41
IPPROTO_RAW: Final = 255
MAX_INET_PROTOS: Final = 256

INADDR_ANY: Final = 0
INADDR_BROADCAST: Final = 0xFFFFFFFF
INADDR_LOOPBACK: Final = 0x7F000001

IP_CE: Final = 0x8000
IP_DF: Final = 0x4000
IP_MF: Final = 0x2000
IP_OFFSET: Final = 0x1FFF

IPDEFTTL: Final = 64
IPV4_MIN_MTU: Final = 68
IP_MAX_MTU: Final = 0xFFFF

# RFC 3168: the two low bits of the TOS byte
INET_ECN_NOT_ECT: Final = 0
INET_ECN_ECT_1: Final = 1
INET_ECN_ECT_0: Final = 2
INET_ECN_CE: Final = 3
INET_ECN_MASK: Final = 3
IPTOS_TOS_MASK: Final = 0x1E
IPTOS_RT_MASK: Final = IPTOS_TOS_MASK & ~3

# include/uapi/linux/in.h
IP_TOS: Final = 1
IP_TTL: Final = 2
IP_HDRINCL: Final = 3
IP_OPTIONS: Final = 4
IP_ROUTER_ALERT: Final = 5
IP_RECVOPTS: Final = 6
IP_RETOPTS: Final = 7
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVERR: Final = 11
IP_RECVTTL: Final = 12
IP_RECVTOS: Final = 13
IP_MTU: Final = 14
IP_FREEBIND: Final = 15
IP_TRANSPARENT: Final = 19
IP_PASSSEC: Final = 18
IP_ORIGDSTADDR: Final = 20
IP_RECVORIGDSTADDR: Final = IP_ORIGDSTADDR
IP_MINTTL: Final = 21
IP_NODEFRAG: Final = 22
IP_CHECKSUM: Final = 23
IP_BIND_ADDRESS_NO_PORT: Final = 24
IP_RECVFRAGSIZE: Final = 25
IP_RECVERR_RFC4884: Final = 26
IP_MULTICAST_IF: Final = 32
IP_MULTICAST_TTL: Final = 33
IP_MULTICAST_LOOP: Final = 34
IP_MULTICAST_ALL: Final = 49
IP_UNICAST_IF: Final = 50
IP_LOCAL_PORT_RANGE: Final = 51
IP_PROTOCOL: Final = 52

MSG_OOB: Final = 1
MSG_PEEK: Final = 2
MSG_DONTROUTE: Final = 4
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40
MSG_NOSIGNAL: Final = 0x4000

# IPv4 options (RFC 791, section 3.1; RFC 2113 for router alert)
IPOPT_END: Final = 0
IPOPT_NOOP: Final = 1
IPOPT_RR: Final = 7
IPOPT_TIMESTAMP: Final = 68
IPOPT_SEC: Final = 130
IPOPT_LSRR: Final = 131
IPOPT_CIPSO: Final = 134
IPOPT_SID: Final = 136
IPOPT_SSRR: Final = 137
IPOPT_RA: Final = 148

# ICMP (RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 5.2.7)
ICMP_ECHOREPLY: Final = 0
ICMP_DEST_UNREACH: Final = 3
ICMP_SOURCE_QUENCH: Final = 4
ICMP_REDIRECT: Final = 5
ICMP_ECHO: Final = 8
ICMP_TIME_EXCEEDED: Final = 11
ICMP_PARAMETERPROB: Final = 12
ICMP_TIMESTAMP: Final = 13
ICMP_TIMESTAMPREPLY: Final = 14
ICMP_INFO_REQUEST: Final = 15
ICMP_INFO_REPLY: Final = 16
ICMP_ADDRESS: Final = 17
ICMP_ADDRESSREPLY: Final = 18
NR_ICMP_TYPES: Final = 18

ICMP_NET_UNREACH: Final = 0
ICMP_HOST_UNREACH: Final = 1
ICMP_PROT_UNREACH: Final = 2
ICMP_PORT_UNREACH: Final = 3
ICMP_FRAG_NEEDED: Final = 4
ICMP_SR_FAILED: Final = 5
ICMP_NET_UNKNOWN: Final = 6
ICMP_HOST_UNKNOWN: Final = 7
ICMP_HOST_ISOLATED: Final = 8
ICMP_NET_ANO: Final = 9
ICMP_HOST_ANO: Final = 10
ICMP_NET_UNR_TOS: Final = 11
ICMP_HOST_UNR_TOS: Final = 12
ICMP_PKT_FILTERED: Final = 13
ICMP_PREC_VIOLATION: Final = 14
ICMP_PREC_CUTOFF: Final = 15
NR_ICMP_UNREACH: Final = 15

ICMP_EXC_TTL: Final = 0
ICMP_EXC_FRAGTIME: Final = 1

IPHDR_LEN: Final = 20
IPHDR_STRUCT: Final = Struct("!BBHHHBBHII")
UDPHDR_STRUCT: Final = Struct("!HHHH")
ICMPHDR_STRUCT: Final = Struct("!BBHHH")


class iphdr:
    """struct iphdr; ``ihl`` counts 32-bit words, ``frag_off`` has the flag bits."""

    __slots__ = (
        "check",
        "daddr",
        "frag_off",
        "id",
        "ihl",
        "protocol",
        "saddr",
        "tos",
        "tot_len",
        "ttl",
        "version",
    )

    def __init__(
        self,
        ver_ihl: int,
        tos: int,
        tot_len: int,
        ident: int,
        frag_off: int,
        ttl: int,
        protocol: int,
        check: int,
        saddr: int,
        daddr: int,
    ) -> None:
        self.version = ver_ihl >> 4
        self.ihl = ver_ihl & 15
        self.tos = tos
        self.tot_len = tot_len
        self.id = ident
        self.frag_off = frag_off
        self.ttl = ttl
        self.protocol = protocol
        self.check = check
        self.saddr = saddr
        self.daddr = daddr


class udphdr:
    """struct udphdr; ``len`` counts header and payload."""

    __slots__ = ("check", "dest", "len", "source")

    def __init__(self, source: int, dest: int, length: int, check: int) -> None:
        self.source = source
        self.dest = dest
        self.len = length
        self.check = check


class icmphdr:
    """struct icmphdr: ``id`` and ``sequence`` of an echo; for an error ``gateway`` is those 32 bits and ``mtu``
    their low half."""

    __slots__ = ("checksum", "code", "id", "sequence", "type")

    def __init__(self, icmp_type: int, code: int, checksum: int, ident: int, sequence: int) -> None:
        self.type = icmp_type
        self.code = code
        self.checksum = checksum
        self.id = ident
        self.sequence = sequence

    @property
    def gateway(self) -> int:
        return (self.id << 16) | self.sequence

    @property
    def mtu(self) -> int:
        return self.sequence


class ip_reply_arg:
    """struct ip_reply_arg: what ip_send_unicast_reply sends.  ``iov`` is the transport header and payload with its
    checksum field zero; the folded checksum of ``iov`` plus ``csum`` (pseudo-header) is stored at
    ``2 * csumoffset``, unless that is negative."""

    __slots__ = ("bound_dev_if", "csum", "csumoffset", "flags", "iov", "tos")

    def __init__(
        self,
        iov: bytearray,
        csum: int = 0,
        csumoffset: int = -1,
        bound_dev_if: int = 0,
        tos: int = 0,
        flags: int = 0,
    ) -> None:
        self.iov = iov
        self.csum = csum
        self.csumoffset = csumoffset
        self.bound_dev_if = bound_dev_if
        self.tos = tos
        self.flags = flags


class net_protocol:
    """struct net_protocol: who gets the packets and the ICMP errors of an IP protocol.

    ``handler(skb) -> int`` is called with skb.data at the transport header; ``err_handler(skb, info) -> int`` with
    skb.data at the IP header of the packet that the ICMP error quotes."""

    __slots__ = ("err_handler", "handler", "icmp_strict_tag_validation", "no_policy")

    def __init__(
        self,
        handler: Callable[[sk_buff], int],
        err_handler: Callable[[sk_buff, int], int] | None = None,
        no_policy: bool = True,
        icmp_strict_tag_validation: bool = False,
    ) -> None:
        self.handler = handler
        self.err_handler = err_handler
        self.no_policy = no_policy
        self.icmp_strict_tag_validation = icmp_strict_tag_validation


def ip_hdr(skb: sk_buff) -> iphdr:
    """The packet's own IPv4 header."""
    iph: iphdr = skb.h_iph
    return iph


def icmp_hdr(skb: sk_buff) -> icmphdr:
    icmph: icmphdr = skb.h_th
    return icmph


def iphdr_at(buf: Buffer, offset: int) -> iphdr:
    """Unpack the IPv4 header at ``offset``; struct.error if 20 bytes are not there."""
    return iphdr(*IPHDR_STRUCT.unpack_from(buf, offset))


def ipv4_is_multicast(addr: int) -> bool:
    return addr >> 28 == 0xE


def ipv4_is_lbcast(addr: int) -> bool:
    return addr == INADDR_BROADCAST


def ipv4_is_zeronet(addr: int) -> bool:
    return addr >> 24 == 0


def ipv4_is_loopback(addr: int) -> bool:
    return addr >> 24 == 127


def in_aton(text: str) -> int:
    """ "10.0.2.2" as an int; ValueError with the reason for anything that is not four decimal bytes."""
    parts = text.split(".")
    if len(parts) != 4 or not all(
        p.isascii() and p.isdigit() and len(p) <= 3 and int(p) < 256 for p in parts
    ):
        raise ValueError(f"{text!r} is not an IPv4 address: four numbers 0..255 with dots between them")
    return int.from_bytes(bytes(int(p) for p in parts), "big")


def in_ntoa(addr: int) -> str:
    """The dotted form of a host-order address."""
    return f"{addr >> 24}.{addr >> 16 & 255}.{addr >> 8 & 255}.{addr & 255}"


class inet_skb_parm:
    """struct inet_skb_parm, IPCB(skb): of a datagram put together from fragments, the length of the longest (else 0);
    how many datagrams its socket had dropped before, and whether it was peeked at while empty (members of SOCK_SKB_CB
    and of struct sk_buff in the kernel)."""

    __slots__ = ("dropcount", "frag_max_size", "peeked")

    def __init__(self, frag_max_size: int = 0) -> None:
        self.frag_max_size = frag_max_size
        self.dropcount = 0
        self.peeked = False


def inet_get_local_port_range(net: Stack) -> tuple[int, int]:
    """The first and the last port of the ephemeral range, both included."""
    return net.ipv4.ip_local_ports_range


def inet_sk_get_local_port_range(sk: Any) -> tuple[int, int]:
    """net/ipv4/inet_connection_sock.c: the range of one socket (IP_LOCAL_PORT_RANGE), each end of which counts if it
    is within the stack's."""
    low, high = inet_get_local_port_range(sk.sk_net)
    if not sk.local_port_range:
        return low, high
    sk_low, sk_high = sk.local_port_range & 0xFFFF, sk.local_port_range >> 16
    if low <= sk_low <= high:
        low = sk_low
    return low, sk_high if low <= sk_high <= high else high
