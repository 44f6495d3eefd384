# SPDX-License-Identifier: GPL-2.0-or-later
"""What is run over simulated paths, and how it is written down.

``MATRICES`` names sets of scenarios; a snapshot in ``snapshots/`` holds one line for each, so that a change of
behaviour is a diff.  Every test run compares all but ``full``, which takes minutes.
``python -m tests.paths`` writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.transfer import MIB, TSO, Result, Scenario, run

SNAPSHOTS = Path(__file__).parent / "snapshots"
CONTROLS = ("reno", "cubic", "bbr", "dctcp")
CE = 0.2  # dctcp's switch marks from a fifth of a bandwidth-delay product on

_HEAD = (
    f"{'control':8}{'loss':>8}{'rtt ms':>8}{'queue':>7}{'Mbit/s':>9}{'resent':>8}{'RTOs':>6}{'lost':>7}{'dropped':>9}"
    f"{'marked':>8}  largest cwnd in each sixteenth of the time"
)


def cross(
    nbytes: int, losses: tuple[float, ...], rtts: tuple[float, ...], queues: tuple[float, ...]
) -> Iterator[Scenario]:
    """Every control over every path of 100 Mbit/s."""
    for loss in losses:
        for rtt in rtts:
            for queue in queues:
                for control in CONTROLS:
                    ce = CE if control == "dctcp" else 0.0
                    yield Scenario(nbytes, control, rtt_ms=rtt, queue=queue, loss=loss, ce=ce)


def line(s: Scenario, r: Result) -> str:
    """One scenario's line."""
    path = r.path.stats
    cwnd = " ".join(str(w) for w in r.flows[0].cwnd)
    return (
        f"{s.control:8}{s.loss:8.2%}{s.rtt_ms:8g}{s.queue:7g}{r.goodput_mbit():9.2f}{r.retransmitted:8}{r.timeouts:6}"
        f"{path.lost:7}{path.overflowed:9}{path.marked:8}  {cwnd}"
    )


def table(scenarios: Iterator[Scenario]) -> str:
    rows = [_HEAD]
    for scenario in scenarios:
        result = run(scenario)
        assert all(flow.intact for flow in result.flows), f"what arrived is not what was sent: {scenario}"
        rows.append(line(scenario, result))
    return "\n".join(rows) + "\n"


# Each impairment alone, and all together with the ACKs impaired too.
IMPAIRMENTS: dict[str, Scenario] = {
    "none": Scenario(),
    "loss": Scenario(loss=0.005),
    "bursts": Scenario(loss=0.01, burst=4),
    "reordering": Scenario(reorder=0.01),
    "far reordering": Scenario(reorder=0.01, reorder_ms=40),
    "duplication": Scenario(dup=0.02),
    "corruption": Scenario(corrupt=0.005),
    "marks": Scenario(control="dctcp", ce=CE),
    "short queue": Scenario(queue=0.1),
    "everything": Scenario(
        loss=0.005, reorder=0.005, reorder_ms=10, dup=0.005, corrupt=0.002, queue=0.5, both=True
    ),
}


def impaired(name: str, nbytes: int, features: int = 0) -> Scenario:
    return replace(IMPAIRMENTS[name], nbytes=nbytes, features=features, rtt_ms=20)


def impairments() -> str:
    """16 MiB through each impairment, from devices that segment and from ones that do not in turn."""
    rows = [f"{'impairment':18}{'TSO':>4}{'Mbit/s':>9}{'resent':>8}{'RTOs':>6}{'DSACKs':>8}  path"]
    for i, name in enumerate(IMPAIRMENTS):
        scenario = impaired(name, 16 * MIB, TSO if i % 2 else 0)
        r = run(scenario)
        assert all(flow.intact for flow in r.flows), f"what arrived is not what was sent: {scenario}"
        p = r.path.stats
        row = f"{name:18}{'yes' if i % 2 else 'no':>4}{r.goodput_mbit():9.2f}"
        row += f"{r.retransmitted:8}{r.timeouts:6}{r.dsacks:8}"
        rows.append(
            f"{row}  sent {p.sent} lost {p.lost} dropped {p.overflowed} marked {p.marked} late {p.reordered} "
            f"twice {p.duplicated} corrupt {p.corrupted}"
        )
    return "\n".join(rows) + "\n"


def fairness() -> str:
    """Two flows of one control through one bottleneck, the second half a second later, and Jain's index for them."""
    rows = [f"{'control':8}{'queue':>7}{'first':>9}{'second':>9}{'Jain':>7}"]
    for control in CONTROLS:
        for queue in (0.5, 2.0):
            r = run(fair_pair(control, queue))
            first, second = (flow.goodput_mbit for flow in r.flows)
            rows.append(f"{control:8}{queue:7g}{first:9.2f}{second:9.2f}{r.jain():7.3f}")
    return "\n".join(rows) + "\n"


def fair_pair(control: str, queue: float) -> Scenario:
    """20 Mbit/s and 20 ms, so that there are hundreds of round trips to find a balance in."""
    ce = CE if control == "dctcp" else 0.0
    return Scenario(6 * MIB, control, 20.0, 20.0, queue, ce=ce, flows=2, stagger_ms=500)


def reduced() -> str:
    return table(cross(2 * MIB, (0.0, 0.01), (10, 100), (0.25, 1)))


def full() -> str:
    return table(cross(8 * MIB, (0.0, 0.0001, 0.001, 0.01), (10, 50, 200), (0.25, 1, 4)))


MATRICES: dict[str, Callable[[], str]] = {
    "reduced": reduced,
    "impairments": impairments,
    "fairness": fairness,
    "full": full,
}


def snapshot_path(name: str) -> Path:
    return SNAPSHOTS / f"{name}.txt"
