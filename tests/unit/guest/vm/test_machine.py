# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU is a small program that misbehaves as told (conftest); processes, sockets and deadlines are real."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from guest.vm import console as console_module
from guest.vm import machine as machine_module
from guest.vm import process, rundir
from guest.vm.args import User, VhostUser, Vm
from guest.vm.errors import (
    GuestLeft,
    GuestPanic,
    GuestSilent,
    GuestTimeout,
    QemuDied,
    QemuMissing,
    QmpError,
    QmpTimeout,
)
from guest.vm.machine import Machine, boot, ready_words


@pytest.fixture(autouse=True)
def _short_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "SETTLE_S", 0.02)


def leftovers() -> list[Path]:
    return list(rundir.base_dir().glob("r-*"))


def test_machine_whose_qemu_refuses_is_qemu_died_with_its_words(fake_vm: Vm, tmp_path: Path) -> None:
    with pytest.raises(QemuDied) as caught:
        Machine(replace(fake_vm, extra=("refuses",)), artifacts=tmp_path).start()
    assert caught.value.returncode == 1
    assert "Failed to connect to 'x.sock'" in caught.value.stderr
    assert str(fake_vm.qemu) in caught.value.command
    assert "start the back end first" in caught.value.remedy
    assert (tmp_path / "qemu.exit").read_text() == "1\n"
    assert "refuses" in (tmp_path / "qemu.argv").read_text()
    assert leftovers() == []


def test_machine_whose_qemu_crashes_names_the_signal(fake_vm: Vm) -> None:
    with pytest.raises(QemuDied, match="killed by signal 11"):
        Machine(replace(fake_vm, extra=("crashes",))).start()
    assert leftovers() == []


def test_machine_without_qemu_is_missing(fake_vm: Vm) -> None:
    with pytest.raises(QemuMissing):
        Machine(replace(fake_vm, qemu="/nowhere/qemu")).start()
    assert leftovers() == []


def test_machine_whose_qemu_hangs_times_out_and_is_ended(
    fake_vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "CONNECT_S", 0.1)
    vm = replace(fake_vm, extra=("hangs",), nics=(VhostUser(path=Path("/run/net0.sock")),))
    machine = Machine(vm)
    with pytest.raises(GuestTimeout) as caught:
        machine.start()
    assert "waiting for the back end at /run/net0.sock" in caught.value.evidence
    assert machine.returncode == -signal.SIGTERM
    assert leftovers() == []


def test_machine_whose_monitor_is_mute_times_out(fake_vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "CONNECT_S", 0.5)
    monkeypatch.setattr(machine_module.Machine, "wait_exit", lambda self, timeout: None)
    with pytest.raises(QmpTimeout, match="greet"):
        Machine(replace(fake_vm, extra=("mute-monitor",))).start()


def test_machine_whose_qemu_dies_at_the_handshake_is_qemu_died(fake_vm: Vm) -> None:
    with pytest.raises(QemuDied) as caught:
        Machine(replace(fake_vm, extra=("dies-late",))).start()
    assert caught.value.returncode == 7
    assert "assertion failed" in caught.value.stderr


def test_machine_closed_asks_by_qmp_and_leaves_nothing(fake_vm: Vm, tmp_path: Path) -> None:
    with Machine(replace(fake_vm, extra=("prompts",)), artifacts=tmp_path) as machine:
        machine.console.wait_for(b"vnic# ", 5)
        pid, started = machine.pid, process.start_time(machine.pid)
    assert machine.returncode == 0
    assert started is not None
    assert not process.is_alive(pid, started)
    assert leftovers() == []
    assert (tmp_path / "console.raw").read_bytes() == b"hello\r\nvnic# "
    assert '"quit"' in (tmp_path / "qmp.jsonl").read_text()
    machine.close()


def test_machine_that_ignores_quit_and_sigterm_is_killed(
    fake_vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "QUIT_S", 0.02)
    end = process.Child.end
    monkeypatch.setattr(process.Child, "end", lambda self: end(self, term_s=0.02))
    with Machine(replace(fake_vm, extra=("stubborn",))) as machine:
        machine.console.wait_for(b"vnic# ", 5)
    assert machine.returncode == -signal.SIGKILL


