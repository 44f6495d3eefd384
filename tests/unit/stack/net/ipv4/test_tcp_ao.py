# SPDX-License-Identifier: GPL-2.0-or-later
"""The TCP authentication option (RFC 5925) at a listener: keys, what is dropped, what is signed."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from struct import pack, unpack
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim, build_tcp_options, flags_to_bits
from stack.include.ip import in_aton
from stack.include.snmp import (
    LINUX_MIB_TCPAOBAD,
    LINUX_MIB_TCPAODROPPEDICMPS,
    LINUX_MIB_TCPAOGOOD,
    LINUX_MIB_TCPAOKEYNOTFOUND,
    LINUX_MIB_TCPAOREQUIRED,
)
from stack.include.sock import AF_INET, AF_INET6
from stack.include.tcp import (
    SOL_TCP,
    TCP_AO_ADD_KEY,
    TCP_AO_DEL_KEY,
    TCP_AO_INFO,
    TCP_AO_KEYF_EXCLUDE_OPT,
    tcp_ao_key,
)
from stack.net.ipv4 import tcp_ao
from stack.stack import Stack

KEY = b"testvector"
US, PEER = "10.0.2.2", "10.0.2.15"


def ao_add(
    addr: str = PEER, key: bytes = KEY, *, sndid: int = 100, rcvid: int = 200, prefix: int = 32, maclen: int = 0,
    keyflags: int = 0, alg: bytes = b"hmac(sha1)", family: int = 2, bits: int = 0,
) -> bytes:  # fmt: skip
    """struct tcp_ao_add as a C program fills it in."""
    sockaddr = pack("=HH", family, 0) + in_aton(addr).to_bytes(4, "big") + bytes(120)
    small = bytes((prefix, sndid, rcvid, maclen, keyflags, len(key)))
    return sockaddr + alg.ljust(64, b"\0") + pack("=iIH", 0, bits, 0) + small + key.ljust(80, b"\0")


def ao_del(addr: str = PEER, *, sndid: int = 100, rcvid: int = 200) -> bytes:
    sockaddr = pack("=HH", 2, 0) + in_aton(addr).to_bytes(4, "big") + bytes(120)
    return sockaddr + pack("=iIH", 0, 0, 0) + bytes((32, sndid, rcvid, 0, 0, 0))


def ao_option(segment: Segment) -> tuple[int, int, int, int] | None:
    """(offset of the MAC in the segment, its length, KeyID, RNextKeyID)."""
    raw, at = segment.opts.raw, 0
    while at < len(raw) and raw[at] != 29:
        at += 1 if raw[at] == 1 else raw[at + 1]
    return (24 + at, raw[at + 1] - 4, raw[at + 2], raw[at + 3]) if at < len(raw) else None


def mac(
    key: bytes, body: bytes, at: int, size: int, src: str, dst: str, isns: tuple[int, int], sne: int = 0
) -> bytes:
    """RFC 5925, section 5.1 and RFC 5926, from the bytes of a segment; ``isns`` source's first."""
    addresses = in_aton(src).to_bytes(4, "big") + in_aton(dst).to_bytes(4, "big")
    context = b"\x01TCP-AO" + addresses + body[:4] + pack("!IIH", *isns, 160)
    blank = body[:16] + b"\0\0" + body[18:at] + bytes(size) + body[at + size :]
    message = pack("!I", sne) + addresses + pack("!BBH", 0, 6, len(body)) + blank
    return hmac.digest(hmac.digest(key, context, "sha1"), message, "sha1")[:size]


@dataclass
class Signer:
    """A raw end that signs with key ids of its own: ``keyid`` names the key, ``rnext`` the one it would like."""

    conn: RawTcp
    key: bytes = KEY
    keyid: int = 200
    rnext: int = 100

    def send(
        self, flags: str, data: bytes = b"", *, seq: int | None = None, ack: int | None = None, **offer: Any
    ) -> None:
        conn = self.conn
        option = bytes((29, 16, self.keyid, self.rnext)) + bytes(12)
        rest = option + build_tcp_options(**offer)
        number = (conn.isn + (conn.snd_nxt if seq is None else seq)) & 0xFFFFFFFF
        bits = flags_to_bits(flags)
        answer = ((conn.irs or 0) + (conn.rcv_nxt if ack is None else ack)) & 0xFFFFFFFF if bits & 0x10 else 0
        header = pack(
            "!HHIIHHHH",
            conn.sport,
            conn.dport,
            number,
            answer,
            5 + len(rest) // 4 << 12 | bits,
            conn.window,
            0,
            0,
        )
        isns = (conn.isn & 0xFFFFFFFF, 0 if flags == "S" else conn.irs or 0)
        signature = mac(self.key, header + rest + data, 24, 12, PEER, conn.dst, isns)
        conn.send(flags, data, seq=seq, ack=ack, options=option[:4] + signature, **offer)

    def check(self, segment: Segment, key: bytes = KEY) -> tuple[int, int]:
        """(KeyID, RNextKeyID) of a segment whose MAC has to be right."""
        option = ao_option(segment)
        assert option is not None, str(segment)
        at, size, keyid, rnext = option
        isns = (self.conn.irs or 0, self.conn.isn & 0xFFFFFFFF)
        body = segment.packet.body
        assert body[at : at + size] == mac(key, body, at, size, segment.packet.src, segment.packet.dst, isns)
        return keyid, rnext


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", profile="linux-6.18")


