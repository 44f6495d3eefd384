# SPDX-License-Identifier: GPL-2.0-or-later
"""The language in which people say what a device is to do wrong: WHERE:WHAT[:KEY=VALUE,...]

    rx:duplicate-used:at=100               give the 100th receive buffer back twice
    tx:late-used:p=0.01,ms=20              each sent buffer comes back 20 ms late, with a probability of 1 %
    rx:header:at=5,gso_type=1,gso_size=0   the 5th frame's header claims a TSO frame of segments of 0 bytes
    tx0:stuck:at=1000,until=60             nothing comes back on the first transmit queue from the 1000th buffer on,
                                           unless that comes later than 60 s

WHERE is `rx` or `tx`, all receive or all transmit queues; `rx0`, `tx3`, those of one queue pair; `ring4`, a queue by
its index (0 is rx0, 1 is tx0).

WHAT is one of KINDS. Each has an occasion, which is what the numbers in WHEN count: a buffer that is given back, a
frame that is given to the guest (whose buffers may be several), or an interrupt that the driver wants.

WHEN is exactly one of

    at=N       at the N-th occasion after the fault was added, the first being 1; if it cannot be done there (there may
               be no idle buffer to name), at the next one where it can
    every=N    at each N-th
    p=P        at each with probability P

and may be narrowed by `times=N` (no more than so often; 1 for `at`, which then means N in a row), `after=S` and
`until=S` (seconds since the device was opened).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from devmodel.errors import DevModelError

Occasion = Literal["buffer", "frame", "interrupt"]
Value = int | float | str


class FaultScriptError(DevModelError):
    """A fault that nobody can make of the words that were given."""


class Kind(NamedTuple):
    """What can be done wrong. `keys`: its own, with their defaults; None for those that must be given."""

    occasion: Occasion
    text: str
    keys: dict[str, Value | None] = {}


HEADER_FIELDS: Final = (
    "flags",
    "gso_type",
    "hdr_len",
    "gso_size",
    "csum_start",
    "csum_offset",
    "num_buffers",
)
OVER: Final = "over"
FULL: Final = "full"

KINDS: Final[dict[str, Kind]] = {
    "late-used": Kind(
        "buffer",
        "given back late: after `ms` milliseconds, or as soon as `more` others were (0: only after the time); "
        "on a receive queue whole frames, counted by their first buffers",
        {"ms": 10.0, "more": 0},
    ),
    "reorder-used": Kind(
        "buffer",
        "given back behind the next `more` ones, or after 5 ms: legal without VIRTIO_F_IN_ORDER; "
        "on a receive queue whole frames",
        {"more": 1},
    ),
    "duplicate-used": Kind(
        "buffer",
        "given back twice; on a packed ring the second time takes the place of the next buffer, which is lost, "
        "if one comes within a second",
    ),
    "wrong-length": Kind(
        "buffer",
        f"given back with `to` bytes written: a number, {FULL} (all of its room) or {OVER} (a byte more than that)",
        {"to": None},
    ),
    "wrong-head": Kind("buffer", "the used element names another buffer, one that the device does not have"),
    "bad-head": Kind(
        "buffer", "the used element names buffer `to`, the queue's size unless given", {"to": -1}
    ),
    "stuck": Kind("buffer", "from here on nothing is given back, until the driver resets the queue"),
    "header": Kind(
        "frame",
        "fields of the frame's virtio_net_hdr are overwritten: " + ", ".join(HEADER_FIELDS),
        dict.fromkeys(HEADER_FIELDS, -1),
    ),
    "lost-interrupt": Kind("interrupt", "not sent, and the device takes it for sent"),
    "late-interrupt": Kind("interrupt", "sent `ms` milliseconds late", {"ms": 10.0}),
    "spurious-interrupt": Kind(
        "interrupt", "sent, and a second one for nothing `ms` milliseconds later", {"ms": 5.0}
    ),
    "needs-reset": Kind(
        "buffer",
        "VIRTIO_CONFIG_S_NEEDS_RESET in the device status, which a frontend sees that asks (GET_STATUS)",
    ),
    "hang-up": Kind(
        "buffer",
        "the connection to the frontend is closed; QEMU takes the guest's link down until it is connected again",
    ),
}

_WHERE: Final = re.compile(r"(rx|tx|ring)([0-9]{0,5})")
_WHEN: Final = ("at", "every", "p")
_ANY: Final = ("at", "every", "p", "times", "after", "until")
"""Keys of every fault."""
_EXAMPLE: Final = "rx:duplicate-used:at=100"
_U8: Final = 0xFF
_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF
_DAY_MS: Final = 86_400_000.0
_MOST: Final[
    dict[str, float]
] = {  # 5.1.6: flags and gso_type have a byte, the others two; 2.7.8: a used element four
    **dict.fromkeys(HEADER_FIELDS, _U16),
    "flags": _U8,
    "gso_type": _U8,
    "to": _U32,
    "more": _U16,
    "ms": _DAY_MS,
}
"""The most that a fault's own keys can be; the least is 0."""


