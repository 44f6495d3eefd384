# SPDX-License-Identifier: GPL-2.0-or-later
"""What the profile's switches change: the third ACK's TSecr, and data beyond the window.  Measured on Linux 6.1 and
6.18."""

from __future__ import annotations

import pytest
from measured import FULL, LINUX_6_1, PROFILES, Host

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp, Sim

LINUX_6_18 = pytest.mark.parametrize("profile", ["linux-6.18"])
SO_RCVBUF = (1, 8)


@pytest.fixture
def host(profile: str) -> Host:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24", profile=profile)
    return Host(sim, net, sim.add_peer("10.0.2.15", net))


def _request(host: Host) -> tuple[Socket, RawTcp, int]:
    """A listener, a request, and the TSval of its SYN-ACK."""
    sock = host.listen()
    conn, answer = host.syn(**FULL)
    assert answer.opts.ts is not None
    return sock, conn, answer.opts.ts[0]


# -- the third ACK's TSecr -------------------------------------------------------------------------------------


@pytest.mark.probe("receive window: third ACK with a TSecr that was never sent")
@LINUX_6_18
@pytest.mark.parametrize("off", [-100_000, -1, 1, 100_000])
def test_new_syn_recv_ack_with_a_tsecr_never_sent(host: Host, off: int) -> None:
    sock, conn, tsval = _request(host)
    conn.send("A", ts=(1001, (tsval + off) & 0xFFFFFFFF), seq=1)
    answer = conn.expect("A", seq=1, ack=1, window=63)
    assert answer.opts.ts == (tsval, 1000)
    assert (host.count("TSEcrRejected"), host.count("PAWSEstab"), host.count("Tcp:PassiveOpens")) == (1, 0, 0)
    conn.send("A", ts=(1001, tsval))
    host.peer.expect_nothing()
    assert sock.accept()[1][1] == 40000


@LINUX_6_18
def test_new_syn_recv_acks_with_a_tsecr_never_sent_are_answered_once_per_half_second(host: Host) -> None:
    _, conn, _ = _request(host)
    for _ in range(3):
        conn.send("A", ts=(1001, 5), seq=1)
    conn.expect("A", seq=1)
    host.peer.expect_nothing(400 * MSEC)
    assert (host.count("TSEcrRejected"), host.count("TCPACKSkippedSynRecv")) == (3, 2)


@LINUX_6_18
def test_new_syn_recv_rst_with_a_tsecr_never_sent_is_ignored(host: Host) -> None:
    sock, conn, tsval = _request(host)
    conn.send("RA", ts=(1001, 5), seq=1)
    host.peer.expect_nothing()
    assert host.count("TSEcrRejected") == 1
    conn.send("A", ts=(1001, tsval))
    host.peer.expect_nothing()
    sock.accept()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("which", ["zero", "first", "last", "between"])
def test_new_syn_recv_ack_with_a_tsecr_that_was_sent(host: Host, which: str) -> None:
    sock, conn, first = _request(host)
    answer = conn.expect("SA", within_ns=2 * SEC)
    assert answer.opts.ts is not None
    last = answer.opts.ts[0]
    assert last - first >= 1000
    echo = {"zero": 0, "first": first, "last": last, "between": first + 500}[which]
    conn.send("A", ts=(1001, echo))
    host.peer.expect_nothing()
    sock.accept()


@pytest.mark.probe("receive window: third ACK with a TSecr that was never sent")
@LINUX_6_1
@pytest.mark.parametrize("off", [-100_000, -1, 1, 100_000])
def test_new_syn_recv_ack_with_any_tsecr(host: Host, off: int) -> None:
    sock, conn, tsval = _request(host)
    conn.send("A", ts=(1001, (tsval + off) & 0xFFFFFFFF))
    host.peer.expect_nothing()
    sock.accept()


# -- data beyond the window ------------------------------------------------------------------------------------


def _small_window(host: Host, queued: int) -> tuple[RawTcp, Socket, int]:
    """A connection of a 4 KiB buffer with that much unread; also how far the window reaches beyond it."""
    sock = host.listen(before=((*SO_RCVBUF, 4096),))
    conn = host.connect()
    child, _ = sock.accept()
    if not queued:
        return conn, child, 2896
    conn.send("A", b"q" * queued)
    return conn, child, conn.expect("A", ack=1 + queued, within_ns=100 * MSEC).window


@pytest.mark.probe("receive window: data across the right edge, something unread")
@LINUX_6_18
@pytest.mark.parametrize("skip", [0, 100])
def test_established_data_ends_beyond_the_window_with_data_unread(host: Host, skip: int) -> None:
    conn, child, room = _small_window(host, 500)
    conn.send("A", b"x" * (room - skip + 1), seq=501 + skip)
    conn.expect("A", seq=1, ack=501, window=room)
    assert host.count("BeyondWindow") == 1
    assert host.net.drop_reasons["TCP_INVALID_END_SEQUENCE"] == 1
    assert len(child.recv(9999)) == 500


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("flags", "extra"), [("A", 0), ("FA", 1)])
def test_established_data_ends_at_the_right_edge(host: Host, flags: str, extra: int) -> None:
    """A FIN may stand one beyond."""
    conn, child, room = _small_window(host, 500)
    conn.send(flags, b"x" * room)
    conn.expect("A", ack=501 + room + extra, within_ns=100 * MSEC)
    assert len(child.recv(9999)) == 500 + room
    assert not host.net.drop_reasons.get("TCP_INVALID_END_SEQUENCE")


@pytest.mark.parametrize("profile", PROFILES)
def test_established_data_ends_beyond_the_window_with_nothing_unread(host: Host) -> None:
    conn, child, room = _small_window(host, 0)
    conn.send("A", b"x" * (room + 1104))
    conn.expect("A", ack=4001, within_ns=100 * MSEC)
    assert len(child.recv(9999)) == 4000


@pytest.mark.probe("receive window: wholly beyond it")
@LINUX_6_18
@pytest.mark.parametrize("length", [0, 100])
def test_established_segment_wholly_beyond_the_window(host: Host, length: int) -> None:
    conn, _, room = _small_window(host, 0)
    conn.send("A", b"x" * length, seq=1 + room + 10)
    conn.expect("A", seq=1, ack=1)
    assert host.count("BeyondWindow") == 1


@LINUX_6_1
def test_established_segment_wholly_beyond_the_window_has_no_counter(host: Host) -> None:
    conn, _, room = _small_window(host, 0)
    conn.send("A", b"x" * 100, seq=1 + room + 10)
    conn.expect("A", seq=1, ack=1)
    with pytest.raises(KeyError):
        host.count("BeyondWindow")


# -- the first window --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "size", "window"),
    [("linux-6.1", 1 << 17, 65535), ("linux-6.18", 1 << 17, 130320), ("linux-6.18", 1 << 20, 1048352)],
)
def test_new_syn_recv_first_window_of_a_large_receive_buffer(host: Host, size: int, window: int) -> None:
    sock = host.listen(before=((*SO_RCVBUF, size),))
    conn, answer = host.syn(**FULL)
    assert (answer.window, answer.opts.ts is not None) == (65535, True)
    assert answer.opts.ts is not None
    conn.send("A", ts=(1001, answer.opts.ts[0]))
    host.peer.expect_nothing()
    sk = sock.accept()[0].sk
    assert sk.rcv_wnd == window  # type: ignore[attr-defined]
