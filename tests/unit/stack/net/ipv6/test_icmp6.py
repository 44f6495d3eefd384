# SPDX-License-Identifier: GPL-2.0-or-later
"""ICMPv6: RFC 4443."""

from __future__ import annotations

import errno

import pytest

from stack.api.sim import SEC, RawPeer, Sim
from stack.include.dst import flowi6, rt6_info
from stack.include.ipv6 import in6_pton, inet6_protocol
from stack.net.ipv6 import icmp, protocol, route
from stack.stack import Stack

LL = "fe80::5054:ff:fe00:1"


@pytest.mark.parametrize("dst", ["fd00::2", LL])
def test_echo_request_is_answered_with_its_data_and_traffic_class(peer: RawPeer, dst: str) -> None:
    peer.send_icmp6(dst, 128, 0, 0x12345678, b"some data", tos=0x20)
    reply = peer.expect_icmp6(129, 0)
    assert reply.body[4:] == bytes.fromhex("12345678") + b"some data"
    assert (reply.src, reply.dst, reply.ttl, reply.tos) == (dst, "fd00::15", 64, 0x20)
    assert reply.flowlabel


def test_echo_request_from_a_link_local_address_is_answered_there(peer: RawPeer) -> None:
    peer.send_icmp6(LL, 128, 0, src=peer.addr6_ll)
    assert peer.expect_icmp6(129, 0).dst == peer.addr6_ll


def test_echo_request_to_all_nodes_is_answered_from_an_address_of_ours(peer: RawPeer) -> None:
    peer.send_icmp6("ff02::1", 128, 0, src=peer.addr6_ll)
    assert peer.expect_icmp6(129, 0).src == LL


@pytest.mark.parametrize(
    ("name", "dst"),
    [("ipv6.icmp.echo_ignore_all", "fd00::2"), ("ipv6.icmp.echo_ignore_multicast", "ff02::1")],
)
def test_echo_request_is_not_answered_where_that_is_off(
    net: Stack, peer: RawPeer, name: str, dst: str
) -> None:
    net.sysctl_set(name, 1)
    peer.send_icmp6(dst, 128, 0)
    peer.expect_nothing()
    assert net.drop_reasons == {"ICMP_IGNORED": 1}


def test_flow_label_is_the_same_for_a_flow_and_absent_when_switched_off(net: Stack, peer: RawPeer) -> None:
    labels = []
    for auto in (1, 1, 0):
        net.sysctl_set("ipv6.auto_flowlabels", auto)
        peer.send_icmp6("fd00::2", 128, 0)
        labels.append(peer.expect_icmp6(129, 0).flowlabel)
    assert labels[0] == labels[1] != 0
    assert labels[2] == 0


def test_wrong_checksum_is_counted_and_dropped(net: Stack, peer: RawPeer) -> None:
    raw = peer.icmp6_message("fd00::2", 128, 0, 1, b"data")
    peer.send_ip(58, raw[:-1] + b"X", "fd00::2")
    peer.expect_nothing()
    counters = net.snapshot()["snmp6"]
    assert (counters["Icmp6InCsumErrors"], counters["Icmp6InErrors"], counters["Icmp6InMsgs"]) == (1, 1, 1)
    assert net.drop_reasons == {"ICMP_CSUM": 1}


@pytest.mark.parametrize("size", [4, 7])
def test_message_cut_short_is_an_error(net: Stack, peer: RawPeer, size: int) -> None:
    head = bytearray(size)
    head[0] = 128
    peer.send_ip(58, _with_checksum(peer, bytes(head)), "fd00::2")
    peer.expect_nothing()
    assert net.drop_reasons == {"PKT_TOO_SMALL": 1}


def _with_checksum(peer: RawPeer, raw: bytes) -> bytes:
    from stack.lib.checksum import csum_ipv6_magic, csum_partial

    ends = in6_pton("fd00::15"), in6_pton("fd00::2")
    return raw[:2] + csum_ipv6_magic(*ends, len(raw), 58, csum_partial(raw)).to_bytes(2, "big") + raw[4:]


