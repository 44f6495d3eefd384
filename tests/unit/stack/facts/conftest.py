# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the measured facts; see tests/helpers/measured.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from measured import PROFILES, Host

from stack.api.sim import Sim


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    """Each kernel in turn, unless the test names its own."""
    return str(request.param)


@pytest.fixture
def make_host(profile: str) -> Callable[..., Host]:
    """A fresh host of the test's profile; ``mtu`` and ``sysctl`` of its stack."""

    def make(mtu: int = 1500, sysctl: dict[str, Any] | None = None) -> Host:
        sim = Sim(seed=7)
        net = sim.add_stack("10.0.2.2/24", mtu=mtu, profile=profile, sysctl=sysctl)
        return Host(sim, net, sim.add_peer("10.0.2.15", net))

    return make


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    """A host with the profile's own sysctls."""
    return make_host()
