# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of examples/, as a user starts them, with a guest in front of them."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest.vm.args import VhostUser
from guest.vm.rundir import RunDir

EXAMPLES = Path(__file__).parents[2] / "examples"
READY_S = 30


@pytest.fixture
def echo_socket(rundir: RunDir) -> Iterator[Path]:
    """The socket of a running examples/echo_server.py."""
    path = rundir.socket_path("echo.sock")
    # A script that runs the tests in the background has SIGINT ignored, and so would the example.
    command = ["env", "--default-signal=INT", sys.executable, str(EXAMPLES / "echo_server.py"), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=EXAMPLES.parent) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], READY_S)[0], "the example printed nothing"
            assert "listening on 10.0.2.2:7777" in process.stdout.readline()
            yield path
            assert process.poll() is None, "the example ended by itself"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(10) == 0
            finally:
                process.kill()  # does nothing to one that has ended
            assert not path.exists()


def test_echo_server_example_echoes_in_a_guest(echo_socket: Path, boot: Callable[..., Any]) -> None:
    guest = boot(nic=VhostUser(path=echo_socket))
    sent = guest.check("seq 1 20000 | sha256sum")
    assert guest.check("seq 1 20000 | nc -N 10.0.2.2 7777 | sha256sum", 60) == sent
