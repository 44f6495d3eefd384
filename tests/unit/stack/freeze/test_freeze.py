# SPDX-License-Identifier: GPL-2.0-or-later
"""Freeze and thaw: states of every kind come back, in this process and another, and nothing else does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twins import Twins, first_difference

from stack.api.bsd import SOCK_DGRAM, Socket, open_sockets
from stack.api.sim import MSEC, SEC, RawPeer, Sim
from stack.clock import ManualClock
from stack.freeze.errors import FreezeError
from stack.freeze.reader import frozen_time, thaw
from stack.freeze.writer import freeze
from stack.include.ip import in_aton
from stack.include.net import MSG_FASTOPEN
from stack.include.netdevice import NETDEV_TX_OK
from stack.include.sock import AF_INET6
from stack.include.tcp import SOL_TCP, TCP_FASTOPEN_CONNECT
from stack.include.tcp_states import TCP_LISTEN, TCP_NEW_SYN_RECV, TCP_SYN_SENT, TCP_TIME_WAIT
from stack.rng import SeededRng
from stack.stack import Stack


class World:
    """A listener on port 80 with one accepted connection, frozen by ``twins``."""

    def __init__(self, **stack: Any) -> None:
        self.sim = Sim(seed=3)
        self.net = self.sim.add_stack("10.0.2.2/24", "fd00::2/64", **stack)
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net, addr6="fd00::15")
        self.twins = Twins(self.sim, self.net)
        self.listener = self.twins.socket()
        self.listener.bind(("", 80))
        self.listener.listen(5)
        self.conn = self.peer.tcp(80)
        self.conn.handshake()
        self.sock = self.listener.accept()[0]

    def states(self) -> set[int]:
        return {sk.sk_state for chain in self.net.tcp_hashinfo.ehash.values() for sk in chain}


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


# -- states ------------------------------------------------------------------------------------------------------------


def test_syn_recv_frozen_is_completed_by_the_third_ack() -> None:
    world = World()
    conn = world.peer.tcp(80, sport=40001)
    conn.send("S", mss=1460)
    conn.expect("SA")
    assert TCP_NEW_SYN_RECV in world.states()
    world.twins.renew()
    conn.send("A")
    world.sim.settle()
    world.twins.compare()
    assert world.listener.accept()[1] == ("10.0.2.15", 40001)


def test_syn_sent_frozen_is_answered() -> None:
    world = World()
    sock = world.twins.socket()
    with pytest.raises(BlockingIOError):
        sock.connect(("10.0.2.15", 7))
    world.sim.settle()
    assert TCP_SYN_SENT in world.states()
    world.twins.renew()
    world.sim.run_for(1500 * MSEC)  # a SYN again
    syns = [packet for packet in world.peer.inbox if packet.proto == 6 and packet.body[13] == 2]
    assert len(syns) == 2
    port, isn = int.from_bytes(syns[0].body[:2], "big"), int.from_bytes(syns[0].body[4:8], "big")
    conn = world.peer.tcp(port, sport=7)
    conn.irs, conn.rcv_nxt = isn, 1
    conn.send("SA", mss=1460)
    world.sim.settle()
    assert sock.send(b"connected") == 9
    world.twins.compare()


def test_syn_sent_frozen_with_data_in_the_syn_and_a_connect_that_waits_for_data() -> None:
    """Fast Open's client: its cookie, what the SYN carried, and a SYN that has not left."""
    world = World()
    cookie = b"\x22\x0achocchip\x01\x01"
    first, second, later = (world.twins.socket() for _ in range(3))
    with pytest.raises(BlockingIOError):
        first.sendto(b"first", MSG_FASTOPEN, ("10.0.2.15", 7))
    syn = world.peer.expect_segment()
    conn = world.peer.tcp(syn.sport, sport=7)
    conn.irs, conn.rcv_nxt = syn.seq, 1
    conn.send("SA", mss=1460, options=cookie)
    conn.expect("A")
    world.twins.renew()
    assert second.sendto(b"second", MSG_FASTOPEN, ("10.0.2.15", 7)) == 6
    later.setsockopt(SOL_TCP, TCP_FASTOPEN_CONNECT, 1)
    later.connect(("10.0.2.15", 7))
    assert world.peer.expect_segment().payload == b"second"
    world.twins.renew()
    assert later.send(b"later") == 5
    assert world.peer.expect_segment().payload == b"later"
    world.sim.run_for(1500 * MSEC)  # both SYNs again, without
    assert {world.peer.expect_segment().payload for _ in range(2)} == {b""}
    world.twins.compare()


def test_established_frozen_keeps_what_nobody_read_and_what_nobody_acknowledged() -> None:
    world = World()
    world.conn.send("PA", b"in order")
    world.conn.send("A", b"later", seq=world.conn.snd_nxt + 100)
    world.sock.send(b"unacknowledged")
    world.sock.send(bytes(100_000))
    world.sim.settle()
    world.twins.renew()
    assert world.sock.recv(100) == b"in order"
    world.sim.run_for(3 * SEC)  # retransmissions
    world.twins.compare()


def test_time_wait_frozen_ends_at_its_time() -> None:
    world = World()
    world.sock.close()
    world.sim.settle()
    world.conn.expect("FA")
    world.conn.send("FA")
    world.sim.settle()
    assert TCP_TIME_WAIT in world.states()
    world.sim.run_for(20 * SEC)
    world.twins.renew()
    world.sim.run_for(39 * SEC)
    assert TCP_TIME_WAIT in world.states()
    world.twins.compare()
    world.sim.run_for(3 * SEC)
    assert TCP_TIME_WAIT not in world.states()
    world.twins.compare()


def test_fragments_neighbours_and_datagrams_frozen_go_on() -> None:
    world = World()
    udp = world.twins.socket(2, SOCK_DGRAM)
    udp.bind(("", 53))
    udp6 = world.twins.socket(AF_INET6, SOCK_DGRAM)
    udp6.bind(("::", 54))
    world.peer.send_udp("10.0.2.2", 1000, 53, b"waits")
    udp.sendto(b"nobody answers ARP", ("10.0.2.99", 9))
    udp6.sendto(b"nor discovery", ("fd00::99", 9))
    packet = world.peer.ip_packet(17, bytes(1600), "10.0.2.2", ip_id=7)[20:]
    world.peer.send_ip(17, packet[:800], "10.0.2.2", ip_id=7, frag=0x2000)
    world.sim.settle()
    world.twins.renew()
    assert udp.recv(100) == b"waits"
    world.peer.send_ip(17, packet[800:], "10.0.2.2", ip_id=7, frag=100)
    world.sim.run_for(40 * SEC)
    world.twins.compare()


def test_sysctls_profile_and_options_come_back() -> None:
    world = World(
        profile="linux-6.18", sysctl={"tcp_rmem": (4096, 20000, 30000), "ip_local_reserved_ports": (81, 82)}
    )
    world.sock.setsockopt(6, 4, 77)
    thawed = thaw(freeze(world.net)).stack
    assert thawed.profile is world.net.profile
    assert thawed.sysctl_get("tcp_rmem") == (4096, 20000, 30000)
    assert thawed.sysctl_get("ip_local_reserved_ports") == frozenset({81, 82})
    assert Socket(thawed, fd=world.sock.fileno()).getsockopt(6, 4) == 77


def test_random_numbers_go_on_where_they_were() -> None:
    world = World()
    thawed = thaw(freeze(world.net)).stack
    assert thawed.rng.get_random_bytes(64) == world.net.rng.get_random_bytes(64)


def test_freeze_changes_nothing() -> None:
    world = World()
    world.sock.send(bytes(5000))
    assert freeze(world.net) == freeze(world.net)


# -- the application's part ----------------------------------------------------------------------------------------


def test_open_sockets_finds_them_by_their_ends() -> None:
    world = World()
    world.conn.send("PA", b"hello")
    world.sim.settle()
    thawed = thaw(freeze(world.net, {"position": 4096}), ManualClock(world.sim.now_ns()))
    sockets = open_sockets(thawed.stack)
    assert set(sockets) == {(6, "0.0.0.0", 80, "", 0), (6, "10.0.2.2", 80, "10.0.2.15", 40000)}
    (listener,) = sockets[6, "0.0.0.0", 80, "", 0]
    assert listener.sk.sk_state == TCP_LISTEN
    (conn,) = sockets[6, "10.0.2.2", 80, "10.0.2.15", 40000]
    assert conn.recv(10) == b"hello"
    assert thawed.application == {"position": 4096}


def test_application_callbacks_are_left_out() -> None:
    world = World()
    world.sock.on_event = print
    world.net.drop_hook = print
    thawed = thaw(freeze(world.net)).stack
    assert Socket(thawed, fd=world.sock.fileno()).sk.sk_wq == []
    assert thawed.drop_hook is None
    assert thawed.devices_by_name["eth0"].ndo_start_xmit is None


def test_frozen_time_is_that_of_the_clock() -> None:
    world = World()
    world.sim.run_for(1234 * MSEC)
    assert frozen_time(freeze(world.net)) == world.sim.now_ns()


IN_ANOTHER_PROCESS = """
import sys
from stack.freeze.reader import thaw
from stack.freeze.writer import freeze
net = thaw(sys.stdin.read()).stack
frames = []
net.devices_by_name["eth0"].ndo_start_xmit = lambda skb, dev: frames.append(bytes(skb.head[skb.data:skb.tail])) or 0
net.clock.advance(3_000_000_000)
net.run_timers()
print(len(frames))
sys.stdout.write(freeze(net))
"""


@pytest.mark.slow
def test_another_process_goes_on_alike() -> None:
    world = World()
    world.sock.send(bytes(5000))
    world.sim.settle()
    child = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        input=freeze(world.net),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    sent: list[int] = []

    def count(skb: Any, dev: Any) -> int:
        sent.append(1)
        return NETDEV_TX_OK

    world.net.devices_by_name["eth0"].ndo_start_xmit = count
    world.sim.clock.advance(3 * SEC)
    world.net.run_timers()
    frames, text = child.stdout.split("\n", 1)
    assert int(frames) == len(sent) > 0
    assert first_difference(text, freeze(world.net)) is None


# -- what is no frozen stack -------------------------------------------------------------------------------------------


def frozen() -> str:
    return freeze(World().net)


def refused(text: str, *words: str, **how: Any) -> FreezeError:
    with pytest.raises(FreezeError) as caught:
        thaw(text, **how)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.fact
    assert caught.value.evidence
    assert caught.value.remedy
    return caught.value


def test_truncated_text_is_refused_at_every_length() -> None:
    text = frozen()
    for length in range(0, len(text) - 2, max(1, len(text) // 23)):
        refused(text[:length], "frozen stack")


def test_other_files_are_refused() -> None:
    refused("[]", "is no frozen stack")
    refused('{"format": "something else"}', "is no frozen stack")
    refused("[" * 100_000, "frozen stack")


def test_other_versions_are_refused() -> None:
    text = frozen()
    refused(replaced(text, '"version": 1', '"version": 2'), "another version", "version 2", "thaw it with")
    digest = json.loads(text)["fields"]
    refused(replaced(text, digest, "0" * 16), "another version")
    refused(replaced(text, '"linux-6.1"', '"linux-2.0"'), "unknown profile", "linux-2.0")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"snd_cwnd": 10', '"snd_cwnd": "10"', "tcp_sock.snd_cwnd"),
        ('"snd_cwnd": 10', '"snd_cwnd": true', "tcp_sock.snd_cwnd"),
        ('"snd_cwnd": 10', '"snd_cwnd": [10]', "tcp_sock.snd_cwnd"),
        ('"snd_cwnd": 10', '"snd_cwnd": {"ref": 0}', "tcp_sock.snd_cwnd"),
        ('"snd_cwnd": 10,', "", "lacks its field 'snd_cwnd'"),
        ('"snd_cwnd": 10', '"snd_cwnd_": 10', "no field 'snd_cwnd_'"),
        ('"snd_cwnd": 10', '"snd_cwnd": {"ref": 99999}', "no object 99999"),
        ('"snd_cwnd": 10', '"snd_cwnd": {"bytes": "xy"}', "hexadecimal"),
        ('"snd_cwnd": 10', '"snd_cwnd": {"code": "xy"}', "no kind of value"),
        ('"snd_cwnd": 10', '"snd_cwnd": {"ref": 1, "bytes": ""}', "no value"),
        ('"struct": "tcp_sock"', '"struct": "Popen"', "Popen"),
        ('"struct": "tcp_sock"', '"struct": "Stack"', "Stack"),
        ('"struct": "tcp_sock"', '"struct": "sk_buff"', "should be: inet_sock"),
        ('"id": 1,', '"id": 0,', "two objects 0"),
        ('"id": 1,', '"id": "1",', "should be a int"),
        ("stack.net.ipv4.tcp_timer.tcp_write_timer", "os.system", "os.system"),
        ("stack.net.ipv4.tcp_timer.tcp_write_timer", "stack.net.core.skbuff.consume_skb", "consume_skb"),
        ('{"table": "stack.net.ipv4.tcp_ipv4.tcp_prot"}', '{"table": 5}', "no function or table"),
    ],
)
def test_forged_texts_are_refused(old: str, new: str, words: str) -> None:
    refused(replaced(frozen(), old, new), words)


def test_table_of_another_kind_is_refused() -> None:
    old = '"icsk_af_ops": {"table": "stack.net.ipv4.tcp_ipv4.ipv4_specific"}'
    refused(replaced(frozen(), old, '"icsk_af_ops": {"table": "stack.net.ipv4.udp.udp_prot"}'), "icsk_af_ops")


def test_system_random_numbers_have_to_be_given_again() -> None:
    class Machine(SeededRng):
        """Not the seeded one itself: as the operating system's, it has no state to keep."""

    net = Stack(ManualClock(), Machine(5))
    text = freeze(net)
    assert json.loads(text)["rng"] == {"kind": "SeededRng", "state": net.rng.state}  # type: ignore[attr-defined]
    text = replaced(text, '"kind": "SeededRng"', '"kind": "system"')
    refused(text, "no seeded random numbers", "rng=")
    assert thaw(text, rng=SeededRng(9)).stack.rng.get_random_u32() == SeededRng(9).get_random_u32()


def test_what_is_no_state_cannot_be_frozen() -> None:
    world = World()
    world.net.arp_tbl.hash[in_aton("10.0.2.15"), 2].timer.arg = print
    with pytest.raises(FreezeError, match="cannot be frozen") as caught:
        freeze(world.net)
    assert "timer_list" in caught.value.evidence
