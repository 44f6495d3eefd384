# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend's steps: which messages in which order, and what answers mean. No device, no socket."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeVar

import pytest

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.message import Request
from devmodel.virtio import features as vf
from guest.driver.errors import FeatureMissing, ProtocolBroken, RequestRefused
from guest.driver.frontend import PROTOCOL_FEATURES, Call, Frontend, Steps
from guest.driver.loop import World
from guest.driver.memory import DriverMemory, pieces_layout
from guest.driver.virtio_net import DRIVER_FEATURES, VirtioNetDriver

T = TypeVar("T")
BIT30 = vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES)
REPLY_ACK = vf.mask(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)


class Script:
    """A back end of canned answers: by request, a number or bytes; refusals by number."""

    def __init__(self, **answers: int | bytes) -> None:
        self.answers = answers
        self.calls: list[Call] = []

    def run(self, steps: Steps[T]) -> T:
        answer: bytes | None = None
        while True:
            try:
                call = next(steps) if answer is None else steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            self.calls.append(call)
            answer = self._answer(call) if call.replies else b""

    def _answer(self, call: Call) -> bytes:
        canned = self.answers.get(call.name, call.payload if call.name == "GET_VRING_BASE" else 0)
        return canned if isinstance(canned, bytes) else struct.pack("<Q", canned)

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.calls]


@pytest.fixture
def memory() -> Iterator[DriverMemory]:
    made = DriverMemory(pieces_layout(1 << 20))
    yield made
    made.close()


def connected(protocol: int, features: int = DRIVER_FEATURES | BIT30) -> tuple[Script, Frontend]:
    script, frontend = Script(GET_FEATURES=features, GET_PROTOCOL_FEATURES=protocol), Frontend()
    script.run(frontend.connect())
    script.calls.clear()
    return script, frontend


def test_connect_without_bit_30_asks_for_nothing_more() -> None:
    script, frontend = Script(GET_FEATURES=DRIVER_FEATURES), Frontend()
    assert script.run(frontend.connect()) == DRIVER_FEATURES
    assert script.names == ["SET_OWNER", "GET_FEATURES"]
    assert not any(call.need_reply for call in script.calls)


def test_connect_takes_what_both_have_and_asks_what_it_gives() -> None:
    wide = vf.mask(vu.VHOST_USER_PROTOCOL_F_MQ, vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, 12)
    script = Script(GET_FEATURES=BIT30, GET_PROTOCOL_FEATURES=wide, GET_QUEUE_NUM=4, GET_MAX_MEM_SLOTS=32)
    frontend = Frontend()
    script.run(frontend.connect())
    assert frontend.protocol_features == wide & PROTOCOL_FEATURES
    assert (frontend.queue_pairs, frontend.mem_slots) == (4, 32)
    assert script.names[2:] == [
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "GET_MAX_MEM_SLOTS",
    ]


def test_reply_ack_is_asked_of_every_message_without_a_reply_of_its_own() -> None:
    script, frontend = connected(REPLY_ACK)
    script.run(frontend.set_features(0))
    assert [(call.name, call.need_reply) for call in script.calls] == [("SET_FEATURES", True)]
    script.run(frontend.number(Request.VHOST_USER_GET_FEATURES))
    assert not script.calls[-1].need_reply


def test_refusal_is_an_error_where_it_happened() -> None:
    script, frontend = connected(REPLY_ACK)
    script.answers["SET_FEATURES"] = 1
    with pytest.raises(RequestRefused, match="refused SET_FEATURES"):
        script.run(frontend.set_features(0))


def test_features_that_are_not_offered_are_never_sent() -> None:
    script, frontend = connected(REPLY_ACK, vf.mask(vf.VIRTIO_F_VERSION_1))
    with pytest.raises(FeatureMissing, match="VIRTIO_NET_F_MRG_RXBUF"):
        script.run(frontend.set_features(vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)))
    assert script.calls == []


