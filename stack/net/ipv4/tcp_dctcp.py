# SPDX-License-Identifier: GPL-2.0-or-later
"""Data Center TCP (RFC 8257): net/ipv4/tcp_dctcp.c, tcp_dctcp.h.

Theory of operation
-------------------
Switches mark every packet that finds more than a few waiting; the receiver reports each mark; the sender keeps an
estimate of the share of marked segments and cuts its window by half of that share, once a round trip (RFC 8257, 3.3):

    alpha = (1 - g) * alpha + g * marked / acknowledged,    g = 1/16,    cwnd = cwnd * (1 - alpha / 2)

so that a few marks cost little and a full queue as much as a loss.  ``alpha`` is in 1024ths.  Everything is sent as
ECT(0), ACKs, SYN-ACK and retransmissions too.

The receiver's half (3.2): ECE says whether the segments that the ACK covers had CE.  When that changes, a delayed ACK
goes out first with the old answer, the next one at once with the new.

If the peer does not do ECN the connection falls back to Reno.  Growth, and what a real loss costs, are Reno's as well.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from stack.include.inet_connection_sock import ICSK_ACK_NOW, ICSK_ACK_TIMER
from stack.include.tcp import (
    CA_EVENT_ECN_IS_CE,
    CA_EVENT_ECN_NO_CE,
    CA_EVENT_LOSS,
    TCP_CONG_NEEDS_ECN,
    TCP_ECN_DEMAND_CWR,
    TCP_ECN_MODE_ANY,
    TCP_CA_Recovery,
    tcp_congestion_ops,
)
from stack.net.ipv4 import tcp_cong, tcp_output
from stack.seqnum import MASK32, before

if TYPE_CHECKING:
    from stack.include.tcp import tcp_sock

DCTCP_MAX_ALPHA: Final = 1024
DCTCP_SHIFT_G: Final = 4  # RFC 8257, 4.2: g = 1/16
DCTCP_ALPHA_ON_INIT: Final = DCTCP_MAX_ALPHA  # 4.2: 1, so that the first mark halves


class dctcp:
    """struct dctcp: what was delivered, and marked, by the start of this round trip; the receiver's last answer."""

    __slots__ = (
        "ce_state",
        "dctcp_alpha",
        "loss_cwnd",
        "next_seq",
        "old_delivered",
        "old_delivered_ce",
        "prior_rcv_nxt",
    )

    def __init__(self, rcv_nxt: int) -> None:
        self.prior_rcv_nxt = rcv_nxt
        self.dctcp_alpha = DCTCP_ALPHA_ON_INIT
        self.loss_cwnd = 0
        self.ce_state = False
        self.next_seq = self.old_delivered = self.old_delivered_ce = 0


def dctcp_reset(sk: tcp_sock, ca: dctcp) -> None:
    """A round trip begins."""
    ca.next_seq = sk.snd_nxt
    ca.old_delivered = sk.delivered
    ca.old_delivered_ce = sk.delivered_ce


def dctcp_init(sk: tcp_sock) -> None:
    """The connection is established: with ECN, or as Reno without."""
    if not sk.ecn_flags & TCP_ECN_MODE_ANY:
        sk.icsk_ca_ops = dctcp_reno
        tcp_cong.tcp_ecn_xmit(sk)
        return
    sk.icsk_ca_priv = ca = dctcp(sk.rcv_nxt)
    dctcp_reset(sk, ca)


def dctcp_ssthresh(sk: tcp_sock) -> int:
    """RFC 8257, 3.3 (the cut): cwnd less half of alpha of it, two segments at least."""
    ca: dctcp | None = sk.icsk_ca_priv
    if ca is None:
        return tcp_cong.tcp_reno_ssthresh(sk)
    cwnd = sk.snd_cwnd
    ca.loss_cwnd = cwnd
    return max(cwnd - (cwnd * ca.dctcp_alpha >> 11), 2)


