# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts 52 to 55, 57 and 58: SYN cookies, TCP_DEFER_ACCEPT, SO_REUSEPORT and ports of the kernel's choice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from factworld import WSCALE, World, both, gaps_follow, times

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC
from stack.include.tcp_states import TCP_ESTABLISHED, TCP_NEW_SYN_RECV

SOL_SOCKET, SOL_TCP = 1, 6
SO_REUSEPORT, TCP_DEFER_ACCEPT = 15, 9
TS = (1000, 0)


def cookies(profile: str, **more: Any) -> World:
    return World(profile, sysctl={"tcp_syncookies": 2, **more})


@pytest.mark.fact(52, "options of a cookie SYN-ACK")
@both
@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"mss": 1460}, (2,)),
        ({"mss": 1460, "sackok": True, "wscale": 7}, (2,)),
        ({"mss": 1460, "sackok": True, "wscale": 7, "ts": TS}, (2, 4, 8, 1, 3)),
        ({"mss": 1460, "wscale": 7, "ts": TS}, (2, 1, 1, 8, 1, 3)),
        ({"mss": 1460, "sackok": True, "ts": TS}, (2, 4, 8)),
    ],
)
def test_fact_52_cookie_synack_keeps_options_only_with_time_stamps(
    profile: str, options: dict[str, Any], kinds: tuple[int, ...]
) -> None:
    w = cookies(profile)
    w.listen()
    _, answer = w.request(**options)
    assert answer.opts.kinds == kinds
    assert answer.opts.wscale == (WSCALE[profile] if 3 in kinds else None)
    assert w.states() == []


@pytest.mark.fact(52, "options of a cookie's child")
@both
@pytest.mark.parametrize(
    ("options", "snd_wscale", "sack"),
    [
        ({"sackok": True, "wscale": 7}, 7, True),
        ({"sackok": True, "wscale": 15}, 14, True),
        ({"wscale": 7}, 7, False),
        ({"sackok": True}, None, True),
    ],
)
def test_fact_52_child_gets_the_options_back(
    profile: str, options: dict[str, Any], snd_wscale: int | None, sack: bool
) -> None:
    w = cookies(profile)
    w.sim.run_for(SEC)
    listener = w.listen()
    _, child = w.connect(listener, mss=1460, ts=TS, **options)
    opt = child.sk.rx_opt  # type: ignore[attr-defined]
    assert (opt.tstamp_ok, bool(opt.sack_ok), opt.wscale_ok) == (True, sack, snd_wscale is not None)
    scales = (opt.snd_wscale, opt.rcv_wscale)
    assert scales == ((0, 0) if snd_wscale is None else (snd_wscale, WSCALE[profile]))


@pytest.mark.fact(53, "tcp_syncookies=2")
@both
def test_fact_53_syncookies_2_always_uses_cookies(profile: str) -> None:
    w = cookies(profile)
    listener = w.listen()
    for i in range(3):
        w.request(sport=40000 + i)
    assert w.states() == []
    assert listener.sk.icsk_accept_queue.qlen == 0  # type: ignore[attr-defined]
    assert w.counted() == {"SyncookiesSent": 3, "TCPReqQFullDoCookies": 3}


@pytest.mark.fact(53, "bad cookie")
@both
def test_fact_53_bad_cookie_draws_rst_and_counts_where_cookies_were_sent(profile: str) -> None:
    w = cookies(profile)
    w.listen()
    conn, _ = w.request()
    w.mark()
    conn.send("A", ack=2)
    conn.expect("R", seq=2)
    assert w.counted() == {"SyncookiesFailed": 1, "OutRsts": 1}


@pytest.mark.fact(53, "bad cookie")
@both
def test_fact_53_bad_cookie_at_a_listener_that_never_overflowed_is_just_a_rst(profile: str) -> None:
    w = World(profile)
    w.listen()
    w.peer.tcp(80).send("A", ack=77)
    w.peer.expect("R", seq=77)
    assert w.counted() == {"OutRsts": 1}


