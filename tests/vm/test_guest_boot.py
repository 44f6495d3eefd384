# SPDX-License-Identifier: GPL-2.0-or-later
"""The real image on both machine types, on QEMU's own network: what the tools of guest/vm promise."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from guest.vm import process, rundir
from guest.vm.args import User, Vm
from guest.vm.errors import GuestLeft, GuestPanic, GuestTimeout, QemuDied
from guest.vm.machine import Guest, Machine

Boot = Callable[..., Guest]

MACHINES = ("microvm", "q35")


@pytest.mark.parametrize("machine", MACHINES)
def test_guest_booted_has_its_card_its_lease_and_a_fast_clock(boot: Boot, machine: str) -> None:
    guest = boot(machine=machine, nic=User(mac="52:54:00:ab:cd:ef", mtu=1400))
    assert guest.ready["dhcp"] == "ok"
    assert guest.check("cat /sys/class/net/eth0/address").strip() == "52:54:00:ab:cd:ef"
    assert guest.check("cat /sys/class/net/eth0/mtu").strip() == "1400"
    assert "10.0.2.15/24" in guest.check("ip -4 addr show eth0")
    clock = guest.check("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
    assert clock in ("tsc", "kvm-clock")


@pytest.mark.parametrize(
    ("machine", "dialect", "modern"),
    [
        ("microvm", "legacy", False),
        ("microvm", "modern", True),
        ("q35", "legacy", False),
        ("q35", "modern", True),
    ],
)
def test_card_speaks_the_dialect_asked_for(boot: Boot, machine: str, dialect: str, modern: bool) -> None:
    guest = boot(machine=machine, nic=User(dialect=dialect))  # type: ignore[arg-type]
    features = guest.check("cat /sys/class/net/eth0/device/features").strip()
    assert (features[32] == "1") is modern  # VIRTIO_F_VERSION_1 (virtio 1.2, 6)


@pytest.mark.parametrize("machine", MACHINES)
def test_shell_keeps_output_errors_and_codes_apart(boot: Boot, machine: str) -> None:
    guest = boot(machine=machine)
    result = guest.run("echo out; echo err >&2; exit 42")
    assert (result.out, result.err, result.code) == ("out\n", "err\n", 42)
    assert guest.run("printf 'vnic# @vnic: no newline'").out == "vnic# @vnic: no newline"
    assert guest.run("echo 'unbalanced").code == 2
    assert guest.run("kill -9 $$").code == 128 + 9
    assert guest.run("cat").out == ""
    assert guest.run("for word in é 'b  c'\ndo\n\techo \"<$word>\"\ndone").out == "<é>\n<b  c>\n"
    long = "x" * 3000
    assert guest.run(f"echo {long}").out == f"{long}\n"


def test_shell_takes_long_output_and_files_both_ways(boot: Boot) -> None:
    guest = boot()
    assert guest.check("seq 1 60000", timeout=120) == "".join(f"{number}\n" for number in range(1, 60001))
    data = os.urandom(100_000)
    guest.shell.push(data, "/tmp/a file", 0o600)
    assert guest.check("stat -c '%s %a' '/tmp/a file'").split() == ["100000", "600"]
    assert guest.shell.pull("/tmp/a file") == data


def test_shell_survives_a_command_that_never_ends(boot: Boot) -> None:
    guest = boot()
    with pytest.raises(GuestTimeout) as caught:
        guest.run("echo half; echo sad >&2; sleep 1000", timeout=2)
    assert {"half", "sad"} <= set(caught.value.lines)
    assert guest.check("echo alive") == "alive\n"


def test_shell_talks_to_programs_and_runs_jobs_beside(boot: Boot) -> None:
    guest = boot()
    job = guest.shell.background("until test -e /tmp/go; do sleep 0.1; done; echo went; exit 3")
    assert job.running()
    with guest.shell.spawn("read name; echo hello $name; cat") as program:
        program.sendline("world")
        program.expect(b"hello world")
        program.eof()
        assert program.wait().code == 0
    for _ in range(10):  # however soon it comes
        with guest.shell.spawn("sleep 1000") as program:
            program.interrupt()
            assert program.wait().code == 130
    with guest.shell.spawn('echo "[$*]"; exit 7  # no argument') as program:
        program.expect(b"[]")
        assert program.wait().code == 7
    guest.check("touch /tmp/go")
    result = job.wait()
    assert (result.out, result.code) == ("went\n", 3)
    killed = guest.shell.background("sleep 1000")
    killed.kill()
    assert killed.wait().code == 128 + 15


@pytest.mark.parametrize("machine", MACHINES)
def test_panic_ends_a_wait_at_once_and_a_reset_revives(boot: Boot, machine: str) -> None:
    guest = boot(machine=machine, reboot=True)
    with pytest.raises(GuestPanic) as caught:
        guest.run("echo c >/proc/sysrq-trigger", timeout=200)
    assert "sysrq triggered crash" in caught.value.evidence
    assert len(caught.value.lines) > 5
    guest.reset()
    assert guest.run("true").ok


@pytest.mark.parametrize("machine", MACHINES)
def test_reboot_gives_a_fresh_kernel_in_the_same_qemu(boot: Boot, machine: str) -> None:
    guest = boot(machine=machine, reboot=True)
    before, pid = guest.check("cat /proc/sys/kernel/random/boot_id"), guest.machine.pid
    guest.reboot()
    assert guest.check("cat /proc/sys/kernel/random/boot_id") != before
    assert (guest.machine.pid, guest.machine.returncode) == (pid, None)
    assert guest.ready["dhcp"] == "ok"


@pytest.mark.parametrize("machine", MACHINES)
def test_poweroff_is_seen_and_is_no_failure(boot: Boot, machine: str) -> None:
    guest = boot(machine=machine)
    guest.poweroff()
    assert guest.machine.returncode == 0
    assert any(event["event"] == "SHUTDOWN" for event in guest.monitor.events())
    with pytest.raises(GuestLeft):
        guest.run("true")


@pytest.mark.parametrize("typed", ["exit", "poweroff", "halt"])
def test_what_people_type_to_leave_ends_the_guest(boot: Boot, typed: str) -> None:
    guest = boot()
    guest.console.send(f"{typed}\n".encode())
    guest.machine.wait_poweroff(60)


def test_qemu_killed_under_a_command_is_reported_at_once(boot: Boot) -> None:
    guest = boot()
    with guest.shell.spawn("sleep 1000") as program:
        os.kill(guest.machine.pid, 9)
        with pytest.raises(QemuDied) as caught:
            program.wait(timeout=200)
    assert caught.value.returncode == -9
    assert "-kernel" in caught.value.command


def test_qemu_refusing_its_command_line_is_quoted(vm_of: Callable[..., Vm], artifacts: Path) -> None:
    with pytest.raises(QemuDied) as caught:
        Machine(vm_of(extra=("-device", "no-such-card")), artifacts=artifacts).start()
    assert "no-such-card" in caught.value.stderr
    assert caught.value.returncode == 1
    assert "no-such-card" in (artifacts / "qemu.log").read_text()


def test_two_guests_at_once_do_not_meet(boot: Boot) -> None:
    one, two = boot(), boot()
    one.check("echo one >/tmp/mark")
    two.check("echo two >/tmp/mark")
    assert (one.check("cat /tmp/mark"), two.check("cat /tmp/mark")) == ("one\n", "two\n")
    assert one.machine.rundir.path != two.machine.rundir.path


def test_monitor_knows_the_machine_and_the_host(boot: Boot, qemu: object) -> None:
    guest = boot()
    assert guest.monitor.status() == "running"
    assert guest.monitor.version()[:2] == getattr(qemu, "version")[:2]  # noqa: B009
    assert "net0" in guest.monitor.hmp("info network")


PROGRAM = """
import sys
from pathlib import Path
from guest.vm.args import User, Vm
from guest.vm.interact import interact_with
from guest.vm.machine import boot
kernel, initramfs, tsc, accel, version = sys.argv[1:]
vm = Vm(kernel=Path(kernel), initramfs=Path(initramfs), nics=(User(),), accel=accel,
        tsc_khz=int(tsc) or None, qemu_version=tuple(map(int, version.split("."))))
