# SPDX-License-Identifier: GPL-2.0-or-later
"""The learning switch, in virtual time: who gets which frame, what is remembered, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vu_driver import Recorder
from wireframes import checksums_hold, tcp_frame

from devmodel.netdev.loopback import FULL_OFFLOADS, Loopback
from devmodel.port import Offloads, VnetHdr
from devmodel.switch import AGEING_S, Switch

BROADCAST = b"\xff" * 6
MULTICAST = b"\x01\x00\x5e\x00\x00\x01"
STACK = b"\x52\x55\x0a\x00\x02\x02"
TCPV4, NEEDS_CSUM = 1, 1


def mac(number: int) -> bytes:
    return b"\x02\x00" + number.to_bytes(4, "big")


def frame(to: bytes, source: bytes, size: int = 60) -> bytes:
    return (to + source + b"\x88\xb5").ljust(size, b"x")


class Segment:
    """A switch with so many loopbacks, whose far ends are the guests; a clock that a test turns."""

    def __init__(self, ports: int = 3, offloads: dict[int, Offloads] | None = None, **options: int) -> None:
        self.now = 0.0
        self.switch = Switch(lambda: self.now, **options)
        self.switch.own(STACK)
        self.wires = [
            Loopback(a=(offloads or {}).get(number, Offloads()), b=Offloads()) for number in range(ports)
        ]
        for number, wire in enumerate(self.wires):
            wire.a.name = f"port{number}"
            self.switch.join(wire.a)
        self.stack = Recorder()
        self.switch.stack.attach(self.stack)

    def give(self, number: int, *frames: bytes, hdr: VnetHdr | None = None) -> None:
        """A batch from a guest."""
        self.wires[number].a.deliver([(hdr, one) for one in frames])

    def took(self, number: int) -> list[bytes]:
        """What was published to a guest since the last look."""
        return [one for _, one in self.wires[number].a.take()]

    def stacks(self) -> list[bytes]:
        frames, self.stack.frames = self.stack.frames, []
        return [one for _, one in frames]

    def count(self, name: str) -> int:
        return self.switch.stack.stats()[f"switch_{name}"]


# -- whereto ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [BROADCAST, MULTICAST, mac(99)])
def test_group_or_unknown_address_is_flooded_and_does_not_come_back(to: bytes) -> None:
    segment = Segment()
    sent = frame(to, mac(0))
    segment.give(0, sent)
    assert [segment.took(number) for number in range(3)] == [[], [sent], [sent]]
    assert segment.stacks() == [sent]


def test_known_address_gets_its_frame_alone() -> None:
    segment = Segment()
    segment.give(1, frame(BROADCAST, mac(1)))
    for number in range(3):
        segment.took(number)
    segment.stacks()
    sent = frame(mac(1), mac(0))
    segment.give(0, sent)
    assert [segment.took(number) for number in range(3)] == [[], [sent], []]
    assert segment.stacks() == []
    assert segment.count("forwarded") == 1


def test_frame_for_a_neighbour_behind_the_same_port_stays_there() -> None:
    segment = Segment()
    segment.give(0, frame(STACK, mac(1)), frame(STACK, mac(2)))
    segment.stacks()
    segment.give(0, frame(mac(1), mac(2)))
    assert [segment.took(number) for number in range(3)] == [[], [], []]
    assert segment.stacks() == []
    assert segment.count("filtered") == 1


def test_stack_reaches_a_known_guest_alone_and_an_unknown_one_everywhere() -> None:
    segment = Segment()
    segment.give(2, frame(STACK, mac(2)))
    assert segment.switch.stack.send(None, [mac(2) + STACK, b"\x08\x00" + bytes(46)])  # odd borders
    assert segment.switch.stack.send(None, [frame(mac(9), STACK)])
    segment.switch.stack.flush()
    assert [len(segment.took(number)) for number in range(3)] == [1, 1, 2]


def test_port_that_is_down_gets_no_flood_and_its_addresses_are_forgotten() -> None:
    segment = Segment()
    segment.give(1, frame(STACK, mac(1)))
    segment.wires[1].a.set_link(False)
    assert segment.switch.addresses(segment.wires[1].a) == []
    segment.give(0, frame(mac(1), mac(0)))
    assert [len(segment.took(number)) for number in range(3)] == [0, 0, 1]
    assert segment.wires[1].a.stats()["tx_dropped"] == 0


# -- what is no frame for others ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [BROADCAST, MULTICAST, bytes(6)])
def test_source_that_nobody_can_have_is_dropped_and_not_learned(source: bytes) -> None:
    segment = Segment()
    segment.give(0, frame(BROADCAST, source))
    assert segment.took(1) == []
    assert segment.count("drop_source") == 1
    assert segment.switch.addresses(segment.wires[0].a) == []


@pytest.mark.parametrize("last", [0x00, 0x0F])
def test_address_that_bridges_keep_to_themselves_is_not_forwarded(last: int) -> None:
    segment = Segment()
    segment.give(0, frame(bytes.fromhex("0180c20000") + bytes([last]), mac(0)))
    assert segment.took(1) == []
    assert segment.stacks() == []
    assert segment.count("drop_reserved") == 1


def test_group_beside_those_is_forwarded() -> None:
    segment = Segment()
    segment.give(0, frame(bytes.fromhex("0180c2000010"), mac(0)))
    assert len(segment.took(1)) == 1


def test_frame_longer_than_virtio_carries_is_dropped() -> None:
    segment = Segment()
    segment.give(0, frame(BROADCAST, mac(0), 65550), frame(BROADCAST, mac(0), 65551))
    assert len(segment.took(1)) == 1
    assert segment.count("drop_size") == 1
    assert not segment.switch.stack.send(None, [frame(BROADCAST, STACK, 65551)])
    assert not segment.switch.stack.send(None, [b"short"])


def test_guest_that_claims_the_stacks_address_gets_nothing_of_it() -> None:
    segment = Segment()
    segment.give(0, frame(BROADCAST, STACK))
    assert segment.took(1) == []
    assert segment.count("drop_own") == 1
    segment.give(1, frame(STACK, mac(1)))
    assert len(segment.stacks()) == 1
    assert segment.took(0) == []


# -- what is remembered -------------------------------------------------------------------------------------------


def test_guest_that_uses_anothers_address_moves_it() -> None:
    segment = Segment()
    segment.give(0, frame(STACK, mac(7)))
    segment.give(1, frame(STACK, mac(7)))
    segment.give(2, frame(mac(7), mac(2)))
    assert [len(segment.took(number)) for number in range(3)] == [0, 1, 0]
    assert segment.count("moved") == 1
    assert segment.switch.addresses(segment.wires[0].a) == []


def test_address_that_two_guests_use_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    segment = Segment()
    for number in (0, 1, 0, 1):
        segment.give(number, frame(STACK, mac(7)))
    assert len(caplog.messages) == 1
    assert "02:00:00:00:00:07 was at port0 and is at port1 now" in caplog.text
    segment.now = 60.0
    segment.give(0, frame(STACK, mac(7)))
    assert len(caplog.messages) == 2


def test_address_is_forgotten_after_the_ageing_time_and_not_before() -> None:
    segment = Segment()
    segment.give(0, frame(STACK, mac(0)))
    segment.now = AGEING_S
    segment.give(1, frame(mac(0), mac(1)))
    assert [len(segment.took(number)) for number in range(3)] == [1, 0, 0]
    segment.now = AGEING_S + 0.001
    segment.give(1, frame(mac(0), mac(1)))
    assert [len(segment.took(number)) for number in range(3)] == [1, 0, 1]
    assert segment.count("aged") == 1
    assert segment.switch.addresses(segment.wires[0].a) == []


def test_frame_keeps_its_source_young_and_its_destination_not() -> None:
    segment = Segment()
    segment.give(0, frame(STACK, mac(0)))
    segment.now = 200.0
    segment.give(0, frame(STACK, mac(0)))
    segment.give(1, frame(mac(0), mac(1)))
    segment.now = 400.0
    segment.give(1, frame(mac(0), mac(1)))
    assert len(segment.took(2)) == 0
    segment.now = 501.0
    segment.give(1, frame(mac(0), mac(1)))
    assert len(segment.took(2)) == 1


def test_stacks_own_address_does_not_age() -> None:
    segment = Segment()
    segment.now = 10 * AGEING_S
    segment.give(0, frame(STACK, mac(0)))
    assert segment.took(1) == []
    assert len(segment.stacks()) == 1


def test_flood_of_addresses_is_bounded_and_pushes_out_its_own_alone() -> None:
    segment = Segment(entries=16)
    segment.give(1, frame(STACK, mac(1)))
    segment.give(0, *(frame(STACK, mac(1000 + number)) for number in range(5000)))
    assert len(segment.switch.addresses(segment.wires[0].a)) == 16
    assert segment.count("addresses") == 18
    assert segment.count("evicted") == 5000 - 16
    segment.give(2, frame(mac(1), mac(2)))
    assert [len(segment.took(number)) for number in range(3)] == [0, 1, 0]


def test_address_seen_longest_ago_is_pushed_out_first() -> None:
    segment = Segment(entries=2)
    segment.give(0, frame(STACK, mac(1)), frame(STACK, mac(2)), frame(STACK, mac(1)), frame(STACK, mac(3)))
    assert segment.switch.addresses(segment.wires[0].a) == [mac(1), mac(3)]


# -- batches, links, offloads -------------------------------------------------------------------------------------


def test_batch_is_published_when_it_ends_and_the_stack_answers_it_once() -> None:
    segment = Segment()
    seen: list[list[bytes]] = []

    def answer() -> None:
        segment.stack.batches += 1
        seen.append(segment.took(1))
        segment.switch.stack.send(None, [frame(mac(0), STACK)])

    segment.stack.batch_done = answer  # type: ignore[method-assign]
    segment.give(0, frame(BROADCAST, mac(0)), frame(BROADCAST, mac(0)))
    assert seen == [[]], "the other guest's frames were published before the batch was over"
    assert segment.stack.batches == 1
    assert len(segment.took(0)) == 1
    assert len(segment.took(1)) == 2


def test_batch_that_is_not_for_the_stack_does_not_wake_it() -> None:
    segment = Segment()
    segment.give(1, frame(STACK, mac(1)))
    segment.give(0, frame(mac(1), mac(0)))
    assert segment.stack.batches == 1


def test_stack_that_fails_leaves_the_others_their_frames() -> None:
    segment = Segment()

    def fails() -> None:
        raise ZeroDivisionError

    segment.stack.batch_done = fails  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        segment.give(0, frame(BROADCAST, mac(0)))
    assert len(segment.took(1)) == 1


def test_stacks_link_is_up_while_any_port_is() -> None:
    segment = Segment(2)
    everything = FULL_OFFLOADS
    segment.wires[0].a.set_link(False)
    assert segment.switch.stack.link_up
    segment.wires[1].a.set_link(False)
    assert not segment.switch.stack.send(None, [frame(BROADCAST, STACK)])
    segment.wires[0].a.set_link(True)
    assert segment.stack.links == [(True, everything), (False, Offloads()), (True, everything)]


def test_tso_frame_is_whole_for_a_guest_that_takes_it_and_cut_for_one_that_does_not() -> None:
    whole = Offloads(csum=True, tso4=True, max_frame=65550)
    segment = Segment(3, {1: whole})
    ip = bytearray.fromhex("4500 0000 0000 0000 4006 0000 0a00020f 0a000210")
    tcp = bytearray.fromhex("1388 1388 00000001 00000001 5010 ffff 0000 0000")
    ip[2:4] = (40 + 3000).to_bytes(2, "big")
    sent = BROADCAST + mac(0) + b"\x08\x00" + bytes(ip + tcp) + bytes(3000)
    hdr = VnetHdr(NEEDS_CSUM, TCPV4, 54, 1448, 34, 16)
    segment.give(0, sent, hdr=hdr)
    assert segment.wires[1].a.take() == [(hdr, sent)]
    assert [len(one) for one in segment.took(2)] == [1502, 1502, 158]
    assert segment.stack.frames == [(hdr, sent)]


def test_counters_of_each_port_have_its_name() -> None:
    segment = Segment(2)
    segment.give(0, frame(BROADCAST, mac(0)))
    stats = segment.switch.stack.stats()
    assert (stats["port0_rx_frames"], stats["port1_tx_frames"], stats["rx_frames"]) == (1, 1, 1)
    assert stats["port0_addresses"] == 1


def test_close_closes_every_port_twice_over() -> None:
    segment = Segment(2)
    segment.switch.stack.close()
    segment.switch.stack.close()
    assert not segment.switch.stack.link_up
    assert [up for up, _ in segment.stack.links] == [True, False]


# -- any traffic at all -------------------------------------------------------------------------------------------

_PORTS = 4
_places = st.integers(0, _PORTS)  # the last one is the stack
_addresses = st.one_of(st.integers(0, 9).map(mac), st.sampled_from([BROADCAST, MULTICAST]))
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), _places, _addresses, st.integers(0, 9).map(mac)),
        st.tuples(st.just("wait"), st.floats(0, 400)),
        st.tuples(st.just("down"), st.integers(0, _PORTS - 1)),
        st.tuples(st.just("up"), st.integers(0, _PORTS - 1)),
    ),
    max_size=40,
)


class Model:
    """What a switch is, said again without tables of its ports: address -> (place, time)."""

    def __init__(self) -> None:
        self.where: dict[bytes, tuple[int, float]] = {}
        self.up = [True] * _PORTS + [True]

    def receivers(self, source: int, to: bytes, sender: bytes, now: float) -> set[int]:
        owner = self.where.get(sender)
        if owner is not None and owner[0] == _PORTS != source:
            return set()
        self.where[sender] = (source, now)
        everybody = {place for place in range(_PORTS + 1) if self.up[place] and place != source}
        known = None if to[0] & 1 else self.where.get(to)
        if known is None or (known[0] != _PORTS and now - known[1] > AGEING_S):
            return everybody
        return {known[0]} - {source}

    def set_link(self, place: int, up: bool) -> None:
        self.up[place] = up
        if not up:
            self.where = {address: owner for address, owner in self.where.items() if owner[0] != place}


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(_steps)
def test_any_traffic_goes_where_the_model_says_once_and_in_order(steps: list[tuple[object, ...]]) -> None:
    segment, model = Segment(_PORTS), Model()
    model.where[STACK] = (_PORTS, 0.0)
    for number, step in enumerate(steps):
        if step[0] == "wait":
            segment.now += step[1]  # type: ignore[operator]
        elif step[0] in ("up", "down"):
            model.set_link(step[1], step[0] == "up")  # type: ignore[arg-type]
            segment.wires[step[1]].a.set_link(step[0] == "up")  # type: ignore[call-overload]
        else:
            _, source, to, sender = step
            if source != _PORTS and not model.up[source]:  # type: ignore[index]
                continue
            if source == _PORTS and not any(model.up[:-1]):
                continue
            sent = frame(to, sender) + number.to_bytes(2, "big")  # type: ignore[arg-type]
            wanted = model.receivers(source, to, sender, segment.now)  # type: ignore[arg-type]
            if source == _PORTS:
                segment.switch.stack.send(None, [sent])
                segment.switch.stack.flush()
            else:
                segment.give(source, sent)  # type: ignore[arg-type]
            got = {place: segment.took(place) for place in range(_PORTS)} | {_PORTS: segment.stacks()}
            assert got == {place: [sent] if place in wanted else [] for place in range(_PORTS + 1)}


_offloads = st.sampled_from(
    [
        Offloads(),
        Offloads(csum=True),
        Offloads(csum=True, tso6=True, max_frame=65550),
        Offloads(csum=True, tso4=True, ecn=True, max_frame=65550),
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.tuples(_offloads, _offloads), st.integers(1, 9000), st.sampled_from([0, 100, 536, 1448]))
def test_any_offload_reaches_each_guest_as_it_can_take_it(
    offloads: tuple[Offloads, Offloads], size: int, gso_size: int
) -> None:
    """A partial checksum, or a TSO frame, from port 0 to everybody."""
    segment = Segment(3, {1: offloads[0], 2: offloads[1]})
    payload = bytes(number % 251 for number in range(size))
    sent, start = tcp_frame(BROADCAST, mac(0), payload)
    hdr = VnetHdr(NEEDS_CSUM, TCPV4 if gso_size else 0, 54, gso_size, start, 16)
    segment.give(0, sent, hdr=hdr)
    for number, taken in ((1, offloads[0]), (2, offloads[1])):
        came = segment.wires[number].a.take()
        if taken.tso4 or (taken.csum and not gso_size):
            assert came == [(hdr, sent)]
            continue
        assert all(one is None and checksums_hold(got) for one, got in came)
        assert b"".join(got[54:] for _, got in came) == payload
        assert len(came) == (-(-size // gso_size) if gso_size else 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=0, max_size=40)), max_size=60),
    st.integers(1, 8),
)
def test_any_bytes_raise_nothing_and_the_tables_agree(frames: list[tuple[int, bytes]], entries: int) -> None:
    segment = Segment(3, entries=entries)
    for number, data in frames:
        segment.now += 50.0
        segment.give(number, data)
    stations = segment.switch._stations
    assert all(len(station.seen) <= max(entries, 1) for station in stations)
    assert segment.switch._where == {address: one for one in stations for address in one.seen}
