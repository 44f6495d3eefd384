# SPDX-License-Identifier: GPL-2.0-or-later
"""The rings of a device for people: who runs, what is broken and why, what became of the notifications.

Lines of at most 80 columns as long as the numbers have up to seven digits; a diagnosis is folded there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any, Final

WIDTH: Final = 80
REMEDY: Final = (
    "the driver has to reset the device: reboot the guest, or in a Linux guest, as root:"
    " cd /sys/bus/virtio/drivers/virtio_net; echo virtio0 > unbind; echo virtio0 > bind"
)
_KICKS: Final = ("kicks", "spurious", "lost", "at_start", "suppressed", "batches")
_INTERRUPTS: Final = (
    ("shown", "shown"),
    ("supp.", "suppressed"),
    ("coal.", "coalesced"),
    ("sent", "sent"),
    ("unsent", "unsent"),
    ("lost", "lost"),
    ("settled", "settled"),
    ("fresh", "fresh"),
)
"""The others are in the JSON: needed and stopped follow from these, held and timed are of drivers with NOTF_COAL."""


def table(rings: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each ring, and what there is to say of those that broke."""
    rings = list(rings)
    if not rings:
        return []
    heads = ("ring", "queue", "size", "state", "broke", "steered")
    rows = [(_row(ring), "rlrlrr") for ring in rings]
    return [*_aligned(heads, rows), *(line for ring in rings for line in diagnosis(ring))]


def _row(ring: dict[str, Any]) -> tuple[str, ...]:
    state = ring["state"]
    if state == "running" and not ring["enabled"]:
        state = "disabled"
    steered = str(ring["steered"]) if "steered" in ring else "-"
    return (str(ring["index"]), ring["name"], str(ring["size"]), state, str(ring["breaks"]), steered)


def diagnosis(ring: dict[str, Any]) -> list[str]:
    """Why a ring is broken and what to do; of one that was, why and what ended it; nothing of others."""
    last = ring["last_break"]
    if last is None:
        return []
    if ring["state"] == "broken":
        parts = (
            (f"ring {ring['index']} ", f"{last['fact']}, {_seconds(last['ago_s'])} ago"),
            ("  because: ", last["evidence"]),
            ("  to mend it: ", REMEDY),
        )
    else:
        times = "once" if ring["breaks"] == 1 else f"{ring['breaks']} times, last"
        ended = last["ended_by"] or "nothing that is known"
        parts = (
            (f"ring {ring['index']} ", f"was broken {times} {_seconds(last['ago_s'])} ago: {last['rule']}"),
            ("  because: ", last["evidence"]),
            ("  ended by: ", ended),
        )
    return [line for head, text in parts for line in _folded(head, text)]


def _folded(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent="    ", break_long_words=True)


def _seconds(number: float) -> str:
    return f"{number:.3f} s" if number < 10 else f"{number:.0f} s"


def audit(rings: Iterable[dict[str, Any]]) -> list[str]:
    """Kicks and interrupts of each ring, in the terms of devmodel/virtio/audit.py."""
    rings = list(rings)
    if not rings:
        return []
    kicks = [((str(ring["index"]), *_numbers(ring["audit"]["kicks"], _KICKS)), "r" * 7) for ring in rings]
    fields = tuple(field for _, field in _INTERRUPTS)
    interrupts = [
        ((str(ring["index"]), *_numbers(ring["audit"]["interrupts"], fields)), "r" * (1 + len(fields)))
        for ring in rings
    ]
    return [
        "kicks, from the driver",
        *_aligned(("ring", *_KICKS), kicks),
        "interrupts, to the driver (supp.: not wanted; coal.: another ring's went out)",
        *_aligned(("ring", *(head for head, _ in _INTERRUPTS)), interrupts),
    ]


def _numbers(counts: dict[str, int], fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(counts[field]) for field in fields)


def _aligned(heads: tuple[str, ...], rows: list[tuple[tuple[str, ...], str]]) -> list[str]:
    widths = [max(len(row[n]) for row in (heads, *(cells for cells, _ in rows))) for n in range(len(heads))]
    lines = []
    for cells, sides in [(heads, rows[0][1]), *rows]:
        words = (
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(cells, widths, sides, strict=True)
        )
        lines.append("  ".join(words).rstrip())
    return lines
