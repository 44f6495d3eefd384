# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of UDP's socket options: include/uapi/linux/udp.h and include/linux/udp.h."""

from __future__ import annotations

from typing import Final

SOL_UDP: Final = 17

UDP_SEGMENT: Final = 103  # the size of the datagrams that a longer send() is cut into
UDP_GRO: Final = 104  # a receiver that takes them uncut

UDP_MAX_SEGMENTS: Final = 1 << 7
