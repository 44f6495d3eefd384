# SPDX-License-Identifier: GPL-2.0-or-later
"""Explicit congestion notification in TCP, classic and accurate: include/net/tcp_ecn.h.

Classic ECN (RFC 3168) says once per round trip that something was marked.  Accurate ECN (AccECN, RFC 9768) counts: the
receiver returns the number of packets that came with CE in the ACE field, the three header flags AE, CWR and ECE,
modulo 8 and with an offset of 5, and the bytes that came with each codepoint in an option of kind 172 or 174.

What a connection speaks is the mode in ``tp.ecn_flags``: none, TCP_ECN_MODE_RFC3168, TCP_ECN_MODE_ACCECN, and both bits
(PENDING) while our own SYN offers Accurate ECN.

    as server   SYN with ACE other than 0 and CWR+ECE, tcp_ecn 3..5 -> SYN-ACK reflects the SYN's IP codepoint in ACE,
                the third ACK reflects the SYN-ACK's; either may show that the path changes codepoints
    as client   SYN with AE, CWR and ECE (tcp_ecn 3); what the SYN-ACK's ACE says decides the mode
    receiver    received_ce, received_ecn_bytes; a codepoint other than the last packet's is acknowledged at once
    sender      delivered_ce from ACE's difference to what is known (tcp_accecn_process() in tcp_input.py), which, when
                many packets were acknowledged at once, may have wrapped; one reduction per round trip

The option goes out only after one of the peer's was seen: with ``tcp_ecn_option`` 2 and 3 in every segment that has
room, with 1 in the two after a change, those with new CE, at least once per 4 MiB, and ``tcp_ecn_option_beacon``
times per round trip.  It has as many of its fields as fit, at least those that changed since it was last sent; for
them SACK gives up blocks beyond the second.  ``accecn_fail_mode`` remembers what the path does not let through.

Which kernel does what (measured; profile switches ``accecn`` and ``accecn_offered``): 6.1 has none of it.  6.18 has
it all, but its tcp_ecn ends at 2, so that it never offers or accepts: Accurate ECN begins there only when a SYN-ACK
answers a classic offer (tcp_ecn 1) with an accurate one.  7.3 has tcp_ecn 0..5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.inet_connection_sock import ICSK_ACK_NOW
from stack.include.ip import INET_ECN_CE, INET_ECN_ECT_0, INET_ECN_ECT_1, INET_ECN_MASK, INET_ECN_NOT_ECT
from stack.include.tcp import (
    TCP_ECN_MODE_ACCECN,
    TCP_ECN_MODE_ANY,
    TCP_ECN_MODE_RFC3168,
    TCP_ECN_SEEN,
    TCPHDR_ACE,
    TCPHDR_AE,
    TCPHDR_CWR,
    TCPHDR_ECE,
)
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.include.tcp import tcp_accecn_option, tcp_sock, tcphdr

# net.ipv4.tcp_ecn: what is accepted, and what is offered
TCP_ECN_IN_NOECN_OUT_NOECN: Final = 0
TCP_ECN_IN_ECN_OUT_ECN: Final = 1
TCP_ECN_IN_ECN_OUT_NOECN: Final = 2
TCP_ECN_IN_ACCECN_OUT_ACCECN: Final = 3
TCP_ECN_IN_ACCECN_OUT_ECN: Final = 4
TCP_ECN_IN_ACCECN_OUT_NOECN: Final = 5

# net.ipv4.tcp_ecn_option
TCP_ACCECN_OPTION_DISABLED: Final = 0
TCP_ACCECN_OPTION_MINIMUM: Final = 1
TCP_ACCECN_OPTION_FULL: Final = 2
TCP_ACCECN_OPTION_PERSIST: Final = 3

# The ACE field and its counters: RFC 9768, sections 2.1 and 3.2.1
TCP_ACCECN_CEP_ACE_MASK: Final = 7
TCP_ACCECN_CEP_INIT_OFFSET: Final = 5
TCP_ACCECN_ACE_MAX_DELTA: Final = 6
_PENDING_MAX: Final = 15

# The option: RFC 9768, section 3.2.3.  The byte counters of ECT(1) and ECT(0) begin at 1, that of CE at 0.
TCPOLEN_ACCECN_BASE: Final = 2
TCPOLEN_ACCECN_PERFIELD: Final = 3
TCP_ACCECN_NUMFIELDS: Final = 3
TCP_ACCECN_E1B_INIT_OFFSET: Final = 1
TCP_ACCECN_E0B_INIT_OFFSET: Final = 1
TCP_ACCECN_CEB_INIT_OFFSET: Final = 0
ACCECN_OPTION_ORDER: Final = (INET_ECN_ECT_1, INET_ECN_CE, INET_ECN_ECT_0)  # kind 174; 172 has the reverse
_INIT_OFFSETS: Final = (TCP_ACCECN_E1B_INIT_OFFSET, TCP_ACCECN_E0B_INIT_OFFSET, TCP_ACCECN_CEB_INIT_OFFSET)
_MASK24: Final = (1 << 24) - 1
_SIGN24: Final = 1 << 23
_OFTEN_ENOUGH: Final = ~((1 << 22) - 1)  # bits of a byte counter of which a change must not go untold

# tp.saw_accecn_opt
TCP_ACCECN_OPT_NOT_SEEN: Final = 0
TCP_ACCECN_OPT_EMPTY_SEEN: Final = 1
TCP_ACCECN_OPT_COUNTER_SEEN: Final = 2
TCP_ACCECN_OPT_FAIL_SEEN: Final = 3

# tp.accecn_fail_mode
TCP_ACCECN_ACE_FAIL_SEND: Final = 1 << 0
TCP_ACCECN_ACE_FAIL_RECV: Final = 1 << 1
TCP_ACCECN_OPT_FAIL_SEND: Final = 1 << 2
TCP_ACCECN_OPT_FAIL_RECV: Final = 1 << 3

# RFC 9768, table 3: the ACE that tells which codepoint a SYN or a SYN-ACK came with
_REFLECTED: Final = {
    INET_ECN_NOT_ECT: 0b010,
    INET_ECN_ECT_1: 0b011,
    INET_ECN_ECT_0: 0b100,
    INET_ECN_CE: 0b110,
}
_REFLECTED_ECT: Final = {ace: ect for ect, ace in _REFLECTED.items()}


# -- modes ------------------------------------------------------------------------------------------------------------


def tcp_ecn_mode_any(tp: tcp_sock) -> bool:
    return tp.ecn_flags & TCP_ECN_MODE_ANY != 0


def tcp_ecn_mode_rfc3168(tp: tcp_sock) -> bool:
    return tp.ecn_flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_RFC3168


def tcp_ecn_mode_accecn(tp: tcp_sock) -> bool:
    return tp.ecn_flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_ACCECN


def tcp_ecn_mode_pending(tp: tcp_sock) -> bool:
    return tp.ecn_flags & TCP_ECN_MODE_ANY == TCP_ECN_MODE_ANY


def tcp_ecn_mode_set(tp: tcp_sock, mode: int) -> None:
    tp.ecn_flags = tp.ecn_flags & ~TCP_ECN_MODE_ANY | mode


# -- the ACE field ----------------------------------------------------------------------------------------------------


def tcp_accecn_ace(th: tcphdr) -> int:
    """AE, CWR and ECE of a received header, as a number of 0 to 7."""
    return (th.res1 & 1) << 2 | th.flags >> 6 & 3


def tcp_accecn_ace_flags(ace: int) -> int:
    """The TCPHDR_* bits of an ACE field, of which the low three bits count."""
    flags = TCPHDR_ECE if ace & 1 else 0
    flags |= TCPHDR_CWR if ace & 2 else 0
    return flags | TCPHDR_AE if ace & 4 else flags


def tcp_accecn_syn_requested(th: tcphdr) -> bool:
    """Whether a SYN offers Accurate ECN: with all three bits, or with any others that no older ECN uses (RFC 9768,
    section 3.1.3)."""
    return tcp_accecn_ace(th) not in (0b000, 0b011)


def tcp_accecn_reflector_flags(ect: int) -> int:
    """The header flags that say which codepoint the peer's SYN or SYN-ACK came with."""
    return tcp_accecn_ace_flags(_REFLECTED[ect])


