# SPDX-License-Identifier: GPL-2.0-or-later
"""One HTML page of a run, which needs nothing but itself: what ``vnic report`` writes.

It is made of a record (vnic.observe), or of a capture, which has less: no call trees, no tables, no counters.  Of each
connection there are the options that both ends agreed on, a ladder, plots of the direction with more data, and the call
trees of what the stack did for it, which fold; then the tables at the moments at which a state changed, each with what
it changed, the counters that grew, and what the device and its guest agreed on.

Everything that comes from the wire is escaped; the page loads nothing and its one script only opens and closes what
folds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from stack.inspect import ladder, tables
from stack.inspect.conversation import ACK, CWR, ECE, SYN, Conversation, Segment, conversations, end_text
from stack.inspect.ladderrows import clean, counted, span_text, summary
from vnic import graphviz, plots
from vnic.errors import VnicError
from vnic.packets import packet_of
from vnic.rings import diagnosis

MAX_CONNECTIONS: Final = 20
_ID: Final = re.compile(r'\sid="[^"]*"')


@dataclass
class Run:
    """What there is to show.  ``why_not`` says of a part that is not there why not."""

    title: str
    conversations: list[Conversation]
    began_ns: int
    ended_ns: int
    trees: list[dict[str, Any]] = field(default_factory=list)
    moments: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, tuple[int, int]] = field(default_factory=dict)  # before, after
    negotiation: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    tracing_ended: bool = False  # there were as many trees as are kept
    why_not: dict[str, str] = field(default_factory=dict)


def of_record(record: dict[str, Any], title: str) -> Run:
    """From ``vnic.observe.Observation.record()``, also after it went through JSON."""
    before, after = record["counters"]["before"], record["counters"]["after"]
    why = record["why_no_trees"]
    return Run(
        title=title,
        conversations=conversations(map(packet_of, record["packets"])),
        began_ns=record["began_ns"],
        ended_ns=record["ended_ns"],
        trees=record["trees"],
        moments=record["moments"],
        counters={name: (before.get(name, 0), value) for name, value in after.items()},
        negotiation=record["negotiation"],
        dropped=record["dropped"],
        tracing_ended=record["tracing_ended"],
        why_not={"trees": f"There are none: {why}."} if why else {},
    )


def of_capture(found: list[Conversation], title: str) -> Run:
    """From what is in a capture; there is something."""
    stamps = [segment.at_ns for one in found for segment in one.segments]
    missing = "A capture does not have them; vnic report without a file observes a running back end."
    return Run(
        title=title,
        conversations=found,
        began_ns=min(stamps),
        ended_ns=max(stamps),
        why_not=dict.fromkeys(("trees", "moments", "counters", "negotiation"), missing),
    )


# -- the page -----------------------------------------------------------------------------------------------------


def page(run: Run) -> str:
    """The whole HTML document."""
    shown = run.conversations[:MAX_CONNECTIONS]
    sections = [
        *(_connection(number, one, run) for number, one in enumerate(shown, 1)),
        _section("trees", "Other call trees", _other_trees(run, shown)),
        _section("tables", "Tables", _moments(run)),
        _section("counters", "Counters", _counters(run)),
        _section("device", "Device", _device(run)),
    ]
    links = [
        *((f"c{number}", f"{one.ends[0]} > {one.ends[1]}") for number, one in enumerate(shown, 1)),
        ("trees", "Other call trees"),
        ("tables", "Tables"),
        ("counters", "Counters"),
        ("device", "Device"),
    ]
    menu = "".join(f'<li><a href="#{name}">{escape(text)}</a></li>' for name, text in links)
    buttons = '<p><button data-open="1">open all</button> <button data-open="">close all</button></p>'
    title = escape(clean(run.title))  # a name of a file can be any bytes
    body = f"<header><h1>{title}</h1>{_head(run)}{buttons}</header><nav><ul>{menu}</ul></nav>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} - vnic report</title><style>{_STYLE}</style></head>\n"
        f"<body>{body}\n<main>\n"
        + "\n".join(sections)
        + f"\n</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _head(run: Run) -> str:
    lines = [f"{_date(run.began_ns)}, {span_text(max(run.ended_ns - run.began_ns, 0))}"]
    segments = sum(len(one.segments) for one in run.conversations)
    lines.append(f"{counted(segments, 'TCP segment')} of {counted(len(run.conversations), 'connection')}")
    if len(run.conversations) > MAX_CONNECTIONS:
        lines.append(f"the first {MAX_CONNECTIONS} connections are shown")
    lines += [f"{count} {what} more were not kept" for what, count in run.dropped.items() if count]
    if run.tracing_ended:
        lines.append(f"{len(run.trees)} call trees are kept; then the tracing ended")
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _date(stamp_ns: int) -> str:
    """A damaged capture can say any."""
    try:
        return datetime.fromtimestamp(stamp_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return f"{stamp_ns} ns after 1970"


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def _folded(title: str, content: str, opened: bool = False) -> str:
    state = " open" if opened else ""
    return f"<details{state}><summary>{title}</summary>{content}</details>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """``numbers``: from that column on they are right-aligned; 0 for none."""

    def cell(kind: str, column: int, text: object) -> str:
        style = ' class="n"' if numbers and column >= numbers else ""
        return f"<{kind}{style}>{escape(str(text))}</{kind}>"

    head = "".join(cell("th", column, text) for column, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(cell('td', column, text) for column, text in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _missing(run: Run, part: str) -> str:
    return f"<p>{escape(run.why_not[part])}</p>" if part in run.why_not else ""


def _picture(svg: str) -> str:
    return f'<div class="wide picture">{svg}</div>'


# -- a connection -------------------------------------------------------------------------------------------------


def _connection(number: int, one: Conversation, run: Run) -> str:
    client, server = one.ends
    parts = [
        f"<p>{escape(summary(one))}</p>",
        _folded("What the ends agreed on", _agreed(one), opened=True),
        _folded("Ladder", _picture(ladder.svg(one)), opened=True),
        _folded("Plots", _plots(number, one), opened=True),
        _folded(f"Call trees ({len(_trees_of(run, one))})", _missing(run, "trees") + _trees(run, one)),
    ]
    return _section(f"c{number}", f"{number}: {client} > {server}", "".join(parts))


def _agreed(one: Conversation) -> str:
    """The options of the SYN and of the SYN-ACK, and what is in effect."""
    syn, synack = _opening(one)
    if syn is None:
        return "<p>Its SYN is not there.</p>"
    heads = ("", f"client {one.ends[0]}", f"server {one.ends[1]}", "in effect")
    return _table(heads, _options(syn, synack))


def _opening(one: Conversation) -> tuple[Segment | None, Segment | None]:
    """The SYN and the SYN-ACK."""
    syns = [segment for segment in one.segments if segment.flags & SYN]
    first = next((segment for segment in syns if not segment.flags & ACK), None)
    return first, next((segment for segment in syns if segment.flags & ACK), None)


def _options(syn: Segment, synack: Segment | None) -> Iterator[tuple[str, ...]]:
    both = (syn, synack)
    sizes = [_said(one and one.mss, "bytes") for one in both]
    yield ("maximum segment size", *sizes, "each way what the receiver said")
    scales = [None if one is None else one.wscale for one in both]
    yield ("window scale", *map(_said, scales), _used(scales))
    sack = [one is not None and one.sack_ok for one in both]
    yield ("SACK", *map(_yes, sack), _used(has or None for has in sack))
    stamps = [None if one is None else one.tsval for one in both]
    yield ("time stamps", *(_yes(stamp is not None) for stamp in stamps), _used(stamps))
    offered = syn.flags & (ECE | CWR) == ECE | CWR
    agreed = synack is not None and synack.flags & (ECE | CWR) == ECE
    yield ("ECN", _yes(offered), _yes(agreed), "used" if offered and agreed else "not used")
    yield ("first window", *(_said(one and one.window, "bytes") for one in both), "not scaled yet")


def _said(value: object, unit: str = "") -> str:
    return "-" if value is None else f"{value} {unit}".strip()


def _yes(value: object) -> str:
    return "yes" if value else "-"


def _used(values: Iterable[object]) -> str:
    return "used" if all(value is not None for value in values) else "not used"


def _plots(number: int, one: Conversation) -> str:
    if not any(segment.length for segment in one.segments):
        return "<p>It carried no data.</p>"
    try:
        return _picture(plots.svg_of(one, prefix=f"plot{number}"))
    except VnicError as error:
        return f"<p>{escape(error.fact)}: {escape(error.evidence)}. {escape(error.remedy)}</p>"


# -- call trees ---------------------------------------------------------------------------------------------------


def _belongs(flow: Sequence[int] | None, one: Conversation) -> bool:
    """Whether a tree with that flow (local address and port, the peer's) is about this connection."""
    if flow is None:
        return False
    return {(flow[0], flow[1]), (flow[2], flow[3])} == {one.client, one.server}


def _during(stamp_ns: int, one: Conversation) -> bool:
    """Its ends may have had another connection before and may have one after it."""
    slack = 1_000_000_000
    return one.segments[0].at_ns - slack <= stamp_ns <= one.segments[-1].at_ns + slack


def _trees_of(run: Run, one: Conversation) -> list[dict[str, Any]]:
    return [tree for tree in run.trees if _belongs(tree["flow"], one) and _during(tree["stamp_ns"], one)]


def _trees(run: Run, one: Conversation) -> str:
    return "".join(_tree(tree, one.segments[0].at_ns, _cause(tree, one)) for tree in _trees_of(run, one))


def _cause(tree: dict[str, Any], one: Conversation) -> str:
    """The segment that a receiving function's tree is about, the last that came before the tree's end: "SYN, LISTEN ->
    NEW_SYN_RECV"."""
    if not tree["root"].endswith("_rcv"):
        return ""
    came = [n for n, segment in enumerate(one.segments) if segment.outbound is False]
    number = max((n for n in came if one.segments[n].at_ns <= tree["stamp_ns"]), default=None)
    if number is None:
        return ""
    segment = one.segments[number]
    before, after = segment.said.before, segment.said.after
    states = f", {before} -> {after}" if before != after else f", {after}" if after else ""
    return segment.flag_names + (f" {segment.length} bytes" if segment.length else "") + states


def _other_trees(run: Run, shown: list[Conversation]) -> str:
    shown_above = {id(tree) for one in shown for tree in _trees_of(run, one)}
    others = [tree for tree in run.trees if id(tree) not in shown_above]
    return _missing(run, "trees") + "".join(_tree(tree, run.began_ns) for tree in others)


def _tree(tree: dict[str, Any], began_ns: int, cause: str = "") -> str:
    # The stamp is that of the tree's end.
    stamp = span_text(max(tree["stamp_ns"] - began_ns, 0))
    title = f"{stamp} <code>{escape(tree['root'])}</code> {escape(cause)}"
    return _folded(title, f'<div class="tree">{folding(tree["text"])}</div>')


def folding(text: str) -> str:
    """A tree of the notation as nested <details>: each line that has others under it folds them."""
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in text.splitlines() if line.strip()]
    out: list[str] = []
    open_: list[int] = []
    for place, (indent, words) in enumerate(lines):
        while open_ and open_[-1] >= indent:
            open_.pop()
            out.append("</div></details>")
        below = place + 1 < len(lines) and lines[place + 1][0] > indent
        if below:
            open_.append(indent)
            out.append(f"<details open><summary>{escape(words)}</summary><div>")
        else:
            out.append(f"<p>{escape(words)}</p>")
    return "".join(out) + "</div></details>" * len(open_)


