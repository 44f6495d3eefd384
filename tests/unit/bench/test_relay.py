# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from struct import pack

import pytest

from bench.guests import ahead_of_others, counters, newest
from bench.paths import Peer, compared, head
from bench.relay import ETHERNET, FIN, Measured, Relay, Stopwatch, Stream, is_fin, payload_size
from bench.transfer import Scenario

ACK, UDP, TCP = 0x10, 17, 6


def segment(payload: bytes = b"", flags: int = ACK, protocol: int = TCP, options: bytes = b"") -> bytes:
    """A frame with a TCP segment between nobody and nobody, its checksums left out."""
    tcp = pack("!HHIIBBHHH", 1, 2, 3, 4, (20 + len(options)) // 4 << 4, flags, 100, 0, 0) + options + payload
    return ETHERNET + pack("!BBHHHBBHII", 0x45, 0, 20 + len(tcp), 0, 0, 64, protocol, 0, 0, 0) + tcp


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


@dataclass(eq=False)
class FakePort:
    """Hands out what it was made with, keeps what it is given."""

    sends: list[bytes] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)

    def fileno(self) -> int:
        raise AssertionError("nobody waits for it")

    def take(self) -> Iterator[bytes]:
        sends, self.sends = self.sends, []
        yield from sends

    def give(self, frame: bytes) -> None:
        self.given.append(frame)


def test_payload_is_counted_by_the_headers_without_options_and_padding() -> None:
    assert payload_size(segment(b"x" * 1448, options=bytes(12))) == 1448
    assert payload_size(segment(options=bytes(12)) + bytes(6)) == 0


def test_fin_is_told_from_other_flags() -> None:
    assert is_fin(segment(flags=ACK | FIN))
    assert not is_fin(segment(b"x", flags=ACK | 8))


def test_stopwatch_runs_from_the_first_byte_to_the_receivers_fin_and_passes_everything_on() -> None:
    port = FakePort()
    watch = Stopwatch(port)
    watch.give(segment())
    assert watch.began == 0
    frames = [segment(b"x"), segment(b"y", flags=ACK | FIN)]
    for frame in frames:
        watch.give(frame)
    assert watch.began > 0
    assert watch.ended == 0, "the sender's FIN says nothing about what has arrived"
    port.sends = [segment(), segment(flags=ACK | FIN)]
    assert len(list(watch.take())) == 2
    assert watch.seconds() > 0
    assert port.given == [segment(), *frames]


def test_stopwatch_keeps_its_time_when_the_fin_is_sent_again() -> None:
    port = FakePort()
    watch = Stopwatch(port)
    watch.give(segment(b"x"))
    port.sends = [segment(flags=ACK | FIN)]
    list(watch.take())
    ended = watch.ended
    port.sends = [segment(flags=ACK | FIN)]
    list(watch.take())
    assert watch.ended == ended


def test_stopwatch_of_a_connection_without_an_end_is_refused() -> None:
    watch = Stopwatch(FakePort())
    watch.give(segment(b"x"))
    with pytest.raises(AssertionError, match="came to its end"):
        watch.seconds()


def test_stream_passes_tcp_only_and_waits_for_the_rest_of_a_frame() -> None:
    ours, qemus = socket.socketpair()
    with ours, qemus:
        port, wanted = Stream(ours), segment(b"x" * 100)
        arp = bytes(12) + b"\x08\x06" + bytes(28)
        qemus.sendall(framed(arp) + framed(segment(protocol=UDP)) + framed(wanted)[:50])
        assert list(port.take()) == []
        qemus.sendall(framed(wanted)[50:])
        assert list(port.take()) == [wanted]
        port.give(wanted)
        assert qemus.recv(4096) == framed(wanted)


def test_stream_refuses_a_frame_that_is_more_than_a_packet() -> None:
    ours, qemus = socket.socketpair()
    with ours, qemus:
        qemus.sendall(framed(segment(b"x" * 2896)))
        with pytest.raises(AssertionError, match="leaves segmentation to its card"):
            list(Stream(ours).take())


def test_stream_says_that_the_guest_has_ended() -> None:
    ours, qemus = socket.socketpair()
    with ours:
        qemus.close()
        with pytest.raises(ConnectionError, match="the guest has ended"):
            list(Stream(ours).take())


def test_stream_drained_has_nothing_more() -> None:
    ours, qemus = socket.socketpair()
    with ours, qemus:
        port = Stream(ours)
        qemus.sendall(framed(segment(b"of an earlier connection")))
        port.drain()
        qemus.sendall(framed(segment()))
        assert list(port.take()) == [segment()]


def test_relay_draws_the_same_losses_for_the_same_seed() -> None:
    arrived = []
    for _ in range(2):
        sender = FakePort([segment(pack("!I", i)) for i in range(200)])
        relay = Relay(sender, FakePort(), Scenario(loss=0.1, seed=3))
        relay.take(sender)
        arrived.append([frame for _, _, _, frame in sorted(relay.flight, key=lambda item: item[1])])
    assert arrived[0] == arrived[1]
    assert 150 < len(arrived[0]) < 200


def test_relay_gives_what_has_arrived_to_the_other_end_in_order() -> None:
    frames = [segment(pack("!I", i)) for i in range(5)]
    sender, receiver = FakePort(list(frames)), FakePort()
    relay = Relay(sender, receiver, Scenario(rtt_ms=0))
    relay.take(sender)
    while relay.flight:
        relay.deliver()
    assert receiver.given == frames
    assert len(relay.late) == 5
    assert min(relay.late) >= 0


def test_relay_that_delivered_nothing_was_not_late() -> None:
    assert Relay(FakePort(), FakePort(), Scenario()).late_ms() == 0


def test_thread_that_has_ended_does_not_keep_the_others_from_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The main thread plays the one that ends after it was listed; another is there while the block runs."""
    calls: list[tuple[bool, int]] = []

    def sched_setscheduler(task: int, policy: int, param: os.sched_param) -> None:
        calls.append((task == os.getpid(), policy))
        if task == os.getpid():
            raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr(os, "sched_setscheduler", sched_setscheduler)
    end = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(end.wait)
        try:
            with ahead_of_others(os.getpid()):
                pass
        finally:
            end.set()
    assert (True, os.SCHED_RR) in calls
    assert (False, os.SCHED_RR) in calls
    assert (False, os.SCHED_OTHER) in calls


def test_newest_connection_is_that_of_the_qemu_that_was_started_last() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as first, socket.create_connection(address) as last:
            with newest(listener) as found:
                found.sendall(b"x")
                assert last.recv(1) == b"x"
                assert found.getblocking()
            assert first.recv(1) == b""


def test_counters_are_read_from_nstats_output() -> None:
    said = """#kernel
TcpRetransSegs                  53                 0.0
TcpExtTCPTimeouts               2                  0.0
TcpExtTCPLossProbes             4                  0.0
TcpExtTCPFastRetrans            51                 0.0
"""
    assert counters(said)["TcpExtTCPTimeouts"] == 2


def test_table_has_three_cells_for_each_kernel() -> None:
    peers = [Peer("one", lambda s: Measured(1.0, 0.0)), Peer("two", lambda s: Measured(1.0, 0.0))]
    assert head(peers).splitlines()[0].count("|") == 3 + 2 * 3 + 1
    cells = compared([3.0, 1.0], [Measured(1.0, 0.5), Measured(3.0, 2.0)])
    assert cells == ["2.00 (1.00-3.00)", "**1.00x**", "2.0"]
