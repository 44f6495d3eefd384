# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket calls of PF_INET: net/ipv4/af_inet.c.

``inet_stream_ops`` and ``inet_dgram_ops`` are what net/socket.py calls; each function checks the state of the
``socket``, then passes the call to the protocol (``sk.sk_prot``: tcp_prot, udp_prot).  A negative result is a negative
errno.

Departures: no capabilities (who runs the Stack may bind any port), no network namespaces in the table of protocols,
connect() never waits: -EINPROGRESS, and the state of the ``socket`` follows when it is asked again.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from stack.include.dst import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, flowi4
from stack.include.inet_sock import IP_PMTUDISC_DONT, IP_PMTUDISC_WANT, inet_sock
from stack.include.ip import IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, iphdr_at
from stack.include.net import (
    MSG_FASTOPEN,
    SS_CONNECTED,
    SS_CONNECTING,
    SS_DISCONNECTING,
    SS_UNCONNECTED,
    msghdr,
    optval_t,
    proto_ops,
    sockaddr,
    sockaddr_in,
    socket,
)
from stack.include.sk_buff import SKB_GSO_UDP_L4
from stack.include.sock import (
    AF_INET,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRBAND,
    EPOLLWRNORM,
    RCV_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    SOCK_DGRAM,
    SOCK_LINGER,
    SOCK_SELECT_ERR_QUEUE,
    SOCK_STREAM,
    proto,
    sock,
    sock_error,
    sock_graft,
    sock_writeable,
)
from stack.include.tcp import TFO_SERVER_ENABLE, TFO_SERVER_WO_SOCKOPT1, fastopen_queue_tune
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_SENT,
    TCPF_CLOSE,
    TCPF_LISTEN,
    TCPF_SYN_RECV,
    TCPF_SYN_SENT,
)
from stack.net.core import sock as core_sock
from stack.net.ipv4 import (
    fib_frontend,
    inet_connection_sock,
    ip_output,
    ip_sockglue,
    route,
    tcp,
    tcp_fastopen,
    tcp_ipv4,
    udp,
    udp_offload,
)
from stack.net.ipv6 import datagram

if TYPE_CHECKING:
    from stack.include.sk_buff import Buffer, sk_buff
    from stack.stack import Stack


# -- state -------------------------------------------------------------------------------------------------------


# -- birth and death ---------------------------------------------------------------------------------------------


class inet_protosw:
    """struct inet_protosw: which protocol and which calls a socket type means."""

    __slots__ = ("ops", "prot", "protocol", "type")

    def __init__(self, type_: int, protocol: int, prot: proto, ops: proto_ops) -> None:
        self.type = type_
        self.protocol = protocol
        self.prot = prot
        self.ops = ops


def _inetsw_lookup(type_: int, protocol: int) -> inet_protosw | int:
    """The entry of a type; protocol 0 takes the type's own."""
    known = False
    for answer in inetsw_array():
        if answer.type == type_:
            known = True
            if protocol in (answer.protocol, IPPROTO_IP):
                return answer
    return -errno.EPROTONOSUPPORT if known else -errno.ESOCKTNOSUPPORT


def inet_create(net: Stack, sock_: socket, protocol: int) -> int:
    """Give a new ``socket`` its ``sock``; 0, -ESOCKTNOSUPPORT or -EPROTONOSUPPORT."""
    sock_.state = SS_UNCONNECTED
    answer = _inetsw_lookup(sock_.type, protocol)
    if isinstance(answer, int):
        return answer
    sock_.ops = answer.ops
    sk: inet_sock = core_sock.sk_alloc(net, AF_INET, answer.prot)
    sk.mc_all = True
    sk.pmtudisc = IP_PMTUDISC_DONT if net.ipv4.sysctl_ip_no_pmtu_disc else IP_PMTUDISC_WANT
    core_sock.sock_init_data(sock_, sk)
    sk.sk_protocol = answer.protocol
    sk.sk_destruct = inet_sock_destruct
    if sk.sk_prot.init is not None:
        err: int = sk.sk_prot.init(sk)
        if err:
            core_sock.sk_free(sk)
            return err
    return 0


def inet_release(sock_: socket) -> int:
    """The last descriptor is gone.  A linger time is passed on: 0 resets the connection."""
    sk = sock_.sk
    timeout = sk.sk_lingertime if sk.sk_flags & SOCK_LINGER else 0
    sk.sk_prot.close(sk, timeout)
    return 0


def inet_sock_destruct(sk: sock) -> None:
    """What is left when the protocol has let go of a socket.  Its timers forget it: a cancelled one stays in the heap
    until its time comes, and should not keep a dead socket that long."""
    sk.sk_receive_queue.clear()
    sk.sk_error_queue.clear()
    sk.sk_dst_cache = None
    sk.sk_rx_dst = None
    for name in _TIMERS:
        timer = getattr(sk, name, None)
        if timer is not None and not timer.armed:
            timer.arg = None


_TIMERS: Final = ("sk_timer", "icsk_retransmit_timer", "icsk_delack_timer", "compressed_ack_timer", "pacing_timer")


# -- bind, listen, accept ----------------------------------------------------------------------------------------


def inet_can_nonlocal_bind(net: Stack, inet: inet_sock) -> bool:
    return bool(net.ipv4.sysctl_ip_nonlocal_bind or inet.freebind or inet.transparent)


def inet_addr_valid_or_nonlocal(net: Stack, inet: inet_sock, addr: int, addr_type: int) -> bool:
    """Whether a socket may have that local address: ours, a group's or everybody's, or any if it was allowed to."""
    return (
        inet_can_nonlocal_bind(net, inet)
        or addr == 0
        or addr_type in (RTN_LOCAL, RTN_MULTICAST, RTN_BROADCAST)
    )


def inet_bind(sock_: socket, addr: sockaddr_in) -> int:
    """Take a local address and port; port 0 takes one of the ephemeral range."""
    sk: Any = sock_.sk
    net = sk.sk_net
    s_addr, snum = addr
    if not (0 <= s_addr <= 0xFFFFFFFF and 0 <= snum <= 0xFFFF):
        return -errno.EINVAL
    chk_addr_ret = fib_frontend.inet_addr_type_table(net, s_addr)
    if not inet_addr_valid_or_nonlocal(net, sk, s_addr, chk_addr_ret):
        return -errno.EADDRNOTAVAIL
    if sk.sk_state != TCP_CLOSE or sk.sk_num:
        return -errno.EINVAL
    sk.sk_rcv_saddr = sk.inet_saddr = s_addr
    if chk_addr_ret in (RTN_BROADCAST, RTN_MULTICAST):
        sk.inet_saddr = 0
    if (snum or not sk.bind_address_no_port) and sk.sk_prot.get_port(sk, snum):
        sk.inet_saddr = sk.sk_rcv_saddr = 0
        return -errno.EADDRINUSE
    if sk.sk_rcv_saddr:
        sk.sk_userlocks |= SOCK_BINDADDR_LOCK
    if snum:
        sk.sk_userlocks |= SOCK_BINDPORT_LOCK
    sk.inet_sport = sk.sk_num
    sk.sk_daddr = sk.sk_dport = 0
    sk.sk_dst_cache = None
    return 0


def inet_autobind(sk: Any) -> int:
    """A datagram leaves a socket that was never bound: any free port; -EAGAIN if there is none."""
    if not sk.sk_num:
        if sk.sk_prot.get_port(sk, 0):
            return -errno.EAGAIN
        sk.inet_sport = sk.sk_num
    return 0


def inet_listen(sock_: socket, backlog: int) -> int:
    """Start to listen, or change the backlog of a listener, whose queues stay as they are."""
    sk: Any = sock_.sk
    if sock_.state != SS_UNCONNECTED or sock_.type != SOCK_STREAM:
        return -errno.EINVAL
    old_state = sk.sk_state
    if not 1 << old_state & (TCPF_CLOSE | TCPF_LISTEN):
        return -errno.EINVAL
    sk.sk_max_ack_backlog = backlog
    if old_state != TCP_LISTEN:
        _fastopen_without_option(sk, backlog)
        err: int = inet_connection_sock.inet_csk_listen_start(sk)
        if err:
            return err
    return 0


