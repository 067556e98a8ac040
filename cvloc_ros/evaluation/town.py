"""Accuracy on synthetic towns: unseen towns and the held-out style, with blind and chance beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.town import TownPair, town_pairs
from cvloc_ros.datasets.town.seeds import SETS, TEST_TOWNS
from cvloc_ros.evaluation.honesty import pairs_honesty_figure
from cvloc_ros.evaluation.metrics import PoseErrors, chance, honesty, nees
from cvloc_ros.evaluation.pairs import PairResult, localize_pairs
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.covariance import QUALITY_RADIUS
from cvloc_ros.localization.localizer import Localizer


@dataclass(frozen=True, eq=False)
class TownAccuracy:
    """What `evaluate_towns` has measured.

    Attributes:
        tables: by set and by model ("vote_flow", "vote_flow, accepted", "blind", "chance"): the statistics of
            `PoseErrors.summary`, and for all but chance ``nees``; for the first also ``accepted`` (share). On a card
            there is also the pose that the flow starts from, without ``nees``.
        results: by set, every pair's answer; not the blind ones.

    """

    tables: dict[str, dict]
    results: dict[str, list[PairResult]]


def evaluate_towns(localizer: Localizer, *, count: int, progress: Callable[[], None] = lambda: None) -> TownAccuracy:
    """Localize ``count`` pairs of each set, with the camera's image and blind; ``progress`` is told of each step."""
    tables: dict[str, dict] = {}
    results: dict[str, list[PairResult]] = {}
    for style, name in SETS.items():
        pairs = []
        for pair in town_pairs(TEST_TOWNS, count, style=style):
            pairs.append(pair)
            progress()
        results[name] = _run(localizer, pairs, progress, blind=False)
        blind = _run(localizer, pairs, progress, blind=True)
        accepted = _accepted(results[name])
        box, yaw = localizer.matcher.search_box
        tables[name] = {
            localizer.matcher.name: _summarize(results[name]) | {"accepted": len(accepted) / len(results[name])},
            f"{localizer.matcher.name}, accepted": _summarize(accepted),
            "blind": _summarize(blind),
            "chance": chance(box, float(np.degrees(yaw))),
        }
    return TownAccuracy(tables, results)


def _run(
    localizer: Localizer, pairs: Iterable[TownPair], progress: Callable[[], None], *, blind: bool
) -> list[PairResult]:
    results = []
    for result in localize_pairs(localizer, pairs, blind=blind):
        results.append(result)
        progress()
    return results


def _accepted(results: list[PairResult]) -> list[PairResult]:
    return [result for result in results if result.localization.accepted]


def _summarize(results: list[PairResult]) -> dict:
    if not results:
        return {}
    errors = PoseErrors.between([r.localization.T_map_base for r in results], [SE2()] * len(results))
    return errors.summary() | {"nees": honesty(_nees(results))}


def _nees(results: list[PairResult]) -> np.ndarray:
    covariances = np.array([r.localization.covariance for r in results]).reshape(-1, 3, 3)
    return nees(np.array([r.error for r in results]).reshape(-1, 3), covariances)


ROW = ("median m", "mean m", "median °", "lateral R@1 m", "longitudinal R@1 m", "yaw R@1°", "NEES", "in 95 %")


def table_rows(tables: dict) -> list[list[str]]:
    """Return the table as rows of text: set, model, then the columns of `ROW`."""
    rows = []
    for name, models in tables.items():
        for model, s in models.items():
            if not s:
                continue
            share = f" ({100 * tables[name][model.split(',')[0]]['accepted']:.0f} %)" if "accepted" in model else ""
            recall, spread = s["recall"], s.get("nees")
            rows.append(
                [
                    name,
                    model + share,
                    f"{s['position_error_m']['median']:.2f}",
                    f"{s['position_error_m']['mean']:.2f}",
                    f"{s['yaw_error_deg']['median']:.2f}",
                    *(f"{100 * recall[k]:.0f} %" for k in ("lateral_1m", "longitudinal_1m", "yaw_1deg")),
                    f"{spread['mean']:.1f}" if spread and model != "blind" else "",
                    f"{100 * spread['within_95']:.0f} %" if spread and model != "blind" else "",
                ]
            )
    return rows


def markdown(tables: dict) -> str:
    """Return the table in Markdown, as the README and the card show it."""
    header = ["set", "model", *ROW]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in table_rows(tables)])


def write_accuracy(accuracy: TownAccuracy, out: Path) -> None:
    """Write ``accuracy.json``, ``accuracy.md``, ``accuracy.csv`` and ``honesty.png`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "accuracy.json").write_text(json.dumps(accuracy.tables, indent=1) + "\n")
    (out / "accuracy.md").write_text(markdown(accuracy.tables) + "\n")
    with (out / "accuracy.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["set", "model", *ROW], *table_rows(accuracy.tables)])
    draw_honesty(accuracy, out / "honesty.png")


def draw_honesty(accuracy: TownAccuracy, path: Path) -> None:
    """Draw whether covariance and quality of both sets can be trusted: see `pairs_honesty_figure`."""
    results = accuracy.results
    figure = pairs_honesty_figure(
        {name: _nees(_accepted(each)) for name, each in results.items()},
        {name: np.array([r.localization.quality for r in each]) for name, each in results.items()},
        {name: np.array([np.hypot(*r.error[:2]) < QUALITY_RADIUS for r in each]) for name, each in results.items()},
    )
    figure.savefig(path, dpi=110)
