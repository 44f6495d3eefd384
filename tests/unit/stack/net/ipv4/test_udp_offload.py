# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP_SEGMENT and UDP_GRO between two stacks, over both IP versions; errors as measured on Linux 6.1 and 6.18."""

from __future__ import annotations

import errno
import random
import struct
from typing import Any

import pytest

from stack.api.bsd import AF_INET, AF_INET6, SOCK_DGRAM, Socket
from stack.api.sim import Frame, Sim
from stack.include.ip import ETH_HLEN
from stack.include.netdevice import NETIF_F_GSO_UDP_L4, NETIF_F_HW_CSUM, NETIF_F_SG
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, SKB_GSO_UDP, SKB_GSO_UDP_L4
from stack.include.udp import SOL_UDP, UDP_GRO, UDP_SEGMENT
from stack.net.ipv4 import proc
from stack.net.ipv6 import proc as proc6

HERE = {4: "10.0.2.2", 6: "fd00::2"}
THERE = {4: "10.0.2.15", 6: "fd00::15"}
FAMILY = {4: AF_INET, 6: AF_INET6}
IP_HEADER = {4: 20, 6: 40}
ROOM = {4: 1472, 6: 1452}
WHOLE = NETIF_F_HW_CSUM | NETIF_F_SG | NETIF_F_GSO_UDP_L4
CSUM = NETIF_F_HW_CSUM | NETIF_F_SG
GSO_SIZE = struct.pack("=H", 1000)
SO_NO_CHECK, MTU_DISCOVER = 11, 10


class Pair:
    """A sender ``a`` and a receiver ``b`` on port 7, whose stacks are joined."""

    def __init__(
        self, version: int, features: int = WHOLE, profile: str = "linux-6.1", mtu: int = 1500
    ) -> None:
        self.version = version
        self.sim = Sim(seed=3)
        here, there = HERE[version], THERE[version]
        width = 24 if version == 4 else 64
        self.net = self.sim.add_stack(f"{here}/{width}", features=features, profile=profile, mtu=mtu)
        self.far = self.sim.add_stack(f"{there}/{width}", features=features, profile=profile, mtu=mtu)
        self.sim.join(self.net, self.far)
        self.a = Socket(self.net, FAMILY[version], SOCK_DGRAM)
        self.a.setsockopt(1, 7, 1 << 20)
        self.b = Socket(self.far, FAMILY[version], SOCK_DGRAM)
        self.b.setsockopt(1, 33, 4 << 20)
        self.b.bind(("::" if version == 6 else "", 7))
        self.a.connect((there, 7))
        self.a.send(b"so that the neighbours are known")
        self.sim.settle()
        self.b.recv(100)
        self.sim.frames.clear()

    def received(self) -> list[bytes]:
        self.sim.settle()
        found = []
        while True:
            try:
                found.append(self.b.recv(65536))
            except BlockingIOError:
                return found

    def sent(self) -> list[Frame]:
        """What went from a to b."""
        mine = self.net.devices_by_name["eth0"].dev_addr
        return [frame for frame in self.sim.frames if frame.data[6:12] == mine]

    def counter(self, name: str, *, far: bool = False) -> int:
        net = self.far if far else self.net
        if self.version == 6:
            return proc6.snmp6_counters(net).get(name.replace("Udp", "Udp6", 1), 0)
        return proc.counters(net).get(name, 0)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("features", [WHOLE, CSUM], ids=["whole", "cut"])
