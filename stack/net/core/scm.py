# SPDX-License-Identifier: GPL-2.0-or-later
"""Ancillary data of recvmsg() and sendmsg(): net/core/scm.c, with the time stamps of net/socket.c.

Room is counted as C does on a 64-bit machine: a header of 16 bytes, the data rounded up to 8.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final

from stack.include.net import MSG_CTRUNC, msghdr
from stack.include.net_tstamp import (
    SKBTX_SCHED_TSTAMP,
    SKBTX_SW_TSTAMP,
    SOF_TIMESTAMPING_RX_SOFTWARE,
    SOF_TIMESTAMPING_SOFTWARE,
    SOF_TIMESTAMPING_TX_RECORD_MASK,
    SOF_TIMESTAMPING_TX_SCHED,
    SOF_TIMESTAMPING_TX_SOFTWARE,
)
from stack.include.sk_buff import skb_shared_info
from stack.include.sock import (
    SOCK_RCVMARK,
    SOCK_RCVTSTAMP,
    SOCK_RCVTSTAMPNS,
    SOCK_RXQ_OVFL,
    SOCK_TSTAMP_NEW,
)

if TYPE_CHECKING:
    from stack.include.net import cmsg_t
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock

SOL_SOCKET: Final = 1
SCM_TIMESTAMP: Final = 29
SCM_TIMESTAMPNS: Final = 35
SCM_TIMESTAMPING: Final = 37
SO_MARK: Final = 36
SO_RXQ_OVFL: Final = 40
SCM_TIMESTAMP_NEW: Final = 63  # the same bytes on a 64-bit machine
SCM_TIMESTAMPNS_NEW: Final = 64
SCM_TIMESTAMPING_NEW: Final = 65

_CMSG_HEADER: Final = 16
_TWO_LONGS: Final = Struct("=qq")


def put_cmsg(msg: msghdr, level: int, type_: int, data: bytes) -> None:
    """Add ancillary data; MSG_CTRUNC if they do not fit whole (cut), or not at all."""
    room = msg.msg_controllen
    if room < _CMSG_HEADER:
        msg.msg_flags |= MSG_CTRUNC
        return
    if room < _CMSG_HEADER + len(data):
        msg.msg_flags |= MSG_CTRUNC
        data = data[: room - _CMSG_HEADER]
    msg.msg_control.append((level, type_, data))
    msg.msg_controllen = max(room - _CMSG_HEADER - (len(data) + 7 & ~7), 0)


def _timespec(ns: int) -> bytes:
    return _TWO_LONGS.pack(*divmod(ns, 1_000_000_000))


def __sock_recv_timestamp(msg: msghdr, sk: sock, skb: sk_buff) -> None:
    """SO_TIMESTAMP and SO_TIMESTAMPNS say when the packet came (now, if nobody took note then); SO_TIMESTAMPING says
    it only if somebody did."""
    if sk.sk_flags & SOCK_RCVTSTAMP and not skb.tstamp:
        skb.tstamp = sk.sk_net.clock.real_ns()
    put_timestamps(msg, sk, skb.tstamp)


def put_timestamps(msg: msghdr, sk: sock, ns: int) -> None:
    """What a socket asked to be told of a time ``ns`` (of the epoch; 0 is unknown)."""
    new = sk.sk_flags & SOCK_TSTAMP_NEW
    if sk.sk_flags & SOCK_RCVTSTAMPNS:
        put_cmsg(msg, SOL_SOCKET, SCM_TIMESTAMPNS_NEW if new else SCM_TIMESTAMPNS, _timespec(ns))
    elif sk.sk_flags & SOCK_RCVTSTAMP:
        timeval = _TWO_LONGS.pack(ns // 1_000_000_000, ns // 1000 % 1_000_000)
        put_cmsg(msg, SOL_SOCKET, SCM_TIMESTAMP_NEW if new else SCM_TIMESTAMP, timeval)
    if ns and sk.sk_tsflags & SOF_TIMESTAMPING_SOFTWARE:
        kind = SCM_TIMESTAMPING_NEW if new else SCM_TIMESTAMPING
        put_cmsg(msg, SOL_SOCKET, kind, _timespec(ns) + bytes(32))


def sock_recv_timestamp(msg: msghdr, sk: sock, skb: sk_buff) -> None:
    """include/net/sock.h: time stamps of a received packet, or of one in the error queue."""
    flags = sk.sk_tsflags
    if sk.sk_flags & SOCK_RCVTSTAMP or flags & SOF_TIMESTAMPING_RX_SOFTWARE or (
        skb.tstamp and flags & SOF_TIMESTAMPING_SOFTWARE
    ):
        __sock_recv_timestamp(msg, sk, skb)


def sock_recv_cmsgs(msg: msghdr, sk: sock, skb: sk_buff) -> None:
    """What SOL_SOCKET tells of a datagram: when it came, how many were dropped before it, its mark."""
    sock_recv_timestamp(msg, sk, skb)
    if sk.sk_flags & SOCK_RXQ_OVFL and skb.cb is not None and skb.cb.dropcount:
        put_cmsg(msg, SOL_SOCKET, SO_RXQ_OVFL, skb.cb.dropcount.to_bytes(4, "little"))
    if sk.sk_flags & SOCK_RCVMARK:
        put_cmsg(msg, SOL_SOCKET, SO_MARK, skb.mark.to_bytes(4, "little"))


def __sock_tx_timestamp(tsflags: int) -> skb_shared_info:
    """When a packet's time is to be taken, of what SO_TIMESTAMPING asks for; there is no hardware that could."""
    flags = SKBTX_SW_TSTAMP if tsflags & SOF_TIMESTAMPING_TX_SOFTWARE else 0
    flags |= SKBTX_SCHED_TSTAMP if tsflags & SOF_TIMESTAMPING_TX_SCHED else 0
    return skb_shared_info(flags)


def sock_cmsg_tsflags(sk: sock, control: list[cmsg_t]) -> int:
    """net/core/sock.c, sock_cmsg_send(): the time stamps that one sendmsg() asks for, the socket's own unless the
    call brings an SO_TIMESTAMPING; -EINVAL for one that is not about sending."""
    tsflags = sk.sk_tsflags
    for level, type_, data in control:
        if level != SOL_SOCKET:
            continue
        if type_ != SCM_TIMESTAMPING or len(data) != 4:
            return -errno.EINVAL
        wanted = int.from_bytes(data, "little")
        if wanted & ~SOF_TIMESTAMPING_TX_RECORD_MASK:
            return -errno.EINVAL
        tsflags = tsflags & ~SOF_TIMESTAMPING_TX_RECORD_MASK | wanted
    return tsflags
