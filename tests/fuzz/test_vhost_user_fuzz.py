# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded fuzzing: whatever a frontend or a guest sends, nothing but the errors made for it may come out."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from vu_driver import MODERN, PACKED, RAM_SIZE, DriverRing, GuestRam, PackedDriverRing, SessionFrontend

from devmodel.errors import BrokenRing, FrontendError
from devmodel.netdev.offload import finish
from devmodel.port import VnetHdr
from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import MessageReader
from devmodel.virtio import features as vf
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.ring_packed import PackedRing, bad_base

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]
bounded = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
near = st.one_of(
    st.integers(0, 64), st.sampled_from([RAM_SIZE - 1, RAM_SIZE, 1 << 20, (1 << 20) - 8, 2**63, 2**64 - 1])
)


@bounded
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(1, 20), max_size=50))
def test_reader_any_bytes_end_in_messages_or_an_error(data: bytes, cuts: list[int]) -> None:
    reader = MessageReader()
    rest, consumed = data, 0
    for cut in cuts:
        piece = rest[: min(cut, reader.wants)]
        if not piece:
            break
        rest = rest[len(piece) :]
        try:
            message = reader.feed(piece)
        except FrontendError:
            return
        consumed += len(piece)
        if message is not None:
            assert len(message.payload) <= vu.MAX_PAYLOAD
            assert reader.idle
    assert consumed == len(data) - len(rest)


WORDS = [MODERN, PACKED, MODERN | vf.mask(vf.VHOST_F_LOG_ALL), vs.PROTOCOL_FEATURES, 1 << 30, 0, 0x100, 0x101]

payloads = st.one_of(
    st.builds(vu.LOG.pack, st.one_of(near, st.sampled_from([128, 4096])), near),
    st.builds(vu.DEVICE_STATE.pack, st.integers(0, 2), st.integers(0, 1)),
    st.builds(vu.VRING_ADDR.pack, st.integers(0, 2), st.integers(0, 1), *[near] * 4),
    st.builds(
        vu.U64.pack,
        st.one_of(
            near,
            st.sampled_from(
                [MODERN, PACKED, MODERN | 1 << 26, vs.PROTOCOL_FEATURES, 1 << 30, 0, 0x100, 0x101]
            ),
        ),
    ),
    st.builds(vu.VRING_STATE.pack, st.integers(0, 3), st.one_of(u32, st.sampled_from([0, 1, 16, 256]))),
    st.binary(max_size=300),
    st.just(b""),
)


