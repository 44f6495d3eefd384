# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets of a run as dicts for JSON: in the answers of the control socket, and in the record of an observation.

Of a frame the headers are kept; the lengths in them tell how long it was.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, Final

from devmodel.middleware.capture import OUTBOUND, Captured
from devmodel.port import Buffer
from stack.inspect.conversation import Packet

HEADERS: Final = 160  # bytes that are kept: Ethernet, IP and TCP with all options


def headers_of(parts: Sequence[Buffer]) -> bytes:
    """Of a frame in pieces."""
    return b"".join(parts)[:HEADERS]


def plain_packet(packet: Captured) -> dict[str, Any]:
    """What ``vnic.feed.Callback`` hands over, for json.dumps."""
    return {
        "stamp_ns": packet.stamp_ns,
        "outbound": packet.direction == OUTBOUND,
        "frame": b64encode(headers_of(packet.parts)).decode(),
        "comment": packet.comment,
    }


def packet_of(plain: dict[str, Any]) -> Packet:
    """A packet again; its frame is the headers."""
    return Packet(plain["stamp_ns"], plain["outbound"], b64decode(plain["frame"]), plain["comment"])