def dctcp_update_alpha(sk: tcp_sock, flags: int) -> None:
    """Each ACK: at the end of a round trip move alpha by a sixteenth towards the share that was marked."""
    ca: dctcp | None = sk.icsk_ca_priv
    if ca is None or before(sk.snd_una, ca.next_seq):
        return  # None: the handshake's ACK
    alpha = ca.dctcp_alpha
    alpha -= (alpha >> DCTCP_SHIFT_G) or alpha
    marked = sk.delivered_ce - ca.old_delivered_ce
    if marked:
        delivered = max(sk.delivered - ca.old_delivered, 1)
        alpha = min(alpha + (marked << (10 - DCTCP_SHIFT_G)) // delivered, DCTCP_MAX_ALPHA)
    ca.dctcp_alpha = alpha
    dctcp_reset(sk, ca)


def dctcp_react_to_loss(sk: tcp_sock) -> None:
    """RFC 8257, 3.5: a loss halves, whatever alpha says."""
    ca: dctcp = sk.icsk_ca_priv
    ca.loss_cwnd = sk.snd_cwnd
    sk.snd_ssthresh = max(sk.snd_cwnd >> 1, 2)


def dctcp_state(sk: tcp_sock, new_state: int) -> None:
    if new_state == TCP_CA_Recovery and sk.icsk_ca_state != new_state and sk.icsk_ca_priv is not None:
        dctcp_react_to_loss(sk)


def dctcp_ece_ack_cwr(sk: tcp_sock, ce_state: bool) -> None:
    if ce_state:
        sk.ecn_flags |= TCP_ECN_DEMAND_CWR
    else:
        sk.ecn_flags &= ~TCP_ECN_DEMAND_CWR


def dctcp_ece_ack_update(sk: tcp_sock, event: int, ca: dctcp) -> None:
    """A segment came with CE, or without (RFC 8257, 3.2): when that is news, first acknowledge what came before it."""
    new_ce_state = event == CA_EVENT_ECN_IS_CE
    if ca.ce_state != new_ce_state:
        if sk.icsk_ack.pending & ICSK_ACK_TIMER:
            dctcp_ece_ack_cwr(sk, ca.ce_state)
            tcp_output.__tcp_send_ack(sk, ca.prior_rcv_nxt)
        sk.icsk_ack.pending |= ICSK_ACK_NOW
    ca.prior_rcv_nxt = sk.rcv_nxt
    ca.ce_state = new_ce_state
    dctcp_ece_ack_cwr(sk, new_ce_state)


def dctcp_cwnd_event(sk: tcp_sock, event: int) -> None:
    ca: dctcp | None = sk.icsk_ca_priv
    if ca is None:
        return
    if event in (CA_EVENT_ECN_IS_CE, CA_EVENT_ECN_NO_CE):
        dctcp_ece_ack_update(sk, event, ca)
    elif event == CA_EVENT_LOSS:
        dctcp_react_to_loss(sk)


def dctcp_cwnd_undo(sk: tcp_sock) -> int:
    ca: dctcp | None = sk.icsk_ca_priv
    return max(sk.snd_cwnd, ca.loss_cwnd if ca is not None else 0)


# struct tcp_dctcp_info (include/uapi/linux/inet_diag.h)
_DCTCP_INFO: Final = Struct("=HHIII")


def dctcp_get_info(sk: tcp_sock) -> bytes:
    """TCP_CC_INFO: whether it is at work, the state of CE, alpha, bytes marked and delivered in this round trip."""
    ca: dctcp | None = sk.icsk_ca_priv
    if ca is None:
        return bytes(_DCTCP_INFO.size)
    marked = sk.mss_cache * (sk.delivered_ce - ca.old_delivered_ce)
    delivered = sk.mss_cache * (sk.delivered - ca.old_delivered)
    return _DCTCP_INFO.pack(1, ca.ce_state, ca.dctcp_alpha, marked & MASK32, delivered & MASK32)


dctcp_ops = tcp_congestion_ops(
    "dctcp",
    flags=TCP_CONG_NEEDS_ECN,
    init=dctcp_init,
    ssthresh=dctcp_ssthresh,
    cong_avoid=tcp_cong.tcp_reno_cong_avoid,
    set_state=dctcp_state,
    undo_cwnd=dctcp_cwnd_undo,
    get_info=dctcp_get_info,
    cwnd_event=dctcp_cwnd_event,
    in_ack_event=dctcp_update_alpha,
)
# What a connection without ECN runs; it is not in the list, and getsockopt() says "dctcp-reno", as on Linux.
dctcp_reno = tcp_congestion_ops(
    "dctcp-reno",
    ssthresh=tcp_cong.tcp_reno_ssthresh,
    cong_avoid=tcp_cong.tcp_reno_cong_avoid,
    undo_cwnd=tcp_cong.tcp_reno_undo_cwnd,
    get_info=dctcp_get_info,
)
tcp_cong.tcp_register_congestion_control(dctcp_ops)
