# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user back end with one fault, as a process: python bad_backend.py PATH FAULT.

crash, hang, accept and nonsense are what it makes of request 99; leak and spin are what it does with call and kick
descriptors; mute and babble what it answers to the first question; leave what it does when it is given memory. control
and oblige are back ends with a control queue, of which the second says yes to everything.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devmodel.errors import FrontendError
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.actions import Action, CloseFd, Disconnect, Reply
from devmodel.vhost_user.message import Message, Request
from devmodel.vhost_user.server import VhostUserServer
from devmodel.vhost_user.session import Session
from devmodel.virtio.ctrl import ControlQueue

sound = Session.handle


def _spin() -> None:
    asyncio.get_running_loop().call_soon(_spin)


def _on_99(fault: str) -> list[Action]:
    if fault == "crash":
        os._exit(1)
    if fault == "hang":
        time.sleep(60)
    return [Reply(vu.encode_reply(99 if fault == "accept" else 7, bytes(8)))]


def handle(self: Session, message: Message) -> list[Action]:
    fault = sys.argv[2]
    if message.request == 99 and message.need_reply and fault in ("crash", "hang", "accept", "nonsense"):
        return [*_on_99(fault), *(CloseFd(fd) for fd in message.fds)]
    if fault in ("mute", "babble") and message.request == Request.VHOST_USER_GET_FEATURES:
        return [] if fault == "mute" else [Reply(b"SSH-2.0-OpenSSH_9.2\r\n")]
    if fault == "leave" and message.request == Request.VHOST_USER_ADD_MEM_REG:
        return [*(CloseFd(fd) for fd in message.fds), Disconnect(FrontendError("enough"))]
    if fault == "leak" and message.request == Request.VHOST_USER_SET_VRING_CALL:
        for fd in message.fds:
            os.dup(fd)
    if fault == "spin" and message.request == Request.VHOST_USER_SET_VRING_KICK:
        _spin()
    return sound(self, message)


async def main() -> None:
    Session.handle = handle  # type: ignore[method-assign]
    with_control = sys.argv[2] in ("control", "oblige")
    if sys.argv[2] == "oblige":
        ControlQueue.process = lambda self, command, room: bytes(1)  # type: ignore[method-assign]
    await VhostUserServer.listen(sys.argv[1], queue_pairs=1 + with_control, control_queue=with_control)
    print("ready", flush=True)
    await asyncio.Event().wait()


@contextmanager
def faulty(path: Path, fault: str) -> Iterator[str]:
    """Such a process; the path where it listens."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(path), fault],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield str(path)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    asyncio.run(main())
