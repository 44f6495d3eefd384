# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts 1 to 18: the shape of the SYN-ACK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from measured import FULL, ISN, LINUX_6_1, NO_TS, Host

from stack.api.sim import MSEC, SEC, build_tcp_options
from stack.include.ip import in_aton
from stack.lib.checksum import csum_partial, csum_tcpudp_magic
from stack.profile import memory_sysctl

MakeHost = Callable[..., Host]

SO_RCVBUF = (1, 8)
SO_RCVBUFFORCE = (1, 33)
TCP_MAXSEG = (6, 2)
NOP, MSS, WSCALE, SACK_PERM, TIMESTAMP = 1, 2, 3, 4, 8
OPTION_LENGTH = {NOP: 1, MSS: 4, WSCALE: 3, SACK_PERM: 2, TIMESTAMP: 10}


# -- 1 to 3: options -------------------------------------------------------------------------------------------


@pytest.mark.fact(1, "SYN-ACK with all options")
def test_fact_01_syn_ack_with_all_options(host: Host, profile: str) -> None:
    host.listen()
    _, answer = host.syn(**FULL)
    assert answer.opts.kinds == (MSS, SACK_PERM, TIMESTAMP, NOP, WSCALE)
    assert answer.opts.ts is not None
    wscale = {"linux-6.1": 7, "linux-6.18": 10}[profile]
    tsval = answer.opts.ts[0].to_bytes(4, "big")
    expected = b"\x02\x04\x05\xb4\x04\x02\x08\x0a" + tsval + b"\0\0\x03\xe8\x01\x03\x03" + bytes([wscale])
    assert answer.opts.raw == expected
    assert len(answer.opts.raw) == 20


@pytest.mark.fact(2, "padding of the options")
@pytest.mark.parametrize(
    ("offer", "kinds"),
    [
        ({"ts": (1, 0)}, (MSS, NOP, NOP, TIMESTAMP)),
        ({"sackok": True}, (MSS, NOP, NOP, SACK_PERM)),
        ({"wscale": 3}, (MSS, NOP, WSCALE)),
        ({"ts": (1, 0), "wscale": 3}, (MSS, NOP, NOP, TIMESTAMP, NOP, WSCALE)),
        ({"sackok": True, "wscale": 3}, (MSS, NOP, NOP, SACK_PERM, NOP, WSCALE)),
        ({"sackok": True, "ts": (1, 0)}, (MSS, SACK_PERM, TIMESTAMP)),
    ],
)
def test_fact_02_padding_of_the_options(host: Host, offer: dict[str, Any], kinds: tuple[int, ...]) -> None:
    host.listen()
    opts = host.syn(mss=1460, **offer)[1].opts
    assert opts.kinds == kinds
    assert len(opts.raw) == sum(OPTION_LENGTH[kind] for kind in kinds)


@pytest.mark.fact(3, "options are offered only to who offered them")
def test_fact_03_no_option_without_an_offer(host: Host) -> None:
    host.listen()
    assert host.syn()[1].opts.raw == b"\x02\x04\x05\xb4"


@pytest.mark.fact(3, "options are offered only if the sysctl allows them")
@pytest.mark.parametrize(
    ("off", "kinds"),
    [
        (("tcp_timestamps",), (MSS, NOP, NOP, SACK_PERM, NOP, WSCALE)),
        (("tcp_sack",), (MSS, NOP, NOP, TIMESTAMP, NOP, WSCALE)),
        (("tcp_window_scaling",), (MSS, SACK_PERM, TIMESTAMP)),
        (("tcp_timestamps", "tcp_sack", "tcp_window_scaling"), (MSS,)),
    ],
)
def test_fact_03_option_that_the_sysctl_forbids(
    make_host: MakeHost, off: tuple[str, ...], kinds: tuple[int, ...]
) -> None:
    host = make_host(sysctl=dict.fromkeys(off, 0))
    host.listen()
    assert host.syn(**FULL)[1].opts.kinds == kinds


# -- 4 to 8: window, scale, buffer, MSS ------------------------------------------------------------------------


@pytest.mark.fact(4, "first window: half of the buffer in whole segments, never scaled")
@pytest.mark.parametrize(("offer", "window"), [(FULL, 65160), (NO_TS, 64240), ({}, 64240)])
def test_fact_04_first_window(host: Host, offer: dict[str, Any], window: int) -> None:
    host.listen()
    assert host.syn(**offer)[1].window == window
    assert window == (45 * 1448 if "ts" in offer else 44 * 1460)


