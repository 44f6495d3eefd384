# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vnic.errors import UsageError
from vnic.options import AddressPlan, Options, parse_hosts, server6_of
from vnic.places import VhostUser


def test_default_plan_is_the_documented_one() -> None:
    plan = AddressPlan.of("10.0.2.2/24")
    assert (str(plan.server.ip), str(plan.name_server)) == ("10.0.2.2", "10.0.2.3")


@pytest.mark.parametrize("cidr", ["nonsense", "10.0.2.2/33", "10.0.2.0/24", "10.0.2.2/30", "10.0.2.254/24"])
def test_plan_without_room_is_refused(cidr: str) -> None:
    with pytest.raises(UsageError):
        AddressPlan.of(cidr)


@pytest.mark.parametrize("cidr", ["224.0.0.1/24", "127.0.0.2/8", "239.1.2.3/16"])
def test_plan_with_an_address_no_server_can_have_is_refused(cidr: str) -> None:
    with pytest.raises(UsageError):
        AddressPlan.of(cidr)


def test_hosts_are_split() -> None:
    assert parse_hosts(["a.test=10.0.0.1", "b=10.0.0.2"]) == {"a.test": "10.0.0.1", "b": "10.0.0.2"}


@pytest.mark.parametrize("pair", ["a.test", "a.test=", "=10.0.0.1", "a b=10.0.0.1", "a=10.0.0.300"])
def test_bad_host_is_refused(pair: str) -> None:
    with pytest.raises(UsageError):
        parse_hosts([pair])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"vhost_user": "/a", "stream": "/a"},
        {"stream": "/b", "loss": 1.5},
        {"stream": "/b", "reorder": -0.1},
        {"stream": ""},
        {"vhost_user": ""},
    ],
)
def test_options_that_cannot_be(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Options(**fields)  # type: ignore[arg-type]


def test_server6_is_the_address_given_or_none() -> None:
    default = Options(stream="/tmp/x").address6
    assert str(server6_of(default)) == "fd00:10:0:2::2/64"
    assert server6_of("none") is None


@pytest.mark.parametrize(
    "cidr",
    [
        "10.0.2.2/24",
        "fd00::2",
        "fd00::2/48",
        "fd00::/64",
        "fe80::2/64",
        "ff02::1/64",
        "::1/64",
        "::/64",
        "",
        "fd00::g/64",
    ],
)
def test_server6_that_no_guest_can_be_configured_from_is_refused(cidr: str) -> None:
    with pytest.raises(UsageError, match="address6"):
        server6_of(cidr)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"stream": "/tmp/b"}, "one guest behind vhost-user"),
        ({"vhost_user": "/tmp/a", "further": (VhostUser("/tmp/b"),)}, "one guest behind vhost-user"),
        ({"vhost_user": "/tmp/a", "record": Path("run")}, "recorded"),
        ({"vhost_user": "/tmp/a", "thaw": Path("state")}, "two states"),
        ({"vhost_user": "/tmp/a", "hand_over": Path("/tmp/move")}, "the same socket"),
        ({"vhost_user": "/tmp/move"}, "a socket of its own"),
        ({"vhost_user": "/tmp/move,mac=52:54:00:12:34:56"}, "a socket of its own"),
        ({"vhost_user": "/tmp/a", "hand_over": Path()}, "a socket of its own"),
    ],
)
def test_guest_that_cannot_be_moved_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Options(take_over=Path("/tmp/move"), **settings)
    assert Options(vhost_user="/tmp/a", take_over=Path("/tmp/move"), hand_over=Path("/tmp/next")).places
