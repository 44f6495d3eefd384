# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv6 and ICMPv6 headers, addresses and the values in them: include/net/ipv6.h, include/linux/ipv6.h,
include/uapi/linux/{in6,ipv6,icmpv6,ipv6_route}.h, include/net/ndisc.h, include/net/protocol.h.

Addresses are ints of 128 bits, as those of IPv4 are ints of 32.  ``flowi6`` and ``rt6_info`` stand beside their IPv4
counterparts in stack/include/dst.py.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import AddressValueError, IPv6Address
from struct import Struct
from typing import TYPE_CHECKING, Final

from stack.include.ip import in_ntoa

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff

Buffer = bytes | bytearray | memoryview

# RFC 8200, section 4: next header values
NEXTHDR_HOP: Final = 0
NEXTHDR_TCP: Final = 6
NEXTHDR_UDP: Final = 17
NEXTHDR_IPV6: Final = 41
NEXTHDR_ROUTING: Final = 43
NEXTHDR_FRAGMENT: Final = 44
NEXTHDR_ESP: Final = 50
NEXTHDR_AUTH: Final = 51
NEXTHDR_ICMP: Final = 58
NEXTHDR_NONE: Final = 59
NEXTHDR_DEST: Final = 60
NEXTHDR_MAX: Final = 255
IPPROTO_ICMPV6: Final = 58

IPV6_MIN_MTU: Final = 1280  # RFC 8200, section 5
IPV6_MAXPLEN: Final = 65535
IPV6_DEFAULT_HOPLIMIT: Final = 64
IPV6_DEFAULT_MCASTHOPS: Final = 1

# RFC 8200, section 4.2: options
IPV6_TLV_PAD1: Final = 0
IPV6_TLV_PADN: Final = 1
IPV6_TLV_ROUTERALERT: Final = 5
IPV6_TLV_JUMBO: Final = 194

# RFC 8200, section 4.5: the field behind the reserved byte
IP6_MF: Final = 0x0001
IP6_OFFSET: Final = 0xFFF8

# ICMPv6: RFC 4443, section 2.1; RFC 4861, section 4; RFC 2710 and RFC 3810 for MLD
ICMPV6_DEST_UNREACH: Final = 1
ICMPV6_PKT_TOOBIG: Final = 2
ICMPV6_TIME_EXCEED: Final = 3
ICMPV6_PARAMPROB: Final = 4
ICMPV6_ERRMSG_MAX: Final = 127
ICMPV6_INFOMSG_MASK: Final = 0x80
ICMPV6_ECHO_REQUEST: Final = 128
ICMPV6_ECHO_REPLY: Final = 129
ICMPV6_MGM_QUERY: Final = 130
ICMPV6_MGM_REPORT: Final = 131
ICMPV6_MGM_REDUCTION: Final = 132
NDISC_ROUTER_SOLICITATION: Final = 133
NDISC_ROUTER_ADVERTISEMENT: Final = 134
NDISC_NEIGHBOUR_SOLICITATION: Final = 135
NDISC_NEIGHBOUR_ADVERTISEMENT: Final = 136
NDISC_REDIRECT: Final = 137
ICMPV6_MLD2_REPORT: Final = 143

ICMPV6_NOROUTE: Final = 0
ICMPV6_ADM_PROHIBITED: Final = 1
ICMPV6_NOT_NEIGHBOUR: Final = 2
ICMPV6_ADDR_UNREACH: Final = 3
ICMPV6_PORT_UNREACH: Final = 4
ICMPV6_POLICY_FAIL: Final = 5
ICMPV6_REJECT_ROUTE: Final = 6

ICMPV6_EXC_HOPLIMIT: Final = 0
ICMPV6_EXC_FRAGTIME: Final = 1

ICMPV6_HDR_FIELD: Final = 0
ICMPV6_UNK_NEXTHDR: Final = 1
ICMPV6_UNK_OPTION: Final = 2

