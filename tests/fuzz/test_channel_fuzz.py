# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded fuzzing of the back-end channel, IOTLB messages and configuration space: no translation is ever stale, and
whatever a frontend says costs it nothing but its own channel or rings."""

from __future__ import annotations

import contextlib
import gc
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mirror import FEATURES, Mirror
from vu_driver import RAM_SIZE, SPLIT, UVA, GuestRam

from devmodel.errors import FrontendError
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.backend_channel import BackendChannel, BackendRequest, iotlb_message
from devmodel.vhost_user.message import Message, Request
from devmodel.virtio.config import NetConfig
from devmodel.virtio.iotlb import PAGE, READ, WRITE, Iotlb, IotlbMemory, IotlbMiss
from guest.driver.channel import invalidation
from guest.driver.errors import BackendHungUp
from guest.driver.iommu import EVERYTHING
from guest.driver.loop import World
from guest.driver.virtio_net import RX, TX
from guest.driver.virtqueue import QueueFull

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]
bounded = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

small = st.integers(0, 40)
edge = st.sampled_from([0, 1, PAGE - 1, PAGE, (1 << 64) - PAGE, (1 << 64) - 1, SPLIT, RAM_SIZE])


@bounded
@given(
    st.lists(
        st.tuples(st.booleans(), small, st.integers(0, 12), st.integers(0, 3), st.integers(1, 3)), max_size=40
    )
)
def test_cache_never_says_what_does_not_hold_any_more(steps: list[tuple[bool, int, int, int, int]]) -> None:
    ram = GuestRam()
    memory = ram.map()
    tlb = Iotlb(memory)
    truth: dict[int, tuple[int, int]] = {}  # address: user address, access
    for update, iova, size, place, access in steps:
        if update and size:
            uva = UVA + place * PAGE
            tlb.update(iova, size, uva, access)
            truth |= {iova + at: (uva + at, access) for at in range(size)}
            assert all(tlb.covers(iova + at, access) for at in range(size))
        else:
            tlb.invalidate(iova, size)
            for at in range(iova, iova + size) if size else list(truth):
                truth.pop(at, None)
        assert tlb._starts == sorted(run.start for run in tlb._runs)
        for address in range(60):
            run = tlb.find(address)
            if run is not None:
                assert truth[address] == (run.uva + address - run.start, run.access)
    tlb.clear()
    memory.close()
    ram.close()


@bounded
@given(
    runs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 3)), max_size=8),
    start=st.one_of(st.integers(0, 7 * PAGE), edge),
    size=st.one_of(st.integers(0, 4 * PAGE), st.integers(0, 0xFFFFFFFF)),
    access=st.sampled_from([READ, WRITE]),
)
def test_pieces_are_the_bytes_or_a_miss_or_nothing(
    runs: list[tuple[int, int, int]], start: int, size: int, access: int
) -> None:
    ram = GuestRam()
    memory = ram.map()
    ram.write(0, bytes(number % 251 for number in range(16 * PAGE)))
    through = IotlbMemory(Iotlb(memory))
    table: dict[int, tuple[int, int]] = {}
    for page, place, allowed in runs:
        through.tlb.update(page * PAGE, PAGE, UVA + place * PAGE, allowed)
        table[page] = (place, allowed)
    missing: tuple[int, ...] = ()
    pieces = None
    try:
        pieces = through.pieces(start, size, access)
    except IotlbMiss as miss:
        missing = miss.missing
    assert all(iova // PAGE not in table for iova in missing)
    if pieces is not None:
        got = b"".join(pieces)
        pages = range(start // PAGE, (start + max(size, 1) - 1) // PAGE + 1)
        assert all(table[page][1] & access for page in pages)
        whole = b"".join(ram.read(table[page][0] * PAGE, PAGE) for page in pages)
        assert got == whole[start % PAGE : start % PAGE + size]
    through.tlb.clear()
    memory.close()
    ram.close()


@bounded
@given(
    asked=st.lists(st.sampled_from([1, 2, 4]), max_size=6),
    said=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(vu.encode_reply, st.sampled_from([1, 2, 4]), st.just(bytes(8))),
        ),
        max_size=6,
    ),
    cut=st.integers(1, 20),
)
def test_any_words_on_the_channel_are_answers_or_its_end(
    asked: list[int], said: list[bytes], cut: int
) -> None:
    channel = BackendChannel(True)
    for what, request in enumerate(asked):
        channel.request(BackendRequest(request), b"", what, answered=True)
    words, heard, lost = b"".join(said), [], None
    try:
        while words:
            take = min(cut, channel.wants)
            answer = channel.feed(words[:take])
            words = words[take:]
            heard += [] if answer is None else [answer]
    except FrontendError as error:
        lost = channel.close(error.fact)
    assert lost is None or len(heard) + len(lost) == len(asked)
    assert [(answer.request, answer.what) for answer in heard] == [
        (request, what) for what, request in enumerate(asked)
    ][: len(heard)]


u64 = st.one_of(st.integers(0, 16 * PAGE), edge, st.integers(0, (1 << 64) - 1))
iotlb = st.builds(
    iotlb_message,
    u64,
    st.one_of(st.just(PAGE), u64),
    st.one_of(st.integers(0x7F00_0000_0000, 0x7F00_0080_0000), u64),
    st.integers(0, 5),
    st.sampled_from([1, 2, 2, 2, 3, 3, 4, 9]),
)
config = st.builds(
    lambda offset, size, flags, data: vu.CONFIG.pack(offset, size, flags) + data,
    st.sampled_from([0, 5, 6, 23, 24, 255, 256, 0xFFFFFFFF]),
    st.sampled_from([0, 1, 6, 24, 256, 257, 0xFFFFFFFF]),
    st.integers(0, 2),
    st.binary(min_size=1, max_size=30),
)
messages = st.one_of(
    st.tuples(st.just(Request.VHOST_USER_IOTLB_MSG), iotlb),
    st.tuples(st.sampled_from([Request.VHOST_USER_GET_CONFIG, Request.VHOST_USER_SET_CONFIG]), config),
    st.tuples(
        st.just(Request.VHOST_USER_VRING_KICK), st.builds(vu.VRING_STATE.pack, st.integers(0, 4), small)
    ),
    st.tuples(st.just(Request.VHOST_USER_SET_BACKEND_REQ_FD), st.just(b"")),
    st.tuples(st.just(-1), st.binary(max_size=30)),
    st.tuples(st.just(-2), st.sampled_from([RX, TX])),
)


@settings(bounded, max_examples=50)
@given(
    steps=st.lists(messages, max_size=30), kind=st.sampled_from(["plain", "packed+event"]), mute=st.booleans()
)
def test_frontend_with_iommu_and_config_may_say_anything(
    steps: list[tuple[int, bytes | int]], kind: str, mute: bool
) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    world = World(iommu="strict", config=NetConfig(mac=bytes(6)), inband=True)
    world.start(FEATURES[kind], 16)
    world.lose_requests = 1000 if mute else 0
    for request, what in steps:
        if request == -1:
            assert isinstance(what, bytes)
            world.link.answer(what)
        elif request == -2:
            assert isinstance(what, int)
            world.link.kick(what)
        elif not world.link.hung_up():
            assert isinstance(what, bytes)
            fds = (os.dup(world.memory.fd),) if request == Request.VHOST_USER_SET_BACKEND_REQ_FD else ()
            world.link.perform(world.link.session.handle(Message(request, 9, what, fds)))
            world.link._replies.clear()
        with contextlib.suppress(QueueFull, BackendHungUp):
            world.send(bytes(60))
        world.port.send(None, [bytes(60)])
        world.port.flush()
        world.sleep(0.01)
    assert not world.link.hung_up(), "what asks for an acknowledgement is refused by one"
    world.close()
    del world  # its driver's views keep the memory mapped
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@bounded
@given(
    steps=st.lists(
        st.sampled_from(["send", "send", "settle", "forget", "wait", "new channel", "back"]), max_size=40
    ),
    kind=st.sampled_from(sorted(FEATURES)),
    delay=st.sampled_from([0.0, 0.001, 0.03]),
    flush=st.sampled_from(["strict", "lazy"]),
)
def test_frames_are_neither_lost_nor_doubled_whatever_is_forgotten(
    steps: list[str], kind: str, delay: float, flush: str
) -> None:
    world = World(iommu=flush, layout="pieces")
    world.channel_delay_s = delay
    Mirror(world.port)
    driver = world.start(FEATURES[kind], 16)
    world.sleep(1)
    sent: list[bytes] = []
    for number, step in enumerate(steps):
        if step == "send":
            frame = number.to_bytes(2, "big") * (30 + number * 17 % 700)
            try:
                driver.queue(frame)
            except QueueFull:
                continue
            sent.append(frame)
            if driver.tx.publish():
                world.kick(TX)
        elif step == "forget":
            message = invalidation(*EVERYTHING)
            world.link.run(world.frontend.request(Request.VHOST_USER_IOTLB_MSG, message))
        elif step == "new channel":
            fds = [world.frontend.channel_fd]
            world.link.run(world.frontend.request(Request.VHOST_USER_SET_BACKEND_REQ_FD, fds=fds))
        elif step == "settle":
            world.settle()
        elif step == "wait":
            world.sleep(0.02)
        else:
            world.poll()
    world.sleep(3)
    assert [frame for _, frame in world.received] == sent
    stats = world.port.stats()
    assert stats["broken_rings"] == stats["tx_dropped"] == stats["lost_kicks"] == 0
    world.close()