def test_messages_are_counted_by_type(net: Stack, peer: RawPeer) -> None:
    peer.send_icmp6("fd00::2", 128, 0)
    peer.send_icmp6("fd00::2", 200, 0)
    peer.expect_icmp6(129, 0)
    counters = net.snapshot()["snmp6"]
    names = ("Icmp6InEchos", "Icmp6OutEchoReplies", "Icmp6InType128", "Icmp6InType200", "Icmp6OutType129")
    assert [counters[n] for n in names] == [1, 1, 1, 1, 1]


# -- errors that we send -----------------------------------------------------------------------------------------------


def test_unknown_next_header_draws_a_parameter_problem_that_points_at_it(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(253, b"who knows", "fd00::2")
    error = peer.expect_icmp6(4, 1)
    assert error.body[4:8] == (6).to_bytes(4, "big")
    assert error.body[8:] == peer.ip6_packet(253, b"who knows", "fd00::2")
    assert (error.src, error.dst) == ("fd00::2", "fd00::15")
    assert net.snapshot()["snmp6"]["Ip6InUnknownProtos"] == 1


def test_error_has_at_most_1280_bytes(peer: RawPeer) -> None:
    peer.send_ip(253, bytes(1400), "fd00::2")
    assert len(peer.expect_icmp6(4, 1).body) == 1280 - 40


@pytest.mark.parametrize(
    "fields",
    [
        {"src": "::"},
        {"src": "ff02::5"},
        {"dst": "ff02::1"},
        {"dest_mac": bytes.fromhex("333300000001")},
        {"dest_mac": b"\xff" * 6},
    ],
)
def test_no_error_to_or_about_groups_and_nobody(peer: RawPeer, fields: dict[str, object]) -> None:
    peer.send_ip(253, b"x", str(fields.pop("dst", "fd00::2")), **fields)
    peer.expect_nothing()


@pytest.mark.parametrize(
    ("kind", "answered"), [(1, False), (4, False), (127, False), (137, False), (128, True)]
)
def test_no_error_about_an_error_or_a_redirect(peer: RawPeer, kind: int, answered: bool) -> None:
    # Destination options of an unknown kind that asks for a parameter problem, in front of an ICMPv6 message.
    options = b"\x3a\x00\x80\x00\x01\x02\x00\x00"
    peer.send_ip(60, options + bytes((kind, 0)) + bytes(6), "fd00::2")
    if answered:
        assert peer.expect_icmp6(4, 2).body[4:8] == (42).to_bytes(4, "big")
    else:
        peer.expect_nothing()


def test_packet_to_nowhere_draws_no_route(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(17, bytes(8), "2001:db8::1")
    error = peer.expect_icmp6(1, 0)
    assert error.src == "fd00::2"
    assert net.snapshot()["snmp6"]["Ip6InNoRoutes"] == 1


def test_packet_for_another_host_is_counted_and_not_forwarded(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(17, bytes(8), "fd00::77")
    peer.expect_nothing()
    assert net.snapshot()["snmp6"]["Ip6InAddrErrors"] == 1


def test_errors_to_one_peer_are_limited_after_a_burst(net: Stack, sim: Sim, peer: RawPeer) -> None:
    for _ in range(20):
        peer.send_ip(253, b"x", "fd00::2")
    sim.settle()
    assert len(peer.inbox) == 6
    assert net.mib.icmpv6_statistics[icmp.ICMP6_MIB_RATELIMITHOST] == 14
    peer.inbox.clear()
    sim.run_for(SEC // 2)  # a host of a /64 on our link: one each 250 ms
    for _ in range(20):
        peer.send_ip(253, b"x", "fd00::2")
    sim.settle()
    assert len(peer.inbox) == 2


def test_errors_to_all_peers_share_a_bucket_with_ipv4(net: Stack, sim: Sim, peer: RawPeer) -> None:
    net.sysctl_set("ipv6.icmp.ratelimit", 0)
    for _ in range(300):
        peer.send_ip(253, b"x", "fd00::2")
    sim.settle()
    assert 20 < len(peer.inbox) < 100
    assert net.icmp_global.credit == 0


# -- errors that we receive --------------------------------------------------------------------------------------------


def quoted(peer: RawPeer, nexthdr: int = 253, body: bytes = b"12345678") -> bytes:
    """A packet of ours to the peer."""
    return peer.ip6_packet(nexthdr, body, "fd00::15", src="fd00::2")


@pytest.fixture
def heard(net: Stack) -> list[tuple[int, int, int, bytes]]:
    """What the err_handler of next header 253 was told: type, code, info, upper header."""
    calls: list[tuple[int, int, int, bytes]] = []

    def err_handler(skb: object, kind: int, code: int, info: int) -> int:
        from stack.include.sk_buff import sk_buff

        assert isinstance(skb, sk_buff)
        assert skb.head[skb.data] >> 4 == 6
        calls.append((kind, code, info, bytes(skb.head[skb.transport_header : skb.tail])))
        return 0

    assert protocol.inet6_add_protocol(net, inet6_protocol(lambda skb: 0, err_handler), 253) == 0
    return calls


@pytest.mark.parametrize(
    ("kind", "code", "info"), [(1, 4, 0), (2, 0, 1300), (3, 0, 0), (4, 1, 40), (100, 9, 7)]
)
def test_error_goes_to_the_protocol_of_the_quoted_packet(
    peer: RawPeer, heard: list[tuple[int, int, int, bytes]], kind: int, code: int, info: int
) -> None:
    peer.send_icmp6("fd00::2", kind, code, info, quoted(peer))
    peer.sim.settle()
    assert heard == [(kind, code, info, b"12345678")]


def test_extension_headers_of_the_quoted_packet_are_stepped_over(
    peer: RawPeer, heard: list[tuple[int, int, int, bytes]]
) -> None:
    peer.send_icmp6("fd00::2", 1, 4, 0, quoted(peer, 60, b"\xfd\x00\x01\x04\0\0\0\0" + b"12345678"))
    peer.sim.settle()
    assert heard == [(1, 4, 0, b"12345678")]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x60" + bytes(38),
        b"\x40" + bytes(60),
        b"\x60\0\0\0\0\x08\xfd\x40" + bytes(32) + b"1234567",
        b"\x60\0\0\0\0\x08\x3b\x40" + bytes(48),
        b"\x60\0\0\0\0\x10\x3c\x40" + bytes(32) + b"\xfd\x05" + bytes(14),
        b"\x60\0\0\0\0\x10\x2c\x40" + bytes(32) + b"\xfd\x00\x00\x08\0\0\0\x01" + bytes(8),
    ],
)
def test_error_that_quotes_too_little_is_counted(
    net: Stack, peer: RawPeer, heard: list[tuple[int, int, int, bytes]], raw: bytes
) -> None:
    peer.send_icmp6("fd00::2", 1, 4, 0, raw)
    peer.sim.settle()
    assert heard == []
    assert net.snapshot()["snmp6"]["Icmp6InErrors"] == 1


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        (1, 0, (False, errno.ENETUNREACH)),
        (1, 1, (True, errno.EACCES)),
        (1, 3, (False, errno.EHOSTUNREACH)),
        (1, 4, (True, errno.ECONNREFUSED)),
        (1, 7, (True, errno.EPROTO)),
        (1, 99, (True, errno.EPROTO)),
        (2, 0, (False, errno.EMSGSIZE)),
        (3, 0, (False, errno.EHOSTUNREACH)),
        (4, 0, (True, errno.EPROTO)),
    ],
)
def test_error_becomes_an_errno(kind: int, code: int, expected: tuple[bool, int]) -> None:
    assert icmp.icmpv6_err_convert(kind, code) == expected


