# SPDX-License-Identifier: GPL-2.0-or-later
"""A device's state on its way to another process, as bytes: what a migration does not carry otherwise.

The frontend moves the guest's memory, the features and where each ring stands. Two things are left: what the driver
told the control queue, if the frontend forwards that one, and what is behind the device, a network with connections in
it, which its owner knows. The bytes are

    head      8 bytes b"vnicnet" NUL, u32 version, u32 0, u64 size of the device's part, u64 of the owner's, and the
              SHA-256 of both
    device    u64 features, then commands: u32 size and as many bytes each
    owner     whatever the owner wrote, opaque here

all little-endian. Commands are those of the control queue (virtio 1.2, section 5.1.6.5) that a driver would have to
give to a fresh device. They are carried out by the control queue itself, so a forged state can do to a device what a
hostile driver can do, and no more; one that is refused makes the whole state refused.

`StateReader` takes the bytes as they come. It refuses what is wrong as soon as that can be seen: a foreign head after
8 bytes, a size above its limit before anything is kept for it, one byte too many. Whole and unharmed is what `finish()`
gives; before that nothing has been changed anywhere.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final, NamedTuple

from devmodel.errors import StateError
from devmodel.virtio import features as vf
from devmodel.virtio.ctrl import (
    VIRTIO_NET_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
    VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_MAC_ADDR_SET,
    VIRTIO_NET_CTRL_MAC_TABLE_SET,
    VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_MQ_HASH_CONFIG,
    VIRTIO_NET_CTRL_MQ_RSS_CONFIG,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
    VIRTIO_NET_CTRL_NOTF_COAL,
    VIRTIO_NET_CTRL_NOTF_COAL_RX_SET,
    VIRTIO_NET_CTRL_NOTF_COAL_TX_SET,
    VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET,
    VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_VLAN,
    VIRTIO_NET_CTRL_VLAN_ADD,
    VIRTIO_NET_OK,
    ControlQueue,
)
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.rss import HashConfig, RssConfig
from devmodel.virtio.rxfilter import MODES, UNKNOWN

MAGIC: Final = b"vnicnet\0"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sIIQQ32s")
DEVICE_LIMIT: Final = 1 << 20  # 4096 VLANs, a MAC table and an RSS key make 70 KB
OWNER_LIMIT: Final = 256 << 20  # 1000 connections with 64 KB under way each make 130 MB of a frozen stack
_FEATURES: Final = struct.Struct("<Q")
_SIZE: Final = struct.Struct("<I")


class DeviceState(NamedTuple):
    """Features of the driver, the commands that it had given, and the owner's part."""

    features: int
    commands: tuple[bytes, ...]
    owner: bytes


# -- the device's part -------------------------------------------------------------------------------------------


def commands_of(net: VirtioNet) -> tuple[bytes, ...]:
    """What a driver has to say to a fresh device to make it like this one."""
    control, rx_filter = net.control, net.rx_filter
    has = control.features
    commands: list[bytes] = []
    if not has >> vf.VIRTIO_NET_F_CTRL_VQ & 1:
        return ()
    if has >> vf.VIRTIO_NET_F_CTRL_RX & 1:
        fresh = {mode: mode == "promisc" for mode in MODES}
        for number, mode in enumerate(MODES):
            if rx_filter.modes[mode] != fresh[mode]:
                commands.append(bytes([VIRTIO_NET_CTRL_RX, number, rx_filter.modes[mode]]))
        tables = (sorted(rx_filter.unicast), sorted(rx_filter.multicast))
        if any(tables):
            body = b"".join(_SIZE.pack(len(table)) + b"".join(table) for table in tables)
            commands.append(bytes([VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET]) + body)
    if rx_filter.mac != UNKNOWN:
        commands.append(bytes([VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET]) + rx_filter.mac)
    for vlan in sorted(rx_filter.vlans):
        commands.append(struct.pack("<BBH", VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, vlan))
    if has >> vf.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS & 1:
        head = bytes([VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET])
        commands.append(head + struct.pack("<Q", net.used_offloads))
    rss = net.steering.rss
    if rss is not None:
        commands.append(_rss_command(rss, control.pairs))
    elif control.pairs != 1:
        head = bytes([VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET])
        commands.append(head + struct.pack("<H", control.pairs))
    if control.hash is not None and (rss is None or control.hash != rss.hash):
        commands.append(_hash_command(control.hash))
    return (*commands, *_coalescing_commands(control))


def _hash_command(config: HashConfig) -> bytes:
    """5.1.6.5.7"""
    head = struct.pack(
        "<BBI8xB", VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_HASH_CONFIG, config.types, len(config.key)
    )
    return head + config.key