@pytest.mark.fact(53, "bad cookie while the jiffies pass zero")
@both
@pytest.mark.parametrize(("uptime", "counts"), [(280, 0), (330, 1), (415, 1), (430, 0)])
def test_fact_53_between_5_and_7_minutes_of_uptime_it_counts_anywhere(
    profile: str, uptime: int, counts: int
) -> None:
    """A listener that never sent a cookie has 0 for the time of its last one, and the jiffies begin 300 s before 0."""
    w = World(profile)
    w.sim.run_for(uptime * SEC)
    w.listen()
    w.peer.tcp(80).send("A", ack=77)
    w.peer.expect("R", seq=77)
    assert w.counted().get("SyncookiesFailed", 0) == counts


@pytest.mark.fact(54, "MSS of a cookie")
@both
@pytest.mark.parametrize(
    ("mss", "child_mss"),
    [
        (None, 536),
        (48, 536),
        (1299, 536),
        (1300, 1300),
        (1439, 1300),
        (1440, 1440),
        (1459, 1440),
        (1460, 1460),
    ],
)
def test_fact_54_child_has_one_of_four_mss(profile: str, mss: int | None, child_mss: int) -> None:
    w = cookies(profile)
    listener = w.listen()
    conn = w.peer.tcp(80)
    conn.send("S", mss=mss)
    conn.expect("SA")
    conn.send("A")
    w.peer.expect_nothing()
    assert listener.accept()[0].sk.mss_cache == child_mss  # type: ignore[attr-defined]


@pytest.mark.fact(54, "validity of a cookie")
@both
@pytest.mark.parametrize(
    ("made_ms", "acked_ms", "good"),
    [
        (50_850, 170_700, True),  # two minute boundaries, at 110.8 s and at 170.8 s, end it: nearly 120 s
        (50_850, 170_850, False),
        (110_750, 170_700, True),  # nearly 60 s
        (110_750, 170_850, False),
        (110_850, 170_850, True),
    ],
)
def test_fact_54_cookie_is_good_for_less_than_two_minute_boundaries(
    profile: str, made_ms: int, acked_ms: int, good: bool
) -> None:
    w = cookies(profile)
    w.sim.run_until(made_ms * MSEC)
    w.listen()
    conn, _ = w.request(mss=1460)
    w.sim.run_until(acked_ms * MSEC)
    conn.send("A")
    if good:
        w.peer.expect_nothing()
        assert w.states() == [TCP_ESTABLISHED]
    else:
        conn.expect("R", seq=1)
        assert w.states() == []


@pytest.mark.fact(54, "a cookie ACK and a full accept queue")
@both
def test_fact_54_cookie_ack_that_meets_a_full_accept_queue_is_silent(profile: str) -> None:
    w = cookies(profile)
    w.listen(0)
    first, _ = w.request(sport=40000)
    second, _ = w.request(sport=40001)
    first.send("A")
    w.peer.expect_nothing()
    w.mark()
    second.send("A")
    w.peer.expect_nothing()
    assert w.counted() == {"SyncookiesRecv": 1, "ListenOverflows": 1, "ListenDrops": 1}


@pytest.mark.fact(54, "a cookie ACK with data")
@both
def test_fact_54_cookie_ack_may_carry_data(profile: str) -> None:
    w = cookies(profile)
    listener = w.listen()
    conn, _ = w.request()
    conn.send("PA", b"hello")
    conn.expect("A", ack=6)
    assert listener.accept()[0].recv(10) == b"hello"


@pytest.mark.fact(54, "a cookie ACK off by one")
@both
def test_fact_54_ack_off_by_one_is_refused_seq_off_by_one_is_not(profile: str) -> None:
    w = cookies(profile)
    listener = w.listen()
    conn, _ = w.request(mss=1460)
    conn.send("A", ack=2)
    conn.expect("R", seq=2)
    assert w.states() == []
    conn.send("A", seq=2)  # the difference eats into the index of the MSS
    w.peer.expect_nothing()
    assert w.states() == [TCP_ESTABLISHED]
    assert listener.accept()[0].sk.mss_cache == 1440  # type: ignore[attr-defined]


