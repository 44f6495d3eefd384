# SPDX-License-Identifier: GPL-2.0-or-later
"""A stack with an IPv6 address and a raw host on its link that neighbour discovery has to find."""

from __future__ import annotations

import pytest

from stack.api.sim import RawPeer, Sim
from stack.include.netdevice import net_device
from stack.stack import Stack


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=7)


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", "fd00::2/64")


@pytest.fixture
def dev(net: Stack) -> net_device:
    return net.devices_by_name["eth0"]


@pytest.fixture
def peer(sim: Sim, net: Stack) -> RawPeer:
    """fd00::15, known to the stack."""
    return sim.add_peer("10.0.2.15", net, addr6="fd00::15")


@pytest.fixture
def stranger(sim: Sim, net: Stack) -> RawPeer:
    """fd00::15, whom the stack has to ask for its link address."""
    return sim.add_peer("10.0.2.15", net, addr6="fd00::15", resolve=True)
