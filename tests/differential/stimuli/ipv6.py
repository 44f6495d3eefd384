# SPDX-License-Identifier: GPL-2.0-or-later
"""What there is only over IPv6: ICMPv6, extension headers, fragments, flow labels, listeners of both families."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from tests.differential.family import CLIENT6, IPV6, SERVER6
from tests.differential.script import (
    Stimulus,
    accept,
    ack,
    close,
    datagram,
    established,
    getopt,
    icmp,
    ip,
    listen,
    recv,
    seg,
    send,
    setopt,
    stimulus6,
    syn,
    udp,
    wait,
)

L = listen()
O = (L, syn())  # noqa: E741
DONE = (ack(), accept())
EST = established()

SOL6, TCP = socket.IPPROTO_IPV6, socket.IPPROTO_TCP
V6ONLY = (SOL6, socket.IPV6_V6ONLY, 1)
AUTOFLOWLABEL, MINHOPCOUNT, TCP_FASTOPEN = 70, 73, 23
NO_COOKIE = 0x202  # tcp_fastopen: a server, which needs no cookie

HOP, ROUTING, FRAGMENT, NONE, DEST = 0, 43, 44, 59, 60
UNKNOWN = 253  # RFC 3692: never a protocol
LABEL = 0x12345
ALL_NODES, OUR_GROUP, NO_GROUP = "ff02::1", "ff02::1:ff00:2", "ff02::77"

Header = tuple[int, bytes]


def options(kind: int, *tlvs: bytes) -> Header:
    """A header of options, padded to eight bytes."""
    raw = b"".join(tlvs)
    short = -(2 + len(raw)) % 8
    raw += b"" if not short else b"\0" if short == 1 else bytes((1, short - 2)) + bytes(short - 2)
    return kind, bytes((0, (2 + len(raw)) // 8 - 1)) + raw


def routing(kind: int, left: int, addresses: int = 1) -> Header:
    body = bytes((0, 2 * addresses, kind, left)) + bytes(4)
    return ROUTING, body + socket.inet_pton(socket.AF_INET6, SERVER6) * addresses


def fragment(offset: int, more: bool) -> Header:
    return FRAGMENT, bytes(2) + (offset | more).to_bytes(2, "big") + b"\0\0\0\x07"


_ERRORS = (
    *((1, code) for code in range(8)),
    *((2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2), (100, 0), (127, 0)),
)


def _errors() -> Iterator[Stimulus]:
    """Each error about a listener's, a request's and a connection's packet."""
    for kind, code in _ERRORS:
        rest = 1300 if kind == 2 else 0
        name = f"{kind}-{code}"
        yield stimulus6(f"ip6-error-{name}-request", O, icmp(kind, code, rest=rest), DONE)
        yield stimulus6(
            f"ip6-error-{name}-child", EST, send(b"hello", wait=4), icmp(kind, code, rest=rest, seq=1), recv()
        )
    for kind, code in ((1, 4), (4, 1)):
        yield stimulus6(f"ip6-error-{kind}-{code}-listener", L, icmp(kind, code), syn())


def _option_actions() -> Iterator[Stimulus]:
    """RFC 8200, section 4.2: what the two highest bits of an unknown option ask for."""
    for name, kind in (("hop", HOP), ("dest", DEST)):
        yield stimulus6(f"ip6-{name}-padding", L, syn(ext=(options(kind),)))
        yield stimulus6(f"ip6-{name}-pad1", L, syn(ext=(options(kind, b"\0" * 6),)))
        yield stimulus6(f"ip6-{name}-pad1-eight", L, syn(ext=(options(kind, b"\0" * 8),)))
        yield stimulus6(f"ip6-{name}-padn-dirty", L, syn(ext=(options(kind, b"\1\4\0\0\0\1"),)))
        yield stimulus6(f"ip6-{name}-past-end", L, syn(ext=((kind, b"\0\0\1\x20\0\0\0\0"),)))
        yield stimulus6(f"ip6-{name}-longer-than-packet", L, syn(ext=((kind, b"\0\x40\1\4\0\0\0\0"),)))
        yield stimulus6(f"ip6-{name}-many-options", L, syn(ext=(options(kind, *[b"\x1e\2\0\0"] * 10),)))
        for action in range(4):
            unknown = options(kind, bytes((action << 6 | 0x1E, 2, 0, 0)))
            yield stimulus6(f"ip6-{name}-unknown-{action}", L, syn(ext=(unknown,)))
            yield stimulus6(
                f"ip6-{name}-unknown-{action}-group", udp(9, b"hello", ext=(unknown,), dst=ALL_NODES)
            )


