# SPDX-License-Identifier: GPL-2.0-or-later
"""A network namespace of a test's own: TAPs, addresses and traffic that the machine never sees.

The namespace is that of one thread (unshare(2) moves the thread that calls it), which carries out what it is given and
ends with the test; nothing of it has a name, so nothing can be left behind. Threads and processes that are started
from there live in it too.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import queue
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute

from devmodel.errors import TapUnavailable
from devmodel.netdev.tap import DEVICE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, TUNSETIFF, TapPort

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # linux/sched.h
TUNSETPERSIST = 0x400454CB  # linux/if_tun.h
IFF_MULTI_QUEUE = 0x0100


class NoNamespace(Exception):
    """This user may not make one, or it was not made."""


def _here() -> str:
    return os.readlink("/proc/thread-self/ns/net")


class Namespace:
    """See the module; a context manager."""

    def __init__(self) -> None:
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._outside = _here()
        self._thread = threading.Thread(target=self._live, name="network namespace", daemon=True)
        self._thread.start()
        try:
            self.call(self._enter)
        except BaseException:
            self.close()
            raise

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise NoNamespace(f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}")
        if _here() == self._outside:
            raise NoNamespace("unshare(CLONE_NEWNET) changed nothing")
        for kind in ("default", "all"):  # no router solicitations between a test's frames
            Path(f"/proc/sys/net/ipv6/conf/{kind}/disable_ipv6").write_text("1")

    def _live(self) -> None:
        while (job := self._work.get()) is not None:
            job()

    def call(self, function: Callable[[], T], timeout_s: float = 60) -> T:
        """A function's result, called within."""
        result: Future[T] = Future()

        def job() -> None:
            try:
                result.set_result(function())
            except BaseException as error:
                result.set_exception(error)

        self._work.put(job)
        return result.result(timeout_s)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float = 60) -> T:
        """A coroutine's result, run by a loop within."""
        return self.call(lambda: asyncio.run(work()), timeout_s)

    def close(self) -> None:
        self._work.put(None)
        self._thread.join(10)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def beside(function: Callable[[], T]) -> T:
    """A function's result, called in a fresh thread of this thread's namespace while this one waits: pyroute2 has an
    event loop of its own, which cannot run where one runs already."""
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, name="beside").start()
    return result.result(10)


def why_no_tap() -> str:
    """Why no TAP can be made in a namespace here, "" if it can."""
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun is missing"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is closed to this user"
    try:
        with Namespace() as private:
            private.run(_try_tap)
    except (NoNamespace, TapUnavailable) as error:
        return str(error)
    return ""


async def _try_tap() -> None:
    (await TapPort.open("vnic%d")).close()


@contextmanager
def namespace() -> Iterator[Namespace]:
    """One for the block."""
    with Namespace() as made:
        yield made


# -- for those who call from within ---------------------------------------------------------------------------------


def bridge(*interfaces: str) -> None:
    """br0 with these in it, all up."""
    with IPRoute() as route:
        route.link("add", ifname="br0", kind="bridge")
        master = route.link_lookup(ifname="br0")[0]
        route.link("set", index=master, state="up")
        for name in interfaces:
            route.link("set", index=route.link_lookup(ifname=name)[0], master=master, state="up")


def make_tap(name: str, several_queues: bool) -> None:
    """A TAP that stays while the namespace does, for a program that is to find it there. IFF_MULTI_QUEUE has to be as
    that program will ask for it."""
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if several_queues else 0)
    fd = os.open(DEVICE, os.O_RDWR)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)