@pytest.mark.parametrize(("size", "total"), [(1000, 3001), (1, 128), (1452, 14520), (600, 60001), (500, 501)])
def test_one_send_arrives_as_datagrams_of_that_size(
    version: int, features: int, size: int, total: int
) -> None:
    pair = Pair(version, features)
    data = random.Random(total).randbytes(total)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, size)
    assert pair.a.send(data) == total
    assert pair.received() == pieces(data, size)
    sent = pair.sent()
    assert len(sent) == (1 if features == WHOLE else -(-total // size))
    if features == WHOLE:
        assert (sent[0].gso_type, sent[0].gso_size, sent[0].ip_summed) == (
            SKB_GSO_UDP_L4,
            size,
            CHECKSUM_PARTIAL,
        )
    assert pair.counter("UdpOutDatagrams") == 2
    assert pair.counter("UdpInDatagrams", far=True) == 1 + -(-total // size)
    assert pair.a._sock.sk.sk_wmem_alloc == pair.b._sock.sk.sk_rmem_alloc == 0


def test_datagrams_that_are_cut_have_headers_of_their_own(version: int) -> None:
    """Identifications count up, and DF is what a datagram of that length has alone: none above the MTU (measured)."""
    pair = Pair(version, CSUM)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    pair.a.send(bytes(2500))
    frames = [frame.data for frame in pair.sent()]
    th = ETH_HLEN + IP_HEADER[version]
    assert [struct.unpack_from(">H", one, th + 4)[0] for one in frames] == [1008, 1008, 508]
    if version == 4:
        assert [struct.unpack_from(">H", one, 16)[0] for one in frames] == [1028, 1028, 528]
        first = struct.unpack_from(">H", frames[0], 18)[0]
        assert [struct.unpack_from(">HH", one, 18) for one in frames] == [
            ((first + n) & 0xFFFF, 0) for n in range(3)
        ]
    else:
        assert [struct.unpack_from(">H", one, 18)[0] for one in frames] == [1008, 1008, 508]


def test_device_without_checksums_is_eio_under_6_1_and_summed_for_under_6_18(version: int) -> None:
    old, new = Pair(version, 0), Pair(version, 0, "linux-6.18")
    for pair in (old, new):
        pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    with pytest.raises(OSError) as failed:
        old.a.send(bytes(10))
    assert failed.value.errno == errno.EIO
    assert new.a.send(bytes(2500)) == 2500
    assert {(frame.ip_summed, frame.gso_size) for frame in new.sent()} == {(CHECKSUM_NONE, 0)}
    assert [len(one) for one in new.received()] == [1000, 1000, 500]


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.18"])
@pytest.mark.parametrize(
    ("over", "total", "expected"),
    [(0, 4000, 0), (1, 100, 0), (1, 4000, errno.EMSGSIZE), (64000, 10, 0), (64000, 3000, errno.EMSGSIZE)],
)
def test_size_above_the_mtu_is_refused_for_what_would_be_as_long(
    version: int, profile: str, over: int, total: int, expected: int
) -> None:
    pair = Pair(version, profile=profile)
    size = min(ROOM[version] + over, 65535)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, size)
    if expected:
        with pytest.raises(OSError) as failed:
            pair.a.send(bytes(total))
        assert failed.value.errno == expected
        assert pair.received() == []
        assert pair.a._sock.sk.sk_wmem_alloc == 0
    else:
        assert pair.a.send(bytes(total)) == total
        assert sum(map(len, pair.received())) == total


def test_more_than_128_datagrams_are_einval(version: int) -> None:
    pair = Pair(version)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 2)
    assert pair.a.send(bytes(256)) == 256
    with pytest.raises(OSError) as failed:
        pair.a.send(bytes(257))
    assert failed.value.errno == errno.EINVAL
    assert len(pair.received()) == 128


def test_more_than_an_ip_packet_is_emsgsize(version: int) -> None:
    pair = Pair(version)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1400)
    most = 65507 if version == 4 else 65527
    with pytest.raises(OSError) as failed:
        pair.a.send(bytes(most + 1))
    assert failed.value.errno == errno.EMSGSIZE
    assert pair.a.send(bytes(most)) == most
    # The kernel cuts what is longer with its link header than the device's largest packet.
    assert {frame.gso_size for frame in pair.sent()} == {0}
    assert sum(map(len, pair.received())) == most


def test_socket_without_checksums_cannot_send_them() -> None:
    pair = Pair(4)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    pair.a.setsockopt(1, SO_NO_CHECK, 1)
    for total in (10, 2500):
        with pytest.raises(OSError) as failed:
            pair.a.send(bytes(total))
        assert failed.value.errno == errno.EINVAL


def test_path_mtu_discovery_makes_no_difference_to_the_whole() -> None:
    pair = Pair(4)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    pair.a.setsockopt(0, MTU_DISCOVER, 2)
    assert pair.a.send(bytes(5000)) == 5000
    assert [frame.data[20] for frame in pair.sent()] == [0x40]


def test_ip_options_are_on_every_datagram() -> None:
    pair = Pair(4, CSUM)
    pair.a.setsockopt(0, 4, b"\1" * 8)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1464)
    pair.a.send(bytes(3000))
    assert [frame.data[14:15] + frame.data[34:42] for frame in pair.sent()] == [b"\x47" + b"\1" * 8] * 3
    assert [len(one) for one in pair.received()] == [1464, 1464, 72]
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1465)
    with pytest.raises(OSError, match="send"):
        pair.a.send(bytes(3000))


