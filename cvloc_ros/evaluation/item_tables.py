"""The tables of an evaluation on a data set: beside chance and the blind model, and beside the published rows."""

from __future__ import annotations

from typing import Any

from cvloc_ros.evaluation.published import PUBLISHED

COLUMNS = (
    "median m",
    "mean m",
    "median °",
    "mean °",
    "lateral ≤ 1 m",
    "long. ≤ 1 m",
    "yaw ≤ 1°",
    "lateral ≤ 5 m",
    "long. ≤ 5 m",
    "NEES",
    "in 95 %",
)
PUBLISHED_COLUMNS = (
    "mean m",
    "median m",
    "mean °",
    "median °",
    "lateral ≤ 1 m",
    "long. ≤ 1 m",
    "yaw ≤ 1°",
    "source",
    "caveat",
)
_STATISTICS = tuple((group, name) for group in ("position_error_m", "yaw_error_deg") for name in ("median", "mean"))
_RECALLS = ("lateral_1m", "longitudinal_1m", "yaw_1deg", "lateral_5m", "longitudinal_5m")


def own_rows(method: str, summary: dict[str, Any]) -> list[list[str]]:
    """Return rows of text: the model, then `COLUMNS`; the row after the method's has its 95 % intervals."""
    found = summary["estimate"]
    rows = [[method, *_cells(found)], ["  95 % interval", *_interval_cells(found["intervals"])]]
    if "accepted" in summary:
        share = 100 * summary["accepted"]["share"]
        rows.append([f"{method}, accepted ({share:.0f} %)", *_cells(summary["accepted"])])
    rows.append(["blind (image blanked)", *_cells(summary["blind"])])
    rows.append(["chance (the prior)", *_cells(summary["chance"])])
    return rows


def published_rows(protocol: str, method: str, summary: dict[str, Any]) -> list[list[str]]:
    """Return rows of text: the method, then `PUBLISHED_COLUMNS`; the first is this evaluation's.

    Its numbers are as the literature's scripts compute them: those for KITTI and Ford compare shifts in the vehicle's
    frame, the others take the distance in the map. Frames far from all training frames stand beside what is published
    for all.
    """
    own = summary["highly_accurate" if in_body_frame(protocol) else "estimate"]
    position, yaw, recall = own["position_error_m"], own["yaw_error_deg"], own["recall"]
    numbers = [position["mean"], position["median"], yaw["mean"], yaw["median"]]
    shares = [100 * recall[name] for name in ("lateral_1m", "longitudinal_1m", "yaw_1deg")]
    caveat = "as the literature's scripts measure"
    rows = [[method, *map(_number, numbers), *map(_share, shares), "this evaluation", caveat]]
    for row in PUBLISHED.get(protocol.removesuffix("-clean"), ()):
        cells = [*map(_number, (*row.position, *row.yaw)), *map(_share, row.recall)]
        rows.append([row.method, *cells, row.source, row.caveat])
    return rows


def in_body_frame(protocol: str) -> bool:
    """Whether the literature's scripts for a protocol compare shifts in the vehicle's frame, as HighlyAccurate's do."""
    return protocol.startswith(("kitti", "ford"))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _cells(errors: dict[str, Any]) -> list[str]:
    cells = [f"{errors[group][name]:.2f}" for group, name in _STATISTICS]
    cells += [f"{100 * errors['recall'][name]:.1f} %" for name in _RECALLS]
    spread = errors.get("nees")
    return cells + ([f"{spread['mean']:.1f}", f"{100 * spread['within_95']:.0f} %"] if spread else ["", ""])


def _interval_cells(intervals: dict[str, list[float]]) -> list[str]:
    cells = []
    for group, name in (*_STATISTICS, *(("recall", name) for name in _RECALLS)):
        low, high = intervals[f"{group}.{name}"]
        cells.append(f"{100 * low:.0f}–{100 * high:.0f} %" if group == "recall" else f"{low:.2f}–{high:.2f}")
    return [*cells, "", ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"