# include/uapi/linux/in6.h: socket options of level IPPROTO_IPV6
IPV6_ADDRFORM: Final = 1
IPV6_2292PKTINFO: Final = 2
IPV6_CHECKSUM: Final = 7
IPV6_2292HOPLIMIT: Final = 8
IPV6_FLOWINFO: Final = 11
IPV6_UNICAST_HOPS: Final = 16
IPV6_MULTICAST_IF: Final = 17
IPV6_MULTICAST_HOPS: Final = 18
IPV6_MULTICAST_LOOP: Final = 19
IPV6_ADD_MEMBERSHIP: Final = 20
IPV6_DROP_MEMBERSHIP: Final = 21
IPV6_ROUTER_ALERT: Final = 22
IPV6_MTU_DISCOVER: Final = 23
IPV6_MTU: Final = 24
IPV6_RECVERR: Final = 25
IPV6_V6ONLY: Final = 26
IPV6_MULTICAST_ALL: Final = 29
IPV6_RECVERR_RFC4884: Final = 31
IPV6_FLOWINFO_SEND: Final = 33
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVHOPLIMIT: Final = 51
IPV6_HOPLIMIT: Final = 52
IPV6_RECVHOPOPTS: Final = 53
IPV6_HOPOPTS: Final = 54
IPV6_RECVRTHDR: Final = 56
IPV6_RTHDR: Final = 57
IPV6_RECVDSTOPTS: Final = 58
IPV6_DSTOPTS: Final = 59
IPV6_DONTFRAG: Final = 62
IPV6_RECVTCLASS: Final = 66
IPV6_TCLASS: Final = 67
IPV6_AUTOFLOWLABEL: Final = 70
IPV6_MINHOPCOUNT: Final = 73
IPV6_ORIGDSTADDR: Final = 74
IPV6_RECVORIGDSTADDR: Final = IPV6_ORIGDSTADDR
IPV6_TRANSPARENT: Final = 75
IPV6_UNICAST_IF: Final = 76
IPV6_RECVFRAGSIZE: Final = 77
IPV6_FREEBIND: Final = 78

IPV6_PMTUDISC_DONT: Final = 0
IPV6_PMTUDISC_WANT: Final = 1
IPV6_PMTUDISC_DO: Final = 2
IPV6_PMTUDISC_PROBE: Final = 3

# include/net/ipv6.h: net.ipv6.auto_flowlabels, and the bits of net.ipv6.flowlabel_reflect
IP6_AUTO_FLOW_LABEL_OFF: Final = 0
IP6_AUTO_FLOW_LABEL_OPTOUT: Final = 1
IP6_AUTO_FLOW_LABEL_OPTIN: Final = 2
IP6_AUTO_FLOW_LABEL_FORCED: Final = 3
FLOWLABEL_REFLECT_ESTABLISHED: Final = 1
FLOWLABEL_REFLECT_TCP_RESET: Final = 2
FLOWLABEL_REFLECT_ICMPV6_ECHO_REPLIES: Final = 4
IPV6_FLOWLABEL_MASK: Final = 0xFFFFF
IPV6_FLOWLABEL_STATELESS_FLAG: Final = 0x80000

in6addr_any: Final = 0
in6addr_loopback: Final = 1
in6addr_linklocal_allnodes: Final = 0xFF02 << 112 | 1
in6addr_linklocal_allrouters: Final = 0xFF02 << 112 | 2

IN6_MASK: Final = (1 << 128) - 1
_LINKLOCAL: Final = 0xFE80 >> 6  # fe80::/10
_V4MAPPED: Final = 0xFFFF  # ::ffff:0:0/96
_SOLICITED: Final = 0xFF02_0000_0000_0000_0000_0001_FF00_0000  # ff02::1:ff00:0/104, RFC 4291 section 2.7.1

IPV6HDR_LEN: Final = 40
# version, class and flow label; payload length; next header; hop limit; source and destination
IPV6HDR_STRUCT: Final = Struct("!IHBB16s16s")
FRAG_HDR_STRUCT: Final = Struct("!BBHI")
ICMP6HDR_STRUCT: Final = Struct("!BBHI")


class ipv6hdr:
    """struct ipv6hdr, its first word taken apart; ``nexthdr`` is the header's own field, whatever headers follow."""

    __slots__ = (
        "daddr",
        "flowlabel",
        "hop_limit",
        "nexthdr",
        "payload_len",
        "saddr",
        "tclass",
        "version",
    )

    def __init__(
        self, vtf: int, payload_len: int, nexthdr: int, hop_limit: int, saddr: bytes, daddr: bytes
    ) -> None:
        self.version = vtf >> 28
        self.tclass = vtf >> 20 & 0xFF
        self.flowlabel = vtf & 0xFFFFF
        self.payload_len = payload_len
        self.nexthdr = nexthdr
        self.hop_limit = hop_limit
        self.saddr = int.from_bytes(saddr, "big")
        self.daddr = int.from_bytes(daddr, "big")


