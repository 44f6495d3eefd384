# SPDX-License-Identifier: GPL-2.0-or-later
"""What devmodel/port.py promises, kept by every port and by every middleware round one (tests/helpers/portrigs.py)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from netns import namespace, why_no_tap
from portrigs import RIGS, STATS, Rig, until
from wireframes import checksums_hold, tcp_frame

from devmodel.port import Offloads, VnetHdr

Script = Callable[[Rig], Awaitable[None]]

NEEDS_CSUM, TCPV4 = 1, 1
ETHERTYPE = b"\x88\xb5"  # IEEE 802's "local experimental": no kernel answers it
GUEST, SERVER = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"

_NO_TAP = why_no_tap()


def _param(name: str) -> object:
    if not name.startswith("tap"):
        return name
    return pytest.param(
        name, marks=(pytest.mark.root, pytest.mark.skipif(bool(_NO_TAP), reason=f"no TAP here: {_NO_TAP}"))
    )


@pytest.fixture(params=[_param(name) for name in RIGS])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Runs a script against a fresh port; TAPs in a namespace of the test's own."""

    def start(script: Script, *, attached: bool = True, up: bool = True) -> None:
        async def main() -> None:
            rig = RIGS[request.param](tmp_path)
            await rig.open()
            try:
                if attached:
                    rig.port.attach(rig.behind)
                if up:
                    await rig.up()
                await script(rig)
            finally:
                rig.port.close()
                rig.port.close()
                rig.release()

        if request.param.startswith("tap"):
            with namespace() as private:
                private.run(main)
        else:
            asyncio.run(main())

    return start


def to_guest(number: int, size: int = 60) -> bytes:
    return (GUEST + SERVER + ETHERTYPE + number.to_bytes(4, "big") + b"t" * size)[: max(size, 14)]


def from_guest(number: int, size: int = 60) -> bytes:
    return (SERVER + GUEST + ETHERTYPE + number.to_bytes(4, "big") + b"f" * size)[: max(size, 14)]


# -- the link -----------------------------------------------------------------------------------------------------


