# SPDX-License-Identifier: GPL-2.0-or-later
"""What a listener keeps of a SYN besides TCP's own: its headers (TCP_SAVE_SYN) and its IP options, which every answer
carries back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import SEC, RawPeer, RawTcp, Sim
from stack.include.ip import IPPROTO_TCP, in_aton
from stack.include.tcp import SOL_TCP, TCP_FASTOPEN, TCP_FASTOPEN_NO_COOKIE, TCP_SAVE_SYN, TCP_SAVED_SYN
from stack.lib.checksum import csum_fold, csum_partial, csum_tcpudp_nofold
from stack.stack import Stack

Listen = Callable[..., Socket]
RECORD_ROUTE = bytes((7, 11, 4)) + bytes(8) + b"\0"


def accepted(sock: Any) -> Any:
    sock.setblocking(False)
    child, _ = sock.accept()
    child.setblocking(False)
    return child


def syn_frame(sim: Sim) -> bytes:
    """The SYN as it was on the link: the first IPv4 frame to the stack's port."""
    return next(f.data for f in sim.frames if f.data[12:14] == b"\x08\x00" and f.data[23] == 6)


# -- TCP_SAVE_SYN ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "start"), [(1, 14), (2, 0)])
def test_saved_syn_is_the_headers(listen: Listen, peer: RawPeer, sim: Sim, mode: int, start: int) -> None:
    sock = listen(before=((SOL_TCP, TCP_SAVE_SYN, mode),))
    conn = peer.tcp(80)
    conn.send("S", b"payload", mss=1460, sackok=True, ts=(1000, 0), wscale=7, tos=0x28)
    conn.expect("SA")
    conn.snd_nxt = 1
    conn.send("A", ts=(1000, 0))
    peer.expect_nothing()
    child = accepted(sock)
    # IP header and TCP header with its 20 bytes of options, without the payload.
    assert child.getsockopt(SOL_TCP, TCP_SAVED_SYN, 200) == syn_frame(sim)[start:74]


def test_saved_syn_is_given_once(listen: Listen, peer: RawPeer) -> None:
    sock = listen(before=((SOL_TCP, TCP_SAVE_SYN, 1),))
    peer.tcp(80).handshake()
    child = accepted(sock)
    assert len(child.getsockopt(SOL_TCP, TCP_SAVED_SYN, 200)) == 60
    assert child.getsockopt(SOL_TCP, TCP_SAVED_SYN, 200) == b""


def test_saved_syn_is_off_by_default(listen: Listen, peer: RawPeer) -> None:
    sock = listen()
    peer.tcp(80).handshake()
    assert accepted(sock).getsockopt(SOL_TCP, TCP_SAVED_SYN, 200) == b""


def test_saved_syn_of_a_cookie_is_lost(listen: Listen, peer: RawPeer, net: Stack) -> None:
    # All that a cookie brings back is in the third segment, which is no SYN.
    net.sysctl_set("tcp_syncookies", 2)
    sock = listen(before=((SOL_TCP, TCP_SAVE_SYN, 1),))
    peer.tcp(80).handshake()
    assert accepted(sock).getsockopt(SOL_TCP, TCP_SAVED_SYN, 200) == b""


