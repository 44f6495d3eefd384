# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic vm``: image, back end, guest, console - and the end of all of them.

Order: whatever can refuse without having started anything comes first (options, QEMU, accelerator), then the image
(which may take a minute once), then the run directory, the back end, QEMU.  Each is a context manager, so that
leaving the guest, Ctrl-C, SIGTERM and every error end the later ones first and leave nothing behind.

On an error the transcripts (console, QEMU's output and command line, the back end's) are moved to a directory that
the message names.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket as socketlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

import images
from guest.vm import probe
from guest.vm.args import (
    Dgram,
    MachineType,
    Nic,
    Stream,
    VhostUser,
    Vm,
    check,
    human_command,
    listening_monitor,
    shell_form,
)
from guest.vm.errors import GuestError
from guest.vm.interact import interact_with
from guest.vm.machine import Guest, boot
from guest.vm.probe import Accel
from guest.vm.rundir import RunDir
from vnic import errors
from vnic.cli import output
from vnic.cli.backend import END_S, REPORT_S, Backend, serve_command
from vnic.cli.serve import DeviceFaults, Duplicate, Hosts, Loss, Pcap, Reorder, Report, Seed, Web
from vnic.options import Options, parse_hosts
from vnic.places import GUEST_SUFFIX, QUEUE_PAIRS

NetKind = Literal["vhost-user", "stream", "dgram"]
Watch = Callable[[Guest], contextlib.AbstractContextManager[None]]
RECONNECT_S = 1
COMMAND_S = 3600.0


@dataclass(frozen=True)
class Plan:
    """What to start, as decided from the options and the host."""

    machine: MachineType
    net: NetKind
    packed: bool
    image: str
    memory_mib: int
    backend_options: tuple[str, ...]
    socket: Path | None
    """Of a back end that runs already; None: one is started."""
    qemu: probe.Qemu
    accel: Accel
    interactive: bool
    qmp: Path | None = None
    mac: str | None = None
    queues: int = 1

    def vm(self, image: images.Image | None, socket: Path) -> Vm:
        """The guest; with no image yet (a dry run) its files have the names that a built one has."""
        directory = Path(f"<image {self.image}>")
        return Vm(
            kernel=image.kernel if image else directory / "vmlinuz",
            initramfs=image.initramfs if image else directory / "initramfs",
            nics=(self.nic(socket),),
            machine=self.machine,
            accel=self.accel,
            memory_mib=self.memory_mib,
            smp=self.queues,
            append=() if self.interactive else ("vnic.quiet", "vnic.plain"),
            tsc_khz=probe.tsc_khz() if self.accel == "tcg" else None,
            reboot=True,
            qemu=self.qemu.path,
            qemu_version=self.qemu.version,
            extra=() if self.qmp is None else listening_monitor(self.qmp),
        )

    def nic(self, socket: Path) -> Nic:
        if self.net == "vhost-user":
            return VhostUser(
                path=socket,
                mac=self.mac,
                reconnect_s=RECONNECT_S,
                packed=self.packed,
                queues=self.queues,
            )
        if self.net == "dgram":
            return Dgram(path=socket, mac=self.mac, local=socket.with_name(socket.name + GUEST_SUFFIX))
        again = RECONNECT_S if self.qemu.version >= (8, 0) else 0
        return Stream(path=socket, mac=self.mac, reconnect_s=again)

    def backend_arguments(self, socket: Path) -> list[str]:
        return [f"--{self.net}", str(socket), *self.backend_options]


