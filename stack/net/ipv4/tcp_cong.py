# SPDX-License-Identifier: GPL-2.0-or-later
"""The framework of congestion control and Reno: net/ipv4/tcp_cong.c.

A socket's control is ``icsk_ca_ops``, chosen when the socket is made (by sysctl), inherited by the child of a
listener, or set with TCP_CONGESTION.  Its state is one object in ``icsk_ca_priv``, made by ``init`` when the
connection is established.  Reno (RFC 5681, with appropriate byte counting of RFC 3465 counted in segments) is the
one that everything falls back to.

Three sysctls say which there are: tcp_available_congestion_control lists all that this build has,
tcp_allowed_congestion_control those that TCP_CONGESTION may choose (without CAP_NET_ADMIN, which no application of a
Stack has; whoever owns the Stack may widen the list), tcp_congestion_control the one that new sockets get, which it
allows as well.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from stack.include.ip import INET_ECN_ECT_0, INET_ECN_MASK
from stack.include.tcp import (
    TCP_CONG_NON_RESTRICTED,
    tcp_ca_needs_ecn,
    tcp_congestion_ops,
    tcp_in_slow_start,
    tcp_is_cwnd_limited,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_LISTEN

if TYPE_CHECKING:
    from stack.include.tcp import tcp_sock
    from stack.stack import Stack

# The controls this build has, by name, as the kernel's tcp_cong_list: filled on import, never per connection.
tcp_cong_list: dict[str, tcp_congestion_ops] = {}


def tcp_ca_find(name: str) -> tcp_congestion_ops | None:
    return tcp_cong_list.get(name)


def tcp_register_congestion_control(ca: tcp_congestion_ops) -> int:
    """Add a control; -EINVAL if it can never grow the window, -EEXIST if the name is taken."""
    if ca.cong_avoid is None and ca.cong_control is None:
        return -errno.EINVAL
    if ca.name in tcp_cong_list:
        return -errno.EEXIST
    tcp_cong_list[ca.name] = ca
    return 0


# -- the sysctls ------------------------------------------------------------------------------------------------


def tcp_set_default_congestion_control(net: Stack, name: str) -> int:
    """tcp_congestion_control: what new sockets get; 0, or -ENOENT."""
    if tcp_ca_find(name) is None:
        return -errno.ENOENT
    ipv4 = net.ipv4
    ipv4.sysctl_tcp_congestion_control = name
    if name not in ipv4.tcp_allowed_congestion_control.split():
        ipv4.tcp_allowed_congestion_control += " " + name
    return 0


def tcp_get_available_congestion_control() -> str:
    """All names, in the order of registration."""
    return " ".join(tcp_cong_list)


def tcp_set_allowed_congestion_control(net: Stack, val: str) -> int:
    """tcp_allowed_congestion_control: 0, or -ENOENT if one of the names is not known; then nothing changes."""
    names = val.split()
    if any(tcp_ca_find(name) is None for name in names):
        return -errno.ENOENT
    net.ipv4.tcp_allowed_congestion_control = " ".join(name for name in tcp_cong_list if name in names)
    return 0


# -- a socket's control -----------------------------------------------------------------------------------------


def tcp_set_ca_state(sk: tcp_sock, ca_state: int) -> None:
    """Move to Open, Disorder, CWR, Recovery or Loss; the control hears of it first."""
    set_state = sk.icsk_ca_ops.set_state
    if set_state:
        set_state(sk, ca_state)
    sk.icsk_ca_state = ca_state


def tcp_assign_congestion_control(sk: tcp_sock) -> None:
    """Give a new socket the namespace's default; its ``init`` waits until the connection is established."""
    sk.icsk_ca_ops = tcp_ca_find(sk.sk_net.ipv4.sysctl_tcp_congestion_control) or tcp_reno
    sk.icsk_ca_priv = None
    tcp_ecn_xmit(sk)


def tcp_ecn_xmit(sk: tcp_sock) -> None:
    """A control that needs ECN sends everything as ECT(0), handshake included (INET_ECN_xmit()); others not
    (INET_ECN_dontxmit())."""
    ect = INET_ECN_ECT_0 if tcp_ca_needs_ecn(sk) else 0
    sk.tos = sk.tos & ~INET_ECN_MASK | ect
    if sk.pinet6 is not None:
        sk.pinet6.tclass = sk.pinet6.tclass & ~INET_ECN_MASK | ect


