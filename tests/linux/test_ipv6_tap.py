# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's own kernel as the neighbour: a TAP device in a private network namespace, our stack at its other end.

The test starts this file again under ``unshare -n``; that process is the stack and the kernel's pings, and prints what
it saw as JSON.  Nothing leaves the namespace, which ends with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER, PREFIX = "fd00:10:0:2::2", "fd00:10:0:2:"
LINK_LOCAL = "fe80::5055:aff:fe00:202"
SIZES = (56, 4000, 60000)
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def why_not() -> str:
    if os.geteuid() != 0:
        return "a network namespace of its own needs root"
    missing = [tool for tool in ("unshare", "ip") if shutil.which(tool) is None]
    if missing or not Path("/dev/net/tun").exists():
        return f"the host lacks {', '.join(missing) or '/dev/net/tun'}"
    return "" if Path("/proc/net/if_inet6").exists() else "the host's kernel has no IPv6"


@pytest.mark.root
@pytest.mark.slow
def test_linux_configures_itself_and_is_answered() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    command = ["unshare", "-n", sys.executable, __file__]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert any(address.startswith(PREFIX) for address in seen["addresses"]), seen
    assert seen["answers"] == {str(size): True for size in SIZES}
    assert seen["link_local_answers"]
    assert "router" in seen["neighbour"]
    assert seen["mtu6"] == "1500"
    counters = seen["counters"]
    assert counters["Icmp6OutRouterAdvertisements"] >= 1
    assert counters["Icmp6InEchos"] == counters["Icmp6OutEchoReplies"] == len(SIZES) + 1
    assert counters["Ip6ReasmOKs"] == counters["Ip6FragOKs"] == 2
    assert seen["dropped"].keys() <= {"MULTICAST_IGNORED"}  # MLD reports, duplicate address detection


# -- in the namespace ------------------------------------------------------------------------------------------------


class Tap:
    """A stack behind tap0."""

    def __init__(self) -> None:
        from stack.api.aio import MonotonicClock
        from stack.net.core.skbuff import skb_linear_bytes
        from stack.rng import SeededRng
        from stack.stack import Stack

        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI))
        self.net = Stack(MonotonicClock(), SeededRng(1))
        dev = self.net.register_netdevice("eth0", bytes.fromhex("52550a000202"))
        dev.ndo_start_xmit = lambda skb, dev: os.write(self.fd, skb_linear_bytes(skb)) * 0
        self.net.dev_addr_add(dev, f"{SERVER}/64")
        for name in ("accept_dad", "router_solicitation_delay"):
            Path(f"/proc/sys/net/ipv6/conf/tap0/{name}").write_text("0")
        subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)
        self.net.ra_start(dev, f"{PREFIX}:/64")

    def run_until(self, done: Callable[[], bool], seconds: float = 8.0) -> bool:
        """Work frames and timers until ``done``, at most so long."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            select.select([self.fd], [], [], 0.01)
            try:
                while True:
                    self.net.netif_rx(self.net.devices_by_name["eth0"], os.read(self.fd, 70000))
            except BlockingIOError:
                pass
            self.net.rx_done()
            self.net.run_timers()
        return True

    def ping(self, address: str, size: int) -> bool:
        """Whether the kernel's echo request of so many bytes comes back with the same bytes."""
        data = bytes(n & 255 for n in range(size))
        where = socket.getaddrinfo(address, 0, socket.AF_INET6)[0][4]
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setblocking(False)
            raw.sendto(struct.pack("!BBHHH", 128, 0, 0, 77, size) + data, where)

            def answered() -> bool:
                try:
                    message = raw.recv(70000)
                except BlockingIOError:
                    return False
                return message[0] == 129 and message[8:] == data

            return self.run_until(answered)


def addresses() -> list[str]:
    shown = subprocess.run(
        ["ip", "-6", "-o", "addr", "show", "dev", "tap0"], check=True, capture_output=True, text=True
    )
    return [line.split()[3] for line in shown.stdout.splitlines()]


def main() -> None:
    tap = Tap()
    tap.run_until(lambda: any(a.startswith(PREFIX) for a in addresses()))
    answers = {size: tap.ping(SERVER, size) for size in SIZES}
    link_local = tap.ping(f"{LINK_LOCAL}%tap0", 56)
    neighbour = subprocess.run(
        ["ip", "-6", "neigh", "show", SERVER], check=True, capture_output=True, text=True
    ).stdout
    seen = {
        "addresses": addresses(),
        "answers": answers,
        "link_local_answers": link_local,
        "neighbour": neighbour,
        "mtu6": Path("/proc/sys/net/ipv6/conf/tap0/mtu").read_text().strip(),
        "counters": tap.net.snapshot()["snmp6"],
        "dropped": tap.net.drop_reasons,
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
