# SPDX-License-Identifier: GPL-2.0-or-later
"""What writer and reader agree on: the version, the structs with their fields, and whether a value is of a type.

Types are those of stack/freeze/fields.py, as annotations spell them.  ``checker(kind)`` is a predicate on values; it
parses the annotation (nothing of it is evaluated) and looks into containers.
"""

from __future__ import annotations

import ast
import hashlib
from collections import deque
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Final

from stack.freeze import registry
from stack.freeze.fields import STRUCTS
from stack.profile import Profile

FORMAT: Final = "vnic frozen stack"
VERSION: Final = 1

# What belongs to the application or the constructor and is not in a file: who waits for a socket, the wire behind a
# device, hooks, a program that chooses a listener; clock and source of random numbers, which have a place of their own;
# the tables of handlers; what the clock said last.
NOT_STATE: Final[dict[str, tuple[str, ...]]] = {
    "Stack": (
        "clock",
        "rng",
        "profile",
        "drop_hook",
        "syn_hook",
        "inet_protos",
        "inet6_protos",
        "ptype_base",
        "tcp_jiffies32",
    ),
    "net_device": ("ndo_start_xmit",),
    "sock": ("sk_wq", "sk_user_data"),
    "sock_reuseport": ("prog",),
}

Check = Callable[[Any], bool]


def digest() -> str:
    """Of all structs and fields: two stacks that agree in it can read each other's files."""
    return hashlib.sha256(repr(sorted(STRUCTS.items())).encode()).hexdigest()[:16]


@cache
def fields_of(struct: str) -> dict[str, str]:
    """The types of all fields that are state, the base's first."""
    _, base, _, own = STRUCTS[struct]
    left_out = NOT_STATE.get(struct, ())
    kept = {name: kind for name, kind in own.items() if name not in left_out}
    return {**fields_of(base), **kept} if base else kept


@cache
def class_of(struct: str) -> type:
    found: type = getattr(import_module(STRUCTS[struct][0]), struct)
    return found


def name_of(cls: type[Any]) -> str | None:
    """The struct's name if the class is one of the stack's."""
    known = STRUCTS.get(cls.__name__)
    return cls.__name__ if known is not None and known[0] == cls.__module__ else None


# -- types -----------------------------------------------------------------------------------------------------------

_PLAIN: Final[dict[str, tuple[type, ...]]] = {
    "bool": (bool,),
    "bytearray": (bytearray,),
    "bytes": (bytes,),
    "deque": (deque,),
    "dict": (dict,),
    "frozenset": (frozenset,),
    "list": (list,),
    "memoryview": (memoryview,),
    "str": (str,),
    "tuple": (tuple,),
}


@cache
def checker(kind: str) -> Check:
    return _checker(ast.parse(kind, mode="eval").body)


def _checker(node: ast.expr) -> Check:
    match node:
        case ast.BinOp(left=left, right=right):
            first, second = _checker(left), _checker(right)
            return lambda value: first(value) or second(value)
        case ast.Constant(value=None):
            return lambda value: value is None
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            return _container(name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
        case ast.Name(id=name):
            return _simple(name)
    raise ValueError(f"{ast.unparse(node)} is no type of stack/freeze/fields.py")


def _simple(name: str) -> Check:
    if name == "Any":
        return lambda value: True
    if name == "int":
        return lambda value: type(value) is int
    if name == "float":
        return lambda value: type(value) in (int, float)
    if name == "Callable":
        return lambda value: id(value) in registry.NAME_OF
    if name in _PLAIN:
        return lambda value: type(value) in _PLAIN[name]
    if name in STRUCTS:
        return lambda value: isinstance(value, class_of(name))
    return lambda value: (
        type(value).__name__ == name and (id(value) in registry.NAME_OF or type(value) is Profile)
    )


def _container(name: str, inner: list[ast.expr]) -> Check:
    if name == "dict":
        key, item = map(_checker, inner)
        return lambda value: type(value) is dict and all(key(k) and item(v) for k, v in value.items())
    if name == "tuple" and not (
        len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...
    ):
        each = [_checker(one) for one in inner]
        return lambda value: (
            type(value) is tuple
            and len(value) == len(each)
            and all(check(one) for check, one in zip(each, value, strict=True))
        )
    outer, one_of = _PLAIN[name], _checker(inner[0])
    return lambda value: type(value) in outer and all(map(one_of, value))
