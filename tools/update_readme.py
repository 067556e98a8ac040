"""Bring the README's tables and pictures up to date: `make figures` runs what they show, then this.

Reads out/demo (`cvloc demo`), out/bench.json (`cvloc bench --json`) and the card of the shipped weights. Rewrites what
stands between the markers <!-- begin NAME --> and <!-- end NAME --> in README.md, and the pictures in doc/pictures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2

from cvloc_ros.evaluation.bench import COLUMNS, table_rows

ROOT = Path(__file__).parent.parent
DEMO, BENCH = ROOT / "out/demo", ROOT / "out/bench.json"
CARD = ROOT / "cvloc_ros/models/weights/vote_flow.md"
PICTURES = {
    "pictures/map.png": "map.jpg",
    "pictures/errors.png": "errors.png",
    "overlay.png": "overlay.jpg",
    "markers.png": "markers.jpg",
}


def demo_table() -> str:
    """Return the demo's errors as a table."""
    summary = json.loads((DEMO / "summary.json").read_text())
    rows = [
        ("one frame alone", summary),
        ("fused track", summary["tracker"]),
        ("GNSS", summary["gnss"]),
        ("odometry alone", summary["odometry"]),
    ]
    lines = ["| | median m | RMSE m | max m | yaw median ° |", "|---|---|---|---|---|"]
    for name, scores in rows:
        error = scores["position_error_m"]
        yaw = f"{scores['yaw_error_deg']['median']:.2f}" if "yaw_error_deg" in scores else ""
        lines.append(f"| {name} | {error['median']:.2f} | {error['rmse']:.2f} | {error['max']:.1f} | {yaw} |")
    share = 100 * summary["localized"] / summary["frames"]
    rejected = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in summary["rejected"].items())
    lines += [
        "",
        f"{summary['localized']} of {summary['frames']} frames ({share:.0f} %) were localized"
        + (f"; rejected: {rejected}" if rejected else "")
        + f". Image to pose: {summary['latency_ms']['median']:.0f} ms median, "
        f"{summary['latency_ms']['p95']:.0f} ms at the 95th percentile.",
    ]
    return "\n".join(lines)


def accuracy_table() -> str:
    """Return the table of the weights' card."""
    lines = CARD.read_text().splitlines()
    table = lines[next(k for k, line in enumerate(lines) if line.startswith("| set | model |")) :]
    return "\n".join(table[: table.index("")])


def bench_table() -> str:
    """Return the time of every stage, and how many frames a second there are with all that is done ahead."""
    rows = [row for row in json.loads(BENCH.read_text()) if row["method"] == "vote_flow"]
    lines = [(f"stage ({rows[0]['device']})", *COLUMNS[1:]), ("---",) * len(COLUMNS), *table_rows(rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    rate = {row["variant"]: row["hz"] for row in rows if row["stage"] == "total"}
    ratio = f"{rate['fast'] / rate['eager']:.1f}"
    counted = f"{rate['fast']:.1f} frames a second fast, {rate['eager']:.1f} eager, {ratio} times as many"
    return f"{table}\n\nEverything counted, also what is done ahead: {counted}."


def main() -> None:
    """Rewrite README.md."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, table in (("demo", demo_table()), ("accuracy", accuracy_table()), ("bench", bench_table())):
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"expected the markers of '{name}' once in {readme}, found them {count} times")
    readme.write_text(text)
    (ROOT / "doc/pictures").mkdir(parents=True, exist_ok=True)
    for source, target in PICTURES.items():
        picture = cv2.imread(str(DEMO / source))
        settings = [cv2.IMWRITE_JPEG_QUALITY, 88] if target.endswith(".jpg") else []
        cv2.imwrite(str(ROOT / "doc/pictures" / target), picture, settings)


if __name__ == "__main__":
    main()
