# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's states by the kernel's names and numbers: include/net/tcp_states.h.

``TCP_TRANSITIONS`` are the steps that there are between them, and what they are taken for.  ``inet_sk_set_state`` and
those who put a request, a child or a TIME_WAIT socket in another's place assert that theirs is among them, and
``stack.inspect.states`` draws them.  RFC 9293, section 3.3.2, has less: there a connection is one thing in one state,
in the kernel a request_sock, a tcp_sock and a tcp_timewait_sock one after the other.
"""

from __future__ import annotations

from typing import Final

TCP_ESTABLISHED: Final = 1
TCP_SYN_SENT: Final = 2
TCP_SYN_RECV: Final = 3
TCP_FIN_WAIT1: Final = 4
TCP_FIN_WAIT2: Final = 5
TCP_TIME_WAIT: Final = 6
TCP_CLOSE: Final = 7
TCP_CLOSE_WAIT: Final = 8
TCP_LAST_ACK: Final = 9
TCP_LISTEN: Final = 10
TCP_CLOSING: Final = 11
TCP_NEW_SYN_RECV: Final = 12

TCP_STATE_NAMES: dict[int, str] = {
    TCP_ESTABLISHED: "ESTABLISHED",
    TCP_SYN_SENT: "SYN_SENT",
    TCP_SYN_RECV: "SYN_RECV",
    TCP_FIN_WAIT1: "FIN_WAIT1",
    TCP_FIN_WAIT2: "FIN_WAIT2",
    TCP_TIME_WAIT: "TIME_WAIT",
    TCP_CLOSE: "CLOSE",
    TCP_CLOSE_WAIT: "CLOSE_WAIT",
    TCP_LAST_ACK: "LAST_ACK",
    TCP_LISTEN: "LISTEN",
    TCP_CLOSING: "CLOSING",
    TCP_NEW_SYN_RECV: "NEW_SYN_RECV",
}

TCP_TRANSITIONS: Final[dict[tuple[int, int], str]] = {
    (TCP_CLOSE, TCP_LISTEN): "listen()",
    (TCP_CLOSE, TCP_SYN_SENT): "connect(): SYN",
    (TCP_LISTEN, TCP_NEW_SYN_RECV): "SYN: request_sock, SYN-ACK",
    (TCP_LISTEN, TCP_CLOSE): "close()",
    (TCP_NEW_SYN_RECV, TCP_SYN_RECV): "ACK, or Fast Open: child",
    (TCP_SYN_SENT, TCP_ESTABLISHED): "SYN-ACK: ACK",
    (TCP_SYN_SENT, TCP_SYN_RECV): "SYN: SYN-ACK",
    (TCP_SYN_SENT, TCP_CLOSE): "close(), RST, ICMP, time-out",
    (TCP_SYN_RECV, TCP_ESTABLISHED): "ACK",
    (TCP_SYN_RECV, TCP_FIN_WAIT1): "close(): FIN",
    (TCP_SYN_RECV, TCP_CLOSE): "RST, time-out",
    (TCP_ESTABLISHED, TCP_FIN_WAIT1): "close(): FIN",
    (TCP_ESTABLISHED, TCP_CLOSE_WAIT): "FIN: ACK",
    (TCP_ESTABLISHED, TCP_CLOSE): "RST, time-out",
    (TCP_FIN_WAIT1, TCP_FIN_WAIT2): "ACK of our FIN",
    (TCP_FIN_WAIT1, TCP_CLOSING): "FIN: ACK",
    (TCP_FIN_WAIT1, TCP_CLOSE): "RST, time-out",
    (TCP_FIN_WAIT2, TCP_TIME_WAIT): "FIN: ACK, timewait_sock",
    (TCP_FIN_WAIT2, TCP_CLOSE): "its timewait_sock, RST",
    (TCP_CLOSE_WAIT, TCP_LAST_ACK): "close(): FIN",
    (TCP_CLOSE_WAIT, TCP_CLOSE): "RST, time-out",
    (TCP_CLOSING, TCP_TIME_WAIT): "ACK of our FIN: timewait_sock",
    (TCP_CLOSING, TCP_CLOSE): "its timewait_sock, RST",
    (TCP_LAST_ACK, TCP_CLOSE): "ACK of our FIN, RST, time-out",
}

TCPF_ESTABLISHED: Final = 1 << TCP_ESTABLISHED
TCPF_SYN_SENT: Final = 1 << TCP_SYN_SENT
TCPF_SYN_RECV: Final = 1 << TCP_SYN_RECV
TCPF_FIN_WAIT1: Final = 1 << TCP_FIN_WAIT1
TCPF_FIN_WAIT2: Final = 1 << TCP_FIN_WAIT2
TCPF_TIME_WAIT: Final = 1 << TCP_TIME_WAIT
TCPF_CLOSE: Final = 1 << TCP_CLOSE
TCPF_CLOSE_WAIT: Final = 1 << TCP_CLOSE_WAIT
TCPF_LAST_ACK: Final = 1 << TCP_LAST_ACK
TCPF_LISTEN: Final = 1 << TCP_LISTEN
TCPF_CLOSING: Final = 1 << TCP_CLOSING
TCPF_NEW_SYN_RECV: Final = 1 << TCP_NEW_SYN_RECV


def tcp_transition_text(old: int, new: int) -> str:
    """ "LISTEN -> ESTABLISHED", for what should not happen."""
    return f"{TCP_STATE_NAMES.get(old, old)} -> {TCP_STATE_NAMES.get(new, new)} is no step of TCP"
