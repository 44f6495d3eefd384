# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots of one TCP connection as SVG or PNG; the numbers are ``vnic.series``'s, the drawing is ``vnic.panels``'s.

matplotlib is loaded by the first picture that is drawn, not by importing this.  It draws by its object interface into
memory: no display is needed, and no figure or setting of a program that uses pyplot is touched, but two threads must
not draw at once.  The same series give the same SVG, byte for byte, with one version of matplotlib.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

from stack.inspect.conversation import Conversation
from vnic.errors import EXIT_HOST, VnicError
from vnic.series import Direction, Series, series_of

if TYPE_CHECKING:
    from types import ModuleType

DOTS_PER_INCH: Final = 150
_IDS: Final = re.compile(r'(\bid="|xlink:href="#|\burl\(#)')
_COORDINATES: Final = re.compile(r'\b(?:d|x|y)="[^"]*"')
_BEYOND_HUNDREDTHS: Final = re.compile(r"(\.\d\d)\d+")


class PlotError(VnicError):
    """matplotlib is missing or does not load."""

    exit_code = EXIT_HOST


def svg_of(
    conversation: Conversation,
    direction: Direction | None = None,
    only: tuple[str, ...] | None = None,
    prefix: str = "plot",
) -> str:
    """An ``<svg>`` element to stand within HTML: the panels ``only`` (of ``series.PANELS``, all unless given) of the
    direction with more data, or that one.  Every id in it begins with ``prefix``, and its style is about itself alone,
    so each figure of a page has a prefix of its own.  PlotError without matplotlib."""
    document = svg(series_of(conversation, direction, only), prefix)
    return document[document.index("<svg") :]


def svg(series: Series, prefix: str = "plot") -> str:
    """A whole SVG document; text is text in it."""
    panels = _panels()
    file = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with panels.settings(prefix):
        panels.figure(series).savefig(file, format="svg", metadata=nothing)
    text = _IDS.sub(rf"\g<1>{prefix}-", file.getvalue().decode())
    text = _COORDINATES.sub(lambda found: _BEYOND_HUNDREDTHS.sub(r"\1", found[0]), text)
    text = text.replace("<svg ", f'<svg id="{prefix}" ', 1)
    return text.replace('<style type="text/css">*{', f'<style type="text/css">#{prefix} *{{', 1)


def png(series: Series) -> bytes:
    """A PNG file."""
    panels = _panels()
    file = io.BytesIO()
    with panels.settings("png"):
        figure = panels.figure(series)
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return file.getvalue()


def _panels() -> ModuleType:
    try:
        from vnic import panels
    except ImportError as error:
        raise PlotError(
            "drawing needs matplotlib", str(error), "make setup, or pip install 'matplotlib>=3.7'"
        ) from error
    return panels
