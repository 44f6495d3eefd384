# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's command line as data: a Vm with its network cards in, a list of arguments out.

What is decided here, with its reason:

* vhost-user needs the guest's memory shared: a memory-backend-memfd with share=on is the machine's RAM.
* microvm has virtio-mmio slots that its ACPI tables describe (Debian's cloud kernel has virtio_mmio as a
  module and no virtio_mmio.device= option; loading the module finds the cards).  The mmio transport is
  modern or legacy, never both; "transitional" there means modern.
* On q35 a card sits directly on pcie.0, so that it can be transitional (behind a root port it is modern).
* vectors=0 for virtio-net-pci with vhost-user under TCG: QEMU 7.2 crashes (SIGSEGV in
  msix_set_vector_notifiers) when the guest turns MSI-X on.  Whether later versions do is unknown, so all
  get it.
* event_idx=off for packed rings over a socket netdev: when the socket was full and can be written again, QEMU 7.2
  (virtio_net_tx_complete) asks to be kicked for the next descriptor, takes those that are there, and does not ask
  again. The place it asked for is behind it then; the guest, which kicks only for that one, never kicks again. Without
  EVENT_IDX it is asked for every kick. Split rings and TAPs are not affected.
* microvm has no reset a kernel finds by itself ("Restarting system" and then nothing): reboot=t, a triple
  fault, works.
* Under TCG the guest gets the host's TSC; tsc_early_khz with tsc=reliable keeps it from distrusting that
  clock and falling back to one that ticks every 4 ms.
* cryptomgr.notests: the self-tests of ciphers that nobody here uses took 0.3 to 0.5 s of each boot.
* An IOMMU comes before the cards, as QEMU joins a card to what is there. Its cards have a cache of translations of
  their own (device-iotlb, ats), which the guest invalidates itself. Without that QEMU 7.2 finds out what went by
  comparing the guest's page tables at each flush with those at the last one, and never tells a back end of a mapping
  that came and went in between, as those of sent frames do: stale frames were seen. A card has ATS behind a root port
  only, as it is no PCI Express device on pcie.0, and is modern there.
* reconnect: seconds until 9.1, milliseconds from 9.2 on; -netdev stream has none before 8.0.

Left out: firmware boots, disks, displays: `Vm.extra` takes any further argument.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from guest.vm.errors import BadArguments
from guest.vm.probe import Accel
from guest.vm.rundir import check_socket_path

MachineType = Literal["microvm", "q35"]
Dialect = Literal["transitional", "modern", "legacy"]

ETH_MIN_MTU = 68
"""RFC 791: every internet module must be able to forward a datagram of 68 octets without fragmentation."""
MAX_QUEUE_PAIRS = 256
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Card:
    """The virtio-net device itself, whatever is behind it; None leaves a property to QEMU's default."""

    mac: str | None = None
    mtu: int | None = None
    dialect: Dialect = "transitional"
    boot_rom: bool = False
    packed: bool = False
    """Packed virtqueues (VIRTIO_F_RING_PACKED), for a guest whose driver has them: Linux does since 5.0."""
    properties: tuple[str, ...] = ()
    """Further `name=value` device properties, e.g. "rx_queue_size=1024"."""


@dataclass(frozen=True, kw_only=True)
class VhostUser(Card):
    """A back end that listens at `path`; `reconnect_s` 0 makes a lost back end final. `listens`: QEMU does, and the
    back end connects, again where it was lost."""

    path: Path
    queues: int = 1
    reconnect_s: int = 1
    listens: bool = False


@dataclass(frozen=True, kw_only=True)
class Stream(Card):
    """A peer that listens at `path` for 4-byte length prefixed frames; without vnet headers. `listens`: QEMU does, and
    the peer connects."""

    path: Path
    reconnect_s: int = 0
    listens: bool = False


@dataclass(frozen=True, kw_only=True)
class Dgram(Card):
    """A peer at `path` and QEMU at `local`: a frame a datagram, without vnet headers."""

    path: Path
    local: Path


