# SPDX-License-Identifier: GPL-2.0-or-later
"""The capture file, read back by dpkt and by tshark."""

from __future__ import annotations

import errno
import io
import shutil
import subprocess
from itertools import count
from pathlib import Path

import dpkt
import pytest
from vu_driver import Recorder

from devmodel.middleware.capture import CapturePort, PcapngWriter
from devmodel.netdev.loopback import Loopback
from devmodel.port import Buffer

REQUEST = bytes.fromhex(
    "ffffffffffff525400123456 0806 0001080006040001 525400123456 0a00020f 000000000000 0a000202"
)
ANSWER = bytes.fromhex(
    "525400123456 52550a000202 0806 0001080006040002 52550a000202 0a000202 525400123456 0a00020f"
)
START = 1_700_000_000_123_456_789


def capture(sink: io.BytesIO) -> CapturePort:
    """An ARP request from the guest and our answer, a nanosecond apart."""
    wire = Loopback()
    clock = count(START)
    port = CapturePort(wire.a, PcapngWriter(sink, "vnic0"), lambda: next(clock))
    behind = Recorder()
    port.attach(behind)
    wire.b.send(None, [REQUEST])
    wire.b.flush()
    wire.pump()
    assert behind.frames == [(None, REQUEST)]
    assert port.send(None, [ANSWER[:14], ANSWER[14:]])
    port.flush()
    return port


def test_dpkt_reads_frames_and_nanoseconds() -> None:
    sink = io.BytesIO()
    capture(sink)
    sink.seek(0)
    reader = dpkt.pcapng.Reader(sink)
    assert reader.datalink() == 1
    assert [bytes(frame) for _, frame in reader] == [REQUEST, ANSWER]
    assert START.to_bytes(8, "little")[:4] in sink.getvalue()


def test_directions_are_in_the_flags() -> None:
    sink = io.BytesIO()
    capture(sink)
    data = sink.getvalue()
    blocks = []
    while data:
        size = int.from_bytes(data[4:8], "little")
        assert data[size - 4 : size] == data[4:8]
        blocks.append(data[:size])
        data = data[size:]
    assert [int.from_bytes(block[:4], "little") for block in blocks] == [0x0A0D0D0A, 1, 6, 6]
    assert [block[-12] for block in blocks[2:]] == [1, 2]


def test_dropped_frame_is_not_in_the_file() -> None:
    sink = io.BytesIO()
    wire = Loopback()
    port = CapturePort(wire.a, PcapngWriter(sink, "vnic0"), lambda: 0)
    before = len(sink.getvalue())
    wire.a.set_link(False)
    assert not port.send(None, [ANSWER])
    assert len(sink.getvalue()) == before


def test_closed_port_closes_the_file_once() -> None:
    sink = io.BytesIO()
    port = capture(sink)
    port.close()
    port.close()
    assert sink.closed


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.slow
def test_tshark_reads_stamps_names_and_directions(tmp_path: Path) -> None:
    sink = io.BytesIO()
    capture(sink)
    file = tmp_path / "capture.pcapng"
    file.write_bytes(sink.getvalue())
    fields = ("frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "arp.opcode")
    command = ["tshark", "-r", str(file), "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["1700000000.123456789", "1700000000.123456790"], done.stderr
    assert [line[1] for line in lines] == ["vnic0", "vnic0"]
    assert [int(line[2], 16) for line in lines] == [1, 2]
    assert [line[3] for line in lines] == ["1", "2"]


class FullDisk(io.BytesIO):
    """Takes `room` bytes, then fails as write(2), flush and close of a buffered file do."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def _check(self) -> None:
        if self.tell() > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, data: Buffer, /) -> int:
        done = super().write(data)
        self._check()
        return done

    def flush(self) -> None:
        self._check()

    def close(self) -> None:
        self._check()
        super().close()


def test_full_disk_ends_the_capture_and_not_the_traffic(caplog: pytest.LogCaptureFixture) -> None:
    wire = Loopback()
    port = CapturePort(wire.a, PcapngWriter(FullDisk(200), "vnic0"), lambda: 0)
    behind = Recorder()
    port.attach(behind)
    for _ in range(5):
        wire.b.send(None, [REQUEST])
        wire.b.flush()
        wire.pump()
        assert port.send(None, [ANSWER])
        port.flush()
    assert len(behind.frames) == 5
    assert [record.getMessage() for record in caplog.records] == [
        f"the capture of {wire.a.name} ends here, the traffic goes on: [Errno 28] No space left on device"
    ]
    port.close()
