# SPDX-License-Identifier: GPL-2.0-or-later
"""A session between a pipe or a pty (the user) and a socket (the guest's console)."""

from __future__ import annotations

import contextlib
import os
import socket
import termios
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from guest.vm import console as console_module
from guest.vm import interact as interact_module
from guest.vm.console import Console
from guest.vm.errors import GuestError, GuestLeft, GuestPanic, QemuDied
from guest.vm.interact import Outcome, interact, raw_terminal
from guest.vm.machine import Machine


class FakeMachine:
    """What interact() needs of a Machine: a console and something readable once QEMU is gone."""

    def __init__(self) -> None:
        ours, self.guest = socket.socketpair()
        self.guest.settimeout(5)
        self.pidfd, self._exit = os.pipe()
        self.end: GuestError = GuestLeft("off")
        self.console = Console(ours, obituary=lambda: self.end)

    def says(self, data: bytes) -> None:
        self.guest.sendall(data)

    def hears(self, data: bytes) -> None:
        heard = b""
        while data not in heard:  # a repeated Ctrl-C may be behind it
            heard += self.guest.recv(4096)

    def goes(self) -> None:
        with contextlib.suppress(OSError):
            self.guest.shutdown(socket.SHUT_RDWR)
        os.write(self._exit, b"x")

    def close(self) -> None:
        self.console.close()
        self.guest.close()
        os.close(self.pidfd)
        os.close(self._exit)


class User:
    """The other ends of interact()'s stdin and stdout, and its thread."""

    def __init__(self, machine: FakeMachine, terminal: bool) -> None:
        self.output, stdout = os.pipe()
        self.keys, stdin = os.openpty() if terminal else reversed(os.pipe())
        self._fds = [self.output, stdout, stdin]
        self.stdin = stdin
        self.result: Outcome | BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(machine, stdin, stdout))

    def _run(self, machine: FakeMachine, stdin: int, stdout: int) -> None:
        try:
            self.result = interact(cast(Machine, machine), stdin, stdout)
        except GuestError as error:
            self.result = error

    def start(self) -> None:
        self._thread.start()

    def types(self, data: bytes) -> None:
        os.write(self.keys, data)

    def hangs_up(self) -> None:
        os.close(self.keys)
        self.keys = -1

    def sees(self, data: bytes) -> None:
        seen = b""
        while data not in seen:
            seen += os.read(self.output, 4096)

    def end(self) -> Outcome | BaseException | None:
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self.result

    def close(self) -> None:
        for fd in self._fds + ([self.keys] if self.keys >= 0 else []):
            os.close(fd)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    monkeypatch.setattr(console_module, "SETTLE_S", 0.01)
    monkeypatch.setattr(interact_module, "_TICK_S", 0.01)
    monkeypatch.setattr(interact_module, "PANIC_QUIET_S", 0.02)
    monkeypatch.setattr(interact_module, "EOF_QUIET_S", 0.05)
    fake = FakeMachine()
    yield fake
    fake.close()


@pytest.fixture
def piper(machine: FakeMachine) -> Iterator[User]:
    user = User(machine, terminal=False)
    yield user
    user.close()


@pytest.fixture
def typist(machine: FakeMachine) -> Iterator[User]:
    user = User(machine, terminal=True)
    yield user
    user.close()


def test_session_begins_with_what_was_said_before(machine: FakeMachine, piper: User) -> None:
    machine.says(b"Welcome\r\nvnic# ")
    machine.console.wait_first_byte(5)
    piper.start()
    piper.sees(b"Welcome\r\nvnic# ")
    machine.goes()
    assert piper.end() is Outcome.GUEST_OFF


def test_session_with_nothing_said_asks_for_a_prompt(machine: FakeMachine, piper: User) -> None:
    piper.start()
    machine.hears(b"\n")
    machine.goes()
    assert piper.end() is Outcome.GUEST_OFF


def test_keys_reach_the_guest_and_its_words_the_user(machine: FakeMachine, typist: User) -> None:
    typist.start()
    machine.hears(b"\n")
    typist.types(b"ls\x03\x04\x11")
    machine.hears(b"ls\x03\x04\x11")
    machine.says(b"bin etc\r\n")
    typist.sees(b"bin etc\r\n")
    machine.goes()
    assert typist.end() is Outcome.GUEST_OFF


