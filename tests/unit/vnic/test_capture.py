# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture that begins and ends while the stack runs: what is in the files, and what the packets' comments say."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dpkt
import pytest

from devmodel.middleware import capture as middleware
from devmodel.netdev.loopback import Loopback
from stack.api.aio import Runner
from stack.api.bsd import Socket
from stack.clock import ManualClock
from stack.include.dropreason import SKB_DROP_REASON_TCP_CSUM
from stack.include.sk_buff import sk_buff
from stack.net.core.skbuff import kfree_skb_reason
from stack.net.core.sock import SO_BINDTODEVICE, SOL_SOCKET
from stack.rng import SeededRng
from stack.stack import Stack
from stack.trace.hub import TraceHub
from stack.trace.packets import flow_of_frame
from stack.trace.recorder import Call, Tree
from vnic import host
from vnic.capture import MIN_RING, Capture, Wanted
from vnic.errors import HostIOError, UsageError
from vnic.feed import PacketFeed
from vnic.host import Adapter

GUEST_MAC = bytes.fromhex("525400123456")
GUEST, SERVER = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
SYN, ACK, FIN = dpkt.tcp.TH_SYN, dpkt.tcp.TH_ACK, dpkt.tcp.TH_FIN


class Bench:
    """A listener on port 7 behind an Adapter; the guest's end of the wire is ours."""

    def __init__(self) -> None:
        self.wire = Loopback()
        self.net = Stack(ManualClock(), SeededRng(1))
        dev = self.net.register_netdevice("eth0", host.MAC)
        self.net.dev_addr_add(dev, "10.0.2.2/24")
        self.loop = asyncio.new_event_loop()
        self.runner = Runner(self.net, self.loop, flush=self.wire.a.flush, timers=False)
        self.adapter = Adapter(self.net, self.runner, self.wire.a, dev)
        self.hub = TraceHub(time.perf_counter_ns)
        self.feed = PacketFeed(self.adapter, self.hub)
        self.capture = Capture(self.feed)
        self.frames: list[bytes] = []
        self.wire.b.attach(self)
        self.listener = Socket(self.net)
        self.listener.bind(("10.0.2.2", 7))
        self.listener.listen(5)
        question = dpkt.arp.ARP(op=dpkt.arp.ARP_OP_REQUEST, sha=GUEST_MAC, spa=GUEST, tpa=SERVER)
        self.give(ethernet(dpkt.ethernet.ETH_TYPE_ARP, bytes(question)))
        self.frames.clear()

    def frame_received(self, hdr: Any, frame: bytes) -> None:
        self.frames.append(frame)

    def batch_done(self) -> None: ...

    def link_changed(self, up: bool, offloads: Any) -> None: ...

    def give(self, frame: bytes) -> None:
        self.wire.b.send(None, [frame])
        self.wire.b.flush()
        self.wire.pump()

    def handshake(self) -> int:
        """The server's first sequence number."""
        self.give(segment(SYN, 1000))
        answer = dpkt.ethernet.Ethernet(self.frames[-1]).data.data
        isn: int = answer.seq
        self.give(segment(ACK, 1001, isn + 1))
        return isn


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    if made.capture.status()["running"]:
        made.capture.stop()
    made.loop.close()


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes(dpkt.ethernet.Ethernet(dst=host.MAC, src=GUEST_MAC, type=kind, data=payload))


def segment(flags: int, seq: int, ack: int = 0, payload: bytes = b"", dport: int = 7) -> bytes:
    tcp = dpkt.tcp.TCP(
        sport=40000, dport=dport, seq=seq, ack=ack & 0xFFFFFFFF, flags=flags, win=65535, data=payload
    )
    packet = dpkt.ip.IP(src=GUEST, dst=SERVER, p=dpkt.ip.IP_PROTO_TCP, data=tcp, ttl=64)
    return ethernet(dpkt.ethernet.ETH_TYPE_IP, bytes(packet))


def packets(path: Path) -> list[tuple[int, str]]:
    """(direction, comment) of each packet of a file, read block by block."""
    data, found = path.read_bytes(), []
    while data:
        kind, size = struct.unpack_from("<II", data)
        if kind == 6:
            length = struct.unpack_from("<I", data, 20)[0]
            options, at = data[28 + length + -length % 4 : size - 4], 0
            values = {}
            while at < len(options):
                code, n = struct.unpack_from("<HH", options, at)
                values[code] = options[at + 4 : at + 4 + n]
                at += 4 + n + -n % 4
            found.append((values[2][0], values.get(1, b"").decode()))
        data = data[size:]
    return found


