# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of fields is what the classes are, and the registry has all functions that the stack stores."""

from __future__ import annotations

import ast
import importlib
import inspect
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.api.sim import Sim
from stack.freeze import registry, schema
from stack.freeze.fields import STRUCTS
from stack.freeze.reader import _manual, _Reader

ROOT = Path(__file__).parents[4]
HINT = "run tools/fields"


def modules() -> Iterator[types.ModuleType]:
    for path in sorted((ROOT / "stack").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] in ("include", "net", "kernel", "stack") and parts[-1] != "__init__":
            yield importlib.import_module(".".join(parts))


def structs() -> dict[str, type]:
    """All classes of the stack with slots, but the tables of functions."""
    return {
        name: cls
        for module in modules()
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and "__slots__" in vars(cls)
        if not name.endswith(("_ops", "_protocol", "proto", "inet_protosw"))
    }


def test_fields_are_the_slots_of_each_class() -> None:
    for name, cls in structs().items():
        assert name in STRUCTS, f"{name} is missing: {HINT}"
        slots = set(vars(cls)["__slots__"])
        assert set(STRUCTS[name][3]) == slots, f"{name}: {HINT}"


def test_fields_are_the_attributes_of_what_has_no_slots() -> None:
    net = Sim(seed=1).add_stack("10.0.2.2/24")
    for obj in (net, net.core, net.ipv4, net.ipv6):
        assert set(vars(obj)) <= set(STRUCTS[type(obj).__name__][3]), HINT


def test_fields_every_struct_can_be_made_empty_and_has_known_types() -> None:
    head = {"profile": "linux-6.1", "objects": []}
    reader = _Reader(head, _manual({"now_ns": 0, "real_ns": 0}), None)  # type: ignore[arg-type]
    for name in STRUCTS:
        if name != "Stack":
            assert type(reader._blank(name)) is schema.class_of(name)
        for kind in schema.fields_of(name).values():
            schema.checker(kind)


def _resolved(module: types.ModuleType, node: ast.expr) -> Iterator[object]:
    match node:
        case ast.IfExp(body=body, orelse=other):
            yield from _resolved(module, body)
            yield from _resolved(module, other)
        case ast.Name(id=name):
            yield getattr(module, name, None)
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            holder = getattr(module, owner, None)
            yield getattr(holder, name, None) if isinstance(holder, types.ModuleType) else None


def _stored(module: types.ModuleType) -> Iterator[object]:
    """What is assigned to a field, or handed to a timer or another struct's constructor."""
    source = inspect.getsource(module)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Attribute):
            if not any(id(owner) in registry.NAME_OF for owner in _resolved(module, target.value)):
                yield from _resolved(module, node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            made = getattr(module, node.func.id, None)
            if node.func.id in ("timer_setup", "hrtimer_init") or (
                inspect.isclass(made) and made.__name__ in STRUCTS
            ):
                for argument in node.args:
                    yield from _resolved(module, argument)


@pytest.mark.slow
def test_registry_has_every_function_that_a_field_can_hold() -> None:
    missing = {
        f"{function.__module__}.{function.__qualname__}"
        for module in modules()
        for function in _stored(module)
        if isinstance(function, types.FunctionType) and id(function) not in registry.NAME_OF
    }
    assert missing == set(), "stack/freeze/registry.py lacks these"


def test_registry_has_every_table_of_functions() -> None:
    kinds = {type(table) for table in registry.TABLES.values()}
    for module in modules():
        for name, value in vars(module).items():
            if type(value) in kinds:
                assert id(value) in registry.NAME_OF, (
                    f"stack/freeze/registry.py lacks {module.__name__}.{name}"
                )
