# SPDX-License-Identifier: GPL-2.0-or-later
"""Walking over extension headers without working them: net/ipv6/exthdrs_core.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.ipv6 import (
    IP6_MF,
    IP6_OFFSET,
    NEXTHDR_AUTH,
    NEXTHDR_DEST,
    NEXTHDR_FRAGMENT,
    NEXTHDR_HOP,
    NEXTHDR_NONE,
    NEXTHDR_ROUTING,
)

if TYPE_CHECKING:
    from stack.include.ipv6 import Buffer

_EXTENSIONS: Final = frozenset(
    (NEXTHDR_HOP, NEXTHDR_ROUTING, NEXTHDR_FRAGMENT, NEXTHDR_AUTH, NEXTHDR_NONE, NEXTHDR_DEST)
)


def ipv6_ext_hdr(nexthdr: int) -> bool:
    """Whether the value names an extension header (or the end)."""
    return nexthdr in _EXTENSIONS


def ipv6_skip_exthdr(buf: Buffer, start: int, end: int, nexthdr: int) -> tuple[int, int, int] | None:
    """The upper header behind the extension headers from ``start`` on: (its offset, its next-header value, offset and
    more-bit of the fragment header on the way, 0 without one); None if the bytes end before, or nothing follows.
    Behind the header of a fragment that is not the first there is no upper header: the walk ends there."""
    frag_off = 0
    while ipv6_ext_hdr(nexthdr):
        if nexthdr == NEXTHDR_NONE or start + 8 > end:
            return None
        length = (buf[start + 1] + 1) * 8
        if nexthdr == NEXTHDR_FRAGMENT:
            frag_off = int.from_bytes(buf[start + 2 : start + 4], "big") & (IP6_OFFSET | IP6_MF)
            if frag_off & IP6_OFFSET:
                return start + 8, buf[start], frag_off
            length = 8
        elif nexthdr == NEXTHDR_AUTH:
            length = (buf[start + 1] + 2) * 4
        nexthdr = buf[start]
        start += length
    return (start, nexthdr, frag_off) if start <= end else None
