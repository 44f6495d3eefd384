# SPDX-License-Identifier: GPL-2.0-or-later
"""A server at a real socket with a recorder behind it, and frontends that connect to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from vu_driver import MODERN, Recorder, SocketFrontend

from devmodel.vhost_user.server import VhostUserServer


class Rig:
    """A server with a recorder behind it, and frontends to connect."""

    def __init__(self, path: str, port: VhostUserServer) -> None:
        self.path = path
        self.port = port
        self.behind = Recorder()
        self.frontends: list[SocketFrontend] = []
        port.attach(self.behind)

    async def frontend(
        self,
        features: int | None = MODERN,
        num: int = 16,
        packed: bool = False,
        pairs: int = 1,
        control: bool = False,
    ) -> SocketFrontend:
        """A connected frontend; its rings run unless `features` is None."""
        fe = SocketFrontend(num, packed, pairs, control)
        self.frontends.append(fe)
        await fe.connect(self.path)
        if features is not None:
            await fe.negotiate()
            await fe.start(features)
        return fe

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until something is so."""
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.0005)
        raise AssertionError("it never came to be")


def run(tmp_path: Path, script: Callable[[Rig], Awaitable[None]], **options: int) -> None:
    """Run a script against a fresh server; afterwards nothing may be left open."""

    async def main() -> None:
        path = str(tmp_path / "vu.sock")
        rig = Rig(path, await VhostUserServer.listen(path, **options))  # type: ignore[arg-type]
        try:
            await script(rig)
        finally:
            rig.port.close()
            for fe in rig.frontends:
                fe.close()
        assert not os.path.exists(path)

    asyncio.run(main())
