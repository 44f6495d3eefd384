# SPDX-License-Identifier: GPL-2.0-or-later
"""The live call tree: who called whom in the stack, in the notation of kernel notes."""
