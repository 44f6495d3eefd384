# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv4 options: net/ipv4/ip_options.c (RFC 791 section 3.1, RFC 1122 section 3.2.1.8, RFC 2113).

``ip_options_compile`` checks the options of a received packet and notes where record route, time stamp and source
route are (offsets into ``opt.data``; the kernel counts from the IP header, 20 more).  A host records nothing in
packets that it only receives; it echoes them into its answers (``ip_options_echo``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from stack.include.dst import RTCF_BROADCAST, RTCF_MULTICAST, RTN_LOCAL, RTN_UNICAST
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
from stack.net.ipv4 import devinet, fib_frontend

if TYPE_CHECKING:
    from stack.include.dst import rtable
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

IPHDR: Final = 20
_COPIED: Final = 0x80
IPOPT_TS_TSONLY: Final = 0
IPOPT_TS_TSANDADDR: Final = 1
IPOPT_TS_PRESPEC: Final = 3
MSEC_PER_DAY: Final = 86_400_000


def ip_options_compile(net: Stack, data: bytes, skb: sk_buff | None) -> tuple[ip_options, int]:
    """Parse option bytes; the second value is 0, or the offset from the start of the IP header of what is wrong.  With
    ``skb`` they are those of a received packet whose route is set: entries are filled, ``opt.data`` has the result."""
    opt = ip_options(data)
    problem = _compile(net, opt, data, skb)
    if problem:
        return opt, problem
    out = bytearray(data)
    if opt.rr:
        _record(opt, out, opt.rr - IPHDR, skb)
    if opt.ts:
        _stamp(net, opt, out, opt.ts - IPHDR, skb)
    opt.data = bytes(out)
    return opt, 0


def _compile(net: Stack, opt: ip_options, data: bytes, skb: sk_buff | None) -> int:
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == IPOPT_END:
            break
        if kind == IPOPT_NOOP:
            at += 1
            continue
        if at + 1 >= len(data):
            return IPHDR + at
        optlen = data[at + 1]
        if optlen < 2 or at + optlen > len(data):
            return IPHDR + at
        problem = _compile_one(net, opt, kind, at, optlen, skb)
        if problem:
            return IPHDR + problem
        at += optlen
    return 0


def fib_compute_spec_dst(skb: sk_buff) -> int:
    """net/ipv4/fib_frontend.c: the address of ours that a received packet means, never a broadcast one."""
    rt, iph = cast("rtable", skb._skb_refdst), skb.h_iph
    if rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        return devinet.inet_select_addr(rt.dev, iph.saddr)
    return int(iph.daddr)


def _record(opt: ip_options, out: bytearray, at: int, skb: sk_buff | None) -> None:
    """The next entry of a record route is ours."""
    pointer = out[at + 2]
    if pointer > out[at + 1]:
        return
    if skb is not None:
        _put(out, at + pointer - 1, fib_compute_spec_dst(skb))
        opt.is_changed = True
    out[at + 2] = pointer + 4
    opt.rr_needaddr = True


def _stamp(net: Stack, opt: ip_options, out: bytearray, at: int, skb: sk_buff | None) -> None:
    """The next entry of a time stamp option is ours; a full one counts who found no room."""
    pointer, flag = out[at + 2], out[at + 3] & 15
    if pointer > out[at + 1]:
        if flag != IPOPT_TS_PRESPEC and skb is not None:
            out[at + 3] += 16
            opt.is_changed = True
        return
    time_at = at + pointer - 1
    if flag != IPOPT_TS_TSONLY:
        if flag == IPOPT_TS_TSANDADDR:
            opt.ts_needaddr = True
            if skb is not None:
                _put(out, time_at, fib_compute_spec_dst(skb))
        elif fib_frontend.inet_addr_type(net, int.from_bytes(out[time_at : time_at + 4], "big")) == RTN_UNICAST:
            return  # prespecified: somebody else's turn
        time_at += 4
    opt.ts_needtime = True
    out[at + 2] = pointer + (4 if flag == IPOPT_TS_TSONLY else 8)
    if skb is not None:
        _put(out, time_at, inet_current_timestamp(net))
        opt.is_changed = True


def _put(out: bytearray, at: int, value: int) -> None:
    out[at : at + 4] = value.to_bytes(4, "big")


def inet_current_timestamp(net: Stack) -> int:
    """Milliseconds since midnight UT."""
    return net.clock.real_ns() // 1_000_000 % MSEC_PER_DAY


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
    """The options of an answer to ``skb``, whose options ``sopt`` are: record route and time stamp with room claimed
    for our own entry, a source route turned round; None if there is nothing to say."""
    if sopt is None or not sopt.optlen:
        return None
    out = bytearray()
    opt = ip_options()
    if sopt.rr:
        opt.rr = IPHDR + len(out)
        out += _echo_record(sopt, opt, _cut(sopt, sopt.rr))
    if sopt.ts:
        opt.ts = IPHDR + len(out)
        out += _echo_timestamp(net, sopt, opt, _cut(sopt, sopt.ts))
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


def _echo_record(sopt: ip_options, opt: ip_options, body: bytearray) -> bytearray:
    if sopt.rr_needaddr and body[2] + 3 <= len(body):
        body[2] += 4
        opt.rr_needaddr = True
    return body


def _echo_timestamp(net: Stack, sopt: ip_options, opt: ip_options, body: bytearray) -> bytearray:
    pointer, flag = body[2], body[3] & 15
    need = 3 if flag == IPOPT_TS_TSONLY else 7
    if not sopt.ts_needtime or pointer + need > len(body):
        return body
    if flag == IPOPT_TS_PRESPEC:
        addr = int.from_bytes(body[pointer - 1 : pointer + 3], "big")
        if fib_frontend.inet_addr_type(net, addr) == RTN_UNICAST:
            return body
    opt.ts_needaddr = flag == IPOPT_TS_TSANDADDR
    opt.ts_needtime = True
    body[2] = pointer + need + 1
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


def ip_options_build(net: Stack, opt: ip_options, saddr: int, daddr: int) -> bytes:
    """The bytes to send: the entries that were claimed are filled (``saddr`` is ours), a source route ends with the
    destination."""
    if not (opt.srr or opt.rr_needaddr or opt.ts_needtime):
        return opt.data
    data = bytearray(opt.data)
    if opt.srr:
        at = opt.srr - IPHDR
        _put(data, at + data[at + 1] - 4, daddr)
    if opt.rr_needaddr:
        at = opt.rr - IPHDR
        _put(data, at + data[at + 2] - 5, saddr)
    if opt.ts_needtime:
        at = opt.ts - IPHDR
        if opt.ts_needaddr:
            _put(data, at + data[at + 2] - 9, saddr)
        _put(data, at + data[at + 2] - 5, inet_current_timestamp(net))
    return bytes(data)


def ip_options_undo(opt: ip_options) -> bytes:
    """What getsockopt(IP_OPTIONS) shows: without the entries that sending fills."""
    data = bytearray(opt.data)
    if opt.rr_needaddr:
        at = opt.rr - IPHDR
        data[at + 2] -= 4
        _put(data, at + data[at + 2] - 1, 0)
    if opt.ts_needtime:
        at = opt.ts - IPHDR
        data[at + 2] -= 4
        _put(data, at + data[at + 2] - 1, 0)
        if data[at + 3] & 15 == IPOPT_TS_PRESPEC:
            data[at + 2] -= 4
    if opt.ts_needaddr:
        data[opt.ts - IPHDR + 2] -= 4
        _put(data, opt.ts - IPHDR + data[opt.ts - IPHDR + 2] - 1, 0)
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
