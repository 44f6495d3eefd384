# SPDX-License-Identifier: GPL-2.0-or-later
"""The targets of `make fuzz` without a fuzzer: over their corpus, over what is made of it, and over random bytes.

And what they would find: each kind of finding is planted once.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import fuzztargets
import pytest
from fuzztargets import CORPUS, DEVICE, HIGH, TARGETS, Finding, Painted, corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devmodel.vhost_user.backend_channel import BackendChannel
from devmodel.vhost_user.session import Session
from devmodel.virtio.ctrl import ControlQueue
from devmodel.virtio.dirtylog import DirtyLog
from devmodel.virtio.inflight import PackedState, Recovered, SplitState
from devmodel.virtio.iotlb import Iotlb, IotlbMemory
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.ring_tracked import TrackedPackedRing, TrackedSplitRing
from devmodel.virtio.state import StateReader, commands_of

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]

MUTANTS = 60
FILES = [pytest.param(name, path, id=f"{name}/{path.name}") for name in TARGETS for path in corpus(name)]


@pytest.mark.parametrize(("name", "path"), FILES)
def test_corpus_finds_nothing(name: str, path: Path) -> None:
    TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=600))
def test_any_bytes_find_nothing(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_corpus_finds_nothing(name: str) -> None:
    rng = random.Random(name)
    seeds = [path.read_bytes() for path in corpus(name)]
    for _ in range(MUTANTS):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        TARGETS[name](bytes(data[: rng.randint(1, len(data))]))


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(corpus(name) for name in TARGETS)


def test_corpus_is_a_few_kilobytes() -> None:
    assert sum(path.stat().st_size for name in TARGETS for path in corpus(name)) < 32 << 10


# -- whether the corpus gets anywhere -------------------------------------------------------------------------------


def calls_in(name: str, kind: type, method: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a target's corpus gets to a method and through it."""
    count = 0
    original: Callable[..., object] = getattr(kind, method)

    def counting(*arguments: object, **named: object) -> object:
        nonlocal count
        result = original(*arguments, **named)
        count += bool(result) or result is None
        return result

    monkeypatch.setattr(kind, method, counting)
    for path in corpus(name):
        TARGETS[name](path.read_bytes())
    return count


def test_corpus_of_the_session_starts_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls_in("session", Session, "_make_ring", monkeypatch)


@pytest.mark.parametrize("name", ["split_ring", "packed_ring"])
@pytest.mark.parametrize("method", ["receive", "transmit"])
def test_corpus_of_the_rings_moves_frames(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(net: VirtioNet, *arguments: object) -> object:
        result = original(net, *arguments)  # type: ignore[arg-type]
        frames.append(net.counters.rx_frames + net.counters.tx_frames)
        return result

    frames: list[int] = []
    original = getattr(VirtioNet, method)
    monkeypatch.setattr(VirtioNet, method, moved)
    for path in corpus(name):
        TARGETS[name](path.read_bytes())
    assert max(frames) > 0


@pytest.mark.parametrize(
    ("name", "kind", "method"),
    [
        ("dirty_log", DirtyLog, "mark"),
        ("inflight", SplitState, "recover"),
        ("inflight", PackedState, "recover"),
        ("inflight", TrackedSplitRing, "pop"),
        ("inflight", TrackedPackedRing, "pop"),
        ("iotlb", IotlbMemory, "area"),
        ("iotlb", Iotlb, "invalidate"),
        ("backend_channel", BackendChannel, "feed"),
        ("device_state", ControlQueue, "process"),
        ("device_state", StateReader, "finish"),
    ],
)
def test_corpus_gets_through(name: str, kind: type, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls_in(name, kind, method, monkeypatch)


# -- what would be found --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 0x7FFF, 0x8000, HIGH, HIGH + 0x1FFF])
def test_byte_written_where_nobody_gave_memory_is_found(where: int) -> None:
    painted = Painted()
    painted.remember()
    painted.view(where, 1)[0] ^= 1
    painted.check([(where, 1)])
    with pytest.raises(Finding, match=f"{where:#x}"):
        painted.check([(where + 1, 100), (where - 1, 1)])


def test_device_that_writes_beside_its_used_ring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = SplitRing.publish

    def slipping(ring: SplitRing) -> bool:
        (piece,) = ring._memory.pieces(DEVICE + 6 + 8 * ring.num, 1) or []
        piece[0] = 0xEE
        return publish(ring)

    monkeypatch.setattr(SplitRing, "publish", slipping)
    data = (CORPUS / "split_ring" / "receive").read_bytes()
    with pytest.raises(Finding, match="nobody gave it"):
        TARGETS["split_ring"](data)


def test_byte_that_is_written_and_not_logged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirtyLog, "mark", lambda *_: None)
    with pytest.raises(Finding, match="not logged"):
        TARGETS["dirty_log"]((CORPUS / "dirty_log" / "split_receive").read_bytes())


def test_translation_that_does_not_hold_any_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Iotlb, "invalidate", lambda *_: None)
    with pytest.raises(Finding):
        TARGETS["iotlb"]((CORPUS / "iotlb" / "pages").read_bytes())


@pytest.mark.parametrize("kind", [SplitState, PackedState])
def test_recovery_that_forgets_a_buffer_is_found(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    recover = kind.recover  # type: ignore[attr-defined]

    def forgetting(state: object, *arguments: object) -> object:
        found = recover(state, *arguments)
        if isinstance(found, Recovered):
            return found._replace(taken=found.taken[1:])
        heads, counter = found
        return heads * 2, counter

    monkeypatch.setattr(kind, "recover", forgetting)
    name = "split_two_taken" if kind is SplitState else "packed_two_taken"
    with pytest.raises(Finding):
        TARGETS["inflight"]((CORPUS / "inflight" / name).read_bytes())


def test_answer_to_another_request_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = BackendChannel.feed

    def confused(channel: BackendChannel, data: bytes) -> object:
        answer = feed(channel, data)
        return None if answer is None else answer._replace(what=answer.what + 1)

    monkeypatch.setattr(BackendChannel, "feed", confused)
    with pytest.raises(Finding, match="another request"):
        TARGETS["backend_channel"]((CORPUS / "backend_channel" / "answers").read_bytes())


def test_device_whose_state_leaves_something_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second device made from the state would be another one."""
    said = itertools.count()

    def forgetful(net: VirtioNet) -> tuple[bytes, ...]:
        return commands_of(net)[next(said) :]

    monkeypatch.setattr("devmodel.virtio.state.commands_of", forgetful)
    with pytest.raises(Finding, match="not what was saved"):
        TARGETS["device_state"]((CORPUS / "device_state" / "filters").read_bytes())


def test_descriptor_that_is_not_closed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    close = Session.close

    def leaking(session: Session) -> object:
        kept.append(os.dup(0))
        return close(session)

    monkeypatch.setattr(Session, "close", leaking)
    try:
        with pytest.raises(Finding, match="1 descriptors left open"):
            TARGETS["session"](b"\0\0\x03")
    finally:
        for fd in kept:
            os.close(fd)


def test_exception_of_a_part_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_net: object, *_: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr(fuzztargets.VirtioNet, "_parse", broken)
    with pytest.raises(IndexError, match="planted"):
        TARGETS["net_header"](b"\0" * 100)
