# SPDX-License-Identifier: GPL-2.0-or-later
"""Signed segments over IPv6: RFC 2385 and RFC 5925 with both algorithms; IPv4 peers of a dual-stack listener."""

from __future__ import annotations

import errno
import hashlib
import hmac
import socket
from collections.abc import Callable
from dataclasses import dataclass
from struct import pack
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, RawTcp, Segment, Sim, build_tcp_options, flags_to_bits
from stack.include.snmp import (
    LINUX_MIB_TCPAOBAD,
    LINUX_MIB_TCPAODROPPEDICMPS,
    LINUX_MIB_TCPAOGOOD,
    LINUX_MIB_TCPMD5FAILURE,
    LINUX_MIB_TCPMD5NOTFOUND,
)
from stack.include.sock import AF_INET6
from stack.include.tcp import SOL_TCP, TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_MD5SIG, TCP_MD5SIG_EXT
from stack.lib.aes import cmac
from stack.stack import Stack

KEY = b"sixteen byte key"
US, PEER, MAPPED = "fd00::2", "fd00::15", "::ffff:10.0.2.15"
MD5, SHA1, CMAC = "md5", b"hmac(sha1)", b"cmac(aes128)"
Sign = Callable[[bytes, int, bytes, int, tuple[int, int]], bytes]


def storage(addr: str, port: int = 0) -> bytes:
    """A struct sockaddr_storage with a sockaddr_in6."""
    return (pack("=HHI", AF_INET6, port, 0) + socket.inet_pton(socket.AF_INET6, addr)).ljust(128, b"\0")


def md5sig(addr: str = PEER, key: bytes = KEY, prefixlen: int = 0, flags: int = 0) -> bytes:
    """struct tcp_md5sig."""
    return storage(addr) + pack("=BBHi", flags, prefixlen, len(key), 0) + key.ljust(80, b"\0")


def ao_add(addr: str = PEER, algo: bytes = SHA1, prefixlen: int = 128, key: bytes = KEY) -> bytes:
    """struct tcp_ao_add: 100 signs, 200 is checked."""
    numbers = pack("=iIH6B", 0, 0, 0, prefixlen, 100, 200, 0, 0, len(key))
    return storage(addr) + algo.ljust(64, b"\0") + numbers + key.ljust(80, b"\0")


def md5_of(addresses: bytes, segment: bytes) -> bytes:
    """RFC 2385, section 2.0, with the pseudo-header of RFC 8200, section 8.1."""
    pseudo = addresses + pack("!IHBB", len(segment), 0, 0, 6)
    data = segment[(segment[12] >> 4) * 4 :]
    return hashlib.md5(pseudo + segment[:16] + b"\0\0" + segment[18:20] + data + KEY).digest()


def ao_of(algo: bytes, addresses: bytes, segment: bytes, isns: tuple[int, int]) -> bytes:
    """RFC 5925, section 5.1, and RFC 5926; the MAC's place is all zeros."""
    prf = cmac if algo == CMAC else lambda key, message: hmac.digest(key, message, "sha1")
    bits = 128 if algo == CMAC else 160
    traffic_key = prf(KEY, b"\x01TCP-AO" + addresses + segment[:4] + pack("!IIH", *isns, bits))
    pseudo = bytes(4) + addresses + pack("!IHBB", len(segment), 0, 0, 6)
    return prf(traffic_key, pseudo + segment[:16] + b"\0\0" + segment[18:])[:12]


@dataclass
class Signer:
    """A raw end at fd00::15 that signs what it sends and checks what it gets."""

    conn: RawTcp
    kind: Any

    def _mac(self, segment: bytes, at: int, ends: bytes, isns: tuple[int, int]) -> bytes:
        if self.kind == MD5:
            return md5_of(ends, segment)
        blank = segment[:at] + bytes(12) + segment[at + 12 :]
        return ao_of(self.kind, ends, blank, isns)

    def send(self, flags: str, data: bytes = b"", **offer: Any) -> None:
        conn, bits = self.conn, flags_to_bits(flags)
        head = b"\x01\x01\x13\x12" + bytes(16) if self.kind == MD5 else bytes((29, 16, 200, 100)) + bytes(12)
        rest = head + build_tcp_options(**offer)
        answer = (conn.irs or 0) + conn.rcv_nxt & 0xFFFFFFFF if bits & 0x10 else 0
        number = conn.isn + conn.snd_nxt & 0xFFFFFFFF
        doff = 5 + len(rest) // 4 << 12 | bits
        header = pack("!HHIIHHHH", conn.sport, conn.dport, number, answer, doff, conn.window, 0, 0)
        isns = (conn.isn, 0 if flags == "S" else conn.irs or 0)
        ends = socket.inet_pton(socket.AF_INET6, PEER) + socket.inet_pton(socket.AF_INET6, US)
        mac = self._mac(header + rest + data, 24, ends, isns)
        conn.send(flags, data, options=head[:4] + mac, **offer)

    def check(self, segment: Segment) -> None:
        """The signature of a segment has to be there and right."""
        body, at = segment.packet.body, 20
        while body[at] not in (19, 29):
            at += 1 if body[at] == 1 else body[at + 1]
        at, size = (at + 2, 16) if self.kind == MD5 else (at + 4, 12)
        ends = socket.inet_pton(socket.AF_INET6, US) + socket.inet_pton(socket.AF_INET6, PEER)
        assert body[at : at + size] == self._mac(body, at, ends, (self.conn.irs or 0, self.conn.isn))


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", f"{US}/64", profile="linux-6.18")


