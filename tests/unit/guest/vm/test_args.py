# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from guest.vm import args
from guest.vm.args import Dgram, Socket, Stream, Tap, User, VhostUser, Vm
from guest.vm.errors import BadArguments, SocketPathError

BASE = Vm(kernel=Path("/i/vmlinuz"), initramfs=Path("/i/initramfs"))
SOCK = Path("/run/net0.sock")


def option(argv: list[str], name: str) -> str:
    """The value of the only option of that name."""
    assert argv.count(name) == 1, (name, argv)
    return argv[argv.index(name) + 1]


def device(vm: Vm) -> str:
    return option(args.command(vm), "-device")


def test_vhost_user_gets_shared_memory_of_the_machines_size() -> None:
    argv = args.command(replace(BASE, nics=(VhostUser(path=SOCK),), memory_mib=512))
    assert option(argv, "-object") == "memory-backend-memfd,id=mem0,size=512M,share=on"
    assert option(argv, "-M") == "microvm,memory-backend=mem0"
    assert option(argv, "-m") == "512"


def test_stream_and_user_need_no_shared_memory() -> None:
    argv = args.command(replace(BASE, nics=(Stream(path=SOCK), User())))
    assert "-object" not in argv
    assert option(argv, "-M") == "microvm"


def test_vhost_user_on_microvm_is_a_modern_mmio_device() -> None:
    argv = args.command(replace(BASE, nics=(VhostUser(path=SOCK, mac="52:54:00:12:34:56", mtu=1500),)))
    assert option(argv, "-device") == "virtio-net-device,netdev=net0,mac=52:54:00:12:34:56,host_mtu=1500"
    assert option(argv, "-global") == "virtio-mmio.force-legacy=off"
    assert option(argv, "-netdev") == "vhost-user,id=net0,chardev=chr0"


def test_legacy_on_microvm_forces_the_transport() -> None:
    argv = args.command(replace(BASE, nics=(User(dialect="legacy"),)))
    assert option(argv, "-global") == "virtio-mmio.force-legacy=on"


def test_legacy_and_modern_on_one_microvm_is_refused() -> None:
    with pytest.raises(BadArguments, match="one microvm"):
        args.check(replace(BASE, nics=(User(dialect="legacy"), User())))


def test_legacy_and_modern_on_one_q35_is_fine() -> None:
    vm = replace(BASE, machine="q35", nics=(User(dialect="legacy"), User(dialect="modern")))
    text = " ".join(args.command(vm))
    assert "netdev=net0,romfile=,disable-modern=on" in text
    assert "netdev=net1,romfile=,disable-legacy=on" in text


def test_vhost_user_on_q35_under_tcg_has_no_msix() -> None:
    assert device(replace(BASE, machine="q35", nics=(VhostUser(path=SOCK),))).endswith(",vectors=0")


def test_vhost_user_on_q35_under_tcg_has_no_msix_with_queues_either() -> None:
    vm = replace(BASE, machine="q35", nics=(VhostUser(path=SOCK, queues=2),))
    assert device(vm) == "virtio-net-pci,netdev=net0,mq=on,romfile=,vectors=0"
    assert option(args.command(vm), "-netdev").endswith(",queues=2")


def test_vhost_user_on_q35_under_kvm_has_a_vector_for_each_ring_and_two_more() -> None:
    vm = replace(BASE, machine="q35", accel="kvm", nics=(VhostUser(path=SOCK, queues=4),))
    assert device(vm).endswith(",vectors=10")


@pytest.mark.parametrize("nic", [Stream(path=SOCK), Dgram(path=SOCK, local=SOCK), Socket(options="udp=1")])
def test_packed_rings_over_a_socket_netdev_do_without_event_idx(nic: args.Nic) -> None:
    assert "packed=on,event_idx=off" in device(replace(BASE, nics=(replace(nic, packed=True),)))


@pytest.mark.parametrize("nic", [VhostUser(path=SOCK), Tap(ifname="tap0"), User()])
def test_packed_rings_over_other_netdevs_keep_event_idx(nic: args.Nic) -> None:
    assert "event_idx" not in device(replace(BASE, nics=(replace(nic, packed=True),)))


