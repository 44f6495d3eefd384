# SPDX-License-Identifier: GPL-2.0-or-later
"""thaw: the text that freeze wrote as a Stack again.

Theory of operation
-------------------
A file may come from anybody.  Reading it makes structs of the stack (by the names in stack/freeze/fields.py), plain
containers and references to what stack/freeze/registry.py lists, and nothing else; every field's value is checked
against its type.  So a forged file can describe a stack in which nothing fits together, whose calls then fail, but it
cannot run code of its own.

First all structs are made, by their constructors with empty arguments (a compiled class has no other way), then all
values are read, then containers are filled, and last the fields are checked and set.  A new Stack is made first and
becomes object 0: its tables of handlers stay, everything else is replaced.

Afterwards the application takes its things up again: ``ndo_start_xmit`` of each device, the hooks, and its sockets, by
descriptor (``net.files.fdt``) or by their ends (``stack.api.bsd.open_sockets``).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from stack.clock import Clock, ManualClock
from stack.freeze import registry, schema
from stack.freeze.errors import FreezeError
from stack.freeze.fields import STRUCTS
from stack.net.core import dev as net_core_dev
from stack.profile import PROFILES
from stack.rng import Rng, SeededRng
from stack.stack import Stack

_OTHER_VERSION: Final = "thaw it with the version of vnic that froze it"
_DAMAGED: Final = "freeze the stack again, or take an undamaged copy of the file"
_UNSET: Final = object()
_EMPTY: Final[dict[str, Callable[[], Any]]] = {
    "bool": bool,
    "bytearray": bytearray,
    "bytes": bytes,
    "float": float,
    "int": int,
    "str": str,
    "Any": lambda: None,
    "Callable": lambda: registry.FUNCTIONS["stack.include.sock._no_op"],
    "list[int]": list,
}


@dataclass(frozen=True)
class Thawed:
    """The stack, at the moment at which it was frozen, and what the application had given to freeze."""

    stack: Stack
    application: dict[str, Any]


def thaw(text: str, clock: Clock | None = None, rng: Rng | None = None) -> Thawed:
    """A stack of a text that freeze wrote.  Without a ``clock`` it gets a ManualClock that stands where the frozen
    one stood; one that is given has to show that time first (``frozen_time`` tells).  Without ``rng`` it gets the
    seeded generator with its state; a stack with the system's generator needs one.  FreezeError for anything else."""
    head = _head(text)
    reader = _Reader(head, clock or _manual(head["clock"]), rng or _seeded(head["rng"]))
    return Thawed(reader.stack(), _of(dict, head, "application"))


def frozen_time(text: str) -> int:
    """What the clock of a frozen stack showed, in ns; FreezeError as thaw."""
    now: int = _of(int, _of(dict, _head(text), "clock"), "now_ns")
    return now


# -- the head --------------------------------------------------------------------------------------------------------


def _head(text: str) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except ValueError as error:
        raise FreezeError("this is no whole frozen stack", f"as JSON: {error}", _DAMAGED) from None
    except RecursionError:
        raise FreezeError("this is no frozen stack", "its values are nested without end", _DAMAGED) from None
    if not isinstance(head, dict) or head.get("format") != schema.FORMAT:
        raise FreezeError(
            "this is no frozen stack", f'it has no "format": "{schema.FORMAT}"', "name another file"
        )
    if head.get("version") != schema.VERSION:
        found = f"version {head.get('version')!r} of the format; this one reads {schema.VERSION}"
        raise FreezeError("the stack was frozen by another version", found, _OTHER_VERSION)
    if head.get("fields") != schema.digest():
        found = f"its structs have the digest {head.get('fields')!r}, those of this one {schema.digest()!r}"
        raise FreezeError("the stack was frozen by another version", found, _OTHER_VERSION)
    return head


