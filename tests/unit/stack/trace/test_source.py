# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import importlib.util
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from stack.trace.source import Site, marks_of, site_of

SOURCE = '''
def plain(a):
    return a


def marked(a):
    """With markers in each place."""
    #> first
    b = plain(a)
    if b:
        #> goto yes:
        plain(b)
        #> last of the block
    elif a is None:
        plain(b)
    else:
        #> only a comment
        pass
    plain(a)
    #> at the end


def through_pointers(sk, af_ops, dst_mtu):
    sk.icsk_af_ops.conn_request(sk)  #> // icsk->icsk_af_ops->conn_request
    af_ops.init_req(sk)
    plain(dst_mtu(sk))
'''


@pytest.fixture
def module(tmp_path: Path) -> ModuleType:
    path = tmp_path / "subject.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("subject", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def line_of(text: str) -> int:
    return SOURCE.splitlines().index(text) + 1


def test_marker_is_passed_when_the_statement_behind_it_begins(module: ModuleType) -> None:
    marks = marks_of(module.marked.__code__)
    assert marks.before == {
        line_of("    b = plain(a)"): ["first"],
        line_of("        plain(b)"): ["goto yes:"],
        line_of("        pass"): ["only a comment"],
    }


def test_marker_at_the_end_of_a_block_is_passed_when_the_block_is_left(module: ModuleType) -> None:
    block, end = marks_of(module.marked.__code__).leaving
    assert block == (
        line_of("        plain(b)"),
        line_of("        #> last of the block"),
        "last of the block",
    )
    docstring = line_of('    """With markers in each place."""')
    assert end == (docstring, line_of("    #> at the end"), "at the end")


def test_function_without_markers_has_none(module: ModuleType) -> None:
    assert not marks_of(module.plain.__code__)


def calls_in(function: FunctionType) -> dict[str, Site]:
    """By what is called."""
    code = function.__code__
    sites = (site_of(code, lasti) for lasti in range(0, len(code.co_code), 2))
    return {site.expression: site for site in sites if site.expression}


def test_call_through_a_pointer_is_told_from_one_by_name(module: ModuleType) -> None:
    sites = calls_in(module.through_pointers)
    hinted, unhinted = sites["sk.icsk_af_ops.conn_request"], sites["af_ops.init_req"]
    assert hinted.hint == "// icsk->icsk_af_ops->conn_request"
    assert unhinted.hint == ""
    assert unhinted.reached("tcp_v4_init_req") == "af_ops->init_req"
    assert unhinted.reached("init_req") == ""


def test_call_for_an_argument_lies_inside_the_other(module: ModuleType) -> None:
    sites = calls_in(module.through_pointers)
    assert sites["dst_mtu"].inside(sites["plain"])
    assert not sites["plain"].inside(sites["dst_mtu"])
    assert not sites["dst_mtu"].inside(sites["dst_mtu"])
    assert not sites["dst_mtu"].inside(sites["af_ops.init_req"])