def test_call_with_a_size_of_its_own(version: int) -> None:
    pair = Pair(version)
    assert pair.a.sendmsg([bytes(2500)], [(SOL_UDP, UDP_SEGMENT, GSO_SIZE)]) == 2500
    assert [len(one) for one in pair.received()] == [1000, 1000, 500]
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 500)
    assert pair.a.sendmsg([bytes(1200)], [(SOL_UDP, UDP_SEGMENT, b"\0\0")]) == 1200
    assert [len(one) for one in pair.received()] == [1200]


@pytest.mark.parametrize(
    "message", [(UDP_SEGMENT, b"\1"), (UDP_SEGMENT, bytes(4)), (UDP_GRO, bytes(4)), (1, b"\1\0")]
)
def test_malformed_control_message_is_einval(version: int, message: tuple[int, bytes]) -> None:
    pair = Pair(version)
    with pytest.raises(OSError) as failed:
        pair.a.sendmsg([bytes(2500)], [(SOL_UDP, *message)])
    assert failed.value.errno == errno.EINVAL
    assert pair.received() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (1, 1),
        (65535, 65535),
        (65536, None),
        (-1, None),
        (b"", None),
        (b"\1\0", None),
        (b"\1\0\0\0x", 1),
    ],
)
def test_option_keeps_a_size_of_16_bits(version: int, value: int | bytes, expected: int | None) -> None:
    sock = Pair(version).a
    assert sock.getsockopt(SOL_UDP, UDP_SEGMENT) == 0
    if expected is None:
        with pytest.raises(OSError, match="setsockopt"):
            sock.setsockopt(SOL_UDP, UDP_SEGMENT, value)
    else:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, value)
    assert sock.getsockopt(SOL_UDP, UDP_SEGMENT) == (expected or 0)


def test_other_options_of_udp_are_not_there(version: int) -> None:
    sock = Pair(version).a
    for name in (1, 100, 101, 105):
        with pytest.raises(OSError, match="no such option"):
            sock.setsockopt(SOL_UDP, name, 1)
        with pytest.raises(OSError, match="no such option"):
            sock.getsockopt(SOL_UDP, name)


def test_receiver_with_udp_gro_reads_all_at_once_and_the_size(version: int) -> None:
    pair = Pair(version)
    pair.b.setsockopt(SOL_UDP, UDP_GRO, -1)
    assert pair.b.getsockopt(SOL_UDP, UDP_GRO) == 1
    data = random.Random(1).randbytes(5500)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    pair.a.send(data)
    pair.a.send(b"alone")
    pair.sim.settle()
    assert pair.b.recvmsg(65536, 100)[:2] == (data, [(SOL_UDP, UDP_GRO, struct.pack("=i", 1000))])
    assert pair.b.recvmsg(65536, 100)[:2] == (b"alone", [])
    pair.b.setsockopt(SOL_UDP, UDP_GRO, 0)
    pair.a.send(data)
    assert pair.received() == pieces(data, 1000)


def test_full_receive_buffer_drops_the_datagrams_that_do_not_fit(version: int) -> None:
    pair = Pair(version)
    pair.b.setsockopt(1, 8, 5000)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    pair.a.send(bytes(30000))
    got = pair.received()
    assert 1 <= len(got) < 30
    assert pair.counter("UdpRcvbufErrors", far=True) == 30 - len(got)
    assert pair.counter("UdpInErrors", far=True) == 30 - len(got)
    assert pair.b._sock.sk.sk_rmem_alloc == 0


def test_nobody_there_is_one_icmp_error(version: int) -> None:
    pair = Pair(version)
    pair.b.close()
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    pair.a.send(bytes(5000))
    pair.sim.settle()
    with pytest.raises(ConnectionRefusedError):
        pair.a.send(b"x")
    assert pair.counter("UdpNoPorts", far=True) == 1


def test_loopback_carries_them_whole(version: int) -> None:
    pair = Pair(version)
    local = Socket(pair.far, FAMILY[version], SOCK_DGRAM)
    local.connect(("127.0.0.1" if version == 4 else "::1", 7))
    local.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    before = pair.far.devices_by_name["lo"].stats.tx_packets
    local.send(bytes(2500))
    pair.far.rx_done()
    assert [len(one) for one in pair.received()] == [1000, 1000, 500]
    assert pair.far.devices_by_name["lo"].stats.tx_packets == before + 1


# -- frames from a device --------------------------------------------------------------------------------------------


