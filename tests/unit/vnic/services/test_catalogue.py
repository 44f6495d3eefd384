# SPDX-License-Identifier: GPL-2.0-or-later
"""What follows for the services from the address that the user gave."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Interface

import pytest

from vnic.services.catalogue import POOL_MAX, Services


@pytest.mark.parametrize(
    ("address", "last", "size"),
    [
        ("10.0.2.2/24", "10.0.2.254", 240),
        ("10.0.0.2/16", "10.0.4.14", POOL_MAX),
        ("10.0.2.33/27", "10.0.2.62", 16),
    ],
)
def test_pool_of_a_subnet_begins_at_15_and_is_bounded(address: str, last: str, size: int) -> None:
    async def pool() -> list[IPv4Address]:
        server = IPv4Interface(address)
        return list(Services(server, server.ip + 1).dhcp.pool.leases)

    addresses = asyncio.run(pool())
    assert len(addresses) == size
    assert addresses[-1] == IPv4Address(last)
