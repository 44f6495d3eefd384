# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of TCP's steps: the stack takes each of them, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stack.include import inet_sock as inet_sock_h
from stack.include import tcp_states
from stack.include.inet_sock import inet_sk_set_state
from stack.include.tcp import tcp_sock
from stack.include.tcp_states import TCP_STATE_NAMES, TCP_TRANSITIONS
from stack.net.ipv4 import inet_timewait_sock, tcp, tcp_input
from vnic.callgraph import SCENES, World


class Watched(dict[tuple[int, int], str]):
    """The table, which notes what it is asked for."""

    asked: set[tuple[int, int]]

    def __contains__(self, step: object) -> bool:
        assert isinstance(step, tuple)
        self.asked.add(step)
        return super().__contains__(step)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """The steps from now on."""
    table = Watched(TCP_TRANSITIONS)
    table.asked = set()
    for module in (tcp_states, inet_sock_h, inet_timewait_sock, tcp_input):
        monkeypatch.setattr(module, "TCP_TRANSITIONS", table)
    return table.asked


def then(*steps: Callable[[World], object]) -> Callable[[World], None]:
    def scene(world: World) -> None:
        for step in steps:
            step(world)

    return scene


def close_listener(world: World) -> None:
    world.sock.close()


SCENES_OF: dict[str, Callable[[World], None]] = {
    "CLOSE LISTEN": World.listening,
    "CLOSE SYN_SENT": World.syn_sent,
    "LISTEN NEW_SYN_RECV": World.half_open,
    "LISTEN CLOSE": then(World.listening, close_listener),
    "NEW_SYN_RECV SYN_RECV": World.unaccepted,
    "SYN_SENT ESTABLISHED": then(World.syn_sent, World.receive_syn_ack),
    "SYN_SENT SYN_RECV": World.syn_recv,
    "SYN_SENT CLOSE": then(World.syn_sent, World.close),
    "SYN_RECV ESTABLISHED": World.established,
    "SYN_RECV FIN_WAIT1": then(World.syn_recv, World.close),
    "SYN_RECV CLOSE": then(World.syn_recv, World.receive_rst),
    "ESTABLISHED FIN_WAIT1": World.closed,
    "ESTABLISHED CLOSE_WAIT": World.close_wait,
    "ESTABLISHED CLOSE": then(World.established, World.receive_rst),
    "FIN_WAIT1 FIN_WAIT2": World.fin_wait2,
    "FIN_WAIT1 CLOSING": World.closing,
    "FIN_WAIT1 CLOSE": then(World.closed, World.receive_rst),
    "FIN_WAIT2 TIME_WAIT": World.time_wait,
    "FIN_WAIT2 CLOSE": World.time_wait,
    "CLOSE_WAIT LAST_ACK": World.last_ack,
    "CLOSE_WAIT CLOSE": then(World.close_wait, World.receive_rst),
    "CLOSING TIME_WAIT": then(World.closing, World.receive_ack),
    "CLOSING CLOSE": then(World.closing, World.receive_ack),
    "LAST_ACK CLOSE": then(World.last_ack, World.receive_ack),
}


def named(step: tuple[int, int]) -> str:
    return f"{TCP_STATE_NAMES[step[0]]} {TCP_STATE_NAMES[step[1]]}"


@pytest.mark.parametrize("step", [named(step) for step in TCP_TRANSITIONS])
def test_step_of_the_table_is_taken(step: str, taken: set[tuple[int, int]]) -> None:
    SCENES_OF[step](World())
    assert step in map(named, taken)


@pytest.mark.parametrize("name", list(SCENES))
def test_scene_takes_no_step_that_is_not_in_the_table(name: str, taken: set[tuple[int, int]]) -> None:
    world = World()
    SCENES[name].before(world)
    SCENES[name].step(world)
    assert taken <= set(TCP_TRANSITIONS)


def test_step_that_is_none_of_tcp_is_not_taken() -> None:
    world = World()
    world.established()
    sk = world.conn.sk
    assert isinstance(sk, tcp_sock)
    with pytest.raises(AssertionError, match="ESTABLISHED -> LISTEN is no step of TCP"):
        inet_sk_set_state(sk, tcp_states.TCP_LISTEN)
    assert sk.sk_state == tcp_states.TCP_ESTABLISHED


def test_closing_takes_steps_of_the_table() -> None:
    for old, action in tcp.new_state.items():
        new = action & tcp.TCP_STATE_MASK
        assert old == new or (old, new) in TCP_TRANSITIONS or old == tcp_states.TCP_TIME_WAIT
