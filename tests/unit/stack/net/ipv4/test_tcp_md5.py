# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP-MD5 signatures (RFC 2385): keys by peer, what is dropped, and what is signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from struct import pack
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim, build_tcp_options, flags_to_bits
from stack.include.ip import in_aton
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.snmp import (
    LINUX_MIB_LISTENDROPS,
    LINUX_MIB_TCPHPACKS,
    LINUX_MIB_TCPMD5FAILURE,
    LINUX_MIB_TCPMD5NOTFOUND,
    LINUX_MIB_TCPMD5UNEXPECTED,
)
from stack.include.tcp import SOL_TCP, TCP_MD5SIG, TCP_MD5SIG_EXT, TCP_MD5SIG_FLAG_PREFIX
from stack.include.tcp_states import TCP_ESTABLISHED, TCP_LISTEN
from stack.stack import Stack

KEY = b"the key of both ends"
Listen = Callable[..., Socket]


def md5sig(
    addr: str = "10.0.2.15",
    key: bytes = KEY,
    *,
    family: int = 2,
    flags: int = 0,
    prefixlen: int = 0,
    ifindex: int = 0,
) -> bytes:
    """struct tcp_md5sig as a C program fills it in."""
    sockaddr = pack("=H", family) + b"\0\0" + in_aton(addr).to_bytes(4, "big") + bytes(120)
    return sockaddr + pack("=BBHi", flags, prefixlen, len(key), ifindex) + key.ljust(80, b"\0")


def signature(src: str, dst: str, segment: bytes, key: bytes) -> bytes:
    """RFC 2385, section 2.0, from the bytes of a whole segment."""
    addresses = in_aton(src).to_bytes(4, "big") + in_aton(dst).to_bytes(4, "big")
    header = segment[:16] + b"\0\0" + segment[18:20]
    data = segment[(segment[12] >> 4) * 4 :]
    return hashlib.md5(addresses + pack("!BBH", 0, 6, len(segment)) + header + data + key).digest()


def is_signed(segment: Segment, key: bytes = KEY) -> bool:
    """Whether it has a signature and a right one; AssertionError if a wrong one."""
    raw, at = segment.opts.raw, 0
    while at < len(raw) and raw[at] != 19:
        at += 1 if raw[at] == 1 else raw[at + 1]
    if at >= len(raw):
        return False
    expected = signature(segment.packet.src, segment.packet.dst, segment.packet.body, key)
    assert raw[at + 1] == 18
    assert raw[at + 2 : at + 18] == expected
    return True


@dataclass
class Signer:
    """A raw end that signs what it sends."""

    conn: RawTcp
    key: bytes = KEY

    def send(
        self,
        flags: str,
        data: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        extra: bytes = b"",
        **offer: Any,
    ) -> None:
        conn = self.conn
        rest = extra + build_tcp_options(**offer)
        doff = 5 + (20 + len(rest)) // 4
        number = conn.isn + (conn.snd_nxt if seq is None else seq)
        bits = flags_to_bits(flags)
        answer = (conn.irs or 0) + (conn.rcv_nxt if ack is None else ack) if bits & 0x10 else 0
        header = pack(
            "!HHIIHHHH", conn.sport, conn.dport, number & 0xFFFFFFFF, answer & 0xFFFFFFFF,
            doff << 12 | bits, conn.window, 0, 0,
        )  # fmt: skip
        segment = header + bytes(20 + len(rest)) + data
        option = b"\x01\x01\x13\x12" + signature("10.0.2.15", conn.dst, segment, self.key)
        conn.send(flags, data, seq=seq, ack=ack, options=option + extra, **offer)


@pytest.fixture
def server(listen: Listen) -> Any:
    """A listener with a key for 10.0.2.15."""
    sock: Any = listen(before=((SOL_TCP, TCP_MD5SIG, md5sig()),))  # type: ignore[arg-type]
    sock.setblocking(False)
    return sock


def connected(peer: RawPeer, sock: Any, **offer: Any) -> tuple[Signer, Any]:
    signer = Signer(peer.tcp(80))
    signer.send("S", **(offer or {"mss": 1460, "sackok": True, "wscale": 7}))
    assert is_signed(signer.conn.expect("SA", seq=0, ack=1))
    signer.send("A")
    peer.sim.settle()
    child, _ = sock.accept()
    child.setblocking(False)
    return signer, child


