# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of next-header values: net/ipv6/protocol.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stack.include.ipv6 import inet6_protocol

if TYPE_CHECKING:
    from stack.stack import Stack


def inet6_add_protocol(net: Stack, prot: inet6_protocol, protocol: int) -> int:
    """0, or -1 if the number is taken."""
    if net.inet6_protos[protocol] is not None:
        return -1
    net.inet6_protos[protocol] = prot
    return 0
