# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between two outcomes of one stimulus, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.differential.allowed import ALLOWED

Outcome = dict[str, Any]

MS_TOLERANCE = 25.0  # of when an answer comes, and of a TSval
MS_RATIO = 0.1
INFO_TIMES = (
    "rto",
    "busy_time",
    "rwnd_limited",
    "sndbuf_limited",
)  # fields of TCP_INFO in us: as near as that


@dataclass(frozen=True)
class Verdict:
    """What one stimulus showed on one side."""

    differences: list[str]  # that allowed.py does not list
    allowed: list[str]  # fields that differ and may

    def text(self) -> str:
        """In a table: "same", "same but for win", "differs"."""
        if self.differences:
            return "**differs**"
        return f"same but for {', '.join(self.allowed)}" if self.allowed else "same"


def judge(name: str, ours: Outcome, real: Outcome, side: str) -> Verdict:
    """What differs on that ``side`` (see Allowed)."""
    if "error" in real:
        return Verdict([f"no outcome of the kernel: {real['error']}"], [])
    found = _calls(ours["calls"], real["calls"]) + _answers(
        ours["answers"], real["answers"], real.get("called", ())
    )
    found += _infos(ours["infos"], real["infos"])
    found += _mib(ours["mib"], real["mib"])
    found += _sysctls(ours["sysctl"], real["sysctl"])
    may = {field for field, _ in found if any(a.covers(side, name, field) for a in ALLOWED)}
    return Verdict([text for field, text in found if field not in may], sorted(may))


def _sysctls(ours: list[str], real: list[str]) -> list[tuple[str, str]]:
    """Settings that one side took and the other did not, each as "name: why"."""
    refused = {text.partition(":")[0] for text in ours}
    found = {text.partition(":")[0]: text for text in real}
    lines = [f"sysctl {text}" for name, text in found.items() if name not in refused]
    lines += [f"sysctl {name}: refused by ours alone" for name in refused - found.keys()]
    return [("sysctl", text) for text in lines]


def _calls(ours: list[str], real: list[str]) -> list[tuple[str, str]]:
    pairs = zip(ours, real, strict=True)
    return [("call", f"call {i}: ours {a}, kernel {b}") for i, (a, b) in enumerate(pairs) if a != b]


def _infos(ours: list[dict[str, int]], real: list[dict[str, int]]) -> list[tuple[str, str]]:
    """Fields of TCP_INFO as "info.snd_cwnd"."""
    return [
        (f"info.{name}", f"info {i} {name}: ours {a.get(name)}, kernel {b.get(name)}")
        for i, (a, b) in enumerate(zip(ours, real, strict=True))
        for name in sorted(a.keys() | b.keys())
        if not _same_info(name, a.get(name, -1), b.get(name, -1))
    ]


def _same_info(name: str, a: int, b: int) -> bool:
    if name in INFO_TIMES:
        return abs(a - b) <= MS_TOLERANCE * 1000 + MS_RATIO * max(a, b)
    return a == b


def _answers(ours: list[Outcome], real: list[Outcome], called: Sequence[float]) -> list[tuple[str, str]]:
    """``called``: how long the real call of each step took.  What it made the kernel send may be older by that."""
    if [a["step"] for a in ours] != [b["step"] for b in real]:
        lines = [f"ours   {line(a)}" for a in ours] + [f"kernel {line(b)}" for b in real]
        return [("count", "\n    ".join(["other answers, or in other steps:", *lines]))]
    found: list[tuple[str, str]] = []
    for i, (a, b) in enumerate(zip(ours, real, strict=True)):
        for field in sorted(a.keys() | b.keys()):
            if field == "tsval" and called and 0 <= a.get(field, 0) - b.get(field, 0) <= called[a["step"]]:
                continue
            if not _same(field, a.get(field), b.get(field)):
                text = f"answer {i} (step {a['step']}) {field}: ours {a.get(field)}, kernel {b.get(field)}"
                only_push = (
                    field == "flags"
                    and a["data"]
                    and a["flags"].replace("P", "") == b["flags"].replace("P", "")
                )
                found.append(
                    ("push" if only_push else field, f"{text}\n    ours   {line(a)}\n    kernel {line(b)}")
                )
    return found


def _kind(field: str, a: Outcome, b: Outcome) -> str:
    """The field, or "push" if it is the flags of data and only PSH differs."""
    if field == "flags" and a["data"] and a["flags"].replace("P", "") == b["flags"].replace("P", ""):
        return "push"
    return field


def _same(field: str, a: Any, b: Any) -> bool:
    if a is None or b is None or field not in ("ms", "tsval"):
        return bool(a == b)
    return bool(abs(a - b) <= MS_TOLERANCE + (MS_RATIO * max(a, b) if field == "ms" else 0))


def _mib(ours: dict[str, int], real: dict[str, int]) -> list[tuple[str, str]]:
    names = sorted(n for n in ours.keys() | real.keys() if ours.get(n, 0) != real.get(n, 0))
    return [(n, f"{n}: ours +{ours.get(n, 0)}, kernel +{real.get(n, 0)}") for n in names]


def line(answer: Outcome) -> str:
    """An answer on one line."""
    return " ".join(f"{k}={v}" for k, v in answer.items())
