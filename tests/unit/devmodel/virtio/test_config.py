# SPDX-License-Identifier: GPL-2.0-or-later
"""struct virtio_net_config."""

from __future__ import annotations

import pytest

from devmodel.virtio.config import VIRTIO_NET_CONFIG, NetConfig

MAC = bytes.fromhex("525400123456")


def test_fields_lie_where_the_specification_has_them() -> None:
    space = NetConfig(mac=MAC, mtu=9000, speed=10_000, duplex=1).pack(4, False)
    assert len(space) == 24
    assert space[:6] == MAC
    assert space[6:12] == bytes.fromhex("0100 0400 2823")  # LINK_UP, 4 pairs, 9000
    assert space[12:17] == bytes.fromhex("10270000 01")
    assert space[17] == 40  # the key of the Toeplitz hash


@pytest.mark.parametrize(
    ("link_up", "announce", "status"),
    [(True, False, 1), (False, False, 0), (True, True, 3), (False, True, 2)],
)
def test_status_has_link_and_announcement(link_up: bool, announce: bool, status: int) -> None:
    space = NetConfig(mac=MAC, link_up=link_up).pack(1, announce)
    assert VIRTIO_NET_CONFIG.unpack(space)[1] == status


@pytest.mark.parametrize("mac", [MAC[:5], MAC + b"\0", b"\1" + MAC[1:]])
def test_mac_that_no_card_can_have_is_refused(mac: bytes) -> None:
    with pytest.raises(ValueError, match="MAC"):
        NetConfig(mac=mac)


@pytest.mark.parametrize("mtu", [67, 65536])
def test_mtu_outside_of_the_specification_is_refused(mtu: int) -> None:
    with pytest.raises(ValueError, match="MTU"):
        NetConfig(mac=MAC, mtu=mtu)


@pytest.mark.parametrize(
    ("offset", "data", "migration", "mac"),
    [
        (0, bytes(6), False, bytes(6)),
        (5, b"\x99", False, MAC[:5] + b"\x99"),
        (5, b"\x99\x00", False, None),
        (6, b"\x00", False, None),
        (0, b"\x01" + bytes(5), False, None),
        (0, b"\2" * 24, True, b"\2" * 6),
        (8, b"\2" * 4, True, MAC),
        (0, b"\2" * 25, True, None),
    ],
)
def test_driver_may_write_the_mac_and_a_migration_everything(
    offset: int, data: bytes, migration: bool, mac: bytes | None
) -> None:
    config = NetConfig(mac=MAC)
    before = config.pack(1, False)
    assert config.write(offset, data, migration=migration) == (mac is not None)
    assert config.pack(1, False) == (mac or MAC) + before[6:]