def tcp_accecn_extract_syn_ect(ace: int) -> int:
    """The codepoint that the peer says our SYN-ACK had; not-ECT for an ACE that says nothing of it."""
    return _REFLECTED_ECT.get(ace, INET_ECN_NOT_ECT)


def tcp_ect_transition_valid(snt: int, rcv: int) -> bool:
    """Whether the path may have made one codepoint of the other: only marking CE is allowed."""
    return rcv == snt or (snt != INET_ECN_NOT_ECT and rcv == INET_ECN_CE)


def tcp_accecn_validate_syn_feedback(sk: tcp_sock, ace: int, sent_ect: int) -> bool:
    """Compare what the peer saw with what was sent.  A path that changes codepoints otherwise than to CE ends our use
    of ECT; what the peer sends may go on (RFC 9768, section 3.2.2.3)."""
    if not sk.sk_net.ipv4.sysctl_tcp_ecn_fallback:
        return True
    if tcp_ect_transition_valid(sent_ect, tcp_accecn_extract_syn_ect(ace)):
        return True
    sk.accecn_fail_mode |= TCP_ACCECN_ACE_FAIL_RECV
    return False


def tcp_accecn_third_ack(sk: tcp_sock, skb: sk_buff, sent_ect: int) -> None:
    """The ACE of the segment that ends the handshake (RFC 9768, section 3.2.2.1): zero means that the path or the peer
    does not do it; of one without data it is the SYN-ACK's codepoint; 1, 5 and 7 say nothing."""
    ace = tcp_accecn_ace(skb.h_th)
    if ace == 0:
        sk.accecn_fail_mode |= TCP_ACCECN_ACE_FAIL_RECV | TCP_ACCECN_OPT_FAIL_RECV
    elif ace in _REFLECTED_ECT and skb.cb.seq == skb.cb.end_seq:
        valid = tcp_accecn_validate_syn_feedback(sk, ace, sent_ect)
        if valid and _REFLECTED_ECT[ace] == INET_ECN_CE and not sk.delivered_ce:
            sk.delivered_ce += 1


