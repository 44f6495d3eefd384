# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits in a socket's error queue: include/linux/errqueue.h and include/uapi/linux/errqueue.h.

A packet in ``sk_error_queue`` has a ``sock_exterr_skb`` as its ``cb``; what the application reads of it is the
packet's payload, the ``sock_extended_err`` and the address of whoever reported the error (the offender).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stack.include.net import sockaddr

SO_EE_ORIGIN_NONE: Final = 0
SO_EE_ORIGIN_LOCAL: Final = 1
SO_EE_ORIGIN_ICMP: Final = 2
SO_EE_ORIGIN_ICMP6: Final = 3
SO_EE_ORIGIN_TIMESTAMPING: Final = 4
SO_EE_ORIGIN_ZEROCOPY: Final = 5

SO_EE_CODE_ZEROCOPY_COPIED: Final = 1

# struct sock_extended_err: ee_errno, ee_origin, ee_type, ee_code, ee_pad, ee_info, ee_data
SOCK_EXTENDED_ERR: Final = Struct("=IBBBBII")


class sock_exterr_skb:
    """struct sock_exterr_skb: one error.  ``addr`` and ``port`` say where the packet that it is about was going (None
    for a time stamp), ``offender`` who said so (0 where nobody did)."""

    __slots__ = (
        "addr",
        "ee_code",
        "ee_data",
        "ee_errno",
        "ee_info",
        "ee_origin",
        "ee_type",
        "offender",
        "port",
    )

    def __init__(
        self, ee_errno: int, ee_origin: int, ee_type: int = 0, ee_code: int = 0, ee_info: int = 0
    ) -> None:
        self.ee_errno = ee_errno
        self.ee_origin = ee_origin
        self.ee_type = ee_type
        self.ee_code = ee_code
        self.ee_info = ee_info
        self.ee_data = 0
        self.addr: sockaddr | None = None
        self.port = 0
        self.offender = 0

    def pack(self) -> bytes:
        """The C struct sock_extended_err, 16 bytes."""
        return SOCK_EXTENDED_ERR.pack(
            self.ee_errno, self.ee_origin, self.ee_type, self.ee_code, 0, self.ee_info, self.ee_data
        )
