# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's states by the kernel's names and numbers: include/net/tcp_states.h."""

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