def _of(kind: type, holder: dict[str, Any], name: str) -> Any:
    """A member of that very type."""
    if type(holder.get(name)) is not kind:
        raise _damaged(f'"{name}" is {str(holder.get(name))[:60]!r}, and should be a {kind.__name__}')
    return holder[name]


def _damaged(evidence: str) -> FreezeError:
    return FreezeError("the frozen stack is damaged", evidence, _DAMAGED)


def _manual(clock: Any) -> ManualClock:
    times = clock if isinstance(clock, dict) else {}
    now, real = _of(int, times, "now_ns"), _of(int, times, "real_ns")
    return ManualClock(now, real - now)


def _seeded(rng: Any) -> SeededRng:
    kept = rng if isinstance(rng, dict) else {}
    if kept.get("kind") != "SeededRng":
        raise FreezeError(
            "the stack had no seeded random numbers",
            f"its generator is {str(kept.get('kind'))[:40]!r}",
            "give thaw() another one: rng=SystemRng()",
        )
    return SeededRng(_of(int, kept, "state"))


class _NoNumbers:
    """For the constructor, whose secrets are replaced: the real generator must not move."""

    def get_random_u32(self) -> int:
        return 0

    def get_random_u32_below(self, ceil: int) -> int:
        return 0

    def get_random_bytes(self, nbytes: int) -> bytes:
        return bytes(nbytes)


# -- the graph ---------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, head: dict[str, Any], clock: Clock, rng: Rng) -> None:
        self._rng = rng
        self._objects: dict[int, Any] = {}
        self._fields: dict[int, dict[str, Any]] = {}
        profile = _of(str, head, "profile")
        if profile not in PROFILES:
            raise FreezeError("the stack has an unknown profile", repr(profile), _OTHER_VERSION)
        self._net = Stack(clock, _NoNumbers(), profile)
        self._entries = _of(list, head, "objects")

    def stack(self) -> Stack:
        try:
            for entry in self._entries:
                self._make(entry)
            for entry in self._entries:
                self._read(entry)
            for number, fields in self._fields.items():
                self._set(self._objects[number], fields)
        except RecursionError:
            raise _damaged("its values are nested without end") from None
        if 0 not in self._objects:
            raise _damaged("object 0, the Stack, is missing")
        self._net.rng = self._rng
        self._net.loopback_dev.ndo_start_xmit = net_core_dev.loopback_xmit  # its wire is the stack's own
        return self._net

    def _make(self, entry: Any) -> None:
        """The empty struct or container of an entry."""
        if not isinstance(entry, dict):
            raise _damaged(f"{str(entry)[:60]!r} is no object")
        number = _of(int, entry, "id")
        if number in self._objects:
            raise _damaged(f"there are two objects {number}")
        if "struct" not in entry:
            self._objects[number] = _empty_container(entry.get("value"))
            return
        struct = _of(str, entry, "struct")
        if struct not in STRUCTS or (struct == "Stack") != (number == 0):
            raise _damaged(f"object {number} is a {struct[:40]!r}")
        self._objects[number] = self._net if number == 0 else self._blank(struct)

    def _blank(self, kind: str) -> Any:
        """A value of a constructor's argument: anything of that type."""
        if kind == "Stack":
            return self._net
        if kind in STRUCTS:
            needs = STRUCTS[kind][2] or next((STRUCTS[b][2] for b in _bases(kind) if STRUCTS[b][2]), "")
            return schema.class_of(kind)(*(self._blank(one) for one in needs.split("; ") if one))
        if kind in _EMPTY:
            return _EMPTY[kind]()
        if kind.startswith("tuple["):
            return tuple(self._blank(one) for one in kind[6:-1].split(", "))
        if " | " in kind:
            return self._blank(kind.split(" | ")[0])
        return next(table for table in registry.TABLES.values() if type(table).__name__ == kind)

    def _read(self, entry: dict[str, Any]) -> None:
        number = entry["id"]
        if "struct" not in entry:
            self._fill(self._objects[number], entry["value"])
            return
        fields = _of(dict, entry, "fields")
        self._fields[number] = {name: self._value(value) for name, value in fields.items()}

    def _fill(self, container: Any, value: Any) -> None:
        if isinstance(container, dict):
            container.update(self._pairs(value["dict"]))
        elif isinstance(container, bytearray):
            container.extend(_unhex(value["bytearray"]))
        else:
            container.extend(map(self._value, value["deque"] if isinstance(value, dict) else value))

    def _pairs(self, pairs: Any) -> dict[Any, Any]:
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in pairs
        ):
            raise _damaged(f"{str(pairs)[:60]!r} are no pairs")
        try:
            return {self._value(key): self._value(value) for key, value in pairs}
        except TypeError as error:
            raise _damaged(f"a key of a dict: {error}") from None

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(one) for one in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise _damaged(f"{str(value)[:60]!r} is no value")
        ((kind, inner),) = value.items()
        return self._tagged(kind, inner)

    def _tagged(self, kind: str, inner: Any) -> Any:
        if kind == "ref":
            if type(inner) is not int or inner not in self._objects:
                raise _damaged(f"there is no object {str(inner)[:20]}")
            return self._objects[inner]
        if kind in ("function", "table"):
            return _registered(registry.FUNCTIONS if kind == "function" else registry.TABLES, inner)
        if kind in ("bytes", "view", "bytearray"):
            raw = _unhex(inner)
            return raw if kind == "bytes" else memoryview(raw) if kind == "view" else bytearray(raw)
        if kind == "dict":
            return self._pairs(inner)
        if kind in ("tuple", "deque", "set") and isinstance(inner, list):
            items = [self._value(one) for one in inner]
            return tuple(items) if kind == "tuple" else deque(items) if kind == "deque" else _set(items)
        raise _damaged(f"there is no kind of value {kind[:40]!r}")

    def _set(self, obj: Any, fields: dict[str, Any]) -> None:
        struct = schema.name_of(type(obj))
        assert struct is not None
        wanted = schema.fields_of(struct)
        for name, value in fields.items():
            kind = wanted.get(name)
            if kind is None:
                raise _damaged(f"a {struct} has no field {name[:40]!r}")
            if not schema.checker(kind)(value):
                raise _damaged(f"{struct}.{name} is {_shown(value)}, and should be: {kind}")
            setattr(obj, name, value)
        for name in wanted.keys() - fields.keys():
            if getattr(obj, name, _UNSET) is not _UNSET:
                raise _damaged(f"a {struct} lacks its field {name!r}")