def vm(
    command: Annotated[
        list[str] | None, typer.Argument(help="After --: a command to run in the guest.")
    ] = None,
    machine: Annotated[MachineType, typer.Option(help="QEMU's machine type.")] = "microvm",
    net: Annotated[NetKind, typer.Option(help="How QEMU talks to the back end.")] = "vhost-user",
    queues: Annotated[
        int,
        typer.Option(min=1, max=QUEUE_PAIRS, help="Queue pairs of the card; as many processors."),
    ] = 1,
    packed: Annotated[
        bool, typer.Option("--packed", help="Packed virtqueues instead of split ones.")
    ] = False,
    image: Annotated[str, typer.Option(help="A recipe: see `vnic image list`.")] = images.DEFAULT,
    memory: Annotated[int, typer.Option(help="MiB of the guest.")] = 256,
    accel: Annotated[
        Literal["auto", "tcg", "kvm"], typer.Option(help="auto: KVM if it really works.")
    ] = "auto",
    socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Use the back end that listens there; start none.")
    ] = None,
    mac: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of its card; each guest of one segment needs its own."),
    ] = None,
    pcap: Pcap = None,
    loss: Loss = 0.0,
    reorder: Reorder = 0.0,
    duplicate: Duplicate = 0.0,
    seed: Seed = 0,
    device_fault: DeviceFaults = None,
    host: Hosts = None,
    web: Web = None,
    report: Report = None,
    qmp: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Let QEMU listen there for QMP: vnic negotiate --qmp.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds that the command after -- may take.")
    ] = COMMAND_S,
    artifacts: Annotated[Path | None, typer.Option(help="Keep the transcripts in this directory.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the commands and start nothing.")] = False,
) -> int:
    """Open a guest whose network card is vnic; its console is this terminal (Ctrl-A x leaves).

    With a command after -- the guest runs that, and its exit code is ours: vnic vm -- curl http://10.0.2.2/
    """
    faults = {"--loss": loss, "--reorder": reorder, "--duplicate": duplicate}
    options = [word for name, chance in faults.items() if chance for word in (name, str(chance))]
    options += [word for fault in device_fault or [] for word in ("--device-fault", fault)]
    options += ["--seed", str(seed)] if options else []
    options += ["--pcap", str(pcap.absolute())] if pcap else []
    options += [word for pair in host or [] for word in ("--host", pair)]
    options += ["--web", str(web)] if web is not None else []
    options += ["--report", str(report.absolute())] if report is not None else []
    # The back end would refuse these too, but only once the image is built.
    Options(
        vhost_user="any",
        loss=loss,
        reorder=reorder,
        duplicate=duplicate,
        device_faults=tuple(device_fault or []),
        hosts=parse_hosts(host or []),
    )
    images.find(image)  # refuses a name that no recipe has
    if socket is not None and options:
        raise errors.UsageError(
            "these options are for a back end that is started, and --socket uses one that runs",
            " ".join(options),
            "give them to that back end, or leave --socket out",
        )
    if queues > 1 and net != "vhost-user":
        raise errors.UsageError(
            f"--queues is about the rings between guest and back end, and with --net {net} QEMU has those",
            "its netdev has one queue",
            "leave --queues out, or use --net vhost-user",
        )
    if device_fault and net != "vhost-user":
        raise errors.UsageError(
            f"--device-fault is about the rings between guest and back end, and with --net {net} QEMU has those",
            "vnic would only see frames",
            "leave --device-fault out, or use --net vhost-user",
        )
    if packed and net != "vhost-user":
        raise errors.UsageError(
            f"--packed is about the rings between guest and back end, and with --net {net} QEMU has those",
            "vnic would only see frames",
            "leave --packed out, or use --net vhost-user",
        )
    qemu = probe.ask_qemu(probe.find_qemu())
    qemu.require(netdev=net, machine=machine)
    chosen, said = _accelerator(accel, qemu)
    plan = Plan(
        machine,
        net,
        packed,
        image,
        memory,
        tuple(options),
        socket,
        qemu,
        chosen,
        not command,
        qmp,
        mac,
        queues,
    )
    check(plan.vm(None, Path("backend.sock")))  # what cannot be is refused before anything is started
    if dry_run:
        return _show(plan)
    output.stage(said)
    began = time.time()
    try:
        found = images.ensure(image, output.stage)
        code = _run(plan, found, _command_line(command or []), timeout, artifacts)
        if report is not None:
            say_report(report, began)
        return code
    except KeyboardInterrupt:
        output.stage("interrupted; everything that was started has ended")
        raise


def say_report(report: Path, began: float) -> None:
    """Whether the back end wrote it, which it does when nobody hears it any more: a disk may have become full."""
    if report.is_file() and report.stat().st_mtime < began:
        output.headline(f"the report could not be written: {report} is that of another run")
    elif report.exists():
        output.stage(f"the report is {report}")
    else:
        output.headline(f"the report {report} could not be written")


def _command_line(words: list[str]) -> str:
    """One word is taken as a shell's line (it may hold a pipe), several as a program with its arguments."""
    return words[0] if len(words) == 1 else shlex.join(words)


def _accelerator(wanted: str, qemu: probe.Qemu) -> tuple[Accel, str]:
    """A KVM that nobody wants is not tried."""
    if wanted == "tcg":
        return "tcg", "accelerator: TCG, as asked for"
    return probe.choose_accel(wanted, probe.probe_kvm(qemu))


def _show(plan: Plan) -> int:
    socket = plan.socket or Path(tempfile.gettempdir()) / "vnic.sock"
    if plan.socket is None:
        print("# 1. the back end, in one terminal")
        print(shell_form(serve_command(plan.backend_arguments(socket))))
        print("# 2. the guest, in another (Ctrl-A x ends it)")
    print(human_command(plan.vm(images.find(plan.image), socket)))
    return errors.EXIT_OK


def _run(plan: Plan, image: images.Image, command: str, timeout: float, artifacts: Path | None) -> int:
    with (
        RunDir.create() as rundir,
        _transcripts(rundir.path, artifacts),
        _backend(plan, rundir) as behind,
    ):
        guest = boot(plan.vm(image, behind.socket), rundir, progress=output.stage)
        with contextlib.closing(guest), behind.watch(guest):
            code = _run_command(guest, command, timeout) if command else _hand_over(guest, behind.page)
    output.stage("everything that was started has ended")
    return code


@dataclass(frozen=True)
class Behind:
    """A back end: its socket, how to watch it, the address of its live page or ""."""

    socket: Path
    watch: Watch
    page: str = ""