def mib(net: Stack, index: int) -> int:
    return net.mib.net_statistics[index]


def test_listen_syn_without_signature_is_dropped(server: Any, peer: RawPeer, net: Stack) -> None:
    peer.tcp(80).send("S", mss=1460)
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPMD5NOTFOUND) == 1
    assert net.drop_reasons == {"TCP_MD5NOTFOUND": 1}
    assert mib(net, LINUX_MIB_LISTENDROPS) == 0
    assert server.sk.sk_drops == 1


def test_listen_syn_with_wrong_signature_is_dropped(server: Any, peer: RawPeer, net: Stack) -> None:
    Signer(peer.tcp(80), b"another key").send("S", mss=1460)
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPMD5FAILURE) == 1
    assert net.drop_reasons == {"TCP_MD5FAILURE": 1}


def test_listen_signature_that_nobody_expects_is_dropped(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    Signer(peer.tcp(80)).send("S", mss=1460)
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPMD5UNEXPECTED) == 1
    assert net.drop_reasons == {"TCP_MD5UNEXPECTED": 1}


def test_listen_other_peer_needs_none(server: Any, sim: Sim, net: Stack) -> None:
    other = sim.add_peer("10.0.2.16", net)
    conn = other.tcp(80)
    conn.handshake()
    child, _ = server.accept()
    assert child._sock.sk.md5sig_info is None


def test_listen_signed_syn_is_answered_signed(server: Any, peer: RawPeer) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460, sackok=True, wscale=7)
    answer = signer.conn.expect("SA", seq=0, ack=1)
    assert is_signed(answer)
    # The signature first, then the rest in the usual order.
    assert answer.opts.kinds == (1, 1, 19, 2, 1, 1, 4, 1, 3)


def test_listen_sack_costs_the_time_stamp(server: Any, peer: RawPeer) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", sackok=True, ts=(1000, 0))
    answer = signer.conn.expect("SA")
    assert answer.opts.sackok
    assert answer.opts.ts is None


def test_listen_time_stamp_stays_without_sack(server: Any, peer: RawPeer) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460, ts=(1000, 0))
    answer = signer.conn.expect("SA")
    assert is_signed(answer)
    assert answer.opts.ts is not None


def test_syn_recv_synack_again_is_signed(server: Any, peer: RawPeer) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460)
    signer.conn.expect("SA")
    assert is_signed(signer.conn.expect("SA", within_ns=2 * SEC))


def test_syn_recv_ack_without_signature_is_dropped(server: Any, peer: RawPeer, net: Stack) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460)
    signer.conn.expect("SA")
    signer.conn.send("A")
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPMD5NOTFOUND) == 1
    with pytest.raises(BlockingIOError):
        server.accept()


def test_established_data_are_signed_both_ways(server: Any, peer: RawPeer) -> None:
    signer, child = connected(peer, server)
    signer.send("PA", b"question")
    peer.sim.settle()
    assert child.recv(100) == b"question"
    child.send(b"answer")
    segments = [signer.conn.expect(within_ns=SEC) for _ in range(2)]
    assert [is_signed(segment) for segment in segments] == [True, True]
    assert [segment.payload for segment in segments] == [b"", b"answer"]


def test_established_child_has_its_peer_s_key_alone(server: Any, peer: RawPeer) -> None:
    server.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig("10.0.2.99", b"other"))
    _, child = connected(peer, server)
    (key,) = child._sock.sk.md5sig_info.head
    assert (key.addr, key.prefixlen, key.key) == (in_aton("10.0.2.15"), 32, KEY)
    # It does not follow the listener's.
    server.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig(key=b""))
    assert child._sock.sk.md5sig_info.head == [key]


@pytest.mark.parametrize(
    ("forged", "counter"), [(None, LINUX_MIB_TCPMD5NOTFOUND), (b"x", LINUX_MIB_TCPMD5FAILURE)]
)
def test_established_forged_rst_is_dropped(
    server: Any, peer: RawPeer, net: Stack, forged: bytes | None, counter: int
) -> None:
    signer, child = connected(peer, server)
    if forged is None:
        signer.conn.send("R")
    else:
        Signer(signer.conn, forged).send("R")
    peer.expect_nothing()
    assert mib(net, counter) == 1
    assert child._sock.sk.sk_state == TCP_ESTABLISHED


