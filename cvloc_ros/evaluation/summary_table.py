"""The table that a run ends with."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cvloc_ros.evaluation.summary import begun, compared
from cvloc_ros.evaluation.trajectory import AIM, AIM_NAME, AIM_START, EVO_NAME, in_words
from cvloc_ros.localization.gate import REASONS

_LEFT = 20
_AIM = (AIM_NAME, AIM["median"], AIM["rmse"], "", "", "", AIM["yaw"], AIM["lateral_1m"], "")
_COLUMNS = ("median\nm", "RMSE\nm", "max\nm", "lat.\nm", "long.\nm", "yaw\n°", "lat.\n≤1m", "long.\n≤1m")


def print_summary(summary: dict[str, Any], *, console: Console | None = None) -> None:
    """Print what `cvloc_ros.evaluation.summary.summarize` found, for people."""
    console = console or Console()
    if rows := compared(summary):
        console.print(_errors(rows))
        console.print(f"The aim: {AIM_START}. This run: {begun(summary)}.\n", style="dim", highlight=False)
    else:
        console.print("No ground truth in this drive, or nothing to compare with it.")
    console.print(_facts(summary))


def _errors(rows: list[tuple[str, dict[str, Any]]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("errors against the\nground truth", min_width=_LEFT, no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, errors in rows:
        table.add_row(f"[bold]{name}[/]" if name in ("per frame", "fused track") else name, *_cells(errors))
    table.add_row(*_AIM, style="dim")
    return table


def _cells(errors: dict[str, Any]) -> list[str]:
    position = errors["position_error_m"]
    cells = [_metres(position[key]) for key in ("median", "rmse", "max")]
    if "yaw_error_deg" not in errors:
        return [*cells, *[""] * 5]
    names = ("lateral_error_m", "longitudinal_error_m", "yaw_error_deg")
    recall = errors["recall"]
    return [
        *cells,
        *[_metres(errors[name]["median"]) for name in names],
        *[f"{100 * recall[key]:.0f} %" for key in ("lateral_1m", "longitudinal_1m")],
    ]


def _metres(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _facts(summary: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(min_width=_LEFT)
    table.add_column()
    frames = summary["frames"]
    share = f" ({100 * summary['localized'] / frames:.0f} %)" if frames else ""
    table.add_row("drive", f"{summary['duration_s']:.0f} s, {summary['distance_m']:.0f} m")
    table.add_row("frames localized", f"{summary['localized']} of {frames}{share}, {summary['rate_hz']:.1f} per second")
    for reason, count in summary["rejected"].items():
        table.add_row(f"  rejected {count}", f"{reason}: {REASONS.get(reason, '')}".removesuffix(": "))
    if summary["dropped"]:
        table.add_row("  dropped", f"{summary['dropped']}: they came while the localizer was busy")
    if "latency_ms" in summary:
        latency = summary["latency_ms"]
        table.add_row("time per frame", f"{latency['median']:.0f} ms median, {latency['p95']:.0f} ms 95 %")
    if words := in_words(summary.get("trajectory", {})):
        table.add_row(EVO_NAME, words)
    if "nees" in summary:
        honesty = summary["nees"]
        table.add_row(
            "honesty of covariance",
            f"NEES {honesty['mean']:.1f} (honest: 3.0), {100 * honesty['within_95']:.0f} % within the 95 % region",
        )
    return table