def test_tap_of_several_queues_on_q35_has_a_vector_for_each_ring_and_two_more() -> None:
    vm = replace(BASE, machine="q35", nics=(Tap(ifname="tap0", queues=4),))
    assert device(vm) == "virtio-net-pci,netdev=net0,mq=on,romfile=,vectors=10"
    assert option(args.command(vm), "-netdev").endswith(",vnet_hdr=on,queues=4")


@pytest.mark.parametrize("nic", [Stream(path=SOCK), Dgram(path=SOCK, local=SOCK), Tap(ifname="tap0"), User()])
def test_other_netdevs_on_q35_keep_msix(nic: args.Nic) -> None:
    assert "vectors" not in device(replace(BASE, machine="q35", nics=(nic,)))


@pytest.mark.parametrize(
    ("version", "shown"),
    [((7, 2, 22), ",reconnect=2"), ((9, 1), ",reconnect=2"), ((9, 2), ",reconnect-ms=2000")],
)
def test_reconnect_is_spelled_as_the_version_wants(version: tuple[int, ...], shown: str) -> None:
    vm = replace(BASE, qemu_version=version, nics=(VhostUser(path=SOCK, reconnect_s=2),))
    assert option(args.command(vm), "-chardev").endswith(shown)


def test_reconnect_zero_is_left_out() -> None:
    vm = replace(BASE, nics=(VhostUser(path=SOCK, reconnect_s=0),))
    assert option(args.command(vm), "-chardev") == "socket,id=chr0,path=/run/net0.sock"


def test_stream_reconnect_on_7_2_is_refused_and_on_8_0_given() -> None:
    vm = replace(BASE, nics=(Stream(path=SOCK, reconnect_s=1),))
    with pytest.raises(BadArguments, match="reconnect"):
        args.check(vm)
    assert option(args.command(replace(vm, qemu_version=(8, 0))), "-netdev").endswith(",reconnect=1")


def test_user_options_reach_the_netdev() -> None:
    vm = replace(BASE, nics=(User(options=("restrict=on",)),))
    assert option(args.command(vm), "-netdev") == "user,id=net0,restrict=on"


@pytest.mark.parametrize(
    ("nic", "shown"),
    [
        (Stream(path=Path("/r/a")), "stream,id=net0,server=off,addr.type=unix,addr.path=/r/a"),
        (Stream(path=Path("/r/a"), listens=True), "stream,id=net0,server=on,addr.type=unix,addr.path=/r/a"),
        (
            Dgram(path=Path("/r/a"), local=Path("/r/b,c")),
            "dgram,id=net0,local.type=unix,local.path=/r/b,,c,remote.type=unix,remote.path=/r/a",
        ),
        (Socket(options="listen=127.0.0.1:5"), "socket,id=net0,listen=127.0.0.1:5"),
        (Tap(ifname="tap1"), "tap,id=net0,ifname=tap1,script=no,downscript=no,vnet_hdr=on"),
    ],
)
def test_netdev_is_written_as_qemu_reads_it(nic: args.Nic, shown: str) -> None:
    assert option(args.command(replace(BASE, nics=(nic,))), "-netdev") == shown


def test_vhost_user_that_listens_waits_for_nobody_and_does_not_reconnect() -> None:
    vm = replace(BASE, nics=(VhostUser(path=Path("/r/a"), listens=True),))
    assert option(args.command(vm), "-chardev") == "socket,id=chr0,path=/r/a,server=on,wait=off"


def test_reconnect_of_a_stream_that_listens_is_refused() -> None:
    vm = replace(BASE, nics=(Stream(path=SOCK, listens=True, reconnect_s=1),), qemu_version=(9, 2))
    with pytest.raises(BadArguments, match="reconnect"):
        args.check(vm)


def test_path_with_a_comma_is_escaped_for_qemu() -> None:
    vm = replace(BASE, nics=(VhostUser(path=Path("/r/a,b.sock"), reconnect_s=0),))
    assert option(args.command(vm), "-chardev").endswith("path=/r/a,,b.sock")


def test_path_of_107_bytes_is_taken_and_of_108_refused() -> None:
    fits = Path("/" + "x" * 106)
    args.check(replace(BASE, nics=(VhostUser(path=fits),)))
    with pytest.raises(SocketPathError, match="too long") as caught:
        args.check(replace(BASE, nics=(VhostUser(path=Path(f"{fits}x")),)))
    assert "108 bytes" in caught.value.evidence


