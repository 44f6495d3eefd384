# SPDX-License-Identifier: GPL-2.0-or-later
"""virtio-net: headers of both lengths, offload checks, mergeable buffers."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from vu_driver import MODERN, SPLIT, WRITE, DriverRing, GuestRam

from devmodel.errors import BrokenRing
from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.net import NO_BUFFERS, SENT, TOO_BIG, VirtioNet, scatter
from devmodel.virtio.ring_split import SplitRing
from tests.unit.devmodel.virtio.test_rss import KEY, VECTORS, frame

NO_MRG = MODERN & ~vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)
LEGACY = vf.mask(vf.VIRTIO_NET_F_CSUM)
FRAME = bytes(range(60))
HDR12 = bytes(12)


class Bench:
    """One ring of one device."""

    def __init__(self, features: int = MODERN) -> None:
        self.ram = GuestRam()
        self.memory = self.ram.map()
        self.net = VirtioNet()
        self.driver = DriverRing(self.ram)
        self.ring: SplitRing
        self.use(features)

    def use(self, features: int) -> Bench:
        if hasattr(self, "ring"):
            self.ring.release()
        self.net.negotiate(features)
        self.driver.reset()
        self.ring = self.driver.device(self.memory, features)
        return self

    def close(self) -> None:
        self.ring.release()
        self.memory.close()
        self.ram.close()

    def receive(self, *pieces: bytes) -> list[tuple[VnetHdr | None, bytes]]:
        """One frame from the guest in these descriptors; its buffer must be completed whatever happens."""
        head = self.driver.add_out(*pieces)
        frames = self.net.receive(self.ring, 256)
        self.ring.publish()
        assert self.driver.used() == [(head, 0)]
        return frames


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def hdr(
    flags: int = 0, gso_type: int = 0, hdr_len: int = 0, gso_size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return struct.pack("<BBHHHHH", flags, gso_type, hdr_len, gso_size, start, offset, 0)


# -- from the guest -------------------------------------------------------------------------------------


def test_modern_plain_frame_has_no_header(bench: Bench) -> None:
    assert bench.receive(HDR12 + FRAME) == [(None, FRAME)]
    assert (bench.net.counters.rx_frames, bench.net.counters.rx_bytes) == (1, 60)


def test_legacy_header_has_ten_bytes(bench: Bench) -> None:
    bench.use(LEGACY)
    assert bench.receive(bytes(10), FRAME) == [(None, FRAME)]


def test_legacy_with_mergeable_buffers_has_twelve(bench: Bench) -> None:
    bench.use(vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF))
    assert bench.receive(HDR12, FRAME) == [(None, FRAME)]


def test_tso_frame_comes_whole_with_its_header(bench: Bench) -> None:
    frame = bytes(14) + b"x" * 60000
    pieces = (hdr(1, 0x81, 66, 1448, 34, 16) + frame[:100], frame[100:30000], frame[30000:])
    assert bench.receive(*pieces) == [(VnetHdr(1, 0x81, 66, 1448, 34, 16), frame)]


def test_data_valid_from_the_driver_is_ignored(bench: Bench) -> None:
    assert bench.receive(hdr(flags=2) + FRAME) == [(None, FRAME)]


def test_budget_leaves_the_rest_in_the_ring(bench: Bench) -> None:
    for _ in range(3):
        bench.driver.add_out(HDR12 + FRAME)
    assert len(bench.net.receive(bench.ring, 2)) == 2
    assert len(bench.net.receive(bench.ring, 2)) == 1


def test_row_41_header_spread_over_twelve_descriptors(bench: Bench) -> None:
    header = hdr(1, 0, 0, 0, 34, 6)
    pieces = [header[at : at + 1] for at in range(12)]
    assert bench.receive(*pieces, FRAME) == [(VnetHdr(1, 0, 0, 0, 34, 6), FRAME)]


@pytest.mark.parametrize("size", [0, 1, 11, 12, 12 + 13])
def test_row_41_too_short_frame_is_dropped(bench: Bench, size: int) -> None:
    assert bench.receive(bytes(size)) == []
    assert bench.net.counters.rx_drop_short == 1


def test_row_41_too_long_frame_is_dropped(bench: Bench) -> None:
    assert bench.receive(HDR12 + bytes(32000), bytes(33551)) == []
    assert bench.net.counters.rx_drop_long == 1
    assert len(bench.receive(HDR12 + bytes(32000), bytes(33550))) == 1


def test_row_41_sixteen_aliased_gigabytes_are_not_copied(bench: Bench) -> None:
    bench.driver.add([(0x100000, 0x300000, 0)] * 16)
    assert bench.net.receive(bench.ring, 1) == []
    assert bench.net.counters.rx_drop_long == 1


def test_row_42_writable_part_in_a_transmit_chain_drops_the_frame(bench: Bench) -> None:
    gpa, size = bench.ram.put(HDR12 + FRAME)
    head = bench.driver.add([(gpa, size, 0), (gpa, size, WRITE)])
    assert bench.net.receive(bench.ring, 1) == []
    bench.ring.publish()
    assert bench.driver.used() == [(head, 0)]
    assert bench.net.counters.rx_drop_writable == 1


@pytest.mark.parametrize(
    ("header", "counter"),
    [
        (hdr(1, 0, 0, 0, 34, 25), "rx_drop_csum"),
        (hdr(1, 0, 0, 0, 65535, 65535), "rx_drop_csum"),
        (hdr(1, 0, 0, 0, 13, 0), "rx_drop_csum"),
        (hdr(0, 1, 54, 1448), "rx_drop_csum"),
        (hdr(1, 1, 54, 0, 34, 16), "rx_drop_gso"),
        (hdr(1, 1, 61, 1448, 34, 16), "rx_drop_gso"),
        (hdr(1, 2, 54, 1448, 34, 16), "rx_drop_gso"),
        (hdr(1, 3, 54, 0, 34, 6), "rx_drop_gso"),
        (hdr(1, 0x83, 54, 1448, 34, 6), "rx_drop_gso"),
        (hdr(1, 0x85, 54, 1448, 34, 6), "rx_drop_gso"),
        (hdr(0, 5, 54, 1448, 34, 6), "rx_drop_csum"),
        (hdr(1, 0x80, 54, 1448, 34, 16), "rx_drop_gso"),
    ],
)
def test_row_43_bad_offload_fields_drop_the_frame(bench: Bench, header: bytes, counter: str) -> None:
    assert bench.receive(header + FRAME) == []
    assert getattr(bench.net.counters, counter) == 1


@pytest.mark.parametrize(
    ("missing", "gso_type"),
    [
        (vf.VIRTIO_NET_F_CSUM, 0),
        (vf.VIRTIO_NET_F_HOST_TSO4, 1),
        (vf.VIRTIO_NET_F_HOST_TSO6, 4),
        (vf.VIRTIO_NET_F_HOST_ECN, 0x81),
        (vf.VIRTIO_NET_F_HOST_UFO, 3),
        (vf.VIRTIO_NET_F_HOST_USO, 5),
    ],
)
def test_row_43_offload_that_was_not_negotiated_drops_the_frame(
    bench: Bench, missing: int, gso_type: int
) -> None:
    header = hdr(1, gso_type, 54, 1448 if gso_type else 0, 34, 16)
    assert len(bench.receive(header + FRAME)) == 1
    bench.use(MODERN & ~vf.mask(missing))
    assert bench.receive(header + FRAME) == []


# -- to the guest ---------------------------------------------------------------------------------------


def test_frame_that_fits_one_buffer_is_written_behind_its_header(bench: Bench) -> None:
    head, [(gpa, _)] = bench.driver.add_in(1536)
    header = VnetHdr(1, 1, 54, 1448, 34, 16)
    assert bench.net.transmit(bench.ring, header, [FRAME[:14], FRAME[14:]]) == SENT
    bench.ring.publish()
    assert bench.driver.used() == [(head, 72)]
    assert bench.ram.read(gpa, 72) == struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 1) + FRAME


def test_legacy_header_to_the_guest_has_ten_bytes(bench: Bench) -> None:
    bench.use(LEGACY)
    head, [(first, _), (second, _)] = bench.driver.add_in(10, 1514)
    assert bench.net.transmit(bench.ring, None, [FRAME]) == SENT
    bench.ring.publish()
    assert bench.driver.used() == [(head, 70)]
    assert (bench.ram.read(first, 10), bench.ram.read(second, 60)) == (bytes(10), FRAME)


# The largest region is where a ring looks first; buffers may lie in it, in the other, or in both.
@pytest.mark.parametrize("start", [0x40000, SPLIT - 2 * 1536, SPLIT])
def test_mergeable_buffers_share_one_frame(bench: Bench, start: int) -> None:
    bench.ram.next_free = start
    chains = [bench.driver.add_in(1536) for _ in range(4)]
    frame = bytes(range(256)) * 16
    assert bench.net.transmit(bench.ring, None, [frame[:54], memoryview(frame)[54:]]) == SENT
    bench.ring.publish()
    total = 12 + len(frame)
    sizes = [1536, 1536, total - 2 * 1536]
    assert bench.driver.used() == [(head, size) for (head, _), size in zip(chains, sizes, strict=False)]
    written = b"".join(
        bench.ram.read(places[0][0], size) for (_, places), size in zip(chains, sizes, strict=False)
    )
    assert written == struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 3) + frame


def test_mergeable_buffers_go_round_the_ring(bench: Bench) -> None:
    bench.ram.next_free = SPLIT
    places = [bench.ram.alloc(1536, 64) for _ in range(3)]
    for number in range(30):
        heads = [bench.driver.add([(gpa, 1536, WRITE)]) for gpa in places]
        frame = bytes([number]) * 4000
        assert bench.net.transmit(bench.ring, None, [frame]) == SENT
        bench.ring.publish()
        assert bench.driver.used() == [(heads[0], 1536), (heads[1], 1536), (heads[2], 4012 - 2 * 1536)]
        assert bench.ram.read(places[2], 4012 - 2 * 1536) == frame[2 * 1536 - 12 :]
    assert bench.net.counters.tx_frames == 30


def test_mergeable_buffer_of_two_descriptors_among_plain_ones(bench: Bench) -> None:
    bench.ram.next_free = SPLIT
    first, _ = bench.driver.add_in(1536)
    second, places = bench.driver.add_in(100, 1436)
    frame = bytes(range(250)) * 8
    assert bench.net.transmit(bench.ring, None, [frame]) == SENT
    bench.ring.publish()
    assert bench.driver.used() == [(first, 1536), (second, 2012 - 1536)]
    assert b"".join(bench.ram.read(*place) for place in places)[: 2012 - 1536] == frame[1536 - 12 :]


def test_big_frame_without_mergeable_buffers_fills_a_long_chain(bench: Bench) -> None:
    bench.use(NO_MRG)
    head, places = bench.driver.add_in(*[4096] * 15)
    frame = bytes(range(250)) * 200
    assert bench.net.transmit(bench.ring, None, [frame]) == SENT
    bench.ring.publish()
    assert bench.driver.used() == [(head, 12 + len(frame))]
    whole = b"".join(bench.ram.read(gpa, size) for gpa, size in places)
    assert whole[12 : 12 + len(frame)] == frame
    assert whole[10:12] == b"\x01\x00"


def test_data_valid_is_kept_from_a_driver_without_guest_csum(bench: Bench) -> None:
    _, [(gpa, _)] = bench.driver.add_in(1536)
    bench.net.transmit(bench.ring, VnetHdr(flags=2), [FRAME])
    assert bench.ram.read(gpa, 1) == b"\x02"
    bench.use(MODERN & ~vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM))
    _, [(gpa, _)] = bench.driver.add_in(1536)
    bench.net.transmit(bench.ring, VnetHdr(flags=2), [FRAME])
    assert bench.ram.read(gpa, 1) == b"\x00"


def test_no_buffer_posted_is_not_a_drop(bench: Bench) -> None:
    assert bench.net.transmit(bench.ring, None, [FRAME]) == NO_BUFFERS
    assert bench.net.counters.tx_drop_too_big == 0


def test_row_42_readable_part_in_a_receive_chain_breaks(bench: Bench) -> None:
    bench.driver.add_out(b"x")
    with pytest.raises(BrokenRing, match=r"5\.1\.6\.3"):
        bench.net.transmit(bench.ring, None, [FRAME])


def test_row_44_buffer_shorter_than_the_header_is_put_back(bench: Bench) -> None:
    head, _ = bench.driver.add_in(11)
    for _ in range(2):
        assert bench.net.transmit(bench.ring, None, [FRAME]) == TOO_BIG
    chain = bench.ring.pop()
    assert chain is not None
    assert chain.head == head


def test_row_44_frame_too_big_without_mergeable_is_put_back(bench: Bench) -> None:
    bench.use(NO_MRG)
    bench.driver.add_in(71)
    assert bench.net.transmit(bench.ring, None, [FRAME]) == TOO_BIG
    assert bench.net.transmit(bench.ring, None, [FRAME[:59]]) == SENT


def test_row_44_more_buffers_than_the_queue_has_is_put_back(bench: Bench) -> None:
    for _ in range(16):
        bench.driver.add_in(64)
    assert bench.net.transmit(bench.ring, None, [bytes(1024)]) == TOO_BIG
    assert bench.net.transmit(bench.ring, None, [bytes(1012)]) == SENT


def test_row_44_too_few_buffers_yet_wait_for_more(bench: Bench) -> None:
    bench.driver.add_in(64)
    assert bench.net.transmit(bench.ring, None, [FRAME]) == NO_BUFFERS
    bench.driver.add_in(64)
    assert bench.net.transmit(bench.ring, None, [FRAME]) == SENT


def test_row_44_frame_above_the_largest_is_dropped_though_mergeable_buffers_would_take_it(
    bench: Bench,
) -> None:
    for _ in range(16):
        bench.driver.add_in(8192)
    assert bench.net.transmit(bench.ring, None, [bytes(65551)]) == TOO_BIG
    assert bench.net.counters.tx_drop_too_big == 1
    assert bench.driver.used() == []
    assert bench.net.transmit(bench.ring, None, [bytes(65550)]) == SENT


# -- hashes (5.1.6.4.3, 5.1.6.4.4) ----------------------------------------------------------------------

HASHED = MODERN | vf.mask(vf.VIRTIO_NET_F_CTRL_VQ, vf.VIRTIO_NET_F_HASH_REPORT)


def configure(net: VirtioNet, types: int = 0x3F, key: bytes = KEY) -> None:
    """VIRTIO_NET_CTRL_MQ_HASH_CONFIG."""
    command = bytes([4, 2]) + struct.pack("<I8xB", types, len(key)) + key
    assert net.control.process(command, 1) == b"\0"


def hash_of(header: bytes) -> tuple[int, ...]:
    """num_buffers, hash_value, hash_report, padding."""
    assert len(header) == 20
    return struct.unpack("<10xHIHH", header)


@pytest.mark.parametrize("vector", VECTORS)
def test_hash_report_has_the_values_of_the_verification_suite(
    bench: Bench, vector: tuple[str, int, str, int, int, int]
) -> None:
    *flow, with_ports, without = vector
    six = ":" in flow[0]
    bench.use(HASHED)
    for types, expected in ((0x3F, (with_ports, 5 if six else 2)), (0x09, (without, 4 if six else 1))):
        configure(bench.net, types)
        (gpa, _), tcp = bench.ram.put(bytes(1536)), frame(*flow)
        bench.driver.add([(gpa, 1536, WRITE)])
        assert bench.net.transmit(bench.ring, VnetHdr(1, 0, 0, 0, 34, 16), [tcp]) == SENT
        bench.ring.publish()
        assert bench.driver.used()[0][1] == 20 + len(tcp)
        assert hash_of(bench.ram.read(gpa, 20)) == (1, *expected, 0)
        assert bench.ram.read(gpa, 10) == struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 16)
        assert bench.ram.read(gpa + 20, len(tcp)) == tcp


@pytest.mark.parametrize("features", [HASHED, HASHED & ~vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)])
@pytest.mark.parametrize("cuts", [(14,), (14, 20), (1, 13, 20, 4)])
def test_hash_is_of_the_frame_wherever_its_pieces_begin(
    bench: Bench, features: int, cuts: tuple[int, ...]
) -> None:
    *flow, value, _ = VECTORS[0]
    bench.use(features)
    configure(bench.net)
    tcp, parts, at = frame(*flow), [], 0
    for cut in cuts:
        parts.append(tcp[at : at + cut])
        at += cut
    gpa, _ = bench.ram.put(bytes(1536))
    bench.driver.add([(gpa, 7, WRITE), (gpa + 7, 1529, WRITE)])
    assert bench.net.transmit(bench.ring, None, [*parts, tcp[at:]]) == SENT
    assert hash_of(bench.ram.read(gpa, 20)) == (1, value, 2, 0)


def test_hash_is_in_the_first_of_many_buffers_only(bench: Bench) -> None:
    *flow, value, _ = VECTORS[1]
    bench.use(HASHED)
    configure(bench.net)
    places = [bench.ram.put(bytes(64))[0] for _ in range(4)]
    for gpa in places:
        bench.driver.add([(gpa, 64, WRITE)])
    whole = frame(*flow) + bytes(range(150))
    assert bench.net.transmit(bench.ring, None, [whole]) == SENT
    bench.ring.publish()
    got = b"".join(
        bench.ram.read(gpa, size) for gpa, (_, size) in zip(places, bench.driver.used(), strict=True)
    )
    assert hash_of(got[:20]) == (4, value, 2, 0)
    assert got[20:] == whole


def test_hash_report_is_none_before_the_driver_said_what_to_hash(bench: Bench) -> None:
    bench.use(HASHED)
    assert bench.receive(bytes(20) + FRAME) == [(None, FRAME)]
    gpa, _ = bench.ram.put(b"\xff" * 128)
    bench.driver.add([(gpa, 128, WRITE)])
    *flow, _, _ = VECTORS[0]
    assert bench.net.transmit(bench.ring, None, [frame(*flow)]) == SENT
    assert bench.ram.read(gpa, 20) == bytes(10) + b"\1" + bytes(9)


def test_hash_config_is_forgotten_with_a_new_negotiation(bench: Bench) -> None:
    bench.use(HASHED)
    configure(bench.net)
    bench.use(HASHED)
    assert bench.net.control.hash is None


def test_hash_report_without_a_control_queue_does_not_count(bench: Bench) -> None:
    bench.use(MODERN | vf.mask(vf.VIRTIO_NET_F_HASH_REPORT))
    assert bench.receive(HDR12 + FRAME) == [(None, FRAME)]


# -- what was negotiated --------------------------------------------------------------------------------


def test_offloads_follow_the_features(bench: Bench) -> None:
    offloads = bench.net.offloads
    assert (offloads.csum, offloads.tso4, offloads.tso6, offloads.ecn) == (True, True, True, True)
    assert offloads.max_frame == 65550
    offloads = bench.use(LEGACY).net.offloads
    assert (offloads.csum, offloads.tso4, offloads.max_frame) == (False, False, 1514)


@pytest.mark.parametrize(
    ("bit", "gso_type", "kind", "name"),
    [
        (vf.VIRTIO_NET_F_GUEST_UFO, 3, b"\x08\x00", "ufo"),
        (vf.VIRTIO_NET_F_GUEST_USO4, 5, b"\x08\x00", "uso4"),
        (vf.VIRTIO_NET_F_GUEST_USO6, 5, b"\x86\xdd", "uso6"),
    ],
)
def test_udp_offload_follows_its_feature(
    bench: Bench, bit: int, gso_type: int, kind: bytes, name: str
) -> None:
    parts = [FRAME[:12] + kind + FRAME[14:]]
    header = VnetHdr(1, gso_type, 42, 1000, 34, 6)
    assert getattr(bench.net.offloads, name)
    assert bench.net.offloads.takes(header, parts)
    bench.use(MODERN & ~vf.mask(bit))
    assert not getattr(bench.net.offloads, name)
    assert not bench.net.offloads.takes(header, parts)
    bench.use(MODERN & ~vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM))
    assert not bench.net.offloads.takes(header, parts)


def test_uso_of_one_ip_version_is_not_taken_for_the_other(bench: Bench) -> None:
    header = VnetHdr(1, 5, 42, 1000, 34, 6)
    four, six, tagged = (FRAME[:12] + kind + FRAME[14:] for kind in (b"\x08\0", b"\x86\xdd", b"\x81\0"))
    assert bench.net.offloads.takes(header, [tagged])
    bench.use(MODERN & ~vf.mask(vf.VIRTIO_NET_F_GUEST_USO6))
    assert bench.net.offloads.takes(header, [four[:7], four[7:]])
    assert not bench.net.offloads.takes(header, [six])
    bench.use(MODERN & ~vf.mask(vf.VIRTIO_NET_F_GUEST_USO4))
    assert [bench.net.offloads.takes(header, [one]) for one in (four, six, tagged)] == [False, True, False]


def test_any_gso_kind_of_the_guest_makes_room_for_the_largest_frame(bench: Bench) -> None:
    csum = vf.mask(vf.VIRTIO_F_VERSION_1, vf.VIRTIO_NET_F_GUEST_CSUM)
    assert bench.use(csum).net.offloads.max_frame == 1514
    for bit in (
        vf.VIRTIO_NET_F_GUEST_UFO,
        vf.VIRTIO_NET_F_GUEST_USO4,
        vf.VIRTIO_NET_F_GUEST_USO6,
        vf.VIRTIO_NET_F_GUEST_TSO4,
    ):
        assert bench.use(csum | vf.mask(bit)).net.offloads.max_frame == 65550


@pytest.mark.parametrize("gso_type", [1, 4, 0x81, 0x84, 3])
def test_legacy_gso_bit_stands_for_all_kinds_of_its_time(bench: Bench, gso_type: int) -> None:
    header = struct.pack("<BBHHHH", 1, gso_type, 54, 1448, 34, 16)
    legacy = vf.mask(vf.VIRTIO_NET_F_CSUM, vf.VIRTIO_NET_F_GSO)
    assert len(bench.use(legacy).receive(header, FRAME)) == 1
    assert bench.use(vf.mask(vf.VIRTIO_NET_F_GSO)).receive(header, FRAME) == []
    bench.use(legacy | vf.mask(vf.VIRTIO_F_VERSION_1))
    assert bench.receive(header + b"\0\0" + FRAME) == []


def test_mtu_sets_the_largest_frame(bench: Bench) -> None:
    bench.use(LEGACY).net.set_mtu(9000)
    assert bench.net.offloads.max_frame == 9014


def test_tso_without_guest_csum_does_not_count(bench: Bench) -> None:
    bench.use(MODERN & ~vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM))
    assert not bench.net.offloads.tso4
    assert not bench.net.offloads.ecn


def test_accepts_only_what_the_guest_takes(bench: Bench) -> None:
    net = bench.net
    assert net.offloads.takes(VnetHdr(1, 0x84, 74, 1428, 54, 16), [FRAME])
    bench.use(MODERN & ~vf.mask(vf.VIRTIO_NET_F_GUEST_ECN))
    assert not net.offloads.takes(VnetHdr(1, 0x84, 74, 1428, 54, 16), [FRAME])
    assert net.offloads.takes(VnetHdr(1, 4, 74, 1428, 54, 16), [FRAME])
    bench.use(LEGACY)
    assert not net.offloads.takes(VnetHdr(1, 0, 0, 0, 34, 16), [FRAME])
    assert net.offloads.takes(VnetHdr(), [FRAME])


def test_scatter_crosses_borders_of_both_sides() -> None:
    buffers = [bytearray(3), bytearray(0), bytearray(4)]
    scatter([memoryview(buffer) for buffer in buffers], (b"a", b"bcde", b"", b"fg"))
    assert buffers == [b"abc", b"", b"defg"]
