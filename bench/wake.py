# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.wake``: what it costs to wake a sleeping process, on one's own core and on another.

Two processes answer each other over eventfds, as guest and back end do over kick and call.  Prints microseconds per
wake-up: half of a round trip.  Needs two cores; changes its own processes' affinity only.
"""

from __future__ import annotations

import os
import sys
import time

ROUND_TRIPS = 20_000
_ONE = (1).to_bytes(8, sys.byteorder)


def _answer(kick: int, call: int, core: int) -> None:
    os.sched_setaffinity(0, {core})
    for _ in range(ROUND_TRIPS):
        os.read(kick, 8)
        os.write(call, _ONE)


def per_wake(own: int, other: int) -> float:
    """Microseconds from one process's write to the other's return from read, over ROUND_TRIPS round trips."""
    kick, call = os.eventfd(0), os.eventfd(0)
    child = os.fork()
    if not child:
        status = 1
        try:
            _answer(kick, call, other)
            status = 0
        finally:
            os._exit(status)
    os.sched_setaffinity(0, {own})
    began = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        os.write(kick, _ONE)
        os.read(call, 8)
    spent = time.perf_counter() - began
    os.waitpid(child, 0)
    os.close(kick)
    os.close(call)
    return spent / ROUND_TRIPS / 2 * 1e6


def main() -> int:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("bench.wake needs two cores, this process may use one", file=sys.stderr)
        return 3
    print(f"on one's own core  {per_wake(cores[0], cores[0]):6.1f} us")
    print(f"on another core    {per_wake(cores[0], cores[1]):6.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
