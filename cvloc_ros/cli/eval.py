"""`cvloc eval`: the accuracy table of single frames, and that of whole drives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_DATASETS = ("town", "town-drives")


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            help="What to evaluate on, synthetic, nothing to download: town (single frames) or town-drives (whole "
            "drives with biased and cut GNSS, wrong initial poses and black images)."
        ),
    ] = "town",
    out: Annotated[Path, typer.Option(help="Folder for the tables, as .json and .md.")] = Path("out/eval"),
    pairs: Annotated[int, typer.Option(min=4, help="town: pairs of each set.")] = 300,
    count: Annotated[int, typer.Option(min=1, help="town-drives: how many drives, each in a town of its own.")] = 20,
    scenario: Annotated[
        list[str] | None, typer.Option(help="town-drives: only this scenario; may be given several times.")
    ] = None,
    image_rate: Annotated[float, typer.Option(min=1.0, max=25.0, help="town-drives: images a second.")] = 5.0,
    workers: Annotated[int, typer.Option(min=1, help="town-drives: processes; a drive is run by one.")] = 2,
    method: Annotated[str, typer.Option(help="Matching method.")] = "vote_flow",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file other than the shipped weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; town-drives run on the CPU.")] = "auto",
) -> None:
    """Measure accuracy where the truth is known.

    town: single frames from priors uniform in ±20 m and ±10°; pairs of towns that training never saw, and as many in
    a style that it never saw. Beside the method stand chance (the centre of the search box) and the blind model (the
    camera's image blanked).

    town-drives: whole drives through towns that training never saw. The table says for each drive and scenario how
    accurate the fused pose was, for how long it was far off and yet TRACKING, and how soon it was recovered.
    """
    if dataset not in _DATASETS:
        raise typer.BadParameter(f"expected one of: {', '.join(_DATASETS)}; got {dataset!r}", param_hint="DATASET")
    chosen = str(weights) if weights else None
    if dataset == "town":
        _frames(out, pairs=pairs, method=method, weights=chosen, device=device)
    else:
        _drives(out, count=count, names=scenario, rate=image_rate, workers=workers, method=method, weights=chosen)


def _frames(out: Path, *, pairs: int, method: str, weights: str | None, device: str) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from cvloc_ros.evaluation.town import ROW, evaluate_towns, table_rows, write_accuracy
    from cvloc_ros.localization.localizer import load_localizer

    localizer = load_localizer(None, method=method, weights=weights, device=device)
    console = Console()
    with Progress(console=console) as bar:
        task = bar.add_task("rendering and localizing", total=6 * pairs)
        accuracy = evaluate_towns(localizer, count=pairs, progress=lambda: bar.advance(task))
    table = Table("set", "model", *ROW, title=f"{method}, {pairs} pairs a set, priors in ±20 m ±10°")
    for row in table_rows(accuracy.tables):
        table.add_row(*row)
    console.print(table)
    write_accuracy(accuracy, out)
    console.print(f"written to {out}/accuracy.json, .md, .csv and honesty.png")


def _drives(
    out: Path, *, count: int, names: list[str] | None, rate: float, workers: int, method: str, weights: str | None
) -> None:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from cvloc_ros.evaluation.town_drives import (
        COLUMNS,
        LEGEND,
        SCENARIOS,
        DriveRow,
        run_drives,
        table_rows,
        write_drives,
    )

    unknown = set(names or []) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        known = ", ".join(scenario.name for scenario in SCENARIOS)
        raise typer.BadParameter(f"expected of: {known}; got {', '.join(unknown)}", param_hint="--scenario")
    scenarios = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    console = Console()
    done: list[DriveRow] = []
    with Progress(console=console) as bar:
        task = bar.add_task("driving", total=count)

        def finished(rows: list[DriveRow]) -> None:
            done.extend(rows)
            write_drives(done, out)  # after each drive: an interrupted run leaves what it has
            worst = max(row.wrong for row in rows)
            bar.console.print(f"town {rows[0].seed}: RMSE {max(row.rmse for row in rows):.2f} m, wrong {worst:.1f} s")
            bar.advance(task)

        run_drives(
            count,
            workers=workers,
            progress=finished,
            scenarios=scenarios,
            image_rate=rate,
            method=method,
            weights=weights,
        )
    table = Table(title=f"{method}, {count} drives of unseen towns, {rate:g} images a second", caption=LEGEND)
    for name in COLUMNS:
        table.add_column(name, no_wrap=name in ("scenario", "seed"))
    for cells in table_rows(done):
        table.add_row(*cells)
    console.print(table)
    console.print(f"written to {out}/town_drives.json, .md")
