# SPDX-License-Identifier: GPL-2.0-or-later
"""One Recorder for all who want to see call trees at the same time: ``vnic trace``, captures with comments, the page.

The trace function is the interpreter's only one, so there is one Recorder; it is started with the first watcher and
stopped with the last, and each tree is handed to all of them as it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from stack.trace.recorder import PACKAGE, Recorder, Tree, is_compiled
from stack.trace.source import read_ahead

log = logging.getLogger(__name__)

Watcher = Callable[[Tree], object]


class TraceHub:
    """Made once for a thread.  A watcher is called from within the stack: it only takes note.  One that raises is a
    fault that is logged, and gets no more trees; the segment that is being dealt with is not its victim."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self.recorder = Recorder(clock_ns, on_tree=self._ended)
        self._watchers: dict[object, Watcher] = {}

    @property
    def watched(self) -> bool:
        """Whether anybody is."""
        return bool(self._watchers)

    def subscribe(self, watcher: Watcher) -> Callable[[], None]:
        """Hand each tree to ``watcher`` from now on, until what is returned is called.  RuntimeError if there can be no
        trees: the stack is compiled, or somebody else traces this thread."""
        if is_compiled():
            raise RuntimeError("the stack is compiled, and compiled functions cannot be traced")
        if not self._watchers:
            read_ahead(PACKAGE)
            self.recorder.start()
        ticket = object()
        self._watchers[ticket] = watcher

        return lambda: self._leave(ticket)

    def _ended(self, tree: Tree) -> None:
        for ticket, watcher in tuple(self._watchers.items()):
            try:
                watcher(tree)
            except Exception:
                log.exception("a watcher of call trees failed, and gets no more of them")
                self._leave(ticket)

    def _leave(self, ticket: object) -> None:
        if self._watchers.pop(ticket, None) is not None and not self._watchers:
            self.recorder.stop()
