# SPDX-License-Identifier: GPL-2.0-or-later
"""The TCP authentication option (RFC 5925) for listeners, over IPv4 and IPv6: net/ipv4/tcp_ao.c, since Linux 6.7.

Theory of operation
-------------------
A listener has master keys (``tcp_ao_key``, RFC 5925's MKT) by peer prefix; each has two ids, one for what it signs
(SendID) and one for what it checks (RecvID).  A segment names the key it is signed with (KeyID = our RecvID) and the
one that it would like to be answered with (RNextKeyID = our SendID).  What signs is never the master key but a traffic
key, derived from it and both ends' addresses, ports and initial sequence numbers, with one of RFC 5926's two mandatory
algorithms, HMAC-SHA1 or AES-128-CMAC, which also makes the MAC:

    segment          ISNs in the traffic key, source's first
    SYN              its own, 0
    SYN-ACK          ours, the SYN's
    everything else  source's, destination's

A child takes its peer's keys and keeps their traffic keys.  It signs with ``current_key``, which the peer moves by its
RNextKeyID, and asks for ``rnext_key``.  The MAC covers the sequence number extension, too: how often the 32 bits have
wrapped.  ``_advance`` counts that for each direction at each segment, from snd_una and rcv_nxt; they move by less than
half the number space in between.

Dropped and counted: no option where a key of the peer is known (TCPAORequired), an id that no key has, or an option at
a socket without keys (TCPAOKeyNotFound), a wrong MAC (TCPAOBad).  Good ones count in TCPAOGood.

A key belongs to a family; a listener of IPv6 that also takes IPv4 holds keys of both.

Left out: algorithms beside those two (ENOENT, as by a kernel without them), changing the keys of a connection by socket
options (the peer can move the current one), TCP_AO_GET_KEYS and TCP_AO_REPAIR, VRF.
"""

from __future__ import annotations