def test_established_unexpected_signature_is_dropped(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock: Any = listen()
    conn = peer.tcp(80)
    conn.handshake(ts=False)
    child, _ = sock.accept()
    Signer(conn).send("PA", b"data")
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPMD5UNEXPECTED) == 1
    assert child._sock.sk.rcv_nxt == child._sock.sk.copied_seq


def test_established_segments_leave_room_for_the_signature(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", features=NETIF_F_TSO | NETIF_F_SG | NETIF_F_HW_CSUM)
    peer = sim.add_peer("10.0.2.15", net)
    sock: Any = Socket(net)
    sock.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig())
    sock.bind(("", 80))
    sock.listen(5)
    signer, child = connected(peer, sock, mss=1460, ts=(1000, 0))
    child.send(bytes(5000))
    segment = signer.conn.expect(seq=1)
    # Each is signed on its own, so the device does not segment: 1460 without 12 and 20 bytes of options.
    assert (len(segment.payload), segment.packet.frame.gso_size) == (1428, 0)
    assert child._sock.sk.sk_gso_disabled


def test_established_two_sack_blocks_fit(server: Any, peer: RawPeer) -> None:
    signer, _ = connected(peer, server)
    for start in (11, 31, 51):
        signer.send("A", b"0123456789", seq=start)
    answers = [signer.conn.expect("A", ack=1, within_ns=SEC) for _ in range(3)]
    assert [len(answer.opts.sack) for answer in answers] == [1, 2, 2]
    assert all(is_signed(answer) for answer in answers)


def test_established_no_sack_block_fits_beside_a_time_stamp(server: Any, peer: RawPeer) -> None:
    signer, child = connected(peer, server, mss=1460, ts=(1000, 0))
    child._sock.sk.rx_opt.sack_ok = 1  # as if a cookie had brought both
    signer.send("A", b"0123456789", seq=11, ts=(1001, 0))
    answer = signer.conn.expect("A", ack=1)
    assert answer.opts.sack == ()
    assert is_signed(answer)


def test_listen_rst_is_signed(server: Any, peer: RawPeer) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("A", ack=5)
    assert is_signed(signer.conn.expect("R"))


def test_closed_signed_segment_gets_a_rst_only_if_a_listener_knows_the_key(
    listen: Listen, peer: RawPeer, net: Stack
) -> None:
    # As between routers: both use one port, and this end has lost the connection.
    listen(port=179, before=((SOL_TCP, TCP_MD5SIG, md5sig()),))  # type: ignore[arg-type]
    signer = Signer(peer.tcp(81, sport=179))
    signer.send("A", ack=5)
    assert is_signed(signer.conn.expect("R"))
    Signer(peer.tcp(81, sport=179), b"wrong").send("A", ack=5)
    Signer(peer.tcp(81, sport=180)).send("A", ack=5)
    peer.expect_nothing()


def test_time_wait_ack_is_signed(server: Any, peer: RawPeer, sim: Sim) -> None:
    signer, child = connected(peer, server)
    child.close()
    assert is_signed(signer.conn.expect("FA", seq=1))
    signer.send("FA")
    assert is_signed(signer.conn.expect("A", ack=2))
    sim.run_for(600 * MSEC)
    signer.send("FA", seq=1)
    assert is_signed(signer.conn.expect("A", ack=2))


def test_new_syn_recv_answer_to_something_unacceptable_is_signed(server: Any, peer: RawPeer) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460, ts=(1000, 0))
    signer.conn.expect("SA")
    signer.send("A", seq=5_000_000, ts=(1000, 0))
    answer = signer.conn.expect("A", ack=1)
    assert is_signed(answer)
    # Here the time stamp goes first.
    assert answer.opts.kinds == (1, 1, 8, 1, 1, 19)


