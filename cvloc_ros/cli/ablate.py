"""`cvloc ablate`: what each part of dense_flow is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ablate(
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings as for `cvloc train`. Default: dense_flow's small preset on towns."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table and, in it, a folder a run.")] = Path(
        "runs/ablations"
    ),
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training samples of each run.", show_default="as in the settings")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Rendering processes.", show_default="as in the settings")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the network.", show_default="as in the settings")
    ] = None,
) -> None:
    """Train dense_flow whole and without each of the parts that its paper's Table 5 leaves out, and tabulate.

    The parts: projection, RefineBlock, matching loss, position loss, confidence. All runs have the same settings,
    data and seed. Writes ablations.md and ablations.csv into OUT. Stopped, it goes on by the same command. By default
    a run has 30 000 samples, an hour on two cores; the shipped table is of 2400, some minutes a run
    (tools/training/dense_flow_ablations.yaml of the source).
    """
    from rich.console import Console
    from rich.table import Table

    from cvloc_ros.cli.progress import counting_bar
    from cvloc_ros.training.ablations import COLUMNS, VARIANTS, run_ablations
    from cvloc_ros.training.checkpoint import Stopped
    from cvloc_ros.training.methods import read_config

    method = None if config else "dense_flow"
    settings = read_config(config, method=method, samples=samples, workers=workers, threads=threads)
    console = Console()
    names = list(VARIANTS)
    with counting_bar(console) as progress:
        bar = progress.add_task("preparing the validation sets", total=len(names) * settings.samples)

        def report(name: str, seen: int, row: dict[str, float]) -> None:
            done = names.index(name) * settings.samples + seen
            progress.update(bar, completed=done, description=f"{name}, loss {row['total']:.2f}")

        try:
            rows = run_ablations(settings, out, report=report)
        except Stopped as stopped:
            console.print("stopped, nothing is lost: the same command goes on")
            raise typer.Exit(128 + stopped.signal_number) from None
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"written to {out}/ablations.md, .csv", soft_wrap=True, highlight=False)