import errno
import hmac
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_TCP_AOFAILURE,
    SKB_DROP_REASON_TCP_AOKEYNOTFOUND,
    SKB_DROP_REASON_TCP_AONOTFOUND,
    SKB_DROP_REASON_TCP_AOUNEXPECTED,
    SKB_DROP_REASON_TCP_FLAGS,
    SKB_NOT_DROPPED_YET,
)
from stack.include.ip import ETH_P_IPV6, IPPROTO_TCP, ip_hdr
from stack.include.ipv6 import ipv6_addr_v4mapped
from stack.include.snmp import (
    LINUX_MIB_TCPAOBAD,
    LINUX_MIB_TCPAODROPPEDICMPS,
    LINUX_MIB_TCPAOGOOD,
    LINUX_MIB_TCPAOKEYNOTFOUND,
    LINUX_MIB_TCPAOREQUIRED,
    NET_INC_STATS,
)
from stack.include.sock import AF_INET, AF_INET6
from stack.include.tcp import (
    TCP_AO_ADD_KEY,
    TCP_AO_DEL_KEY,
    TCP_AO_KEYF_EXCLUDE_OPT,
    TCP_AO_MAXKEYLEN,
    TCPHDR_ACK,
    TCPHDR_SYN,
    TCPOPT_AO,
    TCPOPT_EOL,
    TCPOPT_NOP,
    tcp_ao_info,
    tcp_ao_key,
    tcp_hdr,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_LISTEN
from stack.lib.aes import BLOCK as AES_BLOCK
from stack.lib.aes import cmac
from stack.net.core.sock import sk_gso_disable
from stack.seqnum import MASK32, before

if TYPE_CHECKING:
    from stack.include.request_sock import tcp_request_sock
    from stack.include.sk_buff import sk_buff
    from stack.include.tcp import tcp_sock

HMAC_SHA1: Final = b"hmac(sha1)"
CMAC_AES128: Final = b"cmac(aes128)"
DIGEST_SIZE: Final[dict[bytes, int]] = {HMAC_SHA1: 20, CMAC_AES128: 16}
DEFAULT_MACLEN: Final = 12
# Room that a SYN leaves beside MSS, SACK-permitted with time stamp, and window scale
SYN_OPTION_SPACE: Final = 40 - 4 - 12 - 4
# struct tcp_ao_add, struct tcp_ao_del, struct tcp_ao_info_opt (include/uapi/linux/tcp.h)
AO_ADD: Final = Struct("=128s64siIH6B80s")
AO_DEL: Final = Struct("=128siIH6B")
SOCKADDR_IN: Final = Struct("=H2s4s")
SOCKADDR_IN6: Final = Struct("=H2s4x16s")
AO_INFO: Final = Struct("=IHBB5Q")
SET_CURRENT: Final = 1
SET_RNEXT: Final = 2
AO_REQUIRED: Final = 4
SET_COUNTERS: Final = 8
ACCEPT_ICMPS: Final = 16
_CONTEXT: Final = Struct("!HHII")
_PSEUDO: Final = Struct("!BBH")
_PSEUDO6: Final = Struct("!IHBB")


class tcp_ao_signer:
    """What an answer without a connection of its own is signed with."""

    __slots__ = ("key", "keyid", "rnext", "sne", "traffic_key")

    def __init__(self, key: tcp_ao_key, traffic_key: bytes, rnext: int, sne: int) -> None:
        self.key = key
        self.traffic_key = traffic_key
        self.keyid = key.sndid
        self.rnext = rnext
        self.sne = sne


# -- the option ----------------------------------------------------------------------------------------------------


def tcp_ao_len_aligned(key: tcp_ao_key) -> int:
    """Bytes of the option, filled up to whole words."""
    return key.maclen + 4 + 3 & ~3


def tcp_parse_ao_option(skb: sk_buff) -> tuple[int, int, int, bytes] | None:
    """(offset of the MAC in the segment, KeyID, RNextKeyID, MAC), or None without the option."""
    start = skb.transport_header
    segment = bytes(skb.head[start : start + (skb.h_th.doff << 2)])
    pos, end = 20, len(segment)
    while pos + 1 < end and segment[pos] != TCPOPT_EOL:
        if segment[pos] == TCPOPT_NOP:
            pos += 1
            continue
        size = segment[pos + 1]
        if size < 2 or pos + size > end:
            return None
        if segment[pos] == TCPOPT_AO and size >= 4:
            return pos + 4, segment[pos + 2], segment[pos + 3], segment[pos + 4 : pos + size]
        pos += size
    return None


def tcp_ao_option(key: tcp_ao_key, keyid: int, rnext: int) -> bytes:
    """The option with room for its MAC, padded with NOPs."""
    head = bytes((TCPOPT_AO, key.maclen + 4, keyid, rnext)) + bytes(key.maclen)
    return head + bytes((TCPOPT_NOP,)) * (tcp_ao_len_aligned(key) - len(head))


# -- keys ----------------------------------------------------------------------------------------------------------


def tcp_ao_calc_traffic_key(
    key: tcp_ao_key, saddr: int, daddr: int, sport: int, dport: int, sisn: int, disn: int
) -> bytes:
    """RFC 5926, sections 3.1.1.1 and 3.1.1.2: the key of one direction, source's values first."""
    context = _addresses(key.family, saddr, daddr) + _CONTEXT.pack(sport, dport, sisn, disn)
    message = b"\x01TCP-AO" + context + (DIGEST_SIZE[key.algo] * 8).to_bytes(2, "big")
    master = key.key
    if key.algo == CMAC_AES128 and len(master) != AES_BLOCK:
        master = cmac(bytes(AES_BLOCK), master)
    return _digest(key.algo, master, message)


def _digest(algo: bytes, key: bytes, message: bytes) -> bytes:
    return cmac(key, message) if algo == CMAC_AES128 else hmac.digest(key, message, "sha1")


def _addresses(family: int, saddr: int, daddr: int) -> bytes:
    size = 16 if family == AF_INET6 else 4
    return saddr.to_bytes(size, "big") + daddr.to_bytes(size, "big")


def _ends(family: int, sk: Any) -> tuple[int, int]:
    """(our address, the peer's) of a connection or request."""
    return (sk.sk_v6_rcv_saddr, sk.sk_v6_daddr) if family == AF_INET6 else (sk.sk_rcv_saddr, sk.sk_daddr)


def _width(family: int) -> int:
    return 128 if family == AF_INET6 else 32


def _peer(sk: Any) -> tuple[int, int]:
    """(address, family) of a connection's or request's peer; IPv4 also if the socket is of IPv6."""
    if sk.sk_family == AF_INET6 and not ipv6_addr_v4mapped(sk.sk_v6_daddr):
        return sk.sk_v6_daddr, AF_INET6
    return sk.sk_daddr, AF_INET


def tcp_ao_do_lookup(sk: tcp_sock, addr: int, family: int, sndid: int, rcvid: int) -> tcp_ao_key | None:
    """The first key for a peer with these ids; -1 is any."""
    if sk.ao_info is None:
        return None
    for key in sk.ao_info.head:
        if key.family != family or (key.addr ^ addr) >> (_width(family) - key.prefixlen):
            continue
        if sndid in (-1, key.sndid) and rcvid in (-1, key.rcvid):
            return key
    return None


def tcp_ao_lookup(sk: tcp_sock, addr_sk: Any, sndid: int, rcvid: int) -> tcp_ao_key | None:
    """The key for the peer of a connection or request (tcp_v4_ao_lookup, tcp_v6_ao_lookup)."""
    return tcp_ao_do_lookup(sk, *_peer(addr_sk), sndid, rcvid)


def tcp_ao_compute_sne(next_sne: int, next_seq: int, seq: int) -> int:
    """The extension of ``seq``, given that of ``next_seq`` (RFC 5925, section 6.2)."""
    if before(seq, next_seq):
        return (next_sne - 1) & MASK32 if seq > next_seq else next_sne
    return (next_sne + 1) & MASK32 if seq < next_seq else next_sne


def _advance(info: tcp_ao_info, sk: tcp_sock) -> None:
    """Notice that a direction has wrapped since the last segment."""
    if sk.snd_una < info.snd_basis:
        info.snd_sne = (info.snd_sne + 1) & MASK32
    if sk.rcv_nxt < info.rcv_basis:
        info.rcv_sne = (info.rcv_sne + 1) & MASK32
    info.snd_basis, info.rcv_basis = sk.snd_una, sk.rcv_nxt


# -- the MAC -------------------------------------------------------------------------------------------------------


def tcp_ao_hash(
    key: tcp_ao_key, traffic_key: bytes, sne: int, saddr: int, daddr: int, header: bytes, hash_offset: int, data: bytes
) -> bytes:
    """RFC 5925, section 5.1: the MAC over extension, pseudo-header, header with options, and data; ``hash_offset`` is
    where in the header the MAC stands."""
    mac_end = hash_offset + key.maclen
    if key.keyflags & TCP_AO_KEYF_EXCLUDE_OPT:
        options = header[hash_offset - 4 : hash_offset] + bytes(key.maclen)
    else:
        options = header[20:hash_offset] + bytes(key.maclen) + header[mac_end:]
    length = len(header) + len(data)
    pseudo = (_PSEUDO6.pack(length, 0, 0, IPPROTO_TCP) if key.family == AF_INET6
              else _PSEUDO.pack(0, IPPROTO_TCP, length))  # fmt: skip
    covered = header[:16] + b"\0\0" + header[18:20] + options + data
    message = sne.to_bytes(4, "big") + _addresses(key.family, saddr, daddr) + pseudo + covered
    return _digest(key.algo, traffic_key, message)[: key.maclen]


def _split(skb: sk_buff) -> tuple[bytes, bytes]:
    """A segment's header with options, and its data."""
    start = skb.transport_header
    end = start + (skb.head[start + 12] >> 4) * 4
    data = b"".join((memoryview(skb.head)[end : skb.tail], *skb.frags))
    return bytes(skb.head[start:end]), data


def tcp_ao_transmit_skb(sk: tcp_sock, skb: sk_buff, key: tcp_ao_key, seq: int, hash_location: int) -> bytes:
    """The MAC of a segment of a connection; ``hash_location`` is where it goes in the head."""
    info = sk.ao_info
    assert info is not None
    _advance(info, sk)
    header, data = _split(skb)
    sne = tcp_ao_compute_sne(info.snd_sne, sk.snd_una, seq)
    offset = hash_location - skb.transport_header
    return tcp_ao_hash(key, key.snd_traffic, sne, *_ends(key.family, sk), header, offset, data)


def tcp_ao_synack_hash(req: tcp_request_sock, skb: sk_buff, key: tcp_ao_key, hash_location: int) -> bytes:
    """The MAC of a SYN-ACK."""
    traffic_key = _request_key(req, key)
    header, data = _split(skb)
    offset = hash_location - skb.transport_header
    return tcp_ao_hash(key, traffic_key, 0, *_ends(key.family, req), header, offset, data)


def _request_key(req: tcp_request_sock, key: tcp_ao_key) -> bytes:
    """What a request's answers are signed with."""
    return tcp_ao_calc_traffic_key(
        key, *_ends(key.family, req), req.sk_num, req.sk_dport, req.snt_isn, req.rcv_isn
    )


def tcp_ao_sign_reply(rep: bytearray, at: int, signer: tcp_ao_signer, saddr: int, daddr: int) -> None:
    """Put the option at ``rep[at:]`` of a segment that is only a header."""
    option = tcp_ao_option(signer.key, signer.keyid, signer.rnext)
    rep[at : at + len(option)] = option
    mac = tcp_ao_hash(signer.key, signer.traffic_key, signer.sne, saddr, daddr, bytes(rep), at + 4, b"")
    rep[at + 4 : at + 4 + len(mac)] = mac


# -- answers that no connection sends ------------------------------------------------------------------------------


def tcp_ao_connection_signer(sk: Any, seq: int) -> tcp_ao_signer | None:
    """For a connection (RST) or a TIME_WAIT socket (ACK): its current key."""
    info = sk.ao_info
    if info is None or info.current_key is None or info.rnext_key is None:
        return None
    key = info.current_key
    sne = tcp_ao_compute_sne(info.snd_sne, info.snd_basis, seq)
    return tcp_ao_signer(key, key.snd_traffic, info.rnext_key.rcvid, sne)


def tcp_ao_request_signer(sk: tcp_sock, req: tcp_request_sock) -> tcp_ao_signer | None:
    """For the ACK of a request."""
    key = tcp_ao_lookup(sk, req, req.ao_keyid, -1) if req.used_tcp_ao else None
    return None if key is None else tcp_ao_signer(key, _request_key(req, key), req.ao_rcv_next, 0)


def tcp_ao_prepare_reset(sk: tcp_sock, skb: sk_buff, seq: int) -> tcp_ao_signer | None:
    """For a RST to a signed segment at a listener or connection; None if no key is there: then no RST goes."""
    if sk.sk_state not in (TCP_LISTEN, TCP_CLOSE):
        return tcp_ao_connection_signer(sk, seq)
    option = tcp_parse_ao_option(skb)
    iph, th = ip_hdr(skb), tcp_hdr(skb)
    key = tcp_ao_do_lookup(sk, iph.saddr, skb_family(skb), option[2], -1) if option is not None else None
    if key is None or option is None:
        return None
    ours = (th.ack_seq - 1) & MASK32 if th.flags & TCPHDR_ACK else 0
    theirs = th.seq if th.flags & TCPHDR_SYN else (th.seq - 1) & MASK32
    traffic_key = tcp_ao_calc_traffic_key(key, iph.daddr, iph.saddr, th.dest, th.source, ours, theirs)
    return tcp_ao_signer(key, traffic_key, option[1], 0)


# -- receiving -----------------------------------------------------------------------------------------------------


def skb_family(skb: sk_buff) -> int:
    """Of a received packet."""
    return AF_INET6 if skb.protocol == ETH_P_IPV6 else AF_INET


def tcp_ao_required(sk: tcp_sock, saddr: int, family: int) -> bool:
    """Whether a segment without the option is not acceptable; counted if so."""
    info = sk.ao_info
    if info is None or not (info.ao_required or tcp_ao_do_lookup(sk, saddr, family, -1, -1) is not None):
        return False
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPAOREQUIRED)
    info.required += 1
    return True


