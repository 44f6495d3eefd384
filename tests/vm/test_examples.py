# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of examples/, as a user starts them, with a guest in front of them."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guest.vm.args import VhostUser
from guest.vm.machine import Guest
from guest.vm.rundir import RunDir

Boot = Callable[..., Guest]

ROOT = Path(__file__).parents[2]
TLS = ROOT / "tests" / "data" / "tls"
READY_S = 30


class Example:
    """A program of examples/ that runs; its network is behind ``nic``."""

    def __init__(self, name: str, path: Path, *options: str) -> None:
        self.nic = VhostUser(path=path)
        # A script that runs the tests in the background has SIGINT ignored, and so would the example.
        argv = ["env", "--default-signal=INT", sys.executable, str(ROOT / "examples" / name), str(path)]
        self.process = subprocess.Popen([*argv, *options], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.finished = False

    def says(self, words: str, timeout_s: float = READY_S) -> None:
        """Wait for its next line, which has to hold these words."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], timeout_s)[0], f"it did not say {words!r}"
        assert words in self.process.stdout.readline()

    def finishes(self) -> None:
        """Wait for its own end."""
        self.process.wait(10)
        self.finished = True

    def end(self) -> None:
        """Ctrl-C unless it has finished; its end has to be in order."""
        try:
            if not self.finished:
                assert self.process.poll() is None, "the example ended by itself"
                self.process.send_signal(signal.SIGINT)
            assert self.process.wait(10) == 0
            assert not self.nic.path.exists()
        finally:
            self.process.kill()  # does nothing to one that has ended
            self.process.communicate()


@pytest.fixture
def example(rundir: RunDir) -> Iterator[Callable[..., Example]]:
    """Start one by its name, with the arguments that follow the socket's; it is ended after its guest."""
    started: list[Example] = []

    def start(name: str, *options: str) -> Example:
        started.append(Example(name, rundir.socket_path("net0.sock"), *options))
        return started[0]

    yield start
    for one in started:
        one.end()


def test_echo_server_example_echoes_in_a_guest(example: Callable[..., Example], boot: Boot) -> None:
    echo = example("echo_server.py")
    echo.says("listening on 10.0.2.2:7777")
    guest = boot(nic=echo.nic)
    sent = guest.check("seq 1 20000 | sha256sum")
    assert guest.check("seq 1 20000 | nc -N 10.0.2.2 7777 | sha256sum", 60) == sent


def test_aiohttp_example_greets_a_guest(example: Callable[..., Example], boot: Boot) -> None:
    site = example("aiohttp_app.py")
    site.says("listening on 10.0.2.2:8080")
    guest = boot(nic=site.nic)
    url = "http://10.0.2.2:8080"
    # Both by one connection, which aiohttp keeps alive.
    pages = guest.check(f"curl -sS -w '%{{num_connects}} ' {url}/hello/you {url}/hello/again", 60)
    assert pages == "hello, you at 10.0.2.15\n1 hello, again at 10.0.2.15\n0 "
    assert guest.check(f"curl -sS -o /dev/null -w '%{{http_code}}' {url}/nothing", 60) == "404"


def test_uvicorn_example_answers_a_guest_in_capitals(example: Callable[..., Example], boot: Boot) -> None:
    site = example("uvicorn_app.py")
    site.says("starting on 10.0.2.2:8000")
    guest = boot(nic=site.nic)
    url = "http://10.0.2.2:8000/"
    assert guest.check(f"curl -sS -d hello {url}", 60) == "POST from 10.0.2.15: HELLO\n"
    assert guest.check(f"curl -sS {url}", 60) == "GET from 10.0.2.15: \n"
    wanted = guest.check("(printf 'POST from 10.0.2.15: '; seq 1 20000; echo) | sha256sum")
    assert guest.check(f"seq 1 20000 | curl -sS --data-binary @- {url} | sha256sum", 60) == wanted


def test_tls_example_speaks_tls_with_a_guest(example: Callable[..., Example], boot: Boot) -> None:
    server = example("tls_server.py", str(TLS / "server.crt"), str(TLS / "server.key"))
    server.says("listening on 10.0.2.2:4433")
    guest = boot(nic=server.nic)
    guest.shell.push((TLS / "server.crt").read_bytes(), "/tmp/server.crt")
    url = "https://10.0.2.2:4433/"
    assert guest.check(f"curl -sS --cacert /tmp/server.crt {url}", 60).startswith("TLSv1.3 TLS_")
    answer = guest.check(f"curl -sS --cacert /tmp/server.crt --tls-max 1.2 {url}", 60)
    assert answer.startswith("TLSv1.2 ECDHE-")
    refused = guest.run(
        "curl -sS --cacert /tmp/server.crt --resolve other.test:4433:10.0.2.2 https://other.test:4433/", 60
    )
    assert refused.code == 60, refused  # curl(1): the certificate is not that of this name
    answer = guest.check(f"curl -sS -k {url}", 60)
    assert answer.startswith("TLSv1.3 TLS_")


def test_guest_server_example_talks_to_nc_in_a_guest(example: Callable[..., Example], boot: Boot) -> None:
    client = example("guest_server.py")
    client.says("the network behind")
    guest = boot(nic=client.nic)
    with guest.shell.spawn("nc -N -l 5000") as nc:
        nc.expect(b"type a line")
        nc.sendline("hello, you")
        nc.expect(b"HELLO, YOU")
        nc.eof()
        ended = nc.wait()
    assert ended.code == 0
    client.finishes()
