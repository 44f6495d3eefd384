# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m vnic`` is ``vnic``."""

import sys

from vnic.cli import main

if __name__ == "__main__":
    sys.exit(main())
