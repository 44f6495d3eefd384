# SPDX-License-Identifier: GPL-2.0-or-later
"""256 MiB each way with equal SHA-256, on a good line and on a bad one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from guest.vm.machine import Guest

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
SIZE = 256 << 20
LINE = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n"
BAD_LINE = ("--loss", "0.02", "--reorder", "0.02", "--duplicate", "0.02", "--seed", "7")
GOOD_S, BAD_S = 120, 300


@cache
def upload_digest() -> str:
    """What `yes LINE | head -c SIZE` is."""
    digest, block = hashlib.sha256(), LINE * 16384
    for _ in range(SIZE // len(block)):
        digest.update(block)
    digest.update(block[: SIZE % len(block)])
    return digest.hexdigest()


def down(guest: Guest, seconds: float) -> None:
    """Download SIZE bytes; what arrived has the checksum that the server announced."""
    # The body goes through a FIFO to sha256sum: the guest has less memory than that.
    guest.check("rm -f /tmp/fifo /tmp/headers; mkfifo /tmp/fifo")
    digest = guest.check(
        f"sha256sum </tmp/fifo >/tmp/sum & curl -sS -D /tmp/headers -o /tmp/fifo http://{SERVER}/bytes/{SIZE} "
        "&& wait && cat /tmp/sum",
        seconds,
    ).split()[0]
    headers = guest.check("cat /tmp/headers")
    assert f"Content-Length: {SIZE}" in headers
    assert digest in headers


def up(guest: Guest, seconds: float) -> None:
    """Upload SIZE bytes; the server's answer has the checksum of what was sent."""
    line = LINE.decode().strip()
    answer = guest.check(f"yes {line} | head -c {SIZE} | curl -sS -T - http://{SERVER}/upload", seconds)
    assert upload_digest() in answer
    assert str(SIZE) in answer


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["vhost-user", "stream"])
@pytest.mark.parametrize("way", [up, down])
def test_256_mib_arrive_unchanged(backends: Any, boot: Boot, kind: str, way: Callable[..., None]) -> None:
    way(boot(nic=backends.start(kind)), GOOD_S)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["vhost-user", "stream"])
@pytest.mark.parametrize("way", [up, down])
def test_256_mib_arrive_unchanged_over_a_line_that_loses_reorders_and_duplicates(
    backends: Any, boot: Boot, kind: str, way: Callable[..., None]
) -> None:
    guest = boot(nic=backends.start(kind, *BAD_LINE))
    way(guest, BAD_S)
    assert _retransmitted(guest) or way is down, "two percent of loss and the guest resent nothing"


def _retransmitted(guest: Guest) -> int:
    names, values = (line.split() for line in guest.check("grep ^Tcp: /proc/net/snmp").splitlines())
    return int(dict(zip(names, values, strict=True))["RetransSegs"])