@pytest.fixture
def server(net: Stack) -> Any:
    """A listener with one key for 10.0.2.15: 100 signs, 200 is checked."""
    sock: Any = Socket(net)
    sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add())
    sock.bind(("", 80))
    sock.listen(5)
    sock.setblocking(False)
    return sock


def connected(peer: RawPeer, sock: Any, isn: int = 1_000_000, **offer: Any) -> tuple[Signer, Any]:
    signer = Signer(peer.tcp(80, isn=isn))
    signer.send("S", **(offer or {"mss": 1460}))
    assert signer.check(signer.conn.expect("SA", seq=0, ack=1)) == (100, 200)
    signer.send("A")
    peer.sim.settle()
    child, _ = sock.accept()
    child.setblocking(False)
    return signer, child


def mib(net: Stack, index: int) -> int:
    return net.mib.net_statistics[index]


IPV4_ENDS, IPV6_ENDS = "0a0b0c0dac1b1c1d", f"fd{1:030x}fd{2:030x}"
BGP = "ff" * 16 + "00430104dac000b4ac1b1c1d26020601040001000102028000020202000202420002064104"
BGP6 = BGP.replace("dac0", "fde8").replace("ac1b1c1d", "0101017a")


@pytest.mark.parametrize(
    ("section", "isns", "traffic_key", "header", "data"),
    [
        ("4.1.1", (0xFBFBAB5A, 0), "6d63ef1b02fe1509d4b1402707fd7b0416abb74f",
         ("e9d700b3fbfbab5a00000000e002ffffcac40000020405b4010303080402080a00155ab700000000"
          "1d103d542ee437c6f8ede6d7c4d602e7"), ""),
        ("4.1.2", (0x11C14261, 0xFBFBAB5A), "d9e217e4834a80ca2f3fd8de2e41b8e6797fea96",
         ("00b3e9d711c14261fbfbab5be012ffff37760000020405b4010303080402080a84a50beb00155ab7"
          "1d10543deeab0fe24c3010815116b3be"), ""),
        ("4.1.4", (0x11C14261, 0xFBFBAB5A), "d9e217e4834a80ca2f3fd8de2e41b8e6797fea96",
         ("00b3e9d711c14262fbfbab9ec0180100400c00000101080a84a50bf500155ac1"
          "1d10543da63f0ecbbb2e635c954deac7"), BGP + "0000dac0020840060064000101" + "00"),
        ("4.2.2", (0xACD5B5E1, 0xCB0EFBEE), "b5b2896bb3664e8176b0edc6e799524101a8307f",
         ("00b3ff12acd5b5e1cb0efbefe012ffff388e0000020405b4010303080402080a576772f300024cce"
          "1d10543d09306f9acea63a8c68cb9a70"), ""),
        ("5.1.1", (0x787A1DDF, 0), "f5b8b3d5f34fdbb6eb8d4ab9660e60e3",
         ("c4fa00b3787a1ddf00000000e002ffff5a0f0000020405b4010303080402080a00017ed000000000"
          "1d103d54e477e99c8040765498e55091"), ""),
        ("6.1.1", (0x176A833F, 0), "625ec09d575836edc9b6428418bbf06989a361bb",
         ("f7e400b3176a833f00000000e002ffff47210000020405a0010303080402080a0041d08700000000"
          "1d103d549033ec3d7334b64c5edd039f"), ""),
        ("6.2.4", (0xEBA3734D, 0x020C1E69), "405108947f996575e7bdbc26d40216a2c7fa91bd",
         ("00b3c6cdeba3734e020c1eadc0180100716a00000101080a5ec99b7a009db965"
          "1d10543d559a819445b4fde98d9e1317"), BGP6 + "0000fde8020840060064000101" + "00"),
        ("7.1.2", (0xA6744ECB, 0x193CCCEC), "cf1b1e225e06a63616764a067b46f4b1",
         ("00b3f85aa6744ecb193cccede012ffffeabb0000020405a0010303080402080a71daabc813e4ab99"
          "1d10543ddc2843a84e78a6bcfdc5ed80"), ""),
        ("7.1.4", (0xA6744ECB, 0x193CCCEC), "cf1b1e225e06a63616764a067b46f4b1",
         ("00b3f85aa6744ecc193ccd30c018010052f400000101080a71daabd313e4aba3"
          "1d10543dc1069b7dfd3d693a6df3f289"), BGP6 + "0000fde8020840060064000101" + "00"),
    ],
)  # fmt: skip
def test_traffic_keys_and_macs_of_rfc_9235(
    section: str, isns: tuple[int, int], traffic_key: str, header: str, data: str
) -> None:
    """Sections 4 and 6 are HMAC-SHA1, 5 and 7 AES-CMAC, 6 and 7 IPv6, *.2.* leave the other options out."""
    family = AF_INET6 if section[0] in "67" else AF_INET
    size = 16 if family == AF_INET6 else 4
    raw = bytes.fromhex(IPV6_ENDS if family == AF_INET6 else IPV4_ENDS)
    client, server = int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big")
    segment = bytes.fromhex(header)
    ends = (server, client) if segment[:2] == b"\x00\xb3" else (client, server)
    algo = b"cmac(aes128)" if section[0] in "57" else b"hmac(sha1)"
    flags = TCP_AO_KEYF_EXCLUDE_OPT if section[2] == "2" else 0
    key = tcp_ao_key(ends[1], size * 8, flags, 61, 84, 12, KEY, family, algo)
    sport, dport = int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")
    found = tcp_ao.tcp_ao_calc_traffic_key(key, *ends, sport, dport, *isns)
    assert found.hex() == traffic_key
    mac = tcp_ao.tcp_ao_hash(key, found, 0, *ends, segment, len(segment) - 12, bytes.fromhex(data))
    assert mac == segment[-12:]


