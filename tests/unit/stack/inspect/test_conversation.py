# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections out of packets: states, notes and numbers, segment by segment."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.api.sim import build_tcp_options, flags_to_bits
from stack.inspect import conversation
from stack.inspect.conversation import Comment, Conversation, Packet, Segment, Tracker, parse_comment

CLIENT, SERVER = (0x0A00020F, 40000), (0x0A000202, 80)
CLIENT6, SERVER6 = (0xFD << 120 | 15, 40000), (0xFD << 120 | 2, 80)
CLIENT_ISN, SERVER_ISN = 1000, 5000


def frame(
    source: tuple[int, int],
    dest: tuple[int, int],
    flags: str,
    seq: int,
    ack: int,
    length: int = 0,
    window: int = 1000,
    options: bytes = b"",
    tos: int = 0,
) -> bytes:
    """An Ethernet frame, without the payload itself: a capture may have cut it off."""
    head = source[1].to_bytes(2, "big") + dest[1].to_bytes(2, "big")
    head += (seq % (1 << 32)).to_bytes(4, "big") + (ack % (1 << 32)).to_bytes(4, "big")
    head += (
        bytes([(20 + len(options)) // 4 << 4, flags_to_bits(flags)]) + window.to_bytes(2, "big") + bytes(4)
    )
    total = len(head) + len(options) + length
    if source[0] >> 32:
        ip = (6 << 28 | tos << 20).to_bytes(4, "big") + total.to_bytes(2, "big") + b"\x06\x40"
        ends = source[0].to_bytes(16, "big") + dest[0].to_bytes(16, "big")
        return bytes(12) + b"\x86\xdd" + ip + ends + head + options
    ip = bytes([0x45, tos]) + (total + 20).to_bytes(2, "big") + bytes(4) + b"\x40\x06\0\0"
    ends = source[0].to_bytes(4, "big") + dest[0].to_bytes(4, "big")
    return bytes(12) + b"\x08\x00" + ip + ends + head + options


class Wire:
    """A capture that is told by what client and server say; numbers count from their initial ones."""

    def __init__(
        self,
        client: tuple[int, int] = CLIENT,
        server: tuple[int, int] = SERVER,
        isns: tuple[int, int] = (CLIENT_ISN, SERVER_ISN),
    ) -> None:
        self.ends = client, server
        self.isns = isns
        self.tracker = Tracker()
        self.direction = False
        self.at_ns = 0

    def client(
        self, flags: str, seq: int, ack: int = 0, length: int = 0, comment: str = "", **more: object
    ) -> Segment:
        return self._say(0, flags, seq, ack, length, comment, **more)

    def server(
        self, flags: str, seq: int, ack: int = 0, length: int = 0, comment: str = "", **more: object
    ) -> Segment:
        return self._say(1, flags, seq, ack, length, comment, **more)

    def _say(
        self, who: int, flags: str, seq: int, ack: int, length: int, comment: str, **more: object
    ) -> Segment:
        numbers = self.isns[who] + seq, self.isns[1 - who] + ack if "A" in flags else 0
        made = frame(self.ends[who], self.ends[1 - who], flags, *numbers, length, **more)  # type: ignore[arg-type]
        self.at_ns += 1000
        outbound = bool(who) if self.direction or comment else None
        found = self.tracker.add(Packet(self.at_ns, outbound, made, comment))
        assert found is not None
        return found[1]

    @property
    def conversation(self) -> Conversation:
        return self.tracker.conversations[-1]

    def established(self, *, scales: tuple[int | None, int | None] = (None, None)) -> None:
        self.client("S", 0, options=build_tcp_options(wscale=scales[0]))
        self.server("SA", 0, 1, options=build_tcp_options(wscale=scales[1]))
        self.client("A", 1, 1)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def established(wire: Wire) -> Wire:
    wire.established()
    return wire


# -- states -------------------------------------------------------------------------------------------------------


def test_listen_handshake(wire: Wire) -> None:
    assert wire.client("S", 0).states == ("SYN_SENT", "LISTEN")
    assert wire.conversation.begun == ("CLOSE", "LISTEN")
    assert wire.server("SA", 0, 1).states == ("ESTABLISHED", "NEW_SYN_RECV")
    assert wire.client("A", 1, 1).states == ("ESTABLISHED", "ESTABLISHED")


def test_syn_sent_rst_says_that_nobody_listened(wire: Wire) -> None:
    wire.client("S", 0)
    assert wire.server("RA", 0, 1).states == ("CLOSE", "CLOSE")
    assert wire.conversation.begun == ("CLOSE", "CLOSE")
    assert [one.states[1] for one in wire.conversation.segments] == ["CLOSE", "CLOSE"]


def test_new_syn_recv_rst_was_a_listener(wire: Wire) -> None:
    wire.client("S", 0)
    wire.server("SA", 0, 1)
    assert wire.client("R", 1).states == ("CLOSE", "CLOSE")
    assert wire.conversation.begun == ("CLOSE", "LISTEN")


def test_syn_sent_syn_opens_both_at_once(wire: Wire) -> None:
    options = build_tcp_options(wscale=3)
    wire.client("S", 0, options=options)
    assert wire.server("S", 0, options=options).states == ("SYN_SENT", "SYN_SENT")
    crossed = wire.client("SA", 0, 1, options=options)
    assert (crossed.states, crossed.notes) == (("SYN_RECV", "ESTABLISHED"), ())
    answer = wire.server("A", 1, 1, window=10)
    assert (answer.states, answer.window) == (("ESTABLISHED", "ESTABLISHED"), 80)


def test_established_fin_of_client_first(established: Wire) -> None:
    assert established.client("FA", 1, 1).states == ("FIN_WAIT1", "CLOSE_WAIT")
    assert established.server("A", 1, 2).states == ("FIN_WAIT2", "CLOSE_WAIT")
    assert established.server("FA", 1, 2).states == ("TIME_WAIT", "LAST_ACK")
    assert established.client("A", 2, 2).states == ("TIME_WAIT", "CLOSE")


def test_established_fin_of_server_first(established: Wire) -> None:
    assert established.server("FA", 1, 1).states == ("CLOSE_WAIT", "FIN_WAIT1")
    assert established.client("FA", 1, 2).states == ("LAST_ACK", "TIME_WAIT")
    assert established.server("A", 2, 2).states == ("CLOSE", "TIME_WAIT")


def test_fin_wait1_crossed_fin_is_closing(established: Wire) -> None:
    established.client("FA", 1, 1)
    assert established.server("FA", 1, 1).states[0] == "CLOSING"
    assert established.server("A", 2, 2).states[0] == "TIME_WAIT"


def test_fin_wait1_fin_with_ack_is_time_wait(established: Wire) -> None:
    established.client("FA", 1, 1)
    assert established.server("FA", 1, 2).states == ("TIME_WAIT", "LAST_ACK")


def test_established_fin_behind_a_hole_waits_for_what_is_missing(established: Wire) -> None:
    assert established.client("FA", 101, 1).states == ("FIN_WAIT1", "ESTABLISHED")
    assert established.client("A", 51, 1, 50).states == ("FIN_WAIT1", "ESTABLISHED")
    assert established.client("A", 1, 1, 50).states == ("FIN_WAIT1", "CLOSE_WAIT")


def test_established_rst(established: Wire) -> None:
    assert established.server("R", 1).states == ("CLOSE", "CLOSE")


# -- states that comments say ----------------------------------------------------------------------------------------


def test_listen_syn_with_a_comment_is_already_new_syn_recv(wire: Wire) -> None:
    assert wire.client("S", 0, comment="tcp_v4_rcv; LISTEN -> NEW_SYN_RECV").states == (
        "SYN_SENT",
        "NEW_SYN_RECV",
    )
    assert wire.conversation.begun == ("CLOSE", "LISTEN")
    assert wire.conversation.ours == SERVER
    assert wire.conversation.server_is_ours


def test_close_syn_with_a_comment_was_never_listen(wire: Wire) -> None:
    wire.client("S", 0, comment="tcp_v4_rcv; CLOSE; dropped: NO_SOCKET")
    assert wire.conversation.begun == ("CLOSE", "CLOSE")
    assert wire.conversation.segments[0].said.dropped == "NO_SOCKET"


def test_listen_syn_with_a_cookie_stays_listen(wire: Wire) -> None:
    assert wire.client("S", 0, comment="tcp_v4_rcv; LISTEN").states[1] == "LISTEN"
    assert wire.server("SA", 0, 1, comment="tcp_v4_rcv; LISTEN").states[1] == "LISTEN"
    assert wire.client("A", 1, 1, comment="tcp_v4_rcv; LISTEN -> ESTABLISHED").states[1] == "ESTABLISHED"


def test_last_ack_ack_with_a_listener_behind_it_is_close(established: Wire) -> None:
    established.client("FA", 1, 1, comment="x; ESTABLISHED -> CLOSE_WAIT")
    established.server("FA", 1, 2, comment="x; LAST_ACK")
    assert established.client("A", 2, 2, comment="x; LAST_ACK -> LISTEN").states == ("TIME_WAIT", "CLOSE")


def test_new_syn_recv_rst_with_a_comment_is_listen_again(wire: Wire) -> None:
    wire.client("S", 0, comment="x; LISTEN -> NEW_SYN_RECV")
    assert wire.client("R", 1, comment="x; NEW_SYN_RECV -> LISTEN").states == ("CLOSE", "LISTEN")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a > b; LISTEN -> NEW_SYN_RECV", Comment("a > b", "LISTEN", "NEW_SYN_RECV")),
        ("a; LISTEN; dropped: NO_SOCKET", Comment("a", "LISTEN", "LISTEN", "NO_SOCKET")),
        ("ESTABLISHED; cwnd=10 ssthresh=inf srtt=0us", Comment("", *["ESTABLISHED"] * 2, cwnd=10)),
        ("CLOSING; cwnd=2 ssthresh=7 srtt=20100us", Comment("", "CLOSING", "CLOSING", "", 2, 7, 20100)),
        ("TODO", Comment("TODO")),
        ("ESTABLISHED -> FINE", Comment("ESTABLISHED -> FINE")),
        (f"cwnd={'9' * 5000} ssthresh=1 srtt=1us", Comment(f"cwnd={'9' * 5000} ssthresh=1 srtt=1us")),
        ("", Comment()),
    ],
)
def test_comment_is_taken_apart(text: str, said: Comment) -> None:
    assert parse_comment(text) == said