@dataclass(frozen=True, slots=True)
class Fault:
    """See the module. Of `at`, `every` and `p` one is not 0; `times` 0 is without end; times in seconds."""

    where: str
    what: str
    at: int = 0
    every: int = 0
    p: float = 0.0
    times: int = 0
    after: float = 0.0
    until: float = float("inf")
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """FaultScriptError for what cannot be."""
        if self.what not in KINDS:
            raise FaultScriptError(
                f"no device fault is called {self.what!r}", f"there are {', '.join(KINDS)}", _EXAMPLE
            )
        found = _WHERE.fullmatch(self.where)
        if not found or (found[1] == "ring" and not found[2]):
            raise FaultScriptError(
                f"{self.where!r} is no queue of a device fault", "rx, tx, rx0, tx0, ring0 are", _EXAMPLE
            )
        if KINDS[self.what].occasion == "frame" and found[1] == "tx":
            raise FaultScriptError(
                f"{self.what} is about frames to the guest", f"{self.where!r} takes none", "rx:header:..."
            )
        if sum(map(bool, (self.at, self.every, self.p))) != 1:
            raise FaultScriptError(
                f"{self.where}:{self.what} has to say when", "by one of at, every and p", _EXAMPLE
            )
        counts_fit = min(self.at, self.every, self.times) >= 0 and 0 <= self.p <= 1
        if not counts_fit or not 0 <= self.after < float("inf") or not self.until >= 0:
            raise FaultScriptError(
                f"{self.where}:{self.what} has a number that is none of its kind",
                f"at {self.at}, every {self.every}, p {self.p}, times {self.times}, after {self.after}, "
                f"until {self.until}",
                _EXAMPLE,
            )
        for key, value in self.args.items():
            if not isinstance(value, str) and not 0 <= value <= _MOST[key]:
                raise FaultScriptError(
                    f"{self.where}:{self.what}: {key} cannot be {value}", f"it is from 0 to {_MOST[key]:.0f}"
                )
        if missing := [key for key, value in self.values().items() if value is None]:
            raise FaultScriptError(f"{self.what} has to say {', '.join(missing)}", KINDS[self.what].text)
        if self.what == "header" and all(value == -1 for value in self.values().values()):
            raise FaultScriptError("header has to name a field", KINDS["header"].text)

    def values(self) -> dict[str, Any]:
        """Its own keys, as given or by default."""
        return {**KINDS[self.what].keys, **self.args}

    def is_about(self, index: int) -> bool:
        """Whether the queue with that index is meant."""
        found = _WHERE.fullmatch(self.where)
        assert found is not None
        kind, number = found[1], found[2]
        if kind == "ring":
            return index == int(number)
        return index & 1 == (kind == "tx") and (not number or index // 2 == int(number))

    def __str__(self) -> str:
        """As it would be typed."""
        words = [f"{name}={getattr(self, name)}" for name in (*_WHEN, "times") if getattr(self, name)]
        words += [f"after={self.after:g}"] if self.after else []
        words += [f"until={self.until:g}"] if self.until != float("inf") else []
        words += [f"{name}={value}" for name, value in self.args.items()]
        return f"{self.where}:{self.what}:{','.join(words)}"


def parse(text: str) -> Fault:
    """A fault from its words; FaultScriptError."""
    where, _, rest = text.strip().partition(":")
    what, _, pairs = rest.partition(":")
    if not what:
        raise FaultScriptError(f"{text!r} is no device fault", "it is WHERE:WHAT:KEY=VALUE,...", _EXAMPLE)
    settings: dict[str, Any] = {}
    args: dict[str, Any] = {}
    for pair in filter(None, pairs.split(",")):
        key, equals, value = pair.partition("=")
        own = KINDS[what].keys if what in KINDS else {}
        if not equals or (key not in own and key not in _ANY):
            known = ", ".join([*_ANY, *own])
            raise FaultScriptError(f"{text!r}: {pair!r} is not understood", f"{what} knows {known}", _EXAMPLE)
        (args if key in own else settings)[key] = _number(text, key, value)
    return Fault(where, what, **settings, args=args)


def _number(text: str, key: str, value: str) -> Value:
    if key == "to" and value in (OVER, FULL):
        return value
    try:
        return float(value) if key in ("p", "after", "until", "ms") else int(value, 0)
    except ValueError as error:
        raise FaultScriptError(f"{text!r}: {key} is no number", str(error), _EXAMPLE) from error