def test_capture_starts_and_stops_between_packets(bench: Bench, tmp_path: Path) -> None:
    isn = bench.handshake()
    assert bench.capture.status() == {"running": False}
    bench.capture.start(Wanted(tmp_path / "a.pcapng"))
    bench.give(segment(ACK, 1001, isn + 1, b"in the file"))
    assert bench.capture.stop()["packets"] == 2  # and its ACK
    assert bench.adapter.port is bench.wire.a
    assert bench.runner.flush == bench.wire.a.flush
    bench.give(segment(ACK, 1012, isn + 1, b"not in it"))
    with (tmp_path / "a.pcapng").open("rb") as file:
        data, ack = [frame for _, frame in dpkt.pcapng.Reader(file)]
    assert data.endswith(b"in the file")
    assert dpkt.ethernet.Ethernet(ack).data.data.ack == 1012
    assert bench.listener.accept()[0].recv(100) == b"in the filenot in it"


def test_comments_tell_path_states_and_order(bench: Bench, tmp_path: Path) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    isn = bench.handshake()
    bench.give(segment(ACK | FIN, 1001, isn + 1))
    bench.capture.stop()
    assert sys.gettrace() is None
    syn, synack, ack, fin, *rest = packets(tmp_path / "a.pcapng")
    path = "tcp_v4_rcv > tcp_v4_do_rcv > tcp_rcv_state_process"
    assert syn == (
        1,
        f"{path} > tcp_v4_conn_request > tcp_conn_request > tcp_v4_send_synack; LISTEN -> NEW_SYN_RECV",
    )
    assert synack == (
        2,
        f"{path} > tcp_v4_conn_request > tcp_conn_request > tcp_v4_send_synack; NEW_SYN_RECV",
    )
    assert ack[1].startswith("tcp_v4_rcv > ")
    assert re.search("; NEW_SYN_RECV -> ESTABLISHED; cwnd=10 ssthresh=inf srtt=[0-9]+us$", ack[1])
    assert "; ESTABLISHED -> CLOSE_WAIT; cwnd=10 " in fin[1]
    assert all(direction == 2 for direction, _ in rest)


def test_comments_tell_why_a_segment_was_dropped(bench: Bench, tmp_path: Path) -> None:
    heard: list[int] = []
    bench.net.drop_hook = lambda skb, reason: heard.append(reason)
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    bad = bytearray(segment(SYN, 1000))
    bad[-1] ^= 1
    bench.give(bytes(bad))
    bench.give(segment(ACK, 1, 1, dport=8))
    bench.capture.stop()
    first, second, reset = packets(tmp_path / "a.pcapng")
    assert first[1].endswith("; LISTEN; dropped: TCP_CSUM")
    assert second[1].endswith("; CLOSE; dropped: NO_SOCKET")
    assert reset[1].startswith("tcp_v4_rcv > tcp_v4_send_reset")
    assert len(heard) == 2
    bench.give(bytes(bad))
    assert len(heard) == 3  # the hook is whose it was


def test_comments_and_another_tracer_exclude_each_other(bench: Bench, tmp_path: Path) -> None:
    sys.settrace(lambda frame, event, arg: None)
    try:
        with pytest.raises(UsageError, match="cannot comment"):
            bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    finally:
        sys.settrace(None)
    assert not (tmp_path / "a.pcapng").exists()
    assert bench.capture.status() == {"running": False}


def test_ring_keeps_the_last_files(bench: Bench, tmp_path: Path) -> None:
    isn = bench.handshake()
    bench.capture.start(Wanted(tmp_path / "net.pcapng", ring=MIN_RING, files=2))
    for i in range(200):
        bench.give(segment(ACK, 1001 + i * 1400, isn + 1, bytes([i]) * 1400))
    bench.capture.stop()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["net_00004.pcapng", "net_00005.pcapng"]
    assert all(path.stat().st_size <= MIN_RING for path in tmp_path.iterdir())
    with (tmp_path / "net_00005.pcapng").open("rb") as file:
        frames = [frame for _, frame in dpkt.pcapng.Reader(file)]
    assert any(bytes([199]) * 1400 in frame for frame in frames)


def test_second_capture_is_refused_and_the_first_goes_on(bench: Bench, tmp_path: Path) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng"))
    with pytest.raises(UsageError, match="runs already"):
        bench.capture.start(Wanted(tmp_path / "b.pcapng"))
    bench.handshake()
    assert bench.capture.stop()["packets"] == 3
    with pytest.raises(UsageError, match="no capture runs"):
        bench.capture.stop()


@pytest.mark.parametrize("name", ["/", "", "a\0b", "\udc80\ud800"])
@pytest.mark.parametrize("ring", [None, MIN_RING])
def test_name_that_no_file_can_have_is_refused_and_nobody_traces(
    bench: Bench, name: str, ring: int | None
) -> None:
    with pytest.raises(UsageError, match="is no name of a file"):
        bench.capture.start(Wanted(Path(name), ring=ring, comments=True))
    assert sys.gettrace() is None
    assert bench.net.drop_hook is None