# -- notes ------------------------------------------------------------------------------------------------------------


def test_syn_sent_syn_again_is_a_retransmission(wire: Wire) -> None:
    assert wire.client("S", 0).notes == ()
    assert wire.client("S", 0).notes == ("retransmission",)
    assert wire.server("SA", 0, 1).notes == ()
    assert wire.server("SA", 0, 1).notes == ("retransmission",)


def test_syn_sent_syn_with_another_number_is_none(wire: Wire) -> None:
    wire.client("S", 0)
    again = wire.client("S", 70_000)
    assert (again.notes, again.seq) == ((), 0)
    assert len(wire.tracker.conversations) == 1


def test_established_data_again(established: Wire) -> None:
    assert established.client("PA", 1, 1, 10).notes == ()
    assert established.client("PA", 1, 1, 10).notes == ("retransmission",)
    assert established.client("PA", 6, 1, 10).notes == ()  # half of it is new


def test_established_one_byte_again_is_no_keepalive(established: Wire) -> None:
    established.client("PA", 1, 1, 1)
    assert established.client("PA", 1, 1, 1).notes == ("retransmission",)


@pytest.mark.parametrize("length", [0, 1])
def test_established_keepalive(established: Wire, length: int) -> None:
    established.client("PA", 1, 1, 10)
    established.server("A", 1, 11)
    assert established.client("A", 10, 1, length).notes == ("keepalive",)
    assert established.server("A", 1, 11).notes == ()


