# SPDX-License-Identifier: GPL-2.0-or-later
"""The Echo Protocol, RFC 862: every byte comes back.

A client that sends and does not read must not fill our memory: while the transport asks for a pause, nothing more is
read, so that TCP's window closes towards the client.
"""

from __future__ import annotations

from vnic.services.base import StreamService

PORT = 7


class Echo(StreamService):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.resume_reading()
