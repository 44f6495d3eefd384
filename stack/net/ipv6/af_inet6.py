# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket calls of PF_INET6: net/ipv6/af_inet6.c.

What does not depend on the family is af_inet.py's: listen, accept, shutdown, send and receive, poll.  An address is
``(address, port, flowinfo, scope_id)`` of ints; the address has 128 bits.

One socket of AF_INET6 may speak both families (RFC 3493, section 3.7): bound to :: without IPV6_V6ONLY it takes IPv4
too, with addresses shown as ::ffff:a.b.c.d; bound to such an address it takes IPv4 alone; bound to any other it is
IPv6's alone, whatever IPV6_V6ONLY says.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from stack.include.dst import RTN_LOCAL
from stack.include.inet_sock import IP_PMTUDISC_DONT, IP_PMTUDISC_WANT, inet_sock
from stack.include.ip import IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP
from stack.include.ipv6 import (
    FLOWLABEL_REFLECT_ESTABLISHED,
    IN6_MASK,
    ipv6_addr_any,
    ipv6_addr_is_multicast,
    ipv6_addr_needs_scope_id,
    ipv6_addr_v4mapped,
    ipv6_pinfo,
)
from stack.include.net import SS_UNCONNECTED, proto_ops, sockaddr_in6, socket
from stack.include.sock import (
    AF_INET6,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    SOCK_DGRAM,
    SOCK_STREAM,
)
from stack.include.tcp_states import TCP_CLOSE, TCPF_CLOSE, TCPF_SYN_SENT
from stack.net.core import sock as core_sock
from stack.net.ipv4 import af_inet, fib_frontend
from stack.net.ipv6 import addrconf, mcast, tcp_ipv6, udp

if TYPE_CHECKING:
    from stack.stack import Stack


# -- birth -------------------------------------------------------------------------------------------------------


def inetsw6() -> tuple[af_inet.inet_protosw, ...]:
    """What socket() knows, one entry per type and protocol."""
    return (
        af_inet.inet_protosw(SOCK_STREAM, IPPROTO_TCP, tcp_ipv6.tcpv6_prot, inet6_stream_ops),
        af_inet.inet_protosw(SOCK_DGRAM, IPPROTO_UDP, udp.udpv6_prot, inet6_dgram_ops),
    )


def inet6_create(net: Stack, sock_: socket, protocol: int) -> int:
    """Give a new ``socket`` its ``sock``; 0, -ESOCKTNOSUPPORT or -EPROTONOSUPPORT."""
    sock_.state = SS_UNCONNECTED
    of_type = [answer for answer in inetsw6() if answer.type == sock_.type]
    if not of_type:
        return -errno.ESOCKTNOSUPPORT
    for answer in of_type:
        if protocol in (answer.protocol, IPPROTO_IP):
            return _inet6_create(net, sock_, answer)
    return -errno.EPROTONOSUPPORT


def _inet6_create(net: Stack, sock_: socket, answer: af_inet.inet_protosw) -> int:
    sock_.ops = answer.ops
    sk: inet_sock = core_sock.sk_alloc(net, AF_INET6, answer.prot)
    core_sock.sock_init_data(sock_, sk)
    sk.sk_protocol = answer.protocol
    sk.sk_destruct = af_inet.inet_sock_destruct
    sk.pinet6 = ipv6_pinfo()
    sk.pinet6.repflow = bool(net.ipv6.sysctl_flowlabel_reflect & FLOWLABEL_REFLECT_ESTABLISHED)
    sk.sk_ipv6only = bool(net.ipv6.sysctl_bindv6only)
    sk.pmtudisc = IP_PMTUDISC_DONT if net.ipv4.sysctl_ip_no_pmtu_disc else IP_PMTUDISC_WANT
    err: int = sk.sk_prot.init(sk) if sk.sk_prot.init is not None else 0
    if err:
        core_sock.sk_free(sk)
    return err


# -- bind and names ----------------------------------------------------------------------------------------------


def inet6_bind(sock_: socket, addr: sockaddr_in6) -> int:
    """Take a local address and port; port 0 takes one of the ephemeral range.  0, -EADDRINUSE, -EADDRNOTAVAIL or
    -EINVAL (bound already, a link-local address without its device, an IPv4-mapped one with IPV6_V6ONLY)."""
    sk: Any = sock_.sk
    v6addr, snum, _flowinfo, scope_id = addr
    if not (0 <= v6addr <= IN6_MASK and 0 <= snum <= 0xFFFF):
        return -errno.EINVAL
    if ipv6_addr_is_multicast(v6addr) and sock_.type == SOCK_STREAM:
        return -errno.EINVAL
    if sk.sk_state != TCP_CLOSE or sk.sk_num:
        return -errno.EINVAL
    err = _check_addr(sk, v6addr, scope_id)
    if err:
        return err
    mapped = ipv6_addr_v4mapped(v6addr)
    v4addr = v6addr & 0xFFFFFFFF if mapped else 0 if ipv6_addr_any(v6addr) else tcp_ipv6.LOOPBACK4_IPV6
    sk.sk_rcv_saddr = sk.inet_saddr = v4addr
    sk.sk_v6_rcv_saddr = v6addr
    if not ipv6_addr_is_multicast(v6addr):
        sk.pinet6.saddr = v6addr
    saved_ipv6only = sk.sk_ipv6only
    if v6addr and not mapped:
        sk.sk_ipv6only = True
    if (snum or not sk.bind_address_no_port) and sk.sk_prot.get_port(sk, snum):
        sk.sk_ipv6only = saved_ipv6only
        sk.sk_rcv_saddr = sk.inet_saddr = sk.sk_v6_rcv_saddr = sk.pinet6.saddr = 0
        return -errno.EADDRINUSE
    if v6addr:
        sk.sk_userlocks |= SOCK_BINDADDR_LOCK
    if snum:
        sk.sk_userlocks |= SOCK_BINDPORT_LOCK
    sk.inet_sport = sk.sk_num
    sk.sk_dport = sk.sk_daddr = 0
    return 0