@pytest.mark.fact(4, "first window by tcp_rmem[1]")
@pytest.mark.parametrize(
    ("default", "with_ts", "without_ts"),
    [
        (65536, 31856, 32120),
        (87380, 43440, 42340),
        (131072, 65160, 64240),
        (262144, 65535, 65535),
        (1048576, 65535, 65535),
    ],
)
def test_fact_04_first_window_by_tcp_rmem(
    make_host: MakeHost, default: int, with_ts: int, without_ts: int
) -> None:
    host = make_host(sysctl={"tcp_rmem": (4096, default, 6291456)})
    host.listen()
    assert host.syn(40000, **FULL)[1].window == with_ts
    assert host.syn(40001, **NO_TS)[1].window == without_ts


@pytest.mark.fact(4, "first window by tcp_adv_win_scale, which 6.18 does not look at")
@pytest.mark.parametrize(("scale", "window"), [(-2, 31856), (-1, 65160), (1, 65160), (2, 65535), (3, 65535)])
def test_fact_04_first_window_by_tcp_adv_win_scale(
    make_host: MakeHost, profile: str, scale: int, window: int
) -> None:
    host = make_host(sysctl={"tcp_adv_win_scale": scale})
    host.listen()
    assert host.syn(**FULL)[1].window == (65160 if profile == "linux-6.18" else window)


@pytest.mark.fact(5, "window scale of the profile")
def test_fact_05_window_scale(host: Host, profile: str) -> None:
    host.listen()
    assert host.syn(**FULL)[1].opts.wscale == {"linux-6.1": 7, "linux-6.18": 10}[profile]


@pytest.mark.fact(5, "window scale by tcp_rmem[2], or rmem_max if that is more")
@pytest.mark.parametrize(
    ("maximum", "wscale"), [(3679840, 6), (4194304, 7), (6291456, 7), (16777216, 9), (33554432, 10)]
)
def test_fact_05_window_scale_by_tcp_rmem(
    make_host: MakeHost, profile: str, maximum: int, wscale: int
) -> None:
    host = make_host(sysctl={"tcp_rmem": (4096, 131072, maximum)})
    host.listen()
    assert host.syn(**FULL)[1].opts.wscale == (max(wscale, 7) if profile == "linux-6.18" else wscale)


@pytest.mark.fact(5, "window scale by the machine's memory")
@LINUX_6_1
@pytest.mark.parametrize(("mib", "wscale"), [(512, 6), (1024, 7), (2048, 7), (4096, 7), (8192, 7)])
def test_fact_05_window_scale_by_memory(make_host: MakeHost, mib: int, wscale: int) -> None:
    host = make_host(sysctl=memory_sysctl(mib))
    assert host.net.sysctl_get("tcp_rmem") == (4096, 131072, 3679840 if mib == 512 else 6291456)
    host.listen()
    assert host.syn(**FULL)[1].opts.wscale == wscale


@pytest.mark.fact(6, "SO_RCVBUF on the listener sets window and scale")
@pytest.mark.parametrize(
    ("value", "window", "wscale"), [(2048, 1448, 0), (8192, 7240, 0), (20000, 18824, 0), (65536, 65160, 1)]
)
def test_fact_06_rcvbuf_sets_window_and_scale(host: Host, value: int, window: int, wscale: int) -> None:
    host.listen(before=((*SO_RCVBUF, value),))
    _, answer = host.syn(**FULL)
    assert (answer.window, answer.opts.wscale) == (window, wscale)


@pytest.mark.fact(6, "SO_RCVBUF up to rmem_max")
@pytest.mark.parametrize(
    ("profile", "value", "wscale", "read_back"),
    [
        ("linux-6.1", 1 << 20, 2, 425984),
        ("linux-6.1", 4 << 20, 2, 425984),
        ("linux-6.18", 1 << 20, 5, 2 << 20),
        ("linux-6.18", 4 << 20, 7, 8 << 20),
    ],
)
def test_fact_06_rcvbuf_up_to_rmem_max(host: Host, value: int, wscale: int, read_back: int) -> None:
    sock = host.listen(before=((*SO_RCVBUF, value),))
    assert sock.getsockopt(*SO_RCVBUF) == read_back
    _, answer = host.syn(**FULL)
    assert (answer.window, answer.opts.wscale) == (65535, wscale)