@dataclass(frozen=True, kw_only=True)
class Socket(Card):
    """QEMU's older socket netdev: `options` as in its manual, e.g. "connect=127.0.0.1:5000"."""

    options: str


@dataclass(frozen=True, kw_only=True)
class Tap(Card):
    """An interface of QEMU's network namespace; made by QEMU if it does not exist. With several queues it has to be
    one with multi_queue."""

    ifname: str
    vnet_hdr: bool = True
    queues: int = 1


@dataclass(frozen=True, kw_only=True)
class User(Card):
    """QEMU's own libslirp; `options` as in QEMU's manual, e.g. ("hostfwd=tcp::8080-:80",)."""

    options: tuple[str, ...] = ()


Nic = VhostUser | Stream | Dgram | Socket | Tap | User


@dataclass(frozen=True, kw_only=True)
class Vm:
    """Everything of a guest but its run directory.  `reboot` False: QEMU ends where it would reboot."""

    kernel: Path
    initramfs: Path
    nics: tuple[Nic, ...] = ()
    machine: MachineType = "microvm"
    accel: Accel = "tcg"
    memory_mib: int = 256
    smp: int = 1
    append: tuple[str, ...] = ()
    """Further words for the kernel's command line; the later of two contradicting ones wins."""
    tsc_khz: int | None = None
    reboot: bool = False
    iommu: bool = False
    """An Intel IOMMU between the cards and memory (q35): the guest's kernel maps every buffer before a card sees it."""
    qemu: str = "qemu-system-x86_64"
    qemu_version: tuple[int, ...] = (7, 2)
    extra: tuple[str, ...] = ()


def check(vm: Vm) -> None:
    """BadArguments for a Vm that no QEMU could run; SocketPathError for an overlong path."""
    _demand(
        vm.memory_mib >= 64, f"memory of {vm.memory_mib} MiB", "Debian's kernel and the image need 64 MiB"
    )
    _demand(1 <= vm.smp <= 255, f"{vm.smp} processors", "1 to 255 are possible")
    dialects = {nic.dialect == "legacy" for nic in vm.nics}
    mixed = vm.machine == "microvm" and len(dialects) > 1
    _demand(
        not mixed, "a legacy and a modern card on one microvm", "virtio-mmio's dialect is one for the machine"
    )
    _demand(not vm.iommu or vm.machine == "q35", f"an IOMMU on {vm.machine}", "QEMU has one for q35 only")
    for nic in vm.nics:
        _check_card(nic)
        modern = nic.dialect != "legacy"
        _demand(not vm.iommu or modern, "an IOMMU for a legacy card", "ACCESS_PLATFORM is a modern feature")
        for path in socket_paths(nic):
            check_socket_path(path)
        if isinstance(nic, Stream) and nic.reconnect_s:
            _demand(not nic.listens, "reconnect on a stream netdev that listens", "its peer connects again")
            found = ".".join(map(str, vm.qemu_version))
            _demand(
                vm.qemu_version >= (8, 0),
                "reconnect on a stream netdev",
                f"QEMU 8.0 brought it, this is {found}",
            )
        if isinstance(nic, VhostUser | Tap):
            _demand(
                1 <= nic.queues <= MAX_QUEUE_PAIRS, f"{nic.queues} queue pairs", f"1 to {MAX_QUEUE_PAIRS}"
            )


def socket_paths(nic: Nic) -> list[Path]:
    """The unix sockets that a card's netdev names."""
    if isinstance(nic, Dgram):
        return [nic.path, nic.local]
    return [nic.path] if isinstance(nic, VhostUser | Stream) else []