def _check_addr(sk: Any, v6addr: int, scope_id: int) -> int:
    """Whether the socket may have that address; a link-local one binds it to the device of its scope."""
    net = sk.sk_net
    nonlocal_ok = bool(net.ipv6.sysctl_ip_nonlocal_bind or sk.freebind or sk.transparent)
    if ipv6_addr_v4mapped(v6addr):
        if sk.sk_ipv6only:
            return -errno.EINVAL
        v4addr = v6addr & 0xFFFFFFFF
        local = not v4addr or fib_frontend.inet_addr_type_table(net, v4addr) == RTN_LOCAL
        return 0 if local or nonlocal_ok else -errno.EADDRNOTAVAIL
    if ipv6_addr_any(v6addr):
        return 0
    if ipv6_addr_needs_scope_id(v6addr):
        if scope_id:
            sk.sk_bound_dev_if = scope_id
        if not sk.sk_bound_dev_if:
            return -errno.EINVAL
    if ipv6_addr_is_multicast(v6addr) or nonlocal_ok:
        return 0
    dev = net.devices.get(sk.sk_bound_dev_if) if sk.sk_bound_dev_if else None
    if sk.sk_bound_dev_if and dev is None:
        return -errno.ENODEV
    return 0 if addrconf.ipv6_chk_addr(net, v6addr, dev) else -errno.EADDRNOTAVAIL


def inet6_release(sock_: socket) -> int:
    """close(): the socket leaves its groups, then it goes as one of IPv4 does."""
    sk: Any = sock_.sk
    if sk is not None:
        mcast.ipv6_sock_mc_close(sk)
    return af_inet.inet_release(sock_)


def inet6_getname(sock_: socket, peer: int) -> sockaddr_in6 | int:
    """The local (peer 0) or the remote address; -ENOTCONN without a peer."""
    sk: Any = sock_.sk
    if peer and (not sk.sk_dport or 1 << sk.sk_state & (TCPF_CLOSE | TCPF_SYN_SENT)):
        return -errno.ENOTCONN
    return sockaddr_remote(sk) if peer else sockaddr_local(sk)


def sockaddr_remote(sk: Any) -> sockaddr_in6:
    """The peer of a connected socket of AF_INET6."""
    return (sk.sk_v6_daddr, sk.sk_dport, 0, ipv6_iface_scope_id(sk.sk_v6_daddr, sk.sk_bound_dev_if))


def sockaddr_local(sk: Any) -> sockaddr_in6:
    addr = sk.sk_v6_rcv_saddr or sk.pinet6.saddr
    return (addr, sk.inet_sport, 0, ipv6_iface_scope_id(addr, sk.sk_bound_dev_if))


def ipv6_iface_scope_id(addr: int, iface: int) -> int:
    """include/net/ipv6.h: a link-local address goes with its device, any other with 0."""
    return iface if ipv6_addr_needs_scope_id(addr) else 0


def inet6_dgram_connect(sock_: socket, addr: sockaddr_in6, flags: int) -> int:
    """Fix the peer of a datagram socket; port 0 at address :: lets go of it (the kernel's AF_UNSPEC)."""
    sk = sock_.sk
    if addr[:2] == (0, 0):
        err: int = sk.sk_prot.disconnect(sk, flags)
    else:
        err = sk.sk_prot.connect(sk, addr)
    return err


inet6_stream_ops: proto_ops = proto_ops(
    AF_INET6,
    release=inet6_release,
    bind=inet6_bind,
    connect=af_inet.inet_stream_connect,
    accept=af_inet.inet_accept,
    getname=inet6_getname,
    ioctl=af_inet.inet_ioctl,
    poll=af_inet.inet_stream_ops.poll,
    listen=af_inet.inet_listen,
    shutdown=af_inet.inet_shutdown,
    setsockopt=af_inet.inet_stream_ops.setsockopt,
    getsockopt=af_inet.inet_stream_ops.getsockopt,
    sendmsg=af_inet.inet_sendmsg,
    recvmsg=af_inet.inet_recvmsg,
)

inet6_dgram_ops: proto_ops = proto_ops(
    AF_INET6,
    release=inet6_release,
    bind=inet6_bind,
    connect=inet6_dgram_connect,
    accept=core_sock.sock_no_accept,
    getname=inet6_getname,
    ioctl=af_inet.inet_ioctl,
    poll=af_inet.datagram_poll,
    listen=core_sock.sock_no_listen,
    shutdown=af_inet.inet_shutdown,
    setsockopt=af_inet.inet_dgram_ops.setsockopt,
    getsockopt=af_inet.inet_dgram_ops.getsockopt,
    sendmsg=af_inet.inet_sendmsg,
    recvmsg=af_inet.inet_recvmsg,
)
