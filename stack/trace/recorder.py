# SPDX-License-Identifier: GPL-2.0-or-later
"""Records call trees of the stack while somebody wants to see them.

Theory of operation
-------------------
``sys.settrace`` is on while a Recorder is started, and off otherwise: the
functions of the stack know nothing of it and cost what they always do.  A tree begins with a call of a root
(``ROOTS``: a received segment, a socket call, a timer) and ends when that returns; what happens outside of a tree is
not looked at.  Only code of this package's files counts, so an application's functions between two of ours do not
show.

Two bounds keep a busy server's tracing harmless: a tree has at most ``max_calls`` calls (the rest are counted in
``Tree.left_out``), and at most ``max_trees`` trees wait to be taken (``Recorder.dropped`` counts those that were pushed
out).  Whoever shows trees says both numbers.

Times are those of the clock that was handed in, less what the trace function itself took so far: reading the source of
a function that is new to it takes milliseconds, and is not the stack's.  What the interpreter takes to call a trace
function stays in, so times of traced calls are to be compared with each other only.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from stack.include.ipv6 import ipv6_addr_v4mapped
from stack.include.sock import AF_INET6
from stack.trace.notes import arguments_of, result_of
from stack.trace.source import Marks, Site, marks_of, site_of

PACKAGE: Final = str(Path(__file__).resolve().parents[1])
_NOT_OURS: Final = tuple(f"{PACKAGE}/{part}" for part in ("api/", "trace/", "freeze/", "inspect/"))

ROOTS: Final = frozenset(
    {
        *("tcp_v4_rcv", "tcp_v6_rcv", "udp_rcv", "udpv6_rcv", "icmp_rcv", "icmpv6_rcv", "arp_rcv"),
        *("sys_socket", "sys_bind", "sys_listen", "sys_accept4", "sys_connect", "sys_shutdown", "sys_close"),
        *("sys_sendto", "sys_sendmsg", "sys_recvfrom", "sys_recvmsg", "sys_setsockopt", "sys_getsockopt"),
        *(
            "tcp_write_timer",
            "tcp_delack_timer",
            "tcp_keepalive_timer",
            "reqsk_timer_handler",
            "tw_timer_handler",
        ),
        *("tcp_pace_kick", "tcp_compressed_ack_kick"),
    }
)
MAX_CALLS: Final = 5_000
MAX_TREES: Final = 1_000
FLOW_CALLS: Final = 8  # of a tree, that are looked at for whose it is


class Call:
    """One call: ``children`` are calls and markers (strings) in the order in which they came."""

    __slots__ = ("arguments", "began_ns", "children", "code", "ended_ns", "name", "result", "site", "where")

    def __init__(self, name: str, code: CodeType, site: Site | None, began_ns: int) -> None:
        self.name = name
        self.code = code
        self.site = site
        self.children: list[Call | str] = []
        self.arguments = ""  # text behind the name
        self.result = ""  # a remark about what came of it
        self.began_ns = began_ns
        self.ended_ns = began_ns

    @property
    def nanoseconds(self) -> int:
        return self.ended_ns - self.began_ns

    def calls(self) -> Iterator[Call]:
        """The calls that it made itself."""
        return (child for child in self.children if isinstance(child, Call))


@dataclass
class Tree:
    """What one root did.  ``flow`` says whose packet or socket it was: (local address, port, peer's address, port) as
    the stack's numbers, None where there is none."""

    root: Call
    flow: tuple[int, int, int, int] | None = None
    left_out: int = 0  # calls beyond the bound


class Recorder:
    """``start()``, ``stop()``, and ``take()`` what came in between.  One at a time in a thread."""

    def __init__(
        self,
        clock_ns: Callable[[], int],
        *,
        roots: frozenset[str] = ROOTS,
        max_calls: int = MAX_CALLS,
        max_trees: int = MAX_TREES,
        on_tree: Callable[[Tree], None] | None = None,
    ) -> None:
        """With ``on_tree`` each tree is handed over as it ends, and none waits to be taken."""
        self.clock_ns = clock_ns
        self._on_tree = on_tree
        self.roots = roots
        self.max_calls = max_calls
        self.trees: deque[Tree] = deque()
        self.max_trees = max_trees
        self.dropped = 0  # trees that nobody took in time
        self.paused = False  # calls are not looked at
        self._open: list[Call] = []
        self._tree: Tree | None = None
        self._count = 0
        self._names: dict[CodeType, str] = {}
        self._own_ns = 0  # what this took since it began

    def start(self) -> None:
        """Watch this thread from its next call on."""
        if sys.gettrace() is not None:
            raise RuntimeError("another trace function (a debugger, coverage) is active")
        sys.settrace(self._called)

    def stop(self) -> None:
        if sys.gettrace() == self._called:
            sys.settrace(None)
        self._open.clear()
        self._tree = None

    def take(self) -> list[Tree]:
        """The finished trees, oldest first; they are forgotten here."""
        taken = list(self.trees)
        self.trees.clear()
        return taken

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def name_of(self, code: CodeType) -> str:
        """The function's name if it is one of the stack's, "" if it is not to be seen."""
        name = self._names.get(code)
        if name is None:
            filename = code.co_filename
            ours = filename.startswith(PACKAGE) and not filename.startswith(_NOT_OURS)
            visible = ours and not code.co_name.startswith("<")
            name = self._names[code] = _kernel_name(code) if visible else ""
        return name

    def _called(self, frame: FrameType, event: str, arg: object) -> Any:
        """The trace function: one of Python's functions begins."""
        if self.paused:
            return None
        name = self.name_of(frame.f_code)
        if not name:
            return None
        entered = self.clock_ns()
        local = self._begin(name, frame, entered - self._own_ns)
        self._own_ns += self.clock_ns() - entered
        return local

    def _begin(self, name: str, frame: FrameType, now_ns: int) -> _Local | None:
        code = frame.f_code
        if self._tree is None:
            if name not in self.roots:
                return None
            self._count = 0
            call = Call(name, code, None, now_ns)
            self._tree = Tree(call)
        elif self._count >= self.max_calls:
            self._tree.left_out += 1
            return None
        else:
            call = Call(name, code, self._site(frame), now_ns)
            self._open[-1].children.append(call)
            if self._tree.flow is None and self._count <= FLOW_CALLS:
                self._tree.flow = flow_of(frame)
        self._count += 1
        self._open.append(call)
        call.arguments = arguments_of(name, frame)
        marks = marks_of(code)
        if not marks:
            frame.f_trace_lines = False
        return _Local(self, call, marks)

    def _site(self, frame: FrameType) -> Site | None:
        caller = frame.f_back
        if caller is None or not self.name_of(caller.f_code):
            return None
        return site_of(caller.f_code, caller.f_lasti)

    def finished(self, call: Call, frame: FrameType, result: object) -> None:
        """A call returned, or an exception left it."""
        entered = self.clock_ns()
        call.ended_ns = entered - self._own_ns
        self._end(call, frame, result)
        self._own_ns += self.clock_ns() - entered

    def _end(self, call: Call, frame: FrameType, result: object) -> None:
        call.result = result_of(call.name, result)
        while self._open and self._open.pop() is not call:
            pass
        tree = self._tree
        if tree is None or self._open:
            return
        tree.flow = flow_of(frame) or tree.flow  # of sys_close() the socket is gone now
        self._tree = None
        if self._on_tree is not None:
            self._on_tree(tree)
            return
        if len(self.trees) >= self.max_trees:
            self.trees.popleft()
            self.dropped += 1
        self.trees.append(tree)


class _Local:
    """The trace function of one frame: its markers, and its end."""

    __slots__ = ("armed", "call", "marks", "recorder")

    def __init__(self, recorder: Recorder, call: Call, marks: Marks) -> None:
        self.recorder = recorder
        self.call = call
        self.marks = marks
        self.armed: list[tuple[int, int, str]] = []  # blocks that execution is in

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self._line(frame.f_lineno)
        elif event == "return":
            self._leave(0)
            self.recorder.finished(self.call, frame, arg)
        return self

    def _line(self, line: int) -> None:
        self._leave(line)
        for text in self.marks.before.get(line, ()):
            self.call.children.append(text)
        for block in self.marks.leaving:
            if block[0] <= line <= block[1] and block not in self.armed:
                self.armed.append(block)

    def _leave(self, line: int) -> None:
        """Markers at the end of blocks that ``line`` is not in any more."""
        for block in [b for b in self.armed if not b[0] <= line <= b[1]]:
            self.armed.remove(block)
            self.call.children.append(block[2])


def is_compiled() -> bool:
    """Whether the stack is, by tools/compile: no trace function is told of its calls then."""
    from stack.net.ipv4 import tcp_ipv4

    return not str(tcp_ipv4.__file__).endswith(".py")


def _kernel_name(code: CodeType) -> str:
    """The function's name, that of a method with its class, that of a constructor as it is called."""
    if "<locals>" in code.co_qualname:
        return code.co_name
    return code.co_qualname.removesuffix(".__init__")


def flow_of(frame: FrameType) -> tuple[int, int, int, int] | None:
    """Whose call this was, from the arguments of a root: a packet's addresses, or those of a socket."""
    values = frame.f_locals
    skb = values.get("skb")
    header: Any = getattr(skb, "h_iph", None)
    segment: Any = getattr(skb, "h_th", None)
    if header is not None and hasattr(segment, "source"):
        return (header.daddr, segment.dest, header.saddr, segment.source)
    sk = values.get("sk") or getattr(values.get("sock"), "sk", None) or values.get("tw")
    return None if sk is None else socket_flow(sk)


def socket_flow(sk: Any) -> tuple[int, int, int, int] | None:
    """Whose socket, request or TIME_WAIT socket that is, with addresses of IPv4 where those of IPv6 are mapped ones: a
    segment of that connection has no others.  None if it has no ports."""
    if not hasattr(sk, "sk_dport"):
        return None
    if sk.sk_family == AF_INET6:
        return _unmapped(sk.sk_v6_rcv_saddr), sk.sk_num, _unmapped(sk.sk_v6_daddr), sk.sk_dport
    return sk.sk_rcv_saddr, sk.sk_num, sk.sk_daddr, sk.sk_dport


def _unmapped(address: int) -> int:
    return address & 0xFFFFFFFF if ipv6_addr_v4mapped(address) else address