def tcp_inbound_ao_hash(
    sk: tcp_sock, skb: sk_buff, req: tcp_request_sock | None, saddr: int, family: int
) -> int:
    """Judge a segment at a socket with keys, or one with the option: 0, or the reason to drop it (counted)."""
    net = sk.sk_net
    option = tcp_parse_ao_option(skb)
    if req is not None and req.used_tcp_ao != (option is not None):
        NET_INC_STATS(net, LINUX_MIB_TCPAOBAD)
        return SKB_DROP_REASON_TCP_AOFAILURE
    if option is None:
        return SKB_DROP_REASON_TCP_AONOTFOUND if tcp_ao_required(sk, saddr, family) else SKB_NOT_DROPPED_YET
    info = sk.ao_info
    if info is None:
        NET_INC_STATS(net, LINUX_MIB_TCPAOKEYNOTFOUND)
        return SKB_DROP_REASON_TCP_AOUNEXPECTED
    key = tcp_ao_do_lookup(sk, saddr, family, -1, option[1])
    if key is None:
        NET_INC_STATS(net, LINUX_MIB_TCPAOKEYNOTFOUND)
        info.key_not_found += 1
        return SKB_DROP_REASON_TCP_AOKEYNOTFOUND
    found = _inbound_key(sk, skb, req, key)
    if found is None:
        return SKB_DROP_REASON_TCP_FLAGS
    reason = _verify(sk, skb, info, key, found, option)
    if not reason and info.current_key is not None and option[2] != info.current_key.sndid:
        # The peer would like to see another key; one that is not there is not taken.
        info.current_key = tcp_ao_do_lookup(sk, saddr, family, option[2], -1) or info.current_key
    return reason


def _inbound_key(
    sk: tcp_sock, skb: sk_buff, req: tcp_request_sock | None, key: tcp_ao_key
) -> tuple[bytes, int] | None:
    """(traffic key, extension) of a received segment; None if there is no telling."""
    th, iph = tcp_hdr(skb), ip_hdr(skb)
    syn = th.flags & (TCPHDR_SYN | TCPHDR_ACK) == TCPHDR_SYN
    info = sk.ao_info
    assert info is not None
    if not syn and sk.sk_state != TCP_LISTEN:
        _advance(info, sk)
        return key.rcv_traffic, tcp_ao_compute_sne(info.rcv_sne, sk.rcv_nxt, th.seq)
    sne = 0
    if syn:
        sisn, disn = th.seq, 0
    elif req is not None:
        sisn, disn = req.rcv_isn, req.snt_isn
        sne = tcp_ao_compute_sne(0, sisn, th.seq)
    elif th.flags & TCPHDR_ACK and not th.flags & TCPHDR_SYN:
        # As if it brought a cookie back.
        sisn, disn = (th.seq - 1) & MASK32, (th.ack_seq - 1) & MASK32
        sne = tcp_ao_compute_sne(0, sisn, th.seq)
    else:
        return None
    return tcp_ao_calc_traffic_key(key, iph.saddr, iph.daddr, th.source, th.dest, sisn, disn), sne


