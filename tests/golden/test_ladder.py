# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections between two stacks in virtual time as ladder diagrams, as the server's end saw them, with comments.

``python -m tests.golden.test_ladder`` writes them anew, and docs/ladder.md shows them.
"""

from __future__ import annotations

import contextlib
import functools
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, Frame, Sim, StackEnd
from stack.include.netdevice import net_device
from stack.include.sk_buff import sk_buff
from stack.inspect import ladder
from stack.inspect.conversation import Conversation, Packet, conversations
from stack.net.core.skbuff import skb_linear_bytes
from stack.trace.hub import TraceHub
from stack.trace.packets import PacketComments

GOLDEN = Path(__file__).parent / "ladder"
DOCS = Path(__file__).parents[2] / "docs" / "ladder.md"
PICTURES = DOCS.parent / "pictures"
MARK = "<!-- written by python -m tests.golden.test_ladder; a test compares -->\n"

ADDRESS, PORT = "10.0.2.2", 7
DELAY_NS = 10 * MSEC
MSS = 1448


class WatchedEnd(StackEnd):
    """A stack's end of a link whose packets are captured, each with its comment."""

    packets: list[Packet]
    comments: PacketComments

    def ndo_start_xmit(self, skb: sk_buff, dev: net_device) -> int:
        frame = skb_linear_bytes(skb)
        self.packets.append(Packet(self.sim.now_ns(), True, frame, self.comments.sent([frame])))
        return super().ndo_start_xmit(skb, dev)

    def receive(self, frame: Frame) -> None:
        """It stands before what is sent in answer to it."""
        place, told = len(self.packets), self.comments.received(frame.data)
        super().receive(frame)
        self.packets.insert(place, Packet(self.sim.now_ns(), False, frame.data, told()))


class World:
    """A server, whose end of the wire is captured, and a client, 10 ms apart."""

    def __init__(self) -> None:
        self.sim = Sim(seed=1)
        self.net = self.sim.add_stack(f"{ADDRESS}/24")
        self.end = WatchedEnd(self.sim, "server", self.net, self.net.devices_by_name["eth0"])
        self.end.packets, self.end.comments = (
            [],
            PacketComments(self.net, self.end.dev.ifindex, TraceHub(time.perf_counter_ns)),
        )
        guest = self.sim.add_stack("10.0.2.15/24")
        self.link = self.sim.link(self.end, self.sim.end(guest), delay_ns=DELAY_NS)
        self.listener = Socket(self.net)
        self.client = Socket(guest)
        self.server = self.listener

    def connect(self) -> None:
        self.client.connect_ex((ADDRESS, PORT))
        self.sim.run_for(50 * MSEC)

    def connected(self) -> None:
        self.listener.bind(("", PORT))
        self.listener.listen(5)
        self.connect()
        self.server, _ = self.listener.accept()

    def send(self, sock: Socket, data: bytes) -> None:
        sock.send(data)
        self.sim.run_for(25 * MSEC)

    def close(self) -> None:
        """The client first."""
        self.client.close()
        self.sim.run_for(50 * MSEC)
        self.server.close()
        self.sim.run_for(50 * MSEC)


def echo(world: World) -> None:
    world.connected()
    world.send(world.client, b"hello")
    world.send(world.server, world.server.recv(100))
    world.client.recv(100)
    world.close()


def refused(world: World) -> None:
    world.connect()


def lost(world: World) -> None:
    """The second of five segments."""
    world.connected()
    sent = iter(range(100))
    world.link.forward.drop_if = lambda frame: len(frame.data) > MSS and next(sent) == 1
    world.send(world.server, bytes(5 * MSS))
    world.sim.run_for(300 * MSEC)


def silence(world: World) -> None:
    """The client's wire is cut after the handshake, for a while: a loss probe, then the timer."""
    world.connected()
    world.link.forward.drop_if = lambda frame: True
    world.send(world.server, bytes(100))
    world.sim.run_for(SEC // 2)
    world.link.forward.drop_if = None
    world.sim.run_for(SEC)


def bulk(world: World) -> None:
    """To a client that reads nothing until its window has been closed for a second."""
    world.connected()
    data = memoryview(bytes(400_000))
    for tick in range(40):
        with contextlib.suppress(BlockingIOError):
            data = data[world.server.send(data) :] if data else data
        world.sim.run_for(50 * MSEC)
        with contextlib.suppress(BlockingIOError):
            while tick > 20 and world.client.recv(65536):
                pass
    world.close()


SCENES: dict[str, tuple[str, Callable[[World], None], bool]] = {
    "echo": ("Handshake, echo, close", echo, False),
    "refused": ("Nobody listens, with --paths", refused, True),
    "lost": ("A segment is lost", lost, False),
    "silence": ("The answers stay away", silence, False),
    "bulk": ("A long transfer", bulk, False),
}


@functools.cache
def conversation(scene: str) -> Conversation:
    world = World()
    world.end.comments.start(paths=True)
    try:
        SCENES[scene][1](world)
    finally:
        world.end.comments.stop()
    (found,) = conversations(world.end.packets)
    return found


def text(scene: str) -> str:
    return ladder.text(conversation(scene), paths=SCENES[scene][2])


def svg(scene: str) -> str:
    return ladder.svg(conversation(scene), paths=SCENES[scene][2])


def document() -> str:
    parts = (
        f"## {title}\n```\n{text(name)}```\n\n![{title}](pictures/ladder-{name}.svg)\n"
        for name, (title, _, _) in SCENES.items()
    )
    return "\n".join(parts)


@pytest.mark.parametrize("scene", SCENES)
def test_ladder_is_the_golden_one(scene: str) -> None:
    assert text(scene) == (GOLDEN / f"{scene}.txt").read_text()
    assert svg(scene) == (GOLDEN / f"{scene}.svg").read_text()


@pytest.mark.parametrize("scene", SCENES)
def test_ladder_has_80_columns_and_ascii_only(scene: str) -> None:
    drawn = ladder.text(conversation(scene), paths=True, every=True)
    assert drawn.isascii()
    assert max(map(len, drawn.splitlines())) <= 80


@pytest.mark.parametrize("scene", SCENES)
def test_svg_is_well_formed_and_needs_nothing_else(scene: str) -> None:
    drawn = svg(scene)
    assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in drawn
    assert len(drawn) < 20_000


@pytest.mark.parametrize("scene", SCENES)
def test_docs_have_the_same_svg(scene: str) -> None:
    assert (PICTURES / f"ladder-{scene}.svg").read_text() == (GOLDEN / f"{scene}.svg").read_text()


def test_docs_show_the_ladders_as_they_are() -> None:
    assert DOCS.read_text().partition(MARK)[2] == document(), "run python -m tests.golden.test_ladder"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    PICTURES.mkdir(exist_ok=True)
    for name in SCENES:
        (GOLDEN / f"{name}.txt").write_text(text(name))
        (GOLDEN / f"{name}.svg").write_text(svg(name))
        (PICTURES / f"ladder-{name}.svg").write_text(svg(name))
    head = DOCS.read_text().partition(MARK)[0] if DOCS.exists() else ""
    DOCS.write_text(head + MARK + document())
