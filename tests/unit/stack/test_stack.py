# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from stack.api.sim import Sim
from stack.clock import ManualClock
from stack.include.sysctl import SysctlValue
from stack.rng import SeededRng
from stack.stack import Stack


def make(**kwargs: object) -> Stack:
    return Stack(ManualClock(), SeededRng(1), **kwargs)  # type: ignore[arg-type]


def test_default_profile_has_the_sysctls_measured_on_linux_6_1() -> None:
    net = make()
    assert net.profile.name == "linux-6.1"
    wanted: dict[str, SysctlValue] = {
        "tcp_rmem": (4096, 131072, 6291456),
        "tcp_wmem": (4096, 16384, 4194304),
        "core.somaxconn": 4096,
        "tcp_max_syn_backlog": 128,
        "tcp_synack_retries": 5,
        "net.ipv4.tcp_syncookies": 1,
        "tcp_congestion_control": "cubic",
        "tcp_challenge_ack_limit": 2147483647,
        "ip_local_port_range": (32768, 60999),
    }
    assert {name: net.sysctl_get(name) for name in wanted} == wanted


def test_newer_profile_departs_and_an_argument_overrides_both() -> None:
    net = make(profile="linux-6.18", sysctl={"tcp_max_syn_backlog": 7})
    assert net.sysctl_get("tcp_rmem") == (4096, 131072, 33554432)
    assert net.sysctl_get("tcp_max_syn_backlog") == 7


def test_unknown_profile_or_sysctl_is_named_in_the_error() -> None:
    with pytest.raises(KeyError, match=r"linux-2\.4.*linux-6\.1"):
        make(profile="linux-2.4")
    with pytest.raises(KeyError, match="tcp_nonsense"):
        make(sysctl={"tcp_nonsense": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("tcp_rmem", 5), ("tcp_rmem", (1, 2)), ("tcp_syncookies", "1"), ("tcp_congestion_control", 1)],
)
def test_sysctl_of_the_wrong_kind_is_refused(name: str, value: SysctlValue) -> None:
    with pytest.raises(TypeError, match=name):
        make(sysctl={name: value})


def test_congestion_control_sysctls_know_what_there_is() -> None:
    net = make(sysctl={"tcp_congestion_control": "dctcp"})
    available = str(net.sysctl_get("net.ipv4.tcp_available_congestion_control"))
    assert set(available.split()) == {"reno", "cubic", "bbr", "dctcp"}
    assert str(net.sysctl_get("tcp_allowed_congestion_control")).split() == ["reno", "cubic", "bbr", "dctcp"]
    for name in ("tcp_congestion_control", "tcp_allowed_congestion_control"):
        with pytest.raises(ValueError, match=r"vegas.*cubic"):
            net.sysctl_set(name, "vegas")
    assert net.sysctl_get("tcp_congestion_control") == "dctcp"
    with pytest.raises(ValueError, match="read-only"):
        net.sysctl_set("tcp_available_congestion_control", "reno")


def test_two_stacks_share_nothing() -> None:
    sim = Sim()
    one, two = sim.add_stack("10.0.2.2/24"), sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", one)
    peer.send_icmp("10.0.2.2", 8, 0)
    peer.expect_icmp(0, 0)
    assert sum(one.mib.ip_statistics) > 0
    assert sum(two.mib.ip_statistics) == 0
    assert one.net_secret != two.net_secret


def test_idle_stack_has_no_deadline() -> None:
    assert make().next_deadline() is None


def test_drop_hook_sees_packet_and_reason() -> None:
    sim = Sim()
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    seen: list[int] = []
    net.drop_hook = lambda skb, reason: seen.append(reason)
    peer.send_udp("10.0.2.2", 1, 2, b"x")
    sim.settle()
    from stack.include.dropreason import SKB_DROP_REASON_NO_SOCKET

    assert seen == [SKB_DROP_REASON_NO_SOCKET]