def test_listen_syn_without_the_option_is_dropped(server: Any, peer: RawPeer, net: Stack) -> None:
    peer.tcp(80).send("S", mss=1460)
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPAOREQUIRED) == 1
    assert net.drop_reasons == {"TCP_AONOTFOUND": 1}


@pytest.mark.parametrize(
    ("key", "keyid", "counter", "reason"),
    [
        (b"wrong", 200, LINUX_MIB_TCPAOBAD, "TCP_AOFAILURE"),
        (KEY, 201, LINUX_MIB_TCPAOKEYNOTFOUND, "TCP_AOKEYNOTFOUND"),
    ],
)
def test_listen_syn_that_is_signed_wrongly_is_dropped(
    server: Any, peer: RawPeer, net: Stack, key: bytes, keyid: int, counter: int, reason: str
) -> None:
    Signer(peer.tcp(80), key, keyid).send("S", mss=1460)
    peer.expect_nothing()
    assert mib(net, counter) == 1
    assert net.drop_reasons == {reason: 1}


def test_listen_without_keys_drops_a_signed_syn(net: Stack, peer: RawPeer) -> None:
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen(5)
    Signer(peer.tcp(80)).send("S", mss=1460)
    peer.expect_nothing()
    assert net.drop_reasons == {"TCP_AOUNEXPECTED": 1}


def test_linux_6_1_does_not_know_the_option(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", profile="linux-6.1")
    peer = sim.add_peer("10.0.2.15", net)
    sock = Socket(net)
    with pytest.raises(OSError, match=r"\[Errno 92\]"):
        sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add())
    sock.bind(("", 80))
    sock.listen(5)
    Signer(peer.tcp(80)).send("S", mss=1460)
    assert "S" in peer.expect_segment().flags


def test_listen_signed_syn_is_answered_signed(server: Any, peer: RawPeer, net: Stack) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    answer = signer.conn.expect("SA", seq=0, ack=1)
    assert signer.check(answer) == (100, 200)
    # The option first; SACK costs the time stamp, as with MD5.
    assert answer.opts.kinds == (29, 2, 1, 1, 4, 1, 3)
    assert mib(net, LINUX_MIB_TCPAOGOOD) == 1
    assert signer.check(signer.conn.expect("SA", within_ns=2 * SEC)) == (100, 200)