# -- tables, counters, device -------------------------------------------------------------------------------------


def _moments(run: Run) -> str:
    if not run.moments:
        return _missing(run, "moments") or "<p>There are none.</p>"
    parts, before = [], ""
    for number, moment in enumerate(run.moments):
        boxes = tables.picture(moment["tcp"])
        text = tables.text(boxes)
        changed = _changed(before, text) if number else ""
        left_out = f"<p>{moment['left_out']} more sockets are not shown.</p>" if moment["left_out"] else ""
        parts.append(_folded(_moment_title(moment, run.began_ns), changed + left_out + _drawn(boxes, text)))
        before = text
    return "".join(parts)


def _moment_title(moment: dict[str, Any], began_ns: int) -> str:
    flow = moment["flow"]
    whose = "" if flow is None else f" {end_text((flow[2], flow[3]))}"
    return f"{span_text(max(moment['stamp_ns'] - began_ns, 0))} {escape(moment['title'])}{escape(whose)}"


def _drawn(boxes: list[tables.Box], text: str) -> str:
    """By graphviz where it is, else as text."""
    try:
        svg = graphviz.svg(tables.dot(boxes))
    except graphviz.GraphvizError:
        return f'<pre class="wide">{escape(text)}</pre>'
    # Every picture of graphviz has the same ids.
    return _picture(_ID.sub("", svg[svg.index("<svg") :]))


def _changed(before: str, after: str) -> str:
    lines = [
        line for line in _difference(before.splitlines(), after.splitlines()) if line[2:3] not in ("", "+")
    ]
    if not lines:
        return "<p>Nothing has changed in the tables since the moment before.</p>"
    return _folded(
        "what has changed since the moment before", f'<pre class="wide">{escape(chr(10).join(lines))}</pre>'
    )


def _difference(before: list[str], after: list[str]) -> Iterator[str]:
    """Lines that went, "- x", and those that came, "+ x".  difflib.ndiff, which looks for likeness within lines, takes
    seconds for two pictures of 50 sockets."""
    same = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, old, old_end, new, new_end in same.get_opcodes():
        if kind != "equal":
            yield from (f"- {line}" for line in before[old:old_end])
            yield from (f"+ {line}" for line in after[new:new_end])


def _counters(run: Run) -> str:
    if not run.counters:
        return _missing(run, "counters")
    grown = [
        (name, after - before, after) for name, (before, after) in run.counters.items() if before != after
    ]
    if not grown:
        return "<p>None has changed.</p>"
    return _table(("counter", "change", "value"), ((n, f"{d:+}", v) for n, d, v in sorted(grown)), numbers=1)


def _device(run: Run) -> str:
    told = run.negotiation
    if not told:
        return _missing(run, "negotiation")
    return "".join(map(_port, told.get("ports", [told])))


def _port(told: dict[str, Any]) -> str:
    connected = "connected" if told["connected"] else "not connected"
    facts = f"<p>{escape(told['transport'])}, MTU {told['mtu']}, {connected}</p>"
    kinds = (("virtio features", "features"), ("vhost-user protocol features", "protocol_features"))
    parts = [
        f"<h3>{title}</h3>"
        + _table(
            ("feature", "offered", "acknowledged"),
            ((one["name"], _yes(one["offered"]), _yes(one["acknowledged"])) for one in told[key]),
        )
        for title, key in kinds
        if key in told
    ]
    if "rings" in told:
        rows = (
            (ring["index"], ring["name"], ring["size"], ring["state"], ring["breaks"])
            for ring in told["rings"]
        )
        parts.append("<h3>rings</h3>" + _table(("ring", "queue", "size", "state", "broke"), rows))
        said = "\n".join(line for ring in told["rings"] for line in diagnosis(ring))
        parts.append(f"<pre>{escape(said)}</pre>" if said else "")
    return facts + "".join(parts)


_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --back: #fff; --text: #111; --link: #005a9c; }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #e6e6e6; --link: #6cb6ff; } }
body { margin: 0 auto; padding: 0 1rem 4rem; max-width: 80rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
a { color: var(--link); }
h1 { font-size: 1.5rem; margin: 1.2rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; border-top: 1px solid var(--line); padding-top: 1rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; }
header p { margin: .1rem 0; }
nav ul { columns: 20rem; padding-left: 1.2rem; }
summary { cursor: pointer; padding: .15rem 0; }
section > details { border-left: 3px solid var(--line); padding-left: .7rem; margin: .4rem 0; }
.wide { overflow-x: auto; }
.picture { background: #fff; border: 1px solid var(--line); padding: .3rem; }
.picture svg { display: block; margin: 0 auto; }
table { border-collapse: collapse; font-size: .92em; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--line); }
.n { text-align: right; font-variant-numeric: tabular-nums; }
pre, code, .tree { font: 13px/1.4 ui-monospace, monospace; }
.tree { white-space: pre-wrap; overflow-wrap: anywhere; }
.tree p { margin: 0 0 0 1.05rem; }
.tree div { margin-left: 1.3rem; }
.tree summary { padding: 0; }
@media print { nav, button { display: none; } }
"""

_SCRIPT: Final = """
for (const button of document.querySelectorAll("button"))
  button.addEventListener("click", () => {
    for (const one of document.querySelectorAll("details")) one.open = Boolean(button.dataset.open);
  });
"""
