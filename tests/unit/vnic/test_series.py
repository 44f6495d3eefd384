# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a plot, each series from a script of segments."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from stack.inspect.conversation import (
    ACK,
    DSACK,
    DUPLICATE_ACK,
    FIN,
    KEEPALIVE,
    RST,
    SYN,
    ZERO_WINDOW,
    Comment,
    Conversation,
    Segment,
)
from vnic import series
from vnic.series import View

MS = 1_000_000
CLIENT, SERVER = (0x0A00020F, 40000), (0x0A000202, 80)


class Script:
    """A connection that goes on: ``up`` and ``down`` add a segment at a time in milliseconds.  The first data byte of
    either way is 1."""

    def __init__(self, *, handshake: bool = True) -> None:
        self.conversation = Conversation(CLIENT, SERVER, ours=SERVER)
        if handshake:
            self.up(0, 0, ack=0, flags=SYN, mss=1460)
            self.down(1, 0, ack=1, flags=SYN | ACK, mss=1400)
            self.up(2, 1, ack=1)

    def up(self, ms: float, seq: int, length: int = 0, **more: Any) -> None:
        self._add(True, ms, seq, length, more)

    def down(self, ms: float, seq: int, length: int = 0, **more: Any) -> None:
        self._add(False, ms, seq, length, more)

    def _add(self, from_client: bool, ms: float, seq: int, length: int, more: dict[str, Any]) -> None:
        fields: dict[str, Any] = {"flags": ACK, "ack": 1, "window": 10_000} | more
        number = len(self.conversation.segments) + 1
        segment = Segment(
            number, 5 * MS + round(ms * MS), from_client, not from_client, seq=seq, length=length, **fields
        )
        self.conversation.segments.append(segment)

    @property
    def download(self) -> View:
        return View(self.conversation, "down")

    @property
    def upload(self) -> View:
        return View(self.conversation, "up")


@pytest.fixture
def script() -> Script:
    return Script()


def pairs(points: series.Points) -> list[tuple[float, float | None]]:
    """Milliseconds and values."""
    return [(round(t * 1e3, 6), y) for t, y in zip(points.t, points.y, strict=True)]


def triples(bars: series.Bars) -> list[tuple[float, float, float]]:
    return [(round(t * 1e3, 6), low, high) for t, low, high in zip(bars.t, bars.low, bars.high, strict=True)]


# -- direction and totals ------------------------------------------------------------------------------------------


def test_direction_is_the_one_with_more_data(script: Script) -> None:
    script.up(3, 1, 100)
    script.down(4, 1, 50)
    assert series.direction_of(script.conversation) == "up"
    script.down(5, 51, 51)
    assert series.direction_of(script.conversation) == "down"


