# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's state diagram, drawn from the table that the stack asserts,
``TCP_TRANSITIONS`` of stack/include/tcp_states.py.

    text()     the steps as lines, each state with those that lead out of it
    dot()      for graphviz
    plain()    what json.dumps takes

Each can be given the number of sockets that are in each state now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_LAST_ACK,
    TCP_NEW_SYN_RECV,
    TCP_STATE_NAMES,
    TCP_TIME_WAIT,
    TCP_TRANSITIONS,
)

STRUCTS: Final = {TCP_NEW_SYN_RECV: "tcp_request_sock", TCP_TIME_WAIT: "tcp_timewait_sock"}
"""What is in that state; a tcp_sock is in each other."""

AFTERWARDS: Final = {TCP_TIME_WAIT: "60 s, RST, a new SYN: gone"}
"""How a state ends that no step leads out of."""


def _counted(state: int, counts: Mapping[str, int] | None) -> str:
    name = TCP_STATE_NAMES[state]
    return name if counts is None else f"{name} ({counts.get(name, 0)})"


def _order() -> list[int]:
    """The states in the order in which they are reached from CLOSE."""
    order = [TCP_CLOSE]
    for state in order:
        order += [new for old, new in TCP_TRANSITIONS if old == state and new not in order]
    return order


def text(counts: Mapping[str, int] | None = None) -> str:
    """Lines of at most 80 columns."""
    lines = []
    for state in _order():
        lines.append(_counted(state, counts) + (f"  [{STRUCTS[state]}]" if state in STRUCTS else ""))
        for (old, new), event in TCP_TRANSITIONS.items():
            if old == state:
                lines.append(f"  -> {TCP_STATE_NAMES[new]:<12}  {event}")
        if state in AFTERWARDS:
            lines.append(f"  {AFTERWARDS[state]}")
    return "\n".join(lines) + "\n"


def dot(counts: Mapping[str, int] | None = None) -> str:
    """A digraph.  What is no tcp_sock has a dashed outline, and a step that puts another struct in its place is dashed.
    Steps to CLOSE stand in the box that they lead out of, but for the one of LAST_ACK."""
    lines = [
        "digraph tcp_states {",
        '  node [shape=box, style=rounded, fontname="monospace", fontsize=11];',
        '  edge [fontname="monospace", fontsize=9, arrowsize=0.7];',
        "  nodesep=0.6; ranksep=0.4;",
        *(_box(state, counts) for state in _order()),
        f'  closed [label="{TCP_STATE_NAMES[TCP_CLOSE]}"];',
    ]
    for (old, new), event in TCP_TRANSITIONS.items():
        style = ", style=dashed" if new in STRUCTS or old in STRUCTS else ""
        if new != TCP_CLOSE:
            lines.append(f'  {TCP_STATE_NAMES[old]} -> {TCP_STATE_NAMES[new]} [label=" {event}"{style}];')
        elif old == TCP_LAST_ACK:
            lines.append(f'  {TCP_STATE_NAMES[old]} -> closed [label=" {event}"];')
    return "\n".join([*lines, "}"]) + "\n"


def _box(state: int, counts: Mapping[str, int] | None) -> str:
    ends = TCP_TRANSITIONS.get((state, TCP_CLOSE)) if state != TCP_LAST_ACK else None
    says = (_counted(state, counts), STRUCTS.get(state), ends and f"{ends}: CLOSE", AFTERWARDS.get(state))
    label = "\\n".join(filter(None, says))
    style = ', style="rounded,dashed"' if state in STRUCTS else ""
    return f'  {TCP_STATE_NAMES[state]} [label="{label}"{style}];'


def plain(counts: Mapping[str, int] | None = None) -> dict[str, Any]:
    """States with the number of sockets in each, and steps."""
    return {
        "states": [
            {"name": TCP_STATE_NAMES[state], "struct": STRUCTS.get(state, "tcp_sock")}
            | ({} if counts is None else {"sockets": counts.get(TCP_STATE_NAMES[state], 0)})
            for state in _order()
        ],
        "steps": [
            {"from": TCP_STATE_NAMES[old], "to": TCP_STATE_NAMES[new], "event": event}
            for (old, new), event in TCP_TRANSITIONS.items()
        ],
    }
