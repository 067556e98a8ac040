"""The log of a run: every step's losses and rate, and what validation measured, as a CSV file; and its curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.town.seeds import SETS

SCORES = ("median_m", "mean_m", "yaw_median_deg", "lateral_1m", "longitudinal_1m")


class Log:
    """Appends rows to ``path``."""

    def __init__(self, path: Path, columns: Sequence[str]):
        """Write ``columns``, of which a row may have only some."""
        self.path, self.columns = path, ["seen", *columns]

    def begin(self, seen: int) -> None:
        """Start the file, or keep the rows of the first ``seen`` samples of the one that is there."""
        rows = []
        if seen and self.path.exists():
            rows = [row for row in read_log(self.path) if float(row["seen"]) <= seen]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: dict[str, float]) -> None:
        """Append a row."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow({k: f"{v:.6g}" for k, v in row.items()})


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a log; a last one that an interruption has torn is left out."""
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def draw_curve(log: Path, path: Path, *, terms: Sequence[str], sets: Sequence[str], poses: Sequence[str]) -> None:
    """Draw losses (``terms``) and validation (on ``sets``) of a run's log.csv; ``poses`` as of `Task`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_log(log)
    seen = np.array([float(r["seen"]) for r in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    for name in terms:
        values = np.array([float(r[name]) for r in rows])
        width = max(1, len(values) // 100)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        left.plot(seen[width - 1 :] / 1e3, smooth, label=name)
    left.set(xlabel="thousand samples", ylabel="loss", title="training")
    left.legend(frameon=False)
    for i, name in enumerate(sets):
        checked = [r for r in rows if r[f"{name}_median_m"]]
        steps = [(f"{pose}_median_m", "s--", f"median of the {pose}") for pose in poses[:-1]]
        for statistic, line, what in (("median_m", "o-", "median"), *steps, ("mean_m", "^:", "mean")):
            errors = [float(r[f"{name}_{statistic}"]) for r in checked]
            label = f"{SETS.get(name, name)}, {what}"
            right.plot([float(r["seen"]) / 1e3 for r in checked], errors, line, ms=4, c=f"C{i}", label=label)
    right.set(
        xlim=left.get_xlim(), xlabel="thousand samples", ylabel="position error, m", yscale="log", title="validation"
    )
    right.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for which in (right.yaxis.set_major_formatter, right.yaxis.set_minor_formatter):
        which("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
