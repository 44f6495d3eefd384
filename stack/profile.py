# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel a Stack behaves like: sysctl defaults and version-dependent behaviour.

``linux-6.1`` is Debian 12's kernel (6.1.192, HZ=250, 1 GiB of memory, cubic) and the default; every value of it and
every switch was measured on that kernel.  ``linux-6.18`` is measured too where both kernels were looked at; what a
switch says is in its comment.  A sysctl that follows the host's memory is the value of a 1 GiB machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from stack.include.sysctl import SysctlValue


@dataclass(frozen=True, slots=True)
class Profile:
    """``sysctl`` are the departures from the defaults of include/sysctl.py."""

    name: str
    sysctl: dict[str, SysctlValue] = field(default_factory=dict)
    # An ACK of data that was never sent draws a challenge ACK; else it is dropped in silence.
    ack_unsent_challenge: bool = False
    # The TCP authentication option (RFC 5925) is known.
    tcp_ao: bool = False
    # A SYN into TIME_WAIT gets ISN snd_nxt + 65537 and skips the listener's queue checks; else the ordinary ISN
    # and the ordinary checks.
    tw_syn_isn_from_snd_nxt: bool = False
    # An old duplicate in TIME_WAIT counts in PAWSTimewait; else in PAWSEstab.
    paws_timewait_counter: bool = False
    # The receive window grows while nobody reads (scaling_ratio by skb truesize); else it is a fixed half of the
    # buffer by tcp_adv_win_scale.
    window_by_scaling_ratio: bool = False
    # The window after the handshake is all of the buffer's share; else no more than a SYN's field can say, 65535.
    first_window_unbounded: bool = False
    # Of the third ACK: a TSecr that was never sent is refused (TSEcrRejected).
    tsecr_checked: bool = False
    # Bytes of struct tcp_info.
    tcp_info_len: int = 232
    # Of data behind a hole what is farthest away is given up first, be it what just came (kernels since 6.2); else what
    # is there makes room for it.
    ofo_prune_in_order: bool = False
    # A segment that there is no room for closes the window (kernels since 6.6); even the first in order asks for room,
    # and is then taken without.
    nomem_closes_window: bool = False
    # Data beyond the right edge of the window is cut or dropped (BeyondWindow); else a segment that starts inside
    # is taken whole.
    beyond_window_dropped: bool = False
    # An ACK with nothing new but a window of 0 closes the window (kernels since 6.6); else it is ignored.
    ack_again_closes_window: bool = False
    # A segment with a malformed or a second authentication option is dropped uncounted; else such an option is none.
    auth_options_checked: bool = False
    # Header prediction reckons with the signature of a signed connection; else its segments all take the slow path.
    md5_predicted: bool = True
    # TCP_INFO's options tell a child that a Fast Open SYN made (TCPI_OPT_TFO_CHILD).
    info_shows_tfo_child: bool = False
    # SO_TIMESTAMPING knows SOF_TIMESTAMPING_OPT_ID_TCP (kernels since 6.2).
    timestamping_opt_id_tcp: bool = False
    # With SACK losses are found by RACK whatever tcp_recovery says; else without its bit 1 by counting segments.
    rack_always: bool = False
    # Bytes of the send buffer that a packet of it takes beside its payload.
    tx_skb_truesize: int = 1280
    # A packet that is about to be sent is filled with payload of the next one, as far as cwnd allows.
    skb_grown: bool = False
    # A FIN without data waits for cwnd as everything else does; else it goes at once.
    fin_in_cwnd: bool = False
    # Data behind a hole tell the peer's segment size too.
    ofo_measured: bool = False
    # A FIN without data is taken when the window is closed; else it is dropped, as data are.
    fin_in_zero_window: bool = False
    # A small received frame has a buffer of 576 bytes; else one of a power of two.
    small_heads: bool = False
    # The receiver's round trip estimate follows the smallest sample; else time stamps' samples are smoothed.
    rcv_rtt_minimal: bool = False
    # Socket options as kernels after 6.1 have them: SO_PEEK_OFF of streams; SO_PASSCRED, SO_PASSSEC and a datagram
    # socket's SO_TXREHASH are refused; TCP_RTO_MIN_US, TCP_DELACK_MAX_US and TCP_IS_MPTCP are known; a negative
    # TCP_WINDOW_CLAMP is the smallest, a negative TCP_TX_DELAY is refused.
    newer_options: bool = False
    # OutOctets and OutTransmits of IP count each fragment (kernels since 6.6); else the packet before it is cut.
    octets_by_fragment: bool = False
    # Data that came twice over IPv4 make the socket choose another transmit hash, as over IPv6.
    duplicate_data_rehash: bool = True
    # UDP_SEGMENT goes through a device that sums no checksums; else it is EIO there.
    udp_gso_any_device: bool = False
    # Accurate ECN (RFC 9768) is known; and its handshake is that of kernels that can be told to offer it.
    accecn: bool = False
    accecn_offered: bool = False
    # The largest values of sysctls (the smallest is 0).
    sysctl_max: dict[str, int] = field(default_factory=dict)
    # TcpExt and Icmp counters that /proc/net/netstat and snmp have not.
    absent_counters: frozenset[str] = frozenset()