def given(pair: Pair, frame: bytes, gso_type: int, gso_size: int, **fields: Any) -> int:
    """A frame from b's device, with what its virtio_net_hdr said."""
    start = ETH_HLEN + IP_HEADER[pair.version]
    claims: dict[str, Any] = {"csum_start": start, "csum_offset": 6, "ip_summed": CHECKSUM_PARTIAL}
    dev = pair.far.devices_by_name["eth0"]
    return pair.far.netif_rx(dev, frame, gso_size=gso_size, gso_type=gso_type, **{**claims, **fields})


def whole(pair: Pair, total: int) -> bytes:
    """A frame of many datagrams to b."""
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    pair.sim.frames.clear()
    pair.a.send(random.Random(total).randbytes(total))
    frame = pair.sent()[-1].data
    pair.received()
    pair.sim.frames.clear()
    return frame


def test_ufo_frame_is_one_datagram(version: int) -> None:
    """It is what was to be fragmented: nothing is cut, be UDP_GRO on or off."""
    pair = Pair(version)
    frame = whole(pair, 5000)
    data = frame[ETH_HLEN + IP_HEADER[version] + 8 :]
    for gro in (0, 1):
        pair.b.setsockopt(SOL_UDP, UDP_GRO, gro)
        assert given(pair, frame, SKB_GSO_UDP, 1480) == 0
        assert pair.b.recvmsg(65536, 100)[:2] == (data, [])


@pytest.mark.parametrize(
    ("gso_type", "gso_size", "fields"),
    [
        (SKB_GSO_UDP_L4, 0, {}),
        (SKB_GSO_UDP, 0, {}),
        (SKB_GSO_UDP_L4, 1000, {"ip_summed": CHECKSUM_NONE}),
        (SKB_GSO_UDP_L4, 1000, {"csum_offset": 16}),
        (SKB_GSO_UDP_L4, 1000, {"csum_start": 14}),
        (SKB_GSO_UDP_L4, 38, {}),  # 132 datagrams
        (SKB_GSO_UDP_L4 | 1, 1000, {}),
        (SKB_GSO_UDP_L4 | SKB_GSO_UDP, 1000, {}),
    ],
)
def test_header_that_cannot_be_drops_the_frame(
    version: int, gso_type: int, gso_size: int, fields: dict[str, Any]
) -> None:
    pair = Pair(version)
    frame = whole(pair, 5000)
    assert given(pair, frame, gso_type, gso_size, **fields) == 1
    assert pair.far.drop_reasons["DEV_RX_OFFLOAD"] == 1
    assert pair.received() == []


def test_frame_that_is_not_udp_is_dropped() -> None:
    pair = Pair(4)
    frame = bytearray(whole(pair, 5000))
    frame[23] = 6
    assert given(pair, bytes(frame), SKB_GSO_UDP_L4, 1000) == 1


def test_udp_length_of_one_datagram_only_is_dropped_uncounted(version: int) -> None:
    """It says that there is nothing to cut; Linux 6.18 behind a TAP counts it nowhere."""
    pair = Pair(version)
    frame = bytearray(whole(pair, 5000))
    at = ETH_HLEN + IP_HEADER[version] + 4
    frame[at : at + 2] = (1008).to_bytes(2, "big")
    given(pair, bytes(frame), SKB_GSO_UDP_L4, 1000)
    assert pair.received() == []
    assert pair.far.drop_reasons["SKB_GSO_SEG"] == 1
    assert pair.counter("UdpInErrors", far=True) == 0
    assert pair.b._sock.sk.sk_drops == 0


def test_udp_length_below_the_frame_cuts_what_is_behind(version: int) -> None:
    pair = Pair(version)
    frame = bytearray(whole(pair, 5000))
    at = ETH_HLEN + IP_HEADER[version] + 4
    frame[at : at + 2] = (1500).to_bytes(2, "big")
    given(pair, bytes(frame), SKB_GSO_UDP_L4, 1000)
    assert [len(one) for one in pair.received()] == [1000, 492]


def test_group_of_receivers_gets_all_datagrams_each() -> None:
    pair = Pair(4)
    second = Socket(pair.far, AF_INET, SOCK_DGRAM)
    for sock in (pair.b, second):
        sock.setsockopt(1, 2, 1)
    second.bind(("", 7))
    pair.a = Socket(pair.net, AF_INET, SOCK_DGRAM)
    pair.a.setsockopt(1, 6, 1)
    pair.a.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
    second.setsockopt(SOL_UDP, UDP_GRO, 1)
    pair.a.sendto(bytes(2500), ("10.0.2.255", 7))
    assert [len(one) for one in pair.received()] == [1000, 1000, 500]
    assert len(second.recv(65536)) == 2500
