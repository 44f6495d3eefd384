# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests for tests: the `boot` factory, with everything a failure needs kept.

    def test_it(boot):
        guest = boot(nic=User(), machine="q35")
        assert guest.run("uname -r").ok

A test that needs a back end makes its own fixture on top: it starts the back end on
`rundir.socket_path("net0.sock")` and calls boot(nic=VhostUser(path=...)); guests end before `rundir` does,
back ends that were started before boot() was called end after the guest.

A test that wants the Stack in its own process, and a wire that it can make worse, takes `line` (tests/helpers/line.py).

artifacts/<test>/ holds console.log, console.raw, qemu.argv, qemu.log, qmp.jsonl of each guest (in a
folder of its own from the second on).  It is removed when the test passes and named with its files, last, when it
fails.  Tests that share a guest share a folder, artifacts/<module>..., which is removed when all of them passed; a
`line`'s also has net0.pcapng, which shows the frames as the guest saw them.
VNIC_ACCEL=auto|tcg|kvm and VNIC_IMAGE=<recipe> choose what runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from line import Line

import images
from guest.vm import probe
from guest.vm.args import Dgram, MachineType, Nic, Stream, User, VhostUser, Vm
from guest.vm.errors import HostLacks
from guest.vm.machine import Guest
from guest.vm.machine import boot as boot_vm
from guest.vm.probe import Accel, Qemu
from guest.vm.rundir import RunDir
from vnic.cli.backend import Backend
from vnic.options import Options
from vnic.places import GUEST_SUFFIX

VM_TEST_TIMEOUT_S = 300
"""For a test without a limit of its own: pytest-timeout's, far above the limits inside, which tell more."""

_failed = pytest.StashKey[bool]()
_shared = pytest.StashKey[list[Path]]()


Boot = Callable[..., Guest]
"""boot(*, nic=User(), machine="microvm", **settings of Vm): a guest at its prompt that ends with the test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(VM_TEST_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
        module = item.getparent(pytest.Module)
        shared = module.stash.get(_shared, []) if module is not None else []
        for kept in filter(Path.exists, [artifacts_path(item), *shared]):
            report.sections.append(("guest console (last 30 lines)", _console_tail(kept)))
            files = sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file())
            report.sections.append(("artifacts", f"{kept}: {' '.join(files)}"))
    return report


def _console_tail(kept: Path) -> str:
    tails = []
    for log in sorted(kept.glob("**/console.log")):
        lines = log.read_text("utf-8", "replace").splitlines()[-30:]
        tails.append("\n".join([f"{log}:", *lines]))
    return "\n".join(tails)


def artifacts_path(item: pytest.Item) -> Path:
    """artifacts/<node id, as one folder name>."""
    return item.config.rootpath / "artifacts" / re.sub(r"[^\w.-]+", "_", item.nodeid).strip("_")


SharedArtifacts = Callable[[str], contextlib.AbstractContextManager[Path]]


@pytest.fixture(scope="module")
def shared_artifacts(request: pytest.FixtureRequest) -> SharedArtifacts:
    """For a fixture of a module: makes artifacts/<module><suffix>, empty, kept if one of the module's tests fails
    before the block is left."""

    @contextlib.contextmanager
    def make(suffix: str) -> Iterator[Path]:
        folder = request.config.rootpath / "artifacts" / f"{request.module.__name__}{suffix}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folders = request.node.stash.setdefault(_shared, [])
        folders.append(folder)
        failed_before = request.session.testsfailed
        yield folder
        folders.remove(folder)
        if request.session.testsfailed == failed_before:
            shutil.rmtree(folder, ignore_errors=True)

    return make


@pytest.fixture(scope="session")
def qemu() -> Qemu:
    """The host's QEMU; the test is skipped, with the reason, where there is none."""
    try:
        found = probe.ask_qemu(probe.find_qemu())
        found.require(netdev="vhost-user", machine="microvm")
        found.require(netdev="stream", machine="q35")
    except HostLacks as error:
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="session")
def accel(qemu: Qemu, pytestconfig: pytest.Config) -> Accel:
    """VNIC_ACCEL, by default KVM if the probe passed, else TCG; said aloud once."""
    chosen, said = probe.choose_accel(os.environ.get("VNIC_ACCEL", "auto"), probe.probe_kvm(qemu))
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(said)
    return chosen


@pytest.fixture(scope="session")
def tsc_khz() -> int | None:
    """The host's TSC rate, measured once."""
    return probe.tsc_khz()


@pytest.fixture(scope="session")
def image(pytestconfig: pytest.Config) -> images.Image:
    """The guest image of recipe VNIC_IMAGE, built if it is missing."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    say: Callable[[str], None] = reporter.write_line if reporter is not None else lambda line: None
    return images.ensure(os.environ.get("VNIC_IMAGE", images.DEFAULT), say)


@pytest.fixture
def artifacts(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder for this test, kept if the test fails."""
    path = artifacts_path(request.node)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    if not request.node.stash.get(_failed, False):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def rundir() -> Iterator[RunDir]:
    """A short private folder for this test's sockets."""
    with RunDir.create() as run:
        yield run


@pytest.fixture(scope="session")
def vm_of(image: images.Image, qemu: Qemu, accel: Accel, tsc_khz: int | None) -> Callable[..., Vm]:
    """A Vm of the image on this host, not started; keyword arguments as Vm's."""

    def make(**settings: Any) -> Vm:
        host = {"accel": accel, "tsc_khz": tsc_khz, "qemu": qemu.path, "qemu_version": qemu.version}
        return Vm(kernel=image.kernel, initramfs=image.initramfs, **{**host, **settings})

    return make


