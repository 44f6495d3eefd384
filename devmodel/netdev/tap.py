# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux TAP interface as a Port: the kernel of this host, or of a network namespace, is the guest.

/dev/net/tun is opened with IFF_TAP | IFF_NO_PI (linux/if_tun.h), with or without IFF_VNET_HDR. An interface that
does not exist is made and goes with the port; one that exists (`ip tuntap add`) is taken and stays.

What they decide:

* With a vnet header (`vnet=True`) the kernel hands us what its TCP and UDP made, partial checksums and 64 KB segments
  (TUNSETOFFLOAD says that we take them), and takes the same from us: `offloads` has everything, and nothing is cut or
  summed here. Two kinds differ. UDP_L4 is known to kernels since 6.2 (an older one refuses TUN_F_USO4; we then cut
  those frames). UFO no kernel sends since 4.14, but all of them take it. The header has 12 bytes as virtio 1.0's has,
  or 10 (`hdr_size`, TUNSETVNETHDRSZ); host-endian. Without one the kernel finishes what it sends and we finish what
  we send (base.py).
* What of the kernel's header is believed: what was asked for. Another GSO type, or a checksum outside the frame, is
  dropped (`rx_drop_gso`, `rx_drop_csum`) before anybody behind relies on it.
* The link is up while the interface is: a netlink socket tells of `ip link set ... down` and `up`. Of an interface
  that was deleted nothing comes any more.
* A write takes one frame. The kernel refuses with EAGAIN when its queue is full: frames wait (base.py); with EIO when
  the interface is down (`tx_drop_link_down`); with EINVAL for what is no frame (`tx_drop_malformed`).

The interface lives in the network namespace of the thread that calls `open()`; the port works from any other.
Needs CAP_NET_ADMIN there (`unshare -Urn` gives it without root), or an interface made for this user:
`ip tuntap add dev NAME mode tap user USER`, up and with its MTU set.

Counters: base.py's, and rx_drop_csum, rx_drop_gso.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from devmodel.errors import TapUnavailable
from devmodel.netdev.base import MAX_FRAME, Frame, PacketPort
from devmodel.netdev.offload import finish
from devmodel.port import Buffer, VnetHdr
from devmodel.virtio.spec import (
    ETH_HLEN,
    MAX_GSO_FRAME,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)

DEVICE = "/dev/net/tun"

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_UFO: Final = 0x10
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40

# linux/sockios.h, linux/if.h, linux/rtnetlink.h
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFMTU: Final = 0x8921
SIOCSIFMTU: Final = 0x8922
IFF_UP: Final = 0x1
IFNAMSIZ: Final = 16
RTMGRP_LINK: Final = 1
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17

_IFREQ_SHORT = struct.Struct("16sH22x")  # struct ifreq: the name, ifr_flags
_IFREQ_INT = struct.Struct("16si20x")  # ... ifr_mtu
_NLMSGHDR = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_HDR = struct.Struct("=BBHHHH")  # struct virtio_net_hdr
_GSO_TYPES = frozenset(
    (
        *(
            kind | ecn
            for kind in (VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6)
            for ecn in (0, VIRTIO_NET_HDR_GSO_ECN)
        ),
        VIRTIO_NET_HDR_GSO_UDP,
        VIRTIO_NET_HDR_GSO_UDP_L4,
    )
)


