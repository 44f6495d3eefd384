# SPDX-License-Identifier: GPL-2.0-or-later
"""What remains of a connection in TIME_WAIT or an orphaned FIN_WAIT2: include/net/inet_timewait_sock.h and
struct tcp_timewait_sock (include/linux/tcp.h)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stack.include.sock import sock_common

if TYPE_CHECKING:
    from stack.include.inet_hashtables import inet_bind2_bucket, inet_bind_bucket, inet_hashinfo
    from stack.include.tcp import tcp_ao_info, tcp_md5sig_key
    from stack.include.timer import timer_list
    from stack.stack import Stack


class inet_timewait_death_row:
    """struct inet_timewait_death_row: how many there are."""

    __slots__ = ("hashinfo", "tw_refcount")

    def __init__(self, hashinfo: inet_hashinfo) -> None:
        self.hashinfo = hashinfo
        self.tw_refcount = 0


class inet_timewait_sock(sock_common):
    """struct inet_timewait_sock: a sock_common in ehash in place of the socket.  ``sk_state`` is always TCP_TIME_WAIT;
    ``tw_substate`` is TCP_FIN_WAIT2 or TCP_TIME_WAIT."""

    __slots__ = (
        "tw_bslot",
        "tw_dr",
        "tw_flowlabel",
        "tw_kill",
        "tw_mark",
        "tw_priority",
        "tw_rcv_wscale",
        "tw_sport",
        "tw_substate",
        "tw_tb",
        "tw_tb2",
        "tw_tclass",
        "tw_timer",
        "tw_tos",
        "tw_transparent",
        "tw_txhash",
    )

    tw_timer: timer_list
    tw_dr: inet_timewait_death_row

    def __init__(self, net: Stack, family: int) -> None:
        super().__init__(net, family)
        self.tw_tb: inet_bind_bucket | None = None
        self.tw_tb2: inet_bind2_bucket | None = None
        self.tw_substate = 0
        self.tw_rcv_wscale = 0
        self.tw_sport = 0
        self.tw_kill = False
        self.tw_transparent = False
        self.tw_tos = 0
        self.tw_tclass = 0
        self.tw_flowlabel = 0
        self.tw_mark = 0
        self.tw_priority = 0
        self.tw_txhash = 0
        self.tw_bslot = 0


class timewait_sock_ops:
    """struct timewait_sock_ops (include/net/timewait_sock.h): ``twsk_unique(sk, tw, want_tw) -> bool`` says whether
    ``sk``, about to connect, may take the place of ``tw``."""

    __slots__ = ("twsk_unique",)

    def __init__(self, twsk_unique: Callable[..., bool]) -> None:
        self.twsk_unique = twsk_unique


class tcp_timewait_sock(inet_timewait_sock):
    """struct tcp_timewait_sock: the sequence state that is needed to answer late segments.  ``tw_rcv_wnd`` in bytes,
    ``tw_ts_recent_stamp`` in seconds."""

    __slots__ = (
        "ao_info",
        "last_oow_ack_time",
        "tw_md5_key",
        "tw_rcv_nxt",
        "tw_rcv_wnd",
        "tw_snd_nxt",
        "tw_ts_offset",
        "tw_ts_recent",
        "tw_ts_recent_stamp",
        "tw_tx_delay",
    )

    def __init__(self, net: Stack, family: int) -> None:
        super().__init__(net, family)
        self.tw_rcv_nxt = 0
        self.tw_snd_nxt = 0
        self.tw_rcv_wnd = 0
        self.tw_ts_offset = 0
        self.tw_ts_recent = 0
        self.tw_ts_recent_stamp = 0
        self.last_oow_ack_time = 0  # tw_last_oow_ack_time
        self.tw_tx_delay = 0
        self.tw_md5_key: tcp_md5sig_key | None = None
        self.ao_info: tcp_ao_info | None = None
