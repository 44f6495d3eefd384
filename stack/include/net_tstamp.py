# SPDX-License-Identifier: GPL-2.0-or-later
"""SO_TIMESTAMPING's flags: include/uapi/linux/net_tstamp.h, and SKBTX_* of include/linux/skbuff.h."""

from __future__ import annotations

from typing import Final

SOF_TIMESTAMPING_TX_HARDWARE: Final = 1 << 0
SOF_TIMESTAMPING_TX_SOFTWARE: Final = 1 << 1
SOF_TIMESTAMPING_RX_HARDWARE: Final = 1 << 2
SOF_TIMESTAMPING_RX_SOFTWARE: Final = 1 << 3
SOF_TIMESTAMPING_SOFTWARE: Final = 1 << 4
SOF_TIMESTAMPING_SYS_HARDWARE: Final = 1 << 5
SOF_TIMESTAMPING_RAW_HARDWARE: Final = 1 << 6
SOF_TIMESTAMPING_OPT_ID: Final = 1 << 7
SOF_TIMESTAMPING_TX_SCHED: Final = 1 << 8
SOF_TIMESTAMPING_TX_ACK: Final = 1 << 9
SOF_TIMESTAMPING_OPT_CMSG: Final = 1 << 10
SOF_TIMESTAMPING_OPT_TSONLY: Final = 1 << 11
SOF_TIMESTAMPING_OPT_STATS: Final = 1 << 12
SOF_TIMESTAMPING_OPT_PKTINFO: Final = 1 << 13
SOF_TIMESTAMPING_OPT_TX_SWHW: Final = 1 << 14
SOF_TIMESTAMPING_BIND_PHC: Final = 1 << 15
SOF_TIMESTAMPING_OPT_ID_TCP: Final = 1 << 16
SOF_TIMESTAMPING_TX_RECORD_MASK: Final = (
    SOF_TIMESTAMPING_TX_HARDWARE
    | SOF_TIMESTAMPING_TX_SOFTWARE
    | SOF_TIMESTAMPING_TX_SCHED
    | SOF_TIMESTAMPING_TX_ACK
)

# When a packet's time is taken (skb_shared_info.tx_flags)
SKBTX_SW_TSTAMP: Final = 1 << 1
SKBTX_SCHED_TSTAMP: Final = 1 << 6
SKBTX_ANY_TSTAMP: Final = SKBTX_SW_TSTAMP | SKBTX_SCHED_TSTAMP

# ee_info of a time stamp in the error queue (include/uapi/linux/errqueue.h)
SCM_TSTAMP_SND: Final = 0
SCM_TSTAMP_SCHED: Final = 1
SCM_TSTAMP_ACK: Final = 2
