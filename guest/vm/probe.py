# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host can do for a guest: each fact with its evidence and, where it is missing, its remedy.

KVM is believed only after it ran a guest (tinyguest.py) that does what a kernel does first and then works
for a while.  /dev/kvm may exist, open, answer its API version, run a few instructions and still never get a
kernel to its first console line: seen on kvm-pvm inside a cloud guest, which interprets kernel code.  The
guest gets KVM_DEADLINE_S and a process group of its own, then SIGKILL.  The same image runs under TCG in
the tests, so that "KVM hangs" can't mean "our image is wrong".  That verdict, and it alone, is cached, keyed
by QEMU's version and the boot id: a reboot or an upgrade asks again.  Opening the device is tried every
time, since it depends on who asks.

TSC: a Linux guest without a usable reference calibrates its TSC badly under TCG or falls back to a clock
that ticks every 4 ms.  QEMU's TCG hands the host's rdtsc through, so the guest can be told the rate
(args.py, tsc_early_khz).  It is measured here, by rdtsc against CLOCK_MONOTONIC_RAW, since /proc/cpuinfo
shows the present clock of the core and not the TSC's on machines that change it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from guest.vm import tinyguest
from guest.vm.errors import KvmUnusable, QemuMissing, QemuTooOld
from guest.vm.process import Child

Accel = Literal["kvm", "tcg"]

QEMU_NAMES = ("qemu-system-x86_64",)
QEMU_MINIMUM = (7, 2)
"""First version with -netdev stream and dgram; the oldest one we run against."""

KVM_DEADLINE_S = 3.0
TCG_TIME_FACTOR = 10
"""How much longer than under KVM a guest's steps may take under TCG."""

_ANSWER_S = 10.0
"""For `qemu -version` and the like: about 0.1 s on an idle host."""

_KVM_GET_API_VERSION = 0xAE00  # linux/kvm.h: _IO(KVMIO, 0x00)
_KVM_API_VERSION = 12

_INSTALL = "apt install qemu-system-x86   (unit tests run without it: make check)"


@dataclass(frozen=True)
class Fact:
    """One thing the host can do or not; `remedy` is empty where there is nothing to mend."""

    name: str
    ok: bool
    value: str
    evidence: str
    remedy: str = ""
    required: bool = True


@dataclass(frozen=True)
class Qemu:
    """A QEMU found, by what it says of itself."""

    path: str
    version: tuple[int, ...]
    banner: str
    netdevs: frozenset[str]
    machines: frozenset[str]

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    def require(self, netdev: str | None = None, machine: str | None = None) -> None:
        """QemuTooOld if the version is below QEMU_MINIMUM, or the netdev or machine type is not built in."""
        seen = f"{self.path} is version {self.version_text}, netdevs: {' '.join(sorted(self.netdevs))}"
        if self.version < QEMU_MINIMUM:
            need = ".".join(map(str, QEMU_MINIMUM))
            raise QemuTooOld(
                f"QEMU is older than {need}", seen, "apt install -t bookworm-backports qemu-system-x86"
            )
        if netdev is not None and netdev not in self.netdevs:
            raise QemuTooOld(
                f"this QEMU has no netdev '{netdev}'",
                seen,
                "use --net with one that is listed, or install Debian's QEMU: apt install qemu-system-x86",
            )
        if machine is not None and machine not in self.machines:
            listed = " ".join(sorted(self.machines))
            raise QemuTooOld(
                f"this QEMU has no machine '{machine}'", f"{self.path} lists: {listed}", _INSTALL
            )


@dataclass(frozen=True)
class KvmVerdict:
    """`state` is what stopped it: missing, closed, odd, hangs, fails - or ok."""

    state: Literal["ok", "missing", "closed", "odd", "hangs", "fails"]
    evidence: str

    @property
    def ok(self) -> bool:
        return self.state == "ok"

    @property
    def remedy(self) -> str:
        return _KVM_REMEDY[self.state]


_KVM_REMEDY = {
    "ok": "",
    "missing": "enable virtualisation in the firmware (or for this virtual machine); modprobe kvm_intel",
    "closed": "adduser $USER kvm, then log in again",
    "odd": "something else is mounted at /dev/kvm: give the container the host's device",
    "hangs": "nothing to mend from inside: guests run under TCG, with time limits x10",
    "fails": "read QEMU's words above; guests run under TCG, with time limits x10",
}


_KVM_MENDABLE = ("missing", "closed", "odd")