# -- path MTU (RFC 8201) -----------------------------------------------------------------------------------------------


def mtu_to(net: Stack, addr: str) -> int:
    fl6 = flowi6()
    fl6.daddr = in6_pton(addr)
    rt = route.ip6_route_output(net, None, fl6)
    assert isinstance(rt, rt6_info)
    return route.ip6_mtu(rt)


@pytest.mark.parametrize(
    ("said", "learned"), [(1400, 1400), (1280, 1280), (1279, 1500), (0, 1500), (9000, 1500)]
)
def test_packet_too_big_sets_the_path_mtu_within_bounds(
    net: Stack, peer: RawPeer, said: int, learned: int
) -> None:
    peer.send_icmp6("fd00::2", 2, 0, said, quoted(peer, 58, bytes((129, 0)) + bytes(6)))
    peer.sim.settle()
    assert mtu_to(net, "fd00::15") == learned
    assert mtu_to(net, "fd00::16") == 1500


@pytest.mark.parametrize(("profile", "octets"), [("linux-6.1", 3048), ("linux-6.18", 3048 + 104)])
def test_fragments_count_as_one_or_each_by_the_profile(profile: str, octets: int) -> None:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24", "fd00::2/64", profile=profile)
    peer = sim.add_peer("10.0.2.15", net, addr6="fd00::15")
    before = net.snapshot()["snmp6"]["Ip6OutOctets"]
    net.netif_rx(net.devices_by_name["eth0"], big_echo(peer))
    sim.settle()
    assert net.snapshot()["snmp6"]["Ip6OutOctets"] - before == octets