class icmp6hdr:
    """struct icmp6hdr; ``data`` is the header's last 32 bits: identifier and sequence, MTU, pointer, flags."""

    __slots__ = ("data", "icmp6_cksum", "icmp6_code", "icmp6_type")

    def __init__(self, icmp6_type: int, icmp6_code: int, icmp6_cksum: int, data: int) -> None:
        self.icmp6_type = icmp6_type
        self.icmp6_code = icmp6_code
        self.icmp6_cksum = icmp6_cksum
        self.data = data


class ipv6_txoptions:
    """struct ipv6_txoptions: extension headers to send, as bytes with their own lengths in them; the next-header
    byte of each is filled in by who sends."""

    __slots__ = ("dst0opt", "dst1opt", "hopopt", "opt_flen", "opt_nflen")

    def __init__(self, hopopt: bytes = b"", dst0opt: bytes = b"", dst1opt: bytes = b"") -> None:
        self.hopopt = hopopt
        self.dst0opt = dst0opt
        self.dst1opt = dst1opt
        self.opt_nflen = len(hopopt) + len(dst0opt)
        self.opt_flen = len(dst1opt)


# ipv6_pinfo.rxopt.bits: what recvmsg() tells
IPV6_RXOPT_RXINFO: Final = 1 << 0
IPV6_RXOPT_RXOINFO: Final = 1 << 1
IPV6_RXOPT_RXHLIM: Final = 1 << 2
IPV6_RXOPT_RXOHLIM: Final = 1 << 3
IPV6_RXOPT_RXFLOW: Final = 1 << 4
IPV6_RXOPT_RXTCLASS: Final = 1 << 5
IPV6_RXOPT_RXORIGDSTADDR: Final = 1 << 6
IPV6_RXOPT_RECVFRAGSIZE: Final = 1 << 7


class ipv6_pinfo:
    """struct ipv6_pinfo: what an AF_INET6 socket has beyond an inet_sock.  -1 stands for the route's or the system's
    default of hop limit and traffic class."""

    __slots__ = (
        "autoflowlabel",
        "autoflowlabel_set",
        "daddr_cache",
        "dontfrag",
        "flow_label",
        "frag_size",
        "hop_limit",
        "ipv6_mc_list",
        "mc_all",
        "mc_loop",
        "mcast_hops",
        "mcast_oif",
        "min_hopcount",
        "opt",
        "pmtudisc",
        "rcv_flowinfo",
        "recverr",
        "recverr_rfc4884",
        "repflow",
        "rxopt",
        "saddr",
        "sndflow",
        "tclass",
        "ucast_oif",
    )

    def __init__(self) -> None:
        self.saddr = 0
        self.daddr_cache = 0
        self.flow_label = 0
        self.hop_limit = -1
        self.mcast_hops = IPV6_DEFAULT_MCASTHOPS
        self.mcast_oif = 0
        self.ucast_oif = 0
        self.mc_loop = True
        self.mc_all = True
        self.frag_size = 0
        self.dontfrag = False
        self.recverr_rfc4884 = False
        self.ipv6_mc_list: dict[tuple[int, int], int] = {}  # (group, ifindex as asked for): the device's
        self.min_hopcount = 0
        self.tclass = 0
        self.pmtudisc = IPV6_PMTUDISC_WANT
        self.recverr = False
        self.repflow = False
        self.sndflow = False
        self.autoflowlabel = self.autoflowlabel_set = False  # of IPV6_AUTOFLOWLABEL; not set is the sysctl's
        self.rcv_flowinfo = 0
        self.rxopt = 0  # IPV6_RXOPT_*
        self.opt: ipv6_txoptions | None = None


INET6_PROTO_NOPOLICY: Final = 0x1
INET6_PROTO_FINAL: Final = 0x2


class inet6_protocol:
    """struct inet6_protocol: who gets the packets and the ICMPv6 errors of a next-header value.

    ``handler(skb) -> int`` is called with skb.data at that header: 0 or negative when it is done; a positive value is
    the next header to go on with (extension headers).  ``err_handler(skb, type, code, info) -> int`` gets skb.data at
    the IPv6 header of the packet that the error quotes, ``skb.transport_header`` at that packet's upper header and
    ``icmp6_hdr(skb)``; ``info`` is the error's 32 bits (MTU, pointer)."""

    __slots__ = ("err_handler", "flags", "handler")

    def __init__(
        self,
        handler: Callable[[sk_buff], int],
        err_handler: Callable[[sk_buff, int, int, int], int] | None = None,
        flags: int = INET6_PROTO_NOPOLICY | INET6_PROTO_FINAL,
    ) -> None:
        self.handler = handler
        self.err_handler = err_handler
        self.flags = flags


