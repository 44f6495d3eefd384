# SPDX-License-Identifier: GPL-2.0-or-later
"""Two back ends settle who has a guest's connections: never both, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio.net import VirtioNet
from vnic import handover
from vnic.handover import Giver, HandoverError, ask

OWNER = b"the frozen stack " * 5000


class Source:
    """A back end with a state, as its Giver sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.net = VirtioNet()
        self.guest_runs = False
        self.frozen = 0
        self.has_connections = True
        self.giver = Giver(cast(VhostUserServer, self), self.freeze, self.gone)

    def freeze(self) -> bytes:
        self.frozen += 1
        return OWNER

    def gone(self) -> None:
        assert self.has_connections
        self.has_connections = False


def run(tmp_path: Path, script: Callable[[Source], Awaitable[None]]) -> Source:
    source = Source(tmp_path / "move.sock")

    async def main() -> None:
        async with source.giver.open(source.path):
            await script(source)
            await asyncio.sleep(0)
        assert not source.path.exists()

    asyncio.run(main())
    return source


def test_state_that_is_accepted_is_the_destinations_alone(tmp_path: Path) -> None:
    async def script(source: Source) -> None:
        async with ask(source.path) as offer:
            assert offer.state.owner == OWNER
            assert source.has_connections  # it was not thawed yet
            await offer.accept()
            assert not source.has_connections

    assert run(tmp_path, script).frozen == 1


def test_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    async def script(source: Source) -> None:
        assert stat.S_IMODE(source.path.stat().st_mode) == 0o600

    run(tmp_path, script)


def test_socket_is_its_owners_from_the_moment_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    listen = handover.listen_unix

    def look(path: str) -> Any:
        listener = listen(path)
        modes.append(stat.S_IMODE(Path(path).stat().st_mode))
        return listener

    async def script(source: Source) -> None:
        os.umask(os.umask(0o022))  # what it was is back

    monkeypatch.setattr(handover, "listen_unix", look)
    before = os.umask(0)
    try:
        run(tmp_path, script)
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_state_of_a_life_that_has_ended_is_not_given(tmp_path: Path) -> None:
    async def script(source: Source) -> None:
        async with ask(source.path) as offer:
            source.giver.changed()
            with pytest.raises(HandoverError):
                await offer.accept()

    assert run(tmp_path, script).has_connections


def test_destination_that_takes_a_byte_now_and_then_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "TOTAL_S", 0.1)
    monkeypatch.setattr(handover, "encode", lambda *_: bytes(8 << 20))

    async def script(source: Source) -> None:
        reader, writer = await asyncio.open_unix_connection(str(source.path))
        writer.write(b"take 1\n")
        got = 0
        for _ in range(40):
            got += len(await reader.read(100))
            await asyncio.sleep(0.005)
        assert got + len(await reader.read()) < 8 << 20
        writer.close()

    assert run(tmp_path, script).has_connections


def test_guest_that_runs_at_the_source_keeps_its_connections_there(tmp_path: Path) -> None:
    async def script(source: Source) -> None:
        source.guest_runs = True
        with pytest.raises(HandoverError) as caught:
            async with ask(source.path):
                pass
        assert "the guest runs here" in caught.value.evidence

    source = run(tmp_path, script)
    assert source.has_connections
    assert source.frozen == 0


def test_guest_that_goes_on_at_the_source_meanwhile_keeps_them_there(tmp_path: Path) -> None:
    async def script(source: Source) -> None:
        async with ask(source.path) as offer:
            source.guest_runs = True
            with pytest.raises(HandoverError):
                await offer.accept()

    assert run(tmp_path, script).has_connections


def test_destination_that_goes_away_leaves_them_at_the_source(tmp_path: Path) -> None:
    async def script(source: Source) -> None:
        async with ask(source.path):
            pass
        async with ask(source.path) as offer:  # another one comes
            await offer.accept()

    source = run(tmp_path, script)
    assert source.frozen == 2
    assert not source.has_connections


def test_of_two_destinations_one_gets_them(tmp_path: Path) -> None:
    async def script(source: Source) -> None:
        async with ask(source.path) as first, ask(source.path) as second:
            await second.accept()
            with pytest.raises(HandoverError):
                await first.accept()

    assert run(tmp_path, script).giver.given == 1


