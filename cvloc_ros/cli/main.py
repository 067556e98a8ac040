"""`cvloc`: every command is a module of this package and a function in it, whose help is its manual.

A command imports what it needs when it runs, so that `cvloc --help` is quick and needs neither torch nor ROS.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cvloc_ros import __version__

COMMANDS = {
    "demo": "demo",
    "run": "run",
    "eval": "evaluate",
    "play": "play",
    "train": "train",
    "ablate": "ablate",
    "bench": "bench",
    "export": "export",
    "convert": "convert",
    "prefetch": "prefetch",
    "doctor": "doctor",
}
"""Module and function of every command, in the order in which a newcomer meets them."""

# Read by torch when it comes. A second thread saves little of networks this small, and spins; see doc/speed.md.
os.environ.setdefault("OMP_NUM_THREADS", "1")

app = typer.Typer(
    help="Localize a vehicle by matching its camera with a satellite image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    """Take the options of `cvloc` itself; main looks for --traceback, which must work for whatever goes wrong."""


for _name, _function in COMMANDS.items():
    app.command(_name)(getattr(importlib.import_module(f"cvloc_ros.cli.{_name}"), _function))


def main() -> None:
    """Run a command; errors that a user can mend are one line."""
    try:
        app()
    except (OSError, ValueError, RuntimeError, ImportError, FloatingPointError) as error:
        if "--traceback" in sys.argv:
            print(_without_keys(traceback.format_exc()), end="", file=sys.stderr)
        else:
            line = escape(_without_keys(str(error)))
            Console(stderr=True, highlight=False).print(f"[bold red]cvloc:[/] {line}", soft_wrap=True)
        sys.exit(1)


def _without_keys(text: str) -> str:
    try:
        from cvloc_ros.imagery import redacted
    except ImportError:  # then no imagery was opened, and no key was read
        return text
    return redacted(text)


if __name__ == "__main__":
    main()
