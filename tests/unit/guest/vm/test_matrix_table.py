# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of combinations that tests/vm/test_matrix.py runs: nothing is left out without a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmmatrix import ALL, OBSTACLES, POSSIBLE, REDUCED, two_at_a_time, why_not

from guest.vm import args
from guest.vm.args import Dgram, Nic, Stream, Tap, VhostUser, Vm

PATH = Path("/run/net0.sock")
CARDS: dict[str, Nic] = {
    "vhost-user": VhostUser(path=PATH),
    "stream": Stream(path=PATH),
    "dgram": Dgram(path=PATH, local=PATH),
    "tap": Tap(ifname="tap0"),
}


def test_64_combinations_each_run_or_impossible_for_a_reason() -> None:
    assert len(ALL) == len(set(ALL)) == 64
    assert len(POSSIBLE) == 36
    assert all(bool(why_not(one)) != (one in POSSIBLE) for one in ALL)


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_every_obstacle_stands_in_the_way_of_something_that_no_other_one_does(obstacle: object) -> None:
    others = [other for other in OBSTACLES if other is not obstacle]
    alone = [one for one in ALL if why_not(one) and not any(other.stands_in(one) for other in others)]
    assert alone


def test_any_two_properties_that_can_be_together_are_together_in_the_reduced_form() -> None:
    assert set(REDUCED) <= set(POSSIBLE)
    assert two_at_a_time(REDUCED) == two_at_a_time(POSSIBLE)


def test_no_combination_of_the_reduced_form_is_there_in_vain() -> None:
    for spare in REDUCED:
        rest = tuple(one for one in REDUCED if one is not spare)
        assert two_at_a_time(rest) != two_at_a_time(POSSIBLE), spare


@pytest.mark.parametrize("one", [one for one in ALL if one.pairs == 4 and one.dialect == "modern"], ids=str)
def test_several_queues_are_a_property_of_the_cards_that_can_have_them(one: object) -> None:
    card = CARDS[one.transport]  # type: ignore[attr-defined]
    assert hasattr(card, "queues") == (not why_not(one))  # type: ignore[arg-type]


def test_packed_legacy_card_is_refused_before_qemu_is_asked() -> None:
    vm = Vm(kernel=PATH, initramfs=PATH, nics=(Stream(path=PATH, packed=True, dialect="legacy"),))
    with pytest.raises(args.BadArguments, match="packed"):
        args.check(vm)
