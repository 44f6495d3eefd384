# SPDX-License-Identifier: GPL-2.0-or-later
"""The phases of a connection's life, as call trees know them: by the root of a tree, and by a function in it.

A tree is in a phase if its root is one of the phase's (any, where none is named) and one of the phase's functions is
called in it (none need be, where none is named).  A segment can be in two: data with a FIN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stack.trace.recorder import Call, Tree


@dataclass(frozen=True)
class Phase:
    """``what`` it is, for a list of them."""

    what: str
    roots: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()


def _phase(what: str, roots: str = "", functions: str = "") -> Phase:
    return Phase(what, frozenset(roots.split()), frozenset(functions.split()))


_RCV: Final = "tcp_v4_rcv tcp_v6_rcv"
PHASES: Final[dict[str, Phase]] = {
    "bind": _phase("bind()", "sys_bind"),
    "listen": _phase("listen()", "sys_listen"),
    "accept": _phase("accept()", "sys_accept4"),
    "connect": _phase("connect()", "sys_connect"),
    "syn": _phase("a SYN for a listener", _RCV, "tcp_conn_request"),
    "syn-ack": _phase("the answer to our SYN", _RCV, "tcp_rcv_synsent_state_process"),
    "ack": _phase(
        "a segment for a half-open connection, or an ACK for a listener, which may have a cookie",
        _RCV,
        "tcp_check_req cookie_v4_check cookie_v6_check",
    ),
    "data": _phase("a segment of an established connection", _RCV, "tcp_rcv_established"),
    "read": _phase("recv() and its like", "sys_recvfrom sys_recvmsg"),
    "write": _phase("send() and its like", "sys_sendto sys_sendmsg"),
    "fin": _phase("the peer's FIN", "", "tcp_fin"),
    "close": _phase("close() and shutdown()", "sys_close sys_shutdown"),
    "reset": _phase(
        "a RST, either way", "", "tcp_reset tcp_send_active_reset tcp_v4_send_reset tcp_v6_send_reset"
    ),
    "retransmit": _phase(
        "what is sent again, a SYN-ACK too, and probes of losses, closed windows and silent peers",
        "",
        "tcp_retransmit_skb tcp_send_loss_probe tcp_rtx_synack tcp_write_wakeup",
    ),
    "time-wait": _phase("a segment for a TIME_WAIT socket", "", "tcp_timewait_state_process"),
    "timer": _phase(
        "a timer of TCP",
        "tcp_write_timer tcp_delack_timer tcp_keepalive_timer reqsk_timer_handler tw_timer_handler tcp_pace_kick "
        "tcp_compressed_ack_kick",
    ),
}


def is_in(tree: Tree, phase: Phase) -> bool:
    """Whether a tree is of that phase."""
    if phase.roots and tree.root.name not in phase.roots:
        return False
    return not phase.functions or any(call.name in phase.functions for call in _calls(tree.root))


def _calls(call: Call) -> Iterator[Call]:
    yield call
    for child in call.calls():
        yield from _calls(child)
