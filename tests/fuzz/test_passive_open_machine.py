# SPDX-License-Identifier: GPL-2.0-or-later
"""A state machine drives a listener, its requests and its children; the tables and every segment sent are checked.

Rules: SYNs, third ACKs, segments with any flags and any option bytes whose numbers lie at the edges of the window, of
what was sent and of 32 bits, ICMP errors, the passing of time, and the socket calls of a careless application.  After
each of them:

- the hash tables agree with the sockets' states, no 4-tuple is there twice, and nobody in them is closed;
- qlen, young and the accept queue's length are those of the requests and children that there are;
- a socket's state followed from its last one by arrows of RFC 9293's diagram (figure 5);
- timers run only for what is in a table; memory charged is memory held; orphans are counted;
- what was sent is legal: no RST in answer to a RST, no acknowledgement but of the end of something received, nothing
  beyond the right edge that the peer ever offered, no gap in the sequence space.

At the end all is closed and a few hours pass: nothing may be left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim, parse_segment
from stack.include.ip import IPPROTO_TCP
from stack.include.snmp import TCP_MIB_CURRESTAB
from stack.include.sock import SOCK_DEAD
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
)
from stack.net.core.sock import SK_MEM_QUANTUM
from stack.net.ipv4.inet_hashtables import sk_ehashfn
from stack.stack import Stack

MASK = 0xFFFFFFFF
SYSCTLS: tuple[dict[str, Any], ...] = (
    {},
    {"tcp_syncookies": 0},
    {"tcp_syncookies": 2},
    {"tcp_abort_on_overflow": 1},
    {"tcp_mem": (2, 4, 6), "tcp_max_orphans": 1},
    {"tcp_max_tw_buckets": 1, "tcp_rfc1337": 1},
    {"tcp_timestamps": 0, "tcp_sack": 0},
)
EDGES = st.sampled_from(
    [
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        -1,
        2,
        -2,
        500,
        -500,
        14600,
        29200,
        65160,
        65161,
        65535,
        65536,
        1 << 30,
        (1 << 31) - 1,
        1 << 31,
    ]
)
FLAGS = st.one_of(
    st.sampled_from(["A", "A", "A", "PA", "PA", "FA", "R", "RA", "S", "SA", "SFRPAU", ""]),
    st.lists(st.sampled_from("SFRPAUEW"), max_size=4, unique=True).map("".join),
)

# Figure 5 of RFC 9293, from LISTEN on; an abort or a timeout ends in CLOSE from everywhere.
_NEXT: dict[int, tuple[int, ...]] = {
    TCP_SYN_RECV: (TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_CLOSE_WAIT),
    TCP_ESTABLISHED: (TCP_FIN_WAIT1, TCP_CLOSE_WAIT),
    TCP_FIN_WAIT1: (TCP_FIN_WAIT2, TCP_CLOSING, TCP_TIME_WAIT),
    TCP_FIN_WAIT2: (TCP_TIME_WAIT,),
    TCP_CLOSING: (TCP_TIME_WAIT,),
    TCP_CLOSE_WAIT: (TCP_LAST_ACK,),
    TCP_LAST_ACK: (),
    TCP_TIME_WAIT: (),
    TCP_CLOSE: (),
}


def _reachable(state: int) -> set[int]:
    found, todo = {state, TCP_CLOSE}, [state]
    while todo:
        new = [n for n in _NEXT[todo.pop()] if n not in found]
        found.update(new)
        todo += new
    return found


REACHABLE = {state: _reachable(state) for state in _NEXT}


class Wire:
    """What one 4-tuple's peer sent and what it has a right to expect; numbers are absolute."""

    def __init__(self, conn: RawTcp) -> None:
        self.conn = conn
        self.sent_ends: set[int] = set()
        self.wscale = 0
        self.isn: int | None = None  # the stack's, of the connection there is now
        self.end = 0  # the end of what it sent, relative to that
        self.edge = 0  # the right edge that it was offered at most
        self.offers: list[tuple[int, int]] = []  # acknowledgement and window of all segments

    def sent(self, flags: str, seq: int, length: int, ack: int, window: int) -> None:
        end = seq + length + ("S" in flags) + ("F" in flags)
        # A FIN behind data may be taken apart from it.
        self.sent_ends |= {seq & MASK, (seq + length + ("S" in flags)) & MASK, end & MASK}
        if "S" in flags:
            self.sent_ends.add((seq + 1) & MASK)  # its data are ignored
        if "A" in flags and self.isn is not None:
            rel = (ack - self.isn) & MASK
            if rel <= self.end or (self.end == 1 and rel <= 4):  # the latter: see received() on cookies
                self.edge = max(self.edge, rel + (window << self.wscale))

    def received(self, seg: Segment) -> None:
        """Check one segment of the stack's."""
        assert seg.checksum_ok, str(seg)
        if "A" in seg.flags:
            assert seg.ack in self.sent_ends, f"acknowledges what was never sent: {seg}"
        if "R" in seg.flags:
            assert not seg.payload, f"a RST with data: {seg}"
            return
        if "S" in seg.flags:
            assert seg.flags.replace("E", "") == "SA", f"a SYN without ACK, or with more: {seg}"
            self._synack(seg)
            return
        assert "A" in seg.flags, f"neither SYN, RST nor ACK: {seg}"
        if self.isn is None:
            return  # an answer to a segment that fits nothing
        rel = (seg.seq - self.isn) & MASK
        if rel >= 1 << 31:
            return  # of an earlier connection, whose TIME_WAIT answers
        if self.end == 1 and 1 < rel <= 4:
            # A cookie's last bits are the index of its MSS, so up to three more also make a connection (as on Linux).
            self.isn, rel = (self.isn + rel - 1) & MASK, 1
        assert rel <= self.end, f"a gap after {self.end}: {seg}"
        end = rel + len(seg.payload) + ("F" in seg.flags)
        if end > rel:
            assert end <= max(self.edge, self.end), f"beyond the window's edge at {self.edge}: {seg}"
        self.end = max(self.end, end)

    def _synack(self, seg: Segment) -> None:
        if seg.seq != self.isn:
            self.isn, self.end, self.edge = seg.seq, 1, 1
            self.conn.irs, self.conn.rcv_nxt = seg.seq, 1
        # The window of the SYN itself is not scaled, and nothing is sent before the third ACK.
        if seg.opts.wscale is None:
            self.wscale = 14  # of a cookie's or an unscaled connection: an upper bound does


class PassiveOpen(RuleBasedStateMachine):
    """See the head of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.wires: dict[int, Wire] = {}
        self.socks: list[Any] = []
        self.states: dict[int, tuple[Any, int]] = {}
        self.only_resets = False

    @initialize(
        sysctl=st.sampled_from(SYSCTLS),
        backlog=st.integers(0, 3),
        profile=st.sampled_from(["linux-6.1", "linux-6.18"]),
        start=st.sampled_from([0, 290 * SEC, 299 * SEC]),
    )
    def start(self, sysctl: dict[str, Any], backlog: int, profile: str, start: int) -> None:
        self.sim = Sim(seed=7, start_ns=start)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24", sysctl=dict(sysctl), profile=profile)
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net)
        self.listener: Any = None
        self.listen(backlog)

    # -- the peer ----------------------------------------------------------------------------------------------------

    def _send(
        self, wire: Wire, flags: str, seq: int, ack: int, payload: bytes, window: int, **more: Any
    ) -> None:
        """One segment, numbers relative to both ends' SYN; then everything that it caused is checked."""
        conn = wire.conn
        absolute = ((conn.irs or 0) + ack) & MASK
        wire.sent(flags, conn.isn + seq, len(payload), absolute, window)
        self.only_resets = "R" in flags
        conn.send(flags, payload, seq=seq, ack=ack, window=window, **more)
        self._settle()
        self.only_resets = False

    def _settle(self) -> None:
        self.sim.settle()
        while self.peer.inbox:
            packet = self.peer.inbox.popleft()
            if packet.proto != IPPROTO_TCP:
                continue
            segment = parse_segment(packet)
            if self.only_resets:
                assert "R" not in segment.flags, f"a RST for a RST: {segment}"
            wire = self.wires[segment.dport]
            wire.received(segment)
            conn = wire.conn
            if conn.irs is not None and "R" not in segment.flags:
                conn._advance(segment, (segment.seq - conn.irs) & MASK)
        self.sim.frames.clear()

    def _wire(self, pick: int) -> Wire:
        return self.wires[sorted(self.wires)[pick % len(self.wires)]]

    @precondition(lambda self: len(self.wires) < 5)
    @rule(
        isn=st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, MASK - 700, MASK - 1, MASK]),
        mss=st.sampled_from([None, 0, 88, 1460]),
        wscale=st.sampled_from([None, 0, 7, 14]),
        sackok=st.booleans(),
        timestamps=st.booleans(),
    )
    def syn(self, isn: int, mss: int | None, wscale: int | None, sackok: bool, timestamps: bool) -> None:
        conn = self.peer.tcp(80, sport=40000 + len(self.wires), isn=isn)
        conn.ts_on = timestamps
        wire = self.wires[conn.sport] = Wire(conn)
        wire.wscale = wscale or 0
        self._send(wire, "S", 0, 0, b"", 65535, mss=mss, wscale=wscale, sackok=sackok)
        conn.snd_nxt = 1

    @precondition(lambda self: len(self.wires) < 5 and self.listener is not None)
    @rule(
        isn=st.sampled_from([MASK - 20000, MASK - 1, 0x7FFFFFFF]),
        wscale=st.sampled_from([None, 7]),
        options=st.booleans(),
    )
    def connection(self, isn: int, wscale: int | None, options: bool) -> None:
        """A whole handshake, and accept() if it led to a child."""
        self.syn(isn, 1460, wscale, options, options)
        self.next_in_order(len(self.wires) - 1, 0, 65535)
        self.accept()

    @precondition(lambda self: self.wires)
    @rule(
        pick=st.integers(0, 9),
        payload=st.sampled_from([0, 0, 1, 536]),
        window=st.sampled_from([0, 100, 65535]),
    )
    def next_in_order(self, pick: int, payload: int, window: int) -> None:
        """What a good peer sends: the third ACK, data, acknowledgements."""
        wire = self._wire(pick)
        conn = wire.conn
        self._send(wire, "PA" if payload else "A", conn.snd_nxt, conn.rcv_nxt, bytes(payload), window)
        conn.snd_nxt += payload

    @precondition(lambda self: self.wires)
    @rule(
        pick=st.integers(0, 9),
        flags=FLAGS,
        seq=EDGES,
        ack=EDGES,
        size=st.sampled_from([0, 0, 1, 100, 1400]),
        window=st.sampled_from([0, 1, 500, 65535]),
        options=st.one_of(
            st.just(b""), st.binary(min_size=1, max_size=16).map(lambda b: b + bytes(-len(b) % 4))
        ),
        sack=st.lists(st.tuples(EDGES, EDGES), max_size=2),
    )
    def segment(
        self,
        pick: int,
        flags: str,
        seq: int,
        ack: int,
        size: int,
        window: int,
        options: bytes,
        sack: list[tuple[int, int]],
    ) -> None:
        """Anything; a FIN or data exactly in order counts as sent."""
        wire = self._wire(pick)
        conn = wire.conn
        if options or flags == "S":
            sack = []
        if len(options) + 12 * conn.ts_on > 40:
            options = b""
        at = conn.snd_nxt
        blocks = tuple((conn.rcv_nxt + a, conn.rcv_nxt + b) for a, b in sack)
        conn.ts_val += 1
        self._send(
            wire, flags, at + seq, conn.rcv_nxt + ack, bytes(size), window, options=options, sack=blocks
        )
        if not seq and "A" in flags and not set("SR") & set(flags):
            conn.snd_nxt += size + ("F" in flags)

    @precondition(lambda self: self.wires)
    @rule(
        pick=st.integers(0, 9),
        kind=st.sampled_from([(3, 0), (3, 1), (3, 3), (3, 4), (4, 0), (11, 0), (12, 0)]),
    )
    def icmp_error(self, pick: int, kind: tuple[int, int]) -> None:
        """An error about the last byte that the stack sent."""
        conn = self._wire(pick).conn
        seq = ((conn.irs or 0) + max(conn.rcv_nxt - 1, 0)) & MASK
        head = b"".join(((80).to_bytes(2, "big"), conn.sport.to_bytes(2, "big"), seq.to_bytes(4, "big")))
        quoted = self.peer.ip_packet(6, head, "10.0.2.15", src="10.0.2.2")
        self.peer.send_icmp("10.0.2.2", *kind, 600, quoted)
        self._settle()

    @rule(ms=st.sampled_from([1, 5, 40, 200, 600, 1000, 4000, 61000, 130000]))
    def time_passes(self, ms: int) -> None:
        self.sim.run_for(ms * MSEC)
        self._settle()

    # -- the application ---------------------------------------------------------------------------------------------

    def new_socket(self) -> Any:
        return Socket(self.net)

    @rule(backlog=st.integers(0, 3))
    def listen(self, backlog: int) -> None:
        if self.listener is None:
            self.listener = self.new_socket()
            self.listener.setsockopt(1, 2, 1)
            self.listener.bind(("", 80))
        self.listener.listen(backlog)

    @rule()
    def close_listener(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        self._settle()

    @rule()
    def accept(self) -> None:
        if self.listener is not None and self.listener.sk.icsk_accept_queue.rskq_accept_head:
            self.socks.append(self.listener.accept()[0])

    @precondition(lambda self: self.socks)
    @rule(
        pick=st.integers(0, 9),
        call=st.sampled_from(
            [
                ("send", b"x"),
                ("send", bytes(1448)),
                ("send", bytes(30000)),
                ("recv", 1),
                ("recv", 100000),
                ("shutdown", 0),
                ("shutdown", 1),
                ("shutdown", 2),
                ("setsockopt", 6, 1, 1),
                ("setsockopt", 6, 3, 1),
                ("setsockopt", 6, 3, 0),
                ("setsockopt", 1, 8, 4000),
                ("setsockopt", 1, 9, 1),
                ("setsockopt", 6, 4, 1),
                ("setsockopt", 6, 18, 700),
                ("setsockopt", 6, 8, 1),
                ("close",),
                ("close",),
            ]
        ),
    )
    def call(self, pick: int, call: tuple[Any, ...]) -> None:
        sock = self.socks[pick % len(self.socks)]
        if call[0] == "close":
            self.socks.remove(sock)
        with contextlib.suppress(OSError):
            getattr(sock, call[0])(*call[1:])
        self._settle()

    # -- what always holds -------------------------------------------------------------------------------------------

    def members(self) -> list[Any]:
        return [sk for chain in self.net.tcp_hashinfo.ehash.values() for sk in chain]

    def full_sockets(self) -> Iterator[Any]:
        """Everybody who may hold memory: in ehash, with the application, or in an accept queue."""
        seen: dict[int, Any] = {}
        for sk in self.members():
            if sk.sk_state not in (TCP_NEW_SYN_RECV, TCP_TIME_WAIT):
                seen[id(sk)] = sk
        for sock in self.socks:
            seen[id(sock.sk)] = sock.sk
        if self.listener is not None:
            for req in self.listener.sk.icsk_accept_queue.rskq_accept_head:
                seen[id(req.sk)] = req.sk
        yield from seen.values()

    @invariant()
    def tables_agree_with_states(self) -> None:
        hashinfo = self.net.tcp_hashinfo
        tuples = set()
        for slot, chain in hashinfo.ehash.items():
            for sk in chain:
                assert sk.sk_node is chain
                assert sk.sk_hash == sk_ehashfn(sk)
                assert sk.sk_hash & hashinfo.ehash_mask == slot
                assert sk.sk_state in (TCP_NEW_SYN_RECV, *REACHABLE)
                assert sk.sk_state != TCP_CLOSE
                tuples.add((sk.sk_daddr, sk.sk_dport, sk.sk_rcv_saddr, sk.sk_num))
        assert len(tuples) == len(self.members())
        in_table = {id(sk) for sk in self.members()}
        for bucket in hashinfo.bhash.values():
            for tb in bucket:
                for owner in tb.owners:
                    assert owner.sk_num == tb.port
                    assert id(owner) in in_table or owner.sk_state == TCP_LISTEN

    @invariant()
    def queues_are_counted(self) -> None:
        established = sum(sk.sk_state == TCP_ESTABLISHED for sk in self.members())
        assert self.net.mib.tcp_statistics[TCP_MIB_CURRESTAB] == established
        if self.listener is None:
            return
        listener: Any = self.listener.sk
        queue = listener.icsk_accept_queue
        mine = [r for r in self.members() if r.sk_state == TCP_NEW_SYN_RECV and r.rsk_listener is listener]
        assert queue.qlen == len(mine)
        assert queue.young == sum(req.num_timeout == 0 for req in mine)
        assert listener.sk_ack_backlog == len(queue.rskq_accept_head)
        assert all(req.sk is not None for req in queue.rskq_accept_head)

    @invariant()
    def states_follow_the_diagram(self) -> None:
        now = {id(sk): (sk, sk.sk_state) for sk in (*self.full_sockets(), *self.members())}
        for key, (sk, state) in now.items():
            if state == TCP_NEW_SYN_RECV:
                continue
            _, old = self.states.get(key, (sk, TCP_TIME_WAIT if state == TCP_TIME_WAIT else TCP_SYN_RECV))
            assert state in REACHABLE[old], f"{old} to {state}"
        self.states = {key: pair for key, pair in now.items() if pair[1] != TCP_NEW_SYN_RECV}

    @invariant()
    def timers_belong_to_the_living(self) -> None:
        for _, _, timer in self.net.timers.heap:
            if timer.armed and hasattr(timer.arg, "sk_node"):
                assert timer.arg.sk_node is not None, f"{timer.function.__name__} runs for who is in no table"

    @invariant()
    def memory_is_what_is_held(self) -> None:
        charged = 0
        orphans = 0
        for sk in self.full_sockets():
            held = [*sk.sk_receive_queue, *sk.out_of_order_queue]
            assert sk.sk_rmem_alloc == sum(skb.truesize for skb in held)
            unsent = [*sk.tcp_rtx_queue, *sk.sk_write_queue]
            assert sk.sk_wmem_queued == sum(skb.truesize for skb in unsent)
            charged += sk.sk_rmem_alloc + sk.sk_forward_alloc
            orphans += bool(sk.sk_flags & SOCK_DEAD)
        assert charged == self.net.ipv4.tcp_memory_allocated * SK_MEM_QUANTUM
        assert self.net.ipv4.tcp_orphan_count == orphans
        tw = sum(sk.sk_state == TCP_TIME_WAIT for sk in self.members())
        assert self.net.tcp_death_row.tw_refcount == tw <= self.net.ipv4.sysctl_tcp_max_tw_buckets

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        self.close_listener()
        for sock in self.socks:
            sock.close()
        self.socks = []
        self.sim.run_for(4 * 3600 * SEC)
        self._settle()
        net = self.net
        assert self.members() == []
        assert [tb for bucket in net.tcp_hashinfo.bhash.values() for tb in bucket] == []
        assert net.ipv4.tcp_memory_allocated == 0
        assert net.ipv4.tcp_orphan_count == 0
        assert net.core.prot_inuse.get("TCP", 0) == 0
        assert net.next_deadline() is None
        assert not net.files.fdt


PassiveOpen.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestPassiveOpen = pytest.mark.fuzz(pytest.mark.slow(PassiveOpen.TestCase))
