# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for many sockets at once, as epoll(7) does it: fs/eventpoll.c without the sleeping.

    ep = Epoll()
    ep.register(sock, EPOLLIN)
    ep.on_ready = wake            # called from inside the stack when the list of ready sockets stops being empty
    for sock, mask in ep.poll(): ...

Like the kernel's, an ``Epoll`` keeps a list of sockets that may be ready, which grows by their wake-ups, and asks each
of them (``Socket.poll``) when the list is read: the cost is by what happens, not by how many are registered.

    registered with     is reported
    (nothing else)      as long as it is ready (level triggered)
    EPOLLET             once for each wake-up that left it ready (edge triggered)
    EPOLLONESHOT        once; then it is quiet until ``modify``

EPOLLERR and EPOLLHUP are always reported.  ``register`` and ``modify`` ask at once, so what is ready already is found.
A closed socket leaves by itself.  ``poll`` never waits: whoever has nothing else to do moves the simulation on, or
waits for ``on_ready``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stack.api.bsd import Socket, oserror
from stack.include.sock import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRBAND,
    EPOLLWRNORM,
)
from stack.net import socket as net_socket

if TYPE_CHECKING:
    from stack.include.net import socket as kernel_socket
    from stack.include.sock import sock

__all__ = [
    "EPOLLERR",
    "EPOLLET",
    "EPOLLHUP",
    "EPOLLIN",
    "EPOLLONESHOT",
    "EPOLLOUT",
    "EPOLLPRI",
    "EPOLLRDHUP",
    "EPOLLRDNORM",
    "EPOLLWRBAND",
    "EPOLLWRNORM",
    "Epoll",
]

EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31
_ALWAYS: Final = EPOLLERR | EPOLLHUP
_PRIVATE: Final = EPOLLET | EPOLLONESHOT


class _Item:
    """struct epitem: one socket of the interest list; ``events`` 0 after EPOLLONESHOT fired."""

    __slots__ = ("ep", "events", "socket", "struct")

    def __init__(self, ep: Epoll, socket: Socket, events: int) -> None:
        self.ep = ep
        self.socket = socket
        self.struct: kernel_socket = socket.sock
        self.events = events

    def wake(self, sk: sock, mask: int) -> None:
        """ep_poll_callback(): what happened may be of interest; 0 is a change of state."""
        if not mask or mask & self.events:
            self.ep._add_ready(self)

    def release(self) -> None:
        """eventpoll_release(): the socket is being closed."""
        self.ep._forget(self)


class Epoll:
    """The interest list and the ready list; see the module's text."""

    def __init__(self) -> None:
        self._items: dict[kernel_socket, _Item] = {}
        self._ready: dict[_Item, None] = {}
        self.on_ready: Callable[[], None] | None = None

    def __len__(self) -> int:
        """How many sockets are registered."""
        return len(self._items)

    def register(self, sock: Socket, events: int = EPOLLIN | EPOLLOUT | EPOLLPRI) -> None:
        """Watch a socket; FileExistsError if it is watched already, OSError (EBADF) if it is closed."""
        if sock.fileno() < 0:
            raise oserror(errno.EBADF, "register")
        if sock.sock in self._items:
            raise FileExistsError(
                errno.EEXIST, "register: the socket is registered already; modify() changes its events"
            )
        item = self._items[sock.sock] = _Item(self, sock, events | _ALWAYS)
        sock.sk.sk_wq.append(item.wake)
        file = sock.sock.file
        assert file is not None
        file.f_ep = [*(file.f_ep or ()), item.release]
        self._look(item)

    def modify(self, sock: Socket, events: int) -> None:
        """Watch for something else, or again after EPOLLONESHOT; FileNotFoundError if it is not watched."""
        item = self._item(sock, "modify")
        item.events = events | _ALWAYS
        self._look(item)

    def unregister(self, sock: Socket) -> None:
        """Watch it no more; FileNotFoundError if it is not watched."""
        self._forget(self._item(sock, "unregister"))

    def close(self) -> None:
        """Watch nothing any more."""
        for item in tuple(self._items.values()):
            self._forget(item)

    def poll(self, maxevents: int = -1) -> list[tuple[Socket, int]]:
        """What is ready now, at most ``maxevents`` of it (-1: all): (socket, EPOLL bits).  Those that stay ready go to
        the end of the list, so that a small ``maxevents`` starves nobody."""
        found: list[tuple[Socket, int]] = []
        again: list[_Item] = []
        while self._ready and len(found) != maxevents:
            item = next(iter(self._ready))
            del self._ready[item]
            mask = self._mask(item)
            if not mask:
                continue
            found.append((item.socket, mask))
            if item.events & EPOLLONESHOT:
                item.events = 0
            elif not item.events & EPOLLET:
                again.append(item)
        self._ready.update(dict.fromkeys(again))
        return found

    def _item(self, sock: Socket, what: str) -> _Item:
        item = self._items.get(sock.sock)
        if item is None:
            raise FileNotFoundError(errno.ENOENT, f"{what}: the socket is not registered here")
        return item

    def _mask(self, item: _Item) -> int:
        """What holds now of what was asked for."""
        return net_socket.sock_poll(item.struct) & item.events & ~_PRIVATE

    def _look(self, item: _Item) -> None:
        if self._mask(item):
            self._add_ready(item)

    def _add_ready(self, item: _Item) -> None:
        was_empty = not self._ready
        self._ready[item] = None
        if was_empty and self.on_ready is not None:
            self.on_ready()

    def _forget(self, item: _Item) -> None:
        self._items.pop(item.struct, None)
        self._ready.pop(item, None)
        waiters = item.struct.sk.sk_wq
        if item.wake in waiters:
            waiters.remove(item.wake)
        file = item.struct.file
        if file is not None and file.f_ep is not None:
            file.f_ep = [release for release in file.f_ep if release != item.release] or None
