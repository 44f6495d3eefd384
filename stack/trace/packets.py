# SPDX-License-Identifier: GPL-2.0-or-later
"""What the stack makes of each packet, in a line for a capture.

Of a received packet, once it has been dealt with: the head of the functions that it went through, those that the level
"notes" shows, each time into the one that did the most; the state of its connection before and after; why it was
dropped, if it was.

    tcp_v4_rcv > tcp_v4_do_rcv > tcp_rcv_state_process > tcp_v4_conn_request > tcp_conn_request; LISTEN -> NEW_SYN_RECV

Of a packet that is sent: the functions that sent it, from the segment, socket call or timer that it is due to, up to
where IP takes it; and the state.

    tcp_v4_rcv > tcp_v4_do_rcv > tcp_rcv_state_process > ... > tcp_conn_request > tcp_v4_send_synack; NEW_SYN_RECV

Of both, once there is a connection: how much its sender may have under way, "cwnd=10 ssthresh=inf srtt=812us":
segments, segments ("inf" while slow start has not ended), microseconds (0 before the first sample).

The functions come from the trace hub, which slows the stack as any tracing does; without them the rest costs a look
into the hash tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from struct import unpack_from
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from stack.include.dropreason import drop_reason_names
from stack.include.tcp import TCP_INFINITE_SSTHRESH
from stack.include.tcp_states import TCP_STATE_NAMES, TCP_TIME_WAIT
from stack.inspect.conversation import looked_up
from stack.net.ipv4.inet_hashtables import __inet_lookup_established
from stack.net.ipv6.inet6_hashtables import __inet6_lookup_established
from stack.trace.notation import shown
from stack.trace.notes import is_helper
from stack.trace.recorder import ROOTS, Call, Recorder, Tree

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack
    from stack.trace.hub import TraceHub

DEPTH: Final = 6  # functions of a path that are named; what lies between them is "..."
MAX_FRAMES: Final = 200  # of the interpreter, that are looked at for the path of a sent packet

_ETH_P_IP, _ETH_P_IPV6, _ETH_HLEN = 0x0800, 0x86DD, 14
_TCP: Final = 6
Flow = tuple[int, int, int, int, int]
"""Version of IP; local address and port, the peer's, as the stack has them."""