@pytest.mark.parametrize("words", [b"", b"tak", b"GET / HTTP/1.1\r\n\r\n", b"take 2\n", b"take 1\nnever\n"])
def test_who_does_not_know_the_words_gets_nothing_away(tmp_path: Path, words: bytes) -> None:
    async def script(source: Source) -> None:
        reader, writer = await asyncio.open_unix_connection(str(source.path))
        writer.write(words)
        writer.write_eof()
        await reader.read()
        writer.close()

    assert run(tmp_path, script).has_connections


def test_destination_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "DEADLINE_S", 0.01)

    async def script(source: Source) -> None:
        reader, writer = await asyncio.open_unix_connection(str(source.path))
        writer.write(b"take 1\n")
        assert OWNER in await reader.read()  # which ends, as the source hangs up
        writer.close()

    assert run(tmp_path, script).has_connections


@pytest.mark.parametrize("words", [b"", b"take 1\n"])
def test_source_that_ends_hangs_up_on_who_is_asking(
    tmp_path: Path, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        source = Source(tmp_path / "move.sock")
        async with source.giver.open(source.path):
            reader, writer = await asyncio.open_unix_connection(str(source.path))
            writer.write(words)
            await asyncio.sleep(0.01)
        await reader.read()
        writer.close()
        assert source.has_connections
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert not caplog.records  # a task that ends badly is told there


# -- the destination ---------------------------------------------------------------------------------------------


def against(tmp_path: Path, answer: Callable[[Any, Any], Awaitable[None]]) -> str:
    """Ask somebody who answers in his own way; what the destination makes of it."""
    path = tmp_path / "other.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(7)
        await answer(reader, writer)
        writer.close()

    async def main() -> str:
        server = await asyncio.start_unix_server(serve, path)
        try:
            async with ask(path) as offer:
                await offer.accept()
        except HandoverError as error:
            return f"{error.fact}: {error.evidence}"
        finally:
            server.close()
        return "taken"

    return asyncio.run(main())


def test_nobody_there_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with ask(tmp_path / "nobody.sock"):
            pass

    with pytest.raises(HandoverError, match="no back end hands over"):
        asyncio.run(main())


def test_source_that_closes_instead_of_a_state(tmp_path: Path) -> None:
    async def nothing(reader: Any, writer: Any) -> None:
        pass

    assert "cut short" in against(tmp_path, nothing)


def test_source_that_sends_noise_without_end(tmp_path: Path) -> None:
    async def noise(reader: Any, writer: Any) -> None:
        for _ in range(100):
            writer.write(b"noise" * 1000)
            await writer.drain()

    assert "no state of a network device" in against(tmp_path, noise)


def test_source_that_stalls_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "DEADLINE_S", 0.02)

    async def half(reader: Any, writer: Any) -> None:
        writer.write(handover.encode(VirtioNet(), OWNER)[:5000])
        await reader.read()

    assert "did not hand over" in against(tmp_path, half)


def test_source_that_sends_a_byte_now_and_then_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "TOTAL_S", 0.1)

    async def drips(reader: Any, writer: Any) -> None:
        for byte in handover.encode(VirtioNet(), OWNER)[:1000]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.005)

    assert "did not hand over" in against(tmp_path, drips)


def test_what_a_source_says_is_shown_as_text_only(tmp_path: Path) -> None:
    async def rude(reader: Any, writer: Any) -> None:
        writer.write(b"no: \x1b[2Jerror\rok " + b"x" * 10000)
        await writer.drain()

    told = against(tmp_path, rude)
    assert told.isprintable()
    assert "no: ?[2Jerror?ok" in told
    assert len(told) < 300


def test_source_that_dies_before_it_gave_is_not_taken_for_one_that_did(tmp_path: Path) -> None:
    async def dies(reader: Any, writer: Any) -> None:
        writer.write(handover.encode(VirtioNet(), OWNER))
        await reader.readexactly(6)

    assert "did not hand over" in against(tmp_path, dies)
