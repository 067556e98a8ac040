"""`cvloc train`: train a matcher on synthetic towns and data sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cvloc_ros.training.config import TrainConfig

_FROM_CONFIG = "as in the settings"


def train(
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings; what it leaves out has the method's defaults."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Matcher to train: vote_flow or dense_flow.", show_default=_FROM_CONFIG)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run: settings, log, checkpoint, pictures, weights, card, curve.",
            show_default="runs/METHOD",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training samples in all.", show_default=_FROM_CONFIG)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples a step, of all processes.", show_default=_FROM_CONFIG)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the network's start and of priors.", show_default=_FROM_CONFIG)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Rendering processes, of all processes.", show_default=_FROM_CONFIG)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the network.", show_default=_FROM_CONFIG)
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(min=1, help="Samples between validations.", show_default=_FROM_CONFIG)
    ] = None,
    validation_pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs of each validation set.", show_default=_FROM_CONFIG)
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Weights (.safetensors) to go on from.", show_default="a random start")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the folder's last checkpoint, with its settings; of the other options only --out or "
            "--method (which run), --samples, --workers and --threads may be given with it.",
        ),
    ] = False,
) -> None:
    """Train a matcher, calibrate it, and write weights with their card.

    The defaults train vote_flow on synthetic towns, on about as many samples as the shipped weights have seen (these in
    many sittings: see their card), dense_flow with starts and losses of its shipped weights, for an hour on two cores.
    All settings stand in the run's config.yaml (written beside the weights too, as METHOD.yaml); a file of such
    settings, or of some, is what --config takes, and the other options count instead of it. For example, to fine-tune
    on KITTI mixed with towns:

    \b
        start_from: runs/vote_flow/vote_flow.safetensors
        samples: 20000
        learning_rate: 0.0005
        data:
        - {source: town, weight: 0.2}
        - {source: kitti, protocol: train, root: /data/kitti, weight: 0.8}
        validation:
        - {source: kitti, protocol: same, root: /data/kitti}

    For dense_flow `network` names a preset, small (for a CPU) or full (the paper's; its authors' schedule on KITTI is
    tools/training/dense_flow_full.yaml of the source), and what differs from it:

    \b
        method: dense_flow
        network: {preset: small, start: identity, reach: 0, levels: 4, radius: 4}

    Validation is on frames that training never sees: of towns in the training's styles and in the held-out style, or
    of the protocols of `cvloc eval`. A GPU is used where there is one. Several processes:

    \b
        torchrun --nproc_per_node 4 -m cvloc_ros.cli.main train --out runs/big

    The run can be stopped at any time (Ctrl-C, SIGTERM) and resumed: it then gives the same weights as one that was
    never stopped. With tensorboard installed, `tensorboard --logdir OUT` shows it.
    """  # noqa: D301
    from cvloc_ros.training.checkpoint import Stopped
    from cvloc_ros.training.methods import read_config

    given = {
        "batch": batch,
        "seed": seed,
        "validate_every": validate_every,
        "validation_pairs": validation_pairs,
        "start_from": start_from,
    }
    changeable = {"samples": samples, "workers": workers, "threads": threads}
    if resume:
        given["config"] = None if config is None else str(config)
        if refused := [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]:
            raise typer.BadParameter(
                f"a run is resumed with its own settings: leave out {', '.join(refused)}", param_hint="--resume"
            )
        out = out or Path("runs") / (method or "vote_flow")
        settings = read_config(out / "config.yaml", **changeable)
        if method not in (None, settings.method):
            raise typer.BadParameter(f"{out} is a run of {settings.method}, not of {method}", param_hint="--method")
    else:
        settings = read_config(config, method=method, **given, **changeable)
        out = out or Path("runs") / settings.method
    try:
        _run(settings, out, resume=resume)
    except Stopped as stopped:
        if int(os.environ.get("RANK", 0)) == 0:
            typer.echo(str(stopped))
        raise typer.Exit(128 + stopped.signal_number) from None


def _run(config: TrainConfig, out: Path, *, resume: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from cvloc_ros.cli.progress import counting_bar
    from cvloc_ros.evaluation.town import ROW, table_rows
    from cvloc_ros.training.finish import finish
    from cvloc_ros.training.train import train as run

    first = int(os.environ.get("RANK", 0)) == 0
    console = Console(quiet=not first)
    with counting_bar(console) as progress:
        bar = progress.add_task("preparing the validation sets", total=config.samples)

        def report(seen: int, row: dict[str, float]) -> None:
            progress.update(bar, completed=seen, description=f"training, loss {row['total']:.2f}")
            for name in (source.name for source in config.validation if f"{source.name}_median_m" in row):
                progress.console.print(
                    f"{seen:>8} samples: {name} {row[f'{name}_median_m']:.2f} m (mean {row[f'{name}_mean_m']:.2f} m), "
                    f"{row[f'{name}_yaw_median_deg']:.2f}°, R@1m {100 * row[f'{name}_lateral_1m']:.0f}/"
                    f"{100 * row[f'{name}_longitudinal_1m']:.0f} %",
                    highlight=False,
                )

        task = run(config, out, resume=resume, report=report)
        if not first:
            return
        tables = finish(task, config, out, progress=lambda what: progress.update(bar, description=what))
    table = Table("set", "model", *ROW)
    for cells in table_rows(tables):
        table.add_row(*cells)
    console.print(table)
    weights = out / f"{task.method}.safetensors"
    console.print(f"weights, card and settings: {weights}, .json, .md, .yaml", soft_wrap=True, highlight=False)
