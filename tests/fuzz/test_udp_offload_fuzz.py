# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded fuzzing of UDP segmentation: headers and frames that contradict each other, and any size that is sent."""

from __future__ import annotations

import errno
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from udpframes import datagrams_of, udp_frame
from vu_driver import MODERN, DriverRing, GuestRam

from devmodel.netdev.offload import finish
from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.net import VirtioNet
from stack.api.bsd import AF_INET, AF_INET6, SOCK_DGRAM, Socket
from stack.api.sim import Sim
from stack.include.netdevice import NETIF_F_GSO_UDP_L4, NETIF_F_HW_CSUM, NETIF_F_SG
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, SKB_GSO_UDP, SKB_GSO_UDP_L4
from stack.include.udp import SOL_UDP, UDP_GRO, UDP_SEGMENT
from tests.fuzz.test_stack_rx_fuzz import DEV_MAC, every_frame_accounted_for, make_stack

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]
bounded = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

ENDS = {4: ("10.0.2.15", "10.0.2.2"), 6: ("fd00::15", "fd00::2")}
u16 = st.integers(0, 0xFFFF)
versions = st.sampled_from([4, 6])
sizes = st.one_of(st.integers(0, 40), st.integers(0, 2000), u16)
changes = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4)


def changed(frame: bytes, where: list[tuple[int, int]]) -> bytes:
    made = bytearray(frame)
    for at, value in where:
        if at < len(made):
            made[at] = value
    return bytes(made)


@bounded
@given(
    versions,
    st.binary(max_size=3000),
    st.sampled_from([3, 5, 0x83, 0x85]),
    sizes,
    changes,
    st.integers(-4, 4),
)
def test_any_udp_frame_gives_a_train_that_is_no_longer_than_it_can_be(
    version: int, payload: bytes, kind: int, gso_size: int, where: list[tuple[int, int]], shift: int
) -> None:
    frame, start = udp_frame(payload, *ENDS[version], 4000, 7, DEV_MAC, b"\x02" * 6)
    frame = changed(frame, where)
    train = finish(VnetHdr(1, kind, start + 8, gso_size, start + shift, 6), [frame])
    headers = start + 8 + 8 + 1024 * bool(where)  # extension headers that a change made up
    assert sum(sum(map(len, one)) for one in train) <= len(frame) + headers * len(train)
    if gso_size:
        assert len(train) <= -(-len(frame) // max(gso_size & ~7 if kind == 3 else gso_size, 1)) + 1


@bounded
@given(versions, st.binary(min_size=1, max_size=5000), st.integers(1, 2000))
def test_datagrams_of_a_frame_are_its_payload(version: int, payload: bytes, size: int) -> None:
    frame, start = udp_frame(payload, *ENDS[version], 4000, 7, DEV_MAC, b"\x02" * 6)
    ends = [ip_address(one).packed for one in ENDS[version]]
    found = []
    for one in finish(VnetHdr(1, 5, start + 8, size, start, 6), [frame]):
        found += datagrams_of(b"".join(one), *ends)
    assert found == [payload[at : at + size] for at in range(0, len(payload), size)]


@bounded
@given(
    st.binary(max_size=3000),
    st.sampled_from([SKB_GSO_UDP, SKB_GSO_UDP_L4, SKB_GSO_UDP | SKB_GSO_UDP_L4, SKB_GSO_UDP_L4 | 1]),
    st.integers(-1, 3000),
    st.integers(30, 46),
    st.sampled_from([6, 16, 0]),
    changes,
    st.sampled_from([CHECKSUM_PARTIAL, CHECKSUM_NONE]),
    st.booleans(),
)
def test_any_udp_frame_with_any_offload_is_accounted_for(
    payload: bytes,
    kind: int,
    gso_size: int,
    start: int,
    offset: int,
    where: list[tuple[int, int]],
    summed: int,
    gro: bool,
) -> None:
    sim, net, _ = make_stack()
    for chain in net.udp_table.hash.values():
        for sk in chain:
            assert sk.sk_prot.setsockopt(sk, SOL_UDP, UDP_GRO, int(gro)) == 0
    frame, right = udp_frame(payload, *ENDS[4], 4000, 7, DEV_MAC, b"\x02" * 6)
    with every_frame_accounted_for():
        net.netif_rx(
            net.devices_by_name["eth0"],
            changed(frame, where),
            csum_start=right if start % 2 else start,
            csum_offset=offset,
            ip_summed=summed,
            gso_size=gso_size,
            gso_type=kind,
        )
        sim.settle()


@bounded
@given(
    st.binary(min_size=20, max_size=20),
    st.binary(max_size=200),
    st.booleans(),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_any_header_gives_a_frame_or_a_counter(
    header: bytes, frame: bytes, hashes: bool, cuts: list[int]
) -> None:
    more = vf.mask(vf.VIRTIO_NET_F_CTRL_VQ, vf.VIRTIO_NET_F_HASH_REPORT) if hashes else 0
    ram = GuestRam()
    memory = ram.map()
    driver = DriverRing(ram)
    ring = driver.device(memory, MODERN)
    net = VirtioNet()
    net.negotiate(MODERN | more)
    whole = (header if hashes else header[:12]) + frame
    places = sorted({0, *cuts, len(whole)})
    head = driver.add_out(*(whole[a:b] for a, b in pairwise(places)))
    found = net.receive(ring, 8)
    ring.publish()
    assert driver.used() == [(head, 0)]
    drops = sum(value for name, value in net.counters.asdict().items() if name.startswith("rx_drop"))
    assert len(found) + drops == 1
    for hdr, one in found:
        assert one == frame
        assert hdr is None or not hdr.gso_type or (hdr.gso_size and hdr.flags == 1)
    ring.release()
    memory.close()
    ram.close()


@bounded
@given(versions, st.integers(0, 65535), st.integers(0, 66000), st.booleans(), st.booleans())
def test_any_size_is_refused_or_arrives(version: int, size: int, total: int, whole: bool, gro: bool) -> None:
    features = NETIF_F_HW_CSUM | NETIF_F_SG | (NETIF_F_GSO_UDP_L4 if whole else 0)
    sim = Sim(seed=1)
    width = 24 if version == 4 else 64
    far, here = (sim.add_stack(f"{one}/{width}", features=features) for one in ENDS[version])
    sim.join(here, far)
    family = AF_INET if version == 4 else AF_INET6
    sender, receiver = Socket(here, family, SOCK_DGRAM), Socket(far, family, SOCK_DGRAM)
    receiver.setsockopt(1, 33, 8 << 20)
    receiver.setsockopt(SOL_UDP, UDP_GRO, int(gro))
    receiver.bind((ENDS[version][0], 7))
    sender.setsockopt(SOL_UDP, UDP_SEGMENT, size)
    data = bytes(n * 7 & 0xFF for n in range(total))
    headers, most = (28, 65507) if version == 4 else (48, 65527)
    long = total > most or (size and headers + min(size, total) > 1500)
    expected = errno.EMSGSIZE if long else errno.EINVAL if size and total > 128 * size else 0
    error = 0
    try:
        sender.sendto(data, (ENDS[version][0], 7))
    except OSError as failed:
        error = failed.errno or -1
    assert error == expected
    if error:
        assert sender._sock.sk.sk_wmem_alloc == 0
        return
    sim.run_for(10_000_000)
    got = []
    while True:
        try:
            got.append(receiver.recv(70000))
        except BlockingIOError:
            break
    assert b"".join(got) == data
    assert sender._sock.sk.sk_wmem_alloc == 0
    if size and not gro:
        assert got == ([data[at : at + size] for at in range(0, total, size)] or [b""])