def test_established_zero_window_probe_update(established: Wire) -> None:
    established.client("PA", 1, 1, 10)
    assert established.server("A", 1, 11, window=0).notes == ("zero window",)
    assert established.client("A", 10, 1).notes == ("window probe",)
    assert established.server("A", 1, 11, window=500).notes == ("window update",)


def test_established_same_ack_of_data_in_flight_is_a_duplicate(established: Wire) -> None:
    established.client("A", 1, 1, 10)
    established.client("A", 11, 1, 10)
    assert established.server("A", 1, 11).notes == ()
    assert established.server("A", 1, 11).notes == ("duplicate ACK",)
    assert established.server("PA", 1, 11, 5).notes == ()  # with data it is none
    assert established.server("A", 6, 11, window=2000).notes == ("window update",)


def test_established_sack(established: Wire) -> None:
    established.client("A", 1, 1, 10)
    established.client("A", 21, 1, 10)
    blocks = build_tcp_options(sack=[(CLIENT_ISN + 21, CLIENT_ISN + 31)])
    established.server("A", 1, 11)
    told = established.server("A", 1, 11, options=blocks, window=900)
    assert (told.sack, told.notes) == (((21, 31),), ("duplicate ACK",))


def test_established_sack_below_the_ack_is_dsack(established: Wire) -> None:
    established.client("A", 1, 1, 10)
    blocks = build_tcp_options(sack=[(CLIENT_ISN + 1, CLIENT_ISN + 6)])
    assert established.server("A", 1, 11, options=blocks).notes == ("D-SACK",)


