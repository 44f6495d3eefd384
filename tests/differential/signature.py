# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP-MD5 signatures (RFC 2385) of the raw client, and the option that gives a server its key."""

from __future__ import annotations

import hashlib
import socket
import struct
from typing import Final

TCP_MD5SIG: Final = 14
TCP_MD5SIG_EXT: Final = 32
FLAG_PREFIX: Final = 1
TCPOPT_MD5SIG: Final = 19

KEY: Final = b"the key of both ends"
OTHER_KEY: Final = b"a key of nobody else"

UNSIGNED: Final = b"\x01\x01\x13\x12" + bytes(16)
"""The option aligned to four bytes, its digest still to come."""

_NAMES: Final = {KEY: "good", OTHER_KEY: "of the other key"}


def digest(addresses: bytes, segment: bytes, key: bytes) -> bytes:
    """Of a whole TCP segment; ``addresses`` are the source and the destination, eight bytes (section 2.0)."""
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
    header = segment[:16] + b"\0\0" + segment[18:20]
    return hashlib.md5(pseudo + header + segment[(segment[12] >> 4) * 4 :] + key).digest()


def sign(addresses: bytes, segment: bytes, key: bytes) -> bytes:
    """The segment, which has UNSIGNED as its first option, with the digest."""
    return segment[:24] + digest(addresses, segment, key) + segment[40:]


def verdict(addresses: bytes, segment: bytes, value: bytes) -> str:
    """Which of the two keys made that digest."""
    return next((name for key, name in _NAMES.items() if digest(addresses, segment, key) == value), "bad")


def key_option(
    address: str, key: bytes = KEY, *, prefix: int | None = None, family: int = socket.AF_INET
) -> tuple[int, int, bytes]:
    """Arguments of setsockopt() that set (or, with an empty key, take away) a peer's key: struct tcp_md5sig."""
    peer = struct.pack("=H", family) + b"\0\0" + socket.inet_aton(address) + bytes(120)
    flags = 0 if prefix is None else FLAG_PREFIX
    value = peer + struct.pack("=BBHi", flags, prefix or 0, len(key), 0) + key.ljust(80, b"\0")
    return socket.IPPROTO_TCP, TCP_MD5SIG if prefix is None else TCP_MD5SIG_EXT, value
