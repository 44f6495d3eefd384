# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from stack.clock import ManualClock
from stack.include.timer import HZ, TICK_NSEC, timer_list
from stack.kernel.time import timer as t
from stack.rng import SeededRng
from stack.stack import Stack

MS = 1_000_000


def make() -> tuple[Stack, ManualClock, list[int]]:
    clock = ManualClock()
    net = Stack(clock, SeededRng(1))
    return net, clock, []


def new_timer(net: Stack, fired: list[int]) -> timer_list:
    return t.timer_setup(lambda arg: fired.append(net.clock.now_ns()), None)


def run_all(net: Stack, clock: ManualClock, until_ns: int) -> None:
    while (when := net.next_deadline()) is not None and when <= until_ns:
        clock.set(max(when, clock.now_ns()))
        net.run_timers()


def test_jiffies_at_boot_are_300_s_below_the_wrap() -> None:
    net, clock, _ = make()
    assert t.tcp_jiffies32(net) == 2**32 - 300 * HZ
    clock.set(300 * 10**9)
    assert t.tcp_jiffies32(net) == 0
    assert t.jiffies(net) == 2**32


@pytest.mark.parametrize(
    ("jiffies_ahead", "slack_ms"),
    [(5, 4), (50, 4), (250, 32), (1000, 256), (10_000, 2048), (100_000, 16_384)],
)
def test_armed_timer_fires_late_by_at_most_its_level(jiffies_ahead: int, slack_ms: int) -> None:
    net, clock, fired = make()
    clock.set(1_234_567_891)
    start = t.jiffies(net)
    t.mod_timer(net, new_timer(net, fired), start + jiffies_ahead)
    run_all(net, clock, 10**13)
    nominal = (start + jiffies_ahead - t.INITIAL_JIFFIES) * TICK_NSEC
    assert nominal < fired[0] <= nominal + slack_ms * MS


@pytest.mark.parametrize(
    ("level", "ahead"),
    [(0, 62), (1, 63), (1, 503), (2, 504), (2, 4031), (3, 4032), (3, 32255), (4, 32256), (5, 258048)],
)
def test_armed_timer_fires_at_the_end_of_its_bucket(level: int, ahead: int) -> None:
    """Keepalive probes 75 s apart leave every 75.776 s (measured: 75.8): from one bucket's end to another's."""
    width = 8**level
    clk = 1_000_000 * 8**6
    assert t.calc_wheel_expiry(clk + ahead, clk) == clk + (ahead // width + 1) * width


def test_armed_timer_due_now_fires_at_the_next_tick() -> None:
    net, clock, fired = make()
    clock.set(10 * MS)
    t.mod_timer(net, new_timer(net, fired), t.jiffies(net))
    assert net.next_deadline() == 12 * MS


def test_armed_timer_in_the_past_fires_at_the_next_tick() -> None:
    net, clock, fired = make()
    clock.set(10**9)
    t.mod_timer(net, new_timer(net, fired), t.jiffies(net) - 100)
    assert net.next_deadline() == 10**9 + TICK_NSEC


def test_armed_timer_moved_later_keeps_one_heap_entry() -> None:
    net, _, fired = make()
    timer = new_timer(net, fired)
    for i in range(1000):
        assert t.mod_timer(net, timer, t.jiffies(net) + 10 + i) == (i > 0)
    assert len(net.timers.heap) == 1
    assert net.next_deadline() == timer.when_ns


def test_armed_timer_moved_earlier_fires_once() -> None:
    net, clock, fired = make()
    timer = new_timer(net, fired)
    t.mod_timer(net, timer, t.jiffies(net) + 100)
    t.mod_timer(net, timer, t.jiffies(net) + 10)
    run_all(net, clock, 10**10)
    assert fired == [11 * TICK_NSEC]
    assert net.next_deadline() is None


def test_armed_timer_deleted_and_armed_again_later_fires_at_the_new_time_only() -> None:
    net, clock, fired = make()
    timer = new_timer(net, fired)
    t.mod_timer(net, timer, t.jiffies(net) + 10)
    assert t.del_timer(net, timer)
    assert not t.del_timer(net, timer)
    assert net.next_deadline() is None
    t.mod_timer(net, timer, t.jiffies(net) + 20)
    run_all(net, clock, 10**10)
    assert fired == [21 * TICK_NSEC]


def test_fired_timer_is_not_pending_and_may_arm_itself() -> None:
    net, clock, fired = make()

    def again(arg: object) -> None:
        assert not t.timer_pending(timer)
        fired.append(net.clock.now_ns())
        if len(fired) < 3:
            t.mod_timer(net, timer, t.jiffies(net) + 1)

    timer = t.timer_setup(again, None)
    t.mod_timer(net, timer, t.jiffies(net) + 1)
    run_all(net, clock, 10**10)
    assert fired == [2 * TICK_NSEC, 4 * TICK_NSEC, 6 * TICK_NSEC]


def test_hrtimer_armed_in_the_past_by_its_own_callback_does_not_hang_run_timers() -> None:
    net, _, fired = make()

    def again(arg: object) -> None:
        fired.append(1)
        t.hrtimer_start(net, timer, 0)

    timer = t.hrtimer_init(again, None)
    t.hrtimer_start(net, timer, 0)
    assert net.run_timers() == 1
    assert net.run_timers() == 1
    assert len(fired) == 2


def test_hrtimer_is_not_rounded() -> None:
    net, _, fired = make()
    t.hrtimer_start(net, t.hrtimer_init(fired.append, 1), 1_234_567)
    assert net.next_deadline() == 1_234_567


def test_many_deleted_timers_do_not_keep_the_heap_large() -> None:
    net, _, fired = make()
    keep = new_timer(net, fired)
    t.mod_timer(net, keep, t.jiffies(net) + 10_000)
    for _ in range(5000):
        timer = new_timer(net, fired)
        t.mod_timer(net, timer, t.jiffies(net) + 1_800_000)
        t.del_timer(net, timer)
    assert len(net.timers.heap) < 1000
    assert net.next_deadline() == keep.when_ns


def test_timers_due_together_fire_in_the_order_of_their_deadlines() -> None:
    net, clock, _ = make()
    order: list[str] = []
    for name, ahead in (("c", 30), ("a", 10), ("b", 20)):
        t.mod_timer(net, t.timer_setup(order.append, name), t.jiffies(net) + ahead)
    clock.set(10**9)
    assert net.run_timers() == 3
    assert order == ["a", "b", "c"]


def test_conversions_round_as_the_kernel_does() -> None:
    assert (t.msecs_to_jiffies(1), t.msecs_to_jiffies(4), t.msecs_to_jiffies(5)) == (1, 1, 2)
    assert (t.usecs_to_jiffies(4001), t.nsecs_to_jiffies(7_999_999)) == (2, 1)
    assert (t.jiffies_to_msecs(50), t.jiffies_to_usecs(3)) == (200, 12_000)