def big_echo(peer: RawPeer) -> bytes:
    """A request of 3008 bytes in one frame, as from a link that takes more than ours."""
    raw = peer.icmp6_message("fd00::2", 128, 0, 0, bytes(3000), None)
    return peer.remote_mac + peer.mac + b"\x86\xdd" + peer.ip6_packet(58, raw, "fd00::2")


def test_echo_from_nobody_has_no_route_back(net: Stack, peer: RawPeer) -> None:
    peer.send_icmp6("fd00::2", 128, 0, src="::")
    peer.expect_nothing()
    assert net.snapshot()["snmp6"]["Ip6OutNoRoutes"] == 1


def test_learned_path_mtu_is_forgotten_after_ten_minutes(net: Stack, sim: Sim, peer: RawPeer) -> None:
    peer.send_icmp6("fd00::2", 2, 0, 1400, quoted(peer, 58, bytes((129, 0)) + bytes(6)))
    sim.run_for(599 * SEC)
    assert mtu_to(net, "fd00::15") == 1400
    sim.run_for(2 * SEC)
    assert mtu_to(net, "fd00::15") == 1500


def test_learned_path_mtus_are_bounded_in_number(
    net: Stack, peer: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "RT6_CACHE_MAX", 8)
    for n in range(20):
        inner = peer.ip6_packet(58, bytes((129, 0)) + bytes(6), f"fd00::1:{n:x}", src="fd00::2")
        peer.send_icmp6("fd00::2", 2, 0, 1400, inner)
    peer.sim.settle()
    assert len(net.rt6_exceptions) == 8
    assert mtu_to(net, "fd00::1:13") == 1400


def test_answer_larger_than_the_path_mtu_goes_in_fragments_of_it(peer: RawPeer) -> None:
    peer.send_icmp6("fd00::2", 2, 0, 1280, quoted(peer, 58, bytes((129, 0)) + bytes(6)))
    peer.send_icmp6("fd00::2", 128, 0, 1, bytes(1400))
    peer.sim.settle()
    first, last = peer.inbox
    assert (first.frag_off, first.more_fragments, len(first.body)) == (0, True, 1232)
    assert (last.frag_off, last.more_fragments, len(last.body)) == (1232, False, 1408 - 1232)
    assert first.ip_id == last.ip_id != 0