@bounded
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([*vu.RULES, 0, 33, 99]), payloads, st.integers(0, 3), st.booleans()),
        max_size=25,
    ),
    warm=st.booleans(),
    packed=st.booleans(),
)
def test_session_any_messages_leave_no_descriptor_and_raise_nothing(
    steps: list[tuple[int, bytes, int, bool]], warm: bool, packed: bool
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fe = SessionFrontend(packed=packed)
    if warm:
        fe.negotiate()
        fe.start()
    for request, payload, count, need_reply in steps:
        actions = fe.request(request, payload, [fe.ram.fd] * count, need_reply)
        assert sum(isinstance(action, va.Reply) for action in actions) <= 1
        for vring in fe.session.vrings:
            if vring.ring is not None:
                try:
                    fe.session.net.receive(vring.ring, 4)
                except BrokenRing as error:
                    fe.carry_out(fe.session.quarantine(vring.index, error))
    fe.close()
    assert len(os.listdir("/proc/self/fd")) == before


descriptors = st.tuples(near, st.one_of(st.integers(0, 5000), u32), st.integers(0, 7), st.integers(0, 20))


@bounded
@given(
    table=st.lists(descriptors, min_size=16, max_size=16),
    heads=st.lists(st.integers(0, 17), max_size=16),
    indirect=st.lists(descriptors, min_size=1, max_size=8),
    idx=st.one_of(st.none(), u16),
    data=st.binary(max_size=40),
)
@example(  # a readable chain behind a writable one that is too small: two were taken when the rule broke
    table=[(0, 0, 0, 0)] * 2 + [(0, 12, 2, 0)] + [(0, 0, 0, 0)] * 5,
    heads=[2, 0],
    indirect=[(0, 0, 0, 0)],
    idx=None,
    data=b"",
)
def test_ring_any_contents_give_frames_or_a_broken_ring(
    table: list[tuple[int, int, int, int]],
    heads: list[int],
    indirect: list[tuple[int, int, int, int]],
    idx: int | None,
    data: bytes,
) -> None:
    ram = GuestRam()
    memory = ram.map()
    driver = DriverRing(ram)
    inner = b"".join(struct.pack("<QIHH", *one) for one in indirect)
    at = ram.put(inner)[0]
    ram.write(0, data)
    for number, (addr, size, flags, nxt) in enumerate(table):
        if flags & 4 and number & 1:
            addr, size = at, len(inner)
        driver.desc(number, addr, size, flags, nxt)
    for head in heads:
        driver.offer(head)
    if idx is not None:
        driver.set_avail_idx(idx)
    for transmit in (False, True):
        ring = driver.device(memory)
        net = VirtioNet()
        net.negotiate(MODERN)
        broken: BrokenRing | None = None
        try:
            if transmit:
                for _ in range(20):
                    net.transmit(ring, None, [bytes(1000)])
            else:
                for hdr, frame in net.receive(ring, 40):
                    assert 14 <= len(frame) <= 65550
                    assert hdr is None or hdr.csum_start + hdr.csum_offset + 2 <= len(frame)
        except BrokenRing as error:
            broken = error
        if broken is None:
            assert (ring.last_avail - ring._used_idx) & 0xFFFF <= 1
        else:  # what it had taken nobody gives back: the ring is dropped
            assert broken.section
        ring.release()
    memory.close()
    ram.close()


def use_packed(net: VirtioNet, ring: PackedRing, transmit: bool) -> None:
    """One batch, and all that can be asked of a ring of five."""
    if transmit:
        net.transmit(ring, None, [bytes(1000)])
    else:
        assert len(net.receive(ring, 40)) <= 5
    ring.publish()
    ring.needs_signal()
    ring.arm_kicks()
    assert 0 <= ring.mark() < 2 * 2 * 5


packed_flags = st.one_of(
    st.sampled_from([0x80, 0x80, 0x81, 0x82, 0x83, 0x84, 0x8000, 0x8001, 0x8002, 0x8004, 0x8080, 0]), u16
)


@bounded
@given(
    table=st.lists(
        st.tuples(near, st.one_of(st.integers(0, 5000), u32), st.integers(0, 5), packed_flags),
        min_size=5,
        max_size=5,
    ),
    indirect=st.lists(descriptors, min_size=1, max_size=5),
    event=st.tuples(u16, st.integers(0, 4)),
    features=st.sampled_from([PACKED, PACKED | 1 << 35, PACKED & ~(1 << 28 | 1 << 29)]),
    base=st.one_of(st.sampled_from([0x80008000, 0x8000, 0, 0x80028002, 0x00030003, 0x80028000]), u32),
    data=st.binary(max_size=40),
)
def test_packed_ring_any_contents_give_frames_or_a_broken_ring(
    table: list[tuple[int, int, int, int]],
    indirect: list[tuple[int, int, int, int]],
    event: tuple[int, int],
    features: int,
    base: int,
    data: bytes,
) -> None:
    ram = GuestRam()
    memory = ram.map()
    driver = PackedDriverRing(ram, 5)
    inner = b"".join(struct.pack("<QIHH", *one) for one in indirect)
    at = ram.put(inner)[0]
    ram.write(0, data)
    driver.set_event(event[1], half=event[0])
    for transmit in (False, True):
        for slot, (addr, size, ident, flags) in enumerate(table):
            if flags & 4 and slot & 1:
                addr, size = at, len(inner)
            driver.desc(slot, addr, size, ident, flags)
        net = VirtioNet()
        net.negotiate(features)
        broken: BrokenRing | None = None
        ring = None
        try:
            ring = driver.device(memory, features, base=base)
            for _ in range(20):
                use_packed(net, ring, transmit)
        except BrokenRing as error:
            broken = error
        if ring is None:
            assert bad_base(base, 5)
            continue
        if broken is None:
            assert ring.base & 0xFFFF == ring.base >> 16
        else:
            assert broken.section
        ring.release()
    memory.close()
    ram.close()


@bounded
@given(
    fields=st.tuples(
        st.integers(0, 255), st.sampled_from([0, 1, 3, 4, 5, 0x81, 0x84]), u16, u16, st.integers(0, 100), u16
    ),
    kind=st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00"]),
    data=st.binary(max_size=400),
)
def test_offload_any_frame_gives_a_train_of_at_most_its_bytes(
    fields: tuple[int, int, int, int, int, int], kind: bytes, data: bytes
) -> None:
    frame = bytes(12) + kind + data
    for one in finish(VnetHdr(*fields), [frame]):
        assert sum(map(len, one)) <= len(frame)
