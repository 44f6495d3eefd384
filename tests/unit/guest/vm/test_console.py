# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.vm import console as console_module
from guest.vm.console import Console, Transcript
from guest.vm.errors import GuestLeft, GuestPanic, GuestSilent, GuestTimeout, QemuDied

PANIC = b"[    1.776293] Kernel panic - not syncing: sysrq triggered crash\r\n"


@pytest.fixture
def wires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Console, socket.socket]]:
    monkeypatch.setattr(console_module, "SETTLE_S", 0.02)
    ours, theirs = socket.socketpair()
    console = Console(ours, tmp_path / "raw", tmp_path / "log", lambda: QemuDied(1, "words", "qemu"))
    yield console, theirs
    console.close()
    theirs.close()


def test_wait_for_what_comes_gives_what_was_before(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(b"hello vnic# rest")
    assert console.wait_for(b"vnic# ", 5) == b"hello "
    assert console.wait_for(b"re", 5) == b""


def test_wait_for_one_of_several_tells_which(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(b"xx login: ")
    console.wait_for([b"vnic# ", b"login: "], 5)
    assert console.spawn.match_index == 1


def test_wait_for_a_pattern_gives_its_groups(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(b"inet 10.0.2.15/24")
    console.wait_for(re.compile(rb"inet ([\d.]+)/"), 5)
    assert isinstance(console.spawn.match, re.Match)
    assert console.spawn.match[1] == b"10.0.2.15"


def test_wait_in_vain_times_out_with_the_last_lines_and_what_was_wanted(
    wires: tuple[Console, socket.socket],
) -> None:
    console, guest = wires
    guest.sendall(b"line 1\r\nhalf a li")
    console.wait_for(b"half", 5)
    with pytest.raises(GuestTimeout) as caught:
        console.wait_for(b"never", 0.02)
    assert caught.value.lines == ["line 1", "half a li"]
    assert "never" in caught.value.fact


def test_panic_ends_the_wait_with_its_trace(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(PANIC + b"[    1.776400] CPU: 0 PID: 1\r\n")
    with pytest.raises(GuestPanic) as caught:
        console.wait_for(b"vnic# ", 30)
    assert "sysrq triggered crash" in caught.value.evidence
    assert "[    1.776400] CPU: 0 PID: 1" in caught.value.lines


def test_panic_forgiven_is_forgotten(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(PANIC)
    with pytest.raises(GuestPanic):
        console.wait_for(b"vnic# ", 30)
    console.forgive()
    guest.sendall(b"vnic# ")
    assert console.panic is None
    console.wait_for(b"vnic# ", 5)


@pytest.mark.parametrize(
    "line",
    [
        "[    2.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[    2.000000][    T1] BUG: unable to handle page fault for address: ffff",
        "[    2.000000] Oops: 0002 [#1] PREEMPT SMP PTI",
        "[    2.000000] general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        "[    2.000000] traps: PANIC: double fault, error_code: 0x0",
        "vnic# [   12.345678] Kernel panic - not syncing: Attempted to kill init!",
        "PANIC: early exception 0x0e IP 10:ffffffff81000000 error 0 cr2 0x0",
    ],
)
def test_line_of_a_dying_kernel_is_noticed(line: str) -> None:
    transcript = Transcript(None, None)
    transcript.feed(line.encode() + b"\r\n")
    assert transcript.obituary == line


@pytest.mark.parametrize(
    "line",
    [
        "Kernel panic - not syncing: said by a program",
        "[    0.351274] PCI: Fatal: No config space access function found",
        "[   30.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:1]",
        "[    3.000000] traps: curl[99] general protection fault ip:7f sp:7f error:0 in libc.so",
        "[    0.000000] Command line: console=ttyS0 panic=-1",
    ],
)
def test_line_of_a_living_kernel_is_no_panic(line: str) -> None:
    transcript = Transcript(None, None)
    transcript.feed(line.encode() + b"\r\n")
    assert transcript.obituary is None


def test_panic_cut_in_two_pieces_is_noticed() -> None:
    transcript = Transcript(None, None)
    transcript.feed(PANIC[:30])
    assert transcript.obituary is None
    transcript.feed(PANIC[30:])
    assert transcript.obituary is not None


def test_silence_ends_the_wait_before_its_deadline(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(b"a word\r\n")
    with pytest.raises(GuestSilent, match=r"said nothing for 0\.03 s") as caught:
        console.wait_for(b"vnic# ", 30, silence=0.03)
    assert caught.value.lines == ["a word"]


def test_first_byte_missing_is_silence(wires: tuple[Console, socket.socket]) -> None:
    with pytest.raises(GuestSilent, match="first"):
        wires[0].wait_first_byte(0.02)


def test_first_byte_seen_is_enough(wires: tuple[Console, socket.socket]) -> None:
    wires[1].sendall(b"x")
    wires[0].wait_first_byte(5)
    assert wires[0].bytes_seen == 1


def test_end_of_qemu_ends_the_wait_with_its_obituary(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(b"last words\r\n")
    guest.close()
    with pytest.raises(QemuDied):
        console.wait_for(b"vnic# ", 30)
    assert console.last_lines() == ["last words"]


def test_end_of_qemu_after_the_match_does_not_spoil_it(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(b"vnic# ")
    guest.close()
    assert console.wait_for(b"vnic# ", 5) == b""


def test_close_ends_a_console_without_obituary() -> None:
    ours, theirs = socket.socketpair()
    console = Console(ours)
    console.close()
    with pytest.raises(GuestLeft):
        console.take(1, 5)
    theirs.close()


def test_transcripts_hold_the_raw_bytes_and_clean_timed_lines(tmp_path: Path) -> None:
    times = iter([100.0, 101.5, 102.25])
    with (tmp_path / "raw").open("wb") as raw, (tmp_path / "log").open("w") as log:
        transcript = Transcript(raw, log, lambda: next(times))
        transcript.feed(b"\x1b[1mboot\x1b[0m \xff\x07ing\r\nvnic# \x1b[6n")
        transcript.close()
    assert (tmp_path / "raw").read_bytes() == b"\x1b[1mboot\x1b[0m \xff\x07ing\r\nvnic# \x1b[6n"
    assert (tmp_path / "log").read_text() == (
        "     1.500 | boot \N{REPLACEMENT CHARACTER}\\x07ing\n     2.250 | vnic# \n"
    )


def test_diverted_bytes_go_to_the_tap_and_no_more_to_waits(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    guest.sendall(b"before")
    console.wait_first_byte(5)
    ours, tap = socket.socketpair()
    with ours, tap:
        assert console.divert(tap.sendall) == b"before"
        guest.sendall(b"during")
        assert ours.recv(100) == b"during"
        console.divert(None)
        guest.sendall(b"after")
        assert console.wait_for(b"after", 5) == b""


def test_send_types_into_the_guest(wires: tuple[Console, socket.socket]) -> None:
    console, guest = wires
    console.send(b"reboot\n")
    assert guest.recv(100) == b"reboot\n"


def test_send_to_a_guest_that_takes_nothing_times_out(wires: tuple[Console, socket.socket]) -> None:
    with pytest.raises(GuestTimeout, match="took no input"):
        wires[0].send(bytes(16 << 20), timeout=0.05)