def tcp_init_congestion_control(sk: tcp_sock) -> None:
    """The connection is established: let the control set up its state."""
    sk.prior_ssthresh = 0
    if sk.icsk_ca_ops.init:
        sk.icsk_ca_ops.init(sk)
    sk.icsk_ca_initialized = True


def tcp_reinit_congestion_control(sk: tcp_sock, ca: tcp_congestion_ops) -> None:
    tcp_cleanup_congestion_control(sk)
    sk.icsk_ca_ops = ca
    sk.icsk_ca_setsockopt = True
    sk.icsk_ca_priv = None
    tcp_ecn_xmit(sk)
    if sk.sk_state not in (TCP_CLOSE, TCP_LISTEN):
        tcp_init_congestion_control(sk)


def tcp_cleanup_congestion_control(sk: tcp_sock) -> None:
    if sk.icsk_ca_initialized and sk.icsk_ca_ops.release:
        sk.icsk_ca_ops.release(sk)
    sk.icsk_ca_initialized = False
    sk.icsk_ca_priv = None


def tcp_set_congestion_control(sk: tcp_sock, name: str) -> int:
    """setsockopt(TCP_CONGESTION): 0, -ENOENT for a name that this build has not, or -EPERM for one that is not
    allowed."""
    ca = tcp_ca_find(name)
    if ca is None:
        return -errno.ENOENT
    if name not in sk.sk_net.ipv4.tcp_allowed_congestion_control.split():
        return -errno.EPERM
    if ca is sk.icsk_ca_ops:
        sk.icsk_ca_setsockopt = True
        return 0
    tcp_reinit_congestion_control(sk, ca)
    return 0


def tcp_slow_start(tp: tcp_sock, acked: int) -> int:
    """RFC 5681 section 3.1: one segment more for each acknowledged, up to ssthresh.

    Returns how many of ``acked`` segments are left for congestion avoidance.
    """
    cwnd = min(tp.snd_cwnd + acked, tp.snd_ssthresh)
    acked -= cwnd - tp.snd_cwnd
    tp.snd_cwnd = min(cwnd, tp.snd_cwnd_clamp)
    return acked


def tcp_cong_avoid_ai(tp: tcp_sock, w: int, acked: int) -> None:
    """Additive increase: one segment more for each ``w`` acknowledged."""
    if tp.snd_cwnd_cnt >= w:
        tp.snd_cwnd_cnt = 0
        tp.snd_cwnd += 1
    tp.snd_cwnd_cnt += acked
    if tp.snd_cwnd_cnt >= w:
        delta = tp.snd_cwnd_cnt // w
        tp.snd_cwnd_cnt -= delta * w
        tp.snd_cwnd += delta
    tp.snd_cwnd = min(tp.snd_cwnd, tp.snd_cwnd_clamp)


def tcp_reno_cong_avoid(sk: tcp_sock, ack: int, acked: int) -> None:
    """Slow start below ssthresh, then one segment a round trip; nothing while the application is the limit."""
    if not tcp_is_cwnd_limited(sk):
        return
    if tcp_in_slow_start(sk):
        acked = tcp_slow_start(sk, acked)
        if not acked:
            return
    tcp_cong_avoid_ai(sk, sk.snd_cwnd, acked)


def tcp_reno_ssthresh(sk: tcp_sock) -> int:
    """RFC 5681 (4): half of the window, two segments at least."""
    return max(sk.snd_cwnd >> 1, 2)


def tcp_reno_undo_cwnd(sk: tcp_sock) -> int:
    """The reduction was a mistake: what the window was before it."""
    return max(sk.snd_cwnd, sk.prior_cwnd)


tcp_reno = tcp_congestion_ops(
    "reno",
    flags=TCP_CONG_NON_RESTRICTED,
    ssthresh=tcp_reno_ssthresh,
    cong_avoid=tcp_reno_cong_avoid,
    undo_cwnd=tcp_reno_undo_cwnd,
)
tcp_register_congestion_control(tcp_reno)