def _fastopen_without_option(sk: Any, backlog: int) -> None:
    """The sysctl can turn Fast Open on for listeners that did not set TCP_FASTOPEN."""
    wanted = TFO_SERVER_WO_SOCKOPT1 | TFO_SERVER_ENABLE
    if sk.sk_net.ipv4.sysctl_tcp_fastopen & wanted != wanted or sk.icsk_accept_queue.fastopenq.max_qlen:
        return
    fastopen_queue_tune(sk, backlog)
    tcp_fastopen.tcp_fastopen_init_key_once(sk.sk_net)


def inet_accept(sock_: socket, newsock: socket, flags: int) -> int:
    """Move the oldest connection of the accept queue into ``newsock``; -EAGAIN if there is none."""
    sk1 = sock_.sk
    sk2 = sk1.sk_prot.accept(sk1, flags)
    if isinstance(sk2, int):
        return sk2
    sock_graft(sk2, newsock)
    newsock.state = SS_CONNECTED
    return 0


def inet_getname(sock_: socket, peer: int) -> sockaddr_in | int:
    """The local (peer 0) or the remote address and port; -ENOTCONN without a peer."""
    sk: Any = sock_.sk
    if peer:
        if not sk.sk_dport or 1 << sk.sk_state & (TCPF_CLOSE | TCPF_SYN_SENT):
            return -errno.ENOTCONN
        return (sk.sk_daddr, sk.sk_dport)
    return (sk.sk_rcv_saddr or sk.inet_saddr, sk.inet_sport)


# -- data --------------------------------------------------------------------------------------------------------


def inet_send_prepare(sk: sock) -> int:
    """A port to send from."""
    if not sk.sk_num and sk.sk_type == SOCK_DGRAM:
        return inet_autobind(sk)
    return 0


def inet_sendmsg(
    sock_: socket, data: Buffer, flags: int, addr: sockaddr_in | None = None, msg: msghdr | None = None
) -> int:
    """How many bytes were taken, or a negative errno.  A stream ignores the address but with MSG_FASTOPEN."""
    sk = sock_.sk
    if inet_send_prepare(sk):
        return -errno.EAGAIN
    if sock_.type == SOCK_STREAM:
        if flags & MSG_FASTOPEN:
            msg = msg or msghdr()
            msg.msg_name = addr
        sent: int = sk.sk_prot.sendmsg(sk, data, flags, msg)
    else:
        sent = sk.sk_prot.sendmsg(sk, data, addr, flags, msg)
    return sent


def inet_recvmsg(sock_: socket, size: int, flags: int, msg: msghdr | None = None) -> Any:
    """``bytes`` from a stream, ``(bytes, address)`` from a datagram socket, or a negative errno."""
    sk = sock_.sk
    return sk.sk_prot.recvmsg(sk, size, flags, msg)


def inet_recv_error(sk: Any, size: int, msg: msghdr) -> bytes | int:
    """MSG_ERRQUEUE, by the socket's family."""
    if sk.sk_family == AF_INET:
        return ip_sockglue.ip_recv_error(sk, size, msg)
    return datagram.ipv6_recv_error(sk, size, msg)


def inet_ioctl(sock_: socket, cmd: int) -> tuple[int, int]:
    """(0, value), or (-ENOTTY, 0) for what the protocol does not know."""
    sk = sock_.sk
    if sk.sk_prot.ioctl is None:
        return -errno.ENOTTY, 0
    result: tuple[int, int] = sk.sk_prot.ioctl(sk, cmd)
    return result


