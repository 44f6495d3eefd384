# SPDX-License-Identifier: GPL-2.0-or-later
"""All bad inputs, from the modules that have them."""

from __future__ import annotations

from typing import Final

from guest.driver import (
    torture_channel,
    torture_control,
    torture_inflight,
    torture_messages,
    torture_migration,
    torture_rings,
    torture_shrink,
)
from guest.driver.torture import Case

CASES: Final[list[Case]] = [
    *torture_messages.CASES,
    *torture_rings.CASES,
    *torture_inflight.CASES,
    *torture_control.CASES,
    *torture_channel.CASES,
    *torture_migration.CASES,
    *torture_shrink.CASES,
]