def _headers() -> Iterator[Stimulus]:
    pad = options(DEST)
    yield stimulus6("ip6-hop-not-first", L, syn(ext=(pad, options(HOP))))
    yield stimulus6("ip6-dest-twice", L, syn(ext=(pad, pad)))
    yield stimulus6("ip6-all-headers", L, syn(ext=(options(HOP), pad, routing(0, 0)), inner=(pad,)))
    for kind in (0, 2, 3, 4, 200):
        for left in (0, 1):
            yield stimulus6(f"ip6-routing-{kind}-left-{left}", L, syn(ext=(routing(kind, left),)))
    yield stimulus6("ip6-routing-short", L, syn(ext=((ROUTING, b"\0\0\0\1\0\0\0\0"),)))
    yield stimulus6("ip6-router-alert", L, syn(ext=(options(HOP, b"\5\2\0\0"),)))
    yield stimulus6("ip6-router-alert-bad", L, syn(ext=(options(HOP, b"\5\3\0\0\0"),)))
    yield stimulus6("ip6-unknown-protocol", ip(UNKNOWN, b"what"))
    yield stimulus6("ip6-unknown-protocol-behind-options", ip(UNKNOWN, b"what", ext=(pad,)))
    yield stimulus6("ip6-unknown-protocol-group", ip(UNKNOWN, b"what", dst=ALL_NODES))
    yield stimulus6(
        "ip6-unknown-protocol-fragments", ip(UNKNOWN, b"x" * 16, frags=((0, 8, True), (8, 16, False)))
    )
    yield stimulus6("ip6-no-next-header", ip(NONE, b"what"))
    yield stimulus6("ip6-no-next-header-behind-options", ip(NONE, b"what", ext=(pad,)))
    yield stimulus6("ip6-jumbo", L, syn(ext=(options(HOP, b"\xc2\4\0\1\0\0"),), plen=0))
    yield stimulus6("ip6-jumbo-small", L, syn(ext=(options(HOP, b"\xc2\4\0\0\0\x30"),), plen=0))
    yield stimulus6("ip6-jumbo-with-length", L, syn(ext=(options(HOP, b"\xc2\4\0\1\0\0"),)))
    yield stimulus6("ip6-jumbo-bad-length", L, syn(ext=(options(HOP, b"\xc2\3\0\1\0"),), plen=0))
    yield stimulus6("ip6-length-0", L, syn(plen=0))
    yield stimulus6("ip6-length-beyond", L, syn(plen=200))
    yield stimulus6("ip6-length-cuts-tcp", L, syn(plen=12))
    yield stimulus6("ip6-padded", L, syn(pad=bytes(10)))
    for hops in (0, 1):
        yield stimulus6(f"ip6-hop-limit-{hops}", L, syn(ttl=hops), udp(9, b"x", ttl=hops))
    yield stimulus6("ip6-from-group", L, syn(src="ff02::5"))
    yield stimulus6("ip6-from-nobody", L, syn(src="::"))
    yield stimulus6("ip6-from-loopback", L, syn(src="::1"))
    yield stimulus6("ip6-from-mapped", L, syn(src="::ffff:10.0.2.15"))
    yield stimulus6("ip6-from-self", L, syn(src=SERVER6))
    yield stimulus6("ip6-to-group", L, syn(dst=ALL_NODES))
    yield stimulus6("ip6-to-other-group", L, syn(dst=NO_GROUP))
    yield stimulus6("ip6-to-other", L, syn(dst="fd00:10:0:2::77"))
    yield stimulus6("ip6-to-elsewhere", L, syn(dst="2001:db8::1"))
    yield stimulus6("ip6-to-loopback", L, syn(dst="::1"))
    yield stimulus6("ip6-to-mapped", L, syn(dst="::ffff:10.0.2.2"))
    yield stimulus6("ip6-to-interface-group", udp(9, b"x", dst="ff01::1"))


def _fragments() -> Iterator[Stimulus]:
    def one(name: str, *frags: tuple[int, int, bool], ms: float = 4.0, **sysctl: int) -> Stimulus:
        return stimulus6(f"ip6-frag-{name}", L, syn(frags=frags, wait=ms), **sysctl)

    yield one("two", (0, 24, True), (24, 40, False))
    yield one("reversed", (24, 40, False), (0, 24, True))
    yield one("three-shuffled", (16, 32, True), (0, 16, True), (32, 40, False))
    yield one("duplicate", (0, 24, True), (0, 24, True), (24, 40, False))
    yield one("inside", (0, 24, True), (8, 16, True), (24, 40, False))
    yield one("overlap", (0, 24, True), (16, 40, False))
    yield one("overlap-then-whole", (0, 24, True), (16, 40, False), (0, 24, True), (24, 40, False))
    yield one("odd-length", (0, 20, True), (24, 40, False))
    yield one("empty", (0, 0, True), (0, 40, False))
    yield one("atomic", (0, 40, False))
    yield one("atomic-beside", (0, 24, True), (0, 40, False), (24, 40, False))
    yield one("last-twice", (24, 40, False), (24, 32, False), (0, 24, True))
    yield one("first-too-short", (0, 8, True), (8, 40, False))
    yield one("head-missing", (24, 40, False))
    yield one("timeout", (0, 24, True), ms=2400, ipv6_ip6frag_time=1)
    yield one("timeout-tail", (24, 40, False), ms=2400, ipv6_ip6frag_time=1)
    yield stimulus6("ip6-frag-closed-port", syn(frags=((0, 24, True), (24, 40, False))))
    yield stimulus6("ip6-frag-beyond-64k", ip(17, b"x" * 16, ext=(fragment(0xFFF8, False),)))
    yield stimulus6("ip6-frag-no-header", ip(FRAGMENT, b"\x11\0\0"))
    yield stimulus6(
        "ip6-frag-behind-options", L, syn(ext=(options(HOP),), frags=((0, 24, True), (24, 40, False)))
    )
    yield stimulus6(
        "ip6-frag-options-inside", L, syn(inner=(options(DEST),), frags=((0, 24, True), (24, 48, False)))
    )
    yield stimulus6(
        "ip6-frag-options-cut", L, syn(inner=(options(DEST),), frags=((0, 8, True), (8, 48, False)))
    )
    yield stimulus6("ip6-frag-udp", udp(9, b"x" * 2000, frags=((0, 1232, True), (1232, 2008, False))))
    yield stimulus6("ip6-frag-ecn", L, syn(tos=2, frags=((0, 24, True), (24, 40, False))))