_SINCE_6_2 = frozenset(
    {
        "OutTransmits",
        "BeyondWindow",
        "TSEcrRejected",
        "PAWSOldAck",
        "PAWSTimewait",
        "TCPPLBRehash",
        "TCPAORequired",
        "TCPAOBad",
        "TCPAOKeyNotFound",
        "TCPAOGood",
        "TCPAODroppedIcmps",
    }
)

_LINUX_6_18 = Profile(
    "linux-6.18",
    sysctl={
        "tcp_rmem": (4096, 131072, 33554432),
        "core.rmem_max": 4194304,
        "core.wmem_max": 4194304,
        "tcp_max_syn_backlog": 2048,
        "tcp_limit_output_bytes": 4194304,
        "tcp_syn_linear_timeouts": 4,
    },
    ack_unsent_challenge=True,
    tcp_ao=True,
    tw_syn_isn_from_snd_nxt=True,
    paws_timewait_counter=True,
    window_by_scaling_ratio=True,
    nomem_closes_window=True,
    tcp_info_len=280,
    ofo_prune_in_order=True,
    first_window_unbounded=True,
    tsecr_checked=True,
    beyond_window_dropped=True,
    ack_again_closes_window=True,
    auth_options_checked=True,
    md5_predicted=False,
    info_shows_tfo_child=True,
    timestamping_opt_id_tcp=True,
    rack_always=True,
    tx_skb_truesize=832,
    skb_grown=True,
    fin_in_cwnd=True,
    ofo_measured=True,
    small_heads=True,
    rcv_rtt_minimal=True,
    fin_in_zero_window=True,
    newer_options=True,
    octets_by_fragment=True,
    duplicate_data_rehash=False,
    udp_gso_any_device=True,
    accecn=True,
    sysctl_max={"tcp_ecn": 2, "tcp_ecn_option": 2, "tcp_ecn_option_beacon": 3},
)

PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile("linux-6.1", absent_counters=_SINCE_6_2, sysctl_max={"tcp_ecn": 2}),
        _LINUX_6_18,
        replace(
            _LINUX_6_18,
            name="linux-7.3",
            accecn_offered=True,
            sysctl_max={"tcp_ecn": 5, "tcp_ecn_option": 3, "tcp_ecn_option_beacon": 3},
        ),
    )
}

# What Debian 12's 6.1 sets by its machine's memory (MiB), each measured; the profile has the values for 1024.
_MEMORY: Final[dict[int, dict[str, SysctlValue]]] = {
    512: {"tcp_rmem": (4096, 131072, 3679840), "tcp_max_syn_backlog": 128},
    1024: {"tcp_rmem": (4096, 131072, 6291456), "tcp_max_syn_backlog": 128},
    2048: {"tcp_rmem": (4096, 131072, 6291456), "tcp_max_syn_backlog": 128},
    4096: {"tcp_rmem": (4096, 131072, 6291456), "tcp_max_syn_backlog": 256},
    8192: {"tcp_rmem": (4096, 131072, 6291456), "tcp_max_syn_backlog": 512},
}


def memory_sysctl(mib: int) -> dict[str, SysctlValue]:
    """Linux 6.1's sysctls on a machine of that much memory, for ``Stack(sysctl=...)``: those of the largest machine
    measured that has no more, or of the smallest."""
    fits = [size for size in _MEMORY if size <= mib] or [min(_MEMORY)]
    return dict(_MEMORY[max(fits)])


def profile_by_name(name: str) -> Profile:
    """The profile of that name; KeyError that lists those there are."""
    if name not in PROFILES:
        raise KeyError(f"no kernel profile {name!r}: there are {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
