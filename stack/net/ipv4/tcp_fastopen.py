# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP Fast Open (RFC 7413): net/ipv4/tcp_fastopen.c.

Theory of operation
-------------------
A client that was here before may send data in its SYN.  What proves that it was is a cookie, SipHash of both
addresses under a key of ours, that a SYN-ACK gave to it earlier.

    SYN has                    answer
    empty cookie option        SYN-ACK with a cookie; the request is an ordinary one         (TCPFastOpenCookieReqd)
    a cookie, no good          SYN-ACK with the right one, data ignored                      (TCPFastOpenPassiveFail)
    a cookie, good             the child at once, its data readable, SYN-ACK covers them     (TCPFastOpenPassive)
    good by the second key     the same, and the SYN-ACK brings the cookie of the first      (TCPFastOpenPassiveAltKey)

The child of the third line waits in the accept queue in TCP_SYN_RECV.  ``fastopen_rsk`` is its request, which is
in no table: the child holds the 4-tuple.  Its retransmit timer resends the SYN-ACK (tcp_fastopen_synack_timer)
until the third segment ends that (tcp_rcv_synrecv_state_fastopen); what the application writes meanwhile goes out
at once, and is resent only afterwards.

Limit: at most ``max_qlen`` such children of a listener (TCP_FASTOPEN's value).  A client that answers the SYN-ACK
with a RST probably never sent that SYN, so its request keeps its place for a minute (``rskq_rst_head``).
Beyond the limit a SYN is an ordinary one (TCPFastOpenListenOverflow).

``net.ipv4.tcp_fastopen`` is the sum of: 1 clients may, 2 servers may, 4 clients send data without a cookie, 0x200
servers do not ask for one, 0x400 every listener does it, without TCP_FASTOPEN.

The client
----------
An application says that its first data may ride on the SYN, with sendto(MSG_FASTOPEN) in the place of connect(), or
with TCP_FASTOPEN_CONNECT, after which connect() says 0 and the first write sends the SYN.  What then goes out is
tcp_send_syn_data()'s decision (tcp_output.py), by what the cache of tcp_metrics.py knows of the server:

    no cookie                    SYN that asks for one; connect() goes on as always
    a cookie                     SYN with it and with data: what fits in the MSS that the server announced before, less
                                 40 bytes for options
    TCP_FASTOPEN_NO_COOKIE, 4    SYN with data and without the option

and tcp_rcv_fastopen_synack() (tcp_input.py) learns from the SYN-ACK: it covers the data (TCPFastOpenActive), or they
are resent at once with the third segment (TCPFastOpenActiveFail).  A SYN that is resent has neither cookie nor data.

Some middleboxes swallow all that follows such a SYN.  Three signs disable Fast Open for this stack's clients for
``tcp_fastopen_blackhole_timeout_sec`` seconds (0: never), twice as long each time, up to 64 times: the third timeout in
a row of such a connection, or its end by an earlier one; a RST with a wrong sequence number before any data came; and a
connection that ends with nothing but a FIN out of order.  The next such connection that got data, not over the loopback
device, ends the doubling.  (The cache counts SYNs with data that seem lost, but nothing follows from the number,
measured on both kernels.)

Departures: an application that waits in connect() cannot be waited with (``sk_write_pending``), so the third segment
never waits for data that the SYN had no room for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stack.include.dst import RTAX_FASTOPEN_NO_COOKIE, dst_metric
from stack.include.inet_connection_sock import ICSK_TIME_RETRANS, inet_csk_reset_xmit_timer
from stack.include.ip import ip_hdr
from stack.include.netdevice import IFF_LOOPBACK
from stack.include.request_sock import reqsk_put, tcp_fastopen_context
from stack.include.sk_buff import sk_buff, skb_pull
from stack.include.snmp import (
    LINUX_MIB_TCPFASTOPENACTIVEFAIL,
    LINUX_MIB_TCPFASTOPENBLACKHOLE,
    LINUX_MIB_TCPFASTOPENCOOKIEREQD,
    LINUX_MIB_TCPFASTOPENLISTENOVERFLOW,
    LINUX_MIB_TCPFASTOPENPASSIVE,
    LINUX_MIB_TCPFASTOPENPASSIVEALTKEY,
    LINUX_MIB_TCPFASTOPENPASSIVEFAIL,
    NET_INC_STATS,
)
from stack.include.sock import AF_INET6
from stack.include.tcp import (
    TCP_FASTOPEN_COOKIE_SIZE,
    TCP_FASTOPEN_KEY_LENGTH,
    TCP_RTO_MAX,
    TCP_TIMEOUT_INIT,
    TCPHDR_FIN,
    TCPHDR_SYN,
    TFO_CLIENT_NO_COOKIE,
    TFO_COOKIE_UNAVAILABLE,
    TFO_SERVER_COOKIE_NOT_REQD,
    TFO_SERVER_ENABLE,
    tcp_fastopen_cookie,
    tcp_fastopen_request,
    tcp_segs_in,
    tcp_skb_cb,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies
from stack.lib.siphash import siphash
from stack.net.core import sock as core_sock
from stack.net.ipv4 import tcp_input, tcp_metrics
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.inet_connection_sock import inet_connection_sock
    from stack.include.request_sock import tcp_request_sock
    from stack.include.tcp import tcp_sock
    from stack.stack import Stack


# -- keys ----------------------------------------------------------------------------------------------------------


def tcp_fastopen_init_key_once(net: Stack) -> None:
    """The first listener that wants Fast Open makes the stack's key, unless the sysctl set one."""
    if net.ipv4.tcp_fastopen_ctx is None:
        tcp_fastopen_reset_cipher(net, None, net.rng.get_random_bytes(TCP_FASTOPEN_KEY_LENGTH), None)


def tcp_fastopen_reset_cipher(
    net: Stack, sk: inet_connection_sock | None, primary_key: bytes, backup_key: bytes | None
) -> int:
    """New keys of 16 bytes each for a listener (TCP_FASTOPEN_KEY) or, ``sk`` None, for all that have none of their
    own.  Cookies are made with the first and taken with either; 0."""
    ctx = tcp_fastopen_context(primary_key, backup_key)
    if sk is not None:
        sk.icsk_accept_queue.fastopenq.ctx = ctx
    else:
        net.ipv4.tcp_fastopen_ctx = ctx
    return 0


def tcp_fastopen_destroy_cipher(sk: inet_connection_sock) -> None:
    """The listener's own keys go with it."""
    sk.icsk_accept_queue.fastopenq.ctx = None


def tcp_fastopen_get_ctx(sk: inet_connection_sock) -> tcp_fastopen_context | None:
    """The keys that hold for a listener."""
    ctx: tcp_fastopen_context | None = sk.icsk_accept_queue.fastopenq.ctx or sk.sk_net.ipv4.tcp_fastopen_ctx
    return ctx


def tcp_fastopen_get_cipher(net: Stack, sk: inet_connection_sock | None) -> tuple[bytes, ...]:
    """The keys as TCP_FASTOPEN_KEY and the sysctl show them: none, one or two of 16 bytes."""
    ctx = net.ipv4.tcp_fastopen_ctx if sk is None else tcp_fastopen_get_ctx(sk)
    return ctx.key if ctx is not None else ()


# -- cookies -------------------------------------------------------------------------------------------------------


def __tcp_fastopen_cookie_gen_cipher(
    req: tcp_request_sock, syn: sk_buff, key: bytes, foc: tcp_fastopen_cookie
) -> None:
    """The cookie of the SYN's addresses, source first, under one key."""
    iph: Any = ip_hdr(syn)
    size = 16 if req.sk_family == AF_INET6 else 4
    addresses: bytes = iph.saddr.to_bytes(size, "big") + iph.daddr.to_bytes(size, "big")
    foc.val = siphash(addresses, key).to_bytes(TCP_FASTOPEN_COOKIE_SIZE, "little")
    foc.len = TCP_FASTOPEN_COOKIE_SIZE


def tcp_fastopen_cookie_gen(
    sk: inet_connection_sock, req: tcp_request_sock, syn: sk_buff, foc: tcp_fastopen_cookie
) -> None:
    """The cookie to hand out; ``foc`` stays as it is if there is no key."""
    ctx = tcp_fastopen_get_ctx(sk)
    if ctx is not None:
        __tcp_fastopen_cookie_gen_cipher(req, syn, ctx.key[0], foc)


def tcp_fastopen_cookie_gen_check(
    sk: inet_connection_sock,
    req: tcp_request_sock,
    syn: sk_buff,
    orig: tcp_fastopen_cookie,
    valid_foc: tcp_fastopen_cookie,
) -> int:
    """Which key made the cookie ``orig`` that came with a SYN: 1 the first, 2 the second, 0 none.  ``valid_foc``
    becomes the cookie that the client should have."""
    ctx = tcp_fastopen_get_ctx(sk)
    if ctx is None:
        return 0
    foc = valid_foc
    for number, key in enumerate(ctx.key, 1):
        __tcp_fastopen_cookie_gen_cipher(req, syn, key, foc)
        if orig.len == foc.len and orig.val == foc.val:
            return number
        foc = tcp_fastopen_cookie()
    return 0


# -- the SYN -------------------------------------------------------------------------------------------------------


def tcp_fastopen_add_skb(sk: tcp_sock, skb: sk_buff) -> None:
    """Put the SYN's data, if there are any, into the receive queue of the child, at no charge to its limit."""
    cb = skb.cb
    if cb.end_seq == sk.rcv_nxt:
        return
    new = sk_buff(skb.head, skb.data, skb.tail)
    new.truesize = skb.truesize
    new.frags = list(skb.frags)
    new.len, new.data_len = skb.len, skb.data_len
    new.dev, new.h_th, new.transport_header = skb.dev, skb.h_th, skb.transport_header
    new.gso_segs = skb.gso_segs
    new.cb = tcp_skb_cb((cb.seq + 1) & MASK32, cb.end_seq, cb.tcp_flags & ~TCPHDR_SYN)
    new.cb.ack_seq, new.cb.ip_dsfield = cb.ack_seq, cb.ip_dsfield
    # The child was made with this segment counted already.
    sk.segs_in = 0
    tcp_segs_in(sk, new)
    skb_pull(new, skb.h_th.doff << 2)
    core_sock.skb_set_owner_r(new, sk)
    sk.rcv_nxt = cb.end_seq
    sk.sk_receive_queue.append(new)
    sk.syn_data_acked = True
    sk.bytes_received = new.len
    if new.cb.tcp_flags & TCPHDR_FIN:
        tcp_input.tcp_fin(sk)


def tcp_fastopen_create_child(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock) -> tcp_sock | None:
    """The child of a SYN whose cookie is good, in TCP_SYN_RECV with the data in its queue; None if syn_recv_sock
    made none.  The SYN-ACK and the place in the accept queue are the caller's matter."""
    child, _own_req = sk.icsk_af_ops.syn_recv_sock(sk, skb, req, None, None)
    if child is None:
        return None
    sk.icsk_accept_queue.fastopenq.qlen += 1
    child.fastopen_rsk = req
    child.syn_fastopen_child = True
    req.tfo_listener = True
    # RFC 7323, section 2.2: a SYN's window is never scaled.
    child.snd_wnd = child.max_window = skb.h_th.window
    req.timeout = TCP_TIMEOUT_INIT
    inet_csk_reset_xmit_timer(child, ICSK_TIME_RETRANS, req.timeout, TCP_RTO_MAX)
    tcp_metrics.tcp_init_metrics(child)
    tcp_input.tcp_init_transfer(child, skb)
    child.rcv_nxt = (skb.cb.seq + 1) & MASK32
    tcp_fastopen_add_skb(child, skb)
    req.rcv_nxt = child.rcv_wup = child.rcv_nxt
    return child  # type: ignore[no-any-return]


def tcp_fastopen_queue_check(sk: inet_connection_sock) -> bool:
    """Whether the listener may have one more child of this kind; a request that waits for the end of its minute
    after a RST makes room when that is over."""
    fastopenq = sk.icsk_accept_queue.fastopenq
    if not fastopenq.max_qlen:
        return False
    if fastopenq.qlen < fastopenq.max_qlen:
        return True
    waiting = fastopenq.rskq_rst_head
    if not waiting or waiting[0].rsk_timer.expires > jiffies(sk.sk_net):
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPFASTOPENLISTENOVERFLOW)
        return False
    reqsk_put(waiting.popleft())
    fastopenq.qlen -= 1
    return True


def tcp_fastopen_no_cookie(sk: tcp_sock, dst: dst_entry | None, flag: int) -> bool:
    """Whether data are taken without a cookie: by the sysctl's ``flag``, TCP_FASTOPEN_NO_COOKIE or the route."""
    return bool(
        sk.sk_net.ipv4.sysctl_tcp_fastopen & flag
        or sk.fastopen_no_cookie
        or (dst is not None and dst_metric(dst, RTAX_FASTOPEN_NO_COOKIE))
    )


def tcp_try_fastopen(
    sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, foc: tcp_fastopen_cookie, dst: dst_entry
) -> tcp_sock | None:
    """What a SYN means for Fast Open: the child if its data may be taken, else None.  ``foc`` is what the SYN said
    and becomes what the SYN-ACK has to say (``len`` -1: nothing)."""
    net = sk.sk_net
    if foc.len == 0:
        NET_INC_STATS(net, LINUX_MIB_TCPFASTOPENCOOKIEREQD)
    if not _wanted(sk, skb, foc):
        foc.len = -1
        return None
    valid_foc = tcp_fastopen_cookie()
    key = 0
    allowed = tcp_fastopen_no_cookie(sk, dst, TFO_SERVER_COOKIE_NOT_REQD)
    if not allowed and foc.len == 0:
        tcp_fastopen_cookie_gen(sk, req, skb, valid_foc)
    elif not allowed and foc.len > 0:
        key = tcp_fastopen_cookie_gen_check(sk, req, skb, foc, valid_foc)
        allowed = key > 0
        if not allowed:
            NET_INC_STATS(net, LINUX_MIB_TCPFASTOPENPASSIVEFAIL)
    if allowed:
        child = tcp_fastopen_create_child(sk, skb, req)
        if child is not None:
            NET_INC_STATS(net, LINUX_MIB_TCPFASTOPENPASSIVE)
            if key == 2:
                NET_INC_STATS(net, LINUX_MIB_TCPFASTOPENPASSIVEALTKEY)
                _answer(foc, valid_foc)
            else:
                foc.len = -1
            return child
        NET_INC_STATS(net, LINUX_MIB_TCPFASTOPENPASSIVEFAIL)
    _answer(foc, valid_foc)
    return None


def _wanted(sk: tcp_sock, skb: sk_buff, foc: tcp_fastopen_cookie) -> bool:
    """Servers may, the SYN has a cookie option or data, and there is room."""
    syn_data = skb.cb.end_seq != (skb.cb.seq + 1) & MASK32
    enabled = sk.sk_net.ipv4.sysctl_tcp_fastopen & TFO_SERVER_ENABLE
    return bool(enabled and (syn_data or foc.len >= 0) and tcp_fastopen_queue_check(sk))


def _answer(foc: tcp_fastopen_cookie, valid_foc: tcp_fastopen_cookie) -> None:
    """The cookie in the form (RFC 7413's option or the experimental one) that the client uses."""
    foc.val, foc.len = valid_foc.val, valid_foc.len


# -- the client ----------------------------------------------------------------------------------------------------


def tcp_fastopen_cookie_check(sk: tcp_sock, mss: int, cookie: tcp_fastopen_cookie) -> tuple[bool, int]:
    """(whether our SYN may carry data, the server's MSS if an earlier SYN-ACK said it, else ``mss``).  ``cookie``
    becomes what the SYN has to say: ``len`` 0 asks for one, -1 leaves the option out."""
    mss = tcp_metrics.tcp_fastopen_cache_get(sk, mss, cookie)
    if tcp_fastopen_active_should_disable(sk):
        cookie.len = -1
        return False, mss
    if tcp_fastopen_no_cookie(sk, sk.sk_dst_cache, TFO_CLIENT_NO_COOKIE):
        cookie.len = -1
        return True, mss
    if cookie.len > 0:
        return True, mss
    sk.fastopen_client_fail = TFO_COOKIE_UNAVAILABLE
    return False, mss


def tcp_fastopen_defer_connect(sk: tcp_sock) -> bool:
    """TCP_FASTOPEN_CONNECT: whether connect() is done before it began, since the first write can send the SYN with its
    data.  Without a cookie the SYN goes now, and asks for one."""
    if not sk.fastopen_connect or sk.fastopen_req is not None:
        return False
    cookie = tcp_fastopen_cookie()
    cookie.len = 0
    usable, _ = tcp_fastopen_cookie_check(sk, 0, cookie)
    if usable:
        sk.defer_connect = True
        return True
    sk.fastopen_req = tcp_fastopen_request()
    sk.fastopen_req.cookie = cookie
    return False


# -- what swallows SYNs with data ----------------------------------------------------------------------------------


def tcp_fastopen_active_disable(sk: tcp_sock) -> None:
    """No SYN of ours carries data for a while."""
    ipv4 = sk.sk_net.ipv4
    if not ipv4.sysctl_tcp_fastopen_blackhole_timeout:
        return
    ipv4.tfo_active_disable_stamp = jiffies(sk.sk_net)
    ipv4.tfo_active_disable_times += 1
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPFASTOPENBLACKHOLE)


def tcp_fastopen_active_should_disable(sk: tcp_sock) -> bool:
    """Whether that while is not over yet: the sysctl's seconds, twice as many each time, up to 64 times."""
    ipv4 = sk.sk_net.ipv4
    timeout = ipv4.sysctl_tcp_fastopen_blackhole_timeout
    if not timeout or not ipv4.tfo_active_disable_times:
        return False
    penalty = timeout * HZ << min(ipv4.tfo_active_disable_times - 1, 6)
    if jiffies(sk.sk_net) < ipv4.tfo_active_disable_stamp + penalty:
        return True
    sk.syn_fastopen_ch = True
    return False


def tcp_fastopen_active_disable_ofo_check(sk: tcp_sock) -> None:
    """A connection with such a SYN ends.  If all that came of its peer is a FIN behind a hole, something swallowed the
    rest; if there was more, the penalty after a black hole starts from the beginning again."""
    if not sk.syn_fastopen:
        return
    ofo = sk.out_of_order_queue
    if not sk.data_segs_in:
        if len(ofo) == 1 and ofo[0].cb.tcp_flags & TCPHDR_FIN:
            tcp_fastopen_active_disable(sk)
        return
    ipv4 = sk.sk_net.ipv4
    if sk.syn_fastopen_ch and ipv4.tfo_active_disable_times:
        dst = sk.sk_dst_cache
        if dst is None or dst.dev is None or not dst.dev.flags & IFF_LOOPBACK:
            ipv4.tfo_active_disable_times = 0


def tcp_fastopen_active_detect_blackhole(sk: tcp_sock, expired: bool) -> None:
    """The RTO fired; ``expired``: for the last time.  With a SYN that had the option, the third timeout in a row is one
    too many."""
    if not (sk.syn_fastopen or sk.syn_data or sk.syn_data_acked):
        return
    timeouts = sk.icsk_retransmits
    if timeouts == 2 or (timeouts < 2 and expired):
        tcp_fastopen_active_disable(sk)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPFASTOPENACTIVEFAIL)
