# SPDX-License-Identifier: GPL-2.0-or-later
"""The call trees of what a connection goes through, step by step, in virtual time: ``vnic callgraph``, which also
writes docs/callgraph.md.

A scene is one step that is traced, after the steps that lead there; each runs on a new Stack, with a raw client at the
other end of its wire, so that the same trees come of it every time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp, Sim
from stack.trace.notation import render
from stack.trace.recorder import ROOTS, Recorder, Tree

PORT: Final = 2222
CLIENT_PORT: Final = 40000


class World:
    """A server's stack and a client that is scripted."""

    def __init__(self) -> None:
        self.sim = Sim(seed=1)
        self.net = self.sim.add_stack("10.0.2.2/24")
        self.peer = self.sim.add_peer("10.0.2.15", self.net)
        self.client: RawTcp = self.peer.tcp(PORT, sport=CLIENT_PORT)
        self.sock = Socket(self.net)  # the listener, or who connects
        self.conn = self.sock  # the connection

    # -- the passive open ------------------------------------------------------------------------------------------

    def bind(self) -> None:
        self.sock.bind(("", PORT))

    def listen(self) -> None:
        self.sock.listen(5)
        self.sock.on_event = lambda _sock, _mask: None  # somebody waits in accept()

    def listening(self) -> None:
        self.bind()
        self.listen()

    def receive_syn(self) -> None:
        self.client.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
        self.sim.settle()

    def half_open(self) -> None:
        self.listening()
        self.receive_syn()
        self.client.expect("SA")
        self.client.ts_on = True
        self.sim.run_for(MSEC)

    def receive_ack(self) -> None:
        self.client.send("A")
        self.sim.settle()

    def unaccepted(self) -> None:
        self.half_open()
        self.receive_ack()

    def accept(self) -> None:
        self.conn, _ = self.sock.accept()

    def established(self) -> None:
        self.unaccepted()
        self.accept()
        self.conn.on_event = lambda _sock, _mask: None

    # -- data --------------------------------------------------------------------------------------------------------

    def receive_data(self) -> None:
        self.client.send("PA", b"hello")
        self.sim.settle()

    def with_data(self) -> None:
        self.established()
        self.receive_data()

    def read(self) -> None:
        self.conn.recv(65536)

    def write(self) -> None:
        self.conn.send(b"hello")

    def written(self) -> None:
        self.established()
        self.write()
        self.client.expect(payload=b"hello")
        self.sim.run_for(MSEC)

    def receive_out_of_order(self) -> None:
        self.client.send("PA", b"later", seq=self.client.snd_nxt + 5)
        self.sim.settle()

    def written_without_probes(self) -> None:
        self.net.sysctl_set("tcp_early_retrans", 0)
        self.written()

    def wait_for_the_timer(self) -> None:
        self.sim.run_for(2 * SEC)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self.conn.close()

    def closed(self) -> None:
        self.established()
        self.close()
        self.client.expect("FA")
        self.sim.run_for(MSEC)

    def fin_wait2(self) -> None:
        self.closed()
        self.receive_ack()

    def receive_fin(self) -> None:
        self.client.send("FA")
        self.sim.settle()

    def receive_crossed_fin(self) -> None:
        self.client.send("FA", ack=self.client.rcv_nxt - 1)
        self.sim.settle()

    def closing(self) -> None:
        self.closed()
        self.receive_crossed_fin()

    def close_wait(self) -> None:
        self.established()
        self.receive_fin()

    def last_ack(self) -> None:
        self.close_wait()
        self.close()
        self.sim.run_for(MSEC)
        while self.peer.next_packet(6) is not None:
            pass
        self.client.rcv_nxt += 1

    def time_wait(self) -> None:
        self.fin_wait2()
        self.receive_fin()

    def receive_fin_again(self) -> None:
        self.client.send("FA", seq=self.client.snd_nxt - 1)
        self.sim.settle()

    def receive_new_syn(self) -> None:
        self.client.send("S", seq=self.client.snd_nxt + 100_000, mss=1460, ts=(self.client.ts_val + 1000, 0))
        self.sim.settle()

    def receive_rst(self) -> None:
        self.client.send("R")
        self.sim.settle()

    # -- cookies -----------------------------------------------------------------------------------------------------

    def listening_with_cookies(self) -> None:
        self.net.sysctl_set("tcp_syncookies", 2)
        self.listening()

    def cookie_sent(self) -> None:
        self.listening_with_cookies()
        self.receive_syn()
        self.client.expect("SA")
        self.client.ts_on = True
        self.sim.run_for(MSEC)

    # -- the active open -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        self.sock.connect_ex(("10.0.2.15", 80))

    def syn_sent(self) -> None:
        self.connect()
        self.sim.settle()
        segment = self.peer.expect_segment()
        self.client = RawTcp(self.peer, "10.0.2.2", 80, segment.sport, 5000)
        self.client.irs, self.client.rcv_nxt = segment.seq, 1

    def receive_syn_ack(self) -> None:
        self.client.send("SA", mss=1460)
        self.sim.settle()

    def receive_crossed_syn(self) -> None:
        self.client.send("S", mss=1460)
        self.sim.settle()

    def syn_recv(self) -> None:
        self.syn_sent()
        self.receive_crossed_syn()
        self.client.expect("SA")


