# SPDX-License-Identifier: GPL-2.0-or-later
"""Who an IPv6 segment is for: net/ipv6/inet6_hashtables.c.

The tables are IPv4's (include/inet_hashtables.py), under other hashes: the 4-tuple has two addresses of 128 bits.  A
socket of AF_INET6 with an IPv4-mapped peer (::ffff:a.b.c.d) is not looked for here: its packets are IPv4's, and so
is its hash.  A listener on :: hangs in the bucket of "any", where both families look (ipv6_portaddr_hash).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stack.include.inet_hashtables import __inet6_ehashfn, ipv6_portaddr_hash
from stack.include.sock import AF_INET6
from stack.net.core import secure_seq, sock_reuseport
from stack.net.ipv4 import inet_hashtables

if TYPE_CHECKING:
    from stack.include.inet_hashtables import inet_hashinfo
    from stack.include.ipv6 import ipv6hdr
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock, sock_common
    from stack.stack import Stack


def inet6_ehashfn(net: Stack, laddr: int, lport: int, faddr: int, fport: int) -> int:
    """The 32-bit keyed hash of a 4-tuple, local end first; ``sk_hash`` of whoever has that tuple."""
    return __inet6_ehashfn(net, laddr << 160 | faddr << 32 | lport << 16 | fport)


def inet6_match(sk: sock_common, saddr: int, sport: int, daddr: int, hnum: int, dif: int) -> bool:
    """Whether a member of ehash has this 4-tuple and takes packets of this device."""
    if sk.sk_family != AF_INET6 or sk.sk_v6_daddr != saddr or sk.sk_dport != sport:
        return False
    if sk.sk_num != hnum or sk.sk_v6_rcv_saddr != daddr:
        return False
    bound = sk.sk_bound_dev_if
    return not bound or bound == dif


def __inet6_lookup_established(
    net: Stack, hashinfo: inet_hashinfo, saddr: int, sport: int, daddr: int, hnum: int, dif: int
) -> Any:
    """Whoever has this 4-tuple (``daddr``:``hnum`` is the local end): a sock_common, or None."""
    hash_ = inet6_ehashfn(net, daddr, hnum, saddr, sport)
    for sk in hashinfo.ehash.get(hash_ & hashinfo.ehash_mask, ()):
        if sk.sk_hash == hash_ and inet6_match(sk, saddr, sport, daddr, hnum, dif):
            return sk
    return None


def inet6_ehash_lookup_by_sk(sk: sock_common, chain: list[sock_common]) -> bool:
    """Whether somebody with the same 4-tuple hangs in the chain already."""
    for esk in chain:
        if esk.sk_hash == sk.sk_hash and inet6_match(
            esk, sk.sk_v6_daddr, sk.sk_dport, sk.sk_v6_rcv_saddr, sk.sk_num, sk.sk_bound_dev_if
        ):
            return True
    return False


def compute_score(sk: sock, net: Stack, hnum: int, daddr: int, dif: int) -> int:
    """How well a listener fits; -1 not at all."""
    if sk.sk_num != hnum or sk.sk_family != AF_INET6 or sk.sk_v6_rcv_saddr != daddr:
        return -1
    bound = sk.sk_bound_dev_if
    if bound and bound != dif:
        return -1
    return 2 if bound else 1


def lookup_reuseport(
    sk: sock, skb: sk_buff | None, saddr: int, sport: int, daddr: int, hnum: int
) -> sock | None:
    """The member of the listener's SO_REUSEPORT group that the group's selector or the 4-tuple's hash picks."""
    if not sk.sk_reuseport:
        return None
    phash = inet6_ehashfn(sk.sk_net, daddr, hnum, saddr, sport)
    return sock_reuseport.reuseport_select_sock(sk, phash, skb)


def inet6_lhash2_lookup(
    net: Stack,
    chain: list[sock],
    saddr: int,
    sport: int,
    daddr: int,
    hnum: int,
    dif: int,
    bound_to: int,
    skb: sk_buff | None,
) -> sock | None:
    """The best listener in a chain that is bound to ``bound_to`` (an address, or 0)."""
    result = None
    hiscore = 0
    for sk in chain:
        score = compute_score(sk, net, hnum, bound_to, dif)
        if score > hiscore:
            result = lookup_reuseport(sk, skb, saddr, sport, daddr, hnum) or sk
            hiscore = score
    return result


def inet6_lookup_listener(
    net: Stack,
    hashinfo: inet_hashinfo,
    saddr: int,
    sport: int,
    daddr: int,
    hnum: int,
    dif: int,
    skb: sk_buff | None = None,
) -> sock | None:
    """The listener that a SYN from ``saddr`` is for: one bound to ``daddr`` first, then one bound to no address."""
    for bound_to in (daddr, 0):
        chain = hashinfo.lhash2.get(ipv6_portaddr_hash(net, bound_to, hnum) & hashinfo.lhash2_mask)
        if chain:
            result = inet6_lhash2_lookup(net, chain, saddr, sport, daddr, hnum, dif, bound_to, skb)
            if result is not None:
                return result
    return None


def __inet6_lookup(
    net: Stack,
    hashinfo: inet_hashinfo,
    saddr: int,
    sport: int,
    daddr: int,
    hnum: int,
    dif: int,
    skb: sk_buff | None = None,
) -> Any:
    sk = __inet6_lookup_established(net, hashinfo, saddr, sport, daddr, hnum, dif)
    if sk is not None:
        return sk
    return inet6_lookup_listener(net, hashinfo, saddr, sport, daddr, hnum, dif, skb)


def __inet6_lookup_skb(net: Stack, iph: ipv6hdr, skb: sk_buff, sport: int, dport: int) -> Any:
    """Who a received segment is for, or None."""
    return __inet6_lookup(net, net.tcp_hashinfo, iph.saddr, sport, iph.daddr, dport, skb.skb_iif, skb)


# -- connect -----------------------------------------------------------------------------------------------------


def inet6_sk_port_offset(sk: Any) -> int:
    """Where the walk for a port to this destination begins."""
    return secure_seq.secure_ipv6_port_ephemeral(sk.sk_net, sk.sk_v6_rcv_saddr, sk.sk_v6_daddr, sk.sk_dport)


def inet6_hash_connect(sk: Any) -> int:
    """Bind a socket that connects, if it is not bound yet, and hash it; 0 or -EADDRNOTAVAIL."""
    port_offset = 0 if sk.sk_num else inet6_sk_port_offset(sk)
    return inet_hashtables.__inet_hash_connect(sk, port_offset, inet_hashtables.__inet_check_established)