def test_status_without_features_ok_is_a_refusal() -> None:
    script, frontend = connected(vf.mask(vu.VHOST_USER_PROTOCOL_F_STATUS))
    script.answers["GET_STATUS"] = 3
    with pytest.raises(RequestRefused, match="refused the features"):
        script.run(frontend.set_features(0))
    assert script.names == ["SET_STATUS", "SET_FEATURES", "SET_STATUS", "GET_STATUS"]


def test_message_whose_protocol_feature_is_missing_is_not_sent() -> None:
    script, frontend = connected(0)
    with pytest.raises(FeatureMissing, match="NET_SET_MTU cannot be sent"):
        script.run(frontend.set_number(Request.VHOST_USER_NET_SET_MTU, 1500))
    script.run(frontend.set_mtu(1500))
    assert script.calls == []


def test_start_sends_memory_then_each_ring_then_enables(memory: DriverMemory) -> None:
    script, frontend = connected(0)
    script.run(frontend.set_features(0))
    script.calls.clear()
    driver = VirtioNetDriver(memory, 0, 8)
    script.run(frontend.start(memory, driver.queues))
    ring = [f"SET_VRING_{step}" for step in ("NUM", "BASE", "ADDR", "ERR", "CALL", "KICK")]
    enable = ["SET_VRING_ENABLE"] * 2
    assert script.names == ["SET_MEM_TABLE", *ring, *ring, *enable, "GET_FEATURES"]
    assert len(script.calls[0].fds) == 4
    assert all(call.payload == struct.pack("<Q", 0x100) for call in script.calls[4:7])


def test_start_uses_memory_slots_once(memory: DriverMemory) -> None:
    slots = vf.mask(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
    script = Script(GET_FEATURES=BIT30, GET_PROTOCOL_FEATURES=slots, GET_MAX_MEM_SLOTS=4)
    frontend = Frontend()
    script.run(frontend.connect())
    script.calls.clear()
    script.run(frontend.share_memory(memory))
    assert script.names == ["ADD_MEM_REG"] * 4
    script.run(frontend.share_memory(memory))
    assert len(script.calls) == 4
    frontend.forget()
    frontend.protocol_features, frontend.mem_slots = slots, 3
    with pytest.raises(FeatureMissing, match="3 memory slots"):
        script.run(frontend.share_memory(memory))


def test_stop_without_bit_30_sends_no_enable(memory: DriverMemory) -> None:
    script, frontend = connected(0, DRIVER_FEATURES)
    script.run(frontend.set_features(0))
    script.calls.clear()
    driver = VirtioNetDriver(memory, 0, 8)
    script.answers["GET_VRING_BASE"] = struct.pack("<II", 0, 7)
    with pytest.raises(ProtocolBroken, match="another ring"):
        script.run(frontend.stop(driver.queues))
    assert script.names == ["GET_VRING_BASE"] * 2


def test_short_answer_is_told() -> None:
    script, frontend = Script(GET_FEATURES=b"1234"), Frontend()
    with pytest.raises(ProtocolBroken, match="GET_FEATURES is too short"):
        script.run(frontend.connect())


@pytest.mark.parametrize("reset_device", [True, False])
def test_reset_by_message_or_by_hand(reset_device: bool) -> None:
    """With a real session: after a reset other features can be set."""
    from devmodel.vhost_user.session import PROTOCOL_FEATURES as OFFERED

    bit = vf.mask(vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE)
    world = World(protocol_features=OFFERED if reset_device else OFFERED & ~bit)
    driver = world.start()
    world.link.run(world.frontend.reset(driver.queues))
    assert not world.port.link_up
    assert ("RESET_DEVICE" in [call.name for call in world.link.log]) is reset_device
    world.start(0)
    assert world.port.link_up
    assert world.port.net.features == BIT30
    world.close()


def test_memory_slots_of_a_real_session() -> None:
    from devmodel.vhost_user.session import PROTOCOL_FEATURES as OFFERED

    slots = vf.mask(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
    world = World(protocol_features=OFFERED | slots, layout="pieces")
    world.start()
    assert world.port.link_up
    assert "SET_MEM_TABLE" not in [call.name for call in world.link.log]
    world.link.run(world.frontend.remove_region(world.memory.specs[3]))
    assert len(world.link.session.memory.regions) == 3
    world.close()
