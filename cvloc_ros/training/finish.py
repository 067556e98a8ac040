"""From a trained network to weights that can be shipped: calibration, accuracy, card and curve."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cvloc_ros.evaluation.honesty import reliability_curve
from cvloc_ros.evaluation.town import TownAccuracy, draw_honesty, evaluate_towns, markdown, write_accuracy
from cvloc_ros.localization.covariance import QUALITY_RADIUS
from cvloc_ros.localization.gate import GateConfig
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.models.weights import choose_device, save_weights
from cvloc_ros.training.calibrate import Fit, calibrate
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.log import draw_curve
from cvloc_ros.training.settings import write_yaml
from cvloc_ros.training.start_accuracy import evaluate_start
from cvloc_ros.training.task import Task

CALIBRATION_PAIRS = 3200
TEST_PAIRS = 300
_ONLY = " only"  # ends a card's ``data`` if nothing but towns was trained on


def finish(task: Task, config: TrainConfig, out: Path, *, progress: Callable[[str], None]) -> dict:
    """Calibrate and evaluate a network on towns, and write it with its card.

    Writes into ``out``, each named for the method: .safetensors, .json (the card that the program reads), .yaml (the
    settings that remake it), .md (the card for people), .png (the training curve), .honesty.png (covariance and quality
    against the errors); and the files of `write_accuracy`.

    Args:
        task: with the trained network.
        config: what it was trained with.
        out: folder of the run; its log.csv becomes the curve, its lineage.json, where the run started from weights, a
            part of the card, and a history.md that a person put there, for a run that was changed on its way, the
            card's end.
        progress: told what is being done.

    Returns:
        The accuracy tables of `evaluate_towns`, with a row more in each: the pose that the flow starts from.

    """
    method: str = task.method
    network: Any = task.network
    matcher = task.matcher(network, device=choose_device("auto"))
    progress("calibrating")
    fit = calibrate(matcher, pairs=CALIBRATION_PAIRS)
    progress("evaluating")
    localizer = Localizer(matcher, fit.calibration, None)
    accuracy = evaluate_towns(localizer, count=TEST_PAIRS)
    progress("evaluating the start")
    for name, scores in evaluate_start(task, localizer, count=TEST_PAIRS).items():
        accuracy.tables[name][task.poses[0]] = scores
    card = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "licence": "Apache-2.0",
        "data": _data(config),
        "command": f"cvloc train --config {method}.yaml",
        "training": asdict(config),
        "calibration": fit.to_card(),
        "accuracy": {
            name: {model: _short(scores) for model, scores in models.items() if scores}
            for name, models in accuracy.tables.items()
        },
    }
    if task.built_on:
        card["encoders"] = task.built_on
    lineage = out / "lineage.json"
    if lineage.exists():
        card["lineage"] = json.loads(lineage.read_text())
    save_weights(network, out / f"{method}.safetensors", card)
    write_yaml(config, out / f"{method}.yaml")
    write_accuracy(accuracy, out)
    sets = [source.name for source in config.validation]
    draw_curve(out / "log.csv", out / f"{method}.png", terms=task.drawn, sets=sets, poses=task.poses)
    draw_honesty(accuracy, out / f"{method}.honesty.png")
    parameters = sum(p.numel() for p in network.parameters())
    history = "\n" + (out / "history.md").read_text() if (out / "history.md").exists() else ""
    (out / f"{method}.md").write_text(_card_text(task, config, card, accuracy, fit, parameters) + history)
    return accuracy.tables


def _short(scores: dict) -> dict:
    """Return the numbers of a row that belong on a card."""
    short = {
        "median_m": round(scores["position_error_m"]["median"], 3),
        "mean_m": round(scores["position_error_m"]["mean"], 3),
        "yaw_median_deg": round(scores["yaw_error_deg"]["median"], 3),
        "lateral_1m": round(scores["recall"]["lateral_1m"], 4),
        "longitudinal_1m": round(scores["recall"]["longitudinal_1m"], 4),
    }
    if "nees" in scores:
        short["nees"] = round(scores["nees"]["mean"], 2)
        short["within_95"] = round(scores["nees"]["within_95"], 4)
    return short


def _data(config: TrainConfig) -> str:
    """Return what a run was trained on, in words, and which weights of others it began with."""
    total = sum(source.weight for source in config.data)
    towns = "synthetic towns (cvloc_ros.datasets.town, training styles)"
    others = ", ".join(Path(path).name for path in getattr(config.task, "weights_of_others", ()))
    begun = f" (begun with {others})" if others else ""
    if all(source.source == "town" for source in config.data):
        return towns + (begun or _ONLY)
    shares = [(towns if source.source == "town" else source.name, source.weight / total) for source in config.data]
    if len(shares) == 1:
        return shares[0][0] + begun
    return ", ".join(f"{100 * share:.0f} % {name}" for name, share in shares) + begun


def _ancestors(origin: dict | None) -> Iterator[dict]:
    """Yield what weights come from, then what these come from, and so on."""
    while origin:
        yield origin
        origin = origin.get("lineage")


def _lineage(label: str, lineage: dict | None) -> str:
    """Return the table row that says which weights others come from; nothing if they come from none."""
    told = ""
    for each in _ancestors(lineage):
        told += f"{each['weights']} of {each.get('date', '?')} ({each.get('samples') or 'unknown'} samples)"
        if each.get("lineage"):
            told += f", which {_started(each.get('start_share', 0.0))} "
    return f"| {label} | {told} |\n" if told else ""


def _started(share: float) -> str:
    """Return how weights come from those before them, in words."""
    return "started from" + (f" (a share of {share:.3g} is in them)" if share else "")


def _never_seen(card: dict) -> str:
    """Return what neither these weights nor those that they come from were trained on, in words."""
    sources = [card, *_ancestors(card.get("lineage")), *_ancestors(card.get("encoders"))]
    towns_only = all(each.get("data", "").endswith(_ONLY) for each in sources)
    return "any real image; the towns of the tables below" if towns_only else "the towns of the tables below"


def _card_text(task: Task, config: TrainConfig, card: dict, accuracy: TownAccuracy, fit: Fit, parameters: int) -> str:
    method = task.method
    left_out = card["calibration"]["towns_left_out"]
    honest = left_out["nees"]
    reused = f", a town's pair used {config.reuse} times" if any(s.source == "town" for s in config.data) else ""
    blanked = ", which it also saw in training" if config.augment.blank_ground else ""
    started = _started(config.start_share)
    origins = _lineage(started, card.get("lineage")) + _lineage("encoders", card.get("encoders"))
    return f"""# Weights of {method}

| | |
|---|---|
| method | `{method}`: {task.summary} |
| parameters | {parameters / 1e6:.2f} million, stored in half precision |
| trained on | {card["data"]}: {config.samples} samples{reused} |
{origins}| never trained on | {_never_seen(card)}; the held-out style |
| calibrated on | {len(fit.nees)} pairs of other towns in the training's styles, half of them in colours of no season |
| made by | `{card["command"]}` |
| date | {card["date"]} |
| licence | {card["licence"]} |

{TEST_PAIRS} pairs of each set, one each frame alone, priors uniform in ±20 m and ±10°. "Accepted" are the frames that
the gate lets through. "Blind" is the same network with the camera's image blanked{blanked}:
what the map alone gives away. Chance answers with the centre of the search box. "{task.poses[0].capitalize()}"
is the pose that the flow starts from: what comes after it makes the difference to the answer.

{markdown(accuracy.tables)}

## Can it be trusted?

The covariance and the quality are fitted to the calibration pairs; an eighth of them come again with the camera image
of another town, which the quality has to tell. Judged on calibration towns that were left out of
the fit, the gate (quality of at least {GateConfig().min_quality}) lets {100 * left_out["accepted"]:.0f} % of the frames
through, of which {100 * left_out["within_2m"]:.0f} % are within 2 m. Their mean NEES is {honest["mean"]:.1f} (3 is
honest), and {100 * honest["within_95"]:.0f} % of the truths are inside the 95 % ellipsoid. On the towns of the table:

{_reliability(accuracy)}

![covariance and quality against the errors]({method}.honesty.png)

## Training

![training curve]({method}.png)
"""


def _reliability(accuracy: TownAccuracy) -> str:
    """Return the quality against the share of frames within its radius, as a table."""
    lines = ["| set | quality | within 2 m | frames |", "|---|---|---|---|"]
    for name, results in accuracy.results.items():
        quality = np.array([r.localization.quality for r in results])
        right = np.array([np.hypot(*r.error[:2]) < QUALITY_RADIUS for r in results])
        for claimed, observed, count in reliability_curve(quality, right):
            lines.append(f"| {name} | {claimed:.2f} | {observed:.2f} | {count:.0f} |")
    return "\n".join(lines)