def _icmp() -> Iterator[Stimulus]:
    def echo(name: str, data: bytes = b"ping", **fields: object) -> Stimulus:
        sysctl = {k: fields.pop(k) for k in list(fields) if k.startswith("ipv6_")}
        return stimulus6(f"ip6-echo-{name}", icmp(128, 0, rest=0x12345678, data=data, **fields), **sysctl)

    yield echo("plain")
    yield echo("empty", b"")
    yield echo("code-9")
    yield echo("tclass", tos=0x48)
    yield echo("label", label=LABEL)
    yield echo("bad-checksum", bad_checksum=True)
    yield echo("all-nodes", dst=ALL_NODES)
    yield echo("solicited-group", dst=OUR_GROUP)
    yield echo("other-group", dst=NO_GROUP)
    yield echo("from-nobody", src="::")
    yield echo("ignored", ipv6_icmp__echo_ignore_all=1)
    yield echo("ignored-group", dst=ALL_NODES, ipv6_icmp__echo_ignore_multicast=1)
    yield echo("3000", b"x" * 3000)
    yield echo("fragments", b"x" * 40, frags=((0, 24, True), (24, 48, False)))
    yield echo("options", ext=(options(DEST),))
    yield stimulus6("ip6-echo-reply-unasked", icmp(129, 0, data=b"pong"))
    yield stimulus6("ip6-icmp-unknown-information", icmp(200, 0, data=b"what"))
    yield stimulus6("ip6-icmp-truncated", ip(58, b"\x80\0\xf7"))
    yield stimulus6("ip6-icmp-wrong-sequence", O, icmp(1, 3, seq=9), DONE)
    yield stimulus6("ip6-icmp-short-quote", O, icmp(1, 3, quote=4), DONE)
    yield stimulus6("ip6-icmp-quote-header-only", O, icmp(1, 3, quote=0), DONE)
    yield stimulus6("ip6-icmp-quote-nothing", O, icmp(1, 3, data=b""), DONE)
    yield stimulus6(
        "ip6-icmp-quote-unknown", icmp(1, 3, data=IPV6.quoted(UNKNOWN, 20, SERVER6, CLIENT6) + bytes(20))
    )
    yield stimulus6(
        "ip6-icmp-quote-echo", icmp(1, 3, data=IPV6.quoted(58, 20, SERVER6, CLIENT6) + b"\x81" + bytes(19))
    )
    yield stimulus6("ip6-icmp-bad-checksum", O, icmp(1, 3, bad_checksum=True), DONE)
    yield stimulus6("ip6-icmp-other-flow", O, icmp(1, 3, sport=45000), DONE)
    yield stimulus6("ip6-icmp-other-source", O, icmp(1, 3, qsrc="fd00:10:0:2::9"), DONE)
    yield stimulus6("ip6-icmp-to-group", O, icmp(1, 4, dst=ALL_NODES), DONE)
    full = send(b"x" * 1400, wait=4)
    for mtu in (1400, 1300, 1280, 600, 0):
        yield stimulus6(f"ip6-too-big-{mtu}", EST, full, icmp(2, 0, rest=mtu, seq=1), ack(ack=1401), full)
    yield stimulus6("ip6-too-big-next-connection", EST, full, icmp(2, 0, rest=1300, seq=1),
                    syn(sport=40001), ack(sport=40001), accept(into="d"),
                    send(b"x" * 1400, sock="d", wait=4))  # fmt: skip
    yield stimulus6("ip6-too-big-mtu-option", EST, full, icmp(2, 0, rest=1300, seq=1), getopt(SOL6, 24))


def _udp() -> Iterator[Stimulus]:
    quoted = IPV6.quoted(17, 13, SERVER6, CLIENT6) + b"\0\x09\x9c\x40\0\x0d\0\0hello"
    for size, sent in ((1000, 3001), (1452, 2904), (1453, 1453), (1453, 100), (1, 129)):
        sender = datagram(7, (17, 103, size), peer=40000)
        yield stimulus6(f"ip6-udp-segment-{size}-of-{sent}", sender, send(b"x" * sent))
    sender = datagram(7, (17, 103, 1000), (1, 11, 1), peer=40000)
    yield stimulus6("ip6-udp-segment-no-check", sender, send(b"x" * 3001))
    yield stimulus6("ip6-udp-closed", udp(9, b"hello"))
    yield stimulus6("ip6-udp-closed-empty", udp(9))
    yield stimulus6("ip6-udp-checksum-zero", udp(9, b"hello", checksum="none"))
    yield stimulus6("ip6-udp-checksum-bad", udp(9, b"hello", checksum="bad"))
    yield stimulus6("ip6-udp-closed-long", udp(9, b"x" * 1400))
    yield stimulus6("ip6-udp-closed-tclass", udp(9, b"hello", tos=0x48))
    yield stimulus6("ip6-udp-closed-label", udp(9, b"hello", label=LABEL))
    yield stimulus6("ip6-udp-closed-group", udp(9, b"hello", dst=ALL_NODES))
    yield stimulus6("ip6-udp-closed-behind-options", udp(9, b"hello", ext=(options(DEST),)))
    yield stimulus6("ip6-udp-closed-many", *(udp(9, b"hello", wait=1) for _ in range(12)))
    yield stimulus6("ip6-udp-length-0", udp(9, b"hello", length=0))
    yield stimulus6("ip6-udp-length-short", udp(9, b"hello", length=4))
    yield stimulus6("ip6-udp-length-long", udp(9, b"hello", length=400))
    yield stimulus6("ip6-udp-length-cuts", udp(9, b"hello", length=10))
    yield stimulus6("ip6-udp-port-0", udp(0, b"hello"))
    yield stimulus6("ip6-udp-truncated", ip(17, b"\0\x09\0"))
    yield stimulus6("ip6-udp-received", datagram(9), udp(9, b"hello"), recv(), udp(9, b"", wait=4), recv())
    yield stimulus6("ip6-udp-received-zero-checksum", datagram(9), udp(9, b"hello", checksum="none"), recv())
    yield stimulus6("ip6-udp-received-group", datagram(9), udp(9, b"hello", dst=ALL_NODES), recv())
    yield stimulus6("ip6-udp-received-mapped", datagram(9), udp(9, b"hello", family=4), recv())
    yield stimulus6("ip6-udp-sent", datagram(9, peer=40000), send(b"hello", wait=4))
    yield stimulus6("ip6-udp-sent-2000", datagram(9, peer=40000), send(b"x" * 2000, wait=4))
    yield stimulus6("ip6-udp-sent-tclass", datagram(9, (SOL6, socket.IPV6_TCLASS, 0x48), peer=40000),
                    send(b"hello", wait=4))  # fmt: skip
    for kind, code in ((1, 0), (1, 1), (1, 4), (4, 1)):
        yield stimulus6(f"ip6-udp-error-{kind}-{code}", datagram(9, peer=40000), send(b"hello", wait=4),
                        icmp(kind, code, data=quoted), recv(), recv())  # fmt: skip
    yield stimulus6("ip6-udp-too-big", datagram(9, peer=40000), send(b"x" * 1400, wait=4),
                    icmp(2, 0, rest=1300, data=quoted), recv(), send(b"x" * 1400, wait=4))  # fmt: skip


