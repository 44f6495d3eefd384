# SPDX-License-Identifier: GPL-2.0-or-later
"""The control queue: what each command does, and that what is wrong changes nothing."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmodel.virtio import ctrl, rss
from devmodel.virtio import features as vf
from devmodel.virtio.ctrl import ControlQueue
from devmodel.virtio.rss import Steering
from devmodel.virtio.rxfilter import BROADCAST, MAX_TABLE, RxFilter

OK, ERR = b"\0", b"\1"
ALL = vf.mask(
    vf.VIRTIO_NET_F_CTRL_VQ,
    vf.VIRTIO_NET_F_CTRL_RX,
    vf.VIRTIO_NET_F_CTRL_RX_EXTRA,
    vf.VIRTIO_NET_F_CTRL_VLAN,
    vf.VIRTIO_NET_F_CTRL_MAC_ADDR,
    vf.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    vf.VIRTIO_NET_F_GUEST_ANNOUNCE,
    vf.VIRTIO_NET_F_MQ,
    vf.VIRTIO_NET_F_RSS,
    vf.VIRTIO_NET_F_HASH_REPORT,
    vf.VIRTIO_NET_F_NOTF_COAL,
    vf.VIRTIO_NET_F_VQ_NOTF_COAL,
    vf.VIRTIO_NET_F_GUEST_CSUM,
    vf.VIRTIO_NET_F_GUEST_TSO4,
)
OWN, OTHER, GROUP = b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\2", b"\1\0\x5e\0\0\1"
PAIRS = 8


class Card:
    """A control queue with what it controls."""

    def __init__(self, features: int = ALL) -> None:
        self.filter, self.steering = RxFilter(), Steering()
        self.offloads: list[int] = []
        self.queue = ControlQueue(self.filter, self.steering, PAIRS, self.offloads.append)
        self.queue.negotiate(features)
        self.filter.mac = OWN

    def command(self, kind: int, number: int, data: bytes = b"") -> bytes:
        return self.queue.process(bytes([kind, number]) + data, 1)

    def hears(self, mac: bytes, tag: int | None = None) -> bool:
        kind = b"\x08\x00" if tag is None else b"\x81\x00" + tag.to_bytes(2, "big")
        return not self.filter.active or self.filter.accepts(mac + bytes(6) + kind + bytes(50))

    def state(self) -> Any:
        queue, filter_ = self.queue, self.filter
        return (
            dict(filter_.modes),
            filter_.mac,
            filter_.unicast,
            filter_.multicast,
            set(filter_.vlans),
            (queue.pairs, self.steering.rss),
            (queue.hash, queue.announce, str(queue.coalescing)),
            list(self.offloads),
        )


def table(*macs: bytes) -> bytes:
    return struct.pack("<I", len(macs)) + b"".join(macs)


@pytest.fixture
def card() -> Card:
    return Card()


# -- filters --------------------------------------------------------------------------------------------------------


def test_card_without_a_control_queue_hears_everything() -> None:
    card = Card(0)
    assert card.hears(OTHER)
    assert card.hears(GROUP, tag=5)
    assert card.command(ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0") == ERR


def test_card_is_promiscuous_until_its_driver_says_otherwise(card: Card) -> None:
    assert card.hears(OTHER)
    assert card.command(ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0") == OK
    assert not card.hears(OTHER)
    assert card.hears(OWN)
    assert card.hears(BROADCAST)
    assert not card.hears(GROUP)
    assert card.filter.dropped == {"mac": 2, "vlan": 0}


@pytest.mark.parametrize(
    ("mode", "heard"),
    [
        (1, [OWN, GROUP, BROADCAST]),  # all multicast
        (2, [OWN, OTHER, BROADCAST]),  # all unicast
        (3, [OWN, BROADCAST]),  # no multicast
        (4, [BROADCAST]),  # no unicast
        (5, [OWN]),  # no broadcast
    ],
)
def test_mode_lets_pass_or_keeps_off_a_kind(card: Card, mode: int, heard: list[bytes]) -> None:
    card.command(ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0")
    assert card.command(ctrl.VIRTIO_NET_CTRL_RX, mode, b"\1") == OK
    assert [mac for mac in (OWN, OTHER, GROUP, BROADCAST) if card.hears(mac)] == heard


def test_table_of_addresses_is_replaced_as_a_whole(card: Card) -> None:
    card.command(ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0")
    assert card.command(ctrl.VIRTIO_NET_CTRL_MAC, 0, table(OTHER) + table(GROUP)) == OK
    assert card.hears(OTHER)
    assert card.hears(GROUP)
    assert card.command(ctrl.VIRTIO_NET_CTRL_MAC, 0, table() + table()) == OK
    assert not card.hears(OTHER)
    assert card.hears(OWN)


def test_card_whose_address_is_not_known_hears_every_unicast(card: Card) -> None:
    card.queue.negotiate(ALL)
    card.command(ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0")
    assert card.hears(OTHER)
    assert not card.hears(GROUP)


def test_address_that_is_set_is_the_one_that_is_heard(card: Card) -> None:
    card.command(ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0")
    assert card.command(ctrl.VIRTIO_NET_CTRL_MAC, 1, OTHER) == OK
    assert (card.hears(OTHER), card.hears(OWN)) == (True, False)


def test_tagged_frame_passes_if_its_vlan_was_added(card: Card) -> None:
    assert not card.hears(OWN, tag=100)
    assert card.hears(OWN)
    assert card.command(ctrl.VIRTIO_NET_CTRL_VLAN, 0, struct.pack("<H", 100)) == OK
    assert card.hears(OWN, tag=0xE000 | 100)  # the priority is no part of it
    assert card.command(ctrl.VIRTIO_NET_CTRL_VLAN, 1, struct.pack("<H", 100)) == OK
    assert not card.hears(OWN, tag=100)
    assert card.filter.dropped["vlan"] == 2


# -- queues ---------------------------------------------------------------------------------------------------------


def rss_command(
    pairs: int = 4, entries: tuple[int, ...] = (0, 1, 2, 3), unclassified: int = 0, key: bytes = bytes(40)
) -> bytes:
    head = struct.pack("<IHH", rss.SUPPORTED_HASH_TYPES, len(entries) - 1, unclassified)
    return head + struct.pack(f"<{len(entries)}HH", *entries, pairs) + bytes([len(key)]) + key


def test_pairs_that_are_set_are_used(card: Card) -> None:
    assert card.command(ctrl.VIRTIO_NET_CTRL_MQ, 0, struct.pack("<H", PAIRS)) == OK
    assert card.queue.pairs == PAIRS


def test_rss_is_configured_and_ends_with_pairs_set(card: Card) -> None:
    assert card.command(ctrl.VIRTIO_NET_CTRL_MQ, 1, rss_command()) == OK
    assert card.steering.rss is not None
    assert (card.queue.pairs, card.steering.rss.table) == (4, (0, 1, 2, 3))
    assert card.queue.hash == card.steering.rss.hash
    card.command(ctrl.VIRTIO_NET_CTRL_MQ, 0, struct.pack("<H", 2))
    assert card.steering.rss is None


def test_hashes_for_the_header_are_configured(card: Card) -> None:
    data = struct.pack("<I8x", rss.VIRTIO_NET_HASH_TYPE_TCPv4) + bytes([4]) + b"\1\2\3\4"
    assert card.command(ctrl.VIRTIO_NET_CTRL_MQ, 2, data) == OK
    assert card.queue.hash is not None
    assert (card.queue.hash.types, card.queue.hash.key) == (rss.VIRTIO_NET_HASH_TYPE_TCPv4, b"\1\2\3\4")


# -- the rest -------------------------------------------------------------------------------------------------------


def test_offloads_are_narrowed_and_given_back(card: Card) -> None:
    csum, tso = vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM), vf.mask(vf.VIRTIO_NET_F_GUEST_TSO4)
    assert card.command(ctrl.VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, struct.pack("<Q", csum)) == OK
    assert card.command(ctrl.VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, struct.pack("<Q", csum | tso)) == OK
    assert card.offloads == [ALL & ~tso, ALL]


def test_announcement_is_acknowledged(card: Card) -> None:
    card.queue.announce = True
    assert card.command(ctrl.VIRTIO_NET_CTRL_ANNOUNCE, 0) == OK
    assert not card.queue.announce


def test_coalescing_is_noted_each_way(card: Card) -> None:
    assert card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 0, struct.pack("<II", 8, 50)) == OK
    assert card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 1, struct.pack("<II", 16, 100)) == OK
    tx, rx = ctrl.Coalescing(50, 8), ctrl.Coalescing(100, 16)
    queues = card.queue.coalescing
    assert {index: queues[index] for index in (0, 1, 2, 3)} == {0: rx, 1: tx, 2: rx, 3: tx}


def test_coalescing_of_one_queue_is_set_and_read(card: Card) -> None:
    set_, get = ctrl.VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET, ctrl.VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET
    assert card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 1, struct.pack("<II", 16, 100)) == OK
    assert card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, set_, struct.pack("<HHII", 2, 0, 3, 7)) == OK
    for index, expected in ((0, (16, 100)), (2, (3, 7)), (3, (0, 0))):
        asked = bytes([ctrl.VIRTIO_NET_CTRL_NOTF_COAL, get]) + struct.pack("<HH", index, 0)
        assert card.queue.process(asked, 13) == OK + struct.pack("<HHII", index, 0, *expected)
        assert card.queue.process(asked, 12) == ERR
    before = card.state()
    for data in (struct.pack("<HHII", 2 * PAIRS, 0, 3, 7), struct.pack("<HHI", 0, 0, 3), b""):
        assert card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, set_, data) == ERR
    assert card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, get, struct.pack("<H", 0)) == ERR
    assert card.state() == before


@pytest.mark.parametrize("missing", [vf.VIRTIO_NET_F_NOTF_COAL, vf.VIRTIO_NET_F_VQ_NOTF_COAL])
def test_coalescing_needs_its_feature(missing: int) -> None:
    card = Card(ALL & ~vf.mask(missing))
    of_all = card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 0, struct.pack("<II", 8, 50))
    of_one = card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 2, struct.pack("<HHII", 0, 0, 8, 50))
    assert (of_all, of_one) == ((ERR, OK) if missing == vf.VIRTIO_NET_F_NOTF_COAL else (OK, ERR))
    assert card.command(ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 4, bytes(8)) == ERR


def test_negotiation_begins_anew(card: Card) -> None:
    fresh = Card().state()
    for kind, number, data in (
        (ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0"),
        (ctrl.VIRTIO_NET_CTRL_MAC, 0, table(OTHER) + table(GROUP)),
        (ctrl.VIRTIO_NET_CTRL_VLAN, 0, b"\5\0"),
        (ctrl.VIRTIO_NET_CTRL_MQ, 1, rss_command()),
        (ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 0, bytes([1] * 8)),
    ):
        assert card.command(kind, number, data) == OK
    card.queue.negotiate(ALL)
    card.filter.mac = OWN
    assert card.state() == fresh
    assert card.queue.counters == {"ok": 5, "refused": 0}


# -- what is wrong ----------------------------------------------------------------------------------------------------

WRONG = {
    "nothing": b"",
    "a class without a command": b"\0",
    "an unknown class": b"\x7f\0\0",
    "an unknown RX mode": bytes([ctrl.VIRTIO_NET_CTRL_RX, 6, 1]),
    "an RX mode without its byte": bytes([ctrl.VIRTIO_NET_CTRL_RX, 0]),
    "a table that is longer than it is": bytes([ctrl.VIRTIO_NET_CTRL_MAC, 0]) + b"\xff\xff\xff\xff",
    "a table of too many": bytes([ctrl.VIRTIO_NET_CTRL_MAC, 0])
    + table(*[bytes([2, 0, 0, 0, 0, n]) for n in range(MAX_TABLE + 1)])
    + table(),
    "a table without its second": bytes([ctrl.VIRTIO_NET_CTRL_MAC, 0]) + table(OTHER),
    "a group among the unicast": bytes([ctrl.VIRTIO_NET_CTRL_MAC, 0]) + table(GROUP) + table(),
    "a unicast among the groups": bytes([ctrl.VIRTIO_NET_CTRL_MAC, 0]) + table() + table(OTHER),
    "bytes behind the tables": bytes([ctrl.VIRTIO_NET_CTRL_MAC, 0]) + table() + table() + b"x",
    "an address of five bytes": bytes([ctrl.VIRTIO_NET_CTRL_MAC, 1]) + OWN[:5],
    "VLAN 4096": bytes([ctrl.VIRTIO_NET_CTRL_VLAN, 0]) + struct.pack("<H", 4096),
    "an unknown VLAN command": bytes([ctrl.VIRTIO_NET_CTRL_VLAN, 2, 1, 0]),
    "no pairs": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 0, 0, 0]),
    "too many pairs": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 0, PAIRS + 1, 0]),
    "RSS with a table of three": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 1]) + rss_command(entries=(0, 1, 2)),
    "RSS with a table of 256": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 1]) + rss_command(entries=(0,) * 256),
    "RSS to a queue that is not there": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 1]) + rss_command(entries=(0, PAIRS)),
    "RSS whose unclassified are sent nowhere": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 1])
    + rss_command(unclassified=PAIRS),
    "RSS whose key is shorter than it says": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 1]) + rss_command()[:-1],
    "RSS with a key of 41 bytes": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 1]) + rss_command(key=bytes(41)),
    "a hash type that is not offered": bytes([ctrl.VIRTIO_NET_CTRL_MQ, 2]) + struct.pack("<I8xB", 1 << 8, 0),
    "an offload that was not negotiated": bytes([ctrl.VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0])
    + struct.pack("<Q", vf.mask(vf.VIRTIO_NET_F_GUEST_TSO6)),
    "offloads of seven bytes": bytes([ctrl.VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0]) + bytes(7),
    "coalescing of a third kind": bytes([ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 2]) + bytes(8),
}


@pytest.mark.parametrize("name", WRONG)
def test_command_that_is_wrong_is_refused_and_changes_nothing(card: Card, name: str) -> None:
    before = card.state()
    assert card.queue.process(WRONG[name], 1) == ERR
    assert card.state() == before
    assert card.queue.counters == {"ok": 0, "refused": 1}


@pytest.mark.parametrize("bit", [n for n in range(64) if ALL >> n & 1 and n not in (1, 7)])
def test_command_whose_feature_was_not_negotiated_is_refused(bit: int) -> None:
    commands = [
        (ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0"),
        (ctrl.VIRTIO_NET_CTRL_RX, 2, b"\1"),
        (ctrl.VIRTIO_NET_CTRL_MAC, 0, table() + table()),
        (ctrl.VIRTIO_NET_CTRL_MAC, 1, OTHER),
        (ctrl.VIRTIO_NET_CTRL_VLAN, 0, b"\1\0"),
        (ctrl.VIRTIO_NET_CTRL_ANNOUNCE, 0, b""),
        (ctrl.VIRTIO_NET_CTRL_MQ, 0, b"\1\0"),
        (ctrl.VIRTIO_NET_CTRL_MQ, 1, rss_command()),
        (ctrl.VIRTIO_NET_CTRL_MQ, 2, struct.pack("<I8xB", 1, 0)),
        (ctrl.VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, bytes(8)),
        (ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 0, bytes(8)),
        (ctrl.VIRTIO_NET_CTRL_NOTF_COAL, 2, bytes(12)),
    ]
    with_it, without = Card(ALL), Card(ALL & ~(1 << bit))
    assert [with_it.command(*command) for command in commands] == [OK] * len(commands)
    refused = [without.command(*command) for command in commands].count(ERR)
    assert refused == {vf.VIRTIO_NET_F_CTRL_VQ: len(commands), vf.VIRTIO_NET_F_CTRL_RX: 2}.get(bit, 1)


def test_command_without_room_for_its_ack_is_not_done(card: Card) -> None:
    before = card.state()
    assert card.queue.process(bytes([ctrl.VIRTIO_NET_CTRL_RX, 0, 0]), 0) == b""
    assert card.state() == before


@given(st.lists(st.binary(max_size=80) | st.builds(bytes, st.lists(st.integers(0, 7), max_size=60))))
def test_any_command_is_done_or_refused(commands: list[bytes]) -> None:
    card = Card()
    for command in commands:
        before = card.state()
        answer = card.queue.process(command, 1)
        assert answer in (OK, ERR)
        if answer == ERR:
            assert card.state() == before
        assert 1 <= card.queue.pairs <= PAIRS
        assert len(card.filter.unicast) <= MAX_TABLE