def test_handler_is_told_of_the_link_when_it_comes_up(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        assert rig.port.link_up
        assert rig.behind.links == [(True, rig.port.offloads)]

    run(script)


def test_handler_that_comes_late_is_told_at_once_and_the_one_before_no_more(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        first = type(rig.behind)()
        rig.port.attach(first)
        assert first.links == [(True, rig.port.offloads)]
        rig.port.attach(rig.behind)
        await rig.give([from_guest(1)])
        await _until_frames(rig, 1)
        assert first.frames == []

    run(script, attached=False)


def test_link_that_goes_down_and_comes_back_is_told_each_time(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        if not rig.goes_down:
            return
        await rig.down()
        assert not rig.port.link_up
        assert rig.port.offloads == Offloads()
        assert rig.behind.links[-1] == (False, Offloads())
        await rig.up()
        assert [up for up, _ in rig.behind.links] == [True, False, True]
        await rig.give([from_guest(1)])
        await _until_frames(rig, 1)

    run(script)


def test_send_while_the_link_is_down_is_refused_and_counted(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        if rig.goes_down:
            await rig.down()
        else:
            rig.port.close()
        before = rig.port.stats()["tx_dropped"]
        frame, start = tcp_frame(GUEST, SERVER, b"x" * 100)
        assert rig.port.send(None, [to_guest(1)]) is False
        assert rig.port.send(VnetHdr(NEEDS_CSUM, 0, 0, 0, start, 16), [frame]) is False
        rig.port.flush()
        assert rig.port.stats()["tx_dropped"] == before + 2

    run(script)


def test_closed_port_is_down_and_does_nothing(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        rig.port.close()
        rig.port.close()
        assert not rig.port.link_up
        assert rig.port.send(None, [to_guest(1)]) is False
        rig.port.flush()
        assert rig.port.stats().keys() >= STATS

    run(script)


# -- frames from the guest ----------------------------------------------------------------------------------------


def test_burst_comes_in_order_as_one_batch(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        burst = [from_guest(number) for number in range(8)]
        await rig.give(burst)
        await _until_frames(rig, 8)
        assert [frame for _, frame in rig.behind.frames] == burst
        assert rig.behind.batches == 1
        await rig.give([from_guest(9)])
        await _until_frames(rig, 9)
        assert rig.behind.batches == 2

    run(script)


def test_received_frame_is_bytes_of_its_own_and_has_no_header(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        await rig.give([from_guest(1), from_guest(2)])
        await _until_frames(rig, 2)
        assert all(hdr is None and type(frame) is bytes for hdr, frame in rig.behind.frames)
        assert rig.behind.frames[0][1] == from_guest(1)

    run(script)


@pytest.mark.parametrize("size", [14, 15, 59, 60, 61, 1514, 1518, 9014, 65507, 65535, 65550])
def test_every_size_comes_from_the_guest(run: Callable[..., None], size: int) -> None:
    async def script(rig: Rig) -> None:
        if size > rig.longest_up:
            return
        await rig.give([from_guest(1, size)])
        await _until_frames(rig, 1)
        assert rig.behind.frames == [(None, from_guest(1, size))]
        stats = rig.port.stats()
        assert (stats["rx_frames"], stats["rx_bytes"]) == (1, size)

    run(script)


def test_handler_that_fails_on_a_frame_gets_the_next_and_its_batch(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        remember = rig.behind.frame_received

        def fails_once(hdr: object, frame: bytes) -> None:
            remember(hdr, frame)
            if len(rig.behind.frames) == 1:
                raise ZeroDivisionError

        rig.behind.frame_received = fails_once  # type: ignore[method-assign]
        with contextlib.suppress(ZeroDivisionError):  # a loopback shows it to the test, afterwards
            await rig.give([from_guest(1), from_guest(2)])
        await _until_frames(rig, 2)
        assert rig.behind.batches == 1

    run(script)


# -- frames to the guest ------------------------------------------------------------------------------------------


def test_sent_frames_leave_in_order_with_the_flush_and_not_before(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        for number in range(8):
            frame = to_guest(number)
            assert rig.port.send(None, [frame[:14], memoryview(frame)[14:20], bytearray(frame[20:])]) is True
        assert not rig.waiting()
        rig.port.flush()
        assert await rig.take(8) == [(None, to_guest(number)) for number in range(8)]
        stats = rig.port.stats()
        assert (stats["tx_frames"], stats["tx_bytes"], stats["tx_dropped"]) == (8, 8 * 60, 0)

    run(script)


def test_sender_may_reuse_its_buffer_at_once(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        buffer = bytearray(to_guest(1))
        rig.port.send(None, [buffer])
        buffer[14:18] = b"\xff\xff\xff\xff"
        rig.port.send(None, [buffer])
        rig.port.flush()
        (_, first), (_, second) = await rig.take(2)
        assert first == to_guest(1)
        assert second[14:18] == b"\xff\xff\xff\xff"

    run(script)


@pytest.mark.parametrize("size", [14, 15, 59, 60, 61, 1514, 1518, 9014, 65507, 65535, 65550])
def test_every_size_goes_to_the_guest(run: Callable[..., None], size: int) -> None:
    async def script(rig: Rig) -> None:
        if size > rig.largest:
            return
        assert rig.port.send(None, [to_guest(1, size)]) is True
        rig.port.flush()
        assert await rig.take(1) == [(None, to_guest(1, size))]

    run(script)


def test_frame_that_is_too_long_is_dropped_alone(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        if rig.oversized:
            assert rig.port.send(None, [to_guest(1, rig.oversized)]) in (True, False)
            rig.port.flush()
        rig.port.send(None, [to_guest(2)])
        rig.port.flush()
        assert await rig.take(1) == [(None, to_guest(2))]
        assert rig.port.stats()["tx_dropped"] == (1 if rig.oversized else 0)

    run(script)


def test_answer_from_the_batch_is_flushed_by_the_port(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        def answer() -> None:
            rig.behind.batches += 1
            rig.port.send(None, [to_guest(rig.behind.batches)])

        rig.behind.batch_done = answer  # type: ignore[method-assign]
        await rig.give([from_guest(1), from_guest(2)])
        await _until_frames(rig, 2)
        assert await rig.take(1) == [(None, to_guest(1))]

    run(script)


# -- headers ------------------------------------------------------------------------------------------------------


def test_partial_checksum_arrives_as_the_offloads_say(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        frame, start = tcp_frame(GUEST, SERVER, b"partial" * 10)
        hdr = VnetHdr(NEEDS_CSUM, 0, 0, 0, start, 16)
        assert not checksums_hold(frame)
        assert rig.port.send(hdr, [frame[:54], frame[54:]]) is True
        rig.port.flush()
        [(came, got)] = await rig.take(1)
        if rig.shows_headers and rig.port.offloads.csum:
            assert (came, got) == (hdr, frame)
        elif type(rig).__name__ != "VnetTapRig":  # a packet socket does not show the kernel's
            assert came is None
            assert checksums_hold(got)
            assert got[54:] == frame[54:]

    run(script)


def test_tso_frame_arrives_whole_or_as_its_segments(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        payload = bytes(range(256)) * 20
        frame, start = tcp_frame(GUEST, SERVER, payload)
        hdr = VnetHdr(NEEDS_CSUM, TCPV4, 54, 1448, start, 16)
        assert rig.port.send(hdr, [frame]) is True
        rig.port.flush()
        if (rig.shows_headers and rig.port.offloads.tso4) or type(rig).__name__ == "VnetTapRig":
            [(came, got)] = await rig.take(1)
            assert got == frame
            assert came in (hdr, None)
            return
        train = [got for _, got in await rig.take(4)]
        assert all(map(checksums_hold, train))
        assert b"".join(got[54:] for got in train) == payload
        sequence = [int.from_bytes(got[38:42], "big") for got in train]
        assert sequence == [7, 7 + 1448, 7 + 2896, 7 + 4344]

    run(script)


@pytest.mark.parametrize(
    "hdr",
    [
        VnetHdr(NEEDS_CSUM, TCPV4, 54, 0, 34, 16),
        VnetHdr(NEEDS_CSUM, TCPV4, 54, 1448, 60000, 16),
        VnetHdr(NEEDS_CSUM, 0x77, 54, 1448, 34, 16),
        VnetHdr(NEEDS_CSUM, 0, 0, 0, 60000, 60000),
        VnetHdr(0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF),
    ],
)
def test_header_that_makes_no_sense_raises_nothing_and_stops_nothing(
    run: Callable[..., None], hdr: VnetHdr
) -> None:
    async def script(rig: Rig) -> None:
        assert rig.port.send(hdr, [to_guest(1)]) in (True, False)
        rig.port.send(None, [to_guest(2)])
        rig.port.flush()
        came = await rig.take(1)
        if came[0][1] != to_guest(2):  # it passes on whatever a driver that negotiated it can be told
            assert rig.shows_headers
            came = await rig.take(1)
        assert came == [(None, to_guest(2))]

    run(script)


def test_no_frame_at_all_raises_nothing(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        rig.port.send(None, [])
        rig.port.flush()
        rig.port.send(None, [to_guest(2)])
        rig.port.flush()
        [came] = await rig.take(1)
        if came[1] == b"":  # rings carry it
            [came] = await rig.take(1)
        assert came == (None, to_guest(2))

    run(script)


def test_stats_are_flat_numbers_under_the_names_that_all_ports_have(run: Callable[..., None]) -> None:
    async def script(rig: Rig) -> None:
        stats = rig.port.stats()
        assert stats.keys() >= STATS
        assert all(type(value) is int for value in stats.values())
        stats["rx_frames"] = 99
        assert rig.port.stats()["rx_frames"] == 0
        assert isinstance(rig.port.name, str)

    run(script)


async def _until_frames(rig: Rig, number: int) -> None:
    await until(lambda: len(rig.behind.frames) >= number)