def _coalescing_commands(control: ControlQueue) -> list[bytes]:
    """5.1.6.5.9: queue by queue if the driver may say it so, else all of a direction are alike."""
    kind = VIRTIO_NET_CTRL_NOTF_COAL
    if control.features >> vf.VIRTIO_NET_F_VQ_NOTF_COAL & 1:
        number = VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET
        return [
            struct.pack("<BBH2xII", kind, number, index, one.max_packets, one.max_usecs)
            for index, one in sorted(control.coalescing.items())
        ]
    return [
        struct.pack("<BBII", kind, number, one.max_packets, one.max_usecs)
        for first, number in ((0, VIRTIO_NET_CTRL_NOTF_COAL_RX_SET), (1, VIRTIO_NET_CTRL_NOTF_COAL_TX_SET))
        if (one := control.coalescing.get(first)) is not None
    ]


def _rss_command(rss: RssConfig, pairs: int) -> bytes:
    """5.1.6.5.7.1"""
    table = struct.pack(f"<{len(rss.table)}H", *rss.table)
    head = struct.pack("<IHH", rss.hash.types, len(rss.table) - 1, rss.unclassified)
    tail = struct.pack("<HB", pairs, len(rss.hash.key)) + rss.hash.key
    return bytes([VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG]) + head + table + tail


def obey(net: VirtioNet, commands: tuple[bytes, ...]) -> bool:
    """Carry them out; False if one was refused."""
    return all(net.control.process(command, 1) == bytes([VIRTIO_NET_OK]) for command in commands)


# -- bytes -------------------------------------------------------------------------------------------------------


def encode(net: VirtioNet, owner: bytes) -> bytes:
    """The state of a device and of its owner."""
    device = _FEATURES.pack(net.features)
    device += b"".join(_SIZE.pack(len(command)) + command for command in commands_of(net))
    digest = sha256(device + owner).digest()
    return HEAD.pack(MAGIC, VERSION, 0, len(device), len(owner), digest) + device + owner


class StateReader:
    """See the module: `feed()` what comes, `finish()` at the end."""

    def __init__(self, owner_limit: int = OWNER_LIMIT) -> None:
        self._owner_limit = owner_limit
        self._got = bytearray()
        self._sizes: tuple[int, int] | None = None
        self._digest = b""

    @property
    def wants(self) -> int:
        """How many bytes are still missing, as far as that is known; 0 when it is whole."""
        size = HEAD.size if self._sizes is None else HEAD.size + sum(self._sizes)
        return size - len(self._got)

    def feed(self, data: bytes) -> None:
        """StateError for what cannot become a state."""
        self._got += data
        if self._got[: len(MAGIC)] != MAGIC[: len(self._got)]:
            raise StateError(
                "this is no state of a network device", f"it begins with {bytes(self._got[:8])!r}"
            )
        if self._sizes is None and len(self._got) >= HEAD.size:
            self._sizes = self._read_head()
        if self._sizes is not None and self.wants < 0:
            raise StateError("the state is longer than it says", f"{-self.wants} bytes or more")

    def _read_head(self) -> tuple[int, int]:
        _magic, version, zero, device, owner, self._digest = HEAD.unpack_from(self._got)
        if version != VERSION or zero:
            evidence = f"version {version}, this one reads {VERSION}"
            raise StateError(
                "the state is of another version", evidence, "migrate to the same version of vnic"
            )
        if not _FEATURES.size <= device <= DEVICE_LIMIT or owner > self._owner_limit:
            evidence = f"{device} and {owner} bytes; {DEVICE_LIMIT} and {self._owner_limit} are the most"
            raise StateError("the state has an impossible size", evidence)
        return device, owner

    def finish(self) -> DeviceState:
        """The state, once all of it came. StateError."""
        if self._sizes is None or self.wants:
            raise StateError(
                "the state was cut short", f"{len(self._got)} bytes came, {self.wants} are missing"
            )
        device_size, _ = self._sizes
        body = memoryview(self._got)[HEAD.size :]
        if sha256(body).digest() != self._digest:
            raise StateError("the state is damaged", "its digest is another one")
        device, owner = bytes(body[:device_size]), bytes(body[device_size:])
        return DeviceState(_FEATURES.unpack_from(device)[0], _commands(device), owner)


def _commands(device: bytes) -> tuple[bytes, ...]:
    commands, at = [], _FEATURES.size
    while at < len(device):
        if len(device) - at < _SIZE.size:
            raise StateError("the state is damaged", "a command is cut short")
        (size,) = _SIZE.unpack_from(device, at)
        at += _SIZE.size
        if len(device) - at < size:
            raise StateError("the state is damaged", f"a command of {size} bytes in {len(device) - at}")
        commands.append(device[at : at + size])
        at += size
    return tuple(commands)


def check(state: DeviceState, max_pairs: int, offered: int) -> None:
    """StateError for what a device like this one cannot be made to be; tried out on one of its own."""
    alien = state.features & ~offered
    if alien:
        raise StateError("the state's driver has features that this device lacks", ", ".join(vf.names(alien)))
    trial = VirtioNet(max_pairs)
    trial.negotiate(state.features)
    if not obey(trial, state.commands):
        raise StateError("the state holds a control command that a device like this one refuses")