def _labels() -> Iterator[Stimulus]:
    labelled = syn(label=LABEL)
    tail = (ack(b"hello", label=LABEL), accept(), recv(), send(b"world", wait=4))
    yield stimulus6("ip6-label-connection", L, syn(), ack(b"hello"), accept(), recv(), send(b"world", wait=4))
    yield stimulus6("ip6-label-given", L, labelled, *tail)
    for reflect in (1, 2, 4, 7):
        yield stimulus6(f"ip6-label-reflect-{reflect}", L, labelled, *tail, ipv6_flowlabel_reflect=reflect)
        yield stimulus6(f"ip6-label-reflect-{reflect}-closed", labelled, ipv6_flowlabel_reflect=reflect)
        yield stimulus6(f"ip6-label-reflect-{reflect}-echo", icmp(128, 0, data=b"ping", label=LABEL),
                        ipv6_flowlabel_reflect=reflect)  # fmt: skip
    for auto in (0, 2, 3):
        yield stimulus6(f"ip6-label-auto-{auto}", L, syn(), *tail, ipv6_auto_flowlabels=auto)
        yield stimulus6(f"ip6-label-auto-{auto}-closed", syn(), udp(9), ipv6_auto_flowlabels=auto)
    for value in (0, 1):
        own = listen(16, 80, (SOL6, AUTOFLOWLABEL, value))
        yield stimulus6(f"ip6-label-option-{value}", own, syn(), ack(), accept(), send(b"x", wait=4))
        yield stimulus6(f"ip6-label-option-{value}-opt-in", own, syn(), ack(), ipv6_auto_flowlabels=2)
    yield stimulus6("ip6-label-synack-again", O, wait(1200), ack())
    yield stimulus6("ip6-label-rst-established", EST, seg("S", seq=10, ts=(1000, 0)), seg("SR", seq=5))
    yield stimulus6("ip6-label-rto", EST, send(b"hello", wait=900), ack(ack=6))
    yield stimulus6("ip6-label-time-wait", EST, close(wait=4), seg("FA"), seg("FA", seq=1), seg("A", seq=1))
    yield stimulus6("ip6-label-time-wait-reflect", L, labelled, ack(label=LABEL), accept(), close(wait=4),
                    seg("FA", label=LABEL), seg("FA", seq=1), ipv6_flowlabel_reflect=1)  # fmt: skip
    yield stimulus6("ip6-label-ack-of-request", O, ack(seq=70000))