@pytest.mark.fact(55, "TCP_DEFER_ACCEPT")
@both
def test_fact_55_defer_accept_5_reads_7_and_wants_data(profile: str) -> None:
    w = World(profile)
    listener = w.listen(before=((SOL_TCP, TCP_DEFER_ACCEPT, 5),))
    assert listener.getsockopt(SOL_TCP, TCP_DEFER_ACCEPT) == 7
    conn, _ = w.request()
    w.mark()
    conn.send("A")
    w.peer.expect_nothing(3500 * MSEC)  # no SYN-ACK at 1 and 3 s
    assert w.states() == [TCP_NEW_SYN_RECV]
    counted = w.counted()
    assert counted.pop("TCPDeferAcceptDrop") == 1
    assert set(counted) <= {"TCPTimeouts"}
    conn.send("PA", b"x")
    conn.expect("A", ack=2)
    assert listener.accept()[0].recv(4) == b"x"


@pytest.mark.fact(55, "TCP_DEFER_ACCEPT, silence")
@both
def test_fact_55_after_a_bare_ack_resends_begin_at_7_s(profile: str) -> None:
    w = World(profile)
    w.listen(before=((SOL_TCP, TCP_DEFER_ACCEPT, 5),))
    conn, _ = w.request()
    conn.send("A")
    resent = w.flight(conn, 45 * SEC)
    assert {s.flags for s in resent} == {"SA"}
    # measured: 7.1, 15.3, 31.4 s; the timer ran in silence at 1 and 3 s
    sent = times(w, resent, 0)
    assert len(sent) == 3
    assert 7 <= sent[0] <= 7.4
    assert gaps_follow([t - sent[0] for t in sent[1:]], [8, 16])


@pytest.mark.fact(55, "TCP_DEFER_ACCEPT, second bare ACK")
@both
def test_fact_55_bare_ack_to_the_resend_makes_the_child(profile: str) -> None:
    w = World(profile)
    listener = w.listen(before=((SOL_TCP, TCP_DEFER_ACCEPT, 5),))
    conn, _ = w.request()
    conn.send("A")
    conn.expect("SA", within_ns=8 * SEC)
    conn.send("A")
    w.peer.expect_nothing()
    child, _ = listener.accept()
    with pytest.raises(BlockingIOError):
        child.recv(1)


@pytest.mark.fact(57, "SO_REUSEPORT")
@both
def test_fact_57_reuseport_splits_by_hash_not_by_turns(profile: str) -> None:
    w = World(profile)
    listeners = [w.listen(64, before=((SOL_SOCKET, SO_REUSEPORT, 1),)) for _ in range(4)]
    turns = []
    for i in range(64):
        before = [sock.sk.sk_ack_backlog for sock in listeners]
        conn = w.peer.tcp(80, sport=40000 + i)
        conn.handshake()
        now = [sock.sk.sk_ack_backlog for sock in listeners]
        turns.append(next(n for n in range(4) if now[n] != before[n]))
    share = [turns.count(n) for n in range(4)]
    # Measured: 19/18/10/17, 17/17/14/16, 9/16/18/21, 16/17/12/19.  Fewer than 4 or more than 30 of 64 by fair
    # chance: once in ten thousand.
    assert sum(share) == 64
    assert min(share) >= 4
    assert max(share) <= 30
    assert turns != [n % 4 for n in range(64)]
    assert any(a == b for a, b in itertools.pairwise(turns))


@pytest.mark.fact(57, "SO_REUSEPORT")
@both
def test_fact_57_the_same_4_tuple_falls_to_the_same_listener(profile: str) -> None:
    w = World(profile)
    listeners = [w.listen(64, before=((SOL_SOCKET, SO_REUSEPORT, 1),)) for _ in range(4)]
    fell = []
    for _ in range(4):
        conn = w.peer.tcp(80, sport=40007)
        conn.handshake()
        fell.append([sock.sk.sk_ack_backlog for sock in listeners].index(1))
        child, _ = listeners[fell[-1]].accept()
        conn.send("R")
        w.peer.expect_nothing()
        child.close()
    assert len(set(fell)) == 1


@pytest.mark.fact(58, "bind to port 0")
@both
def test_fact_58_bind_0_takes_odd_ports_of_the_range(profile: str) -> None:
    w = World(profile)
    ports = []
    for _ in range(40):
        sock = Socket(w.net)
        sock.bind(("", 0))
        ports.append(sock.getsockname()[1])
    assert all(port % 2 == 1 and 32768 <= port <= 60999 for port in ports)
    assert len(set(ports)) == 40
    assert max(ports) - min(ports) > 5000  # scattered, not counted up
