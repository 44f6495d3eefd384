# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's own view of a connection: struct tcp_info (include/uapi/linux/tcp.h), whatever stack carries it.

A transport of ``stack.api.aio`` answers ``get_extra_info("tcp_info")`` with a mapping of the kernel's field names; a
transport of the host has a socket whose TCP_INFO option is unpacked here.  Times are in microseconds, as the kernel
gives them, windows and sizes in bytes, except ``tcpi_snd_cwnd`` and ``tcpi_snd_ssthresh`` (segments).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping

# tcpi_options bits.
TCPI_OPT_TIMESTAMPS = 1
TCPI_OPT_SACK = 2
TCPI_OPT_WSCALE = 4
TCPI_OPT_ECN = 8

# The struct as far as Linux 2.6 had it: eight bytes, of which two hold bit fields, then 32-bit words.
_BYTES = ["tcpi_state", "tcpi_ca_state", "tcpi_retransmits", "tcpi_probes", "tcpi_backoff", "tcpi_options"]
_BIT_FIELDS = ["_wscale", "_limited"]
_WORDS = [
    *("tcpi_rto", "tcpi_ato", "tcpi_snd_mss", "tcpi_rcv_mss"),
    *("tcpi_unacked", "tcpi_sacked", "tcpi_lost", "tcpi_retrans", "tcpi_fackets"),
    *("tcpi_last_data_sent", "tcpi_last_ack_sent", "tcpi_last_data_recv", "tcpi_last_ack_recv"),
    *("tcpi_pmtu", "tcpi_rcv_ssthresh", "tcpi_rtt", "tcpi_rttvar", "tcpi_snd_ssthresh", "tcpi_snd_cwnd"),
    *("tcpi_advmss", "tcpi_reordering", "tcpi_rcv_rtt", "tcpi_rcv_space", "tcpi_total_retrans"),
]
_STRUCT = struct.Struct(f"={len(_BYTES) + len(_BIT_FIELDS)}B{len(_WORDS)}I")
# TCP_ESTABLISHED is 1 (include/net/tcp_states.h).
_STATES = ["UNKNOWN", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2"]
_STATES += ["TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"]


def tcp_info(transport: asyncio.BaseTransport) -> dict[str, int]:
    """Fields by the kernel's names; empty if neither the stack nor a socket can tell."""
    told = transport.get_extra_info("tcp_info")
    if isinstance(told, Mapping):
        return {str(name): int(value) for name, value in told.items() if isinstance(value, int)}
    sock = transport.get_extra_info("socket")
    if sock is None:
        return {}
    try:
        return unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))
    except OSError:
        return {}


def unpack(raw: bytes) -> dict[str, int]:
    """struct tcp_info of the host's kernel up to tcpi_total_retrans (what Linux 2.6 had); empty if shorter."""
    if len(raw) < _STRUCT.size:
        return {}
    values = dict(zip([*_BYTES, *_BIT_FIELDS, *_WORDS], _STRUCT.unpack_from(raw), strict=True))
    scale = values.pop("_wscale")
    values.pop("_limited")
    values["tcpi_snd_wscale"], values["tcpi_rcv_wscale"] = scale & 15, scale >> 4
    return values


def state_name(info: Mapping[str, int]) -> str:
    """tcpi_state in ss's words."""
    state = info.get("tcpi_state", 0)
    return _STATES[state] if 0 < state < len(_STATES) else _STATES[0]


def option_names(info: Mapping[str, int]) -> list[str]:
    """The options that both sides agreed on in the handshake."""
    bits = info.get("tcpi_options", 0)
    named = {
        TCPI_OPT_TIMESTAMPS: "timestamps",
        TCPI_OPT_SACK: "sack",
        TCPI_OPT_WSCALE: "wscale",
        TCPI_OPT_ECN: "ecn",
    }
    return [name for bit, name in named.items() if bits & bit]