def _classes() -> Iterator[Stimulus]:
    yield stimulus6("ip6-class-closed", syn(tos=0x4B))
    yield stimulus6("ip6-class-synack", L, syn(tos=0x48), ack(b"x", tos=0x48))
    yield stimulus6(
        "ip6-class-reflect", L, syn(tos=0x48), ack(b"x"), accept(), send(b"y", wait=4), tcp_reflect_tos=1
    )
    yield stimulus6("ip6-class-option", listen(16, 80, (SOL6, socket.IPV6_TCLASS, 0x28)), syn(), ack(b"x"),
                    accept(), getopt(SOL6, socket.IPV6_TCLASS))  # fmt: skip
    yield stimulus6("ip6-class-set-later", EST, setopt(SOL6, socket.IPV6_TCLASS, 0x28), send(b"x", wait=4))
    yield stimulus6("ip6-class-time-wait", listen(16, 80, (SOL6, socket.IPV6_TCLASS, 0x28)), syn(), ack(), accept(),
                    close(wait=4), seg("FA", tos=0x48), seg("FA", seq=1, tos=0x48))  # fmt: skip
    yield stimulus6("ip6-class-ack-of-request", L, syn(tos=0x48), ack(seq=70000, tos=0x88))
    yield stimulus6("ip6-class-ecn", L, seg("SEW", mss=1440, tos=2), ack(b"x", tos=3))
    yield stimulus6("ip6-hops-option", listen(16, 80, (SOL6, socket.IPV6_UNICAST_HOPS, 9)), syn(), ack(b"x"))
    yield stimulus6(
        "ip6-hops-ip-ttl", listen(16, 80, (socket.IPPROTO_IP, socket.IP_TTL, 9)), syn(), ack(b"x")
    )
    yield stimulus6("ip6-min-hop-count", listen(16, 80, (SOL6, MINHOPCOUNT, 255)), syn(), syn(ttl=255), ack(),
                    ack(ttl=255), accept())  # fmt: skip


def _both() -> Iterator[Stimulus]:
    """Listeners of both families."""
    v4 = {"family": 4}
    v4_data = (
        syn(**v4),
        ack(b"hello", **v4),
        accept(),
        recv(),
        send(b"world", wait=4),
        seg("FA", ack=6, **v4),
    )
    yield stimulus6("ip6-dual-ipv4-client", L, *v4_data)
    yield stimulus6("ip6-dual-both-clients", L, syn(**v4), syn(sport=40001), ack(**v4), ack(sport=40001), accept(),
                    accept(into="d"))  # fmt: skip
    yield stimulus6("ip6-dual-v6only", listen(16, 80, V6ONLY), syn(**v4), syn(sport=40001))
    yield stimulus6("ip6-dual-v6only-beside", listen(16, 80, V6ONLY), listen(16, 80, sock="L4", **v4), syn(**v4),
                    syn(sport=40001))  # fmt: skip
    yield stimulus6("ip6-dual-conflict", L, listen(16, 80, sock="L4", **v4), syn(**v4))
    yield stimulus6("ip6-dual-sysctl", L, syn(**v4), syn(sport=40001), ipv6_bindv6only=1)
    yield stimulus6("ip6-dual-class", listen(16, 80, (SOL6, socket.IPV6_TCLASS, 0x28)), *v4_data)
    yield stimulus6(
        "ip6-dual-tos", listen(16, 80, (socket.IPPROTO_IP, socket.IP_TOS, 0x28)), *v4_data, syn(sport=40001)
    )
    yield stimulus6("ip6-dual-cookie", L, *v4_data, tcp_syncookies=2)
    yield stimulus6("ip6-dual-icmp", L, syn(**v4), icmp(3, 1, **v4), ack(**v4), accept())


def _fast_open() -> Iterator[Stimulus]:
    opened = listen(16, 80, (TCP, TCP_FASTOPEN, 5))
    yield stimulus6(
        "ip6-fast-open", opened, syn(data=b"hello"), accept(), recv(), ack(), tcp_fastopen=NO_COOKIE
    )
    yield stimulus6(
        "ip6-fast-open-error",
        opened,
        syn(data=b"hello"),
        accept(),
        icmp(1, 3),
        recv(),
        tcp_fastopen=NO_COOKIE,
    )
    yield stimulus6("ip6-fast-open-bad-cookie", opened, syn(data=b"hello", opts=b"\x22\x0a" + bytes(8) + b"\1\1"),
                    ack(), accept(), tcp_fastopen=2)  # fmt: skip


STIMULI = [
    *_errors(),
    *_option_actions(),
    *_headers(),
    *_fragments(),
    *_icmp(),
    *_udp(),
    *_labels(),
    *_classes(),
    *_both(),
    *_fast_open(),
]