def ipv6_hdr(skb: sk_buff) -> ipv6hdr:
    """The packet's own IPv6 header; only where skb.protocol is ETH_P_IPV6."""
    hdr: ipv6hdr = skb.h_iph
    return hdr


def icmp6_hdr(skb: sk_buff) -> icmp6hdr:
    hdr: icmp6hdr = skb.h_th
    return hdr


def ipv6hdr_at(buf: Buffer, offset: int) -> ipv6hdr:
    """Unpack the header at ``offset``; struct.error if 40 bytes are not there."""
    return ipv6hdr(*IPV6HDR_STRUCT.unpack_from(buf, offset))


def ipv6hdr_pack(hdr: ipv6hdr) -> bytes:
    """The 40 bytes of a header."""
    vtf = 0x60000000 | hdr.tclass << 20 | hdr.flowlabel
    ends = hdr.saddr.to_bytes(16, "big"), hdr.daddr.to_bytes(16, "big")
    return IPV6HDR_STRUCT.pack(vtf, hdr.payload_len, hdr.nexthdr, hdr.hop_limit, *ends)


# -- addresses (include/net/ipv6.h, RFC 4291) ------------------------------------------------------------------------


def ipv6_addr_any(addr: int) -> bool:
    return addr == 0


def ipv6_addr_loopback(addr: int) -> bool:
    return addr == 1


def ipv6_addr_is_multicast(addr: int) -> bool:
    return addr >> 120 == 0xFF


def ipv6_addr_is_linklocal(addr: int) -> bool:
    """fe80::/10."""
    return addr >> 118 == _LINKLOCAL


def ipv6_addr_v4mapped(addr: int) -> bool:
    """::ffff:0:0/96."""
    return addr >> 32 == _V4MAPPED


def ipv6_addr_set_v4mapped(addr: int) -> int:
    """The v4-mapped form of an IPv4 address."""
    return _V4MAPPED << 32 | addr


def ipv6_addr_is_solict_mult(addr: int) -> bool:
    return addr >> 24 == _SOLICITED >> 24


def addrconf_addr_solict_mult(addr: int) -> int:
    """The solicited-node multicast address (RFC 4291, section 2.7.1)."""
    return _SOLICITED | (addr & 0xFFFFFF)


def ipv6_addr_mc_scope(addr: int) -> int:
    """The scope of a multicast address: 1 interface, 2 link, 5 site, 14 global."""
    return addr >> 112 & 0xF


def ipv6_addr_needs_scope_id(addr: int) -> bool:
    """__ipv6_addr_needs_scope_id(): link-local, unicast or multicast, means nothing without a device."""
    if ipv6_addr_is_multicast(addr):
        return ipv6_addr_mc_scope(addr) in (1, 2)
    return ipv6_addr_is_linklocal(addr)


def addrconf_ifid_eui48(mac: bytes) -> int:
    """The modified EUI-64 interface identifier of an Ethernet address (RFC 4291, appendix A)."""
    return int.from_bytes(bytes((mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5])), "big")


def ipv6_prefix(addr: int, plen: int) -> int:
    """The first ``plen`` bits of an address, the rest 0."""
    return addr >> (128 - plen) << (128 - plen) if plen else 0


def ipv6_eth_mc_map(addr: int) -> bytes:
    """The Ethernet address of a multicast group (RFC 2464, section 7)."""
    return b"\x33\x33" + (addr & 0xFFFFFFFF).to_bytes(4, "big")


def in6_pton(text: str) -> int:
    """The address of its text form (RFC 4291, section 2.2); ValueError with the reason.  No scope ("%eth0") here."""
    try:
        if "%" in text:
            raise AddressValueError("a scope is not part of the address")
        return int(IPv6Address(text))
    except AddressValueError as error:
        raise ValueError(f"{text!r} is not an IPv6 address: {error}") from None


def in6_ntop(addr: int) -> str:
    """The text form of RFC 5952; v4-mapped addresses with dots, as inet_ntop() has them."""
    if ipv6_addr_v4mapped(addr):
        return f"::ffff:{in_ntoa(addr & 0xFFFFFFFF)}"
    return str(IPv6Address(addr))
