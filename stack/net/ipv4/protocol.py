# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of IP protocols: net/ipv4/protocol.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stack.include.ip import net_protocol

if TYPE_CHECKING:
    from stack.stack import Stack


def inet_add_protocol(net: Stack, prot: net_protocol, protocol: int) -> int:
    """0, or -1 if the number is taken."""
    if net.inet_protos[protocol] is not None:
        return -1
    net.inet_protos[protocol] = prot
    return 0