@dataclass(frozen=True)
class HostReport:
    """All facts, plus what the rest of the program goes on with."""

    facts: tuple[Fact, ...]
    qemu: Qemu | None
    kvm: KvmVerdict
    tsc_khz: int | None

    @property
    def ok(self) -> bool:
        """Whether everything required is there (KVM is not)."""
        return all(fact.ok for fact in self.facts if fact.required)

    def as_json(self) -> str:
        """{"schema": 1, "ok": bool, "facts": [{name, ok, value, evidence, remedy, required}]}"""
        return json.dumps(
            {"schema": 1, "ok": self.ok, "facts": [asdict(fact) for fact in self.facts]}, indent=1
        )

    def as_text(self) -> str:
        """One line a fact, and its remedy below it where it has one."""
        return "\n".join(_fact_lines(fact) for fact in self.facts)


def _fact_lines(fact: Fact) -> str:
    mark = "ok  " if fact.ok else ("FAIL" if fact.required else "no  ")
    line = f"{mark} {fact.name:<10} {fact.value:<18} {fact.evidence}"
    return line if fact.ok or not fact.remedy else f"{line}\n     try: {fact.remedy}"


# --- QEMU -----------------------------------------------------------------------------------------------


def find_qemu() -> str:
    """Path of qemu-system-x86_64: $VNIC_QEMU if set, else on PATH; QemuMissing otherwise."""
    named = os.environ.get("VNIC_QEMU")
    names = (named,) if named else QEMU_NAMES
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    where = "$VNIC_QEMU" if named else f"PATH={os.environ.get('PATH', '')}"
    raise QemuMissing("no QEMU for x86_64 was found", f"looked for {', '.join(names)} in {where}", _INSTALL)


def ask_qemu(path: str) -> Qemu:
    """Version, netdevs and machine types of the QEMU at `path`; QemuMissing if it does not answer."""
    banner = _answer([path, "-version"]).split("\n", 1)[0]
    version = re.search(r"version (\d+(?:\.\d+)+)", banner)
    if version is None:
        raise QemuMissing(f"{path} is not a QEMU", f"`-version` printed: {banner!r}", _INSTALL)
    netdevs = _answer([path, "-netdev", "help"]).splitlines()[1:]
    machines = _answer([path, "-machine", "help"]).splitlines()[1:]
    return Qemu(
        path=path,
        version=tuple(int(part) for part in version[1].split(".")),
        banner=banner,
        netdevs=frozenset(line.strip() for line in netdevs if line.strip()),
        machines=frozenset(line.split()[0] for line in machines if line.strip()),
    )


