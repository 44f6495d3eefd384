# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: one module per verb, each with a function that the verb is called by.

``main`` is the one place where exceptions end: every error of every layer becomes three lines and an exit code
(vnic.errors); ``--debug`` before the verb adds the traceback.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from vnic import errors
from vnic.cli import (
    callgraph,
    capture,
    doctor,
    driver,
    image,
    inject,
    ladder,
    negotiate,
    output,
    plot,
    replay,
    report,
    serve,
    ss,
    tcpinfo,
    torture,
    version,
    views,
    vm,
)

app = typer.Typer(
    name="vnic",
    help="A virtual network card for QEMU guests, with a TCP/IP stack behind it that mirrors Linux.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("vm")(vm.vm)
app.command("serve")(serve.serve)
app.command("replay")(replay.replay)
app.command("callgraph")(callgraph.callgraph)
app.command("trace")(views.trace)
app.command("tables")(views.tables)
app.command("negotiate")(negotiate.negotiate)
app.command("inject")(inject.inject)
app.command("report")(report.report)
app.command("states")(views.states)
app.command("nstat")(views.nstat)
app.command("sysctl")(views.sysctl)
app.command("ss")(ss.ss)
app.command("tcpinfo")(tcpinfo.tcpinfo)
app.command("ladder")(ladder.ladder)
app.command("plot")(plot.plot)
app.command("driver")(driver.driver)
app.command("torture")(torture.torture)
app.command("doctor")(doctor.doctor)
app.command("version")(version.version)
app.add_typer(image.app, name="image")
app.add_typer(capture.app, name="capture")

_debug = False
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)


@app.callback()
def _before_verb(
    debug: Annotated[bool, typer.Option(help="Show tracebacks, and the log of every part.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; -vv: all.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log errors only.")] = False,
) -> None:
    global _debug
    _debug = debug
    level = _LEVELS[3 if debug else 0 if quiet else min(1 + verbose, 3)]
    if not debug:  # what it logs as an error we meet as an exception, and tell in three parts
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def _terminated(number: int, _frame: FrameType | None) -> None:
    """Let every ``with`` block on the way out end what it started."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (sys.argv unless given) and return its exit code."""
    global _debug
    _debug = False
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        return _result(app(args=None if arguments is None else list(arguments), standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):  # the latter is what the parser makes of Ctrl-C
        return 130
    except Exception as error:
        return _failed(error)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def _result(value: Any) -> int:
    return value if isinstance(value, int) else errors.EXIT_OK


def _failed(error: Exception) -> int:
    if _debug:
        traceback.print_exception(error)
    show = getattr(error, "show", None)
    if callable(show):  # an error of the parser: it knows which option it is about
        show()
    elif isinstance(error, BrokenPipeError):  # whoever read our output has left: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        output.show_error(error)
    return errors.exit_code_of(error)