def test_bytes_sent_twice_count_once(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(4, 1, 100)
    script.down(5, 101, 100)
    assert series.nbytes_of(script.conversation, "down") == 200
    assert series.nbytes_of(script.conversation, "up") == 0


def test_bytes_in_a_syn_count(script: Script) -> None:
    opened = Script(handshake=False)
    opened.up(0, 0, 10, flags=SYN)
    opened.up(1, 11, 5)
    assert series.nbytes_of(opened.conversation, "up") == 15


def test_totals_tell_bytes_segments_retransmissions_and_time(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(4, 1, 100)
    script.up(10, 1, ack=101)
    assert series.totals(script.download) == series.Totals(100, 2, 1, 0.010, 1400)


def test_segment_size_is_the_smaller_mss_less_the_time_stamps(script: Script) -> None:
    assert series.segment_size(script.download) == 1400
    script.up(3, 1, tsval=1, tsecr=1)
    assert series.segment_size(script.download) == 1388


def test_segment_size_without_syns_is_the_largest_segment_but_no_more_than_ethernet_takes() -> None:
    begun = Script(handshake=False)
    begun.down(0, 1, 500)
    assert series.segment_size(begun.download) == 500
    begun.down(1, 501, 20_000)
    assert series.segment_size(begun.download) == 1460


# -- sequence numbers ----------------------------------------------------------------------------------------------


def test_data_sent_again_is_apart_from_new_data(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(4, 51, 100)
    found = series.sequence(script.download)
    assert triples(found.data) == [(3, 1, 101), (4, 101, 151)]
    assert triples(found.retransmitted) == [(4, 51, 101)]


def test_ack_and_window_edge_are_steps_that_go_on_to_the_end(script: Script) -> None:
    script.up(3, 1, ack=101, window=5000)
    script.up(4, 1, ack=101, window=5000)
    script.down(9, 1)
    found = series.sequence(script.download)
    assert pairs(found.ack) == [(2, 1), (3, 101), (9, 101)]
    assert pairs(found.window) == [(2, 10_001), (3, 5101), (9, 5101)]


def test_ack_that_comes_late_is_no_step_back(script: Script) -> None:
    script.up(3, 1, ack=201)
    script.up(4, 1, ack=101)
    assert pairs(series.sequence(script.download).ack) == [(2, 1), (3, 201), (4, 201)]


def test_sack_block_is_drawn_when_it_changes(script: Script) -> None:
    script.down(3, 1, 400)
    script.up(4, 1, sack=((101, 201),), notes=(DUPLICATE_ACK,))
    script.up(5, 1, sack=((101, 301),), notes=(DUPLICATE_ACK,))
    script.up(6, 1, sack=((351, 401), (101, 301)), notes=(DUPLICATE_ACK,))
    found = series.sequence(script.download)
    assert triples(found.sack) == [(4, 101, 201), (5, 101, 301), (6, 351, 401)]
    assert pairs(found.duplicate_acks) == [(4, 1), (5, 1), (6, 1)]


def test_dsack_is_apart_from_sack(script: Script) -> None:
    script.up(3, 1, ack=301, sack=((1, 101), (401, 501)), notes=(DSACK,))
    found = series.sequence(script.download)
    assert triples(found.dsack) == [(3, 1, 101)]
    assert triples(found.sack) == [(3, 401, 501)]


def test_probe_is_neither_data_nor_retransmission(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(4, 100, 1, notes=(KEEPALIVE,))
    found = series.sequence(script.download)
    assert pairs(found.probes) == [(4, 100)]
    assert found.retransmitted.t == []
    assert series.totals(script.download).retransmissions == 0


def test_zero_window_lasts_until_a_window(script: Script) -> None:
    script.up(3, 1, window=0, notes=(ZERO_WINDOW,))
    script.up(4, 1, window=0, notes=(ZERO_WINDOW,))
    script.up(6, 1, window=100)
    script.up(8, 1, window=0, notes=(ZERO_WINDOW,))
    script.down(9, 1)
    assert series.zero_windows(script.download) == [(0.003, 0.006), (0.008, 0.009)]


def test_syn_fin_and_rst_are_marked(script: Script) -> None:
    script.down(3, 1, 100, flags=ACK | FIN)
    script.up(4, 1, flags=RST)
    found = series.sequence(script.download)
    assert [(mark.text, mark.y) for mark in found.marks] == [
        ("SYN", 0),
        ("FIN", 101),
        ("RST of the receiver", 1),
    ]
    assert [mark.text for mark in series.sequence(script.upload).marks] == ["SYN", "RST"]


# -- windows -------------------------------------------------------------------------------------------------------


def test_bytes_in_flight_are_sent_minus_acknowledged(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(4, 101, 100)
    script.down(5, 1, 100)  # again: no more than before
    script.up(6, 1, ack=101)
    script.up(7, 1, ack=201)
    flight = series.window(script.download).flight
    assert pairs(flight) == [(0, 0), (3, 100), (4, 200), (6, 100), (7, 0), (7, 0)]


def test_bytes_in_flight_of_data_that_the_capture_lacks_are_none(script: Script) -> None:
    script.up(3, 1, ack=5001)
    script.down(4, 5001, 100)
    assert pairs(series.window(script.download).flight)[-1] == (4, 100)


def test_cwnd_of_comments_is_in_bytes_and_infinite_ssthresh_a_gap(script: Script) -> None:
    script.down(3, 1, 100, said=Comment(cwnd=10))
    script.down(4, 101, 100, said=Comment(cwnd=7, ssthresh=7))
    found = series.window(script.download)
    assert pairs(found.cwnd) == [(3, 14_000), (4, 9800), (4, 9800)]
    assert pairs(found.ssthresh) == [(3, None), (4, 9800), (4, 9800)]
    assert found.missing == ""


def test_cwnd_without_comments_says_how_to_get_them(script: Script) -> None:
    assert "vnic capture start FILE --comments" in series.window(script.download).missing


def test_cwnd_of_an_upload_is_not_ours(script: Script) -> None:
    script.up(3, 1, 100, said=Comment(cwnd=10))
    found = series.window(script.upload)
    assert (found.cwnd.y, found.missing) == ([], series.NOT_OURS)


def test_cwnd_of_a_capture_without_directions_may_be_ours(script: Script) -> None:
    script.conversation.ours = None
    assert series.window(script.upload).missing == series.NO_COMMENTS


# -- round trips ---------------------------------------------------------------------------------------------------


def test_round_trip_is_of_the_last_segment_that_an_ack_covers(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(5, 101, 100)
    script.up(13, 1, ack=201)
    assert pairs(series.round_trips(script.download).samples) == [(2, 0.001), (13, 0.008)]


def test_round_trip_of_an_ack_in_the_middle_of_a_segment_is_none(script: Script) -> None:
    script.down(3, 1, 100)
    script.up(13, 1, ack=51)
    assert pairs(series.round_trips(script.download).samples) == [(2, 0.001)]


def test_round_trip_of_what_was_sent_again_is_none(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(8, 1, 100)
    script.up(13, 1, ack=101)
    assert pairs(series.round_trips(script.download).samples) == [(2, 0.001)]


def test_round_trip_behind_a_hole_is_none_whether_sacked_or_not(script: Script) -> None:
    script.down(3, 1, 100)
    script.down(4, 101, 100)
    script.down(8, 1, 100)
    script.up(13, 1, ack=201)  # 101 to 201 waited for the hole
    script.down(14, 201, 100)
    script.down(15, 301, 100)
    script.up(16, 1, ack=201, sack=((301, 401),))
    script.up(20, 1, ack=401)  # 201 to 301 was only late
    assert pairs(series.round_trips(script.download).samples) == [(2, 0.001)]


def test_round_trip_of_time_stamps_goes_on_through_retransmissions(script: Script) -> None:
    script.down(3, 1, 100, tsval=50)
    script.down(8, 1, 100, tsval=55)
    script.up(13, 1, ack=101, tsval=9, tsecr=55)
    found = series.round_trips(script.download)
    assert pairs(found.echoes) == [(13, 0.005)]


def test_round_trip_of_a_delayed_ack_is_from_the_first_with_that_time_stamp(script: Script) -> None:
    script.down(3, 1, 100, tsval=50)
    script.down(3.5, 101, 100, tsval=50)
    script.up(13, 1, ack=201, tsval=9, tsecr=50)
    assert pairs(series.round_trips(script.download).echoes) == [(13, 0.010)]


def test_round_trip_smoothed_is_from_comments(script: Script) -> None:
    script.down(3, 1, 100, said=Comment(cwnd=10, srtt_us=812))
    assert pairs(series.round_trips(script.download).smoothed) == [(3, 0.000812)]
    assert series.round_trips(script.upload).smoothed.y == []


def test_round_trip_is_never_negative_when_the_clock_was_set_back(script: Script) -> None:
    script.down(30, 1, 100, tsval=50)
    script.up(13, 1, ack=101, tsval=9, tsecr=50)
    found = series.round_trips(script.download)
    assert (found.samples.y[-1], found.echoes.y) == (0.0, [0.0])


# -- throughput ----------------------------------------------------------------------------------------------------


def test_goodput_is_what_was_acknowledged_for_the_first_time(script: Script) -> None:
    script.down(10, 1, 1000)
    script.down(10, 1001, 1000)
    script.up(20, 1, ack=1001)
    script.up(25, 1, ack=1001)
    script.up(30, 1, ack=2001)
    found = series.throughput(script.download)
    assert (found.edges[0], found.edges[-1]) == (0.010, 0.030)
    total = sum(
        rate * (end - begin)
        for rate, begin, end in zip(found.goodput, found.edges, found.edges[1:], strict=False)
    )
    assert total == pytest.approx(2000 * 8)
    assert found.mean[-1] == 2000 * 8 / 0.020


def test_goodput_counts_sacked_bytes_when_they_are_sacked(script: Script) -> None:
    script.down(10, 1, 3000)
    script.up(20, 1, sack=((1001, 2001),))
    script.up(25, 1, sack=((1001, 3001),))
    script.up(30, 1, ack=3001)
    assert series._acknowledged(script.download)[1] == [(0.020, 1000), (0.025, 1000), (0.030, 1000)]


def test_goodput_counts_no_fin_and_nothing_beyond_what_was_sent(script: Script) -> None:
    script.down(10, 1, 1000, flags=ACK | FIN)
    script.up(20, 1, sack=((501, 9001),))
    script.up(30, 1, ack=1002)
    assert series._acknowledged(script.download)[1] == [(0.020, 500), (0.030, 500)]


def test_goodput_without_an_ack_is_empty(script: Script) -> None:
    script.down(10, 1, 1000)
    assert series.throughput(script.download) == series.Throughput()


def test_goodput_of_one_instant_has_a_bin(script: Script) -> None:
    script.down(10, 1, 1000)
    script.up(10, 1, ack=1001)
    assert series.throughput(script.download).goodput == [1000 * 8 * 1_000_000]


@pytest.mark.parametrize(
    ("seconds", "round_trip", "width"),
    [
        (60, 0.0, 1.0),
        (61, 0.0, 2.0),
        (60, 4.0, 5.0),
        (60, 100.0, 10.0),
        (0.0019, 0.0, 5e-05),
        (0.0, 0.0, 1e-06),
    ],
)
def test_bins_are_round_and_a_round_trip_long_if_ten_are_left(
    seconds: float, round_trip: float, width: float
) -> None:
    assert series.bin_width(seconds, round_trip) == width


# -- all of it -----------------------------------------------------------------------------------------------------


def test_series_have_the_panels_that_were_asked_for(script: Script) -> None:
    script.down(3, 1, 100)
    plain = json.loads(json.dumps(series.series_of(script.conversation, only=("rtt", "sequence")).plain()))
    assert list(plain) == ["sender", "receiver", "direction", "totals", "sequence", "rtt"]
    assert (plain["sender"], plain["direction"]) == ("10.0.2.2:80", "down")


def test_series_of_a_capture_whose_clock_was_set_back(script: Script) -> None:
    script.down(30, 1, 100)
    script.up(5, 1, ack=101)
    segments = script.conversation.segments
    segments.append(replace(segments[-1], at_ns=0))
    found = series.series_of(script.conversation)
    assert found.totals.seconds == 0.030
    assert found.throughput is not None
    assert len(found.throughput.goodput) == 1
