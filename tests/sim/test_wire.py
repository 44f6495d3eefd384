# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire itself: two stacks and raw hosts over links that delay, lose, reorder, duplicate and limit."""

from __future__ import annotations

import pytest

from stack.api.sim import MSEC, SEC, Frame, Sim, SimError, StackEnd
from stack.include.ip import in_aton
from stack.include.netdevice import NETIF_F_HW_CSUM
from stack.include.sock import AF_INET
from stack.net.core import sock as core_sock
from stack.net.ipv4 import udp
from stack.stack import Stack

B = in_aton("10.0.0.2")


def udp_on(net: Stack, port: int) -> udp.udp_sock:
    sk: udp.udp_sock = core_sock.sk_alloc(net, AF_INET, udp.udp_prot)
    core_sock.sock_init_data(None, sk)
    sk.sk_protocol = 17
    assert udp.udp_lib_get_port(sk, port) == 0
    return sk


def pair(seed: int = 1, **link: object) -> tuple[Sim, udp.udp_sock, udp.udp_sock]:
    sim = Sim(seed)
    a, b = sim.add_stack("10.0.0.1/24"), sim.add_stack("10.0.0.2/24")
    sim.join(a, b, **link)  # type: ignore[arg-type]
    return sim, udp_on(a, 1000), udp_on(b, 2000)


def read_all(sk: udp.udp_sock) -> list[int]:
    got = []
    while not isinstance(data := udp.udp_recvmsg(sk, 100, 0), int):
        got.append(int.from_bytes(data[0], "big"))
    return got


def send_numbers(sk: udp.udp_sock, count: int) -> None:
    for i in range(count):
        assert udp.udp_sendmsg(sk, i.to_bytes(4, "big"), (B, 2000), 0) == 4


def test_delay_is_paid_once_each_way_for_arp_and_once_for_the_datagram() -> None:
    sim, a, b = pair(delay_ns=7 * MSEC)
    send_numbers(a, 1)
    assert sim.run_until(lambda: bool(b.sk_receive_queue))
    assert sim.now_ns() == 3 * 7 * MSEC
    assert read_all(b) == [0]


def test_lossy_link_loses_about_its_share_and_the_same_with_the_same_seed() -> None:
    results = []
    for seed in (4, 4, 5):
        sim, a, b = pair(seed)
        send_numbers(a, 1)
        sim.settle()
        link = next(iter(sim.links.values()))
        link.forward.loss = 0.3
        send_numbers(a, 150)
        sim.settle()
        results.append(read_all(b))
        assert link.forward.dropped == sum(f.lost for f in sim.frames)
    assert results[0] == results[1] != results[2]
    assert 80 < len(results[0]) < 130


def test_duplicating_and_reordering_link_does_both() -> None:
    sim, a, b = pair()
    send_numbers(a, 1)
    sim.settle()
    read_all(b)
    link = next(iter(sim.links.values()))
    link.forward.dup = link.forward.reorder = 0.2
    for i in range(100):
        udp.udp_sendmsg(a, i.to_bytes(4, "big"), (B, 2000), 0)
        sim.run_for(MSEC // 10)
    sim.settle()
    got = read_all(b)
    assert set(got) == set(range(100))
    assert len(got) > 105
    assert got != sorted(got)


def test_rate_limit_spaces_frames_by_their_length() -> None:
    sim, a, b = pair(rate_bps=8_000_000)
    send_numbers(a, 1)
    sim.settle()
    start = sim.now_ns()
    read_all(b)
    for _ in range(10):
        udp.udp_sendmsg(a, bytes(958), (B, 2000), 0)  # a frame of 1000 bytes: 1 ms at 8 Mbit/s
    sim.settle()
    assert sim.now_ns() - start == 10 * MSEC


def test_drop_if_decides_frame_by_frame() -> None:
    sim, a, b = pair()
    send_numbers(a, 1)
    sim.settle()
    read_all(b)

    def third(frame: Frame) -> bool:
        return frame.data[-1] == 3 and len(frame.data) == 46

    next(iter(sim.links.values())).forward.drop_if = third
    send_numbers(a, 6)
    sim.settle()
    assert read_all(b) == [0, 1, 2, 4, 5]


def test_partial_checksum_crosses_between_stacks_unfinished_and_is_trusted() -> None:
    sim = Sim()
    a = sim.add_stack("10.0.0.1/24", features=NETIF_F_HW_CSUM)
    b = sim.add_stack("10.0.0.2/24")
    sim.join(a, b)
    out, into = udp_on(a, 1000), udp_on(b, 2000)
    send_numbers(out, 1)
    sim.settle()
    assert read_all(into) == [0]
    assert b.drop_reasons == {}


def test_run_until_gives_up_when_nothing_will_ever_happen() -> None:
    sim, _, b = pair()
    assert not sim.run_until(lambda: bool(b.sk_receive_queue), 5 * SEC)
    assert sim.run_until(3 * SEC + sim.now_ns())


def test_linked_end_cannot_be_linked_again() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.0.1/24")
    sim.add_peer("10.0.0.9", net)
    with pytest.raises(ValueError, match="linked already"):
        sim.link(StackEnd(sim, "stack0.eth0", net, net.devices_by_name["eth0"]), sim.end(net))


def test_expectation_that_fails_says_what_came() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.0.1/24")
    peer = sim.add_peer("10.0.0.9", net)
    conn = peer.tcp(80)
    conn.send("S", mss=1460)
    with pytest.raises(
        SimError, match=r"expected flags 'SA', got 'RA' in: .*10\.0\.0\.1:80 > 10\.0\.0\.9:40000"
    ):
        conn.expect("SA")
    with pytest.raises(SimError, match="got nothing"):
        conn.expect("SA", within_ns=MSEC)


def test_loop_without_time_is_noticed() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.0.1/24")
    from stack.kernel.time import timer

    def again(arg: object) -> None:
        timer.hrtimer_start(net, spin, 0)

    spin = timer.hrtimer_init(again, None)
    timer.hrtimer_start(net, spin, 0)
    with pytest.raises(SimError, match="something loops"):
        sim.run_for(SEC)
