# SPDX-License-Identifier: GPL-2.0-or-later
"""Who offered which feature, who took it, and who did not: what ``vnic negotiate`` shows.

A feature bit goes from us to the frontend (QEMU), which offers the guest what it likes of it and what is its own, and
comes back with what the guest's driver acknowledged.  We see the two ends of that; what the frontend did in between it
tells over QMP (x-query-virtio-status of QEMU 7.2 and later, unstable by its name).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from guest.vm.errors import QmpError
from guest.vm.qmp import Monitor
from vnic.errors import from_oserror

IN_USE: Final = "in use"
CONNECT_S: Final = 5.0


@dataclass(frozen=True)
class Feature:
    """One bit.  ``offered``: by us; ``shown``: by the frontend to the guest, None where it was not asked;
    ``acknowledged``: by the guest's driver, as far as the frontend says, else as it came to us."""

    name: str
    offered: bool
    shown: bool | None
    acknowledged: bool
    verdict: str


def features(ours: Iterable[dict[str, Any]], status: dict[str, Any] | None = None) -> list[Feature]:
    """``ours`` are the transport's, ``status`` is what x-query-virtio-status returned."""
    offered = {one["name"] for one in ours if one["offered"]}
    reached = {one["name"] for one in ours if one["acknowledged"]}
    names = [one["name"] for one in ours]
    if status is None:
        return [
            Feature(name, name in offered, None, name in reached, _seen_from_here(name in reached))
            for name in names
        ]
    shown, acknowledged = (_names(status[key]) for key in ("host-features", "guest-features"))
    names += sorted((shown | acknowledged) - set(names))
    return [
        Feature(name, *(flags := (name in offered, name in shown, name in acknowledged)), _verdict(*flags))
        for name in names
        if not name.startswith(("VHOST_", "bit "))
    ]


def _seen_from_here(reached: bool) -> str:
    return IN_USE if reached else "not taken by the frontend or the guest's driver"


def _verdict(offered: bool, shown: bool, acknowledged: bool) -> str:
    if not shown:
        return "vetoed by the frontend" if offered else "offered by nobody"
    if not acknowledged:
        return "not taken by the guest's driver"
    return IN_USE if offered else "in use, by the frontend alone"


def _names(features: dict[str, Any]) -> set[str]:
    """QEMU has "VIRTIO_NET_F_CSUM: what it means", and RING_ in two names of the specification."""
    words = [*features.get("dev-features", []), *features.get("transports", [])]
    return {word.partition(":")[0].replace("VIRTIO_RING_F_", "VIRTIO_F_") for word in words}


def plain(found: list[Feature]) -> list[dict[str, Any]]:
    """What json.dumps takes."""
    return [asdict(feature) for feature in found]


def ask_qemu(path: Path) -> dict[str, Any]:
    """x-query-virtio-status of the first virtio-net card of the QEMU whose monitor listens at ``path``.  QmpError,
    QmpTimeout, HostIOError."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(str(path))
        sock.settimeout(None)
    except OSError as error:
        sock.close()
        raise from_oserror(error, f"connect to QEMU's monitor {path}") from error
    monitor = Monitor(sock, None, CONNECT_S)
    try:
        cards = [one for one in monitor.execute("x-query-virtio") if one["name"] == "virtio-net"]
        if not cards:
            raise QmpError(f"the QEMU at {path} has no virtio-net card", "x-query-virtio lists none")
        status: dict[str, Any] = monitor.execute("x-query-virtio-status", {"path": cards[0]["path"]})
    finally:
        monitor.close()
    return status