def test_new_syn_recv_unsigned_ack_is_dropped(server: Any, peer: RawPeer, net: Stack) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460)
    signer.conn.expect("SA")
    signer.conn.send("A")
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPAOBAD) == 1
    with pytest.raises(BlockingIOError):
        server.accept()


def test_new_syn_recv_answer_to_something_unacceptable_is_signed(server: Any, peer: RawPeer) -> None:
    signer = Signer(peer.tcp(80))
    signer.send("S", mss=1460)
    signer.conn.expect("SA")
    signer.send("A", seq=5_000_000)
    assert signer.check(signer.conn.expect("A", ack=1)) == (100, 200)


def test_established_data_are_signed_both_ways(server: Any, peer: RawPeer, net: Stack) -> None:
    signer, child = connected(peer, server)
    signer.send("PA", b"question")
    assert signer.check(signer.conn.expect("A", ack=9, within_ns=SEC)) == (100, 200)
    assert child.recv(100) == b"question"
    child.send(b"x" * 3000)
    segment = signer.conn.expect(seq=1)
    assert signer.check(segment) == (100, 200)
    assert len(segment.payload) == 1460 - 16
    assert mib(net, LINUX_MIB_TCPAOGOOD) == 3
    assert mib(net, LINUX_MIB_TCPAOBAD) == 0


def test_listen_cookie_keeps_the_signature(server: Any, peer: RawPeer, net: Stack) -> None:
    net.sysctl_set("tcp_syncookies", 2)
    signer, child = connected(peer, server)
    signer.conn.send("PA", b"unsigned")
    signer.send("PA", b"signed")
    signer.conn.peer.sim.settle()
    assert mib(net, LINUX_MIB_TCPAOREQUIRED) == 1
    assert child._sock.sk.ao_info.pkt_bad == 0
    # The unsigned bytes are missing still.
    assert signer.check(signer.conn.expect("A", ack=1)) == (100, 200)


def test_established_forged_rst_is_dropped(server: Any, peer: RawPeer, net: Stack) -> None:
    signer, child = connected(peer, server)
    signer.conn.send("R")
    Signer(signer.conn, b"forged").send("R")
    peer.expect_nothing()
    assert mib(net, LINUX_MIB_TCPAOREQUIRED) == 1
    assert mib(net, LINUX_MIB_TCPAOBAD) == 1
    signer.send("R")
    peer.expect_nothing()
    with pytest.raises(ConnectionResetError):
        child.recv(10)


def test_established_sequence_numbers_wrap_into_the_extension(server: Any, peer: RawPeer) -> None:
    isn = 0xFFFFFFF0
    signer, child = connected(peer, server, isn=isn)
    signer.send("PA", b"0123456789")
    signer.send("PA", b"abcdefghij")  # ends beyond the wrap
    peer.sim.settle()
    assert child.recv(100) == b"0123456789abcdefghij"
    conn = signer.conn
    header = pack(
        "!HHIIHHHH", conn.sport, 80, (isn + 21) & 0xFFFFFFFF, (conn.irs or 0) + 1, 9 << 12 | 0x18, 65535, 0, 0
    )
    body = header + bytes((29, 16, 200, 100)) + bytes(12) + b"later"
    for sne, got in ((0, None), (1, b"later")):
        signature = mac(KEY, body, 24, 12, PEER, US, (isn, conn.irs or 0), sne)
        conn.send("PA", b"later", seq=21, ack=1, options=body[20:24] + signature)
        peer.sim.settle()
        if got is None:
            with pytest.raises(BlockingIOError):
                child.recv(100)
        else:
            assert child.recv(100) == got


def test_established_peer_moves_the_current_key(net: Stack, peer: RawPeer, server: Any) -> None:
    server.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add(key=b"second", sndid=101, rcvid=201))
    signer, child = connected(peer, server)
    signer.rnext = 101
    signer.send("PA", b"x")
    assert signer.check(signer.conn.expect("A", within_ns=SEC), b"second") == (101, 200)
    other = Signer(signer.conn, b"second", 201, 101)
    other.send("PA", b"y")
    peer.sim.settle()
    assert child.recv(10) == b"xy"