def tcp_accecn_set_ace(tp: tcp_sock, flags: int) -> int:
    """Header flags with the count of CE; those of a segment that reflects the handshake's codepoint are left alone."""
    if flags & TCPHDR_ACE:
        return flags
    tp.received_ce_pending = 0
    return flags | tcp_accecn_ace_flags(tp.received_ce + TCP_ACCECN_CEP_INIT_OFFSET)


# -- what is received -------------------------------------------------------------------------------------------------


def tcp_accecn_opt_demand_min(tp: tcp_sock, opt_demand_min: int) -> None:
    tp.accecn_opt_demand = max(tp.accecn_opt_demand, opt_demand_min)


def tcp_ecn_received_counters(tp: tcp_sock, skb: sk_buff, length: int) -> None:
    """Count a packet in sequence with ``length`` bytes of payload: segments with CE, and bytes by codepoint;
    whatever the mode.  A codepoint other than the packet's before has to be acknowledged at once, so that the
    sender can tell which bytes had which (RFC 9768, section 3.2.3.3)."""
    ecnfield = skb.cb.ip_dsfield & INET_ECN_MASK
    edge = ecnfield != tp.prev_ecnfield
    if edge or ecnfield == INET_ECN_CE:
        tp.prev_ecnfield = ecnfield
        if tcp_ecn_mode_accecn(tp):
            if edge:
                tp.icsk_ack.pending |= ICSK_ACK_NOW
            tp.accecn_opt_demand = 2
    if ecnfield == INET_ECN_NOT_ECT:
        return
    if not tcp_ecn_mode_rfc3168(tp):
        tp.ecn_flags |= TCP_ECN_SEEN
    if ecnfield == INET_ECN_CE:
        segments = max(skb.gso_segs, 1)
        tp.received_ce = (tp.received_ce + segments) & MASK32
        tp.received_ce_pending = min(tp.received_ce_pending + segments, _PENDING_MAX)
    if length:
        old = tp.received_ecn_bytes[ecnfield - 1]
        new = tp.received_ecn_bytes[ecnfield - 1] = (old + length) & MASK32
        tp.accecn_minlen = max(tp.accecn_minlen, ACCECN_OPTION_ORDER.index(ecnfield) + 1)
        if (new ^ old) & _OFTEN_ENOUGH:
            tcp_accecn_opt_demand_min(tp, 1)