class TapPort(PacketPort):
    """See the module. Made by `await TapPort.open(...)`; belongs to the loop that ran it."""

    transport = "tap"
    extra_counters = ("rx_drop_csum", "rx_drop_gso")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        interface: str,
        name: str,
        mtu: int,
        hdr_size: int,
        uso: bool,
    ) -> None:
        super().__init__(loop, name, mtu)
        self.interface = interface
        self._fd = fd
        self._up_offloads = replace(self._up_offloads, uso4=uso, uso6=uso)
        self._overhead = hdr_size
        self._max_frame = MAX_GSO_FRAME
        self._buffer = bytearray(hdr_size + MAX_FRAME)
        self._view = memoryview(self._buffer)
        self._netlink = _link_watch()
        self._up = _flags_of(interface) & IFF_UP != 0
        self._index = socket.if_nametoindex(interface)
        loop.add_reader(fd, self._readable)
        loop.add_reader(self._netlink.fileno(), self._link_news)

    @classmethod
    async def open(
        cls,
        interface: str,
        *,
        name: str = "tap",
        vnet: bool = True,
        hdr_size: int = 12,
        mtu: int = 1500,
    ) -> TapPort:
        """The interface of that name, up and with that MTU. TapUnavailable says why not."""
        loop = asyncio.get_running_loop()
        if not 0 < len(os.fsencode(interface)) < IFNAMSIZ:
            remedy = "choose a shorter name, as in tap0"
            raise TapUnavailable(
                f"{interface!r} is no name of an interface", f"1 to {IFNAMSIZ - 1} bytes are possible", remedy
            )
        fd = _open_device()
        try:
            interface = _attach(fd, interface, vnet)
            uso = _set_up(fd, interface, mtu, hdr_size if vnet else 0)
            return cls(loop, fd, interface, name, mtu, hdr_size if vnet else 0, uso)
        except BaseException:
            os.close(fd)
            raise

    @property
    def link_up(self) -> bool:
        return self._up

    def negotiation(self) -> dict[str, Any]:
        return {**super().negotiation(), "interface": self.interface, "vnet_hdr_size": self._overhead}

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        if not self._overhead or not self._up:
            return super().send(hdr, parts)
        if hdr is not None and hdr.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 and not self._up_offloads.uso4:
            train = finish(hdr, parts)
            self._count["tx_drop_malformed"] += not train
            return bool(train) and sum(self.send(None, frame) for frame in train) == len(train)
        size = sum(map(len, parts))
        if not self._has_room(size):
            return False
        head = bytes(self._overhead) if hdr is None else _HDR.pack(*_for_the_kernel(hdr))
        self._queue(size, (head.ljust(self._overhead, b"\0"), *parts))
        return True

    def close(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._netlink.fileno())
        self._netlink.close()
        self._stop_reading()
        self._forget_queue("tx_drop_link_down")
        fd, self._fd = self._fd, -1
        os.close(fd)
        self._set_link(False)

    # -- frames ----------------------------------------------------------------------------------------------

    def _read_one(self) -> Frame | None:
        size = os.readv(self._fd, [self._buffer]) - self._overhead
        at = self._overhead
        frame = bytes(self._view[at : at + size])
        if not at or not (self._buffer[0] or self._buffer[1]):
            return None, frame
        hdr = VnetHdr(*_HDR.unpack_from(self._buffer))
        return (hdr, frame) if self._believable(hdr, size) else None

    def _believable(self, hdr: VnetHdr, size: int) -> bool:
        if hdr.gso_type and (hdr.gso_type not in _GSO_TYPES or not hdr.gso_size):
            self._count["rx_drop_gso"] += 1
            return False
        partial = hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM
        inside = hdr.csum_start >= ETH_HLEN and hdr.csum_start + hdr.csum_offset + 2 <= size
        if (partial and not inside) or (hdr.gso_type and not partial):
            self._count["rx_drop_csum"] += 1
            return False
        return True

    def _read_failed(self, error: OSError) -> None:
        """The interface was deleted (EBADFD): poll would say so for ever."""
        self._stop_reading()
        self._set_link(False)

    def _write_one(self, packet: bytes) -> None:
        os.write(self._fd, packet)

    def _write_failed(self, error: OSError) -> str:
        if error.errno in (errno.EIO, errno.EBADFD):
            return "tx_drop_link_down"
        return "tx_drop_malformed" if error.errno == errno.EINVAL else "tx_drop_backlog"

    def _write_fd(self) -> int:
        return self._fd

    def _stop_reading(self) -> None:
        self._loop.remove_reader(self._fd)

    # -- the link --------------------------------------------------------------------------------------------

    def _link_news(self) -> None:
        """The kernel told of changes of interfaces, ours perhaps among them."""
        try:
            news = self._netlink.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: some were lost, so look
            with contextlib.suppress(OSError):
                self._set_link(_flags_of(self.interface) & IFF_UP != 0)
            return
        for kind, index, flags in _link_messages(news):
            if index == self._index:
                self._set_link(kind == RTM_NEWLINK and flags & IFF_UP != 0)

    def _set_link(self, up: bool) -> None:
        if up == self._up:
            return
        if not up:
            self._forget_queue("tx_drop_link_down")
        self._up = up
        self._tell_link()


