"""From a trained network to weights that can be shipped: calibration, accuracy, card and curve."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cvloc_ros.evaluation.honesty import reliability_curve
from cvloc_ros.evaluation.town import TownAccuracy, draw_honesty, evaluate_towns, markdown, write_accuracy
from cvloc_ros.localization.covariance import QUALITY_RADIUS
from cvloc_ros.localization.gate import GateConfig
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher
from cvloc_ros.models.weights import choose_device, save_weights
from cvloc_ros.training.calibrate import Fit, calibrate
from cvloc_ros.training.config import TrainConfig

CALIBRATION_PAIRS = 1600
TEST_PAIRS = 300


def finish(network: VoteFlow, config: TrainConfig, out: Path, *, progress: Callable[[str], None]) -> dict:
    """Calibrate and evaluate a network, and write it with its card.

    Writes into ``out``: vote_flow.safetensors, vote_flow.json (the card that the program reads), vote_flow.md (the
    card for people), vote_flow.png (the training curve), vote_flow.honesty.png (covariance and quality against the
    errors) and the files of `write_accuracy`.

    Args:
        network: trained.
        config: what it was trained with.
        out: folder of the run; its log.csv becomes the curve, and a history.md that a person put there, for a run that
            was changed on its way, the card's end.
        progress: told what is being done.

    Returns:
        The accuracy tables of `evaluate_towns`.

    """
    matcher = VoteFlowMatcher(network, device=choose_device("auto"))
    progress("calibrating")
    fit = calibrate(matcher, pairs=CALIBRATION_PAIRS)
    progress("evaluating")
    accuracy = evaluate_towns(Localizer(matcher, fit.calibration, None), count=TEST_PAIRS)
    card = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "licence": "Apache-2.0",
        "data": "synthetic towns only (cvloc_ros.datasets.town, training styles)",
        "command": "make train",
        "training": asdict(config),
        "calibration": fit.to_card(),
        "accuracy": {
            name: {model: _short(scores) for model, scores in models.items() if scores}
            for name, models in accuracy.tables.items()
        },
    }
    save_weights(network, out / "vote_flow.safetensors", card)
    write_accuracy(accuracy, out)
    draw_curve(out / "log.csv", out / "vote_flow.png")
    draw_honesty(accuracy, out / "vote_flow.honesty.png")
    parameters = sum(p.numel() for p in network.parameters())
    history = "\n" + (out / "history.md").read_text() if (out / "history.md").exists() else ""
    (out / "vote_flow.md").write_text(_card_text(config, card, accuracy, fit, parameters) + history)
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


def _card_text(config: TrainConfig, card: dict, accuracy: TownAccuracy, fit: Fit, parameters: int) -> str:
    left_out = card["calibration"]["towns_left_out"]
    honest = left_out["nees"]
    return f"""# Weights of vote_flow

| | |
|---|---|
| method | `vote_flow`: vote over the search box, second vote around its peak, flow with the ground's tilt |
| parameters | {parameters / 1e6:.2f} million, stored in half precision |
| trained on | {card["data"]}: {config.samples} samples, each pair rendered once and used {config.reuse} times |
| never trained on | any real image; the towns of the tables below; the held-out style |
| calibrated on | {len(fit.nees)} pairs of other towns in the training's styles, half of them in colours of no season |
| made by | `{card["command"]}` |
| date | {card["date"]} |
| licence | {card["licence"]} |

{TEST_PAIRS} pairs of each set, one each frame alone, priors uniform in ±20 m and ±10°. "Accepted" are the frames that
the gate lets through. "Blind" is the same network with the camera's image blanked, which it also saw in training:
what the map alone gives away. Chance answers with the centre of the search box.

{markdown(accuracy.tables)}

## Can it be trusted?

The covariance and the quality are fitted to the calibration pairs. Judged on calibration towns that were left out of
the fit, the gate (quality of at least {GateConfig().min_quality}) lets {100 * left_out["accepted"]:.0f} % of the frames
through, of which {100 * left_out["within_2m"]:.0f} % are within 2 m. Their mean NEES is {honest["mean"]:.1f} (3 is
honest), and {100 * honest["within_95"]:.0f} % of the truths are inside the 95 % ellipsoid. On the towns of the table:

{_reliability(accuracy)}

![covariance and quality against the errors](vote_flow.honesty.png)

## Training

![training curve](vote_flow.png)
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


def draw_curve(log: Path, path: Path) -> None:
    """Draw losses and validation of a run's log.csv."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with log.open() as file:
        rows = list(csv.DictReader(file))
    seen = np.array([float(r["seen"]) for r in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name in ("coarse", "fine", "flow", "pose"):
        values = np.array([float(r[name]) for r in rows])
        width = max(1, len(values) // 100)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        left.plot(seen[width - 1 :] / 1e3, smooth, label=name)
    left.set(xlabel="thousand samples", ylabel="loss", title="training")
    left.legend(frameon=False)
    checked = [r for r in rows if r["train_median_m"]]
    for style, label in (("train", "unseen towns"), ("heldout", "held-out style")):
        for statistic, line in (("median_m", "-"), ("mean_m", ":")):
            errors = [float(r[f"{style}_{statistic}"]) for r in checked]
            color = "tab:blue" if style == "train" else "tab:orange"
            name = f"{label}, {statistic.removesuffix('_m')}"
            right.plot([float(r["seen"]) / 1e3 for r in checked], errors, line, marker="o", ms=3, c=color, label=name)
    right.set(xlabel="thousand samples", ylabel="position error, m", yscale="log", title="validation")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
