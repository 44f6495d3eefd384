# SPDX-License-Identifier: GPL-2.0-or-later
"""What the source says about a call tree: marker comments, and how each call is written.

Nothing of the tracing stands on the packet path.  What a tree shows besides calls is read from the source when a
function is first met while somebody traces:

- A marker, a comment of its own line that begins with ``#>``, is passed when the statement behind it begins, or, as
  the last line of a block, when the block is left.  ``#> goto have_snum:`` opens a branch, under which the calls that
  follow are drawn; ``#> -> text`` is a line with an arrow, ``#> text`` one without; ``#> ^ text`` is a remark on the
  function's own line.
- A hint, a ``#>`` behind a call, says how that call is drawn: ``#> // icsk->icsk_af_ops->conn_request`` is its remark,
  ``#> req =`` stands before its name, ``#> sk->sk_state_change ->`` too, and then the arrow at the beginning is the
  hint's.
- Without a hint the call itself tells: ``sk.icsk_af_ops.conn_request(...)`` that ran ``tcp_v4_conn_request`` was
  reached through a pointer, so its remark is ``// sk->icsk_af_ops->conn_request``.
"""

from __future__ import annotations

import ast
import linecache
import sys
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Final

MARKER: Final = "#> "
Range = tuple[int, int, int, int]  # line, end line, column, end column: as code.co_positions() has them


@dataclass(frozen=True)
class Site:
    """One place from which calls are made."""

    where: Range
    expression: str  # what is called, as written: "sk.icsk_af_ops.conn_request"; empty if it is no name
    hint: str = ""

    def reached(self, name: str) -> str:
        """How a call of ``name`` was reached, in C: empty if it was called by its name."""
        if not self.expression or self.expression.rpartition(".")[2] == name:
            return ""
        return self.expression.replace(".", "->")

    def inside(self, other: Site) -> bool:
        """Whether this call is part of the other's arguments."""
        (line, end, col, end_col), (line2, end2, col2, end_col2) = self.where, other.where
        return (
            self.where != other.where and (line2, col2) <= (line, col) and (end, end_col) <= (end2, end_col2)
        )


@dataclass
class Marks:
    """The markers of a function: those passed when a line begins, and those passed when a block of lines is left."""

    before: dict[int, list[str]] = field(default_factory=dict)
    leaving: list[tuple[int, int, str]] = field(default_factory=list)  # first line, line of the marker, text

    def __bool__(self) -> bool:
        return bool(self.before or self.leaving)


class _File:
    """One source file, taken apart once."""

    def __init__(self, filename: str) -> None:
        self.lines = linecache.getlines(filename)
        tree = ast.parse("".join(self.lines))
        self.calls: dict[Range, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                where = (node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)
                self.calls[where] = _dotted(node.func)

    def marker(self, line: int) -> str:
        """The text of a marker that has the line (counted from 1) for itself."""
        text = self.lines[line - 1].strip()
        return text.removeprefix(MARKER) if text.startswith(MARKER) else ""

    def hint(self, first: int, last: int) -> str:
        """The hint behind a call that takes up these lines."""
        for line in range(first, last + 1):
            code, found, text = self.lines[line - 1].partition("  " + MARKER)
            if found and code.strip():
                return text.strip()
        return ""

    def statement_behind(self, line: int) -> int:
        """The first line of the statement behind a marker in its block; 0 if the marker is the last there."""
        column = _indent(self.lines[line - 1])
        for number in range(line + 1, len(self.lines) + 1):
            if self._is_code(number):
                return number if _indent(self.lines[number - 1]) == column else 0
        return 0

    def block_start(self, line: int) -> int:
        """The first line of the block that a marker stands in."""
        column, first = _indent(self.lines[line - 1]), line
        for number in range(line - 1, 0, -1):
            if self._is_code(number):
                if _indent(self.lines[number - 1]) < column:
                    break
                first = number
        return first

    def _is_code(self, number: int) -> bool:
        text = self.lines[number - 1].strip()
        return bool(text) and not text.startswith("#")


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


@cache
def _file(filename: str) -> _File:
    return _File(filename)


def read_ahead(directory: str) -> None:
    """Take apart the sources of all modules that are loaded from there (0.3 s for the stack's, once), so that no call
    that is traced waits for it."""
    for module in tuple(sys.modules.values()):
        filename = getattr(module, "__file__", None)
        if filename is not None and filename.startswith(directory) and filename.endswith(".py"):
            _file(filename)


@cache
def marks_of(code: CodeType) -> Marks:
    """The markers in a function's lines."""
    source = _file(code.co_filename)
    marks = Marks()
    for line in range(code.co_firstlineno, _end_of(source, code) + 1):
        text = source.marker(line)
        if not text:
            continue
        begins = source.statement_behind(line)
        if begins:
            marks.before.setdefault(begins, []).append(text)
        else:
            marks.leaving.append((source.block_start(line), line, text))
    return marks


def _end_of(source: _File, code: CodeType) -> int:
    """The last line of a function, comments behind its last statement included."""
    line = max(at for _, _, at in code.co_lines() if at is not None)
    indent = _indent(source.lines[code.co_firstlineno - 1])
    while line < len(source.lines) and (
        not source.lines[line].strip() or _indent(source.lines[line]) > indent
    ):
        line += 1
    return line


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


@cache
def _positions(code: CodeType) -> list[tuple[int | None, int | None, int | None, int | None]]:
    return list(code.co_positions())


@cache
def site_of(code: CodeType, lasti: int) -> Site:
    """The place in a function at which instruction ``lasti`` calls."""
    line, end, column, end_column = _positions(code)[lasti // 2]
    where = (line or 0, end or 0, column or 0, end_column or 0)
    source = _file(code.co_filename)
    return Site(where, source.calls.get(where, ""), source.hint(where[0], where[1]) if where[0] else "")