def _verify(
    sk: tcp_sock, skb: sk_buff, info: tcp_ao_info, key: tcp_ao_key, found: tuple[bytes, int],
    option: tuple[int, int, int, bytes],
) -> int:  # fmt: skip
    iph = ip_hdr(skb)
    header, data = _split(skb)
    good = len(option[3]) == key.maclen and hmac.compare_digest(
        option[3], tcp_ao_hash(key, found[0], found[1], iph.saddr, iph.daddr, header, option[0], data)
    )
    if not good:
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPAOBAD)
        info.pkt_bad += 1
        return SKB_DROP_REASON_TCP_AOFAILURE
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPAOGOOD)
    info.pkt_good += 1
    return SKB_NOT_DROPPED_YET


def tcp_ao_ignore_icmp(sk: Any, family: int, type_: int, code: int) -> bool:
    """RFC 5925, section 7.8: hard errors (protocol, port, fragmentation needed; for IPv6 administratively prohibited
    and port) about a signed connection are not believed, unless the application said so."""
    info = sk.ao_info
    hard = type_ == 1 and code in (1, 4) if family == AF_INET6 else type_ == 3 and 2 <= code <= 4
    if info is None or info.accept_icmps or not hard:
        return False
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPAODROPPEDICMPS)
    info.dropped_icmp += 1
    return True


# -- the request and the child -------------------------------------------------------------------------------------


def tcp_ao_init_request(req: tcp_request_sock, skb: sk_buff) -> None:
    """A signed SYN, or the ACK of a cookie (it was verified): the ids that the answer bears."""
    option = tcp_parse_ao_option(skb)
    if option is not None:
        req.used_tcp_ao = True
        req.ao_rcv_next, req.ao_keyid = option[1], option[2]


def tcp_ao_copy_all_matching(sk: tcp_sock, newsk: tcp_sock, req: tcp_request_sock) -> bool:
    """Give the child its peer's keys; False if the key that it has to sign with is gone."""
    info = sk.ao_info
    if info is None or not req.used_tcp_ao:
        return info is None or not req.used_tcp_ao
    new = tcp_ao_info()
    new.ao_required, new.accept_icmps = info.ao_required, info.accept_icmps
    new.snd_basis, new.rcv_basis = req.snt_isn, req.rcv_isn
    addr, family = _peer(newsk)
    for key in info.head:
        if key.family == family and not (key.addr ^ addr) >> (_width(family) - key.prefixlen):
            new.head.append(_cached(key, newsk, req))
    newsk.ao_info = new
    new.current_key = tcp_ao_do_lookup(newsk, addr, family, req.ao_keyid, -1)
    new.rnext_key = tcp_ao_do_lookup(newsk, addr, family, -1, req.ao_rcv_next)
    sk_gso_disable(newsk)
    return new.current_key is not None and new.rnext_key is not None


def _cached(key: tcp_ao_key, newsk: tcp_sock, req: tcp_request_sock) -> tcp_ao_key:
    """A copy with the traffic keys of both directions."""
    new = tcp_ao_key(
        key.addr, key.prefixlen, key.keyflags, key.sndid, key.rcvid, key.maclen, key.key, key.family, key.algo
    )
    local, peer = _ends(key.family, newsk)
    new.snd_traffic = tcp_ao_calc_traffic_key(new, local, peer, req.sk_num, req.sk_dport, req.snt_isn, req.rcv_isn)
    new.rcv_traffic = tcp_ao_calc_traffic_key(new, peer, local, req.sk_dport, req.sk_num, req.rcv_isn, req.snt_isn)
    return new


# -- socket options ------------------------------------------------------------------------------------------------


def tcp_parse_ao(sk: tcp_sock, optname: int, optval: int | bytes) -> int:
    """setsockopt(TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_AO_INFO) on a listener or a socket that will be one: 0 or a
    negative errno."""
    if isinstance(optval, int) or sk.sk_state not in (TCP_CLOSE, TCP_LISTEN):
        return -errno.EINVAL
    if optname == TCP_AO_ADD_KEY:
        return tcp_ao_add_cmd(sk, optval)
    if optname == TCP_AO_DEL_KEY:
        return tcp_ao_del_cmd(sk, optval)
    return tcp_ao_info_cmd(sk, optval)


def _parse_peer(sk: tcp_sock, storage: bytes, prefixlen: int) -> tuple[int, int, int] | None:
    """(address, family, prefix length) of a struct sockaddr_storage, of IPv4 if it is a mapped address; None if it is
    no peer of this socket's: another family, a port, bits beyond the prefix."""
    family, port, raw = SOCKADDR_IN.unpack_from(storage)
    if family == AF_INET6 and sk.sk_family == AF_INET6:
        _, port, raw = SOCKADDR_IN6.unpack_from(storage)
    elif family != AF_INET or sk.sk_family != AF_INET:
        return None
    addr = int.from_bytes(raw, "big")
    if family == AF_INET6 and ipv6_addr_v4mapped(addr):
        addr, family = addr & MASK32, AF_INET  # and the prefix is one of IPv4
    if port != b"\0\0" or prefixlen > _width(family) or addr & ((1 << (_width(family) - prefixlen)) - 1):
        return None
    return addr, family, prefixlen


