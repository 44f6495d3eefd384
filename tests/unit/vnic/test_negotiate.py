# SPDX-License-Identifier: GPL-2.0-or-later
"""Who offered a feature, who took it, who vetoed it."""

from __future__ import annotations

from typing import Any

import pytest

from vnic.negotiate import IN_USE, features


def ours(name: str, offered: bool = True, acknowledged: bool = True) -> dict[str, Any]:
    return {"name": name, "offered": offered, "acknowledged": acknowledged}


def status(shown: list[str], acknowledged: list[str]) -> dict[str, Any]:
    """As QEMU has it: a meaning behind each name."""

    def told(names: list[str]) -> dict[str, Any]:
        return {"dev-features": [f"{name}: what it means" for name in names], "transports": []}

    return {"host-features": told(shown), "guest-features": told(acknowledged)}


@pytest.mark.parametrize(
    ("shown", "acknowledged", "verdict"),
    [
        (["VIRTIO_NET_F_MTU"], ["VIRTIO_NET_F_MTU"], IN_USE),
        (["VIRTIO_NET_F_MTU"], [], "not taken by the guest's driver"),
        ([], [], "vetoed by the frontend"),
    ],
)
def test_feature_that_we_offered_is_in_use_or_somebody_did_not_want_it(
    shown: list[str], acknowledged: list[str], verdict: str
) -> None:
    (found,) = features([ours("VIRTIO_NET_F_MTU")], status(shown, acknowledged))
    assert found.verdict == verdict


def test_frontends_own_feature_is_told_from_ours() -> None:
    told = status(["VIRTIO_NET_F_MAC", "VIRTIO_NET_F_STATUS"], ["VIRTIO_NET_F_MAC"])
    assert {one.name: one.verdict for one in features([], told)} == {
        "VIRTIO_NET_F_MAC": "in use, by the frontend alone",
        "VIRTIO_NET_F_STATUS": "not taken by the guest's driver",
    }


def test_event_index_has_two_names_and_is_one_feature() -> None:
    told = status(["VIRTIO_RING_F_EVENT_IDX"], ["VIRTIO_RING_F_EVENT_IDX"])
    (found,) = features([ours("VIRTIO_F_EVENT_IDX")], told)
    assert (found.name, found.verdict) == ("VIRTIO_F_EVENT_IDX", IN_USE)


def test_without_qemu_it_is_not_known_who_did_not_take_it() -> None:
    taken, not_taken = features([ours("A"), ours("B", acknowledged=False)])
    assert (taken.shown, taken.verdict) == (None, IN_USE)
    assert not_taken.verdict == "not taken by the frontend or the guest's driver"


def test_vhost_users_own_bits_are_no_features_of_virtio() -> None:
    told = status(["VHOST_USER_F_PROTOCOL_FEATURES"], [])
    assert features([ours("VHOST_USER_F_PROTOCOL_FEATURES")], told) == []
