# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables that find a TCP socket, and the keyed hashes into them: include/net/inet_hashtables.h.

Theory of operation
-------------------
One ``inet_hashinfo`` per Stack holds five tables:

    table            bucket                                   what hangs there
    ehash            inet_ehashfn(4-tuple) & ehash_mask       connected sockets, requests, TIME_WAIT: whoever has a peer
    bhash            port & (bhash_size - 1)                  one inet_bind_bucket per port in use, with its owners
    bhash2           (port, address)                          the same by port and address, for quick conflict checks
    listening_hash   port & (INET_LHTABLE_SIZE - 1)           listeners, as /proc/net/tcp lists them
    lhash2           (port, address)                          listeners, as they are looked up

The arrays are sparse: a dict of chains, in which a bucket is made when it is first used.  A chain is a list,
newest first.  ``sk.sk_node`` is the chain a socket hangs in (None: it is not hashed), so that it can leave without
a search through the table.

Whoever can choose ports and addresses must not be able to choose buckets.  The kernel's jhash with a secret costs
microseconds in Python, on every segment; the hash here is multiply-shift with a secret odd multiplier
(Dietzfelbinger et al., "A reliable randomized algorithm for the closest-pair problem", 1997): for two different
keys the chance of a collision is at most 2 / buckets.  Keys with IPv6 addresses are longer, and so is their multiplier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.sock import AF_INET, sock, sock_common

if TYPE_CHECKING:
    from stack.stack import Stack

INET_LHTABLE_SIZE: Final = 32
BHASH_SIZE: Final = 1024
# A 1 GiB machine's; /proc/net/sockstat and the boot log of such a guest.
EHASH_SIZE: Final = 8192
LHASH2_SIZE: Final = 512
INET_TABLE_PERTURB_SIZE: Final = 1 << 16

# inet_bind_bucket.fastreuseport
FASTREUSEPORT_ANY: Final = 1
FASTREUSEPORT_STRICT: Final = 2

_MASK128: Final = (1 << 128) - 1
_MASK288: Final = (1 << 288) - 1


class inet_bind_bucket:
    """struct inet_bind_bucket: a port in use.  ``owners`` are the sockets on it, newest last (a dict for quick
    removal); ``fastreuse`` > 0: all owners have SO_REUSEADDR and none listens; ``fastreuseport`` > 0: all have
    SO_REUSEPORT and one uid."""

    __slots__ = (
        "bucket",
        "fast_rcv_saddr",
        "fast_sk_family",
        "fastreuse",
        "fastreuseport",
        "l3mdev",
        "net",
        "owners",
        "port",
    )

    def __init__(self, net: Stack, port: int, l3mdev: int, bucket: int) -> None:
        self.net = net
        self.port = port
        self.l3mdev = l3mdev
        self.bucket = bucket
        self.fastreuse = 0
        self.fastreuseport = 0
        self.fast_sk_family = 0
        self.fast_rcv_saddr = 0
        self.owners: dict[sock_common, None] = {}

    @property
    def num_owners(self) -> int:
        return len(self.owners)


class inet_bind2_bucket:
    """struct inet_bind2_bucket: a port and one local address (0: any) of a family in use.  ``deathrow`` holds the
    TIME_WAIT sockets, ``owners`` the others."""

    __slots__ = ("deathrow", "family", "key", "l3mdev", "net", "owners", "port", "rcv_saddr")

    def __init__(self, net: Stack, port: int, l3mdev: int, rcv_saddr: int, family: int = AF_INET) -> None:
        self.net = net
        self.port = port
        self.l3mdev = l3mdev
        self.rcv_saddr = rcv_saddr
        self.family = family
        self.key = (port, rcv_saddr) if family == AF_INET else (port, rcv_saddr, family)
        self.owners: dict[sock_common, None] = {}
        self.deathrow: dict[sock_common, None] = {}


class inet_hashinfo:
    """struct inet_hashinfo.  ``secret`` is an odd 128-bit multiplier, ``inet6_ehash_secret`` one of 288 bits, drawn
    when IPv6 first needs it; ``table_perturb`` is the state of the ephemeral port walk (RFC 6056, section 3.3.4)."""

    __slots__ = (
        "bhash",
        "bhash2",
        "bhash_size",
        "ehash",
        "ehash_mask",
        "inet6_ehash_secret",
        "lhash2",
        "lhash2_mask",
        "listening_hash",
        "pernet",
        "secret",
        "table_perturb",
    )

    def __init__(self, secret: int) -> None:
        self.secret = (secret | 1) & _MASK128
        self.inet6_ehash_secret = 0
        self.ehash: dict[int, list[sock_common]] = {}
        self.ehash_mask = EHASH_SIZE - 1
        self.bhash: dict[int, list[inet_bind_bucket]] = {}
        self.bhash_size = BHASH_SIZE
        self.bhash2: dict[tuple[int, ...], inet_bind2_bucket] = {}
        self.listening_hash: dict[int, list[sock_common]] = {}
        self.lhash2: dict[int, list[sock]] = {}
        self.lhash2_mask = LHASH2_SIZE - 1
        self.table_perturb: dict[int, int] = {}
        self.pernet = True


def inet_ehashfn(net: Stack, laddr: int, lport: int, faddr: int, fport: int) -> int:
    """The 32-bit keyed hash of a 4-tuple, local end first; ``sk_hash`` of whoever has that tuple."""
    key = laddr << 64 | faddr << 32 | lport << 16 | fport
    return (key * net.tcp_hashinfo.secret & _MASK128) >> 96


def inet_ehash_bucket(hashinfo: inet_hashinfo, hash_: int) -> list[sock_common]:
    """The chain for a hash, made if it is not there."""
    slot = hash_ & hashinfo.ehash_mask
    chain = hashinfo.ehash.get(slot)
    if chain is None:
        chain = hashinfo.ehash[slot] = []
    return chain


def ipv4_portaddr_hash(net: Stack, saddr: int, port: int) -> int:
    return ((saddr << 16 | port) * net.tcp_hashinfo.secret & _MASK128) >> 96


def __inet6_ehashfn(net: Stack, key: int) -> int:
    """The 32-bit keyed hash of at most 288 bits."""
    info = net.tcp_hashinfo
    secret = info.inet6_ehash_secret
    if not secret:
        secret = info.inet6_ehash_secret = int.from_bytes(net.rng.get_random_bytes(36), "big") | 1
    return (key * secret & _MASK288) >> 256


def ipv6_portaddr_hash(net: Stack, addr6: int, port: int) -> int:
    """Any address and an IPv4-mapped one hash as IPv4's, so that a dual-stack listener is found by both families."""
    if not addr6:
        return ipv4_portaddr_hash(net, 0, port)
    if addr6 >> 32 == 0xFFFF:
        return ipv4_portaddr_hash(net, addr6 & 0xFFFFFFFF, port)
    return __inet6_ehashfn(net, addr6 << 16 | port)


def inet_bhashfn(port: int, bhash_size: int) -> int:
    return port & (bhash_size - 1)


def inet_lhashfn(port: int) -> int:
    return port & (INET_LHTABLE_SIZE - 1)


def inet_lhash2_bucket(hashinfo: inet_hashinfo, hash_: int) -> list[sock]:
    slot = hash_ & hashinfo.lhash2_mask
    chain = hashinfo.lhash2.get(slot)
    if chain is None:
        chain = hashinfo.lhash2[slot] = []
    return chain
