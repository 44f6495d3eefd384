# SPDX-License-Identifier: GPL-2.0-or-later
"""Ladders of made-up segments: rows, words, runs, gaps, live, and that nothing in an SVG overlaps."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from stack.inspect import ladder, ladderrows
from stack.inspect.conversation import (
    ACK,
    DUPLICATE_ACK,
    FIN,
    KEEPALIVE,
    PSH,
    RETRANSMISSION,
    RST,
    SYN,
    ZERO_WINDOW,
    Comment,
    Conversation,
    Segment,
)
from stack.inspect.ladderrows import Clock, Gap, Run, Rung

CLIENT, SERVER = (0x0A00020F, 40000), (0x0A000202, 80)
BOTH = ("ESTABLISHED", "ESTABLISHED")
US, MS, S = 1_000, 1_000_000, 1_000_000_000


def segment(
    at_ns: int = 0, flags: int = ACK, length: int = 0, *, back: bool = False, **more: object
) -> Segment:
    fields = {"seq": 1, "ack": 1, "window": 1000, "states": BOTH} | more
    return Segment(1, at_ns, not back, None, flags, length=length, **fields)  # type: ignore[arg-type]


def conversation(*segments: Segment, begun: tuple[str, str] = BOTH, **more: object) -> Conversation:
    return Conversation(CLIENT, SERVER, list(segments), begun=begun, **more)  # type: ignore[arg-type]


def rungs(*segments: Segment, **more: object) -> list[str]:
    """The lines below the heading."""
    drawn = ladder.text(conversation(*segments), **more).splitlines()  # type: ignore[arg-type]
    return drawn[4:]


HANDSHAKE = conversation(
    segment(0, SYN, seq=0, ack=0, mss=1460, wscale=7, states=("SYN_SENT", "LISTEN")),
    segment(300 * US, SYN | ACK, seq=0, back=True, states=("ESTABLISHED", "NEW_SYN_RECV")),
    segment(500 * US, states=BOTH),
    begun=("CLOSE", "LISTEN"),
    ours=SERVER,
)


def test_handshake_has_states_where_they_change() -> None:
    assert ladder.text(HANDSHAKE, number=3) == (
        "connection 3: 3 segments in 500 us, 0 B to the server, 0 B to the client\n"
        "           10.0.2.15:40000                                   10.0.2.2:80\n"
        "           client (guest)                                  server (stack)\n"
        "   us       CLOSE |                                               | LISTEN\n"
        "  0.0    SYN_SENT |-- SYN seq 0 win 1000 mss 1460 wscale 7 ------>|\n"
        "300.0 ESTABLISHED |<- SYN ACK seq 0 ack 1 win 1000 ---------------| NEW_SYN_RECV\n"
        "500.0             |-- ACK ack 1 win 1000 ------------------------>| ESTABLISHED\n"
    )


def test_stack_that_is_the_client_says_so() -> None:
    assert ladderrows.roles(replace(HANDSHAKE, ours=CLIENT)) == ("client (stack)", "server (guest)")
    assert ladderrows.roles(replace(HANDSHAKE, ours=None)) == ("client", "server")


def test_beginning_that_is_missing_is_told() -> None:
    assert "its beginning is not there" in ladder.text(conversation(segment(), whole=False))


def test_conversation_without_segments_is_a_heading() -> None:
    assert ladder.text(conversation()).startswith("0 segments in 0 ns")
    assert ET.fromstring(ladder.svg(conversation())) is not None


@pytest.mark.parametrize(
    ("one", "drawn"),
    [
        (segment(flags=PSH | ACK, length=5), "|-- PSH ACK 1:6(5) ack 1 win 1000 ---"),
        (segment(flags=FIN | ACK, back=True), "|<- FIN ACK seq 1 ack 1 win 1000 ---"),
        (segment(flags=RST), "|-- RST seq 1 ---"),
        (segment(flags=RST | ACK), "|-- RST ACK seq 1 ack 1 ---"),
        (segment(flags=0), "|-- no flags seq 1 win 1000 ---"),
        (segment(notes=(ZERO_WINDOW,), window=0), "|-- ACK ack 1 win 0 [zero window] ---"),
        (segment(notes=(KEEPALIVE,)), "|-- ACK seq 1 ack 1 win 1000 [keepalive] ---"),
        (segment(sack=((5, 9),)), "|-- ACK ack 1 win 1000 sack 5:9 ---"),
        (segment(ecn=3), "|-- ACK ack 1 win 1000 [CE] ---"),
        (segment(length=9, notes=(RETRANSMISSION,)), "|.. ACK 1:10(9) ack 1 win 1000 [retransmission] ..>"),
        (segment(length=9, back=True, notes=(RETRANSMISSION,)), "|<. ACK 1:10(9) ack 1"),
    ],
)
def test_segment_in_words(one: Segment, drawn: str) -> None:
    assert drawn in rungs(one)[0]


def test_dropped_segment_ends_before_the_lifeline() -> None:
    said = Comment(dropped="NO_SOCKET")
    assert "[dropped: NO_SOCKET] -" in rungs(segment(said=said))[0]
    assert rungs(segment(said=said))[0].endswith("-X    |")
    assert "|    X- ACK ack 1 win 1000 [dropped: NO_SOCKET] -" in rungs(segment(said=said, back=True))[0]


def test_path_is_a_line_of_its_own_and_is_cut() -> None:
    said = Comment(path=" > ".join(["tcp_v4_rcv"] * 10), cwnd=10, srtt_us=20_100)
    assert len(rungs(segment(said=said))) == 1
    first, second = rungs(segment(said=said), paths=True)
    assert second.endswith("... |")
    assert len(second) <= len(first) <= 80
    said = Comment(cwnd=10, srtt_us=20_100)
    assert "|   cwnd 10 ssthresh inf, srtt 20.1 ms " in rungs(segment(said=said), paths=True)[1]


def test_foreign_words_cannot_speak_to_the_terminal() -> None:
    said = Comment(path="a\x1b[31m\nb", dropped="c\x07")
    drawn = rungs(segment(said=said), paths=True)
    assert len(drawn) == 2
    assert "[dropped: c?]" in drawn[0]
    assert "a?[31m?b" in drawn[1]


@pytest.mark.parametrize("width", [20, 80, 81, 100, 500])
@pytest.mark.parametrize("address", [0x0A000202, (1 << 128) - 1])
def test_no_line_is_longer_than_there_is_room(width: int, address: int) -> None:
    far = 10**13
    one = segment(
        100_000 * S, SYN | PSH | ACK, 65535, seq=far, ack=far, window=1 << 30, states=("X" * 12,) * 2
    )
    one = replace(one, notes=(RETRANSMISSION, DUPLICATE_ACK), sack=((far, far + 1),) * 3, mss=1, tsval=1)
    other = replace(one, said=Comment("p" * 300, "", "", "r" * 300), from_client=False)
    found = Conversation(
        (address, 65535), (address - 1, 65535), [segment(), one, other], begun=("NEW_SYN_RECV",) * 2
    )
    drawn = ladder.text(found, width, paths=True, number=10**6)
    assert max(map(len, drawn.splitlines())) <= min(max(width, 80), ladder.MAX_WIDTH)
    live = ladder.Live(width, paths=True)
    lines = [line.text for part in found.segments for line in live.add(found, part)]
    assert max(map(len, lines)) <= min(max(width, 80), ladder.MAX_WIDTH)


# -- times --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "unit", "text"),
    [
        (999 * US, "us", "999.0"),
        (MS, "ms", "1.000"),
        (9999 * MS, "ms", "9999.000"),
        (10 * S, "s", "10.000000"),
    ],
)
def test_unit_fits_the_whole(span: int, unit: str, text: str) -> None:
    clock = Clock.of(conversation(segment(5), segment(5 + span)))
    assert (clock.unit, clock.text(5 + span)) == (unit, text)


def test_stamps_that_go_back_are_drawn() -> None:
    assert rungs(segment(5 * US), segment(2 * US))[1].startswith("-3.0 ")


@pytest.mark.parametrize(
    ("at_us", "gaps"),
    [
        ([0, 10, 20, 30, 40], []),
        ([0, 10, 20, 30, 5040], [5010]),
        ([0, 10, 20, 30, 111, 120, 9000, 9010], [8880]),  # 81 is long, but nothing in the whole
        ([0, 222], []),
        ([0, 0, 0, 10, 10, 500], [490]),
    ],
)
def test_gap_is_what_is_unusually_long(at_us: list[int], gaps: list[int]) -> None:
    found = ladderrows.rows(conversation(*(segment(at * US) for at in at_us)))
    assert [row.ns // US for row in found if isinstance(row, Gap)] == gaps


def test_gap_interrupts_the_lifelines() -> None:
    drawn = rungs(*(segment(at * US) for at in (0, 10, 20, 30, 2_000_000)))[4]
    assert (drawn.count(":"), drawn.split()[1:3]) == (2, ["2.00", "s"])


# -- runs --------------------------------------------------------------------------


def bulk(count: int, begin_ns: int = 0) -> list[Segment]:
    """Two segments of data, then an ACK, and so on; every fourth has PSH."""
    found = []
    for n in range(count):
        data = n % 3 < 2
        flags = ACK | (PSH if n % 4 == 0 else 0)
        size = 1448 if data else 0
        found.append(
            segment(begin_ns + n * US, flags, size, back=not data, seq=1 + n * 1448, ack=1 + n * 1448)
        )
    return found


def test_run_of_six_is_drawn_in_full() -> None:
    assert all(isinstance(row, Rung) for row in ladderrows.rows(conversation(*bulk(6))))


def test_longer_run_is_first_many_last() -> None:
    first, run, last = ladderrows.rows(conversation(*bulk(3000)))
    assert isinstance(first, Rung)
    assert isinstance(last, Rung)
    assert isinstance(run, Run)
    assert (run.segments, list(run.ways)) == (2998, [True, False])
    lines = rungs(*bulk(3000))
    assert len(lines) == 4
    assert ":== 1999 segments, 2.89 MB in 3.00 ms" in lines[1]
    assert ":<= 999 bare ACKs, up to 4338209 ===" in lines[2]


def test_run_ends_where_something_is_to_be_told() -> None:
    segments = bulk(30)
    for twist in (
        {"notes": (DUPLICATE_ACK,)},
        {"said": Comment(dropped="X")},
        {"flags": ACK | FIN},
        {"sack": ((1, 2),)},
        {"states": ("CLOSE_WAIT", "ESTABLISHED")},
        {"ecn": 3},
    ):
        told = [*segments[:15], replace(segments[15], **twist), *segments[16:]]
        rows = ladderrows.rows(conversation(*told))
        assert [type(row) for row in rows].count(Run) == 2, twist
        assert Rung in {type(row) for row in rows if isinstance(row, Rung) and row.segment is told[15]}, twist


def test_all_draws_every_segment() -> None:
    assert len(rungs(*bulk(50), every=True, width=132)) == 50


# -- live --------------------------------------------------------------------------


def texts(lines: list[ladder.Line]) -> list[str]:
    return [line.text for line in lines]


def test_live_heading_once_then_a_row_a_segment() -> None:
    live = ladder.Live()
    first, second, third = (texts(live.add(HANDSHAKE, one)) for one in HANDSHAKE.segments)
    assert first[0] == "connection 1"
    assert first[-3].endswith("| LISTEN")
    assert first[-2].startswith("   0.000000     SYN_SENT |-- SYN seq 0 win 1000 ---")
    assert "|   mss 1460 wscale 7 " in first[-1]
    assert len(second) == len(third) == 1
    assert third[0].endswith("| ESTABLISHED")


def test_live_says_whose_row_it_is_when_connections_take_turns() -> None:
    live = ladder.Live()
    other = conversation(segment(), begun=BOTH)
    live.add(HANDSHAKE, HANDSHAKE.segments[0])
    assert texts(live.add(other, other.segments[0]))[:2] == ["", "connection 2"]
    back = texts(live.add(HANDSHAKE, HANDSHAKE.segments[1]))
    assert back[0] == "connection 1: 10.0.2.15:40000 > 10.0.2.2:80"
    assert len(texts(live.add(HANDSHAKE, HANDSHAKE.segments[2]))) == 1


def test_live_gap() -> None:
    live = ladder.Live()
    one = conversation()
    live.add(one, segment(0))
    assert len(live.add(one, segment(200 * MS))) == 1
    gap, _ = live.add(one, segment(401 * MS))
    assert gap.kind == ladder.GAP
    assert "201 ms" in gap.text


def test_live_run_is_told_once_a_second_and_before_what_ends_it() -> None:
    live = ladder.Live()
    one = conversation()
    drawn = [live.add(one, segment(n * MS, length=10)) for n in range(3000)]
    many = [n for n, lines in enumerate(drawn) if any(line.kind == ladder.MANY for line in lines)]
    assert many == [1006, 2006]
    assert [n for n, lines in enumerate(drawn) if lines] == [*range(6), *many]
    last = live.add(one, segment(3000 * MS, FIN | ACK))
    assert [line.kind for line in last] == [ladder.MANY, ladderrows.PLAIN]
    assert live.flush() == []


def test_live_flush_writes_what_waits() -> None:
    live = ladder.Live()
    one = conversation()
    for n in range(10):
        live.add(one, segment(n * US, length=10))
    assert [line.kind for line in live.flush()] == [ladder.MANY]
    assert live.flush() == []


def test_live_all_leaves_nothing_out() -> None:
    live = ladder.Live(every=True)
    one = conversation()
    assert all(live.add(one, segment(n * US, length=10)) for n in range(20))


def test_live_forgets_the_oldest_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "MAX_DRAWN", 2)
    live = ladder.Live()
    three = [conversation() for _ in range(3)]
    for one in three:
        live.add(one, segment())
    assert texts(live.add(three[0], segment()))[1] == "connection 4"


# -- SVG --------------------------------------------------------------------------

NS = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def boxes(drawn: str) -> list[tuple[Box, str]]:
    """Where the texts are: left, top, right, bottom; of one conversation, so that nothing is moved."""
    found = []
    for one in ET.fromstring(drawn).iter(f"{NS}text"):
        width = len(one.text or "") * 12 * 0.602
        x, y = float(one.get("x", "")), float(one.get("y", ""))
        left = {"start": x, "middle": x - width / 2, "end": x - width}[one.get("text-anchor", "")]
        found.append(((left, y - 10, left + width, y + 3), one.text or ""))
    return found


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


LONG = conversation(
    segment(
        0, SYN, seq=0, ack=0, states=("SYN_SENT", "NEW_SYN_RECV"), mss=1460, wscale=7, tsval=1, sack_ok=True
    ),
    segment(
        1,
        SYN | ACK,
        seq=10**12,
        ack=10**12,
        back=True,
        states=("CLOSE", "ESTABLISHED"),
        sack=((10**12, 1),) * 4,
    ),
    segment(2, RST, states=("FIN_WAIT1", "NEW_SYN_RECV"), said=Comment("p" * 200, dropped="r" * 200)),
    segment(
        30 * S,
        ACK,
        9,
        back=True,
        notes=(RETRANSMISSION, DUPLICATE_ACK, ZERO_WINDOW),
        states=("CLOSING", "LISTEN"),
    ),
    *bulk(20, 31 * S),
    begun=("CLOSE", "LISTEN"),
)


@pytest.mark.parametrize(
    "found",
    [
        HANDSHAKE,
        LONG,
        replace(LONG, client=((1 << 128) - 1, 65535), server=((1 << 128) - 1, 65534), whole=False),
    ],
)
@pytest.mark.parametrize("paths", [False, True])
def test_svg_no_text_lies_on_another_or_leaves_the_picture(found: Conversation, paths: bool) -> None:
    drawn = ladder.svg(found, paths=paths, number=12)
    width, height = (float(ET.fromstring(drawn).get(name, "")) for name in ("width", "height"))
    placed = boxes(drawn)
    for (box, text), (other, more) in itertools.combinations(placed, 2):
        assert not overlap(box, other), (text, more)
    for (left, top, right, bottom), text in placed:
        assert 0 <= left < right <= width, text
        assert 0 <= top < bottom <= height, text


@pytest.mark.parametrize("found", [HANDSHAKE, LONG])
def test_svg_no_line_crosses_words(found: Conversation) -> None:
    drawn = ladder.svg(found, paths=True)
    for line in ET.fromstring(drawn).iter(f"{NS}line"):
        x1, y1, x2, y2 = (float(line.get(name, "")) for name in ("x1", "y1", "x2", "y2"))
        spans = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        for box, text in boxes(drawn):
            assert not overlap(spans, (box[0], box[1] + 1, box[2], box[3] - 1)), text


def test_svg_legend_has_what_occurs() -> None:
    assert "retransmission" not in ladder.svg(HANDSHAKE)
    drawn = ladder.svg(LONG)
    for words in (">retransmission<", ">reset<", ">many segments<", ">dropped by the stack<"):
        assert drawn.count(words) == 1, words


def test_svg_patterns_tell_what_colours_tell() -> None:
    again = ET.fromstring(ladder.svg(conversation(segment(notes=(RETRANSMISSION,)))))
    assert any(line.get("stroke-dasharray") for line in again.iter(f"{NS}line"))
    twice = ET.fromstring(ladder.svg(conversation(segment(notes=(DUPLICATE_ACK,)))))
    assert {one.get("fill") for one in twice.iter(f"{NS}polygon")} == {"#FFFFFF"}


def test_svg_foreign_words_are_escaped() -> None:
    said = Comment(path='<a b="c">&\x00\x1b\ud800', dropped="]]>")
    drawn = ladder.svg(conversation(segment(said=said)), paths=True)
    texts_ = [one.text for one in ET.fromstring(drawn).iter(f"{NS}text")]
    assert '<a b="c">&???' in texts_
    assert drawn.encode()


def test_svg_several_are_stacked() -> None:
    drawn = ET.fromstring(ladder.stacked([(1, HANDSHAKE), (7, LONG)]))
    heights = [float(ET.fromstring(ladder.svg(one)).get("height", "")) for one in (HANDSHAKE, LONG)]
    assert float(drawn.get("height", "")) == pytest.approx(sum(heights))
    assert "connection 7: 24 segments" in "".join(drawn.itertext())


# -- JSON --------------------------------------------------------------------------


def test_plain_is_what_json_takes() -> None:
    found = json.loads(json.dumps(ladder.plain(HANDSHAKE)))
    assert (found["client"], found["server"], found["stack"]) == ("10.0.2.15:40000", "10.0.2.2:80", "server")
    assert found["begun"] == ["CLOSE", "LISTEN"]
    syn = found["segments"][0]
    assert (syn["flags"], syn["end"], syn["mss"], syn["states"]) == (["SYN"], 1, 1460, ["SYN_SENT", "LISTEN"])


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1_500, "1.50 us"), (20_100_000, "20.1 ms"), (123 * S, "123 s")],
)
def test_span_in_words(ns: int, text: str) -> None:
    assert ladderrows.span_text(ns) == text