def test_established_icmp_is_not_believed(server: Any, peer: RawPeer, net: Stack) -> None:
    signer, child = connected(peer, server)
    child.send(b"data")
    sent = signer.conn.expect(seq=1)
    quoted = sent.packet.frame.data[14:42]
    peer.send_icmp(US, 3, 3, 0, quoted)
    peer.sim.settle()
    assert mib(net, LINUX_MIB_TCPAODROPPEDICMPS) == 1
    assert child._sock.sk.sk_err_soft == 0


def test_time_wait_ack_is_signed(server: Any, peer: RawPeer, sim: Sim) -> None:
    signer, child = connected(peer, server)
    child.close()
    signer.check(signer.conn.expect("FA", seq=1))
    signer.send("FA")
    signer.check(signer.conn.expect("A", ack=2))
    sim.run_for(600 * MSEC)
    signer.send("FA", seq=1)
    assert signer.check(signer.conn.expect("A", ack=2)) == (100, 200)


def test_listen_options_may_be_left_out_of_the_mac(net: Stack, peer: RawPeer) -> None:
    sock: Any = Socket(net)
    sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add(keyflags=2))
    sock.bind(("", 80))
    sock.listen(5)
    conn = peer.tcp(80)
    header = pack("!HHIIHHHH", 40000, 80, conn.isn, 0, 10 << 12 | 2, 65535, 0, 0)
    option = bytes((29, 16, 200, 100)) + bytes(12)
    addresses = in_aton(PEER).to_bytes(4, "big") + in_aton(US).to_bytes(4, "big")
    context = b"\x01TCP-AO" + addresses + header[:4] + pack("!IIH", conn.isn, 0, 160)
    message = bytes(4) + addresses + pack("!BBH", 0, 6, 40) + header + option
    signature = hmac.digest(hmac.digest(KEY, context, "sha1"), message, "sha1")[:12]
    conn.send("S", options=option[:4] + signature, mss=1460)
    assert ao_option(conn.expect("SA")) is not None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (ao_add()[:-1], 22),
        (ao_add(family=10), 22),
        (ao_add(prefix=33), 22),
        (ao_add(prefix=24), 22),  # the address has bits beyond it
        (ao_add(bits=1), 22),
        (ao_add(alg=b"hmac(sha256)"), 2),
        (ao_add(alg=b"cmac(aes128)", maclen=17), 90),
        (ao_add(maclen=17), 90),
        (ao_add(maclen=21), 90),
    ],
)
def test_key_that_is_refused(net: Stack, value: bytes, number: int) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        Socket(net).setsockopt(SOL_TCP, TCP_AO_ADD_KEY, value)


def test_key_ids_are_unique_for_a_peer(net: Stack) -> None:
    sock = Socket(net)
    sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add())
    with pytest.raises(FileExistsError):
        sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add(rcvid=7))
    sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add("10.0.2.16"))
    sock.setsockopt(SOL_TCP, TCP_AO_DEL_KEY, ao_del())
    sock.setsockopt(SOL_TCP, TCP_AO_ADD_KEY, ao_add(rcvid=7))
    with pytest.raises(FileNotFoundError):
        sock.setsockopt(SOL_TCP, TCP_AO_DEL_KEY, ao_del())


def test_info_shows_keys_and_counters(server: Any, peer: RawPeer) -> None:
    signer, child = connected(peer, server)
    Signer(signer.conn, b"forged").send("A")
    peer.sim.settle()
    bits, _, current, rnext, good, bad, *_ = unpack("=IHBB5Q", child.getsockopt(SOL_TCP, TCP_AO_INFO, 48))
    assert (bits, current, rnext, good, bad) == (3, 100, 200, 0, 1)
    bits, _, _, _, good, *_ = unpack("=IHBB5Q", server.getsockopt(SOL_TCP, TCP_AO_INFO, 48))
    assert (bits, good) == (0, 2)
    with pytest.raises(FileNotFoundError):
        Socket(peer.sim.add_stack("10.9.0.1/24", profile="linux-6.18")).getsockopt(SOL_TCP, TCP_AO_INFO, 48)


def test_info_can_require_the_option_of_everybody(net: Stack, sim: Sim, server: Any) -> None:
    other = sim.add_peer("10.0.2.16", net)
    other.tcp(80).send("S", mss=1460)
    assert "S" in other.expect_segment().flags
    server.setsockopt(SOL_TCP, TCP_AO_INFO, pack("=IHBB5Q", 4, 0, 0, 0, 0, 0, 0, 0, 0))
    other.tcp(80, sport=40001).send("S", mss=1460)
    other.expect_nothing()
    assert mib(net, LINUX_MIB_TCPAOREQUIRED) == 1