def test_key_longest_prefix_counts(net: Stack, listen: Listen, peer: RawPeer) -> None:
    sock: Any = listen()
    for addr, length, key in (("10.0.0.0", 8, b"wide"), ("10.0.2.0", 24, b"near"), ("11.0.0.0", 8, b"else")):
        value = md5sig(addr, key, flags=TCP_MD5SIG_FLAG_PREFIX, prefixlen=length)
        sock.setsockopt(SOL_TCP, TCP_MD5SIG_EXT, value)
    signer = Signer(peer.tcp(80), b"near")
    signer.send("S", mss=1460)
    assert is_signed(signer.conn.expect("SA"), b"near")


def test_key_is_replaced_and_removed(server: Any, peer: RawPeer) -> None:
    server.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig(key=b"new"))
    signer = Signer(peer.tcp(80), b"new")
    signer.send("S", mss=1460)
    assert is_signed(signer.conn.expect("SA"), b"new")
    server.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig(key=b""))
    with pytest.raises(FileNotFoundError):
        server.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig(key=b""))
    plain = peer.tcp(80, sport=40001)
    plain.send("S", mss=1460)
    assert not is_signed(plain.expect("SA"))
    assert server.sk.sk_state == TCP_LISTEN


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (TCP_MD5SIG, md5sig()[:-1]),
        (TCP_MD5SIG, 1),
        (TCP_MD5SIG, md5sig(family=10)),
        (TCP_MD5SIG, md5sig()[:130] + pack("=H", 81) + md5sig()[132:]),
        (TCP_MD5SIG_EXT, md5sig(flags=1, prefixlen=33)),
        (TCP_MD5SIG_EXT, md5sig(flags=2, ifindex=1)),
    ],
)
def test_key_that_is_none(net: Stack, option: int, value: bytes | int) -> None:
    with pytest.raises(OSError, match="invalid argument"):
        Socket(net).setsockopt(SOL_TCP, option, value)


def test_keys_are_bounded_by_optmem_max(net: Stack) -> None:
    sock = Socket(net)
    for number in range(150):
        sock.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig(f"10.1.0.{number}"))
    with pytest.raises(OSError, match=r"\[Errno 12\]"):
        sock.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig("10.1.0.200"))


def test_keys_are_not_read_back(net: Stack) -> None:
    with pytest.raises(OSError, match=r"\[Errno 92\]"):
        Socket(net).getsockopt(SOL_TCP, TCP_MD5SIG, 216)


# -- what linux-6.18 does otherwise --------------------------------------------------------------------------------

SECOND = b"\x01\x01\x13\x12" + bytes(16)


@pytest.fixture(params=["linux-6.1", "linux-6.18"])
def profiled(request: pytest.FixtureRequest) -> tuple[str, RawPeer, Any]:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24", profile=request.param)
    sock: Any = Socket(net)
    sock.setsockopt(SOL_TCP, TCP_MD5SIG, md5sig())
    sock.bind(("0.0.0.0", 80))
    sock.listen(8)
    sock.setblocking(False)
    return request.param, sim.add_peer("10.0.2.15", net), sock


def test_listen_second_signature_is_ignored_or_drops_the_syn(profiled: tuple[str, RawPeer, Any]) -> None:
    profile, peer, sock = profiled
    signer = Signer(peer.tcp(80))
    signer.send("S", extra=SECOND)
    net = sock.sk.sk_net
    if profile == "linux-6.1":
        assert is_signed(signer.conn.expect("SA"))
        return
    peer.expect_nothing()
    assert net.drop_reasons == {"TCP_AUTH_HDR": 1}
    assert (mib(net, LINUX_MIB_TCPMD5NOTFOUND), mib(net, LINUX_MIB_TCPMD5FAILURE)) == (0, 0)


def test_established_signed_acks_are_predicted_or_not(profiled: tuple[str, RawPeer, Any]) -> None:
    profile, peer, sock = profiled
    signer, child = connected(peer, sock)
    signer.send("PA", b"question")
    peer.sim.settle()
    child.recv(100)
    child.send(b"answer")
    for _ in range(2):
        signer.conn.expect(within_ns=SEC)
    signer.send("A")
    peer.sim.settle()
    predicted = mib(sock.sk.sk_net, LINUX_MIB_TCPHPACKS)
    assert predicted == (1 if profile == "linux-6.1" else 0)