def _check_card(card: Card) -> None:
    if card.mac is not None:
        unicast = bool(_MAC.fullmatch(card.mac)) and not int(card.mac[:2], 16) & 1
        _demand(
            unicast, f"MAC address {card.mac!r}", "six colon-separated bytes, the first one even (unicast)"
        )
    _demand(
        not (card.packed and card.dialect == "legacy"),
        "packed virtqueues on a legacy card",
        "a legacy driver cannot negotiate features above bit 31",
    )
    if card.mtu is not None:
        _demand(ETH_MIN_MTU <= card.mtu <= 65535, f"MTU {card.mtu}", f"{ETH_MIN_MTU} to 65535 are possible")


def _demand(holds: bool, fact: str, reason: str) -> None:
    if not holds:
        raise BadArguments(f"not possible: {fact}", reason)


def command(vm: Vm, serial: Sequence[str] = ("-serial", "stdio"), monitor: Sequence[str] = ()) -> list[str]:
    """The whole argument list; `serial` and `monitor` say where those two are to be found."""
    check(vm)
    argv = [vm.qemu, "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-M", _machine(vm), "-accel", vm.accel, "-m", str(vm.memory_mib), "-smp", str(vm.smp)]
    if _shares_memory(vm):
        argv += ["-object", f"memory-backend-memfd,id=mem0,size={vm.memory_mib}M,share=on"]
    argv += ["-kernel", str(vm.kernel), "-initrd", str(vm.initramfs), "-append", " ".join(kernel_words(vm))]
    argv += [*serial, *monitor]
    argv += [] if vm.reboot else ["-no-reboot"]
    argv += _transport_dialect(vm)
    argv += ["-device", "intel-iommu,intremap=off,device-iotlb=on"] if vm.iommu else []
    if vm.iommu:
        for index in range(len(vm.nics)):
            argv += ["-device", f"pcie-root-port,id=port{index},chassis={index + 1}"]
    for index, nic in enumerate(vm.nics):
        argv += _nic(vm, nic, index)
    return [*argv, *vm.extra]


def shell_form(argv: Sequence[str]) -> str:
    """What a human pastes into a shell: one option a line."""
    text = shlex.quote(argv[0])
    for word in argv[1:]:
        text += (" \\\n  " if word.startswith("-") else " ") + shlex.quote(word)
    return text


def human_command(vm: Vm) -> str:
    """The same guest with its console on the terminal (Ctrl-A x leaves), for pasting into a shell."""
    return shell_form(command(vm, serial=("-serial", "mon:stdio")))


def socket_serial(path: Path) -> list[str]:
    """A console that QEMU brings to whoever listens at `path`: no byte is lost, however early."""
    return ["-chardev", f"socket,id=console0,path={_escape(path)}", "-serial", "chardev:console0"]


def socket_monitor(path: Path) -> list[str]:
    """A QMP monitor that QEMU brings to whoever listens at `path`."""
    return ["-chardev", f"socket,id=qmp0,path={_escape(path)}", "-mon", "chardev=qmp0,mode=control"]


def listening_monitor(path: Path) -> tuple[str, ...]:
    """A further QMP monitor, at which QEMU listens for one client at a time."""
    check_socket_path(path)
    return "-qmp", f"unix:{_escape(path)},server=on,wait=off"


def with_nics(vm: Vm, *nics: Nic) -> Vm:
    """The same machine with other cards."""
    return replace(vm, nics=nics)


def kernel_words(vm: Vm) -> list[str]:
    """The kernel's command line (Documentation/admin-guide/kernel-parameters.txt)."""
    words = ["console=ttyS0", "net.ifnames=0", "cryptomgr.notests"]
    if vm.machine == "microvm":
        words.append("reboot=t")
    if vm.accel == "tcg" and vm.tsc_khz is not None:
        words += [f"tsc_early_khz={vm.tsc_khz}", "tsc=reliable", "clocksource=tsc"]
    if vm.iommu:
        words.append("intel_iommu=on")
    return [*words, *vm.append]


def _escape(path: Path) -> str:
    """In QEMU's option lists a comma in a value is written twice."""
    return str(path).replace(",", ",,")


def _shares_memory(vm: Vm) -> bool:
    return any(isinstance(nic, VhostUser) for nic in vm.nics)


