# SPDX-License-Identifier: GPL-2.0-or-later
"""What takes minutes runs only when it is asked for: VNIC_HEAVY=1."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("VNIC_HEAVY"):
        return
    left_out = pytest.mark.skip(reason="takes minutes: VNIC_HEAVY=1 runs it")
    for item in items:
        if item.get_closest_marker("heavy") is not None:
            item.add_marker(left_out)