def tcp_ao_add_cmd(sk: tcp_sock, optval: bytes) -> int:
    """A new key: 0, -EINVAL, -ENOENT (unknown algorithm), -EEXIST (one of its ids is taken for such a peer), -EMSGSIZE
    (a SYN has no room for that MAC), -EKEYREJECTED (the peer has an MD5 key)."""
    if len(optval) < AO_ADD.size:
        return -errno.EINVAL
    storage, name, ifindex, bits, reserved, *small, key = AO_ADD.unpack_from(optval)
    prefixlen, sndid, rcvid, maclen, keyflags, keylen = small
    peer = _parse_peer(sk, storage, prefixlen)
    if bits or reserved or ifindex or keylen > TCP_AO_MAXKEYLEN or keyflags & ~TCP_AO_KEYF_EXCLUDE_OPT:
        return -errno.EINVAL
    if peer is None:
        return -errno.EINVAL
    algo = name.split(b"\0", 1)[0]
    if algo not in DIGEST_SIZE:
        return -errno.ENOENT
    maclen = maclen or DEFAULT_MACLEN
    addr, family, prefixlen = peer
    new = tcp_ao_key(addr, prefixlen, keyflags, sndid, rcvid, maclen, key[:keylen], family, algo)
    if maclen > DIGEST_SIZE[algo] or tcp_ao_len_aligned(new) > SYN_OPTION_SPACE:
        return -errno.EMSGSIZE
    if any(_overlap(new, old) for old in (sk.md5sig_info.head if sk.md5sig_info is not None else [])):
        return -errno.EKEYREJECTED
    info = sk.ao_info or tcp_ao_info()
    if any(_overlap(new, old) and (sndid == old.sndid or rcvid == old.rcvid) for old in info.head):
        return -errno.EEXIST
    info.head.insert(0, new)
    sk.ao_info = info
    return 0


def _overlap(a: Any, b: Any) -> bool:
    if a.family != b.family:
        return False
    return not (a.addr ^ b.addr) >> (_width(a.family) - min(a.prefixlen, b.prefixlen))


def tcp_ao_del_cmd(sk: tcp_sock, optval: bytes) -> int:
    """Remove the key of exactly this peer and these ids; 0, -EINVAL or -ENOENT."""
    if len(optval) < AO_DEL.size:
        return -errno.EINVAL
    storage, ifindex, bits, reserved, *small = AO_DEL.unpack_from(optval)
    prefixlen, sndid, rcvid, _current, _rnext, keyflags = small
    peer = _parse_peer(sk, storage, prefixlen)
    if reserved or bits & (SET_CURRENT | SET_RNEXT) or ifindex or peer is None:
        return -errno.EINVAL
    wanted = (*peer, sndid, rcvid, keyflags)
    for key in sk.ao_info.head if sk.ao_info is not None else []:
        if (key.addr, key.family, key.prefixlen, key.sndid, key.rcvid, key.keyflags) == wanted:
            assert sk.ao_info is not None
            sk.ao_info.head.remove(key)
            return 0
    return -errno.ENOENT


def tcp_ao_info_cmd(sk: tcp_sock, optval: bytes) -> int:
    """ao_required, accept_icmps and the counters; 0 or -EINVAL (a listener has no current key to set)."""
    if len(optval) < AO_INFO.size:
        return -errno.EINVAL
    bits, reserved, _current, _rnext, *counters = AO_INFO.unpack_from(optval)
    if reserved or bits & (SET_CURRENT | SET_RNEXT):
        return -errno.EINVAL
    info = sk.ao_info or tcp_ao_info()
    info.ao_required, info.accept_icmps = bool(bits & AO_REQUIRED), bool(bits & ACCEPT_ICMPS)
    if bits & SET_COUNTERS:
        info.pkt_good, info.pkt_bad, info.key_not_found, info.required, info.dropped_icmp = counters
    sk.ao_info = info
    return 0


def tcp_ao_get_sock_info(sk: tcp_sock) -> tuple[int, bytes]:
    """getsockopt(TCP_AO_INFO): a struct tcp_ao_info_opt, or -ENOENT without keys."""
    info = sk.ao_info
    if info is None:
        return -errno.ENOENT, b""
    bits = AO_REQUIRED * info.ao_required | ACCEPT_ICMPS * info.accept_icmps
    current = rnext = 0
    if info.current_key is not None and info.rnext_key is not None:
        bits |= SET_CURRENT | SET_RNEXT
        current, rnext = info.current_key.sndid, info.rnext_key.rcvid
    counters = (info.pkt_good, info.pkt_bad, info.key_not_found, info.required, info.dropped_icmp)
    return 0, AO_INFO.pack(bits, 0, current, rnext, *counters)
