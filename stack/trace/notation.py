# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorded tree as text, in the notation of kernel notes.

    tcp_v4_rcv
      -> __inet_lookup_skb
        -> __inet_lookup
          -> __inet_lookup_established  // found
      -> tcp_sync_mss -> dst_mtu -> ipv4_mtu

Levels: "notes" draws what notes.py shows, "full" every call of the stack's functions, "times" the same with the
microseconds that each took, those of what it called included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from stack.trace.notes import (
    CHAINED,
    CHAINED_UNDER,
    NEW_PARAGRAPH,
    NOISE,
    NOISE_FILES,
    REMARKED,
    SHOWN,
    is_helper,
)
from stack.trace.recorder import PACKAGE, Call, Tree

LEVELS: Final = ("notes", "full", "times")
_ROOT_DIRECTORY: Final = PACKAGE.removesuffix("stack")


@dataclass
class _Line:
    """What becomes of a call or a marker."""

    text: str
    arrow: bool = True
    remark: str = ""
    lines: list[_Line] = field(default_factory=list)
    name: str = ""  # of the function; "" for a marker


def render(tree: Tree, level: str = "notes") -> str:
    """The tree as lines of text, without a line end at its end."""
    if level not in LEVELS:
        raise ValueError(f"there is no level {level!r}: take one of {', '.join(LEVELS)}")
    top = _line(tree.root, level)
    out = list(_text(top, 0))
    if tree.left_out:
        out.append(f"... {tree.left_out} more calls")
    return "\n".join(out)


# -- what is drawn -----------------------------------------------------------------------------------------------


def _line(call: Call, level: str) -> _Line:
    hint = call.site.hint if call.site is not None else ""
    line = _Line(call.name, name=call.name)
    if call.arguments:
        line.text += f" {call.arguments}"
    _apply_hint(line, call, hint, level)
    if call.result:
        line.remark = call.result
    if level == "times":
        line.text += f"  {call.nanoseconds / 1000:.1f} us"
    _fill(line, call, level)
    return line


def _apply_hint(line: _Line, call: Call, hint: str, level: str) -> None:
    """How the call was reached: as its hint says, else as it is written."""
    if hint.startswith("// "):
        line.remark = hint[3:]
    elif hint.endswith("->"):
        line.arrow = hint.startswith("-> ")
        line.text = f"{hint.removeprefix('-> ')} {line.text}"
    elif hint:
        line.text = f"{hint} {line.text}"
    elif call.site is not None and (reached := call.site.reached(call.name)):
        if level != "notes" or REMARKED in reached:
            line.remark = reached


def _fill(line: _Line, call: Call, level: str) -> None:
    """The lines under a call.  A "goto" opens a branch for what follows it."""
    branch = line
    arguments: list[tuple[Call, _Line]] = []
    for item in shown(call, call.name, level):
        if isinstance(item, str):
            branch = _marker(line, branch, item)
            continue
        child = _line(item, level)
        arguments = _take_arguments(item, child, arguments, branch)
        arguments.append((item, child))
        if level != "notes" or not _repeats(branch, child):
            branch.lines.append(child)
    if level == "notes":
        _chain(line)


def _repeats(branch: _Line, line: _Line) -> bool:
    """Whether a call that has nothing under it stands there already, as the last one."""
    return bool(branch.lines) and branch.lines[-1] == line and not line.lines


def _marker(line: _Line, branch: _Line, text: str) -> _Line:
    """Draw a marker; the branch that what follows belongs to."""
    if text.startswith("goto "):
        branch = _Line(text)
        line.lines.append(branch)
    elif text.startswith("^ "):
        line.remark = text.removeprefix("^ ")
    else:
        arrow = text.startswith("-> ")
        branch.lines.append(_Line(text.removeprefix("-> "), arrow))
    return branch


def _take_arguments(
    call: Call, line: _Line, before: list[tuple[Call, _Line]], branch: _Line
) -> list[tuple[Call, _Line]]:
    """Calls made to get an argument of this one go on in its line, if they are of the kind that is chained."""
    rest = []
    for other, drawn in before:
        inner = call.site is not None and other.site is not None and other.site.inside(call.site)
        if inner and other.name in CHAINED and drawn in branch.lines:
            branch.lines.remove(drawn)
            line.text += f" -> {drawn.text}"
        else:
            rest.append((other, drawn))
    return rest


def _chain(line: _Line) -> None:
    """A single call of the kind that is chained goes on in its caller's line."""
    if len(line.lines) != 1 or not line.name:
        return
    only = line.lines[0]
    if (line.name, only.name) not in CHAINED_UNDER and (only.lines or only.name not in CHAINED):
        return
    line.text += f" -> {only.text}"
    line.lines = []


def shown(call: Call, owner: str, level: str) -> Iterator[Call | str]:
    """The calls and markers drawn under ``owner``, of this call and of what is not drawn itself."""
    for child in call.children:
        if isinstance(child, str) or level != "notes" or _is_shown(owner, child):
            yield child
        elif owner in SHOWN or child.name not in NOISE:
            yield from shown(child, owner, level)


def _is_shown(owner: str, child: Call) -> bool:
    chosen = SHOWN.get(owner)
    if chosen is not None:
        return child.name in chosen
    if is_helper(child.name) or child.name in NOISE or "." in child.name or child.code.co_name == "__init__":
        return False
    path = child.code.co_filename.removeprefix(_ROOT_DIRECTORY)
    return not path.startswith(NOISE_FILES)


# -- lines of text -----------------------------------------------------------------------------------------------


def _text(line: _Line, depth: int) -> Iterator[str]:
    arrow = "-> " if depth and line.arrow else ""
    remark = f"  // {line.remark}" if line.remark else ""
    yield "  " * depth + arrow + line.text + remark
    before = ""
    for child in line.lines:
        if (before, child.name) in NEW_PARAGRAPH:
            yield ""
        under_name = not child.arrow and not child.name and len(line.lines) == 1 and not child.lines
        yield from (("  " * depth + "   " + child.text,) if under_name else _text(child, depth + 1))
        before = child.name
