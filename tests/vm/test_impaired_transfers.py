# SPDX-License-Identifier: GPL-2.0-or-later
"""Real transfers between a guest and the stack over bad wires, in all four directions (who connects, and who sends).

The wire is impaired in two places: by devmodel/middleware/fault.py between the port and the stack, and by the guest's
own sch_netem on both ways of its card.  Each time what arrives is what was sent, within a deadline, and the counters of
both ends say what it took: the same ones, whether the guest's kernel or our stack is the sender.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from directions import DIRECTIONS, Report, sender_of, transfer
from line import Line

from devmodel.middleware.fault import Faults

pytestmark = pytest.mark.xdist_group("impaired-transfers")

SIZE = 2 << 20
DEADLINE_S = 60.0
WIRE = Faults(segment=True)
"""Full-sized frames, as on a cable: a fault hits one segment, not a TSO frame of 45."""


@dataclass(frozen=True)
class Case:
    """``faults`` each way; the counters that have to grow at the sender and at the receiver; the least round-trip time;
    the most bytes a second that can pass."""

    faults: Faults
    sender: tuple[str, ...] = ()
    receiver: tuple[str, ...] = ()
    rtt_s: float = 0.0
    rate: float = 0.0


LOST = {"sender": ("TcpRetransSegs", "TcpExtTCPSackRecovery"), "receiver": ("TcpExtTCPOFOQueue",)}
REORDERED = {"sender": ("TcpExtTCPSACKReorder",), "receiver": ("TcpExtTCPOFOQueue",)}
DUPLICATED = {"sender": ("TcpExtTCPDSACKRecv",), "receiver": ("TcpExtTCPDSACKOldSent",)}
CORRUPTED = {"sender": ("TcpRetransSegs",), "receiver": ("TcpInCsumErrors",)}
EVERYTHING = {
    end: tuple({*LOST[end], *REORDERED[end], *DUPLICATED[end], *CORRUPTED[end]})
    for end in ("sender", "receiver")
}

CASES = {
    "loss": Case(replace(WIRE, loss=0.02), **LOST),
    "reorder": Case(replace(WIRE, reorder=0.05), **REORDERED),
    "duplicate": Case(replace(WIRE, duplicate=0.05), **DUPLICATED),
    "corrupt": Case(replace(WIRE, corrupt=0.02), **CORRUPTED),
    "delay": Case(replace(WIRE, delay=0.02, jitter=0.01), rtt_s=0.04),
    "rate": Case(replace(WIRE, rate=2.5e6, rate_queue=60), rate=2.5e6),
}
ALL = replace(WIRE, loss=0.01, reorder=0.02, duplicate=0.02, corrupt=0.01, delay=0.005, rate=5e6)
EVERYTHING_AT_ONCE = Case(ALL, **EVERYTHING, rtt_s=0.01, rate=5e6)

WORSE = {
    "loss": Case(replace(WIRE, loss=0.05), **LOST),
    "reorder": Case(replace(WIRE, reorder=0.2), **REORDERED),
    "duplicate": Case(replace(WIRE, duplicate=0.2), **DUPLICATED),
    "corrupt": Case(replace(WIRE, corrupt=0.05), **CORRUPTED),
    "delay": Case(replace(WIRE, delay=0.05, jitter=0.02), rtt_s=0.1),
    "rate": Case(replace(WIRE, rate=1.25e6, rate_queue=30), rate=1.25e6, **LOST),
    "everything": EVERYTHING_AT_ONCE,
}
WORSE_SIZE = 8 << 20
WORSE_DEADLINE_S = 240.0


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """By how much, each counter that is another one now."""
    return {
        name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)
    }


def check(line: Line, case: Case, direction: str, family: str, size: int, deadline_s: float) -> Report:
    """A transfer on the wire as it is, and whether the case shows in its time and in the counters of both ends."""
    line.guest_file(size)
    before = {"stack": line.ours(), "guest": line.guests()}
    report = transfer(line, direction, family, size, deadline_s)
    by = {"stack": grown(before["stack"], line.ours()), "guest": grown(before["guest"], line.guests())}
    sender = sender_of(direction)
    receiver = "guest" if sender == "stack" else "stack"
    print(f"{direction}: {report.seconds:.3f} s, rtt {report.rtt_us} us", by, sep="\n")
    for end, names in ((sender, case.sender), (receiver, case.receiver)):
        assert not [name for name in names if by[end].get(name, 0) <= 0], f"not counted by the {end}"
    assert report.rtt_us >= case.rtt_s * 1e6
    if case.rate:
        assert size / report.seconds <= case.rate
    return report


def check_faults(line: Line, case: Case, direction: str, family: str, size: int, deadline_s: float) -> None:
    """With the case's faults in both ways; those of the data's way must have happened."""
    way = "rx" if sender_of(direction) == "guest" else "tx"
    before = line.ours()
    with line.impaired(case.faults, case.faults):
        check(line, case, direction, family, size, deadline_s)
    after = line.ours()
    kinds = {"loss": "lost", "reorder": "reordered", "duplicate": "duplicated", "corrupt": "corrupted"}
    kinds |= {"delay": "delayed", "rate": "delayed"}
    for field, kind in kinds.items():
        if getattr(case.faults, field):
            assert after[f"fault_{way}_{kind}"] > before[f"fault_{way}_{kind}"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("impairment", CASES)
def test_transfer_over_a_bad_wire_arrives_unchanged(line: Line, impairment: str, direction: str) -> None:
    check_faults(line, CASES[impairment], direction, "ipv4", SIZE, DEADLINE_S)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_ipv6_transfer_over_a_wire_that_does_everything_arrives_unchanged(line: Line, direction: str) -> None:
    check_faults(line, EVERYTHING_AT_ONCE, direction, "ipv6", SIZE // 2, DEADLINE_S)


# -- the guest's netem -----------------------------------------------------------------------------------------------

NETEM = {"loss 2%": Case(WIRE, **LOST), "delay 10ms 2ms reorder 25% 50%": Case(WIRE, **REORDERED)}
WORSE_NETEM = {
    "loss 5%": Case(WIRE, **LOST),
    "delay 40ms 10ms reorder 25% 50%": Case(WIRE, **REORDERED),
    "duplicate 10%": Case(WIRE, **DUPLICATED),
    # No losses in common: the guest's TCP is told of a full qdisc of its own and slows down, ours learns by them.
    "delay 20ms rate 10mbit limit 60": Case(WIRE, rtt_s=0.04, rate=1.25e6),
    "delay 5ms 2ms loss 1% duplicate 2% reorder 10%": Case(
        WIRE, sender=LOST["sender"] + DUPLICATED["sender"], receiver=LOST["receiver"] + DUPLICATED["receiver"]
    ),
}
BOTH_WAYS = " && ".join(
    (
        "modprobe ifb numifbs=1",
        "ip link set ifb0 up",
        "tc qdisc replace dev eth0 ingress",
        "tc filter replace dev eth0 ingress prio 1 matchall action mirred egress redirect dev ifb0",
        # netem takes what the kernel calls a packet, up to 64 KB: TCP sends GSO packets whatever ethtool says, and they
        # are cut behind the qdisc.  So they are limited to one segment.
        "ip link set eth0 gso_max_segs 1",
        "ethtool -K eth0 gro off",
    )
)


@contextlib.contextmanager
def netem(line: Line, spec: str) -> Iterator[str]:
    """The guest's qdisc on what leaves eth0 and, by way of ifb0, on what comes."""
    guest = line.guest
    limit = "" if "limit" in spec else "limit 5000 "
    guest.check(
        f"{BOTH_WAYS} && for d in eth0 ifb0; do tc qdisc replace dev $d root netem {limit}{spec}; done"
    )
    try:
        with line.impaired(WIRE, WIRE):
            yield spec
    finally:
        undo = "tc qdisc del dev eth0 root; tc qdisc del dev ifb0 root; tc qdisc del dev eth0 ingress"
        guest.check(f"{undo}; ip link set eth0 gso_max_segs 65535; ethtool -K eth0 gro on")


