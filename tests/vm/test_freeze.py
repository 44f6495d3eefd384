# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end is stopped in the middle of a guest's download and another one goes on from the state that it left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guest.vm.machine import Guest

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
MIB = 1 << 20
MEMORY_MIB = 768
TRANSFER_S = 420


def transfer(backends: Any, boot: Boot, tmp_path: Path, size_mib: int, stops: int) -> None:
    """A download during which the back end is replaced ``stops`` times, and a connection that is idle all the while."""
    state = tmp_path / "state.json"
    guest = boot(nic=backends.start("vhost-user", "--freeze", str(state)), memory_mib=MEMORY_MIB)
    size = size_mib * MIB
    url = f"http://{SERVER}/bytes/{size}"
    # curl's limit makes the transfer last longer than the stops take; TCP sees a reader that stops and goes.
    job = guest.shell.background(f"curl -sS -D /tmp/headers -o /tmp/body --limit-rate {size // 12} {url}")
    idle = guest.shell.background(f"(sleep 3; echo still here; sleep 1000) | nc {SERVER} 7 > /tmp/echoed")
    for stop in range(1, stops + 1):
        wanted = size * stop // (stops + 2)
        guest.check(
            f"until [ $(stat -c %s /tmp/body 2>/dev/null || echo 0) -ge {wanted} ]; do sleep 0.1; done", 120
        )
        backends.kill(signal.SIGTERM)
        assert '"tcp_sock"' in state.read_text()
        backends.start("vhost-user", "--thaw", str(state), "--freeze", str(state))
    guest.check(f"until [ $(stat -c %s /tmp/body) -ge {size} ]; do sleep 0.2; done", TRANSFER_S)
    guest.check("for i in $(seq 50); do [ -s /tmp/echoed ] && break; sleep 0.2; done", 30)
    assert guest.check("cat /tmp/echoed").strip() == "still here"
    digest = guest.check("sha256sum /tmp/body", TRANSFER_S).split()[0]
    assert digest in guest.check("cat /tmp/headers")
    # The thawed back end serves new connections too, and no address is given out twice.
    assert "ESTABLISHED" in guest.check(f"curl -sS --max-time 30 http://{SERVER}/", 40)
    for running in (job, idle):
        running.kill("KILL")


def test_download_goes_on_in_the_next_back_end(backends: Any, boot: Boot, tmp_path: Path) -> None:
    transfer(backends, boot, tmp_path, size_mib=64, stops=1)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_download_of_256_mib_goes_on_in_three_back_ends(backends: Any, boot: Boot, tmp_path: Path) -> None:
    transfer(backends, boot, tmp_path, size_mib=256, stops=3)


def test_recorded_run_with_a_guest_is_replayed_to_the_same_state(
    backends: Any, boot: Boot, tmp_path: Path
) -> None:
    recording = tmp_path / "run.jsonl"
    guest = boot(nic=backends.start("vhost-user", "--record", str(recording)))
    guest.check(f"curl -sS -o /tmp/body http://{SERVER}/bytes/{8 * MIB}", 120)
    guest.check(f"curl -sS -T /tmp/body http://{SERVER}/upload", 120)
    guest.check(f"ping -c 2 {SERVER}", 60)
    assert (
        recording.stat().st_size < 40 * MIB
    )  # what the server sends is written once, however often it is sent
    backends.kill(signal.SIGTERM)
    pcap = tmp_path / "run.pcapng"
    argv = [sys.executable, "-m", "vnic", "replay", str(recording), "--pcap", str(pcap)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "byte for byte" in told.stderr
    assert pcap.stat().st_size > 16 * MIB