class PacketComments:
    """One line for each packet of a Stack, from ``start`` to ``stop``."""

    def __init__(self, net: Stack, ifindex: int, hub: TraceHub) -> None:
        """``ifindex`` is the device whose packets these are."""
        self._net = net
        self._ifindex = ifindex
        self._frame = b""
        self._recorder = hub.recorder
        self._hub = hub
        self._trees: list[Tree] = []
        self._unsubscribe: Callable[[], None] | None = None
        self._reason = ""
        self._hooked = False
        self._hook: Callable[[sk_buff, int], None] | None = None

    def start(self, *, paths: bool) -> None:
        """Again to change ``paths``, whether the functions are told.  RuntimeError if there can be no tracing."""
        if paths and self._unsubscribe is None:
            self._unsubscribe = self._hub.subscribe(self._ended)
        elif not paths:
            self._stop_tracing()
        if not self._hooked:
            self._hook, self._net.drop_hook = self._net.drop_hook, self._dropped
            self._hooked = True

    def stop(self) -> None:
        if self._net.drop_hook == self._dropped:  # else somebody's is round it, and goes on calling it
            self._net.drop_hook = self._hook
            self._hooked = False
        self._stop_tracing()

    def _stop_tracing(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _ended(self, tree: Tree) -> None:
        if self._frame:
            self._trees.append(tree)

    def _dropped(self, skb: sk_buff, reason: int) -> None:
        if skb.head is self._frame:  # another may be dropped for the sake of this one
            self._reason = drop_reason_names[reason]
        if self._hook is not None:
            self._hook(skb, reason)

    def received(self, frame: bytes) -> Callable[[], str]:
        """A frame comes; what is returned tells afterwards what became of it."""
        flow = flow_of_frame(frame, outbound=False)
        before, _ = self._look(flow)
        self._frame, self._reason, self._trees = frame, "", []

        def told() -> str:
            self._frame = b""
            after, sender = self._look(flow)
            after = looked_up(after, before)
            state = before if before == after else f"{before} -> {after}"
            dropped = f"dropped: {self._reason}" if self._reason else ""
            return _line(_path(_way(self._trees)), state, dropped, sender)

        return told

    def sent(self, parts: Sequence[bytes | bytearray | memoryview]) -> str:
        """A frame goes, from within the stack."""
        flow = flow_of_frame(b"".join(parts[:1]), outbound=True)
        callers = [] if self._unsubscribe is None else _callers(sys._getframe(1), self._recorder)
        return _line(_path(callers), *self._look(flow))

    def _look(self, flow: Flow | None) -> tuple[str, str]:
        """The connection's state and its sender's numbers, without the recorder's seeing it: this may be in the middle
        of a tree."""
        self._recorder.paused = True
        try:
            sk = socket_of(self._net, flow, self._ifindex)
            return state_of(self._net, flow, sk), _sender(sk)
        finally:
            self._recorder.paused = False


def socket_of(net: Stack, flow: Flow | None, ifindex: int) -> Any:
    """Whatever has that 4-tuple in ehash: a tcp_sock, a request, a TIME_WAIT; None."""
    if flow is None:
        return None
    version, local, lport, peer, pport = flow
    find: Any = __inet_lookup_established if version == 4 else __inet6_lookup_established
    return find(net, net.tcp_hashinfo, peer, pport, local, lport, ifindex)


def state_of(net: Stack, flow: Flow | None, sk: Any) -> str:
    """Of ``sk``, else of a listener there is; "" for what is not TCP."""
    if flow is None:
        return ""
    if sk is not None:
        return state_name(sk)
    listeners = net.tcp_hashinfo.listening_hash.values()
    return "LISTEN" if any(one.sk_num == flow[2] for chain in listeners for one in chain) else "CLOSE"


def state_name(sk: Any) -> str:
    """The kernel's; of a TIME_WAIT socket that of what it stands for, as ss has it, which may be FIN_WAIT2."""
    return TCP_STATE_NAMES[sk.tw_substate if sk.sk_state == TCP_TIME_WAIT else sk.sk_state]


def _sender(sk: Any) -> str:
    if not hasattr(sk, "snd_cwnd"):
        return ""
    ssthresh = "inf" if sk.snd_ssthresh >= TCP_INFINITE_SSTHRESH else sk.snd_ssthresh
    return f"cwnd={sk.snd_cwnd} ssthresh={ssthresh} srtt={sk.srtt_us >> 3}us"


def flow_of_frame(frame: bytes, *, outbound: bool) -> Flow | None:
    """Whose segment this is; None if it is no TCP segment right behind an IP header, or not a first fragment."""
    if len(frame) < _ETH_HLEN + 20:
        return None
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ETH_P_IP:
        at = _ETH_HLEN + (frame[_ETH_HLEN] & 15) * 4
        is_tcp = frame[23] == _TCP and not int.from_bytes(frame[20:22], "big") & 0x1FFF
        ends, size, version = _ETH_HLEN + 12, 4, 4
    elif kind == _ETH_P_IPV6:
        at, is_tcp = _ETH_HLEN + 40, frame[20] == _TCP
        ends, size, version = _ETH_HLEN + 8, 16, 6
    else:
        return None
    if not is_tcp or len(frame) < at + 4:
        return None
    source = int.from_bytes(frame[ends : ends + size], "big")
    dest = int.from_bytes(frame[ends + size : ends + 2 * size], "big")
    sport, dport = unpack_from("!HH", frame, at)
    return (version, source, sport, dest, dport) if outbound else (version, dest, dport, source, sport)


def _way(trees: list[Tree]) -> list[str]:
    """The functions from the first received packet's down, each time into the call that did the most."""
    call = next((tree.root for tree in trees if tree.root.name.endswith("_rcv")), None)
    names: list[str] = []
    while call is not None and len(names) < DEPTH:
        names.append(call.name)
        below = (child for child in shown(call, call.name, "notes") if isinstance(child, Call))
        call = max(below, key=_weight, default=None)
    return names


def _weight(call: Call) -> int:
    return 1 + sum(map(_weight, call.calls()))


def _callers(frame: FrameType | None, recorder: Recorder) -> list[str]:
    """The stack's functions that are being called, from the last root on, up to where IP takes the packet."""
    names: list[str] = []
    for _ in range(MAX_FRAMES):
        if frame is None:
            return []  # outside of a root: what a timer of neighbours sent, say
        name = recorder.name_of(frame.f_code)
        if name and not is_helper(name):
            names.append(name)
            if name in ROOTS:
                break
        frame = frame.f_back
    names.reverse()
    ip = (i for i, name in enumerate(names) if name.startswith(("ip_", "ip6_", "__ip", "inet6_csk_xmit")))
    return names[: next(ip, len(names))]


def _path(names: list[str]) -> str:
    """All of them, or the first and the last."""
    if len(names) > DEPTH:
        names = [*names[: DEPTH - 2], "...", *names[-2:]]
    return " > ".join(names)


def _line(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