def _answer(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QemuMissing(f"{argv[0]} does not answer", str(error), _INSTALL) from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace")
        raise QemuMissing(f"{argv[0]} {argv[1]} failed with code {done.returncode}", said, _INSTALL)
    return done.stdout.decode("utf-8", "replace")


# --- KVM ------------------------------------------------------------------------------------------------


def run_tiny_guest(qemu: str, accel: Accel, deadline_s: float = KVM_DEADLINE_S) -> KvmVerdict:
    """Boot tinyguest under `accel`; never takes longer than the deadline plus 2 s to kill QEMU."""
    with tempfile.TemporaryDirectory(prefix="vnic-probe-") as name:
        run = Path(name)
        (run / "bios.bin").write_bytes(tinyguest.image())
        with (run / "qemu.log").open("wb") as log:
            child = Child(_tiny_argv(qemu, accel, run), log)
        started = time.monotonic()
        try:
            code = child.wait(deadline_s)
            killed = child.end(term_s=0.0, kill_s=2.0)
        finally:
            child.close()
        took = time.monotonic() - started
        stage = _stage_reached(run / "stages")
        if code is None:
            how = "was killed" if killed is not None else f"can't even be killed (pid {child.pid})"
            return KvmVerdict(
                "hangs",
                f"a tiny guest got to {stage}, then not to its end within {deadline_s:g} s; QEMU {how}",
            )
        if code == tinyguest.EXIT_CODE:
            return KvmVerdict("ok", f"a tiny guest got to {stage} and ended after {took:.2f} s")
        said = (run / "qemu.log").read_text("utf-8", "replace").strip()
        return KvmVerdict("fails", f"a tiny guest got to {stage}; QEMU ended with {code}: {said}")


def _stage_reached(file: Path) -> str:
    said = file.read_bytes() if file.exists() else b""
    return tinyguest.STAGES[min(len(said), len(tinyguest.STAGES) - 1)]


def _tiny_argv(qemu: str, accel: Accel, run: Path) -> list[str]:
    exit_device = f"isa-debug-exit,iobase={tinyguest.EXIT_PORT:#x},iosize=1"
    quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    devices = ["-debugcon", f"file:{run}/stages", "-device", exit_device]
    return [qemu, "-M", "pc", "-accel", accel, "-m", "16", *quiet, "-bios", f"{run}/bios.bin", *devices]


def probe_kvm(qemu: Qemu, use_cache: bool = True, device: Path = Path("/dev/kvm")) -> KvmVerdict:
    """Open `device`, ask its version, then believe it only after a guest ran (or the cache says one did)."""
    refused = _kvm_refusal(device)
    if refused is not None:
        return refused
    key = f"{qemu.banner} | {qemu.path} | {_boot_id()}"
    verdict = _cached_verdict(key) if use_cache else None
    if verdict is None:
        verdict = run_tiny_guest(qemu.path, "kvm")
        _remember(key, verdict)
    return verdict


def _kvm_refusal(device: Path) -> KvmVerdict | None:
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return KvmVerdict("missing", f"{device} does not exist")
    except OSError as error:
        return KvmVerdict("closed", f"opening {device}: {error.strerror}")
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    except OSError as error:
        return KvmVerdict("odd", f"{device} does not know KVM_GET_API_VERSION: {error.strerror}")
    finally:
        os.close(fd)
    return None if version == _KVM_API_VERSION else KvmVerdict("odd", f"KVM API version {version}, not 12")


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/vnic, by default ~/.cache/vnic (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "vnic"


def _cached_verdict(key: str) -> KvmVerdict | None:
    """None also for a user without a home, whom nothing is remembered for (RuntimeError)."""
    try:
        noted = json.loads((cache_dir() / "kvm-probe.json").read_text())
        state = noted["state"]
        if noted["key"] == key and state in _KVM_REMEDY:
            return KvmVerdict(state, f"{noted['evidence']} (found earlier since this boot)")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        pass
    return None


def _remember(key: str, verdict: KvmVerdict) -> None:
    """Atomic, and no loss if it fails: the probe then runs again next time."""
    with contextlib.suppress(OSError, RuntimeError):
        cache_dir().mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix="kvm-probe.", dir=cache_dir())
        with open(fd, "w") as file:
            json.dump({"key": key, "state": verdict.state, "evidence": verdict.evidence}, file)
        Path(temporary).rename(cache_dir() / "kvm-probe.json")


def choose_accel(wanted: str, kvm: KvmVerdict) -> tuple[Accel, str]:
    """The accelerator and the line to say aloud; `wanted` is auto, kvm or tcg.  KvmUnusable if vain."""
    if wanted == "tcg":
        return "tcg", f"accelerator: TCG as asked for; time limits x{TCG_TIME_FACTOR}"
    if kvm.ok:
        return "kvm", f"accelerator: KVM ({kvm.evidence})"
    if wanted == "kvm":
        raise KvmUnusable(
            f"KVM was asked for and is not usable: it {_KVM_SAYS[kvm.state]}",
            kvm.evidence,
            f"leave out --accel kvm, to run under TCG with time limits x{TCG_TIME_FACTOR}; or {kvm.remedy}"
            if kvm.state in _KVM_MENDABLE
            else f"leave out --accel kvm: the guest then runs under TCG, with time limits x{TCG_TIME_FACTOR}",
        )
    why = f"/dev/kvm {_KVM_SAYS[kvm.state]}: {kvm.evidence}"
    return "tcg", f"accelerator: NO KVM, continuing with TCG, time limits x{TCG_TIME_FACTOR} ({why})"


_KVM_SAYS = {
    "ok": "works",
    "missing": "is missing",
    "closed": "is closed to us",
    "odd": "is not KVM",
    "hangs": "opens but hangs",
    "fails": "opens but fails",
}


# --- memory and clock -----------------------------------------------------------------------------------


def probe_memfd() -> Fact:
    """Whether anonymous shareable memory can be had: vhost-user guests live in it."""
    try:
        fd = os.memfd_create("vnic-probe", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            mmap.mmap(fd, mmap.PAGESIZE).close()
        finally:
            os.close(fd)
    except OSError as error:
        return Fact(
            "memfd",
            False,
            "no",
            f"memfd_create: {error.strerror}",
            "allow memfd_create in the container's seccomp profile",
        )
    return Fact("memfd", True, "yes", "created and mapped one page")


def tsc_khz(window_s: float = 0.02) -> int | None:
    """The rate of the host's TSC; None if it has none that ticks evenly.  Takes `window_s`."""
    if platform.machine() != "x86_64" or "constant_tsc" not in _cpu_flags():
        return None
    try:
        return _measured_tsc_khz(window_s)
    except (OSError, ValueError):  # a kernel policy may forbid writable and executable memory
        return _cpuinfo_khz()


def _cpuinfo(key: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def _cpu_flags() -> list[str]:
    return _cpuinfo("flags").split()


def _cpuinfo_khz() -> int | None:
    text = _cpuinfo("cpu MHz")
    return round(float(text) * 1000) if text else None


_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret


def _measured_tsc_khz(window_s: float) -> int:
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_RDTSC)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))

    def sample() -> tuple[int, int]:
        """(nanoseconds, cycles) read closest together out of a few tries."""
        tries = []
        for _ in range(8):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            cycles = rdtsc()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            tries.append((after - before, (before + after) // 2, cycles))
        _, at, cycles = min(tries)
        return at, cycles

    at0, cycles0 = sample()
    time.sleep(window_s)
    at1, cycles1 = sample()
    return round((cycles1 - cycles0) * 1_000_000 / (at1 - at0))


# --- all of it ------------------------------------------------------------------------------------------


def probe_tap(device: Path = Path("/dev/net/tun")) -> Fact:
    """Whether TAP interfaces can be had, which only `vnic serve --tap` needs."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Fact("tap", False, "missing", f"no {device}", "load the module, as root: modprobe tun", False)
    except OSError as error:
        remedy = f"let this user open it, as root: chmod 666 {device}"
        return Fact("tap", False, "closed", f"{device}: {error.strerror}", remedy, False)
    return Fact("tap", True, "yes", f"{device} can be opened", required=False)


def probe(use_cache: bool = True) -> HostReport:
    """Everything above, without raising: what is missing is a Fact that is not ok."""
    facts = [_python_fact()]
    qemu: Qemu | None = None
    kvm = KvmVerdict("missing", "not tried without QEMU")
    try:
        qemu = ask_qemu(find_qemu())
    except QemuMissing as error:
        facts.append(Fact("qemu", False, "missing", error.evidence, error.remedy))
    else:
        kvm = probe_kvm(qemu, use_cache)
        facts += _qemu_facts(qemu)
    facts.append(Fact("kvm", kvm.ok, kvm.state, kvm.evidence, kvm.remedy, required=False))
    facts += [probe_memfd(), probe_tap()]
    rate = tsc_khz()
    facts.append(_tsc_fact(rate))
    return HostReport(tuple(facts), qemu, kvm, rate)


def _python_fact() -> Fact:
    ok = sys.version_info >= (3, 11)
    return Fact(
        "python",
        ok,
        platform.python_version(),
        sys.executable,
        "" if ok else "Python 3.11 or newer is needed",
    )


def _qemu_facts(qemu: Qemu) -> list[Fact]:
    new_enough = qemu.version >= QEMU_MINIMUM
    facts = [
        Fact(
            "qemu",
            new_enough,
            qemu.version_text,
            f"{qemu.path}: {qemu.banner}",
            "QEMU 7.2 or newer is needed",
        )
    ]
    for netdev in ("vhost-user", "stream", "dgram", "user"):
        known = netdev in qemu.netdevs
        needed = netdev in ("vhost-user", "stream")
        text = "in" if known else "not in"
        facts.append(Fact(netdev, known, "netdev", f"{text} `{qemu.path} -netdev help`", _INSTALL, needed))
    for machine in ("microvm", "q35"):
        known = machine in qemu.machines
        text = "in" if known else "not in"
        facts.append(Fact(machine, known, "machine", f"{text} `{qemu.path} -machine help`", _INSTALL))
    return facts


def _tsc_fact(rate: int | None) -> Fact:
    if rate is None:
        return Fact(
            "tsc",
            False,
            "unknown",
            "no constant_tsc in /proc/cpuinfo",
            "guests keep slower clocks",
            required=False,
        )
    return Fact("tsc", True, f"{rate} kHz", "rdtsc against CLOCK_MONOTONIC_RAW", required=False)
