# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong with a frozen stack."""

from __future__ import annotations


class FreezeError(ValueError):
    """A state that cannot be written, or a text that is no state of a stack: what is the case, by what it shows, and
    what to do about it."""

    def __init__(self, fact: str, evidence: str, remedy: str) -> None:
        super().__init__(f"{fact}: {evidence}; {remedy}")
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy
