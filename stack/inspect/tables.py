# SPDX-License-Identifier: GPL-2.0-or-later
"""The TCP tables as a picture: buckets, boxes with the kernel's field names, pointers.

    picture(net.snapshot()["tcp"])         boxes and pointers, of some or all tables
    text(), dot(), plain()                 as lines of text, for graphviz, as what json.dumps takes

``struct inet_hashinfo`` is a box whose rows are the buckets that are not empty, by table and index; a bucket points to
the head of its chain.  Everything that can be pointed to has a number, which is the snapshot's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

TABLES: Final = ("ehash", "bhash", "lhash")
_WIDTH: Final = 78


@dataclass
class Row:
    """A field of a struct, or a bucket: ``to`` is what it points to, a box by name or a row of it: "sk1.sk_node"."""

    name: str
    value: str = ""
    to: list[str] = field(default_factory=list)

    def text(self) -> str:
        """ "sk_state = TCP_LISTEN", "icsk_bind_hash -> tb:2222"."""
        value = f" = {self.value}" if self.value else ""
        return f"{self.name}{value}" + (f" -> {', '.join(self.to)}" if self.to else "")


@dataclass
class Box:
    """One struct.  ``name`` is what pointers to it say."""

    name: str
    struct: str
    rows: list[Row]


def picture(tcp: dict[str, Any], tables: Iterable[str] = TABLES) -> list[Box]:
    """The boxes: the hash tables, then what hangs in them and what that points to.  ValueError for a table that does
    not exist."""
    chosen = list(tables)
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        raise ValueError(f"there is no table {unknown[0]}: there are {', '.join(TABLES)}")
    boxes = _Boxes(tcp)
    rows = [row for name in TABLES if name in chosen for row in boxes.buckets(name)]
    return [Box("inet_hashinfo", "inet_hashinfo", rows), *boxes.reached(rows)]


class _Boxes:
    """All structs of a snapshot, by name."""

    def __init__(self, tcp: dict[str, Any]) -> None:
        self._tcp = tcp
        self._by_id: dict[int, str] = {}
        kinds = (("listeners", "sk"), ("connections", "sk"), ("requests", "req"), ("time_wait", "tw"))
        for kind, prefix in kinds:
            self._by_id.update({entry["id"]: f"{prefix}{entry['id']}" for entry in tcp[kind]})
        for listener in tcp["listeners"]:  # requests that have left ehash wait there
            for waiting in listener["accept_queue"]:
                self._by_id.setdefault(waiting["request"], f"req{waiting['request']}")
        self._boxes: dict[str, Box] = {box.name: box for box in self._all()}

    def buckets(self, table: str) -> Iterator[Row]:
        if table == "bhash":
            for tb in self._tcp["bind_buckets"]:
                yield Row(f"bhash[{tb['bucket']}]", to=[f"tb{tb['port']}"])
            return
        key, name = {"ehash": ("ehash_buckets", "ehash"), "lhash": ("listening_buckets", "listening_hash")}[
            table
        ]
        for slot, chain in sorted(self._tcp[key].items(), key=lambda item: int(item[0])):
            yield Row(f"{name}[{slot}]", to=[f"{box}.sk_node" for box in self._names(chain)])

    def reached(self, rows: list[Row]) -> Iterator[Box]:
        """What these rows point to, and what that points to, in the order in which one meets it."""
        seen: set[str] = set()
        waiting = [_box_of(to) for row in rows for to in row.to]
        while waiting:
            name = waiting.pop(0)
            if name in seen or name not in self._boxes:
                continue
            seen.add(name)
            box = self._boxes[name]
            yield box
            waiting += [_box_of(to) for row in box.rows for to in row.to]

    def _names(self, ids: Iterable[int | None]) -> list[str]:
        return [self._by_id[number] for number in ids if number in self._by_id]

    def _all(self) -> Iterator[Box]:
        for tb in self._tcp["bind_buckets"]:
            owners = [f"{name}.sk_bind_node" for name in self._names(tb["owners"])]
            yield Box(
                f"tb{tb['port']}",
                "inet_bind_bucket",
                [
                    Row("port", str(tb["port"])),
                    Row("fastreuse", str(tb["fastreuse"])),
                    Row("num_owners", str(len(tb["owners"]))),
                    Row("owners", to=owners),
                ],
            )
        for sk in [*self._tcp["listeners"], *self._tcp["connections"]]:
            yield self._sock(sk)
        for req in self._tcp["requests"]:
            yield self._request(req)
        for tw in self._tcp["time_wait"]:
            rows = [*_addresses(tw), Row("tw_substate", f"TCP_{tw['substate']}")]
            yield Box(f"tw{tw['id']}", "tcp_timewait_sock", rows)
        for listener in self._tcp["listeners"]:
            for waiting in listener["accept_queue"]:
                rows = [
                    Row("rsk_listener", to=self._names([listener["id"]])),
                    Row("sk", to=self._names([waiting["child"]])),
                ]
                yield Box(f"req{waiting['request']}", "tcp_request_sock", rows)

    def _sock(self, sk: dict[str, Any]) -> Box:
        rows = _addresses(sk)
        if sk["bind_bucket"]:
            rows += [Row("sk_bind_node"), Row("icsk_bind_hash", to=[f"tb{sk['bind_bucket']}"])]
        if "accept_queue" in sk:
            queue = [f"req{waiting['request']}" for waiting in sk["accept_queue"]]
            rows += [
                Row("sk_max_ack_backlog", str(sk["backlog"])),
                Row("icsk_accept_queue.qlen", str(sk["qlen"])),
                Row("icsk_accept_queue.rskq_accept_head", to=queue),
            ]
        return Box(f"sk{sk['id']}", "tcp_sock", rows)

    def _request(self, req: dict[str, Any]) -> Box:
        rows = [*_addresses(req), Row("rsk_listener", to=self._names([req["listener"]]))]
        return Box(
            f"req{req['id']}", "tcp_request_sock", [*rows, Row("num_timeout", str(req["num_timeout"]))]
        )


def _addresses(entry: dict[str, Any]) -> list[Row]:
    """What all that hang in ehash or listening_hash share: struct sock_common."""
    rows = [Row("sk_state", f"TCP_{entry['state']}"), Row("sk_node"), Row("local", entry["local"])]
    return rows if entry["state"] == "LISTEN" else [*rows, Row("peer", entry["remote"])]


def _box_of(to: str) -> str:
    return to.partition(".")[0]


# -- as text -------------------------------------------------------------------------------------------------------


def text(boxes: list[Box]) -> str:
    """Boxes of characters one under the other, 78 columns at most; a pointer says the name of the box it leads to."""
    return "\n\n".join("\n".join(_drawn(box)) for box in boxes) + "\n"


def _drawn(box: Box) -> Iterator[str]:
    title = box.struct if box.name == box.struct else f"{box.name}: {box.struct}"
    lines = [part for row in box.rows for part in _folded(row.text())] or ["(empty)"]
    width = max(len(title), *map(len, lines))
    rule = f"+{'-' * (width + 2)}+"
    yield from (rule, f"| {title:<{width}} |", rule)
    yield from (f"| {line:<{width}} |" for line in lines)
    yield rule


def _folded(line: str) -> Iterator[str]:
    """A row of many pointers goes on in lines of its own."""
    room = _WIDTH - 4
    while len(line) > room:
        cut = line.rfind(", ", 0, room)
        if cut < 0:
            break
        yield line[: cut + 1]
        line = "    " + line[cut + 2 :]
    yield line


# -- for graphviz ----------------------------------------------------------------------------------------------------


def dot(boxes: list[Box]) -> str:
    """A digraph: records with a port for each row, pointers from row to box."""
    ports = {box.name: {row.name: n for n, row in enumerate(box.rows)} for box in boxes}
    lines = [
        "digraph tables {",
        "  rankdir=LR;",
        '  node [shape=record, fontname="monospace", fontsize=10];',
        "  edge [arrowsize=0.7];",
    ]
    for box in boxes:
        rows = "|".join(f"<r{n}> {_escaped(_label(row))}\\l" for n, row in enumerate(box.rows)) or "(empty)"
        title = box.struct if box.name == box.struct else f"{box.struct} {box.name}"
        lines.append(f'  "{box.name}" [label="{_escaped(title)}|{rows}"];')
    for box in boxes:
        for n, row in enumerate(box.rows):
            lines += [
                f'  "{box.name}":r{n} -> {_target(to, ports)};' for to in row.to if _box_of(to) in ports
            ]
    return "\n".join([*lines, "}"]) + "\n"


def _target(to: str, ports: dict[str, dict[str, int]]) -> str:
    name, _, row = to.partition(".")
    return f'"{name}":r{ports[name][row]}' if row in ports[name] else f'"{name}"'


def _label(row: Row) -> str:
    return f"{row.name} = {row.value}" if row.value else row.name


def _escaped(label: str) -> str:
    for char in '\\{}|<>" ':
        label = label.replace(char, "\\" + char)
    return label


def plain(boxes: list[Box]) -> list[dict[str, Any]]:
    """What json.dumps takes."""
    return [
        {
            "name": box.name,
            "struct": box.struct,
            "rows": [{"name": row.name, "value": row.value, "to": row.to} for row in box.rows],
        }
        for box in boxes
    ]
