# SPDX-License-Identifier: GPL-2.0-or-later
"""Device faults of a run: the script of ``--device-fault``, and what ``vnic inject`` adds while it runs.

Every vhost-user port has faults of its own by the same script, with a seed of its own.  A port is only touched once
there are any: until then its rings are the ordinary ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from devmodel.port import Port
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio.faultscript import Fault, FaultScriptError, parse
from devmodel.virtio.ringfaults import DeviceFaults
from vnic.errors import UsageError


def parse_script(texts: Iterable[str]) -> list[Fault]:
    """The faults that the words stand for; UsageError for what stands for none."""
    try:
        return [parse(text) for text in texts]
    except FaultScriptError as error:
        raise UsageError(error.fact, error.evidence, error.remedy) from error


class Injector:
    """The faults of all ports of a run."""

    def __init__(self, ports: Iterable[Port], seed: int, script: Sequence[str] = ()) -> None:
        self._ports = [port for port in ports if isinstance(port, VhostUserServer)]
        self._seed = seed
        if script:
            self.add(script)

    def add(self, script: Sequence[str]) -> None:
        """From now on; UsageError, with nothing added, if one of them cannot be."""
        faults = parse_script(script)
        if not self._ports:
            raise UsageError(
                "device faults are about rings, and no port has any",
                "QEMU has those of the other netdevs",
                "--vhost-user PATH",
            )
        for number, port in enumerate(self._ports):
            if port.faults is None:
                port.inject(DeviceFaults(random.Random(self._seed + number)))
            assert port.faults is not None
            for fault in faults:
                port.faults.add(fault)

    def clear(self) -> None:
        """No further ones."""
        for faults in self.faults:
            faults.clear()

    @property
    def faults(self) -> list[DeviceFaults]:
        """Of each port that has some."""
        return [port.faults for port in self._ports if port.faults is not None]

    def asdict(self) -> dict[str, Any]:
        """A dict for JSON: by the ports' names."""
        return {port.name: port.faults.asdict() for port in self._ports if port.faults is not None}