def inet_shutdown(sock_: socket, how: int) -> int:
    """SHUT_RD, SHUT_WR, SHUT_RDWR.  A listener whose reading side is shut down stops to listen."""
    sk = sock_.sk
    how += 1  # the bits RCV_SHUTDOWN and SEND_SHUTDOWN
    if not 0 < how <= SHUTDOWN_MASK:
        return -errno.EINVAL
    if sock_.state == SS_CONNECTING:
        halfway = TCPF_SYN_SENT | TCPF_SYN_RECV | TCPF_CLOSE
        sock_.state = SS_DISCONNECTING if 1 << sk.sk_state & halfway else SS_CONNECTED
    err = 0
    if sk.sk_state == TCP_LISTEN or sk.sk_state == TCP_SYN_SENT:
        if how & RCV_SHUTDOWN or sk.sk_state == TCP_SYN_SENT:
            err = sk.sk_prot.disconnect(sk, 0)
            sock_.state = SS_DISCONNECTING if err else SS_UNCONNECTED
    else:
        if sk.sk_state == TCP_CLOSE:
            err = -errno.ENOTCONN  # whoever waits on it is woken all the same
        sk.sk_shutdown |= how
        if sk.sk_prot.shutdown is not None:
            sk.sk_prot.shutdown(sk, how)
    sk.sk_state_change(sk)
    return err


def inet_stream_connect(sock_: socket, addr: sockaddr, flags: int) -> int:
    """connect() of a stream; see __inet_stream_connect."""
    return __inet_stream_connect(sock_, addr, flags, False)


def __inet_stream_connect(sock_: socket, addr: sockaddr | None, flags: int, is_sendmsg: bool) -> int:
    """Begin a connection, or ask how one goes that has begun; port 0 at address 0 ends it (the kernel's AF_UNSPEC).
    ``is_sendmsg``: for data that the SYN shall carry, to ``addr`` or, None, where connect() said.

    0: connected, or the SYN waits for data to carry; -EINPROGRESS: begun; -EALREADY: not done yet; -EISCONN; or why it
    failed, once."""
    sk: Any = sock_.sk
    if addr is not None and addr[:2] == (0, 0):
        err: int = sk.sk_prot.disconnect(sk, flags)
        sock_.state = SS_DISCONNECTING if err else SS_UNCONNECTED
        return err
    if sock_.state == SS_CONNECTED:
        return -errno.EISCONN
    if sock_.state not in (SS_UNCONNECTED, SS_CONNECTING):
        return -errno.EINVAL
    err = -errno.EALREADY
    if sock_.state == SS_UNCONNECTED:
        if sk.sk_state != TCP_CLOSE:
            return -errno.EISCONN
        if addr is None:
            return -errno.EINVAL
        err = sk.sk_prot.connect(sk, addr)
        if err < 0:
            return err
        sock_.state = SS_CONNECTING
        if sk.defer_connect:
            return 0
        err = -errno.EINPROGRESS
    elif sk.defer_connect:
        err = -errno.EINPROGRESS if is_sendmsg else -errno.EISCONN
    if 1 << sk.sk_state & (TCPF_SYN_SENT | TCPF_SYN_RECV):
        return err
    if sk.sk_state == TCP_CLOSE:
        return _connect_failed(sock_, sk, flags)
    sock_.state = SS_CONNECTED
    return 0


def _connect_failed(sock_: socket, sk: Any, flags: int) -> int:
    """A RST, an ICMP error or the last timeout ended it: tell why, and be ready for another try."""
    err: int = sock_error(sk) or -errno.ECONNABORTED
    sock_.state = SS_UNCONNECTED
    if sk.sk_prot.disconnect(sk, flags):
        sock_.state = SS_DISCONNECTING
    return err


def inet_dgram_connect(sock_: socket, addr: sockaddr_in, flags: int) -> int:
    """Fix the peer of a datagram socket; port 0 at address 0 lets go of it (the kernel's AF_UNSPEC)."""
    sk = sock_.sk
    if addr == (0, 0):
        err: int = sk.sk_prot.disconnect(sk, flags)
    else:
        err = sk.sk_prot.connect(sk, addr)
    return err


def _tcp_poll(sock_: socket) -> int:
    sk: Any = sock_.sk
    return tcp.tcp_poll(sk)