with boot(vm) as guest:
    print(f"pid {guest.machine.pid} {guest.machine.rundir.path}", flush=True)
    print(interact_with(guest).name, flush=True)
"""


class Session:
    """A program like `make vm`, and what it started."""

    def __init__(self, vm: Vm) -> None:
        version = ".".join(map(str, vm.qemu_version))
        words = [str(vm.kernel), str(vm.initramfs), str(vm.tsc_khz or 0), vm.accel, version]
        self.argv = [sys.executable, "-c", PROGRAM, *words]
        self.pid, self.started, self.rundir = 0, 0, Path()

    def spawn(self) -> pexpect.spawn[bytes]:
        child: pexpect.spawn[bytes] = pexpect.spawn(
            self.argv[0], self.argv[1:], timeout=120, dimensions=(31, 113)
        )
        child.expect(rb"pid (\d+) (\S+)\r\n")
        match = child.match
        assert isinstance(match, re.Match)
        self.pid, self.rundir = int(match[1]), Path(match[2].decode())
        self.started = process.start_time(self.pid) or 0
        child.expect_exact("vnic# ")
        return child

    def left_nothing(self) -> bool:
        return not process.is_alive(self.pid, self.started) and not self.rundir.exists()


@pytest.fixture
def session(vm_of: Callable[..., Vm]) -> Iterator[Session]:
    started = Session(vm_of())
    yield started
    if process.is_alive(started.pid, started.started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.pid, 9)


def test_interactive_session_knows_the_size_and_ends_with_the_shell(session: Session) -> None:
    child = session.spawn()
    child.sendline("stty size; echo $((6 * 7))")
    child.expect_exact("31 113\r\n42\r\n")
    child.sendline("exit")
    child.expect_exact("GUEST_OFF")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert session.left_nothing()


def test_interactive_session_gives_ctrl_c_to_the_guest_and_leaves_by_ctrl_a_x(session: Session) -> None:
    child = session.spawn()
    child.sendline("cat")
    child.sendline("mark")
    child.expect_exact("mark\r\nmark\r\n")
    child.send("\x03")
    child.expect_exact("vnic# ")
    child.send("\x01x")
    child.expect_exact("LEFT")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert session.left_nothing()


def test_interactive_session_killed_takes_qemu_with_it(session: Session) -> None:
    child = session.spawn()
    pidfd = os.pidfd_open(session.pid)
    child.kill(9)
    child.expect(pexpect.EOF)
    child.close()
    try:
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)
    with rundir.RunDir.create():
        assert session.left_nothing()


def test_piped_commands_run_and_the_session_ends(session: Session) -> None:
    done = subprocess.run(
        session.argv, input=b"echo $((6 * 7))\n", stdout=subprocess.PIPE, timeout=120, check=True
    )
    assert b"\r\n42\r\n" in done.stdout
    assert done.stdout.strip().endswith(b"GUEST_OFF")
