# SPDX-License-Identifier: GPL-2.0-or-later
"""256 MiB each way with equal SHA-256, on a good line and on a bad one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from guest.vm.machine import Guest

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
SIZE = 256 << 20
MEMORY_MIB = 768
"""The transfer lies in the guest's tmpfs, which may take half of its memory."""
GOOD_LINE: tuple[str, ...] = ()
BAD_LINE = ("--loss", "0.02", "--reorder", "0.02", "--duplicate", "0.02", "--seed", "7")
TRANSFER_S = 420


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", ["vhost-user", "stream"])
@pytest.mark.parametrize("line", [GOOD_LINE, BAD_LINE], ids=["good", "bad"])
def test_256_mib_come_down_and_go_up_unchanged(
    backends: Any, boot: Boot, kind: str, line: tuple[str, ...]
) -> None:
    """The bad line loses, reorders and duplicates 2 % of the segments each way."""
    guest = boot(nic=backends.start(kind, *line), memory_mib=MEMORY_MIB)
    guest.check(f"curl -sS -D /tmp/headers -o /tmp/body http://{SERVER}/bytes/{SIZE}", TRANSFER_S)
    digest = guest.check("sha256sum /tmp/body", TRANSFER_S).split()[0]
    headers = guest.check("cat /tmp/headers")
    assert f"Content-Length: {SIZE}" in headers
    assert digest in headers
    answer = guest.check(f"curl -sS -T /tmp/body http://{SERVER}/upload", TRANSFER_S)
    assert digest in answer
    assert str(SIZE) in answer
    if line:
        assert _retransmitted(guest) > 1000, "two percent of loss, and the guest hardly resent anything"


def _retransmitted(guest: Guest) -> int:
    names, values = (line.split() for line in guest.check("grep ^Tcp: /proc/net/snmp").splitlines())
    return int(dict(zip(names, values, strict=True))["RetransSegs"])