def test_sack_without_ack_says_nothing(wire: Wire) -> None:
    assert wire.client("S", 0, options=build_tcp_options(sack=[(1, 2)])).sack == ()


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scales", "window"),
    [((7, 3), (1000 << 7, 1000 << 3)), ((7, None), (1000, 1000)), ((20, 0), (1000 << 14, 1000))],
)
def test_window_scale_needs_both(
    wire: Wire, scales: tuple[int | None, int | None], window: tuple[int, int]
) -> None:
    wire.established(scales=scales)
    assert (wire.client("A", 1, 1).window, wire.server("A", 1, 1).window) == window
    assert [one.window for one in wire.conversation.segments[:2]] == [1000, 1000]


def test_numbers_go_on_beyond_32_bits() -> None:
    wire = Wire(isns=(0xFFFFFF00, 0xFFFFFFFF))
    wire.established()
    step, at = 1 << 30, 1
    for _ in range(8):
        sent = wire.client("A", at, 1, 1000)
        assert (sent.seq, sent.end, sent.ack, sent.notes) == (at, at + 1000, 1, ())
        assert wire.server("A", 1, at + 1000).ack == at + 1000
        at += step


def test_islands_are_merged(established: Wire) -> None:
    """As many as there are holes, however many segments lie between."""
    for at in range(101, 100_001, 100):
        established.client("A", at, 1, 100)
        established.client("A", at, 1)
    side = established.tracker._open[SERVER, CLIENT]._sides[1]
    assert (side.received, side.islands) == (1, [(101, 100_001)])
    established.client("A", 1, 1, 100)
    assert (side.received, side.islands) == (100_001, [])


def test_of_too_many_holes_the_oldest_counts_as_filled(established: Wire) -> None:
    """Who sends such segments to a stack that is observed must not slow it."""
    many = conversation.MAX_ISLANDS + 500
    for number in range(1, many + 1):
        established.client("A", number * 200, 1, 100)
    side = established.tracker._open[SERVER, CLIENT]._sides[1]
    assert side.received == 500 * 200 + 100
    assert len(side.islands) == conversation.MAX_ISLANDS


def test_close_wait_data_that_the_capture_lacks(established: Wire) -> None:
    """They came: they are acknowledged."""
    established.client("A", 101, 1, 100)
    assert established.server("A", 1, 201).states == ("ESTABLISHED", "ESTABLISHED")
    assert established.client("FA", 201, 1).states == ("FIN_WAIT1", "CLOSE_WAIT")
    assert established.server("FA", 1, 202).states == ("TIME_WAIT", "LAST_ACK")
    assert established.client("A", 202, 2).states == ("TIME_WAIT", "CLOSE")


def test_close_wait_hole_acknowledged_behind_the_fin(established: Wire) -> None:
    established.client("FA", 101, 1)
    assert established.server("A", 1, 1).states == ("FIN_WAIT1", "ESTABLISHED")
    assert established.server("A", 1, 102).states == ("FIN_WAIT2", "CLOSE_WAIT")


def test_mid_connection_client_is_who_spoke_first_unless_its_port_is_low(wire: Wire) -> None:
    first = wire.server("PA", 1, 1, 10)
    assert (wire.conversation.client, wire.conversation.server) == (CLIENT, SERVER)
    assert (first.from_client, first.seq, first.ack, first.states) == (False, 1, 1, ("ESTABLISHED",) * 2)
    assert not wire.conversation.whole
    assert wire.client("A", 1, 11).ack == 11


def test_mid_connection_two_high_ports() -> None:
    wire = Wire(client=(1, 5000), server=(2, 4000))
    wire.server("A", 1, 1)
    assert wire.conversation.client == (2, 4000)


def test_mid_connection_syn_ack_came_from_the_server(wire: Wire) -> None:
    answer = wire.server("SA", 0, 1)
    assert (wire.conversation.client, answer.from_client, wire.conversation.whole) == (CLIENT, False, False)


def test_time_wait_syn_is_another_connection(established: Wire) -> None:
    established.client("FA", 1, 1)
    established.server("FA", 1, 2)
    established.client("A", 2, 2)
    again = established.client("S", 90_000)
    assert (again.seq, again.states) == (0, ("SYN_SENT", "LISTEN"))
    assert [len(one.segments) for one in established.tracker.conversations] == [6, 1]


