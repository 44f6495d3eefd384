# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's side of each conversation is sent beforehand, so nothing here waits: what is tested is what the
shell types and what it makes of the answers."""

from __future__ import annotations

import base64
import itertools
import socket
from collections.abc import Iterator

import pytest

from guest.vm.console import Console
from guest.vm.errors import CommandFailed, GuestTimeout
from guest.vm.shell import CHUNK, INTERRUPT, Shell


class Conversation:
    def __init__(self) -> None:
        ours, self.guest = socket.socketpair()
        self.guest.setblocking(False)
        self.console = Console(ours)
        tokens = (f"T{number}" for number in itertools.count())
        self.shell = Shell(self.console, token=lambda: next(tokens))

    def says(self, text: str) -> None:
        self.guest.sendall(text.replace("\n", "\r\n").encode())

    def answers(self, token: str, out: str, err: str = "", code: int = 0, echo: str = "") -> None:
        """What a guest prints for one run()."""
        body = f"{out}@vnic:{token}:mid:{code}@\n{err}@vnic:{token}:end@\n"
        self.says(f"{echo}@vnic:{token}:begin@\n{body}vnic# ")

    def heard(self) -> bytes:
        return self.guest.recv(1 << 20)

    def close(self) -> None:
        self.console.close()
        self.guest.close()


@pytest.fixture
def talk() -> Iterator[Conversation]:
    conversation = Conversation()
    yield conversation
    conversation.close()


def test_run_gives_output_errors_and_code_apart(talk: Conversation) -> None:
    talk.answers("T0", "hi\n", "oops\n", 3, echo="vnic_run T0 'x'\n")
    result = talk.shell.run("x")
    assert (result.out, result.err, result.code, result.ok) == ("hi\n", "oops\n", 3, False)
    assert talk.heard() == b"vnic_run T0 x\n"


@pytest.mark.parametrize(
    "out",
    [
        "vnic# \nvnic# ",
        "@vnic:",
        "@vnic:T9:mid:0@\n",
        "no final newline",
        "\n\n",
        "",
        "vnic_run T0 'x'\n",
        "é ü\n",
    ],
)
def test_run_gives_confusing_output_back_as_it_was(talk: Conversation, out: str) -> None:
    talk.answers("T0", out)
    assert talk.shell.run("x").out == out


def test_run_gives_megabytes_back_whole(talk: Conversation) -> None:
    out = "".join(f"{number}\n" for number in range(20_000))
    talk.guest.setblocking(True)
    talk.answers("T0", out)
    assert talk.shell.run("seq 0 19999").out == out


def test_run_again_does_not_see_the_first_ones_output(talk: Conversation) -> None:
    talk.answers("T0", "one\n")
    talk.answers("T1", "two\n")
    assert [talk.shell.run("a").out, talk.shell.run("b").out] == ["one\n", "two\n"]


def test_run_quotes_what_a_shell_would_expand(talk: Conversation) -> None:
    talk.answers("T0", "")
    talk.shell.run("echo '$HOME' \"$x\"")
    assert talk.heard() == b"vnic_run T0 'echo '\"'\"'$HOME'\"'\"' \"$x\"'\n"


def test_run_of_several_lines_travels_as_a_file(talk: Conversation) -> None:
    talk.says("vnic# ")
    talk.says("@vnic:T1:begin@\n@vnic:T1:mid:0@\nvnic# vnic# ")
    talk.answers("T0", "done\n")
    assert talk.shell.run("echo\necho").out == "done\n"
    typed = talk.heard()
    assert base64.b64encode(b"echo\necho") in typed
    assert b"vnic_run T0 'sh /tmp/.vnic.T0.sh;" in typed


def test_check_of_a_failing_command_raises_with_its_words(talk: Conversation) -> None:
    talk.answers("T0", "", "no such file\n", 2)
    with pytest.raises(CommandFailed) as caught:
        talk.shell.check("cat x")
    assert caught.value.code == 2
    assert "no such file" in caught.value.evidence


def test_run_that_does_not_end_is_interrupted_and_shows_what_it_said(talk: Conversation) -> None:
    talk.says("@vnic:T0:begin@\npartial\n")
    talk.console.wait_first_byte(5)

    def on_interrupt(data: bytes, timeout: float = 10.0) -> None:
        typed.append(data)
        if data == INTERRUPT:
            talk.says("^C@vnic:T0:mid:130@\nsad\n@vnic:T0:end@\nvnic# ")

    typed: list[bytes] = []
    talk.console.send = on_interrupt  # type: ignore[method-assign]
    with pytest.raises(GuestTimeout) as caught:
        talk.shell.run("sleep 9", timeout=0.02)
    assert caught.value.fact == "in the guest, `sleep 9` did not end within 0.02 s"
    assert typed[-1] == INTERRUPT
    assert {"partial", "sad"} <= set(caught.value.lines)


def test_push_sends_acknowledged_pieces(talk: Conversation) -> None:
    data = bytes(range(256)) * (CHUNK // 256) + b"tail"
    talk.says("vnic# ")
    for token in ("T0", "T1"):
        talk.says(f"@vnic:{token}:begin@\n@vnic:{token}:mid:0@\nvnic# ")
    talk.says("vnic# ")
    talk.shell.push(data, "/tmp/f", 0o755)
    typed = talk.heard()
    assert typed.count(b"\x04") == 2
    assert typed.startswith(b": >/tmp/f\nvnic_push T0 /tmp/f\n" + base64.encodebytes(data[:CHUNK]))
    assert typed.endswith(base64.encodebytes(b"tail") + b"\x04chmod 755 /tmp/f\n")


def test_push_refused_by_the_guest_raises(talk: Conversation) -> None:
    talk.says("vnic# @vnic:T0:begin@\n@vnic:T0:mid:1@\nsh: can't create\nvnic# ")
    with pytest.raises(CommandFailed):
        talk.shell.push(b"x", "/nowhere/f")


def test_pull_is_binary_safe(talk: Conversation) -> None:
    data = bytes(range(256))
    talk.answers("T0", base64.encodebytes(data).decode())
    assert talk.shell.pull("/tmp/f") == data


def test_spawned_program_is_talked_to_and_its_code_seen(talk: Conversation) -> None:
    talk.says("@vnic:T0:begin@\nready> ")
    program = talk.shell.spawn("game")
    program.expect(b"ready> ")
    program.sendline("go")
    talk.says("go\nwon\n@vnic:T0:mid:5@\nvnic# ")
    result = program.wait()
    assert (result.code, result.out) == (5, "ready> go\nwon\n")
    assert talk.heard() == b"vnic_tty T0 game\ngo\n"


def test_spawned_program_still_running_at_the_blocks_end_gets_ctrl_c(talk: Conversation) -> None:
    talk.says("@vnic:T0:begin@\n")
    with talk.shell.spawn("cat"):
        talk.says("^C@vnic:T0:mid:130@\nvnic# ")
    assert talk.heard().endswith(INTERRUPT)


def test_attach_defines_functions_whose_echo_holds_no_marker(talk: Conversation) -> None:
    talk.says("vnic# " * 20)
    talk.console.spawn.forget = lambda: None  # type: ignore[method-assign]
    talk.shell.attach()
    typed = talk.heard()
    assert typed.startswith(b"\ndmesg -n 2\n")
    assert b"@vnic:T" not in typed
    assert max(map(len, typed.splitlines())) < 1024
