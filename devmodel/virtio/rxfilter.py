# SPDX-License-Identifier: GPL-2.0-or-later
"""Which frames a guest's card takes: modes, MAC addresses, VLANs (virtio 1.2, sections 5.1.6.5.1 to 5.1.6.5.3).

A driver that has no control queue for it takes everything.  With VIRTIO_NET_F_CTRL_RX a frame passes if its destination
is the card's own address, or in the table, or of a kind that a mode lets pass as a whole; broadcasts pass but for
NOBCAST.  With VIRTIO_NET_F_CTRL_VLAN a tagged frame passes if its VLAN is in the table, an untagged one always.
"""

from __future__ import annotations

from typing import Final

from devmodel.port import Buffer

UNKNOWN: Final = bytes(6)
"""The card's address, which is configuration space's, until the driver sets it: every unicast may be for it."""
BROADCAST: Final = b"\xff" * 6
MAX_TABLE: Final = 64  # addresses of each kind; a driver with more asks for the whole kind (as Linux does)
VLANS: Final = 4096
_TAGS: Final = (b"\x81\x00", b"\x88\xa8")

MODES: Final = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
"""In the order of VIRTIO_NET_CTRL_RX_*: 5.1.6.5.1."""


class RxFilter:
    """``filtering``: CTRL_RX was negotiated; ``vlan_filtering``: CTRL_VLAN was.  ``dropped`` counts by reason."""

    def __init__(self) -> None:
        self.mac = UNKNOWN
        self.dropped = {"mac": 0, "vlan": 0}
        self.reset(filtering=False, vlan_filtering=False)

    def reset(self, *, filtering: bool, vlan_filtering: bool) -> None:
        """5.1.6.5.2.1: the table is empty after a reset.  A device is promiscuous until its driver says otherwise, as
        QEMU's is: a driver that never says anything would hear nobody."""
        self.mac = UNKNOWN
        self.modes = dict.fromkeys(MODES, False) | {"promisc": True}
        self.unicast: frozenset[bytes] = frozenset()
        self.multicast: frozenset[bytes] = frozenset()
        self.vlans: set[int] = set()
        self.filtering, self.vlan_filtering = filtering, vlan_filtering
        self.active = filtering or vlan_filtering  # else no frame is kept off

    def set_mode(self, mode: str, on: bool) -> None:
        self.modes[mode] = on

    def set_table(self, unicast: frozenset[bytes], multicast: frozenset[bytes]) -> None:
        self.unicast, self.multicast = unicast, multicast

    def accepts(self, frame: Buffer) -> bool:
        """Whether the guest gets that frame, of which the Ethernet header is enough; counted if not."""
        if self.vlan_filtering and bytes(frame[12:14]) in _TAGS:
            if int.from_bytes(frame[14:16], "big") & (VLANS - 1) not in self.vlans:
                self.dropped["vlan"] += 1
                return False
        if self.filtering and not self._takes(bytes(frame[:6])):
            self.dropped["mac"] += 1
            return False
        return True

    def _takes(self, mac: bytes) -> bool:
        modes = self.modes
        if modes["promisc"]:
            return True
        if mac == BROADCAST:
            return not modes["nobcast"]
        if mac[0] & 1:
            return not modes["nomulti"] and (modes["allmulti"] or mac in self.multicast)
        if modes["nouni"]:
            return False
        if self.mac == UNKNOWN:
            return True
        return modes["alluni"] or mac == self.mac or mac in self.unicast