@pytest.fixture
def boot(vm_of: Callable[..., Vm], rundir: RunDir, artifacts: Path) -> Iterator[Boot]:
    """The factory; every guest it made is ended after the test, the last one first."""
    guests: list[Guest] = []

    def start(*, nic: Nic | None = None, machine: MachineType = "microvm", **settings: Any) -> Guest:
        vm = vm_of(machine=machine, nics=(nic or User(),), **settings)
        first = not guests
        folder = artifacts if first else artifacts / f"guest{len(guests) + 1}"
        # The first guest shares the test's directory with its back end; sockets of two would collide.
        guest = boot_vm(vm, rundir if first else None, folder, progress=print)
        guests.append(guest)
        return guest

    yield start
    for guest in reversed(guests):
        guest.close()


# -- with vnic's own back end ------------------------------------------------------------------------------------


LineBy = Callable[[str], contextlib.AbstractContextManager[Line]]


def backend_nic(kind: str, path: Path) -> Nic:
    """The card that connects to a back end of that kind."""
    if kind == "dgram":
        return Dgram(path=path, local=path.with_name(path.name + GUEST_SUFFIX))
    if kind == "stream-to":
        return Stream(path=path, listens=True)
    if kind == "vhost-user-to":
        return VhostUser(path=path, listens=True)
    return VhostUser(path=path) if kind == "vhost-user" else Stream(path=path)


class Backends:
    """Back ends of one run directory: started, killed, started again on the same socket."""

    def __init__(self, rundir: RunDir, artifacts: Path) -> None:
        self._rundir, self._artifacts = rundir, artifacts
        self.running: list[Backend] = []

    def start(self, kind: str, *options: str, name: str = "net0.sock") -> Nic:
        """``vnic serve`` with these options, ready; the card for it."""
        path = self._rundir.socket_path(name)
        self.serve(f"--{kind}", str(path), *options)
        return backend_nic(kind, path)

    def serve(self, *arguments: str) -> Backend:
        """``vnic serve`` with these arguments alone, ready."""
        backend = Backend(arguments, self._rundir)
        self.running.append(backend)
        backend.await_ready()
        return backend

    def path(self, name: str) -> Path:
        """Of a socket in the run directory."""
        return self._rundir.socket_path(name)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the last one started by a signal, and see it gone."""
        backend = self.running.pop()
        signal.pidfd_send_signal(backend.pidfd, number)
        ready, _, _ = select.select([backend.pidfd], [], [], 10)
        assert ready, f"the back end {backend.pid} outlived signal {number}"

    def close(self) -> None:
        for backend in self.running:
            backend.__exit__(None, None, None)
            shutil.copy(backend.log, self._artifacts)


@pytest.fixture
def backends(rundir: RunDir, artifacts: Path) -> Iterator[Backends]:
    """Back ends of this test; they end after its guests do, if those were booted later."""
    made = Backends(rundir, artifacts)
    yield made
    made.close()


SERVED = [
    pytest.param((kind, machine), id=f"{kind}-{machine}", marks=pytest.mark.xdist_group(f"{kind}-{machine}"))
    for kind in ("vhost-user", "stream")
    for machine in ("microvm", "q35")
]


QUIET = ("vnic.quiet", "vnic.plain")
MEMORY_MIB = 512
"""Of a line's guest: files that are sent lie in its tmpfs, which may take half of it."""


@pytest.fixture(scope="module", params=SERVED)
def served(
    request: pytest.FixtureRequest, vm_of: Callable[..., Vm], shared_artifacts: SharedArtifacts
) -> Iterator[Guest]:
    """One guest for all tests of a module, on each transport and machine type, with the ordinary services behind it.

    A test may leave nothing in it that disturbs the next one."""
    kind, machine = request.param
    with shared_artifacts(f"-{kind}-{machine}") as folder, RunDir.create() as rundir:
        made = Backends(rundir, folder)
        nic = made.start(kind)
        guest = boot_vm(vm_of(nics=(nic,), machine=machine, append=QUIET), rundir, folder, progress=print)
        yield guest
        guest.close()
        made.close()


@contextlib.contextmanager
def _line(kind: str, vm_of: Callable[..., Vm], rundir: RunDir, folder: Path) -> Iterator[Line]:
    path = rundir.socket_path("net0.sock")
    where = {"vhost_user": str(path)} if kind == "vhost-user" else {"stream": str(path)}
    made = Line(Options(**where, capture=folder / "net0.pcapng"))
    try:
        vm = vm_of(nics=(backend_nic(kind, path),), append=QUIET, memory_mib=MEMORY_MIB)
        with boot_vm(vm, rundir, folder, progress=print) as made.guest:
            yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def line(vm_of: Callable[..., Vm], shared_artifacts: SharedArtifacts) -> Iterator[Line]:
    """One guest for all tests of a module, with the Stack in this process and a wire that a test can make worse."""
    with (
        shared_artifacts("") as folder,
        RunDir.create() as rundir,
        _line("vhost-user", vm_of, rundir, folder) as made,
    ):
        yield made


@pytest.fixture
def line_by(vm_of: Callable[..., Vm], rundir: RunDir, artifacts: Path) -> LineBy:
    """A line of a test's own: ``with line_by("stream") as line``."""
    return lambda kind: _line(kind, vm_of, rundir, artifacts)
