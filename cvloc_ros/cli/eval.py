"""`cvloc eval`: the accuracy table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    dataset: Annotated[
        str, typer.Argument(help="What to evaluate on: town (synthetic, nothing to download).")
    ] = "town",
    out: Annotated[Path, typer.Option(help="Folder for accuracy.json, .md and .csv.")] = Path("out/eval"),
    pairs: Annotated[int, typer.Option(min=4, help="Pairs of each set.")] = 300,
    method: Annotated[str, typer.Option(help="Matching method.")] = "vote_flow",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file other than the shipped weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure per-frame accuracy on pairs with known poses, from priors uniform in ±20 m and ±10°.

    The town set is pairs of towns that training never saw, and as many in a style that it never saw. Beside the
    method stand chance (the centre of the search box) and the blind model (the camera's image blanked).
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from cvloc_ros.evaluation.town import ROW, evaluate_towns, table_rows, write_tables
    from cvloc_ros.localization.localizer import load_localizer

    if dataset != "town":
        raise typer.BadParameter(f"expected one of: town; got {dataset!r}", param_hint="DATASET")
    localizer = load_localizer(None, method=method, weights=str(weights) if weights else None, device=device)
    console = Console()
    with Progress(console=console) as bar:
        task = bar.add_task("rendering and localizing", total=6 * pairs)
        tables = evaluate_towns(localizer, count=pairs, progress=lambda: bar.advance(task))
    table = Table("set", "model", *ROW, title=f"{method}, {pairs} pairs a set, priors in ±20 m ±10°")
    for row in table_rows(tables):
        table.add_row(*row)
    console.print(table)
    write_tables(tables, out)
    console.print(f"written to {out}/accuracy.json, .md, .csv")
