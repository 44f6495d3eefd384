# SPDX-License-Identifier: GPL-2.0-or-later
"""The differences from a real kernel that are allowed, each with its reason.  Anything else fails."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Allowed:
    """``field`` of an answer ("win"; "push" is a difference in PSH alone), a counter ("TcpExt.*") or "call", in
    stimuli that match ``stimuli``.  Both are patterns with spaces between.  ``side`` is the kernel that differs:
    "host" behind a TUN device, "guest" behind a virtual card, or "*"."""

    field: str
    stimuli: str
    reason: str
    side: str = "*"

    def covers(self, side: str, stimulus: str, field: str) -> bool:
        fields, stimuli = self.field.split(), self.stimuli.split()
        if self.side not in ("*", side):
            return False
        return any(fnmatchcase(field, f) for f in fields) and any(fnmatchcase(stimulus, s) for s in stimuli)


ALLOWED: tuple[Allowed, ...] = (
    Allowed(
        "tsval",
        "cookies-*",
        "random numbers: the low bits of a cookie's time stamp hold the options, in up to 64 ms",
    ),
    Allowed("ip_options", "ip-option-ts", "time of day: an IP timestamp option is filled in with it"),
    Allowed("body", "icmp-timestamp", "time of day: that is what the answer says"),
    Allowed(
        "TcpExt.TCPHPHits",
        "*",
        "memory sizes: header prediction is skipped while truesize exceeds the socket's forward allocation, which "
        "depends on how the device's driver sized the buffer",
    ),
    Allowed(
        "TcpExt.TCPSackShiftFallback TcpExt.TCPSackShifted TcpExt.TCPSackMerged",
        "*",
        "memory: they count how the kernel merges the buffers that a SACK covers, which ours keeps apart",
    ),
    Allowed(
        "push Ip.OutRequests Ip.OutTransmits IpExt.OutOctets",
        "est-send-[0-9]* est-send-mss-* est-send-no-mss est-send-first-flight est-send-window-1000 est-partial-ack "
        "est-sack-*",
        "congestion control: the pacing rate, from a round trip of microseconds more or less, decides how many "
        "segments make one GSO packet; each of those ends with PSH and counts once in Ip",
    ),
)

_DRIVER = (
    "memory sizes: virtio-net's buffers are pages, whose data the kernel appends to the buffer before without a copy; "
    "it charges less to the socket for them than for a TUN device's, which ours are like"
)

ALLOWED += (
    Allowed(
        "win TcpExt.TCPRcvCoalesce", "est-data-unread est-data-full-mss* est-delayed-ack", _DRIVER, "guest"
    ),
)

_WINDOW = "the receive window does not grow or shrink by scaling_ratio (skb truesize) as 6.18's does"
_FAST = "header prediction takes data whose ACK is too old; the kernel's waits for forward allocation first"

# Differences that are known and not yet worked on: stimulus, and what is wrong in our stack.
OPEN: dict[str, str] = {
    "est-zero-receive-window": _WINDOW,
    "est-data-ack-0": _FAST,
    "est-data-ack--70000": _FAST,
    "est-dup-acks": "SACK blocks over parts of segments: the kernel splits the buffers, and recovers earlier",
    "ip-dst-multicast": "there is no IGMP membership, so 224.0.0.1 is not for us",
    "icmp-timestamp": "6.18 counts a time stamp reply as an echo reply (OutType0)",
}