def test_saved_syn_with_fast_open(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    net.sysctl_set("tcp_fastopen", 3)
    options = ((SOL_TCP, TCP_SAVE_SYN, 1), (SOL_TCP, TCP_FASTOPEN, 5), (SOL_TCP, TCP_FASTOPEN_NO_COOKIE, 1))
    sock = listen(before=options)
    peer.tcp(80).send("S", b"payload", mss=1460)
    sim.settle()
    child = accepted(sock)
    assert child.getsockopt(SOL_TCP, TCP_SAVED_SYN, 200) == syn_frame(sim)[14:58]
    assert child.recv(100) == b"payload"


@pytest.mark.parametrize("mode", [-1, 3])
def test_save_syn_unknown_mode(net: Stack, mode: int) -> None:
    with pytest.raises(OSError, match="invalid argument"):
        Socket(net).setsockopt(SOL_TCP, TCP_SAVE_SYN, mode)


# -- IP options --------------------------------------------------------------------------------------------------------


def connect(peer: RawPeer, sock: Any, ip_options: bytes) -> tuple[RawTcp, Any]:
    conn = peer.tcp(80)
    conn.send("S", mss=1460, ip_options=ip_options)
    conn.expect("SA", seq=0, ack=1)
    conn.send("A")
    peer.sim.settle()
    return conn, accepted(sock)


def test_syn_with_record_route_every_answer_has_it(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    conn, child = connect(peer, listen(), RECORD_ROUTE)
    child.send(b"x" * 3000)
    segment = conn.expect(seq=1)
    # Measured on Linux 6.18: our address from receiving the SYN, and again from sending.
    expected = bytes((7, 11, 12)) + in_aton("10.0.2.2").to_bytes(4, "big") * 2 + b"\0"
    assert segment.packet.ip_options == expected
    # 12 bytes of options in each packet: so much less payload fits.
    assert len(segment.payload) == 1460 - 12
    assert segment.checksum_ok
    synack = next(f.data for f in sim.frames if f.data[23] == 6 and f.data[34 + 12 + 13] == 0x12)
    assert synack[14 + 20 : 14 + 32] == expected


def test_syn_recv_synack_again_has_the_options(listen: Listen, peer: RawPeer) -> None:
    listen()
    conn = peer.tcp(80)
    conn.send("S", mss=1460, ip_options=RECORD_ROUTE)
    first = conn.expect("SA").packet.ip_options
    assert first[:3] == bytes((7, 11, 12))
    assert conn.expect("SA", within_ns=2 * SEC).packet.ip_options == first


def test_syn_without_options_has_none_to_answer(listen: Listen, peer: RawPeer) -> None:
    _, child = connect(peer, listen(), b"")
    assert child._sock.sk.inet_opt is None


def routed(*hops: str) -> bytes:
    """A loose source route that has been travelled to its end, padded."""
    body = b"".join(in_aton(hop).to_bytes(4, "big") for hop in hops)
    option = bytes((131, 3 + len(body), 4 + len(body))) + body
    return option + bytes(-len(option) % 4)


@pytest.mark.parametrize(
    ("hops", "first", "rest"),
    [
        (("10.0.2.77",), "10.0.2.77", ("10.0.2.15",)),
        (("10.0.2.76", "10.0.2.77"), "10.0.2.77", ("10.0.2.76", "10.0.2.15")),
        # A sender that put itself first is there once on the way back (RFC 1812, section 5.3.13.4).
        (("10.0.2.15", "10.0.2.77"), "10.0.2.77", ("10.0.2.15",)),
    ],
)
def test_syn_with_source_route_answers_go_back_along_it(
    listen: Listen, net: Stack, sim: Sim, hops: tuple[str, ...], first: str, rest: tuple[str, ...]
) -> None:
    net.sysctl_set("accept_source_route", 1)
    gateway = sim.add_peer("10.0.2.77", net)
    listen()
    gateway.send_tcp(
        "10.0.2.2",
        40000,
        80,
        "S",
        1000,
        src="10.0.2.15",
        options=b"\x02\x04\x05\xb4",
        ip_options=routed(*hops),
    )
    answer = gateway.next_packet(IPPROTO_TCP)
    assert answer is not None
    assert (answer.body[13], answer.dst) == (0x12, first)
    # The checksum is for where the route ends (RFC 9293, section 3.1).
    total = csum_tcpudp_nofold(in_aton("10.0.2.2"), in_aton("10.0.2.15"), len(answer.body), IPPROTO_TCP, 0)
    assert csum_fold(csum_partial(answer.body, total)) == 0
    wanted = b"".join(in_aton(hop).to_bytes(4, "big") for hop in rest)
    assert answer.ip_options.rstrip(b"\0") == (bytes((131, 3 + len(wanted), 4)) + wanted).rstrip(b"\0")


def test_syn_with_source_route_of_nobody_but_the_sender(listen: Listen, net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("accept_source_route", 1)
    listen()
    conn = peer.tcp(80)
    conn.send("S", mss=1460, ip_options=routed("10.0.2.15"))
    assert conn.expect("SA").packet.ip_options == b""


def test_syn_with_source_route_is_refused_by_default(listen: Listen, net: Stack, peer: RawPeer) -> None:
    listen()
    peer.tcp(80).send("S", mss=1460, ip_options=routed("10.0.2.77"))
    peer.expect_nothing()
    assert net.drop_reasons == {"IP_OPTIONS": 1}