def test_close_syn_of_the_other_end_turns_the_connection_round(established: Wire) -> None:
    established.server("R", 1)
    established.server("S", 90_000)
    assert (established.conversation.client, established.conversation.server) == (SERVER, CLIENT)


def test_options_of_a_syn(wire: Wire) -> None:
    options = build_tcp_options(mss=1460, sackok=True, ts=(7, 8), wscale=9)
    syn = wire.client("S", 0, options=options)
    assert (syn.mss, syn.sack_ok, syn.tsval, syn.tsecr, syn.wscale) == (1460, True, 7, 8, 9)
    assert (syn.flag_names, syn.end, syn.number) == ("SYN", 1, 1)


@pytest.mark.parametrize(
    "options", [b"\x02\x00\x00\x00", b"\x02\x05\x01\x01", b"\x08\x0a\x01\x01", b"\x05\x09" + bytes(10)]
)
def test_malformed_option_ends_them(wire: Wire, options: bytes) -> None:
    syn = wire.client("SA", 0, options=options)
    assert (syn.mss, syn.tsval, syn.sack) == (None, None, ())


def test_ipv6_handshake_and_ecn() -> None:
    wire = Wire(CLIENT6, SERVER6)
    wire.established()
    assert wire.client("PA", 1, 1, 10, tos=3).ecn == 3
    assert wire.conversation.ends == ("[fd00::f]:40000", "[fd00::2]:80")
    assert wire.conversation.segments[-1].length == 10


def test_tracker_that_keeps_nothing_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_OPEN", 2)
    tracker = Tracker(keep=False)
    for port in range(5):
        found = tracker.add(Packet(0, None, frame((1, 1000 + port), SERVER, "S", 0, 0)))
        assert found is not None
        assert found[0].segments == []
    assert (tracker.conversations, len(tracker._open)) == ([], 2)


# -- frames that are none ---------------------------------------------------------------------------------------------


GOOD = frame(CLIENT, SERVER, "S", 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        GOOD[:53],
        GOOD[:12] + b"\x08\x06" + GOOD[14:],  # ARP
        GOOD[:14] + b"\x44" + GOOD[15:],  # a header of IP that is too short
        GOOD[:20] + b"\x20\x00" + GOOD[22:],  # a fragment
        GOOD[:23] + b"\x11" + GOOD[24:],  # UDP
        GOOD[:46] + b"\x40" + GOOD[47:],  # a header of TCP that is too short
        GOOD[:46] + b"\xf0" + GOOD[47:],  # and one that is cut off
        GOOD[:16] + b"\x00\x10" + GOOD[18:],  # a packet that ends within its headers
    ],
)
def test_frame_without_a_segment_is_nothing(bad: bytes) -> None:
    tracker = Tracker()
    assert tracker.add(Packet(0, None, bad)) is None
    assert (tracker.packets, tracker.conversations) == (1, [])


COMMENTS = st.one_of(
    st.just(""), st.text(max_size=30), st.sampled_from(["a; LISTEN -> NEW_SYN_RECV", "CLOSE"])
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    flags = draw(st.sets(st.sampled_from("SFRPAU")))
    numbers = st.one_of(st.integers(0, 5), st.integers(0, (1 << 32) - 1))
    options = draw(st.binary(max_size=40))
    options += bytes(-len(options) % 4)
    source, dest = draw(
        st.sampled_from([(CLIENT, SERVER), (SERVER, CLIENT), (CLIENT6, SERVER6), (SERVER6, CLIENT6)])
    )
    return frame(
        source, dest, "".join(flags), draw(numbers), draw(numbers), draw(st.integers(0, 9)), 9, options
    )


@pytest.mark.fuzz
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.one_of(frames(), st.binary(max_size=120)), st.none() | st.booleans(), COMMENTS)))
def test_no_packets_raise(packets: list[tuple[bytes, bool | None, str]]) -> None:
    tracker = Tracker()
    for at, (data, outbound, comment) in enumerate(packets):
        found = tracker.add(Packet(at, outbound, data, comment))
        assert found is None or found[0] in tracker.conversations


@pytest.mark.fuzz
@settings(max_examples=200, deadline=None)
@given(frames(), st.data())
def test_no_flipped_frame_raises(good: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(12, len(good) - 1))
    Tracker().add(Packet(0, None, good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :]))
