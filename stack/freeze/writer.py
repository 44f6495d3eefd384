# SPDX-License-Identifier: GPL-2.0-or-later
"""freeze: a Stack as a text.

Theory of operation
-------------------
The state is a graph of structs that hangs off the Stack.  The text is JSON: a head (format, version, digest of the
fields, profile, clock, random state), then ``objects``, the graph: each struct with an id, its name and its fields, a
field a line, in the order in which a breadth-first walk from the Stack (id 0) meets them; then ``application``, what
the caller gives, as it is.  Values are JSON's own where there is one, and else an object with one key:

    {"ref": 7}                        the struct or the shared container with that id
    {"bytes": "45000028"}             bytes in hexadecimal; "view" for a memoryview, "bytearray" likewise
    {"tuple": [...]}, {"deque": [...]}, {"set": [...]}, {"dict": [[key, value], ...]};  a list is a JSON array
    {"function": "stack.net.ipv4.tcp_timer.tcp_write_timer"}, {"table": "stack.net.ipv4.tcp_ipv4.tcp_prot"}

Lists, dicts, deques and bytearrays that are reached in more than one way (the chain of a hash table, in which each
socket knows its chain) have an id like a struct.  A field that was never set is left out.  The order of everything is
that of the walk and of the dicts: equal states give equal texts, byte for byte.

Nothing is changed: the stack goes on as if it had not been looked at.  Between calls only, not from inside of one.
What is the application's is not part of it (``schema.NOT_STATE``), and neither are frames on their way.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from stack.freeze import registry, schema
from stack.freeze.errors import FreezeError
from stack.rng import SeededRng
from stack.stack import Stack

_MUTABLE: Final = (list, dict, deque, bytearray)
_UNSET: Final = object()


def freeze(net: Stack, application: Mapping[str, Any] | None = None) -> str:
    """The whole state of a stack; ``application`` is anything that json.dumps takes.  FreezeError for what has no
    place in a file."""
    writer = _Writer(net)
    head = {
        "format": schema.FORMAT,
        "version": schema.VERSION,
        "fields": schema.digest(),
        "profile": net.profile.name,
        "clock": {"now_ns": net.clock.now_ns(), "real_ns": net.clock.real_ns()},
        "rng": _rng_state(net.rng),
    }
    lines = [f'"{name}": {_json(value)},' for name, value in head.items()]
    lines.append('"objects": [\n' + ",\n".join(writer.objects()) + "\n],")
    lines.append(f'"application": {_json(application or {})}')
    return "{\n" + "\n".join(lines) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def _rng_state(rng: Any) -> dict[str, Any]:
    """The seeded generator's state; of another there is nothing to keep."""
    return {"kind": "SeededRng", "state": rng.state} if isinstance(rng, SeededRng) else {"kind": "system"}


def _fields(obj: Any, struct: str) -> Iterator[tuple[str, Any]]:
    for name, kind in schema.fields_of(struct).items():
        value = getattr(obj, name, _UNSET)
        if value is not _UNSET:
            yield name, int(value) if kind == "int" and type(value) is bool else value


class _Writer:
    def __init__(self, net: Stack) -> None:
        self._net = net
        self._kept: list[Any] = []  # what has an id must not be collected meanwhile
        self._shared = self._find_shared()
        self._ids: dict[int, int] = {}
        self._queue: deque[Any] = deque()

    # -- which containers are reached twice --------------------------------------------------------------------------

    def _find_shared(self) -> set[int]:
        seen: Counter[int] = Counter()
        todo: deque[Any] = deque([self._net])
        while todo:
            obj = todo.popleft()
            if isinstance(obj, _MUTABLE) or schema.name_of(type(obj)) is not None:
                seen[id(obj)] += 1
                if seen[id(obj)] > 1:
                    continue
                self._kept.append(obj)
            todo.extend(self._inside(obj))
        return {id(obj) for obj in self._kept if seen[id(obj)] > 1 and isinstance(obj, _MUTABLE)}

    def _inside(self, obj: Any) -> list[Any]:
        """What a value leads to, scalars left out."""
        struct = schema.name_of(type(obj))
        if struct is not None:
            parts: Any = (value for _, value in _fields(obj, struct))
        elif isinstance(obj, dict):
            parts = chain(obj, obj.values())
        elif isinstance(obj, list | tuple | deque):
            parts = obj
        else:
            return []
        return [part for part in parts if type(part) not in (int, bool, str, bytes, float, type(None))]

    # -- writing -----------------------------------------------------------------------------------------------------

    def objects(self) -> Iterator[str]:
        self._id_of(self._net)
        while self._queue:
            obj = self._queue.popleft()
            number = self._ids[id(obj)]
            struct = schema.name_of(type(obj))
            if struct is None:
                yield f'{{"id": {number}, "value": {_json(self._contents(obj))}}}'
                continue
            try:
                lines = [f'"{name}": {_json(self._value(value))}' for name, value in _fields(obj, struct)]
            except FreezeError as error:
                raise FreezeError(error.fact, f"{error.evidence} (in a {struct})", error.remedy) from None
            yield f'{{"id": {number}, "struct": "{struct}", "fields": {{\n ' + ",\n ".join(lines) + "}}"

    def _id_of(self, obj: Any) -> int:
        number = self._ids.get(id(obj))
        if number is None:
            number = self._ids[id(obj)] = len(self._ids)
            self._queue.append(obj)
        return number

    def _value(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (int, bool, str, float):
            return value
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind is tuple:
            return {"tuple": [self._value(one) for one in value]}
        if id(value) in self._shared or schema.name_of(kind) is not None:
            return {"ref": self._id_of(value)}
        return self._contents(value)

    def _contents(self, value: Any) -> Any:
        kind = type(value)
        if kind is list:
            return [self._value(one) for one in value]
        if kind is deque:
            return {"deque": [self._value(one) for one in value]}
        if kind is dict:
            return {"dict": [[self._value(key), self._value(one)] for key, one in value.items()]}
        if kind is bytearray:
            return {"bytearray": value.hex()}
        if kind is memoryview:
            return {"view": value.hex()}
        if kind is frozenset:
            return {"set": sorted(value)}
        return _named(value)


def _named(value: Any) -> dict[str, str]:
    name = registry.NAME_OF.get(id(value))
    if name is None:
        raise FreezeError(
            "the stack holds something that cannot be frozen",
            f"{value!r} of type {type(value).__module__}.{type(value).__qualname__}",
            "take it out before freezing, or add it to stack/freeze/registry.py if it is the stack's own",
        )
    return {"function" if name in registry.FUNCTIONS else "table": name}
