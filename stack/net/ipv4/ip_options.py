# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv4 options: net/ipv4/ip_options.c (RFC 791 section 3.1, RFC 1122 section 3.2.1.8, RFC 2113).

``ip_options_compile`` checks the options of a received packet and notes where record route, time stamp and source
route are (offsets into ``opt.data``; the kernel counts from the IP header, 20 more).  A host records nothing in
packets that it only receives; it echoes them into its answers (``ip_options_echo``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dst import RTN_LOCAL
from stack.include.inet_sock import ip_options
from stack.include.ip import (
    IPOPT_CIPSO,
    IPOPT_END,
    IPOPT_LSRR,
    IPOPT_NOOP,
    IPOPT_RA,
    IPOPT_RR,
    IPOPT_SSRR,
    IPOPT_TIMESTAMP,
)
from stack.net.ipv4 import fib_frontend

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

IPHDR: Final = 20
_COPIED: Final = 0x80
IPOPT_TS_TSONLY: Final = 0
IPOPT_TS_TSANDADDR: Final = 1
IPOPT_TS_PRESPEC: Final = 3
MSEC_PER_DAY: Final = 86_400_000


def ip_options_compile(net: Stack, data: bytes, skb: sk_buff | None) -> tuple[ip_options, int]:
    """Parse option bytes; the second value is 0, or the offset from the start of the IP header of what is wrong."""
    opt = ip_options(data)
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == IPOPT_END:
            break
        if kind == IPOPT_NOOP:
            at += 1
            continue
        if at + 1 >= len(data):
            return opt, IPHDR + at
        optlen = data[at + 1]
        if optlen < 2 or at + optlen > len(data):
            return opt, IPHDR + at
        problem = _compile_one(net, opt, kind, at, optlen, skb)
        if problem:
            return opt, IPHDR + problem
        at += optlen
    return opt, 0


def _compile_one(net: Stack, opt: ip_options, kind: int, at: int, optlen: int, skb: sk_buff | None) -> int:
    """Check one option; 0, or the offset of the fault counted from the first option byte (1 at least)."""
    if kind in (IPOPT_LSRR, IPOPT_SSRR):
        return _compile_route(opt, kind, at, optlen)
    if kind == IPOPT_RR:
        if opt.rr:
            return at or 1
        fault = _check_pointer(opt.data, at, optlen)
        opt.rr = IPHDR + at
        return fault
    if kind == IPOPT_TIMESTAMP:
        if opt.ts:
            return at or 1
        opt.ts = IPHDR + at
        return _check_timestamp(opt.data, at, optlen)
    if kind == IPOPT_RA:
        if optlen < 4:
            return at + 1
        if opt.data[at + 2] == 0 and opt.data[at + 3] == 0:
            opt.router_alert = IPHDR + at
        return 0
    # Security, stream id and unknown options are passed over on receipt (RFC 1122: ignored).
    return at + 1 if kind == IPOPT_CIPSO and optlen < 6 else 0


def _check_pointer(data: bytes, at: int, optlen: int) -> int:
    if optlen < 3:
        return at + 1
    pointer = data[at + 2]
    if pointer < 4:
        return at + 2
    return at + 2 if pointer <= optlen and pointer + 3 > optlen else 0


def _check_timestamp(data: bytes, at: int, optlen: int) -> int:
    if optlen < 4:
        return at + 1
    pointer = data[at + 2]
    if pointer < 5:
        return at + 2
    if pointer > optlen:
        return at + 3 if data[at + 3] >> 4 == 15 else 0
    flag = data[at + 3] & 15
    need = {IPOPT_TS_TSONLY: 3, IPOPT_TS_TSANDADDR: 7, IPOPT_TS_PRESPEC: 7}.get(flag)
    if need is None:
        return at + 3
    return at + 2 if pointer + need > optlen else 0


def _compile_route(opt: ip_options, kind: int, at: int, optlen: int) -> int:
    if opt.srr:
        return at or 1
    if optlen < 3:
        return at + 1
    pointer = opt.data[at + 2]
    if pointer < 4:
        return at + 2
    if pointer <= optlen and pointer + 3 > optlen:
        return at + 2
    opt.srr = IPHDR + at
    opt.is_strictroute = kind == IPOPT_SSRR
    return 0


def ip_options_echo(net: Stack, sopt: ip_options | None, skb: sk_buff) -> ip_options | None:
    """The options of an answer to ``skb``, whose options ``sopt`` are: record route and time stamp with our own
    entry, a source route turned round; None if there is nothing to say."""
    if sopt is None or not sopt.optlen:
        return None
    out = bytearray()
    opt = ip_options()
    us = skb.h_iph.daddr
    if sopt.rr:
        out += _echo_record(_cut(sopt, sopt.rr), us)
    if sopt.ts:
        out += _echo_timestamp(net, _cut(sopt, sopt.ts), us)
    if sopt.srr:
        reverse, first = _echo_route(_cut(sopt, sopt.srr), skb.h_iph.saddr)
        if reverse and fib_frontend.inet_addr_type(net, first) != RTN_LOCAL:
            opt.srr, opt.faddr = IPHDR + len(out), first
            opt.is_strictroute = sopt.is_strictroute
            out += reverse
    out += bytes(-len(out) % 4)
    opt.data, opt.optlen = bytes(out), len(out)
    return opt if out else None


def _cut(opt: ip_options, offset: int) -> bytearray:
    at = offset - IPHDR
    return bytearray(opt.data[at : at + opt.data[at + 1]])


def _echo_record(body: bytearray, us: int) -> bytearray:
    pointer = body[2]
    if pointer + 3 <= len(body):
        body[pointer - 1 : pointer + 3] = us.to_bytes(4, "big")
        body[2] = pointer + 4
    return body


def _echo_timestamp(net: Stack, body: bytearray, us: int) -> bytearray:
    pointer, flag = body[2], body[3] & 15
    now = (net.clock.real_ns() // 1_000_000 % MSEC_PER_DAY).to_bytes(4, "big")
    if flag == IPOPT_TS_TSONLY and pointer + 3 <= len(body):
        body[pointer - 1 : pointer + 3] = now
        body[2] = pointer + 4
    elif flag == IPOPT_TS_TSANDADDR and pointer + 7 <= len(body):
        body[pointer - 1 : pointer + 7] = us.to_bytes(4, "big") + now
        body[2] = pointer + 8
    elif pointer + 7 <= len(body) and body[pointer - 1 : pointer + 3] == us.to_bytes(4, "big"):
        body[pointer + 3 : pointer + 7] = now
        body[2] = pointer + 8
    return body


def _echo_route(body: bytearray, saddr: int) -> tuple[bytearray, int]:
    """The hops recorded so far, last first, with the sender at the end; and the first of them."""
    taken = min(body[2] - 1, len(body))
    hops = [int.from_bytes(body[i : i + 4], "big") for i in range(3, taken - 3, 4)][::-1]
    if not hops:
        return bytearray(), 0
    if hops[-1] == saddr:
        # RFC 1812, section 5.3.13.4: the sender had put itself first, which was wrong.
        hops.pop()
        if not hops:
            return bytearray(), 0
    route = [*hops[1:], saddr]
    out = bytearray((body[0], 3 + 4 * len(route), 4))
    for hop in route:
        out += hop.to_bytes(4, "big")
    return out, hops[0]


def ip_options_build(opt: ip_options, daddr: int) -> bytes:
    """The bytes to send: a source route ends with the destination."""
    if not opt.srr:
        return opt.data
    data = bytearray(opt.data)
    at = opt.srr - IPHDR
    end = at + data[at + 1]
    data[end - 4 : end] = daddr.to_bytes(4, "big")
    return bytes(data)


def ip_options_fragment(options: bytes) -> bytes:
    """What the second and later fragments carry: options without the copied flag become padding."""
    out = bytearray(options)
    at = 0
    while at < len(out) and out[at] != IPOPT_END:
        if out[at] == IPOPT_NOOP:
            at += 1
            continue
        length = out[at + 1] if at + 1 < len(out) else 0
        if length < 2 or at + length > len(out):
            break
        if not out[at] & _COPIED:
            out[at : at + length] = bytes([IPOPT_NOOP]) * length
        at += length
    return bytes(out)
