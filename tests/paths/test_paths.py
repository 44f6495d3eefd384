# SPDX-License-Identifier: GPL-2.0-or-later
"""Two stacks over simulated paths: every byte arrives, and how fast is what the snapshots say."""

from __future__ import annotations

import pytest

from bench.transfer import MIB, TSO, Scenario, run
from tests.paths.matrix import IMPAIRMENTS, MATRICES, impaired, snapshot_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def difference(old: str, new: str) -> str:
    """The lines that differ, old above new."""
    pairs = zip(old.splitlines(), new.splitlines(), strict=False)
    lines = [f"- {a}\n+ {b}" for a, b in pairs if a != b]
    return "\n".join(lines[:20]) or f"{len(old.splitlines())} lines became {len(new.splitlines())}"


def check(name: str) -> str:
    old = snapshot_path(name).read_text(encoding="utf-8")
    new = MATRICES[name]()
    assert new == old, (
        f"python -m tests.paths {name} writes it anew, if this is meant:\n{difference(old, new)}"
    )
    return new


@pytest.mark.parametrize("name", ["reduced", "impairments"])
def test_established_matrix_is_as_its_snapshot(name: str) -> None:
    check(name)


def test_established_two_flows_of_one_control_share_fairly() -> None:
    """Jain's index, the last column, is 1 if both got the same, 0.5 if one got all."""
    rows = [line.split() for line in check("fairness").splitlines()[1:]]
    assert {row[0] for row in rows} == {"reno", "cubic", "bbr", "dctcp"}
    assert all(float(row[-1]) > 0.9 for row in rows)


@pytest.mark.heavy
@pytest.mark.timeout(7200)
def test_established_full_matrix_is_as_its_snapshot() -> None:
    check("full")


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("features", [0, TSO], ids=["no offloads", "TSO"])
@pytest.mark.parametrize("name", IMPAIRMENTS)
def test_established_gibibyte_through_each_impairment_arrives_as_sent(name: str, features: int) -> None:
    result = run(impaired(name, 1024 * MIB, features))
    assert all(flow.intact for flow in result.flows)


@pytest.mark.parametrize("control", ["reno", "cubic", "bbr"])
def test_established_clean_path_is_filled(control: str) -> None:
    """1448 of 1514 bytes are payload: 95.6 Mbit/s at most."""
    result = run(Scenario(16 * MIB, control, rtt_ms=20))
    assert result.goodput_mbit() > 90
    assert result.timeouts == 0


def test_established_bbr_does_not_mind_random_loss() -> None:
    bbr, cubic = (run(Scenario(8 * MIB, control, rtt_ms=20, loss=0.01)) for control in ("bbr", "cubic"))
    assert bbr.goodput_mbit() > 75
    assert bbr.goodput_mbit() > 5 * cubic.goodput_mbit()


def test_established_dctcp_keeps_the_queue_short() -> None:
    """It settles around the mark, a fifth of a bandwidth-delay product; cubic fills the queue."""
    dctcp = run(Scenario(16 * MIB, "dctcp", rtt_ms=20, ce=0.2))
    cubic = run(Scenario(16 * MIB, "cubic", rtt_ms=20))
    assert dctcp.path.stats.overflowed == 0
    assert dctcp.retransmitted == 0
    assert dctcp.path.stats.marked > 50
    assert dctcp.path.stats.backlog_max < cubic.path.stats.backlog_max
    assert dctcp.goodput_mbit() > 60


def test_established_lost_packets_are_resent_once() -> None:
    """Random loss without reordering: RACK resends what is lost and nothing else."""
    result = run(Scenario(8 * MIB, loss=0.005, rtt_ms=20))
    assert result.retransmitted == result.path.stats.lost
    assert result.dsacks == result.timeouts == 0


def test_established_same_scenario_same_result() -> None:
    results = [run(impaired("everything", 2 * MIB)) for _ in range(2)]
    assert results[0].flows == results[1].flows
    assert results[0].path.stats == results[1].path.stats