def test_terminal_is_raw_meanwhile_and_restored_after(machine: FakeMachine, typist: User) -> None:
    before = termios.tcgetattr(typist.stdin)
    typist.start()
    machine.hears(b"\n")
    assert not termios.tcgetattr(typist.stdin)[3] & termios.ICANON
    machine.goes()
    typist.end()
    assert termios.tcgetattr(typist.stdin) == before


def test_terminal_is_restored_after_an_exception(typist: User) -> None:
    before = termios.tcgetattr(typist.stdin)
    with pytest.raises(KeyboardInterrupt), raw_terminal(typist.stdin):
        raise KeyboardInterrupt
    assert termios.tcgetattr(typist.stdin) == before


def test_ctrl_a_x_leaves(machine: FakeMachine, typist: User) -> None:
    typist.start()
    machine.hears(b"\n")
    typist.types(b"\x01x")
    assert typist.end() is Outcome.LEFT


def test_ctrl_a_in_two_reads_and_twice_sends_one(machine: FakeMachine, typist: User) -> None:
    typist.start()
    machine.hears(b"\n")
    typist.types(b"a\x01")
    machine.hears(b"a")
    typist.types(b"\x01b")
    machine.hears(b"\x01b")
    typist.types(b"\x01h")
    typist.sees(b"Ctrl-A x: leave")
    typist.types(b"\x01x")
    assert typist.end() is Outcome.LEFT


def test_terminal_that_hangs_up_leaves(machine: FakeMachine, typist: User) -> None:
    typist.start()
    machine.hears(b"\n")
    typist.hangs_up()
    assert typist.end() is Outcome.LEFT


def test_pipe_carries_ctrl_a_like_any_byte(machine: FakeMachine, piper: User) -> None:
    piper.start()
    machine.hears(b"\n")
    piper.types(b"\x01x\n")
    machine.hears(b"\x01x\n")
    machine.goes()
    assert piper.end() is Outcome.GUEST_OFF


def test_pipe_that_ends_gets_the_guest_an_exit_at_its_prompt(machine: FakeMachine, piper: User) -> None:
    piper.start()
    machine.hears(b"\n")
    piper.types(b"uname\n")
    piper.hangs_up()
    machine.hears(b"uname\n")
    machine.says(b"Linux\r\nvnic# \x1b[6n")
    machine.hears(b"exit\n")
    machine.goes()
    assert piper.end() is Outcome.GUEST_OFF


def test_pipe_that_ends_under_a_waiting_program_gets_it_ctrl_d_then_exit(
    machine: FakeMachine, piper: User
) -> None:
    piper.start()
    machine.hears(b"\n")
    piper.hangs_up()
    machine.hears(b"\x04")
    machine.says(b"vnic# ")
    machine.hears(b"exit\n")
    machine.goes()
    assert piper.end() is Outcome.GUEST_OFF


def test_pipe_that_ends_under_a_program_deaf_to_ctrl_d_gets_it_ctrl_c(
    machine: FakeMachine, piper: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interact_module, "EOF_QUIET_S", 0.01)
    monkeypatch.setattr(interact_module, "EOF_TRIES", 1)
    monkeypatch.setattr(interact_module, "_TICK_S", 0.01)
    piper.start()
    machine.hears(b"\n")
    piper.hangs_up()
    machine.hears(b"\x04\x03")
    machine.says(b"^C\r\nvnic# ")
    machine.hears(b"exit\n")
    machine.goes()
    assert piper.end() is Outcome.GUEST_OFF


def test_panic_ends_the_session(machine: FakeMachine, typist: User) -> None:
    typist.start()
    machine.hears(b"\n")
    machine.says(b"[    9.000000] Kernel panic - not syncing: why not\r\n")
    typist.sees(b"why not")
    assert isinstance(typist.end(), GuestPanic)


def test_death_of_qemu_ends_the_session_with_its_error(machine: FakeMachine, piper: User) -> None:
    machine.end = QemuDied(-11, "", "qemu")
    piper.start()
    machine.hears(b"\n")
    machine.goes()
    assert isinstance(piper.end(), QemuDied)
