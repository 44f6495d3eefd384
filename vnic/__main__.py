# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m vnic`` is ``vnic``."""

import signal
import sys


def main() -> int:
    """Ctrl-C while the command line is being loaded ends the process, as there is nothing to clean up yet."""
    awaited = signal.getsignal(signal.SIGINT)
    if awaited is signal.default_int_handler:  # and not ignored, as for a job in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vnic.cli import main as command_line

    signal.signal(signal.SIGINT, awaited)
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
