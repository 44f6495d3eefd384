# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is in the tables, and who a segment is for: net/ipv4/inet_hashtables.c.

Theory of operation
-------------------
A segment is for the member of ehash that has its exact 4-tuple (a connection, a request or a TIME_WAIT socket), else
for the best listener on its port: one bound to the address is looked for first, then one bound to none; among
those a listener bound to the device beats one that is not, and of a SO_REUSEPORT group the keyed hash of the
4-tuple picks one, so that all segments of a connection come to the same.

A port is in use while its bind bucket has owners: the socket that bound it, every child accepted from it, and every
connection opened from it.  connect() without bind() takes a port from the even half of the ephemeral range first
(bind() prefers the odd one).  The walk begins where the keyed hash of the destination and a counter per bucket of that
hash say (RFC 6056, section 3.3.4), so that ports to one destination follow each other at unforeseeable steps.  Of many
connections to different peers one port can serve: it is free for a 4-tuple that is not in ehash, if all who share it
came from connect().
The tables themselves are in include/inet_hashtables.py.  Departures: no locks per bucket, no RCU.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EADDRNOTAVAIL
from typing import TYPE_CHECKING, Any

from stack.include.inet_hashtables import (
    INET_TABLE_PERTURB_SIZE,
    inet_bhashfn,
    inet_bind2_bucket,
    inet_bind_bucket,
    inet_ehash_bucket,
    inet_ehashfn,
    inet_hashinfo,
    inet_lhash2_bucket,
    inet_lhashfn,
    ipv4_portaddr_hash,
    ipv6_portaddr_hash,
)
from stack.include.inet_sock import inet_sk_set_state
from stack.include.ip import inet_sk_get_local_port_range
from stack.include.snmp import LINUX_MIB_TIMEWAITRECYCLED, NET_INC_STATS
from stack.include.sock import (
    AF_INET,
    AF_INET6,
    SOCK_DEAD,
    __sk_del_bind_node,
    __sk_nulls_add_node_rcu,
    sk_add_bind_node,
    sk_add_node_rcu,
    sk_nulls_del_node_init_rcu,
    sock_prot_inuse_add,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_LISTEN, TCP_TIME_WAIT
from stack.net.core import secure_seq, sock_reuseport
from stack.net.ipv6 import inet6_hashtables
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.inet_connection_sock import inet_connection_sock
    from stack.include.ip import iphdr
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock, sock_common
    from stack.stack import Stack


def inet_hashinfo_init(net: Stack) -> inet_hashinfo:
    """Empty tables with their own secret."""
    return inet_hashinfo(int.from_bytes(net.rng.get_random_bytes(16), "big"))


# -- bind buckets ------------------------------------------------------------------------------------------------


def inet_bind_bucket_find(net: Stack, port: int, l3mdev: int) -> inet_bind_bucket | None:
    hashinfo = net.tcp_hashinfo
    for tb in hashinfo.bhash.get(inet_bhashfn(port, hashinfo.bhash_size), ()):
        if inet_bind_bucket_match(tb, net, port, l3mdev):
            return tb
    return None


def inet_bind_bucket_match(tb: inet_bind_bucket, net: Stack, port: int, l3mdev: int) -> bool:
    return tb.port == port and tb.l3mdev == l3mdev


def inet_bind_bucket_create(net: Stack, port: int, l3mdev: int) -> inet_bind_bucket:
    """A bucket for a port that nobody uses yet."""
    hashinfo = net.tcp_hashinfo
    slot = inet_bhashfn(port, hashinfo.bhash_size)
    tb = inet_bind_bucket(net, port, l3mdev, slot)
    hashinfo.bhash.setdefault(slot, []).insert(0, tb)
    return tb


def inet_bind_bucket_destroy(net: Stack, tb: inet_bind_bucket) -> None:
    """Its port is free again, once nobody owns it."""
    if tb.owners:
        return
    chains = net.tcp_hashinfo.bhash
    chain = chains[tb.bucket]
    chain.remove(tb)
    if not chain:
        del chains[tb.bucket]


def inet_bind2_bucket_find(net: Stack, port: int, l3mdev: int, sk: sock_common) -> inet_bind2_bucket | None:
    family = sk.sk_family
    key = (port, sk.sk_rcv_saddr) if family == AF_INET else (port, sk.sk_v6_rcv_saddr, family)
    return net.tcp_hashinfo.bhash2.get(key)


def inet_bind2_bucket_create(net: Stack, port: int, l3mdev: int, sk: sock_common) -> inet_bind2_bucket:
    family = sk.sk_family
    addr = sk.sk_rcv_saddr if family == AF_INET else sk.sk_v6_rcv_saddr
    tb2 = inet_bind2_bucket(net, port, l3mdev, addr, family)
    net.tcp_hashinfo.bhash2[tb2.key] = tb2
    return tb2


def inet_bind2_bucket_addr_match(tb2: inet_bind2_bucket, sk: sock_common) -> bool:
    if sk.sk_family == AF_INET6:
        return tb2.rcv_saddr == sk.sk_v6_rcv_saddr
    return tb2.rcv_saddr == sk.sk_rcv_saddr


def inet_bind2_bucket_destroy(net: Stack, tb2: inet_bind2_bucket) -> None:
    if not tb2.owners and not tb2.deathrow:
        del net.tcp_hashinfo.bhash2[tb2.key]


def inet_bind_hash(sk: inet_connection_sock, tb: inet_bind_bucket, tb2: inet_bind2_bucket, port: int) -> None:
    """The socket owns the port from here on."""
    sk.sk_num = port
    sk_add_bind_node(sk, tb.owners)
    sk.icsk_bind_hash = tb
    sk_add_bind_node(sk, tb2.owners)
    sk.icsk_bind2_hash = tb2


def __inet_put_port(sk: inet_connection_sock) -> None:
    net = sk.sk_net
    tb, tb2 = sk.icsk_bind_hash, sk.icsk_bind2_hash
    if tb is None or tb2 is None:
        return
    __sk_del_bind_node(sk, tb.owners)
    sk.icsk_bind_hash = None
    sk.sk_num = 0
    __sk_del_bind_node(sk, tb2.owners)
    sk.icsk_bind2_hash = None
    inet_bind2_bucket_destroy(net, tb2)
    inet_bind_bucket_destroy(net, tb)


def inet_put_port(sk: inet_connection_sock) -> None:
    """Let go of the port; a socket without one is left alone."""
    __inet_put_port(sk)


def __inet_inherit_port(sk: inet_connection_sock, child: inet_connection_sock) -> int:
    """The child owns the listener's port too.  -ENOENT if the listener has lost it; a child on another port (a
    transparent proxy's) gets that port's bucket."""
    net = sk.sk_net
    tb = sk.icsk_bind_hash
    port = child.sk_num
    if tb is None:
        return -2
    if tb.port != port:
        tb = inet_bind_bucket_find(net, port, tb.l3mdev) or inet_bind_bucket_create(net, port, tb.l3mdev)
    tb2 = sk.icsk_bind2_hash
    if tb2 is None or tb2.port != port or not inet_bind2_bucket_addr_match(tb2, child):
        tb2 = inet_bind2_bucket_find(net, port, 0, child) or inet_bind2_bucket_create(net, port, 0, child)
    inet_bind_hash(child, tb, tb2, port)
    return 0


# -- look-ups ----------------------------------------------------------------------------------------------------


def compute_score(sk: sock, net: Stack, hnum: int, daddr: int, dif: int) -> int:
    """How well a listener fits; -1 not at all.  One of AF_INET6 takes IPv4 too, unless it said IPV6_V6ONLY."""
    if sk.sk_num != hnum or sk.sk_rcv_saddr != daddr or sk.sk_ipv6only:
        return -1
    bound = sk.sk_bound_dev_if
    if bound and bound != dif:
        return -1
    return (2 if sk.sk_family == AF_INET else 1) + (2 if bound else 0)


def lookup_reuseport(
    sk: sock, skb: sk_buff | None, saddr: int, sport: int, daddr: int, hnum: int
) -> sock | None:
    """The member of the listener's SO_REUSEPORT group that the group's selector or the 4-tuple's hash picks."""
    if not sk.sk_reuseport:
        return None
    phash = inet_ehashfn(sk.sk_net, daddr, hnum, saddr, sport)
    return sock_reuseport.reuseport_select_sock(sk, phash, skb)


def inet_lhash2_lookup(
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


def __inet_lookup_listener(
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
    lhash2 = hashinfo.lhash2
    for bound_to in (daddr, 0):
        chain = lhash2.get(ipv4_portaddr_hash(net, bound_to, hnum) & hashinfo.lhash2_mask)
        if chain:
            result = inet_lhash2_lookup(net, chain, saddr, sport, daddr, hnum, dif, bound_to, skb)
            if result is not None:
                return result
    return None


def __inet_lookup_established(
    net: Stack, hashinfo: inet_hashinfo, saddr: int, sport: int, daddr: int, hnum: int, dif: int
) -> Any:
    """Whoever has this 4-tuple (``daddr``:``hnum`` is the local end): a sock_common, or None."""
    hash_ = inet_ehashfn(net, daddr, hnum, saddr, sport)
    chain = hashinfo.ehash.get(hash_ & hashinfo.ehash_mask)
    if not chain:
        return None
    for sk in chain:
        if sk.sk_hash == hash_ and inet_match(sk, saddr, sport, daddr, hnum, dif):
            return sk
    return None


def inet_match(sk: sock_common, saddr: int, sport: int, daddr: int, hnum: int, dif: int) -> bool:
    """Whether a member of ehash has this 4-tuple and takes packets of this device."""
    if sk.sk_daddr != saddr or sk.sk_dport != sport or sk.sk_num != hnum or sk.sk_rcv_saddr != daddr:
        return False
    bound = sk.sk_bound_dev_if
    return not bound or bound == dif


def __inet_lookup(
    net: Stack,
    hashinfo: inet_hashinfo,
    saddr: int,
    sport: int,
    daddr: int,
    hnum: int,
    dif: int,
    skb: sk_buff | None = None,
) -> Any:
    sk = __inet_lookup_established(net, hashinfo, saddr, sport, daddr, hnum, dif)
    if sk is not None:
        return sk
    return __inet_lookup_listener(net, hashinfo, saddr, sport, daddr, hnum, dif, skb)


def __inet_lookup_skb(net: Stack, iph: iphdr, skb: sk_buff, sport: int, dport: int) -> Any:
    """Who a received segment is for, or None."""
    return __inet_lookup(net, net.tcp_hashinfo, iph.saddr, sport, iph.daddr, dport, skb.skb_iif, skb)


def inet_lookup_listener(
    net: Stack, saddr: int, sport: int, daddr: int, hnum: int, dif: int, skb: sk_buff | None = None
) -> sock | None:
    return __inet_lookup_listener(net, net.tcp_hashinfo, saddr, sport, daddr, hnum, dif, skb)


# -- coming and going --------------------------------------------------------------------------------------------


def sk_ehashfn(sk: sock_common) -> int:
    """By the family that its packets have: a socket of AF_INET6 with an IPv4-mapped peer hashes as IPv4's."""
    if sk.sk_family == AF_INET6 and sk.sk_v6_daddr >> 32 != 0xFFFF:
        return inet6_hashtables.inet6_ehashfn(
            sk.sk_net, sk.sk_v6_rcv_saddr, sk.sk_num, sk.sk_v6_daddr, sk.sk_dport
        )
    return inet_ehashfn(sk.sk_net, sk.sk_rcv_saddr, sk.sk_num, sk.sk_daddr, sk.sk_dport)


def inet_ehash_lookup_by_sk(sk: sock_common, chain: list[sock_common]) -> bool:
    """Whether somebody with the same 4-tuple hangs in the chain already."""
    if sk.sk_family == AF_INET6 and sk.sk_v6_daddr >> 32 != 0xFFFF:
        return inet6_hashtables.inet6_ehash_lookup_by_sk(sk, chain)
    for esk in chain:
        if esk.sk_hash == sk.sk_hash and inet_match(
            esk, sk.sk_daddr, sk.sk_dport, sk.sk_rcv_saddr, sk.sk_num, sk.sk_bound_dev_if
        ):
            return True
    return False


def inet_ehash_insert(sk: sock_common, osk: sock_common | None, check_dup: bool = False) -> bool:
    """Hang a socket in ehash, in the place of ``osk`` if one is given (False: it was gone).  With ``check_dup``
    False also if its 4-tuple is taken."""
    sk.sk_hash = sk_ehashfn(sk)
    chain = inet_ehash_bucket(sk.sk_net.tcp_hashinfo, sk.sk_hash)
    ret = True
    if osk is not None:
        ret = sk_nulls_del_node_init_rcu(osk)
    elif check_dup:
        ret = not inet_ehash_lookup_by_sk(sk, chain)
    if ret:
        __sk_nulls_add_node_rcu(sk, chain)
    return ret


def inet_ehash_nolisten(sk: inet_connection_sock, osk: sock_common | None, check_dup: bool = False) -> bool:
    """inet_ehash_insert for a full socket; one that cannot get in is destroyed."""
    ok = inet_ehash_insert(sk, osk, check_dup)
    if ok:
        sock_prot_inuse_add(sk.sk_net, sk.sk_prot, 1)
    else:
        from stack.net.ipv4 import inet_connection_sock as net_inet_connection_sock

        sk.sk_net.ipv4.tcp_orphan_count += 1
        inet_sk_set_state(sk, TCP_CLOSE)
        sk.sk_flags |= SOCK_DEAD
        net_inet_connection_sock.inet_csk_destroy_sock(sk)
    return ok


def inet_lhash2_bucket_sk(hashinfo: inet_hashinfo, sk: sock) -> list[sock]:
    if sk.sk_family == AF_INET6:
        hash_ = ipv6_portaddr_hash(sk.sk_net, sk.sk_v6_rcv_saddr, sk.sk_num)
    else:
        hash_ = ipv4_portaddr_hash(sk.sk_net, sk.sk_rcv_saddr, sk.sk_num)
    return inet_lhash2_bucket(hashinfo, hash_)


def __inet_hash(sk: inet_connection_sock, osk: sock_common | None) -> int:
    """A listener joins listening_hash and lhash2, any other socket ehash."""
    if sk.sk_state != TCP_LISTEN:
        inet_ehash_nolisten(sk, osk)
        return 0
    hashinfo = sk.sk_net.tcp_hashinfo
    if sk.sk_reuseport:
        err = inet_reuseport_add_sock(sk, inet_lhash2_bucket_sk(hashinfo, sk))
        if err:
            return err
    #> ^ tcp_hashinfo.listening_hash[X] add node
    sk_add_node_rcu(sk, hashinfo.listening_hash.setdefault(inet_lhashfn(sk.sk_num), []))
    chain = inet_lhash2_bucket_sk(hashinfo, sk)
    chain.insert(0, sk)
    sk.icsk_listen_portaddr_node = chain
    sock_prot_inuse_add(sk.sk_net, sk.sk_prot, 1)
    return 0


def inet_reuseport_add_sock(sk: sock, chain: list[sock]) -> int:
    """Join the SO_REUSEPORT group of the listener on the same address, port and device; found one if there is none."""
    for sk2 in chain:
        if (
            sk2 is not sk
            and sk2.sk_reuseport
            and sk2.sk_num == sk.sk_num
            and sk2.sk_family == sk.sk_family
            and sk2.sk_ipv6only == sk.sk_ipv6only
            and sk2.sk_rcv_saddr == sk.sk_rcv_saddr
            and sk2.sk_v6_rcv_saddr == sk.sk_v6_rcv_saddr
            and sk2.sk_bound_dev_if == sk.sk_bound_dev_if
        ):
            return sock_reuseport.reuseport_add_sock(sk, sk2)
    return sock_reuseport.reuseport_alloc(sk)


def inet_hash(sk: inet_connection_sock) -> int:
    """A socket that is not closed becomes visible to segments."""
    if sk.sk_state == TCP_CLOSE:
        return 0
    return __inet_hash(sk, None)


def inet_unhash(sk: inet_connection_sock) -> None:
    """No segment finds the socket any more."""
    if sk.sk_node is None:
        return
    if sk.sk_reuseport_cb is not None:
        sock_reuseport.reuseport_detach_sock(sk)
    if sk.icsk_listen_portaddr_node is not None:
        sk.icsk_listen_portaddr_node.remove(sk)
        sk.icsk_listen_portaddr_node = None
    sk_nulls_del_node_init_rcu(sk)
    sock_prot_inuse_add(sk.sk_net, sk.sk_prot, -1)


# -- connect -----------------------------------------------------------------------------------------------------

# What the kernel's check_established() gives back in its ``twp``: the TIME_WAIT socket whose place was taken.
check_established_t = Callable[[Any, int, bool], tuple[int, Any]]


def inet_sk_port_offset(sk: inet_connection_sock) -> int:
    """Where the walk for a port to this destination begins: 64 bits, new every ten seconds."""
    return secure_seq.secure_ipv4_port_ephemeral(sk.sk_net, sk.sk_rcv_saddr, sk.sk_daddr, sk.sk_dport)


def __inet_check_established(sk: Any, lport: int, want_tw: bool) -> tuple[int, Any]:
    """Enter ehash with local port ``lport``: (0, None), or (-EADDRNOTAVAIL, None) if somebody has the 4-tuple.

    The place of a TIME_WAIT socket can be taken if the protocol says so (tcp_twsk_unique).  It is ended here, unless
    ``want_tw``: then it is given back, out of ehash, for the caller to end."""
    net = sk.sk_net
    old_num, sk.sk_num = sk.sk_num, lport
    hash_ = sk_ehashfn(sk)
    chain = inet_ehash_bucket(net.tcp_hashinfo, hash_)
    other = _same_tuple(sk, chain, hash_)
    if other is not None:
        if other.sk_state != TCP_TIME_WAIT or not sk.sk_prot.twsk_prot.twsk_unique(sk, other, want_tw):
            sk.sk_num = old_num
            return -EADDRNOTAVAIL, None
    sk.inet_sport = lport
    sk.sk_hash = hash_
    __sk_nulls_add_node_rcu(sk, chain)
    if other is not None:
        sk_nulls_del_node_init_rcu(other)
        NET_INC_STATS(net, LINUX_MIB_TIMEWAITRECYCLED)
    sock_prot_inuse_add(net, sk.sk_prot, 1)
    if other is not None and not want_tw:
        _end_time_wait(other)
        other = None
    return 0, other


def _same_tuple(sk: Any, chain: list[sock_common], hash_: int) -> Any:
    """Who else has the socket's 4-tuple, or None."""
    ipv6 = sk.sk_family == AF_INET6 and sk.sk_v6_daddr >> 32 != 0xFFFF
    for other in chain:
        if other is sk or other.sk_hash != hash_:
            continue
        if ipv6:
            same = inet6_hashtables.inet6_match(
                other, sk.sk_v6_daddr, sk.sk_dport, sk.sk_v6_rcv_saddr, sk.sk_num, sk.sk_bound_dev_if
            )
        else:
            same = inet_match(
                other, sk.sk_daddr, sk.sk_dport, sk.sk_rcv_saddr, sk.sk_num, sk.sk_bound_dev_if
            )
        if same:
            return other
    return None


def _end_time_wait(tw: Any) -> None:
    """A TIME_WAIT socket that is out of ehash already: its port and its timer."""
    from stack.net.ipv4 import inet_timewait_sock

    inet_timewait_sock.inet_twsk_replaced(tw)


def __inet_hash_connect(sk: Any, port_offset: int, check_established: check_established_t) -> int:
    """Give a connecting socket its port and its place in ehash; 0 or -EADDRNOTAVAIL."""
    if sk.sk_num:
        if len(sk.icsk_bind_hash.owners) == 1:
            inet_ehash_nolisten(sk, None)
            return 0
        return check_established(sk, sk.sk_num, False)[0]
    low, high = inet_sk_get_local_port_range(sk)
    remaining = high + 1 - low
    if remaining > 1:
        remaining &= ~1
    perturb = sk.sk_net.tcp_hashinfo.table_perturb
    index = port_offset & INET_TABLE_PERTURB_SIZE - 1
    if index not in perturb:  # drawn when it is first looked at
        perturb[index] = sk.sk_net.rng.get_random_u32()
    start = ((perturb[index] + (port_offset >> 32)) & MASK32) % remaining & ~1
    for parity in (0, 1) if remaining > 1 else (0,):
        for step in range(0, remaining, 2):
            port = low + (start + parity + step) % remaining
            found, tw = _try_port(sk, port, check_established)
            if found is None:
                continue
            # At least a random step, so that the next port cannot be told from this one while most are free.
            moved = max(step, sk.sk_net.rng.get_random_u32_below(8) * 2)
            perturb[index] = (perturb[index] + moved + 2) & MASK32
            _take_port(sk, found, port, tw)
            return 0
    return -EADDRNOTAVAIL


def _try_port(sk: Any, port: int, check_established: check_established_t) -> tuple[Any, Any]:
    """(bind bucket of the port, TIME_WAIT socket that was in our place) if the port can be had, else (None, None)."""
    net = sk.sk_net
    if port in net.ipv4.sysctl_local_reserved_ports:
        return None, None
    tb = inet_bind_bucket_find(net, port, 0)
    if tb is None:
        tb = inet_bind_bucket_create(net, port, 0)
        tb.fastreuse = tb.fastreuseport = -1  # from connect() only
        return tb, None
    if tb.fastreuse >= 0 or tb.fastreuseport >= 0:
        return None, None
    err, tw = check_established(sk, port, True)
    return (None, None) if err else (tb, tw)


def _take_port(sk: Any, tb: inet_bind_bucket, port: int, tw: Any) -> None:
    net = sk.sk_net
    tb2 = inet_bind2_bucket_find(net, port, 0, sk) or inet_bind2_bucket_create(net, port, 0, sk)
    inet_bind_hash(sk, tb, tb2, port)
    if sk.sk_node is None:
        sk.inet_sport = port
        inet_ehash_nolisten(sk, None)
    if tw is not None:
        _end_time_wait(tw)


def inet_hash_connect(sk: Any) -> int:
    """Bind a socket that connects to an address, if it is not bound yet, and hash it; 0 or -EADDRNOTAVAIL."""
    port_offset = 0 if sk.sk_num else inet_sk_port_offset(sk)
    return __inet_hash_connect(sk, port_offset, __inet_check_established)


def inet_bhash2_update_saddr(sk: Any, saddr: int, family: int) -> None:
    """The local address of a socket becomes ``saddr`` (of AF_INET6: the family's own form): one that owns a port
    moves to the bucket of that address."""
    net, tb2 = sk.sk_net, sk.icsk_bind2_hash
    if tb2 is not None:
        __sk_del_bind_node(sk, tb2.owners)
        inet_bind2_bucket_destroy(net, tb2)
    if family == AF_INET:
        sk.sk_rcv_saddr = saddr
        if sk.sk_family == AF_INET6:
            sk.sk_v6_rcv_saddr = sk.pinet6.saddr = 0xFFFF << 32 | saddr
    else:
        sk.sk_v6_rcv_saddr = saddr
        if not saddr:
            sk.sk_rcv_saddr = sk.pinet6.saddr = 0
    if tb2 is not None:
        port = sk.sk_num
        new = inet_bind2_bucket_find(net, port, 0, sk) or inet_bind2_bucket_create(net, port, 0, sk)
        sk_add_bind_node(sk, new.owners)
        sk.icsk_bind2_hash = new