def netem_dropped(line: Line, device: str) -> int:
    text = line.guest.check(f"tc -s qdisc show dev {device} root")
    found = re.search(r"qdisc netem .*dropped (\d+)", text, re.DOTALL)
    assert found, text
    return int(found[1])


def check_netem(
    line: Line, spec: str, case: Case, direction: str, family: str, size: int, deadline_s: float
) -> None:
    device = "eth0" if sender_of(direction) == "guest" else "ifb0"
    dropped = netem_dropped(line, device)
    check(line, case, direction, family, size, deadline_s)
    if "loss" in spec:
        assert netem_dropped(line, device) > dropped


@pytest.fixture(scope="module", params=NETEM)
def netem_spec(request: pytest.FixtureRequest, line: Line) -> Iterator[str]:
    with netem(line, request.param) as spec:
        yield spec


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_transfer_through_the_guests_netem_arrives_unchanged(
    line: Line, netem_spec: str, direction: str
) -> None:
    check_netem(line, netem_spec, NETEM[netem_spec], direction, "ipv4", SIZE, DEADLINE_S)


# -- all of it, and worse --------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["vhost-user", "stream"])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("impairment", WORSE)
def test_large_transfers_over_a_worse_wire(line_by: Any, impairment: str, family: str, kind: str) -> None:
    with line_by(kind) as line:
        for direction in DIRECTIONS:
            check_faults(line, WORSE[impairment], direction, family, WORSE_SIZE, WORSE_DEADLINE_S)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("spec", WORSE_NETEM)
def test_large_transfers_through_a_worse_netem(line_by: Any, spec: str, family: str) -> None:
    with line_by("vhost-user") as line, netem(line, spec):
        for direction in DIRECTIONS:
            check_netem(line, spec, WORSE_NETEM[spec], direction, family, WORSE_SIZE, WORSE_DEADLINE_S)
