# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import inspect

import pytest

from stack.trace.notation import LEVELS, render
from stack.trace.recorder import Call, Tree
from stack.trace.source import Site


def call(name: str, *children: Call | str, site: Site | None = None) -> Call:
    made = Call(name, inspect.currentframe().f_code, site, 0)  # type: ignore[union-attr]
    made.children = list(children)
    return made


def text(root: Call, level: str = "notes") -> list[str]:
    return render(Tree(root), level).splitlines()


def site(column: int, end: int, expression: str, hint: str = "") -> Site:
    return Site((1, 1, column, end), expression, hint)


def test_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=f"take one of {', '.join(LEVELS)}"):
        render(Tree(call("tcp_v4_rcv")), "verbose")


def test_goto_opens_a_branch_for_what_follows() -> None:
    tree = call("inet_csk_get_port", "goto tb_not_found:", call("inet_bind_bucket_create"), "goto success:")
    assert text(tree) == [
        "inet_csk_get_port",
        "  -> goto tb_not_found:",
        "    -> inet_bind_bucket_create",
        "  -> goto success:",
    ]


def test_line_without_an_arrow_stands_under_the_calls_or_under_a_name_alone() -> None:
    assert text(call("sys_bind", call("inet_bind", "x = 1;"), "return 1")) == [
        "sys_bind",
        "  -> inet_bind",
        "     x = 1;",
        "  return 1",
    ]


def test_remark_on_the_own_line_stands_behind_the_name() -> None:
    assert text(call("sys_bind", "^ found it")) == ["sys_bind  // found it"]


def test_helper_that_is_not_drawn_gives_its_calls_to_its_caller() -> None:
    assert text(call("sys_bind", call("_helper", call("inet_bind")))) == ["sys_bind", "  -> inet_bind"]
    assert text(call("sys_bind", call("_helper", call("inet_bind"))), "full") == [
        "sys_bind",
        "  -> _helper",
        "    -> inet_bind",
    ]


def test_call_for_an_argument_goes_on_in_the_line_of_its_user() -> None:
    inner = call("dst_mtu", call("ipv4_mtu"), site=site(20, 30, "dst_mtu"))
    outer = call("tcp_sync_mss", call("tcp_mtu_to_mss"), site=site(0, 40, "tcp_sync_mss"))
    assert text(call("tcp_v4_syn_recv_sock", inner, outer)) == [
        "tcp_v4_syn_recv_sock",
        "  -> tcp_sync_mss -> dst_mtu -> ipv4_mtu",
        "    -> tcp_mtu_to_mss",
    ]


def test_call_through_the_address_family_is_remarked_upon_and_others_in_full_only() -> None:
    af = call("tcp_v4_init_req", site=site(0, 1, "af_ops.init_req"))
    tree = call("tcp_conn_request", af)
    assert text(tree)[1] == "  -> tcp_v4_init_req  // af_ops->init_req"
    prot = call("sys_listen", call("inet_listen", site=site(0, 1, "sock.ops.listen")))
    assert text(prot)[1] == "  -> inet_listen"
    assert text(prot, "full")[1] == "  -> inet_listen  // sock->ops->listen"


@pytest.mark.parametrize(
    ("hint", "line"),
    [
        ("// icsk->ops", "  -> inet_bind  // icsk->ops"),
        ("req =", "  -> req = inet_bind"),
        ("sk->sk_state_change ->", "  sk->sk_state_change -> inet_bind"),
        ("-> parent->sk_data_ready ->", "  -> parent->sk_data_ready -> inet_bind"),
    ],
)
def test_hint_says_how_a_call_is_drawn(hint: str, line: str) -> None:
    assert text(call("sys_bind", call("inet_bind", site=site(0, 1, "inet_bind", hint))))[1] == line


def test_same_leaf_twice_is_drawn_once_in_notes() -> None:
    tree = call("inet_bind_hash", call("sk_add_bind_node"), call("sk_add_bind_node"))
    assert text(tree) == ["inet_bind_hash", "  -> sk_add_bind_node"]
    assert len(text(tree, "full")) == 3
