# SPDX-License-Identifier: GPL-2.0-or-later
"""The Discard Protocol, RFC 863: takes everything, answers nothing."""

from __future__ import annotations

from vnic.services.base import StreamService

PORT = 9


class Discard(StreamService):
    def data_received(self, data: bytes) -> None:
        """Thrown away: reading it is what keeps the window open."""
