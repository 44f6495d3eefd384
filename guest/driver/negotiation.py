# SPDX-License-Identifier: GPL-2.0-or-later
"""Feature bits as people write and read them: what to ask for, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from devmodel.virtio.features import VHOST_USER_F_PROTOCOL_FEATURES
from guest.driver.errors import DriverError
from guest.driver.frontend import Frontend
from guest.driver.names import feature_name, protocol_name
from guest.driver.virtio_net import DRIVER_FEATURES

_PREFIXES: Final = ("VIRTIO_NET_F_", "VIRTIO_F_", "VHOST_USER_F_", "VHOST_F_")


class UnknownFeature(DriverError):
    """A name or number that stands for no feature."""

    exit_code = 2


def _bit_of(word: str) -> int:
    if word.isdecimal() and int(word) < 64:
        return int(word)
    plain = word.upper()
    for bit in range(64):
        name = feature_name(bit)
        if plain in (name, *(name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix))):
            return bit
    raise UnknownFeature(
        f"no feature is called {word!r}",
        "names are those of virtio 1.2, with or without prefix; numbers are bits",
        "for example: --features VERSION_1,MRG_RXBUF or --features all,-EVENT_IDX",
    )


def parse_features(text: str) -> int:
    """Words by commas, each adding a bit: `all` (what this driver makes use of), `none`, a name, a number; `-NAME`
    takes one away. UnknownFeature."""
    features = 0
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word == "all":
            features |= DRIVER_FEATURES
        elif word == "none":
            features = 0
        elif word.startswith("-"):
            features &= ~(1 << _bit_of(word[1:]))
        else:
            features |= 1 << _bit_of(word)
    return features


def _table(asked: int, offered: int, acknowledged: int, name: Callable[[int], str]) -> list[dict[str, Any]]:
    return [
        {
            "bit": bit,
            "name": name(bit),
            "asked": bool(asked >> bit & 1),
            "offered": bool(offered >> bit & 1),
            "acknowledged": bool(acknowledged >> bit & 1),
        }
        for bit in range(64)
        if (asked | offered) >> bit & 1
    ]


def describe(frontend: Frontend, asked: int) -> dict[str, Any]:
    """Each bit that somebody has, and who: a dict for JSON. `asked` are the features that the driver would have."""
    asked |= 1 << VHOST_USER_F_PROTOCOL_FEATURES
    wanted = frontend.wanted_protocol
    return {
        "features": _table(asked, frontend.offered, frontend.features, feature_name),
        "protocol_features": _table(
            wanted, frontend.offered_protocol, frontend.protocol_features, protocol_name
        ),
        "queue_pairs": frontend.queue_pairs,
        "memory_slots": frontend.mem_slots,
    }
