# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver without QEMU moves from one ``vnic serve`` to another, in the two ways that there are, and back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from devmodel.virtio import features as vf
from devmodel.virtio.state import HEAD, StateReader
from guest.driver import devicestate
from guest.driver.backend import Backend
from guest.driver.errors import RequestRefused
from guest.driver.frontend import Frontend
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.rawhost import RawHost, RawTcp
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX, VirtioNetDriver

pytestmark = pytest.mark.slow  # a Python process takes a second to start

SERVE = [sys.executable, "-m", "vnic", "serve", "--control", "none"]
SERVER = "10.0.2.2"
PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
SEVERAL = vf.mask(vf.VIRTIO_NET_F_MQ)


class Serve:
    """One that is ready."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = str(path)
        self.log = path.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*SERVE, "--vhost-user", self.path, *options], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready:"), self.log.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Mover:
    """A guest: its memory and driver, which stay, and the back end that it is connected to."""

    def __init__(self, features: int = DRIVER_FEATURES) -> None:
        self.features = features
        self.memory = DriverMemory(LAYOUTS["split"](4 << 20))
        self.host = RawHost(bytes.fromhex("525400123456"), "10.0.2.15")
        self.driver: VirtioNetDriver | None = None
        self.bases: list[int] = []

    def connect(self, serve: Serve) -> None:
        """As a destination's QEMU does before its guest runs."""
        self.backend, self.frontend = Backend(serve.path), Frontend()
        self.backend.connect()
        offered = self.backend.run(self.frontend.connect())
        self.backend.run(self.frontend.set_features(self.features & offered))

    def go(self) -> None:
        """The rings run, where they stand."""
        if self.driver is None:
            self.driver = VirtioNetDriver(self.memory, self.frontend.features, 64)
            self.driver.refill()
        steps = self.frontend.start(self.memory, self.driver.queues, self.backend.fds, self.bases)
        self.backend.run(steps)
        self.driver.rx.enable_calls()
        self.backend.kick(RX)

    def stop(self) -> None:
        assert self.driver is not None
        self.bases = self.backend.run(self.frontend.stop(self.driver.queues))

    def until(self, condition: Callable[[], object], again: Callable[[], None] = lambda: None) -> None:
        """Let frames pass until something is so; `again` sends once more what was lost."""
        assert self.driver is not None
        until, repeat = time.monotonic() + 15, time.monotonic() + 0.5
        while not condition():
            assert time.monotonic() < until, "it never came to be"
            for frame in self.host.take():
                if self.driver.send(frame):
                    self.backend.kick(TX)
            self.backend.wait((RX, TX), 0.05)
            frames, kick = self.driver.receive()
            if kick:
                self.backend.kick(RX)
            for hdr, frame in frames:
                self.host.handle(frame, hdr)
            if time.monotonic() > repeat:
                again()
                repeat = time.monotonic() + 0.5

    def say(self, connection: RawTcp, text: bytes) -> None:
        """To the echo service, and hear it."""
        due = len(connection.received) + len(text)
        connection.send(text)
        self.until(lambda: len(connection.received) == due, connection.again)
        assert bytes(connection.received[-len(text) :]) == text

    def dial(self) -> RawTcp:
        self.host.arp(SERVER)
        self.until(lambda: SERVER in self.host.neighbours, lambda: self.host.arp(SERVER))
        connection = self.host.tcp(SERVER, 7, 40000 + len(self.host.connections))
        connection.connect()
        self.until(lambda: connection.state == "established", connection.again)
        return connection

    def hang_up(self) -> None:
        self.backend.close()

    def close(self) -> None:
        self.hang_up()
        self.memory.close()


