# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Stack as a text, and back: ``stack.freeze.writer.freeze`` and ``stack.freeze.reader.thaw``."""