@contextlib.contextmanager
def _backend(plan: Plan, rundir: RunDir) -> Iterator[Behind]:
    """One of our own, or one that somebody else runs."""
    if plan.socket is not None:
        check_back_end(plan.socket, plan.net)
        yield Behind(plan.socket, lambda guest: contextlib.nullcontext())
        return
    path = rundir.socket_path("backend.sock")
    end_s = REPORT_S if "--report" in plan.backend_options else END_S
    with Backend(plan.backend_arguments(path), rundir, end_s) as backend, _blamed(backend):
        output.stage(f"the back end is {backend.await_ready()}")
        page = backend.page()
        if page:
            output.stage(f"the live page is {page}")
        yield Behind(path, lambda guest: _watched(backend, guest), page)
        for line in backend.complaints():
            output.headline(f"the back end said: {line}")


def check_back_end(path: Path, net: NetKind) -> None:
    """BackendError unless somebody listens there; QEMU would wait for it without a word."""
    kind = socketlib.SOCK_DGRAM if net == "dgram" else socketlib.SOCK_STREAM
    with socketlib.socket(socketlib.AF_UNIX, kind) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            raise errors.BackendError(
                f"no back end listens on {path}", str(error), f"start it first: vnic serve --{net} {path}"
            ) from error


def _run_command(guest: Guest, command: str, timeout: float) -> int:
    result = guest.run(command, timeout)
    sys.stdout.write(result.out)
    sys.stdout.flush()
    sys.stderr.write(result.err)
    return result.code


def _hand_over(guest: Guest, page: str) -> int:
    """The terminal is the guest's until it is off or its user leaves."""
    _say_banner(guest, page)
    try:
        interact_with(guest)
    finally:
        output.say("")  # the guest's last line has no end
    return errors.EXIT_OK


BANNER = """
  This is the guest's console.  Its network card is a Python process, and so is the server 10.0.2.2.  Type:

    ping -c 3 10.0.2.2
    nc 10.0.2.2 7                      echo; also 9 discard, 19 chargen
    curl http://10.0.2.2/              this connection, as the server's TCP sees it
    curl -so /dev/null -w '%{speed_download}\\n' http://10.0.2.2/bytes/100000000
    curl -T /bin/busybox http://10.0.2.2/upload
    iperf3 -c 10.0.2.2                 and with -R the other way
    curl 'http://[fd00:10:0:2::2]/'    the same by IPv6, seconds after boot; also ping -6, nc -6

  exit, or Ctrl-A x, ends the guest and everything that was started with it.
"""


PAGE_BANNER = """
  What its server does, live, in a browser on this machine:

    {page}
"""


def _say_banner(guest: Guest, page: str) -> None:
    if guest.ready.get("dhcp", "ok") != "ok":
        output.headline(f"the guest got no address by DHCP: {guest.ready['dhcp']}")
    output.say(BANNER + (PAGE_BANNER.format(page=page) if page else ""))


# -- ends ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _blamed(backend: Backend) -> Iterator[None]:
    """If the back end is gone when something fails, its end is the error, whatever came of it elsewhere."""
    try:
        yield
    except GuestError as error:
        if backend.running:
            raise
        raise backend.obituary() from error


@contextlib.contextmanager
def _watched(backend: Backend, guest: Guest) -> Iterator[None]:
    """End QEMU, and so whatever waits for the guest, when the back end ends."""
    died = threading.Event()
    stop_read, stop_write = os.pipe()
    qemu = guest.machine.pidfd

    def watch() -> None:
        ready, _, _ = select.select([backend.pidfd, stop_read], [], [])
        if backend.pidfd in ready:
            died.set()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(qemu, signal.SIGTERM)

    thread = threading.Thread(target=watch, name="back end's death watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(stop_write)
        thread.join()
        os.close(stop_read)
    if died.is_set():
        raise backend.obituary()


@contextlib.contextmanager
def _transcripts(run: Path, artifacts: Path | None) -> Iterator[None]:
    """Keep the run directory's files: always in ``artifacts`` if that was named, else in /tmp after an error."""
    try:
        yield
    except Exception as error:
        try:
            kept = _keep(run, artifacts or Path(tempfile.mkdtemp(prefix="vnic-failed-")))
            add_evidence(error, f"transcripts of console, QEMU and back end: {kept}")
        except OSError as also:
            add_evidence(error, f"the transcripts of console, QEMU and back end could not be kept: {also}")
        raise error
    else:
        if artifacts is not None:
            _keep(run, artifacts)


def _keep(run: Path, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for file in run.iterdir():
        if file.is_file() and file.name != "owner.json":
            shutil.copy(file, directory)
    return directory


def add_evidence(error: Exception, line: str) -> None:
    """One line more in the evidence of an error that has such a part."""
    evidence = getattr(error, "evidence", None)
    if isinstance(evidence, str):
        setattr(error, "evidence", f"{evidence}\n{line}".lstrip("\n"))  # noqa: B010 - any layer's error
