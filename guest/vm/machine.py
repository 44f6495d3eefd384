# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process from its start to its end, whatever ends it.

Start: a run directory (its own or the caller's, who may have a back end listening in it), two listening
sockets there, then QEMU, which connects its monitor and its console to us.  That order needs no polling and
loses no byte of the console.  If QEMU ends before it has connected both, that is QemuDied with its words; if
it does neither, GuestTimeout: it waits for a back end that accepts and then says nothing, for example.

End: close() asks by QMP, then SIGTERM, then SIGKILL, each with a deadline, and removes the run directory
if it made it.  It is what `with` does, also for exceptions and Ctrl-C.  If this process is killed, the kernel
kills QEMU (process.py) and the next run removes the directory (rundir.py).  Start machines from a thread that
lives as long as they do.

Files kept in `artifacts` (the run directory by default, so gone after close): qemu.argv, qemu.log (QEMU's own
output), qemu.exit, qmp.jsonl, console.raw, console.log.

boot() goes on to the guest's prompt, and starts again a guest that never says its first word: microvm under
TCG at times spins before it.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from guest.vm import args, migration
from guest.vm.args import Vm
from guest.vm.console import Console
from guest.vm.errors import GuestError, GuestLeft, GuestSilent, GuestTimeout, QemuDied, QemuMissing
from guest.vm.probe import TCG_TIME_FACTOR
from guest.vm.process import Child
from guest.vm.qmp import Monitor
from guest.vm.rundir import RunDir
from guest.vm.shell import PROMPT, Shell

Progress = Callable[[str], None]

CONNECT_S = 15.0
"""For QEMU to load and connect both sockets: 0.1 s on an idle host."""
FIRST_BYTE_S = 2.0
"""For the guest's first console byte, under KVM; times TCG_TIME_FACTOR under TCG, where 0.5 s is usual."""
PROMPT_S = 6.0
"""For the prompt, under KVM; times TCG_TIME_FACTOR under TCG, where 2 to 5 s are usual."""
SILENCE_S = 3.0
"""Longest pause within a boot, under KVM; times TCG_TIME_FACTOR under TCG."""
ATTEMPTS = 3
MIGRATE_S = 60.0
"""For a migration within this host: 256 MiB take 1 to 3 s, of a guest that writes little."""
QUIT_S = 3.0


def _say_nothing(_: str) -> None:
    pass


class Machine:
    """One QEMU.  start() it, or enter it; `console` and `monitor` are there from then on."""

    console: Console
    monitor: Monitor

    def __init__(
        self,
        vm: Vm,
        rundir: RunDir | None = None,
        artifacts: Path | None = None,
        progress: Progress = _say_nothing,
    ) -> None:
        args.check(vm)
        self.vm = vm
        self._own_rundir = rundir is None
        self.rundir = rundir or RunDir.create()
        self.artifacts = artifacts or self.rundir.path
        self._progress = progress
        self._cleanup = contextlib.ExitStack()
        self._child: Child | None = None
        self._ending = False
        self.argv: list[str] = []

    # -- start

    def start(self) -> Machine:
        """Start QEMU and take its monitor and console; QemuMissing, QemuDied, GuestTimeout, QmpError."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        self.artifacts.mkdir(parents=True, exist_ok=True)
        with self._listener("qmp.sock") as qmp, self._listener("console.sock") as console:
            self._spawn(qmp, console)
            # The console first: QEMU opens both before its monitor can greet.
            accepted = self._accept_both(console, qmp)
        self.console = Console(
            accepted[0], self.artifacts / "console.raw", self.artifacts / "console.log", self._obituary
        )
        self._cleanup.callback(self.console.close)
        self.monitor = self._negotiate(accepted[1])
        self._cleanup.callback(self.monitor.close)

    def _negotiate(self, sock: socket.socket) -> Monitor:
        try:
            return Monitor(sock, self.artifacts / "qmp.jsonl", CONNECT_S)
        except GuestError:
            if self.wait_exit(1.0) is not None:
                raise self._obituary() from None
            raise

    def _listener(self, name: str) -> socket.socket:
        path = self.rundir.socket_path(name)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            listener.listen(1)
        except BaseException:
            listener.close()
            raise
        return listener

    def _spawn(self, qmp: socket.socket, console: socket.socket) -> None:
        serial = args.socket_serial(Path(console.getsockname()))
        monitor = args.socket_monitor(Path(qmp.getsockname()))
        self.argv = args.command(self.vm, serial, monitor)
        (self.artifacts / "qemu.argv").write_text(args.shell_form(self.argv) + "\n")
        with (self.artifacts / "qemu.log").open("ab") as log:
            self._log_begins = log.tell()
            try:
                self._child = Child(self.argv, log)
            except OSError as error:
                hint = "apt install qemu-system-x86"
                raise QemuMissing(f"{self.argv[0]} can't be started", str(error), hint) from error
        self._cleanup.callback(self._end_child, self._child)
        self.rundir.register(self._child)

    def _accept_both(self, *listeners: socket.socket) -> list[socket.socket]:
        accepted: list[socket.socket] = []
        deadline = time.monotonic() + CONNECT_S
        try:
            for listener in listeners:
                accepted.append(self._accept(listener, deadline))
        except BaseException:
            for sock in accepted:
                sock.close()
            raise
        return accepted

    def _accept(self, listener: socket.socket, deadline: float) -> socket.socket:
        child = self._running_child()
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([listener.fileno(), child.pidfd], [], [], left)
        if listener.fileno() in ready:
            return listener.accept()[0]
        if ready:
            raise self._obituary()
        nics = [str(path) for nic in self.vm.nics for path in args.socket_paths(nic)]
        waits = f"it may be waiting for the back end at {', '.join(nics)}" if nics else "it hangs"
        raise GuestTimeout(
            f"QEMU did not come up within {CONNECT_S:g} s",
            remedy="end other guests on this host and try again; `vnic doctor` shows what this QEMU can do",
            context=waits + self._said(),
        )

    # -- while it runs

    def _running_child(self) -> Child:
        if self._child is None:
            raise GuestError("the machine was not started", remedy="call start() or use `with`")
        return self._child

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._running_child().pid

    @property
    def pidfd(self) -> int:
        """Readable once QEMU has ended (pidfd_open(2)); -1 after close()."""
        return self._running_child().pidfd

    @property
    def returncode(self) -> int | None:
        """QEMU's exit code, None while it runs."""
        return self._child.returncode if self._child is not None else None

    def wait_exit(self, timeout: float) -> int | None:
        """QEMU's exit code once it ended by itself, None if it still runs after `timeout` s."""
        return self._running_child().wait(timeout)

    def wait_poweroff(self, timeout: float) -> None:
        """Until the guest has switched itself off; QemuDied if QEMU ended otherwise, GuestTimeout."""
        code = self.wait_exit(timeout)
        if code is None:
            raise GuestTimeout(
                f"the guest did not switch off within {timeout:g} s", self.console.last_lines()
            )
        if code != 0:
            raise self._obituary()

    def qemu_said(self) -> str:
        """QEMU's own output since this start."""
        with contextlib.suppress(OSError), (self.artifacts / "qemu.log").open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode("utf-8", "replace")
        return ""

    _log_begins = 0

    def _said(self) -> str:
        said = self.qemu_said().strip()
        return f"\nits stderr:\n{said}" if said else ""

    def _obituary(self) -> GuestError:
        """What to raise when QEMU's end of a socket is closed."""
        child = self._running_child()
        code = child.wait(5.0)
        if code == 0 or self._ending:
            lines = self.console.last_lines() if hasattr(self, "console") else []
            return GuestLeft("the guest switched itself off", "\n".join(lines))
        if code is None:
            return GuestError("QEMU closed its sockets and still runs", self._said(), "see qemu.log")
        uptime = time.monotonic() - child.started_at
        return QemuDied(
            code, self.qemu_said(), args.shell_form(self.argv), _suspicion(self.qemu_said()), uptime
        )

    # -- end

    def _end_child(self, child: Child) -> None:
        code = child.end()
        if code is None:
            self._progress(f"QEMU (pid {child.pid}) survived SIGKILL: it hangs inside the kernel")
        with contextlib.suppress(OSError):
            (self.artifacts / "qemu.exit").write_text(f"{code}\n")
        child.close()

    def close(self) -> None:
        """End QEMU, close the transcripts, remove the run directory if it is ours; may be called again."""
        self._ending = True
        try:
            if self._child is not None and self._child.pidfd >= 0 and self._child.returncode is None:
                self._ask_to_quit(self._child)
        finally:
            try:
                self._cleanup.close()
            finally:
                if self._own_rundir:
                    self.rundir.close()

    def _ask_to_quit(self, child: Child) -> None:
        if hasattr(self, "monitor"):
            with contextlib.suppress(GuestError):
                self.monitor.quit(QUIT_S)
                child.wait(QUIT_S)

    def __enter__(self) -> Machine:
        return self if self._child is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _suspicion(said: str) -> str:
    """The remedy for what QEMU is known to die of."""
    for words, remedy in _KNOWN_DEATHS:
        if words in said:
            return remedy
    return ""


_DAMAGED = "the image is damaged: `vnic image verify` says which file, and how to mend it"
_KNOWN_DEATHS = (
    ("Failed to connect", "start the back end first, or give its card reconnect_s=1"),
    ("cannot set up guest memory", "give the guest less memory, or free some"),
    ("Cannot allocate memory", "give the guest less memory, or free some"),
    ("could not load kernel", _DAMAGED),
    ("too old to load a ram disk", _DAMAGED),
    ("Could not access KVM", "use --accel tcg, or see `vnic doctor`"),
    ("failed to initialize kvm", "use --accel tcg, or see `vnic doctor`"),
    ("is not a valid netdev backend type", "this QEMU was built without that netdev: see `vnic doctor`"),
)


_READY = re.compile(rb"vnic-guest-ready((?: \w+=[\w.-]+)*)")
"""Printed by images/rootfs/init just before its shell. A message of the kernel's may stand right behind it, without an
end of the line between."""


def ready_words(shown: bytes) -> dict[str, str]:
    """What the last such line of a console says; nothing without one."""
    said = _READY.findall(shown)
    return dict(word.split("=", 1) for word in said[-1].decode().split()) if said else {}


class Guest:
    """A booted machine with a shell at its prompt; a context manager as Machine is.

    `migrate_to()` moves what runs in it to a QEMU that was started by `incoming()`, and gives the Guest there."""

    def __init__(self, machine: Machine, prompt: bytes = PROMPT) -> None:
        self.machine = machine
        self.console = machine.console
        self.monitor = machine.monitor
        self.shell = Shell(machine.console, prompt)
        self.run = self.shell.run
        self.check = self.shell.check
        self.ready: dict[str, str] = {}
        """What the image's init said when it was done: uptime (seconds), dhcp (ok, failed, off, no-device)."""

    def await_prompt(self) -> None:
        """After a start or a reboot: wait for the prompt, within the accelerator's limits."""
        factor = time_factor(self.machine.vm)
        shown = self.console.wait_for(
            self.shell.prompt, PROMPT_S * factor, SILENCE_S * factor, "the guest's prompt"
        )
        self.ready = ready_words(shown)
        self.shell.attach(PROMPT_S * factor)

    def poweroff(self, timeout: float = 20.0) -> None:
        """Switch the guest off from inside and see it gone."""
        self.shell.poweroff()
        self.machine.wait_poweroff(timeout)

    def reboot(self) -> None:
        """Reboot from inside and wait for the new prompt; Vm.reboot must be set."""
        since = len(self.monitor.events())
        self.shell.reboot()
        self.monitor.wait_event("RESET", SILENCE_S * time_factor(self.machine.vm), since)
        self.console.spawn.forget()
        self.await_prompt()

    def reset(self) -> None:
        """Pull the reset line, whatever the guest is doing, a panic included, and wait for the new prompt."""
        self.console.forgive()
        self.monitor.system_reset()
        self.console.spawn.forget()
        self.await_prompt()

    def migrate_to(self, there: Machine, timeout: float = MIGRATE_S) -> Guest:
        """Move to `there`, which `incoming()` started, by live migration; this one stays, stopped, until it is closed.
        MigrationFailed, and it goes on here, if QEMU cannot; the destination is then of no more use."""
        migration.migrate(self.monitor, there.monitor, migration.incoming_path(there), timeout)
        moved = Guest(there, self.shell.prompt)
        moved.ready = dict(self.ready)
        moved.shell.attach(PROMPT_S * time_factor(there.vm))
        return moved

    def close(self) -> None:
        """Machine.close()."""
        self.machine.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def incoming(
    vm: Vm,
    rundir: RunDir | None = None,
    artifacts: Path | None = None,
    progress: Progress = _say_nothing,
) -> Machine:
    """A QEMU that waits for a guest of the same kind: `vm` is the source's, with the sockets of its cards replaced."""
    run = rundir or RunDir.create()
    waiting = replace(vm, extra=(*vm.extra, *migration.incoming_words(run)))
    machine = Machine(waiting, run, artifacts, progress)
    machine._own_rundir = rundir is None
    return machine.start()


def time_factor(vm: Vm) -> int:
    """By how much limits are stretched for the accelerator."""
    return 1 if vm.accel == "kvm" else TCG_TIME_FACTOR


def boot(
    vm: Vm,
    rundir: RunDir | None = None,
    artifacts: Path | None = None,
    progress: Progress = _say_nothing,
    prompt: bytes = PROMPT,
    attempts: int = ATTEMPTS,
    first_byte_s: float | None = None,
) -> Guest:
    """Start `vm` and wait for its prompt.  A guest mute for `first_byte_s` is ended and started again, up to
    `attempts` times in all, each said through `progress`; any other failure is raised as it is."""
    patience = FIRST_BYTE_S * time_factor(vm) if first_byte_s is None else first_byte_s
    for attempt in range(1, attempts + 1):
        machine = Machine(vm, rundir, artifacts, progress)
        try:
            return _boot_once(machine, patience, prompt, progress)
        except GuestSilent as error:
            machine.close()
            if machine.console.bytes_seen or attempt == attempts:
                raise
            progress(f"{error.fact}: starting it again ({attempt + 1} of {attempts})")
        except BaseException:
            machine.close()
            raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _boot_once(machine: Machine, patience: float, prompt: bytes, progress: Progress) -> Guest:
    machine.start()
    progress(f"QEMU is up (pid {machine.pid}, {machine.vm.machine}, {machine.vm.accel})")
    machine.console.wait_first_byte(patience)
    progress("the kernel speaks")
    guest = Guest(machine, prompt)
    guest.await_prompt()
    progress("the guest is at its prompt")
    return guest