@dataclass(frozen=True)
class Scene:
    """``step`` is traced after ``before``; ``root`` is the tree to show of what came of it."""

    title: str
    before: Callable[[World], None]
    step: Callable[[World], None]
    root: str = "tcp_v4_rcv"


def _nothing(_world: World) -> None:
    """The scene begins with the beginning."""


SCENES: Final[dict[str, Scene]] = {
    "bind": Scene("bind", _nothing, World.bind, "sys_bind"),
    "listen": Scene("listen", World.bind, World.listen, "sys_listen"),
    "receive_syn": Scene("Passive open: receive SYN", World.listening, World.receive_syn),
    "receive_ack": Scene("Passive open: receive ACK", World.half_open, World.receive_ack),
    "accept": Scene("accept", World.unaccepted, World.accept, "sys_accept4"),
    "synack_timer": Scene("SYN-ACK again", World.half_open, World.wait_for_the_timer, "reqsk_timer_handler"),
    "cookie_syn": Scene("SYN cookies: receive SYN", World.listening_with_cookies, World.receive_syn),
    "cookie_ack": Scene("SYN cookies: receive ACK", World.cookie_sent, World.receive_ack),
    "connect": Scene("connect", _nothing, World.connect, "sys_connect"),
    "receive_syn_ack": Scene("tcp_v4_rcv, SYN_SENT: receive SYN-ACK", World.syn_sent, World.receive_syn_ack),
    "syn_sent_syn": Scene("tcp_v4_rcv, SYN_SENT: receive SYN", World.syn_sent, World.receive_crossed_syn),
    "syn_recv_ack": Scene("tcp_v4_rcv, SYN_RECV: receive ACK", World.syn_recv, World.receive_ack),
    "closed_port": Scene("tcp_v4_rcv, no socket: receive SYN", _nothing, World.receive_syn),
    "established_data": Scene("tcp_v4_rcv, ESTABLISHED: receive data", World.established, World.receive_data),
    "established_ack": Scene(
        "tcp_v4_rcv, ESTABLISHED: receive ACK of data", World.written, World.receive_ack
    ),
    "established_out_of_order": Scene(
        "tcp_v4_rcv, ESTABLISHED: receive data behind a hole", World.established, World.receive_out_of_order
    ),
    "established_fin": Scene("tcp_v4_rcv, ESTABLISHED: receive FIN", World.established, World.receive_fin),
    "established_rst": Scene("tcp_v4_rcv, ESTABLISHED: receive RST", World.established, World.receive_rst),
    "fin_wait1_ack": Scene("tcp_v4_rcv, FIN_WAIT1: receive ACK of the FIN", World.closed, World.receive_ack),
    "fin_wait1_fin": Scene("tcp_v4_rcv, FIN_WAIT1: receive FIN", World.closed, World.receive_crossed_fin),
    "fin_wait2_fin": Scene("tcp_v4_rcv, FIN_WAIT2: receive FIN", World.fin_wait2, World.receive_fin),
    "closing_ack": Scene("tcp_v4_rcv, CLOSING: receive ACK", World.closing, World.receive_ack),
    "close_wait_ack": Scene("tcp_v4_rcv, CLOSE_WAIT: receive ACK", World.close_wait, World.receive_ack),
    "last_ack_ack": Scene("tcp_v4_rcv, LAST_ACK: receive ACK", World.last_ack, World.receive_ack),
    "time_wait_fin": Scene(
        "tcp_v4_rcv, TIME_WAIT: receive FIN again", World.time_wait, World.receive_fin_again
    ),
    "time_wait_syn": Scene(
        "tcp_v4_rcv, TIME_WAIT: receive a new SYN", World.time_wait, World.receive_new_syn
    ),
    "read": Scene("read", World.with_data, World.read, "sys_recvfrom"),
    "write": Scene("write", World.established, World.write, "sys_sendto"),
    "loss_probe": Scene("tail loss probe", World.written, World.wait_for_the_timer, "tcp_write_timer"),
    "retransmission": Scene(
        "retransmission", World.written_without_probes, World.wait_for_the_timer, "tcp_write_timer"
    ),
    "close": Scene("close", World.established, World.close, "sys_close"),
}


def trace(scene: Scene, root: str = "") -> Tree:
    """The first tree of the scene with its root, or another one; LookupError if there is none."""
    world = World()
    scene.before(world)
    wanted = root or scene.root
    with Recorder(time.perf_counter_ns, roots=ROOTS if wanted in ROOTS else frozenset({wanted})) as recorder:
        scene.step(world)
    trees = recorder.take()
    for tree in trees:
        if tree.root.name == wanted:
            return tree
    raise LookupError(
        f"{scene.title}: {wanted} was never called, only {', '.join(t.root.name for t in trees)}"
    )


def drawn(scene: Scene, level: str = "notes") -> str:
    return render(trace(scene), level)


# -- docs/callgraph.md -----------------------------------------------------------------------------------------------

MARK: Final = "<!-- written by vnic callgraph --docs; a test compares -->\n"


def document() -> str:
    """What stands behind MARK in docs/callgraph.md."""
    return "\n".join(f"## {scene.title}\n```\n{drawn(scene)}\n```\n" for scene in SCENES.values())
