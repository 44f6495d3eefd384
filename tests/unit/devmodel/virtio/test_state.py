# SPDX-License-Identifier: GPL-2.0-or-later
"""A device's state as bytes: what comes back, and what is refused before anything is changed."""

from __future__ import annotations

import random
import struct
from hashlib import sha256

import pytest

from devmodel.errors import StateError
from devmodel.virtio import features as vf
from devmodel.virtio import state
from devmodel.virtio.ctrl import Coalescing
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.state import HEAD, MAGIC, VERSION, DeviceState, StateReader

OFFERED = vf.DEVICE_FEATURES | vf.CONTROL_FEATURES | vf.mask(vf.VIRTIO_NET_F_MQ, vf.VIRTIO_NET_F_RSS)
FEATURES = OFFERED & ~vf.mask(vf.VHOST_F_LOG_ALL, vf.VIRTIO_F_RING_PACKED)
OWNER = bytes(range(256)) * 20


def read(data: bytes, piece: int = 1 << 20, limit: int = 1 << 20) -> DeviceState:
    reader = StateReader(limit)
    for at in range(0, len(data), piece):
        reader.feed(data[at : at + piece])
    return reader.finish()


def device(features: int = FEATURES, *commands: bytes) -> VirtioNet:
    net = VirtioNet(8)
    net.negotiate(features)
    assert state.obey(net, commands)
    return net


COMMANDS = {
    "nothing": (),
    "modes": (b"\0\0\0", b"\0\1\1", b"\0\5\1"),
    "address": (b"\1\1" + bytes.fromhex("525400123456"),),
    "table": (b"\1\0" + struct.pack("<I", 1) + b"\2" * 6 + struct.pack("<I", 2) + b"\3" * 6 + b"\5" * 6,),
    "vlans": tuple(b"\2\0" + struct.pack("<H", vlan) for vlan in (0, 7, 4095)),
    "offloads": (b"\5\0" + struct.pack("<Q", vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM)),),
    "pairs": (b"\4\0" + struct.pack("<H", 5),),
    "coalescing": (b"\6\0" + struct.pack("<II", 8, 50), b"\6\1" + struct.pack("<II", 16, 100)),
    "coalescing of one queue": (
        b"\6\1" + struct.pack("<II", 16, 100),
        b"\6\2" + struct.pack("<H2xII", 3, 4, 20),
        b"\6\2" + struct.pack("<H2xII", 2, 0, 0),
    ),
    "hash": (b"\4\2" + struct.pack("<I8x", 3) + b"\x28" + bytes(range(40)),),
    "rss, then another hash": (
        b"\4\1" + struct.pack("<IHHHHH", 3, 1, 2, 6, 1, 4) + b"\x28" + bytes(range(40)),
        b"\4\2" + struct.pack("<I8x", 1) + b"\x28" + bytes(40),
    ),
    "rss": (b"\4\1" + struct.pack("<IHHHHH", 3, 1, 2, 6, 1, 4) + b"\x28" + bytes(range(40)),),
}


def seen(net: VirtioNet) -> object:
    """All that a driver can have said."""
    rx, control = net.rx_filter, net.control
    what = (rx.mac, rx.modes, rx.unicast, rx.multicast, rx.vlans, rx.filtering, rx.vlan_filtering)
    coalescing = {index: one for index, one in control.coalescing.items() if one != Coalescing()}
    return what, control.pairs, net.steering.rss, net.offloads, net.used_offloads, coalescing, control.hash


@pytest.mark.parametrize("kind", COMMANDS)
def test_device_that_was_saved_comes_back_as_it_was(kind: str) -> None:
    net = device(FEATURES, *COMMANDS[kind])
    loaded = read(state.encode(net, OWNER), piece=97)
    assert loaded.owner == OWNER
    assert loaded.features == vf.effective(FEATURES)
    state.check(loaded, 8, OFFERED)
    again = VirtioNet(8)
    again.negotiate(loaded.features)
    assert state.obey(again, loaded.commands)
    assert seen(again) == seen(net)
    assert kind == "nothing" or seen(net) != seen(device())