def test_machine_is_ended_by_an_interrupt(fake_vm: Vm) -> None:
    with pytest.raises(KeyboardInterrupt), Machine(replace(fake_vm, extra=("prompts",))) as machine:
        raise KeyboardInterrupt
    assert machine.returncode == 0
    assert leftovers() == []


def test_machine_in_a_callers_rundir_leaves_that_to_the_caller(fake_vm: Vm) -> None:
    with rundir.RunDir.create() as run:
        with Machine(replace(fake_vm, extra=("prompts",)), rundir=run):
            assert str(os.getpid()) in (run.path / "owner.json").read_text()
        assert run.path.exists()


def test_guest_that_panics_ends_the_wait(fake_vm: Vm) -> None:
    with Machine(replace(fake_vm, extra=("panics",))) as machine, pytest.raises(GuestPanic):
        machine.console.wait_for(b"vnic# ", 30)


def test_guest_that_leaves_during_a_wait_is_no_death_of_qemu(fake_vm: Vm) -> None:
    with pytest.raises(GuestLeft, match="switched itself off"):
        Machine(replace(fake_vm, extra=("leaves",))).start()


def test_qemu_killed_during_a_wait_is_qemu_died(fake_vm: Vm) -> None:
    with Machine(replace(fake_vm, extra=("prompts",))) as machine:
        os.kill(machine.pid, signal.SIGKILL)
        with pytest.raises(QemuDied) as caught:
            machine.console.wait_for(b"never", 30)
        assert caught.value.returncode == -9


def test_boot_of_a_mute_guest_is_tried_again_aloud_then_given_up(fake_vm: Vm) -> None:
    said: list[str] = []
    with pytest.raises(GuestSilent):
        boot(replace(fake_vm, extra=("mute",)), progress=said.append, attempts=2, first_byte_s=0.01)
    assert [line for line in said if "starting it again" in line] == [
        "the guest said nothing in its first 0.01 s: starting it again (2 of 2)"
    ]
    assert len([line for line in said if line.startswith("QEMU is up")]) == 2
    assert leftovers() == []


def test_boot_of_a_panicking_guest_is_not_tried_again(fake_vm: Vm) -> None:
    said: list[str] = []
    with pytest.raises(GuestPanic):
        boot(replace(fake_vm, extra=("panics",), nics=(User(),)), progress=said.append)
    assert len([line for line in said if line.startswith("QEMU is up")]) == 1


def test_monitor_answers_refuses_and_times_out(fake_vm: Vm) -> None:
    with Machine(replace(fake_vm, extra=("prompts",))) as machine:
        assert machine.monitor.status() == "running"
        assert machine.monitor.version() == (7, 2, 22)
        with pytest.raises(QmpError, match="nonsense") as refused:
            machine.monitor.execute("nonsense")
        assert "CommandNotFound" in refused.value.evidence
        with pytest.raises(QmpTimeout, match="sulk"):
            machine.monitor.execute("sulk", timeout=0.02)


def test_monitor_waits_for_an_event_after_a_given_one(fake_vm: Vm) -> None:
    with Machine(replace(fake_vm, extra=("prompts",))) as machine:
        machine.monitor.system_reset()
        assert machine.monitor.wait_event("RESET", 5)["event"] == "RESET"
        with pytest.raises(QmpTimeout):
            machine.monitor.wait_event("RESET", 0.02, since=1)


def test_monitor_after_close_says_so(fake_vm: Vm) -> None:
    with Machine(replace(fake_vm, extra=("prompts",))) as machine:
        pass
    with pytest.raises(QmpError, match="closed"):
        machine.monitor.status()


def test_ready_line_with_a_kernel_message_right_behind_it() -> None:
    shown = b"motd\r\nvnic-guest-ready uptime=2.01 dhcp=ok[    2.040252] tsc: Refined TSC clocksource\r\n"
    assert ready_words(shown) == {"uptime": "2.01", "dhcp": "ok"}
    assert ready_words(b"vnic-guest-ready uptime=2.01 dhcp=no-device\r\n")["dhcp"] == "no-device"
    assert ready_words(b"nothing yet") == {}