@pytest.mark.fact(6, "SO_RCVBUFFORCE past rmem_max")
@pytest.mark.parametrize(("value", "wscale"), [(1 << 20, 5), (4 << 20, 7)])
def test_fact_06_rcvbufforce_past_rmem_max(host: Host, value: int, wscale: int) -> None:
    sock = host.listen(before=((*SO_RCVBUFFORCE, value),))
    assert sock.getsockopt(*SO_RCVBUF) == 2 * value
    _, answer = host.syn(**FULL)
    assert (answer.window, answer.opts.wscale) == (65535, wscale)


@pytest.mark.fact(7, "SO_RCVBUF reads back doubled")
@pytest.mark.parametrize("value", [2048, 8192, 20000, 65536])
def test_fact_07_rcvbuf_reads_back_doubled(host: Host, value: int) -> None:
    assert host.listen(before=((*SO_RCVBUF, value),)).getsockopt(*SO_RCVBUF) == 2 * value


@pytest.mark.fact(8, "TCP_MAXSEG on the listener: 500")
def test_fact_08_maxseg_changes_the_offered_mss(host: Host) -> None:
    host.listen(before=((*TCP_MAXSEG, 500),))
    _, answer = host.syn(**FULL)
    assert (answer.opts.mss, answer.window) == (500, 65392)


@pytest.mark.fact(8, "TCP_MAXSEG on the listener: further values")
@pytest.mark.parametrize(
    ("value", "mss", "window"),
    [(88, 88, 65512), (500, 500, 65392), (536, 536, 65500), (1000, 1000, 65208), (4000, 1460, 65160)],
)
def test_fact_08_maxseg_values(host: Host, value: int, mss: int, window: int) -> None:
    host.listen(before=((*TCP_MAXSEG, value),))
    _, answer = host.syn(**FULL)
    assert (answer.opts.mss, answer.window) == (mss, window)


@pytest.mark.fact(8, "MSS and first window by the device's MTU")
@pytest.mark.parametrize(
    ("mtu", "mss", "with_ts", "without_ts"),
    [
        (576, 536, 65500, 65392),
        (1280, 1240, 65084, 64480),
        (1400, 1360, 64704, 65280),
        (9000, 8960, 62636, 62720),
    ],
)
def test_fact_08_mss_and_window_by_mtu(
    make_host: MakeHost, mtu: int, mss: int, with_ts: int, without_ts: int
) -> None:
    host = make_host(mtu=mtu)
    host.listen()
    answer = host.syn(40000, **FULL)[1]
    assert (answer.opts.mss, answer.window) == (mss, with_ts)
    answer = host.syn(40001, **NO_TS)[1]
    assert (answer.opts.mss, answer.window) == (mss, without_ts)


# -- 9 to 13: IP header, numbers -------------------------------------------------------------------------------


@pytest.mark.fact(9, "IP header of the SYN-ACK, and of its repetitions")
def test_fact_09_ip_header_and_retransmits(host: Host) -> None:
    host.listen()
    conn, first = host.syn(tos=0x10, **FULL)
    again = [conn.expect("SA", seq=0, ack=1, within_ns=3 * SEC) for _ in range(2)]
    for answer in (first, *again):
        packet = answer.packet
        assert (packet.ttl, packet.df, packet.ip_id, packet.tos) == (64, True, 0, 0)
    assert [answer.seq for answer in again] == [first.seq] * 2


@pytest.mark.fact(9, "tcp_reflect_tos=1 copies the SYN's TOS")
def test_fact_09_tos_reflected(make_host: MakeHost) -> None:
    host = make_host(sysctl={"tcp_reflect_tos": 1})
    host.listen()
    conn, first = host.syn(tos=0x10, **FULL)
    assert first.packet.tos == 0x10
    assert conn.expect("SA", within_ns=2 * SEC).packet.tos == 0x10


@pytest.mark.fact(10, "payload on a SYN is ignored")
def test_fact_10_payload_on_a_syn(host: Host) -> None:
    sock = host.listen()
    conn = host.peer.tcp(80)
    conn.send("S", b"early", **FULL)
    assert conn.expect("SA", seq=0).ack == ISN + 1
    conn.send("A", seq=1)
    host.peer.expect_nothing()
    child, _ = sock.accept()
    with pytest.raises(BlockingIOError):
        child.recv(10)