def test_coalescing_of_a_driver_that_cannot_name_queues_comes_back() -> None:
    features = FEATURES & ~vf.mask(vf.VIRTIO_NET_F_VQ_NOTF_COAL)
    net = device(features, *COMMANDS["coalescing"])
    again = device(features, *read(state.encode(net, b"")).commands)
    assert again.control.coalescing == net.control.coalescing != {}


def test_device_without_a_control_queue_has_nothing_to_say() -> None:
    net = VirtioNet()
    net.negotiate(vf.DEVICE_FEATURES)
    assert read(state.encode(net, b"")).commands == ()


def test_state_is_wanted_to_its_last_byte() -> None:
    data = state.encode(device(), OWNER)
    reader = StateReader()
    reader.feed(data[: HEAD.size - 1])
    assert reader.wants == 1
    reader.feed(data[HEAD.size - 1 : -3])
    assert reader.wants == 3
    reader.feed(data[-3:])
    assert reader.wants == 0


@pytest.mark.parametrize("kept", [0, 1, 7, 8, HEAD.size - 1, HEAD.size, HEAD.size + 8, -1])
def test_state_that_was_cut_short_is_refused(kept: int) -> None:
    data = state.encode(device(), OWNER)
    with pytest.raises(StateError, match="cut short"):
        read(data[:kept] if kept >= 0 else data[:-1])


def test_every_changed_byte_is_noticed() -> None:
    data = state.encode(device(FEATURES, *COMMANDS["vlans"]), b"owner")
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(StateError):
            read(bytes(changed))


def forged(body: bytes, device_size: int, owner_size: int, version: int = VERSION) -> bytes:
    """A state whose digest is right whatever it says."""
    return HEAD.pack(MAGIC, version, 0, device_size, owner_size, sha256(body).digest()) + body


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no state of a network device"),
        (b"\0" * 100, "no state of a network device"),
        (forged(bytes(8), 8, 0, version=2), "another version"),
        (forged(bytes(8), 8, 1 << 40), "impossible size"),
        (forged(bytes(8), (1 << 64) - 1, 0), "impossible size"),
        (forged(bytes(7), 7, 0), "impossible size"),
        (forged(bytes(8), 8, 0) + b"x", "longer than it says"),
        (forged(bytes(11), 11, 0), "a command is cut short"),
        (forged(bytes(8) + b"\xff\xff\xff\xff", 12, 0), "a command of"),
    ],
)
def test_false_state_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(StateError) as caught:
        read(data)
    assert why in str(caught.value)


def test_endless_state_is_refused_at_its_head() -> None:
    """Nothing is kept for it."""
    reader = StateReader(owner_limit=1000)
    with pytest.raises(StateError, match="impossible size"):
        reader.feed(forged(b"", 8, 1001))


@pytest.mark.parametrize(
    ("features", "commands"),
    [
        (FEATURES | 1 << 63, ()),
        (FEATURES, (b"\4\0" + struct.pack("<H", 9),)),
        (FEATURES, (b"",)),
        (FEATURES & ~vf.CONTROL_FEATURES, COMMANDS["vlans"]),
    ],
)
def test_state_of_another_device_is_refused(features: int, commands: tuple[bytes, ...]) -> None:
    with pytest.raises(StateError):
        state.check(DeviceState(features, commands, b""), 8, OFFERED)


@pytest.mark.parametrize("seed", range(20))
def test_noise_behind_a_good_head_never_does_harm(seed: int) -> None:
    rng = random.Random(seed)
    body = rng.randbytes(rng.randint(8, 300))
    try:
        loaded = read(forged(body, len(body), 0))
        state.check(loaded, 8, (1 << 64) - 1)
    except StateError:
        pass
