# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever is behind a port gives every frame back; and the kinds of rings that this is tried with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from devmodel.port import Buffer, Offloads, VnetHdr
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio import features as vf
from guest.driver.virtio_net import DRIVER_FEATURES

PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
IN_ORDER = vf.mask(vf.VIRTIO_F_IN_ORDER)
EVENT_IDX = vf.mask(vf.VIRTIO_F_EVENT_IDX)
MERGEABLE = vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)
ANY_LAYOUT = vf.mask(vf.VIRTIO_F_ANY_LAYOUT)
INDIRECT = vf.mask(vf.VIRTIO_F_INDIRECT_DESC)


class Mirror:
    """Behind the port: gives every frame back, after the batch."""

    def __init__(self, port: VhostUserServer) -> None:
        self.port = port
        self.batch: list[bytes] = []
        port.attach(self)

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self.batch.append(frame)

    def batch_done(self) -> None:
        batch, self.batch = self.batch, []
        for frame in batch:
            parts: Sequence[Buffer] = [frame[:14], frame[14:]]
            assert self.port.send(None, parts)

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        pass


FEATURES = {
    "+".join(name for name, bits in zip(("packed", "in-order", "event"), chosen, strict=True) if bits)
    or "plain": (DRIVER_FEATURES & ~EVENT_IDX | chosen[0] | chosen[1] | chosen[2])
    for chosen in product((0, PACKED), (0, IN_ORDER), (0, EVENT_IDX))
}
FEATURES |= {
    "legacy": 0,
    "legacy+mergeable+indirect": MERGEABLE | INDIRECT,
    "packed, no indirect": DRIVER_FEATURES & ~INDIRECT | PACKED,
}