def _for_the_kernel(hdr: VnetHdr) -> tuple[int, int, int, int, int, int]:
    """Only what the kernel looks at: it refuses a checksum outside the frame, and a flag that it does not know."""
    flags = hdr.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)
    return (flags, hdr.gso_type, hdr.hdr_len, hdr.gso_size, hdr.csum_start, hdr.csum_offset)


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        remedy = "load the module, as root: modprobe tun"
        raise TapUnavailable("this host has no TAP interfaces", str(error), remedy) from error
    except OSError as error:
        remedy = f"let this user open it (chmod 666 {DEVICE}, as root), or be root"
        raise TapUnavailable(f"cannot open {DEVICE}", str(error), remedy) from error


def _attach(fd: int, interface: str, vnet: bool) -> str:
    """Make or take the interface; the name that the kernel gave (of "tap%d")."""
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet else 0)
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, _IFREQ_SHORT.pack(os.fsencode(interface), flags))
    except OSError as error:
        raise TapUnavailable(
            f"cannot open the interface {interface}", str(error), _attach_remedy(error, interface)
        ) from error
    return os.fsdecode(answer[:IFNAMSIZ].rstrip(b"\0"))


def _attach_remedy(error: OSError, interface: str) -> str:
    if error.errno == errno.EPERM:
        made = f"ip tuntap add dev {interface} mode tap user $USER"
        return f"be root, try it within `unshare -Urn`, or have it made: {made}"
    if error.errno == errno.EBUSY:
        return f"another process has it (or it is of another kind): ip -d link show dev {interface}"
    return f"choose another name; {interface} may be an interface of another kind: ip -d link show"


def _set_up(fd: int, interface: str, mtu: int, hdr_size: int) -> bool:
    """Whether frames of many datagrams need not be cut here before the kernel gets them."""
    uso = True
    try:
        if hdr_size:
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", hdr_size))
            uso = _set_offload(fd)
        else:
            fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _ensure_mtu(control, interface, mtu)
            _ensure_up(control, interface)
    except OSError as error:
        remedy = f"set it up as root: ip link set {interface} mtu {mtu} up"
        raise TapUnavailable(f"cannot set up the interface {interface}", str(error), remedy) from error
    return uso


def _set_offload(fd: int) -> bool:
    """Say that we take all kinds; whether the kernel knows UDP_L4."""
    wanted = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, wanted | TUN_F_USO4 | TUN_F_USO6)
        return True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    fcntl.ioctl(fd, TUNSETOFFLOAD, wanted)
    return False


def _ensure_mtu(control: socket.socket, interface: str, mtu: int) -> None:
    name = os.fsencode(interface)
    if _IFREQ_INT.unpack(fcntl.ioctl(control, SIOCGIFMTU, _IFREQ_INT.pack(name, 0)))[1] != mtu:
        fcntl.ioctl(control, SIOCSIFMTU, _IFREQ_INT.pack(name, mtu))


def _ensure_up(control: socket.socket, interface: str) -> None:
    name = os.fsencode(interface)
    flags = _IFREQ_SHORT.unpack(fcntl.ioctl(control, SIOCGIFFLAGS, _IFREQ_SHORT.pack(name, 0)))[1]
    if not flags & IFF_UP:
        fcntl.ioctl(control, SIOCSIFFLAGS, _IFREQ_SHORT.pack(name, flags | IFF_UP))


def _flags_of(interface: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, _IFREQ_SHORT.pack(os.fsencode(interface), 0))
    return int(_IFREQ_SHORT.unpack(answer)[1])


def _link_watch() -> socket.socket:
    """A netlink socket that hears of interfaces coming, changing and going (rtnetlink(7))."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    watch = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    watch.bind((0, RTMGRP_LINK))
    return watch


def _link_messages(data: bytes) -> list[tuple[int, int, int]]:
    """(RTM_NEWLINK or RTM_DELLINK, ifi_index, ifi_flags) of each message."""
    found = []
    at = 0
    while at + _NLMSGHDR.size + _IFINFOMSG.size <= len(data):
        size, kind, _, _, _ = _NLMSGHDR.unpack_from(data, at)
        if size < _NLMSGHDR.size:
            break
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            _, _, index, flags, _ = _IFINFOMSG.unpack_from(data, at + _NLMSGHDR.size)
            found.append((kind, index, flags))
        at += (size + 3) & ~3
    return found
