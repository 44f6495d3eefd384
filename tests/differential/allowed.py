# SPDX-License-Identifier: GPL-2.0-or-later
"""The differences from a real kernel that are allowed, each with its reason.  Anything else fails."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Allowed:
    """``field`` of an answer ("win"; "push" is a difference in PSH alone), a counter ("TcpExt.*"), a field of TCP_INFO
    ("info.lost") or "call", in stimuli that match ``stimuli`` (or do so without the "six-" of a repetition over IPv6).
    Both are patterns with spaces between.  ``side`` is the kernel that differs: "host" behind a TUN device, "guest"
    behind a virtual card, or "*"."""

    field: str
    stimuli: str
    reason: str
    side: str = "*"

    def covers(self, side: str, stimulus: str, field: str) -> bool:
        fields, stimuli = self.field.split(), self.stimuli.split()
        if self.side not in ("*", side):
            return False
        # What an IP packet counts has other names in IPv6.
        names = {stimulus, stimulus.removeprefix("six-")}
        counters = {field, field.replace("Ip6", "Ip.", 1), field.replace("Ip6", "IpExt.", 1)}
        return _match(names, stimuli) and _match(counters, fields)


def _match(texts: set[str], patterns: list[str]) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)


_DRIVER = (
    "memory sizes: virtio-net's buffers are pages, whose data the kernel appends to the buffer before without a copy; "
    "it charges less to the socket for them than for a TUN device's, which ours are like"
)

ALLOWED: tuple[Allowed, ...] = (
    Allowed(
        "tsval",
        "cookies-* ip6-dual-cookie accecn-cookie-*",
        "random numbers: the low bits of a cookie's time stamp hold the options, in up to 64 ms",
    ),
    Allowed("ip_options", "ip-option-ts", "time of day: an IP timestamp option is filled in with it"),
    Allowed(
        "call",
        "sock-timestamping-tx sock-udp-tx-data",
        "random numbers: the copy of a sent packet that comes with its time stamp has its IP identification and "
        "sequence number, and begins with the link header, which a TUN device has none of",
    ),
    Allowed("body", "icmp-timestamp", "time of day: that is what the answer says"),
    Allowed(
        "TcpExt.TCPHPHits",
        "est-echo est-icmp-data-outstanding rec-dup-ack-with-data win-probe-answered-with-data delack-talk* "
        "delack-quickack-on-in-talk timer-data-crosses race-unread-in-flight conn-itself",
        "memory: header prediction needs room in the socket's forward allocation, in which the kernel also counts what "
        "was sent; ours counts only what was received",
    ),
    Allowed(
        "TcpExt.TCPSackShiftFallback TcpExt.TCPSackShifted TcpExt.TCPSackMerged",
        "*",
        "memory: they count how the kernel merges the buffers that a SACK covers, which ours keeps apart",
    ),
    Allowed(
        "push Ip.OutRequests Ip.OutTransmits IpExt.OutOctets",
        "est-send-[0-9]* est-send-mss-* est-send-no-mss est-send-first-flight est-send-window-1000 est-partial-ack "
        "est-sack-* est-dup-acks sock-timestamping-part conn-metrics-reordering* "
        "accecn-sender-* accecn-wrapped-*",
        "congestion control: the pacing rate, from a round trip of microseconds more or less, decides how many "
        "segments make one GSO packet; each of those ends with PSH and counts once in Ip",
    ),
    Allowed(
        "count body Ip6* Icmp6* Tcp.*",
        "ip6-routing-2-left-*",
        "configuration: the host's kernel is built without CONFIG_IPV6_MIP6 and takes a mobile host's routing header "
        "for an unknown one; ours is like Debian's kernels, which have it",
        "host",
    ),
    Allowed(
        "flags reserved urg",
        "accecn-syn-on-connection-* accecn-connect-synack-again-ce",
        "version: of the kernels measured that call themselves 6.18.44 one tells the codepoint of the first SYN-ACK, "
        "as ours does under linux-6.18, another that of the packet at hand, as ours does under linux-7.3",
        "host",
    ),
    Allowed(
        "win TcpExt.TCPRcvCoalesce", "est-data-unread est-data-full-mss* est-delayed-ack", _DRIVER, "guest"
    ),
    Allowed(
        "win TcpExt.TCPHPHits TcpExt.TCPRcvCoalesce TcpExt.TCPWantZeroWindowAdv",
        "est-zero-receive-window",
        "memory sizes: a buffer of 4 KiB holds two or three packets, by what the driver's buffers weigh",
        "host",
    ),
    Allowed(
        "count call info.* Ip.* IpExt.* Tcp.* TcpExt.*",
        "conn-timeout-linear",
        "version: that kernel has no tcp_syn_linear_timeouts, which our stack takes under every profile",
        "guest",
    ),
    Allowed("win count call Ip.* IpExt.* Tcp.* TcpExt.*", "est-zero-receive-window", _DRIVER, "guest"),
    Allowed(
        "count win opts ack call Ip.* IpExt.* Tcp.* TcpExt.*",
        "mem-*-in-order mem-behind-hole mem-behind-many-holes mem-behind-hole-full mem-shrink-window",
        _DRIVER,
        "guest",
    ),
    Allowed(
        "win info.rcv_ssthresh TcpExt.TCPHPHits TcpExt.TCPRcvCoalesce",
        "win-clamp-raised win-read-* win-last-fraction win-past-the-edge win-shrinks-*",
        _DRIVER,
        "guest",
    ),
    Allowed("win TcpExt.TCPHPHits TcpExt.TCPHPAcks TcpExt.TCPRcvCoalesce", "delack-*", _DRIVER, "guest"),
    Allowed(
        "count Ip.* IpExt.* Tcp.* TcpExt.*",
        "delack-talk-threshold-3",
        "version: Linux 6.1 has no tcp_pingpong_thresh",
        "guest",
    ),
    Allowed(
        "count info.segs_out Ip.* IpExt.* Tcp.* TcpExt.*",
        "win-keepalive-when-full win-probe-of-ours",
        _DRIVER,
        "guest",
    ),
    Allowed(
        "call",
        "opt-zerocopy-send opt-zerocopy-reset",
        "the card: virtio-net sends from the application's memory, so no copy is told; a TUN device copies, as ours do",
        "guest",
    ),
)

# Differences that are known and not yet worked on: stimulus, and what is wrong in our stack.
OPEN: dict[str, str] = {}
