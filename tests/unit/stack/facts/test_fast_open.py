# SPDX-License-Identifier: GPL-2.0-or-later
"""Fact 56: TCP Fast Open at a listener."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from measured import FULL, Host

MakeHost = Callable[..., Host]

SOL_TCP, TCP_FASTOPEN = 6, 23
SERVER = {"tcp_fastopen": 3}
OPTION_ON = ((SOL_TCP, TCP_FASTOPEN, 5),)
NO_COOKIE = b"\x22\x02\x01\x01"


def cookie(host: Host) -> bytes:
    _, answer = host.syn(39000, options=NO_COOKIE, **FULL)
    return answer.opts.raw[22:30]


@pytest.mark.fact(56, "the cookie is 8 bytes, last and padded with two NOPs")
def test_fact_56_cookie_option_is_last_and_padded(make_host: MakeHost) -> None:
    host = make_host(sysctl=SERVER)
    host.listen(before=OPTION_ON)
    _, answer = host.syn(options=NO_COOKIE, **FULL)
    assert answer.opts.kinds == (2, 4, 8, 1, 3, 34, 1, 1)
    assert answer.opts.raw[20:22] == b"\x22\x0a"
    assert len(answer.opts.raw) == 32
    assert host.count("TCPFastOpenCookieReqd") == 1


@pytest.mark.fact(56, "a good cookie: data acknowledged, accept, read and write before the third ACK")
def test_fact_56_data_before_the_third_ack(make_host: MakeHost) -> None:
    host = make_host(sysctl=SERVER)
    listener = host.listen(before=OPTION_ON)
    option = b"\x22\x0a" + cookie(host) + b"\x01\x01"
    conn = host.peer.tcp(80)
    conn.send("S", b"hello", options=option, **FULL)
    answer = conn.expect("SA", seq=0, ack=6)
    assert 34 not in answer.opts.kinds
    child, _ = listener.accept()
    assert child.recv(100) == b"hello"
    child.send(b"answer")
    conn.expect("PA", seq=1, ack=6, payload=b"answer")
    assert host.count("TCPFastOpenPassive") == 1


@pytest.mark.fact(56, "needs bit 2 of tcp_fastopen (not set by default) and the socket option")
@pytest.mark.parametrize(("sysctl", "before"), [({}, OPTION_ON), (SERVER, ())])
def test_fact_56_needs_sysctl_and_option(
    make_host: MakeHost, sysctl: dict[str, int], before: tuple[tuple[int, int, int], ...]
) -> None:
    host = make_host(sysctl=sysctl)
    assert host.net.sysctl_get("tcp_fastopen") == sysctl.get("tcp_fastopen", 1)
    host.listen(before=before)
    conn = host.peer.tcp(80)
    conn.send("S", b"hello", options=NO_COOKIE, **FULL)
    assert 34 not in conn.expect("SA", seq=0, ack=1).opts.kinds
