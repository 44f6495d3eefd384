# SPDX-License-Identifier: GPL-2.0-or-later
"""A device's life of resets, reconnects and changing memory leaves nothing behind; `bench.soak` says how that is seen.

A quarter of an hour and a few events over a socket run always, days with VNIC_HEAVY=1.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench import soak
from bench.soak import Census, Guest, InProcess

DEEDS = {
    "chat",
    "flood",
    "reset",
    "reset_queue",
    "come_back",
    "come_anew",
    "change_memory",
    "lose_memory",
    "disable",
    "break_ring",
    "be_refused",
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Rings are broken by the hundred, and a log that is kept is memory."""
    caplog.set_level(logging.CRITICAL)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Modules are loaded and the allocator's arenas made before anything is counted."""
    logging.disable(logging.CRITICAL)
    soak.in_process(0.1, 9)
    logging.disable(logging.NOTSET)


def check(result: soak.Result) -> None:
    assert result.leaks == []
    assert set(result.events) == DEEDS
    assert result.frames > 10 * sum(result.events.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_quarter_of_an_hour_leaves_nothing_behind(seed: int) -> None:
    check(soak.in_process(0.25, seed))


@pytest.mark.slow
def test_hundred_events_over_a_socket_leave_no_descriptor_and_no_mapping() -> None:
    result = soak.over_socket(100, 3)
    check(result)
    assert {mark.readers for mark in result.marks} == {2}, "the listener, and asyncio's own"


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_day_leaves_nothing_behind(seed: int) -> None:
    check(soak.in_process(24, seed))


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_thousands_of_events_over_a_socket_leave_nothing_behind(seed: int) -> None:
    check(soak.over_socket(4000, seed))


def test_same_seed_is_the_same_life() -> None:
    first, again = (soak.in_process(0.03, 5) for _ in range(2))
    assert (first.events, first.frames) == (again.events, again.frames)


# -- whether a leak would be seen -----------------------------------------------------------------------------------

FLAT = Census(6.0, fds=6, maps=0, timers=0, readers=1, blocks=80_000, rss_kib=30_000)


def test_mark_with_the_same_counts_is_no_leak() -> None:
    assert soak.leaks([FLAT, replace(FLAT, at=12.0, blocks=81_000, rss_kib=31_000)]) == []


@pytest.mark.parametrize(
    ("name", "more"),
    [("fds", 1), ("maps", 1), ("timers", 1), ("readers", 1), ("blocks", 2001), ("rss_kib", 2049)],
)
def test_mark_with_more_is_a_leak_that_has_a_name(name: str, more: int) -> None:
    grown = replace(FLAT, at=24.0, **{name: getattr(FLAT, name) + more})
    (found,) = soak.leaks([FLAT, FLAT, grown])
    assert found.startswith(f"{name}: {getattr(FLAT, name)} at 6, ")


@pytest.fixture
def kept() -> Iterator[list[object]]:
    """What a planted leak holds on to."""
    held: list[object] = []
    yield held
    for what in held:
        if isinstance(what, int):
            os.close(what)


@pytest.mark.parametrize("name", ["fds", "maps", "timers", "blocks"])
def test_leak_of_one_for_each_reset_is_found(
    name: str, kept: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    reset = Guest.reset

    def leaking(guest: Guest) -> None:
        reset(guest)
        assert isinstance(guest.line, InProcess)
        if name == "fds":
            kept.append(os.dup(0))
        elif name == "maps":
            assert guest.memory is not None
            kept.append(mmap.mmap(guest.memory.fd, 4096))
        elif name == "timers":
            guest.line.loop.call_later(1e9, list)
        else:
            kept.append([bytes(100) for _ in range(3000)])

    monkeypatch.setattr(Guest, "reset", leaking)
    found = soak.in_process(0.15, 1).leaks
    assert any(leak.startswith(name) for leak in found), found
