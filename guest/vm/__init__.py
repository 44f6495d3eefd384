# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU guest as an object: what the host can do (probe), the command line as data (args), the process
and its run directory (machine, rundir, process), its monitor (qmp), its serial console (console), commands
run inside it (shell) and a terminal attached to it (interact).  Every failure is an errors.GuestError."""