def _bases(struct: str) -> list[str]:
    base = STRUCTS[struct][1]
    return [base, *_bases(base)] if base else []


def _empty_container(value: Any) -> Any:
    if isinstance(value, list):
        return []
    kinds: dict[str, Callable[[], Any]] = {"dict": dict, "deque": deque, "bytearray": bytearray}
    if isinstance(value, dict) and len(value) == 1 and (kind := next(iter(value))) in kinds:
        if isinstance(value[kind], str if kind == "bytearray" else list):
            return kinds[kind]()
    raise _damaged(f"{str(value)[:60]!r} is no container")


def _registered(table: dict[str, Any], name: Any) -> Any:
    if not isinstance(name, str) or name not in table:
        raise _damaged(f"{str(name)[:80]!r} is no function or table of a stack")
    return table[name]


def _unhex(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise _damaged(f"{str(text)[:40]!r} are no bytes in hexadecimal") from None


def _set(items: list[Any]) -> frozenset[Any]:
    try:
        return frozenset(items)
    except TypeError as error:
        raise _damaged(f"a member of a set: {error}") from None


def _shown(value: Any) -> str:
    """A struct by its kind, anything else as it is."""
    kind = type(value).__name__
    return f"a {kind}" if kind in STRUCTS else f"{str(value)[:40]!r} ({kind})"
