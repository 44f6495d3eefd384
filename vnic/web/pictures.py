# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of the TCP tables, as ``vnic tables`` draws it: text at once, SVG when ``dot`` has made it.

One ``dot`` runs at a time, as a process of its own, at most every two seconds, and only if there is another picture to
draw; it has ten seconds.  Beyond ``state.MAX_DRAWN`` sockets of a kind the picture says how many it leaves out.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from stack.inspect import tables
from stack.inspect.snapshot import tcp_tables
from vnic import graphviz
from vnic.web.state import drawn

if TYPE_CHECKING:
    from stack.stack import Stack

Form = Literal["text", "svg"]
FORMS: Final = get_args(Form)
PERIOD_S: Final = 2.0
DOT_S: Final = 10.0


class Pictures:
    """Of one Stack, for all browsers; ``close`` ends a ``dot`` that still runs."""

    def __init__(self, net: Stack) -> None:
        self._net = net
        self._asked = ""  # the graph that was given to dot last
        self._svg: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._begun = -PERIOD_S

    def look(self, form: Form) -> dict[str, Any]:
        """What a browser is to show now: {"text": ...}, {"svg": ...} or {"error": ...}, with how many sockets are left
        out; of SVG that of a moment ago, and {} before there is one."""
        chosen, more = drawn(self._net)
        boxes = tables.picture(tcp_tables(self._net, chosen))
        if form == "text":
            return {"text": tables.text(boxes), "more": more}
        self._draw(tables.dot(boxes), more)
        return self._svg

    def _draw(self, graph: str, more: int) -> None:
        busy = self._task is not None and not self._task.done()
        if busy or graph == self._asked or time.monotonic() - self._begun < PERIOD_S:
            return
        self._asked, self._begun = graph, time.monotonic()
        self._task = asyncio.ensure_future(self._drawing(graph, more))

    async def _drawing(self, graph: str, more: int) -> None:
        try:
            self._svg = {"svg": await graphviz.svg_soon(graph, DOT_S), "more": more}
        except (graphviz.GraphvizError, OSError) as error:
            self._svg = {"error": f"{error}: choose text", "more": more}

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