@pytest.fixture
def serves(tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    made: list[Serve] = []

    def start(name: str, *options: str) -> Serve:
        made.append(Serve(tmp_path / name, *options))
        return made[-1]

    yield start
    for one in made:
        assert one.process.poll() in (None, 0), one.log.read_text()
        one.close()


@pytest.fixture(params=[DRIVER_FEATURES | SEVERAL, DRIVER_FEATURES | PACKED], ids=["split", "packed"])
def guest(request: pytest.FixtureRequest) -> Iterator[Mover]:
    made = Mover(request.param)
    yield made
    made.close()


def test_connection_follows_a_guest_that_was_handed_over_and_on(
    guest: Mover, serves: Callable[..., Serve], tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    here = serves("here", "--hand-over", first)
    guest.connect(here)
    guest.go()
    connection = guest.dial()
    guest.say(connection, b"here")
    there = serves("there", "--take-over", first, "--hand-over", second)
    guest.stop()
    left = guest.backend  # the source's QEMU is still there, as it is after a migration
    guest.connect(there)
    guest.go()
    guest.say(connection, b"there")
    left.close()
    guest.say(guest.dial(), b"a new one")

    beyond = serves("beyond", "--take-over", second)
    guest.stop()
    guest.hang_up()
    guest.connect(beyond)
    guest.go()
    guest.say(connection, b"beyond")
    # Who gave the connection away knows nothing of it any more, and serves whoever comes.
    guest.stop()
    guest.hang_up()
    guest.connect(here)
    guest.go()
    connection.send(b"where are you?")
    guest.until(lambda: connection.state == "reset", connection.again)
    guest.say(guest.dial(), b"a new one")


def test_guest_that_goes_on_where_it_was_is_not_touched_by_who_asks(
    serves: Callable[..., Serve], tmp_path: Path
) -> None:
    """A migration that failed at its end: the source's rings start again."""
    guest, stranger = Mover(), Mover()
    socket = str(tmp_path / "move")
    here, there = serves("here", "--hand-over", socket), serves("there", "--take-over", socket)
    guest.connect(here)
    guest.go()
    connection = guest.dial()
    guest.stop()
    stranger.connect(there)
    guest.go()
    guest.say(connection, b"still here")
    stranger.go()
    stranger.say(stranger.dial(), b"served all the same")
    assert "the guest runs here" in there.log.read_text()
    guest.say(connection, b"still here, too")
    guest.close()
    stranger.close()


def test_destination_without_a_source_serves_its_guest_from_the_start(
    serves: Callable[..., Serve], tmp_path: Path
) -> None:
    guest = Mover()
    there = serves("there", "--take-over", str(tmp_path / "nobody"))
    guest.connect(there)
    guest.go()
    guest.say(guest.dial(), b"hello")
    assert "no back end hands over" in there.log.read_text()
    guest.close()


def test_connection_follows_the_state_that_the_frontend_moved(
    guest: Mover, serves: Callable[..., Serve]
) -> None:
    here, there = serves("here"), serves("there")
    guest.connect(here)
    guest.go()
    connection = guest.dial()
    guest.say(connection, b"here")
    with pytest.raises(RequestRefused):
        devicestate.save(guest.backend.run, guest.frontend)  # its rings run
    guest.stop()
    state = devicestate.save(guest.backend.run, guest.frontend)
    guest.hang_up()
    guest.connect(there)
    with pytest.raises(RequestRefused):
        devicestate.load(guest.backend.run, guest.frontend, state[:-1])
    with pytest.raises(RequestRefused):
        devicestate.load(guest.backend.run, guest.frontend, state.replace(b"10.0.2.2", b"10.9.9.9"))
    devicestate.load(guest.backend.run, guest.frontend, state)
    guest.go()
    guest.say(connection, b"there")
    guest.say(guest.dial(), b"a new one")


def test_guest_whose_state_was_saved_may_stay(serves: Callable[..., Serve]) -> None:
    guest = Mover()
    guest.connect(serves("here"))
    guest.go()
    connection = guest.dial()
    for text in (b"once", b"twice"):
        guest.stop()
        assert len(devicestate.save(guest.backend.run, guest.frontend)) > 10000
        guest.go()
        guest.say(connection, text)
    guest.close()


def forged(state: bytes, application: dict[str, Any]) -> bytes:
    """A whole state by somebody who writes its digest himself, with something else for the services."""
    reader = StateReader()
    reader.feed(state)
    was = reader.finish()
    frozen = json.loads(was.owner)
    frozen["application"] = application
    head = HEAD.unpack_from(state)
    device = state[HEAD.size : HEAD.size + head[3]]
    owner = json.dumps(frozen).encode()
    digest = sha256(device + owner).digest()
    return HEAD.pack(*head[:3], len(device), len(owner), digest) + device + owner


@pytest.mark.parametrize(
    "application",
    [
        {"connections": [{}]},
        {"connections": [{"address": SERVER, "port": 80, "service": {"body": 1e999}, "transport": {}}]},
        {"leases": [None]},
    ],
)
def test_state_that_nobody_can_go_on_from_does_not_end_the_back_end(
    serves: Callable[..., Serve], application: dict[str, Any]
) -> None:
    here, there, guest = serves("here"), serves("there"), Mover()
    guest.connect(here)
    guest.go()
    guest.dial()
    guest.stop()
    state = devicestate.save(guest.backend.run, guest.frontend)
    guest.hang_up()
    guest.connect(there)
    devicestate.load(guest.backend.run, guest.frontend, forged(state, application))
    guest.go()
    guest.say(guest.dial(), b"served all the same")
    assert "cannot be gone on from" in there.log.read_text()
    guest.close()


def test_connections_of_a_file_are_thawed_once_and_not_again_after_they_were_given_away(
    serves: Callable[..., Serve], tmp_path: Path
) -> None:
    guest, frozen, socket = Mover(), str(tmp_path / "frozen"), str(tmp_path / "move")
    first = serves("first", "--freeze", frozen)
    guest.connect(first)
    guest.go()
    connection = guest.dial()
    guest.stop()
    guest.hang_up()
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(10) == 0
    report = tmp_path / "run.html"
    here = serves("here", "--thaw", frozen, "--hand-over", socket, "--report", str(report))
    there = serves("there", "--take-over", socket)
    guest.connect(here)
    guest.go()
    guest.say(connection, b"here")
    guest.stop()
    guest.hang_up()
    guest.connect(there)
    guest.go()
    guest.say(connection, b"there")
    guest.stop()
    guest.hang_up()
    guest.connect(here)
    guest.go()
    connection.send(b"still here?")
    guest.until(lambda: connection.state == "reset", connection.again)
    guest.close()
    of_the_first_life = report.read_text()
    here.process.send_signal(signal.SIGINT)
    assert here.process.wait(15) == 0
    assert report.read_text() == of_the_first_life
    assert (tmp_path / "run.2.html").exists()