@pytest.mark.parametrize(
    "mac", ["52:54:00:12:34", "53:54:00:12:34:56", "52:54:00:12:34:zz", "", "52-54-00-12-34-56"]
)
def test_mac_that_no_card_can_have_is_refused(mac: str) -> None:
    with pytest.raises(BadArguments, match="MAC"):
        args.check(replace(BASE, nics=(User(mac=mac),)))


@pytest.mark.parametrize(("mtu", "good"), [(67, False), (68, True), (65535, True), (65536, False)])
def test_mtu_outside_68_to_65535_is_refused(mtu: int, good: bool) -> None:
    vm = replace(BASE, nics=(User(mtu=mtu),))
    if good:
        args.check(vm)
    else:
        with pytest.raises(BadArguments, match="MTU"):
            args.check(vm)


@pytest.mark.parametrize(
    "change",
    [
        {"memory_mib": 32},
        {"smp": 0},
        {"nics": (VhostUser(path=SOCK, queues=0),)},
        {"nics": (Tap(ifname="tap0", queues=0),)},
    ],
)
def test_machine_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadArguments):
        args.check(replace(BASE, **change))  # type: ignore[arg-type]


def test_kernel_words_under_tcg_name_the_hosts_tsc() -> None:
    words = args.kernel_words(replace(BASE, tsc_khz=2596140, append=("quiet",)))
    assert words[-4:-1] == ["tsc_early_khz=2596140", "tsc=reliable", "clocksource=tsc"]
    assert words[-1] == "quiet"
    assert "reboot=t" in words


def test_kernel_words_under_kvm_leave_the_clock_alone() -> None:
    words = args.kernel_words(replace(BASE, accel="kvm", machine="q35", tsc_khz=2596140))
    assert words == ["console=ttyS0", "net.ifnames=0", "cryptomgr.notests"]


def test_reboot_is_an_end_unless_asked_for() -> None:
    assert "-no-reboot" in args.command(BASE)
    assert "-no-reboot" not in args.command(replace(BASE, reboot=True))


def test_shell_form_is_what_a_shell_takes_apart_again() -> None:
    argv = args.command(replace(BASE, append=("a='b c'",), nics=(User(),)))
    assert shlex.split(args.shell_form(argv).replace("\\\n", "")) == argv


def test_human_command_has_the_console_on_the_terminal() -> None:
    assert "-serial mon:stdio" in args.human_command(BASE)


@pytest.mark.parametrize("machine", ["microvm", "q35"])
@pytest.mark.parametrize("nic", [VhostUser(path=SOCK), User()])
def test_packed_rings_are_a_property_of_the_card(machine: args.MachineType, nic: args.Nic) -> None:
    vm = replace(BASE, machine=machine)
    assert "packed=on" not in device(replace(vm, nics=(nic,)))
    assert "packed=on" in device(replace(vm, nics=(replace(nic, packed=True),))).split(",")


def test_packed_rings_on_a_legacy_card_are_refused() -> None:
    with pytest.raises(BadArguments, match="packed virtqueues on a legacy card"):
        args.check(replace(BASE, nics=(VhostUser(path=SOCK, packed=True, dialect="legacy"),)))


def test_iommu_stands_before_its_cards_which_have_ats_behind_root_ports() -> None:
    vm = replace(BASE, machine="q35", iommu=True, nics=(VhostUser(path=SOCK), User()))
    argv = args.command(vm)
    devices = [argv[at + 1] for at, word in enumerate(argv) if word == "-device"]
    assert devices[0] == "intel-iommu,intremap=off,device-iotlb=on"
    assert devices[1:3] == ["pcie-root-port,id=port0,chassis=1", "pcie-root-port,id=port1,chassis=2"]
    assert all(
        devices[3 + at].endswith(f"bus=port{at},iommu_platform=on,ats=on")
        and "disable-legacy=on" in devices[3 + at]
        for at in range(2)
    )
    assert "intel_iommu=on" in args.kernel_words(vm)


def test_iommu_is_q35s_and_for_modern_cards() -> None:
    with pytest.raises(BadArguments, match="IOMMU on microvm"):
        args.check(replace(BASE, iommu=True))
    with pytest.raises(BadArguments, match="legacy card"):
        args.check(replace(BASE, machine="q35", iommu=True, nics=(User(dialect="legacy"),)))