def _machine(vm: Vm) -> str:
    return f"{vm.machine},memory-backend=mem0" if _shares_memory(vm) else vm.machine


def _transport_dialect(vm: Vm) -> list[str]:
    if vm.machine != "microvm" or not vm.nics:
        return []
    legacy = "on" if vm.nics[0].dialect == "legacy" else "off"
    return ["-global", f"virtio-mmio.force-legacy={legacy}"]


def _nic(vm: Vm, nic: Nic, index: int) -> list[str]:
    backend = _backend(vm, nic, f"net{index}", f"chr{index}")
    return [*backend, "-device", ",".join(_device(vm, nic, index))]


def _backend(vm: Vm, nic: Nic, net: str, chardev: str) -> list[str]:
    if not isinstance(nic, VhostUser):
        return ["-netdev", _netdev(vm, nic, net)]
    again = ",server=on,wait=off" if nic.listens else _reconnect(vm, nic.reconnect_s)
    queues = f",queues={nic.queues}" if nic.queues > 1 else ""
    socket = f"socket,id={chardev},path={_escape(nic.path)}{again}"
    return ["-chardev", socket, "-netdev", f"vhost-user,id={net},chardev={chardev}{queues}"]


def _netdev(vm: Vm, nic: Stream | Dgram | Socket | Tap | User, net: str) -> str:
    """One that stands for itself."""
    if isinstance(nic, User):
        return ",".join(["user", f"id={net}", *nic.options])
    if isinstance(nic, Socket):
        return f"socket,id={net},{nic.options}"
    if isinstance(nic, Tap):
        vnet_hdr = "on" if nic.vnet_hdr else "off"
        several = f",queues={nic.queues}" if nic.queues > 1 else ""
        return f"tap,id={net},ifname={nic.ifname},script=no,downscript=no,vnet_hdr={vnet_hdr}{several}"
    if isinstance(nic, Dgram):
        ends = (("local", nic.local), ("remote", nic.path))
        addresses = ",".join(f"{end}.type=unix,{end}.path={_escape(path)}" for end, path in ends)
        return f"dgram,id={net},{addresses}"
    server = "on" if nic.listens else "off"
    again = _reconnect(vm, nic.reconnect_s)
    return f"stream,id={net},server={server},addr.type=unix,addr.path={_escape(nic.path)}{again}"


def _reconnect(vm: Vm, seconds: int) -> str:
    if seconds == 0:
        return ""
    return f",reconnect-ms={seconds * 1000}" if vm.qemu_version >= (9, 2) else f",reconnect={seconds}"


def _device(vm: Vm, nic: Nic, index: int) -> list[str]:
    parts = ["virtio-net-device" if vm.machine == "microvm" else "virtio-net-pci", f"netdev=net{index}"]
    if nic.mac is not None:
        parts.append(f"mac={nic.mac}")
    if nic.mtu is not None:
        parts.append(f"host_mtu={nic.mtu}")
    queues = nic.queues if isinstance(nic, VhostUser | Tap) else 1
    if queues > 1:
        parts.append("mq=on")
    if nic.packed:
        parts.append("packed=on")
        parts += ["event_idx=off"] if isinstance(nic, Stream | Dgram | Socket) else []
    if vm.machine == "q35":
        parts += _pci_properties(vm, nic, queues)
    if vm.iommu:
        parts += [f"bus=port{index}", "iommu_platform=on", "ats=on"]
    return [*parts, *nic.properties]


def _pci_properties(vm: Vm, nic: Nic, queues: int) -> list[str]:
    parts = [] if nic.boot_rom else ["romfile="]
    if vm.iommu:
        parts.append("disable-legacy=on")
    elif nic.dialect != "transitional":
        parts.append("disable-legacy=on" if nic.dialect == "modern" else "disable-modern=on")
    if vm.accel == "tcg" and isinstance(nic, VhostUser):
        parts.append("vectors=0")
    elif queues > 1:
        parts.append(f"vectors={2 * queues + 2}")
    return parts
