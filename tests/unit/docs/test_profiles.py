# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/profiles.md names what stack/profile.py has."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from stack.profile import PROFILES, Profile, memory_sysctl

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "profiles.md").read_text()
SWITCHES = [f.name for f in fields(Profile) if f.name not in {"name", "sysctl", "sysctl_max"}]


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_has_a_row(switch: str) -> None:
    assert f"\n| `{switch}` |" in TEXT


def test_a_switch_that_no_code_asks_for_is_said_to_be_one() -> None:
    code = "".join(
        path.read_text() for folder in ("include", "net") for path in (ROOT / "stack" / folder).rglob("*.py")
    )
    unused = [switch for switch in SWITCHES if f"profile.{switch}" not in code]
    admitted = TEXT.partition("not asked for by any code yet:")[2]
    assert all(f"`{switch}`" in admitted for switch in unused), unused


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_range_of_a_profile_has_a_row_with_its_end(name: str) -> None:
    table = TEXT.partition("Profile.sysctl_max")[2]
    columns = [cell.strip() for cell in table.partition("| sysctl |")[2].partition("\n")[0].split("|")]
    for sysctl, largest in PROFILES[name].sysctl_max.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{sysctl}` |"))
        assert row.split(" | ")[1 + columns.index(name)].strip(" |") == f"0 to {largest}"


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_sysctl_of_a_profile_has_a_row_with_its_value(name: str) -> None:
    profile = PROFILES[name]
    assert f"**{profile.name}**" in TEXT
    for sysctl, value in profile.sysctl.items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{sysctl}` |"))
        assert row.split(" | ")[2] == shown


@pytest.mark.parametrize(
    ("mib", "rmem", "backlog"),
    [
        (64, 3679840, 128),
        (512, 3679840, 128),
        (1023, 3679840, 128),
        (3000, 6291456, 128),
        (1 << 20, 6291456, 512),
    ],
)
def test_memory_between_the_measured_sizes_is_the_smaller_one(mib: int, rmem: int, backlog: int) -> None:
    values = memory_sysctl(mib)
    assert values == {"tcp_rmem": (4096, 131072, rmem), "tcp_max_syn_backlog": backlog}
