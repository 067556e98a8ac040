"""`cvloc train`: train the matcher on synthetic towns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cvloc_ros.training.config import TrainConfig

DEFAULT = TrainConfig()


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run: config, log, checkpoint, weights, card, curve.")] = Path(
        "runs/vote_flow"
    ),
    samples: Annotated[int, typer.Option(min=16, help="Training samples in all.")] = DEFAULT.samples,
    batch: Annotated[int, typer.Option(min=2, help="Samples a step.")] = DEFAULT.batch,
    seed: Annotated[int, typer.Option(help="Seed of the network's start.")] = DEFAULT.seed,
    workers: Annotated[int, typer.Option(min=0, help="Rendering processes.")] = DEFAULT.workers,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the network.")] = DEFAULT.threads,
    validate_every: Annotated[int, typer.Option(min=16, help="Samples between validations.")] = DEFAULT.validate_every,
    validation_pairs: Annotated[
        int, typer.Option(min=4, help="Pairs of unseen towns in each style.")
    ] = DEFAULT.validation_pairs,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
) -> None:
    """Train vote_flow on synthetic towns, calibrate it, and write weights with their card.

    The defaults remake the shipped weights. A GPU is used where there is one. Validation is on towns that training
    never sees, in the training's styles and in the held-out style. The run can be stopped at any time and resumed.
    """
    import dataclasses
    import json

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from cvloc_ros.evaluation.town import ROW, table_rows
    from cvloc_ros.training.finish import finish
    from cvloc_ros.training.train import train as run

    config = TrainConfig(
        samples=samples,
        batch=batch,
        seed=seed,
        workers=workers,
        threads=threads,
        validate_every=validate_every,
        validation_pairs=validation_pairs,
    )
    console = Console()
    if resume and (out / "config.json").exists():
        config = TrainConfig(**json.loads((out / "config.json").read_text()))
        config = dataclasses.replace(config, samples=samples, workers=workers, threads=threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("rendering the validation towns", total=config.samples)

        def report(seen: int, row: dict[str, float]) -> None:
            progress.update(task, completed=seen, description=f"training, loss {row['total']:.2f}")
            if "train_median_m" in row:
                progress.console.print(
                    f"{seen:>7} samples: unseen towns {row['train_median_m']:.2f} m, "
                    f"{row['train_yaw_median_deg']:.2f}°, "
                    f"R@1m {100 * row['train_lateral_1m']:.0f}/{100 * row['train_longitudinal_1m']:.0f} %; "
                    f"held-out style {row['heldout_median_m']:.2f} m (mean {row['heldout_mean_m']:.2f} m)"
                )

        network = run(config, out, resume=resume, report=report)
        tables = finish(network, config, out, progress=lambda what: progress.update(task, description=what))
    table = Table("set", "model", *ROW)
    for cells in table_rows(tables):
        table.add_row(*cells)
    console.print(table)
    console.print(f"weights and card: {out / 'vote_flow.safetensors'}, .json, .md", soft_wrap=True, highlight=False)
