# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers that a guest finds at 10.0.2.2: echo, discard, chargen, HTTP, DHCP, DNS, iperf3.

Each is an ordinary asyncio Protocol that knows nothing of the stack below it, so it runs as well on an asyncio
server of the host.  ``Network`` is what they are started on: an event loop and ``stack.api.aio`` both have that shape.
"""