def datagram_poll(sock_: socket) -> int:
    """net/core/datagram.c: what a datagram socket is ready for."""
    sk = sock_.sk
    mask = EPOLLERR if sk.sk_err or sk.sk_error_queue else 0
    if mask and sk.sk_flags & SOCK_SELECT_ERR_QUEUE:
        mask |= EPOLLPRI
    if sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= EPOLLRDHUP | EPOLLIN | EPOLLRDNORM
    if sk.sk_shutdown == SHUTDOWN_MASK:
        mask |= EPOLLHUP
    if sk.sk_receive_queue:
        mask |= EPOLLIN | EPOLLRDNORM
    if sock_writeable(sk):
        mask |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND
    return mask


# -- routes of a socket ------------------------------------------------------------------------------------------


def inet_gso_segment(skb: sk_buff) -> list[sk_buff]:
    """The packets that one of many datagrams stands for: identifications count up, lengths and checksums are each
    packet's own.  [] if it cannot be cut."""
    if not skb.gso_type & SKB_GSO_UDP_L4:
        return []
    segs = udp_offload.udp4_ufo_fragment(skb)
    for number, seg in enumerate(segs):
        iph = seg.h_iph = iphdr_at(seg.head, seg.network_header)
        iph.id = (iph.id + number) & 0xFFFF
        iph.tot_len = seg.tail - seg.network_header
        ip_output.ip_send_check(seg)
    return segs


def inet_sk_rebuild_header(sk: Any) -> int:
    """Make sure that a connected socket has a good route; 0, or the negative errno of the look-up."""
    if core_sock.__sk_dst_check(sk, 0) is not None:
        return 0
    opt = sk.inet_opt
    daddr = opt.faddr if opt is not None and opt.srr else sk.sk_daddr
    rt = route.ip_route_output_ports(
        sk.sk_net,
        flowi4(),
        sk,
        daddr,
        sk.inet_saddr,
        sk.sk_dport,
        sk.inet_sport,
        sk.sk_protocol,
        sk.tos,
        sk.sk_bound_dev_if,
    )
    if isinstance(rt, int):
        sk.sk_route_caps = 0
        return rt
    core_sock.sk_setup_caps(sk, rt)
    return 0


# -- options -----------------------------------------------------------------------------------------------------


def _setsockopt(sock_: socket, level: int, optname: int, optval: optval_t) -> int:
    return core_sock.sock_common_setsockopt(sock_, level, optname, optval)


def _getsockopt(sock_: socket, level: int, optname: int, optlen: int) -> tuple[int, Any]:
    return core_sock.sock_common_getsockopt(sock_, level, optname, optlen)


inet_stream_ops: proto_ops = proto_ops(
    AF_INET,
    release=inet_release,
    bind=inet_bind,
    connect=inet_stream_connect,
    accept=inet_accept,
    getname=inet_getname,
    ioctl=inet_ioctl,
    poll=_tcp_poll,
    listen=inet_listen,
    shutdown=inet_shutdown,
    setsockopt=_setsockopt,
    getsockopt=_getsockopt,
    sendmsg=inet_sendmsg,
    recvmsg=inet_recvmsg,
)

inet_dgram_ops: proto_ops = proto_ops(
    AF_INET,
    release=inet_release,
    bind=inet_bind,
    connect=inet_dgram_connect,
    accept=core_sock.sock_no_accept,
    getname=inet_getname,
    ioctl=inet_ioctl,
    poll=datagram_poll,
    listen=core_sock.sock_no_listen,
    shutdown=inet_shutdown,
    setsockopt=_setsockopt,
    getsockopt=_getsockopt,
    sendmsg=inet_sendmsg,
    recvmsg=inet_recvmsg,
)


def inetsw_array() -> tuple[inet_protosw, ...]:
    """What socket() knows, one entry per type and protocol."""
    return (
        inet_protosw(SOCK_STREAM, IPPROTO_TCP, tcp_ipv4.tcp_prot, inet_stream_ops),
        inet_protosw(SOCK_DGRAM, IPPROTO_UDP, udp.udp_prot, inet_dgram_ops),
    )
