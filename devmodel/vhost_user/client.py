# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user back end that connects to its frontend: QEMU listens (`-chardev socket,server=on,wait=off`).

All but the way to a connection is server.py's. What is decided here is when to connect: at once, and again whenever an
attempt failed (`connect_failures`) or a session ended, for as long as the port is open. So either side may be started
first, a QEMU that was ended and started again is found, and a back end that died is replaced by the next one without a
`reconnect=` in QEMU.

The interval begins with RETRY_S and doubles up to RETRY_MAX_S, until a ring starts: a frontend that takes the
connection and hangs up at once is not visited ten times a second.

QEMU (measured with 7.2) serves one connection at a time and leaves a second in its queue until the first has
ended: such a back end is connected, and nobody says a word to it. An attempt never blocks; a unix socket whose queue
is full says so, which is a failure like any other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from devmodel.errors import FrontendError
from devmodel.listener import check_unix_path
from devmodel.vhost_user.connection import Connection
from devmodel.vhost_user.server import DeviceLoop, Timer, VhostUserServer
from devmodel.vhost_user.session import PROTOCOL_FEATURES
from devmodel.virtio.features import DEVICE_FEATURES

log = logging.getLogger(__name__)

RETRY_S = 0.1
RETRY_MAX_S = 2.0

Dial = Callable[[str], socket.socket]
"""A path -> a connected socket; OSError if that cannot be had now."""


def dial_unix(path: str) -> socket.socket:
    """See Dial."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


class VhostUserClient(VhostUserServer):
    """See the module. Made by `await VhostUserClient.connect(path)`; belongs to the loop that ran it."""

    def __init__(
        self,
        path: str,
        loop: DeviceLoop,
        name: str = "vhost-user",
        features: int = DEVICE_FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        queue_pairs: int = 1,
        control_queue: bool = False,
        *,
        iommu: bool = False,
        retry_s: float = RETRY_S,
        retry_max_s: float = RETRY_MAX_S,
        dial: Dial = dial_unix,
    ) -> None:
        """Connects now, or once somebody listens at `path`."""
        super().__init__(
            None, loop, name, features, protocol_features, queue_pairs, control_queue, iommu=iommu
        )
        self.path = path
        self._count["connect_failures"] = 0
        self._first_s = self._next_s = retry_s
        self._most_s = retry_max_s
        self._dial = dial
        self._open = True
        self._again: Timer | None = None
        self._told = False
        self._try()

    @classmethod
    async def connect(
        cls,
        path: str,
        *,
        name: str = "vhost-user",
        queue_pairs: int = 1,
        iommu: bool = True,
        retry_s: float = RETRY_S,
    ) -> VhostUserClient:
        """Connect to `path`, now or once somebody listens there; `iommu` as for VhostUserServer.listen().
        SocketPathTooLong."""
        check_unix_path(path)
        loop = asyncio.get_running_loop()
        return cls(path, loop, name, queue_pairs=queue_pairs, iommu=iommu, retry_s=retry_s)

    def _try(self) -> None:
        self._again = None
        try:
            sock = self._dial(self.path)
        except OSError as error:
            self._count["connect_failures"] += 1
            if not self._told:
                self._told = True
                why = os.strerror(error.errno) if error.errno else str(error)
                log.info("%s: nobody at %s yet (%s)", self.name, self.path, why)
            self._try_later()
            return
        self._told = False
        self.serve(lambda session: Connection(self._loop, sock, session, self))

    def _try_later(self) -> None:
        self._again = self._loop.call_later(self._next_s, self._try)
        self._next_s = min(2 * self._next_s, self._most_s)

    def ring_started(self, index: int) -> None:
        self._next_s = self._first_s
        super().ring_started(index)

    def disconnected(self, error: FrontendError | None) -> None:
        super().disconnected(error)
        if self._open:
            self._try_later()

    def close(self) -> None:
        self._open = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        super().close()