@pytest.mark.fact(11, "the ISN of one 4-tuple advances once per 64 ns")
@pytest.mark.parametrize("pause_ns", [64, 6400, SEC, 20 * SEC])
def test_fact_11_isn_advances_once_per_64_ns(host: Host, pause_ns: int) -> None:
    host.listen()
    conn, first = host.syn(**FULL)
    conn.send("R", seq=1)
    host.sim.settle()
    host.sim.run_for(pause_ns)
    _, second = host.syn(**FULL)
    assert (second.seq - first.seq) & 0xFFFFFFFF == pause_ns // 64
    assert SEC // 64 == 15_625_000


def _tsval(host: Host, sport: int = 40000, port: int = 80) -> int:
    """TSval of a SYN-ACK; the request is reset."""
    conn, answer = host.syn(sport, port, **FULL)
    conn.send("R", seq=1)
    host.sim.settle()
    assert answer.opts.ts is not None
    return answer.opts.ts[0]


@pytest.mark.fact(12, "TSval counts milliseconds")
@pytest.mark.parametrize("pause_ms", [10, 1000, 12345])
def test_fact_12_tsval_rate(host: Host, pause_ms: int) -> None:
    host.listen()
    first = _tsval(host)
    host.sim.run_for(pause_ms * MSEC)
    assert (_tsval(host) - first) & 0xFFFFFFFF == pause_ms


@pytest.mark.fact(12, "TSval's offset belongs to the 4-tuple")
def test_fact_12_tsval_offset_belongs_to_the_4_tuple(host: Host) -> None:
    host.listen()
    host.listen(port=81)
    first = _tsval(host)
    other_client_port = _tsval(host, 40001)
    other_listening_port = _tsval(host, port=81)
    assert _tsval(host) == first
    assert len({first, other_client_port, other_listening_port}) == 3
    assert min(abs(other_client_port - first), abs(other_listening_port - first)) > 60_000


@pytest.mark.fact(12, "tcp_timestamps=2 drops the offset")
def test_fact_12_tsval_without_offset(make_host: MakeHost) -> None:
    host = make_host(sysctl={"tcp_timestamps": 2})
    host.listen()
    host.listen(port=81)
    host.sim.run_for(5 * SEC)
    assert _tsval(host) == _tsval(host, 40001) == _tsval(host, port=81) == 5000