# -- the option -------------------------------------------------------------------------------------------------------


def tcp_accecn_option_beacon_check(sk: tcp_sock) -> bool:
    """Whether the option was not sent for so long that it is due again."""
    beacon = sk.sk_net.ipv4.sysctl_tcp_ecn_option_beacon
    return beacon != 0 and (sk.tcp_mstamp - sk.accecn_opt_tstamp) * beacon >= sk.srtt_us >> 3


def tcp_accecn_option_wanted(sk: tcp_sock) -> bool:
    """Whether the segment about to be sent should have the option."""
    setting = sk.sk_net.ipv4.sysctl_tcp_ecn_option
    if not setting or not sk.saw_accecn_opt:
        return False
    if sk.accecn_fail_mode & TCP_ACCECN_OPT_FAIL_SEND and setting != TCP_ACCECN_OPTION_PERSIST:
        return False
    return (
        setting >= TCP_ACCECN_OPTION_FULL or sk.accecn_opt_demand != 0 or tcp_accecn_option_beacon_check(sk)
    )


def tcp_accecn_option_fields(received_ecn_bytes: list[int], count: int) -> bytes:
    """The first ``count`` counters as kind 174 has them, 24 bits each."""
    out = b""
    for codepoint in ACCECN_OPTION_ORDER[:count]:
        value = received_ecn_bytes[codepoint - 1] + _INIT_OFFSETS[codepoint - 1]
        out += (value & _MASK24).to_bytes(3, "big")
    return out


def tcp_accecn_option_init(option: tcp_accecn_option) -> int:
    """What the peer's first option shows (TCP_ACCECN_OPT_*): nothing if it is empty; a counter of ECT(0) or ECT(1) that
    is zero was zeroed on the way, as they begin at 1 (RFC 9768, section 3.2.3.2.4)."""
    counters = option.counters()
    if not counters:
        return TCP_ACCECN_OPT_EMPTY_SEEN
    if any(codepoint != INET_ECN_CE and not value for codepoint, value in counters):
        return TCP_ACCECN_OPT_FAIL_SEEN
    return TCP_ACCECN_OPT_COUNTER_SEEN


def tcp_accecn_saw_opt_fail_recv(tp: tcp_sock, saw_opt: int) -> None:
    """Remember what an option showed; one that was zeroed is not to be believed any more."""
    tp.saw_accecn_opt = saw_opt
    if saw_opt == TCP_ACCECN_OPT_FAIL_SEEN:
        tp.accecn_fail_mode |= TCP_ACCECN_OPT_FAIL_RECV


def tcp_update_ecn_bytes(tp: tcp_sock, codepoint: int, value: int) -> int:
    """Bring a counter of delivered bytes up to the 24 bits that the peer says; by how much that changes it, negative if
    the option is older than one before."""
    counters = tp.delivered_ecn_bytes
    delta = (value - _INIT_OFFSETS[codepoint - 1] - counters[codepoint - 1]) & _MASK24
    if delta >= _SIGN24:
        delta -= 1 << 24
    counters[codepoint - 1] = (counters[codepoint - 1] + delta) & MASK32
    return delta
