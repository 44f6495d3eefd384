# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import socket

import pytest

from stack.inspect import ss, ssfilter
from stack.inspect.ss import Sock
from stack.inspect.ssfilter import FilterError


def sock(local: str, peer: str, state: str = "ESTABLISHED") -> Sock:
    entry = {"state": state, "local": local, "remote": peer, "ack_backlog": 0, "backlog": 5}
    empty = {"devices": [], "udp": [], "tcp": {"connections": [], "requests": [], "time_wait": []}}
    empty["tcp"]["listeners"] = [entry]  # type: ignore[call-overload]
    return ss.sockets(empty)[0]


SOCKS = {
    "web": sock("10.0.2.2:80", "10.0.2.15:40000"),
    "echo": sock("10.0.2.2:7", "10.0.2.16:40001", "TIME_WAIT"),
    "mapped": sock("[::ffff:10.0.2.2]:7", "[::ffff:10.0.2.15]:50000"),
    "six": sock("[fd00::2]:7", "[fd00::15]:50001"),
    "half": sock("10.0.2.2:80", "10.0.2.15:40002", "NEW_SYN_RECV"),
    "opening": sock("10.0.2.2:1024", "10.0.2.15:22", "SYN_SENT"),
    "listener": sock("0.0.0.0:80", "0.0.0.0:0", "LISTEN"),
}


def chosen(words: str, states: frozenset[str] = ssfilter.ALL) -> set[str]:
    wanted = ssfilter.parse([words], states, {"http": 80, "echo": 7}.__getitem__)
    return {name for name, one in SOCKS.items() if wanted(one)}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", "web mapped six opening"),
        ("state established", "web mapped six"),
        ("state all", "web echo mapped six half opening listener"),
        ("state connected", "web echo mapped six half opening"),
        ("state synchronized", "web echo mapped six half"),
        ("state bucket", "echo half"),
        ("state big", "web mapped six opening listener"),
        ("state time-wait state listening", "echo listener"),
        ("exclude listening exclude established", "echo half opening"),
        ("state connected exclude time-wait", "web mapped six half opening"),
        ("state ESTAB", "web mapped six"),
        ("state closed", ""),
    ],
)
def test_states_are_chosen_by_name_and_group(words: str, found: str) -> None:
    assert chosen(words, ssfilter.DEFAULT) == set(found.split())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("sport = :7", "echo mapped six"),
        ("sport=7", "echo mapped six"),
        ("sport == :echo", "echo mapped six"),
        ("sport != :7 and sport ne 80", "opening"),
        ("dport >= :50000", "mapped six"),
        ("dport gt 50000", "six"),
        ("dport < 40000", "opening listener"),
        ("dport le :22", "opening listener"),
        ("dst 10.0.2.16", "echo"),
        ("dst = 10.0.2.15:40000", "web"),
        ("dst 10.0.2.15", "web mapped half opening"),
        ("dst [::ffff:10.0.2.15]", "web mapped half opening"),
        ("dst ::ffff:10.0.2.0/124", "web mapped half opening"),
        ("dst ::ffff:0:0/96", "web echo mapped half opening listener"),
        ("dst ::/0", " ".join(SOCKS)),
        ("dst 0.0.0.0/0", "web echo mapped half opening listener"),
        ("dst != [::ffff:0:0]/96:50000", "web echo six half opening listener"),
        ("dst ::/64", "web echo mapped half opening listener"),
        ("dst != 10.0.2.0/24", "six listener"),
        ("dst 10.0.2.0/28:40000", "web"),
        ("dst fd00::15", "six"),
        ("dst [fd00::]/64:50001", "six"),
        ("dst [fd00::/64]:50001", "six"),
        ("dst inet6:[fd00::15]:1", ""),
        ("src *:80", "web half listener"),
        ("src :80", "web half listener"),
        ("src *", " ".join(SOCKS)),
        ("( sport = :7 )", "echo mapped six"),
        ("(sport=:7)and(dst 10.0.2.16)", "echo"),
        ("sport = 7 dst fd00::/16", "six"),
        ("not sport = 7 & dport != 0", "web half opening"),
        ("! ( sport = 7 || dport = 0 )", "web half opening"),
        ("sport = 22 or dport = 22 and src 10.0.2.2", "opening"),
        ("state established ( dport = :50000 or dport = :50001 )", "mapped six"),
    ],
)
def test_expression_says_which_ends(words: str, found: str) -> None:
    assert chosen(words) == set(found.split())


