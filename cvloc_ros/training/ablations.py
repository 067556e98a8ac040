"""The ablations of the dense-flow paper's Table 5: the same training again and again, each time without one part."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from cvloc_ros.datasets.town.seeds import SETS
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.log import read_log
from cvloc_ros.training.methods import read_config
from cvloc_ros.training.settings import ConfigError
from cvloc_ros.training.train import train

VARIANTS: dict[str, dict[str, bool]] = {
    "full": {},
    "without projection": {"project": False},
    "without RefineBlock": {"refine": False},
    "without matching loss": {"matching_loss": False},
    "without position loss": {"position_loss": False},
    "without confidence": {"confidence": False},
}
"""Rows of Table 5, and the settings of the network that make them."""

COLUMNS = ("set", "variant", "median m", "mean m", "median °", "lateral R@1 m", "longitudinal R@1 m")

Report = Callable[[str, int, dict[str, float]], None]


def run_ablations(config: TrainConfig, out: Path, *, report: Report) -> list[list[str]]:
    """Train every variant in a folder of its own and write ``ablations.csv`` and ``ablations.md``.

    Variants that are done are not done again, and one that was stopped goes on.

    Args:
        config: of the whole method; all variants share its data, seeds and schedule.
        out: folder of all runs.
        report: called with the variant, the samples seen and numbers to show, after every step.

    Returns:
        The table's rows: of each validation set the start (the vote, or the prior) and the variants, by `COLUMNS`.

    Raises:
        ConfigError: it is not dense_flow, a part cannot be left out of it, nothing is validated, it starts
            from weights, or the folder holds runs with other settings.
        Stopped: SIGTERM or SIGINT came; the same call goes on.

    """
    if config.method != "dense_flow":
        raise ConfigError(f"expected dense_flow, whose parts Table 5 leaves out, got {config.method}")
    if not config.validation:
        raise ConfigError("expected a validation set to compare on, got none")
    if config.start_from:
        raise ConfigError(
            f"start_from: expected none, for weights of the whole fit no variant, got {config.start_from}"
        )
    variants, last = {name: _variant(config, name) for name in VARIANTS}, {}
    for name, variant in variants.items():
        folder = out / name.replace(" ", "_")
        resume = _has_begun(variant, folder)
        if not resume or int(read_log(folder / "log.csv")[-1]["seen"]) < config.samples:
            train(variant, folder, resume=resume, report=partial(report, name))
        last[name] = read_log(folder / "log.csv")[-1]
    rows = [row for source in config.validation for row in _rows(source.name, last)]
    _write(rows, config, out)
    return rows


def _variant(config: TrainConfig, name: str) -> TrainConfig:
    try:
        return replace(config, network=replace(config.network, **VARIANTS[name]))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _has_begun(config: TrainConfig, folder: Path) -> bool:
    """Return whether the folder has a run of these settings to go on with; raises ConfigError if of others."""
    if not (folder / "checkpoint.pt").exists():
        return False
    before = read_config(folder / "config.yaml")
    if replace(before, workers=config.workers, threads=config.threads) != config:
        raise ConfigError(f"{folder} holds a run with other settings (its config.yaml): choose another --out")
    return True


def _rows(name: str, last: dict[str, dict[str, str]]) -> list[list[str]]:
    """Return the rows of a validation set from the last row of each variant's log."""
    label = SETS.get(name, name)
    rows = [[label, "the start alone", f"{float(last['full'][f'{name}_start_median_m']):.2f}", "", "", "", ""]]
    for variant, log in last.items():
        cells = [f"{float(log[f'{name}_{score}']):.2f}" for score in ("median_m", "mean_m", "yaw_median_deg")]
        cells += [f"{100 * float(log[f'{name}_{axis}_1m']):.0f} %" for axis in ("lateral", "longitudinal")]
        rows.append([label, variant, *cells])
    return rows


def _write(rows: list[list[str]], config: TrainConfig, out: Path) -> None:
    with (out / "ablations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, *rows)]
    lines.insert(1, "|" + "---|" * len(COLUMNS))
    start = "the vote of vote_flow" if config.network.start == "vote" else "the prior"
    note = (
        f"dense_flow from {start}, {config.samples} samples each, seed {config.seed}, "
        f"{config.validation_pairs} pairs a set. One seed: differences of a few per cent mean nothing."
    )
    (out / "ablations.md").write_text("\n".join(lines) + f"\n\n{note}\n")