def listen(net: Stack, *options: tuple[int, bytes]) -> Any:
    sock: Any = Socket(net, AF_INET6)
    for name, value in options:
        sock.setsockopt(SOL_TCP, name, value)
    sock.bind(("::", 80))
    sock.listen(5)
    sock.setblocking(False)
    return sock


@pytest.fixture(params=[MD5, SHA1, CMAC], ids=["md5", "sha1", "cmac"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(net: Stack, kind: Any) -> Any:
    """A listener with a key for fd00::15."""
    return listen(net, (TCP_MD5SIG, md5sig()) if kind == MD5 else (TCP_AO_ADD_KEY, ao_add(algo=kind)))


def connected(peer: RawPeer, server: Any, kind: Any) -> tuple[Signer, Any]:
    signer = Signer(peer.tcp(80, dst=US), kind)
    signer.send("S", mss=1440)
    signer.check(signer.conn.expect("SA", seq=0, ack=1))
    signer.send("A")
    peer.sim.settle()
    child, _ = server.accept()
    child.setblocking(False)
    return signer, child


def test_listen_unsigned_syn_is_dropped(server: Any, peer: RawPeer, net: Stack, kind: Any) -> None:
    peer.tcp(80, dst=US).send("S", mss=1440)
    peer.expect_nothing()
    reason = "TCP_MD5NOTFOUND" if kind == MD5 else "TCP_AONOTFOUND"
    assert net.drop_reasons == {reason: 1}
    assert net.mib.net_statistics[LINUX_MIB_TCPMD5NOTFOUND] == (kind == MD5)


def test_established_data_are_signed_both_ways(server: Any, peer: RawPeer, kind: Any) -> None:
    signer, child = connected(peer, server, kind)
    signer.send("PA", b"hello")
    signer.check(signer.conn.expect("A", ack=6))
    assert child.recv(100) == b"hello"
    child.send(b"world")
    answer = signer.conn.expect("PA", payload=b"world")
    signer.check(answer)


def test_established_forged_data_are_dropped(server: Any, peer: RawPeer, net: Stack, kind: Any) -> None:
    signer, child = connected(peer, server, kind)
    option = b"\x01\x01\x13\x12" + bytes(16) if kind == MD5 else bytes((29, 16, 200, 100)) + bytes(12)
    signer.conn.send("PA", b"hello", options=option)
    peer.expect_nothing()
    with pytest.raises(BlockingIOError):
        child.recv(100)
    counter = LINUX_MIB_TCPMD5FAILURE if kind == MD5 else LINUX_MIB_TCPAOBAD
    assert net.mib.net_statistics[counter] == 1


def test_new_syn_recv_answer_to_something_unacceptable_is_signed(
    server: Any, peer: RawPeer, kind: Any
) -> None:
    signer = Signer(peer.tcp(80, dst=US), kind)
    signer.send("S", mss=1440)
    signer.conn.expect("SA")
    signer.conn.snd_nxt = 100_000  # beyond the window
    signer.send("A")
    signer.check(signer.conn.expect("A", seq=1, ack=1))


def test_listen_rst_is_signed(server: Any, peer: RawPeer, kind: Any) -> None:
    signer = Signer(peer.tcp(80, dst=US), kind)
    signer.conn.irs, signer.conn.snd_nxt, signer.conn.rcv_nxt = 5, 1, 1
    signer.send("A")
    answer = signer.conn.expect("R")
    signer.check(answer)


def test_established_hard_icmp_error_is_not_believed_about_a_signed_connection(
    sim: Sim, net: Stack, peer: RawPeer
) -> None:
    signer, child = connected(peer, listen(net, (TCP_AO_ADD_KEY, ao_add())), SHA1)
    quoted = pack("!IHBB", 6 << 28, 20, 6, 64) + socket.inet_pton(socket.AF_INET6, US)
    quoted += socket.inet_pton(socket.AF_INET6, PEER)
    quoted += pack("!HHI", 80, signer.conn.sport, (signer.conn.irs or 0) + 1) + bytes(12)
    peer.send_icmp6(US, 1, 4, 0, quoted)
    sim.settle()
    assert net.mib.net_statistics[LINUX_MIB_TCPAODROPPEDICMPS] == 1
    child.send(b"alive")
    signer.conn.expect("PA", payload=b"alive")


def test_listen_keys_of_both_families_sign_for_their_own(net: Stack, peer: RawPeer) -> None:
    server = listen(net, (TCP_AO_ADD_KEY, ao_add()), (TCP_MD5SIG, md5sig(MAPPED)))
    connected(peer, server, SHA1)
    assert net.mib.net_statistics[LINUX_MIB_TCPAOGOOD] == 2
    peer.tcp(80).send("S", mss=1460)  # by IPv4, unsigned
    peer.expect_nothing()
    assert net.drop_reasons == {"TCP_MD5NOTFOUND": 1}


def test_listen_mapped_peer_is_answered_signed(net: Stack, peer: RawPeer) -> None:
    server = listen(net, (TCP_MD5SIG, md5sig(MAPPED)))
    conn = peer.tcp(80)
    ends = bytes((10, 0, 2, 15, 10, 0, 2, 2))

    def signature(source: bytes, segment: bytes) -> bytes:
        data = segment[(segment[12] >> 4) * 4 :]
        pseudo = source + pack("!BBH", 0, 6, len(segment))
        return hashlib.md5(pseudo + segment[:16] + b"\0\0" + segment[18:20] + data + KEY).digest()

    def send(flags: str, answer: int, data: bytes = b"") -> None:
        number = conn.isn + conn.snd_nxt
        head = pack(
            "!HHIIHHHH", conn.sport, 80, number, answer, 10 << 12 | flags_to_bits(flags), conn.window, 0, 0
        )
        segment = head + bytes(20) + data
        conn.send(flags, data, options=b"\x01\x01\x13\x12" + signature(ends, segment))

    send("S", 0)
    synack = conn.expect("SA").packet.body
    assert signature(ends[4:] + ends[:4], synack) in synack
    send("A", (conn.irs or 0) + 1)
    peer.sim.settle()
    child, _ = server.accept()
    child.send(b"hello")
    data = conn.expect("PA", payload=b"hello").packet.body
    assert signature(ends[4:] + ends[:4], data) in data


@pytest.mark.parametrize(
    ("prefixlen", "addr", "number"),
    [(0, PEER, 0), (128, PEER, 0), (129, PEER, errno.EINVAL), (32, MAPPED, 0), (33, MAPPED, errno.EINVAL)],
)
def test_md5_key_prefix_of_a_mapped_peer_is_one_of_ipv4(
    net: Stack, prefixlen: int, addr: str, number: int
) -> None:
    """As a 6.18 kernel answers."""
    sock: Any = Socket(net, AF_INET6)
    value = md5sig(addr, prefixlen=prefixlen, flags=1)
    if not number:
        sock.setsockopt(SOL_TCP, TCP_MD5SIG_EXT, value)
        assert sock.sk.md5sig_info.head[0].prefixlen == prefixlen
        return
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        sock.setsockopt(SOL_TCP, TCP_MD5SIG_EXT, value)


@pytest.mark.parametrize("value", [ao_add(prefixlen=64), ao_add(MAPPED, prefixlen=33), ao_add()[:-1]])
def test_ao_key_that_is_refused(net: Stack, value: bytes) -> None:
    sock: Any = Socket(net, AF_INET6)
    with pytest.raises(OSError, match=rf"\[Errno {errno.EINVAL}\]"):
        sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, value)


def test_ao_key_is_removed_by_its_peer_and_ids(net: Stack) -> None:
    sock: Any = Socket(net, AF_INET6)
    sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add())
    sock.setsockopt(SOL_TCP, TCP_AO_DEL_KEY, storage(PEER) + pack("=iIH6B", 0, 0, 0, 128, 100, 200, 0, 0, 0))
    assert sock.sk.ao_info.head == []