@pytest.mark.parametrize(
    ("words", "fact", "evidence"),
    [
        ("state", "the filter ends too early", "after 'state' there should be a state"),
        ("state sleeping", "there is no state 'sleeping'", "established"),
        ("dport", "the filter ends too early", "one of = !="),
        (
            "dport 7",
            "the filter is not understood",
            "after 'dport' there should be one of = != < > <= >=, and there",
        ),
        ("dport =", "the filter ends too early", "a port"),
        ("dport = :70000", "'70000' is no port", "65535"),
        ("dst 10.0.2.400", "'10.0.2.400' is no address", "10.0.2.400"),
        ("dst 10.0.2.1/40", "'10.0.2.1/40' is no address", "40"),
        ("dst example.org", "'example.org' is no address", "example.org"),
        ("( sport = 7", "the filter ends too early", "closing parenthesis"),
        ("sport = 7 )", "the filter is not understood", "after 'sport = 7' there should be the end"),
        ("sport = 7 and", "the filter ends too early", "after 'sport = 7 and'"),
        ("nonsense", "the filter is not understood", "src, dst, sport, dport"),
        ("sport = 7 state established", "the filter is not understood", "state comes first"),
        ("()", "the filter is not understood", "after '('"),
    ],
)
def test_filter_that_is_none_is_told_why(words: str, fact: str, evidence: str) -> None:
    with pytest.raises(FilterError) as caught:
        ssfilter.parse([words])
    assert caught.value.fact == fact
    assert evidence in caught.value.evidence
    assert caught.value.remedy


@pytest.mark.parametrize(
    "host",
    [
        "10.0.2.[15]", "[10.0.2.15]", "10.0.2.15]:80", "10.0.2.15]", "[10.0.2.15", "[10.0.2.15:80]", "[fd00::15",
        "fd00::15]", "[[fd00::15]]", "[fd00::1]5", "fd00::[15]", "[]", "[]:80", "[*]:80",
    ],
)  # fmt: skip
def test_brackets_are_a_pair_round_an_ipv6_address(host: str) -> None:
    with pytest.raises(FilterError) as caught:
        ssfilter.parse(["dst", host])
    assert caught.value.fact == f"{host!r} is no address"


@pytest.mark.parametrize(
    "host", ["[fe80::1%eth0]", "fe80::1%eth0", "[fe80::1%eth0]:80", "fe80::%1/64", "*%eth0"]
)
def test_scope_is_refused_because_ends_have_none(host: str) -> None:
    with pytest.raises(FilterError) as caught:
        ssfilter.parse(["src", host])
    assert caught.value.fact == f"{host!r} is no address"
    assert "scope" in caught.value.evidence


@pytest.mark.parametrize("port", ["9" * 5000, "65536", "\udcff"])
@pytest.mark.parametrize("words", ["dport = {}", "dport = :{}", "dst 10.0.2.15:{}", "dst [fd00::15]:{}"])
def test_port_that_cannot_even_be_looked_up_is_none(words: str, port: str) -> None:
    with pytest.raises(FilterError, match="is no port"):
        ssfilter.parse([words.format(port)], service=socket.getservbyname)


@pytest.mark.parametrize("opening", ["(", "not ", "! (", "sport = 7 or not dport = 8 and ("])
def test_filter_nested_too_deep_is_refused(opening: str) -> None:
    with pytest.raises(FilterError, match="the filter is nested too deep") as caught:
        ssfilter.parse([opening * 3000 + "sport = 7"])
    assert str(ssfilter.MAX_DEPTH) in caught.value.evidence


def test_filter_nested_as_deep_as_it_may_be_still_chooses() -> None:
    depth, found = ssfilter.MAX_DEPTH, {"echo", "mapped", "six"}
    assert chosen("(" * depth + "sport = 7" + ")" * depth) == found
    assert chosen("sport = 9 or sport != 9 and (" * depth + "sport = 7" + ")" * depth) == found
    assert chosen("not " * depth + "sport = 7") == found


def test_many_parentheses_beside_each_other_are_not_deep() -> None:
    assert chosen(" or ".join(["( sport = 7 )"] * 3000)) == {"echo", "mapped", "six"}


def test_service_that_is_not_known_is_no_port() -> None:
    with pytest.raises(FilterError, match="'nothing' is no port") as caught:
        ssfilter.parse(["sport = :nothing"])
    assert caught.value.evidence == "nothing is no number"