@pytest.mark.fact(13, "TSecr echoes the SYN's TSval, zero too")
@pytest.mark.parametrize("tsval", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_fact_13_tsecr_echoes_the_tsval(host: Host, tsval: int) -> None:
    host.listen()
    _, answer = host.syn(mss=1460, ts=(tsval, 77))
    assert answer.opts.ts is not None
    assert answer.opts.ts[1] == tsval


# -- 14 and 15: what the SYN's options do ----------------------------------------------------------------------


@pytest.mark.fact(14, "a window scale above 14 is clamped to 14")
@pytest.mark.parametrize("wscale", [14, 15, 200])
def test_fact_14_wscale_above_14(host: Host, profile: str, wscale: int) -> None:
    sock = host.listen()
    conn = host.peer.tcp(80)
    synack = conn.handshake(wscale=wscale)
    assert synack.opts.wscale == {"linux-6.1": 7, "linux-6.18": 10}[profile]
    assert synack.opts.kinds == (MSS, SACK_PERM, TIMESTAMP, NOP, WSCALE)
    child: Any = sock.accept()[0].sk
    assert child.rx_opt.snd_wscale == 14


@pytest.mark.fact(15, "the peer's MSS: missing, 0, tiny, huge")
@pytest.mark.parametrize(
    ("offered", "used"),
    [
        (None, 536),
        (0, 536),
        (1, 48),
        (47, 48),
        (48, 48),
        (1000, 1000),
        (1460, 1460),
        (9000, 1460),
        (65535, 1460),
    ],
)
@pytest.mark.parametrize("ts", [False, True])
def test_fact_15_mss_of_the_peer(host: Host, offered: int | None, used: int, ts: bool) -> None:
    sock = host.listen()
    conn, answer = host.syn(mss=offered, ts=(1000, 0) if ts else None)
    assert answer.opts.mss == 1460
    conn.ts_on = ts
    conn.send("A")
    host.sim.settle()
    child, _ = sock.accept()
    expected = used - 12 if ts else used
    assert child.getsockopt(*TCP_MAXSEG) == expected
    child.send(b"x" * 2000)
    host.sim.settle()
    assert len(conn.expect(seq=1).payload) == expected


# -- 16 to 18: flags and malformed SYNs ------------------------------------------------------------------------


@pytest.mark.fact(16, "ECN-setup SYN: ECE only")
def test_fact_16_ecn_setup_syn(host: Host) -> None:
    assert host.net.sysctl_get("tcp_ecn") == 2
    host.listen()
    conn = host.peer.tcp(80)
    conn.send("SEW", **FULL)
    assert conn.expect().flags == "SAE"


@pytest.mark.fact(16, "ECN is refused if the SYN's IP header is ECT")
@pytest.mark.parametrize("tos", [1, 2, 3])
def test_fact_16_ecn_setup_syn_in_an_ect_packet(host: Host, tos: int) -> None:
    host.listen()
    conn = host.peer.tcp(80)
    conn.send("SEW", tos=tos, **FULL)
    assert conn.expect().flags == "SA"


def _send_accecn_syn(host: Host) -> None:
    """A SYN with AE, CWR and ECE (RFC 9768): AE is the last bit of the byte with the data offset."""
    options = build_tcp_options(**FULL)
    head = (40000).to_bytes(2, "big") + (80).to_bytes(2, "big") + ISN.to_bytes(4, "big") + bytes(4)
    head += bytes(((20 + len(options)) << 2 | 1, 0xC2)) + b"\xff\xff"
    src, dst = in_aton(host.peer.addr), in_aton("10.0.2.2")
    raw = head + bytes(4) + options
    check = csum_tcpudp_magic(src, dst, len(raw), 6, csum_partial(raw))
    host.peer.send_ip(6, head + check.to_bytes(2, "big") + bytes(2) + options, "10.0.2.2")


@pytest.mark.fact(16, "tcp_ecn ends at 2; an AccECN SYN is answered with plain ECE")
def test_fact_16_accecn_syn(host: Host) -> None:
    """Measured on 6.1.192 and 6.18.44, which refuse tcp_ecn=3 with EINVAL."""
    with pytest.raises(ValueError, match="0 to 2"):
        host.net.sysctl_set("tcp_ecn", 3)
    host.listen()
    _send_accecn_syn(host)
    answer = host.peer.expect("SAE", ack=ISN + 1)
    assert answer.packet.frame.data[14 + 20 + 12] & 0x0F == 0


@pytest.mark.fact(17, "PSH or URG on a SYN does not matter")
@pytest.mark.parametrize("flags", ["SP", "SU", "SPU"])
def test_fact_17_psh_or_urg_on_a_syn(host: Host, flags: str) -> None:
    host.listen()
    conn = host.peer.tcp(80)
    conn.send(flags, **FULL)
    answer = conn.expect("SA", seq=0, ack=1, window=65160)
    assert answer.opts.kinds == (MSS, SACK_PERM, TIMESTAMP, NOP, WSCALE)


@pytest.mark.fact(18, "a malformed option length ends the parsing, the SYN is answered")
@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (b"\x02\x04\x03\xe8\x03\x00\x00\x00", (MSS,)),  # length 0
        (b"\x02\x04\x03\xe8\x03\x01\x07\x00", (MSS,)),  # length 1
        (b"\x01\x03\x03\x05\x02\x28\x03\xe8", (MSS, NOP, WSCALE)),  # longer than what is left
        (b"\x08\x00\x02\x04\x03\xe8\x00\x00", (MSS,)),  # what stands behind is not read
    ],
)
def test_fact_18_malformed_option(host: Host, options: bytes, kinds: tuple[int, ...]) -> None:
    sock = host.listen()
    conn = host.peer.tcp(80)
    conn.send("S", options=options)
    assert conn.expect("SA", seq=0, ack=1).opts.kinds == kinds
    conn.send("A")
    host.sim.settle()
    parsed_mss = options.startswith(b"\x02\x04")
    assert sock.accept()[0].getsockopt(*TCP_MAXSEG) == (1000 if parsed_mss else 536)


@pytest.mark.fact(18, "a bad checksum: silence, InCsumErrors and InErrs")
def test_fact_18_bad_checksum(host: Host) -> None:
    host.listen()
    host.peer.tcp(80).send("S", bad_checksum=True, **FULL)
    host.peer.expect_nothing(2 * SEC)
    assert (host.count("Tcp:InCsumErrors"), host.count("Tcp:InErrs")) == (1, 1)
    assert host.count("Tcp:InSegs") == 1
