"""The tables that an evaluation on a data set ends with in a terminal; the files have more columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cvloc_ros.evaluation.item_tables import COLUMNS, PUBLISHED_COLUMNS, own_rows, published_rows

_OWN = {
    "median m": "median\nm",
    "mean m": "mean\nm",
    "median °": "yaw\n°",
    "lateral ≤ 1 m": "lat.\n≤1m",
    "long. ≤ 1 m": "long.\n≤1m",
    "yaw ≤ 1°": "yaw\n≤1°",
    "NEES": "NEES",
}
_PUBLISHED = {
    "mean m": "mean\nm",
    "median m": "med.\nm",
    "mean °": "mean\n°",
    "median °": "med.\n°",
    "lateral ≤ 1 m": "lat.\n≤1m",
    "long. ≤ 1 m": "long.\n≤1m",
    "yaw ≤ 1°": "yaw\n≤1°",
    "source": "source",
}


def print_tables(protocol: str, method: str, summary: dict[str, Any], *, console: Console) -> None:
    """Print what `summarize_items` found, beside chance and the blind model, then beside the published rows."""
    title = f"{protocol}\n{summary['frames']} frames"
    console.print(_table(title, own_rows(method, summary), columns=COLUMNS, heads=_OWN))
    rows = published_rows(protocol, method, summary)
    if len(rows) == 1:
        return
    caveats = {number: row[-1] for number, row in enumerate(rows) if number and row[-1]}
    marked = [
        [f"{row[0]} [{number}]" if number in caveats else row[0], *row[1:-2], row[-2].partition(" (")[0], row[-1]]
        for number, row in enumerate(rows)
    ]
    console.print(_table("beside the literature", marked, columns=PUBLISHED_COLUMNS, heads=_PUBLISHED))
    for number, caveat in caveats.items():
        console.print(escape(f"[{number}] {rows[number][0]}: {caveat}"), style="dim", soft_wrap=True, highlight=False)


def _table(title: str, rows: list[list[str]], *, columns: Sequence[str], heads: dict[str, str]) -> Table:
    """Return a table of some columns of rows, whose numbers are never cut."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(title, min_width=16)
    shown = [1 + columns.index(name) for name in heads]
    cells = [[escape(row[0]), *(escape(row[k].replace(" %", "%")) for k in shown)] for row in rows]
    for k, (name, head) in enumerate(heads.items(), start=1):
        if name == "source":
            table.add_column(head, no_wrap=True, overflow="ellipsis", style="dim")
        else:
            widest = max(len(text) for text in (*head.split("\n"), *(row[k] for row in cells)))
            table.add_column(head, justify="right", no_wrap=True, min_width=widest)
    for row in cells:
        table.add_row(*row)
    return table