def test_pipe_that_nobody_reads_is_refused_at_once(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HostIOError):
        bench.capture.start(Wanted(tmp_path / "pipe", comments=True))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(HostIOError) as refused:
            bench.capture.start(Wanted(tmp_path / "pipe"))
    finally:
        os.close(reader)
    assert "not a regular file" in str(refused.value.__cause__)
    assert sys.gettrace() is None


def test_capture_is_read_by_its_owner_alone(bench: Bench, tmp_path: Path) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng"))
    assert (tmp_path / "a.pcapng").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "wanted",
    [Wanted(Path("x"), ring=MIN_RING - 1), Wanted(Path("x"), files=0), Wanted(Path("x"), files=10_001)],
)
def test_capture_that_cannot_be_is_refused(bench: Bench, wanted: Wanted) -> None:
    with pytest.raises(UsageError):
        bench.capture.start(wanted)
    assert bench.adapter.port is bench.wire.a


def test_file_that_cannot_be_written_is_an_error_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(HostIOError):
        bench.capture.start(Wanted(tmp_path / "none" / "a.pcapng", comments=True))
    assert sys.gettrace() is None
    bench.handshake()
    assert bench.listener.accept()


@pytest.mark.parametrize("comments", [False, True])
def test_full_disk_ends_the_capture_and_its_status_says_why(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comments: bool
) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=comments))
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*arguments: object) -> None:
        raise full

    monkeypatch.setattr(middleware.PcapngWriter, "write", refuse)
    bench.handshake()
    status = bench.capture.status()
    assert (status["running"], status["packets"]) == (False, 0)
    assert "No space left" in status["failed"]
    assert bench.listener.accept()
    assert (sys.gettrace(), bench.net.drop_hook, bench.adapter.port) == (None, None, bench.wire.a)
    monkeypatch.undo()
    assert bench.capture.start(Wanted(tmp_path / "b.pcapng", comments=comments))["running"]
    assert bench.capture.stop()["failed"] == ""


def test_closed_capture_is_whole_and_its_end_can_come_twice(bench: Bench, tmp_path: Path) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    bench.handshake()
    bench.capture.close()
    bench.capture.close()
    assert sys.gettrace() is None
    assert len(packets(tmp_path / "a.pcapng")) == 3


def test_comments_blame_no_packet_for_another_that_was_dropped(bench: Bench, tmp_path: Path) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    bench.wire.a.send = lambda hdr, parts: True  # type: ignore[method-assign]
    comments = bench.feed._comments
    told = comments.received(segment(SYN, 1000))
    kfree_skb_reason(other := sk_buff(b"another", 0, 7), SKB_DROP_REASON_TCP_CSUM)
    other.dev = bench.adapter.dev
    kfree_skb_reason(other, SKB_DROP_REASON_TCP_CSUM)
    assert bench.net.drop_reasons["TCP_CSUM"] == 1
    assert "dropped" not in told()


def test_comments_know_a_connection_that_is_bound_to_a_device(bench: Bench, tmp_path: Path) -> None:
    bench.listener.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b"eth0")
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    bench.handshake()
    bench.capture.stop()
    assert packets(tmp_path / "a.pcapng")[2][1].endswith(
        "; NEW_SYN_RECV -> ESTABLISHED; cwnd=10 ssthresh=inf srtt=1us"
    )


def test_comments_are_not_in_the_tree_that_they_tell_of(bench: Bench, tmp_path: Path) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    trees: list[Tree] = []
    unsubscribe = bench.hub.subscribe(trees.append)
    bench.give(segment(SYN, 1000))
    unsubscribe()
    calls = [call.name for call in _all(trees[0].root)]
    assert calls.count("__inet_lookup_established") == 1  # the stack's own


def _all(call: Call) -> Iterator[Call]:
    yield call
    for child in call.calls():
        yield from _all(child)


def test_flow_of_a_frame_that_is_no_tcp_segment_is_none() -> None:
    syn = segment(SYN, 1)
    assert flow_of_frame(syn, outbound=False) == (4, 0x0A000202, 7, 0x0A00020F, 40000)
    assert flow_of_frame(syn, outbound=True) == (4, 0x0A00020F, 40000, 0x0A000202, 7)
    later_fragment = syn[:20] + b"\x00\x10" + syn[22:]
    for frame in (b"", syn[:30], syn[:36], later_fragment, syn[:12] + b"\x08\x06" + syn[14:]):
        assert flow_of_frame(frame, outbound=False) is None
