"""What an evaluation on a data set leaves beside frames.csv: summary.json, table.md, report.html and pictures/."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from cvloc_ros import __version__
from cvloc_ros.datasets.item import Dataset
from cvloc_ros.evaluation.honesty import pairs_honesty_figure
from cvloc_ros.evaluation.item_frames import ItemFrames
from cvloc_ros.evaluation.item_tables import (
    COLUMNS,
    PUBLISHED_COLUMNS,
    in_body_frame,
    markdown,
    own_rows,
    published_rows,
)
from cvloc_ros.evaluation.items import localize_items
from cvloc_ros.evaluation.metrics import PoseErrors, nees
from cvloc_ros.evaluation.pictures import draw_overlay
from cvloc_ros.evaluation.plots import FRAME, FUSED, GNSS, ODOMETRY, dress
from cvloc_ros.evaluation.report import image_tag, table
from cvloc_ros.evaluation.report_style import PAGE
from cvloc_ros.localization.covariance import QUALITY_RADIUS
from cvloc_ros.localization.localizer import Localizer

_DPI = 120
_WORST, _WORST_ACCEPTED = 3, 3


def write_item_report(
    frames: ItemFrames,
    summary: dict[str, Any],
    folder: Path,
    *,
    identity: dict[str, str],
    notes: list[str],
    localizer: Localizer,
    items: Dataset,
) -> None:
    """Write summary.json, table.md, report.html and pictures/ into ``folder``.

    Args:
        frames: the answers.
        summary: of `summarize_items`.
        folder: that of frames.csv.
        identity: protocol, method and weights, as in run.json.
        notes: what a reader must know.
        localizer: draws the cases that are shown: it localizes them again.
        items: the data set.

    """
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    protocol, method = identity["protocol"], identity["method"]
    own, others = own_rows(method, summary), published_rows(protocol, method, summary)
    head, published_head = ["", *COLUMNS], ["", *PUBLISHED_COLUMNS]
    (folder / "summary.json").write_text(json.dumps(identity | summary | {"notes": notes}, indent=1) + "\n")
    text = markdown(head, own) + "\n" + (markdown(published_head, others) if len(others) > 1 else "")
    (folder / "table.md").write_text(text)

    sections = [_tiles(summary), *(f'<p class="note">{html.escape(note)}</p>' for note in notes)]
    sections.append(f"<section><h2>This evaluation</h2>{table(head, own)}<p>{_OWN_CAPTION}</p></section>")
    if len(others) > 1:
        compared = table(published_head, others)
        title = '<section class="sourced"><h2>Beside the literature</h2>'
        sections.append(f"{title}{compared}<p>{published_caption(protocol)}</p></section>")
    figures = [("How the errors are distributed", _distribution(frames), "errors")]
    if frames.accepted.any():
        figures.append(("Can covariance and quality be trusted?", _honesty(frames, protocol), "honesty"))
    for title, figure, name in figures:
        tag = _save(figure, pictures / f"{name}.png")
        sections.append(f"<section><h2>{title}</h2><figure>{tag}</figure></section>")
    sections.append(_cases(frames, localizer, items, pictures))
    rows = [[key, value] for key, value in identity.items()]
    raw = html.escape(json.dumps(summary, indent=1))
    sections.append(
        f"<section><h2>Configuration</h2>{table(['', ''], rows)}"
        f"<details><summary>summary.json</summary><pre>{raw}</pre></details></section>"
    )
    page = PAGE.format(title=html.escape(f"{protocol} · {method}"), body="\n".join(sections), version=__version__)
    (folder / "report.html").write_text(page)


def choose_cases(frames: ItemFrames) -> list[tuple[str, int]]:
    """Return what to show, as a title and the frame's place: the worst accepted, the other worst, median and best."""
    error = PoseErrors.between(frames.estimate, frames.truth).position
    order = np.argsort(error, kind="stable")
    accepted = [k for k in order if frames.accepted[k]]
    chosen = [(f"Worst accepted {n}", k) for n, k in enumerate(accepted[::-1][:_WORST_ACCEPTED], start=1)]
    shown = {k for _, k in chosen}
    rest = [k for k in order[::-1] if k not in shown]
    chosen += [(f"Worst {n}", k) for n, k in enumerate(rest[:_WORST], start=1)]
    chosen += [("Median", order[len(order) // 2]), ("Best", order[0])]
    return [(title, int(k)) for title, k in chosen]


def published_caption(protocol: str) -> str:
    """Return what to know of the table with the published rows, and how its first row is measured."""
    measure = "compare shifts in the vehicle's own frame" if in_body_frame(protocol) else "take the distance in the map"
    return (
        f"Published rows are as their sources print them; their scripts {measure}, and so does the first row. Nearly "
        "all were trained on this data set's training split; what these weights were trained on says their card."
    )


def _cases(frames: ItemFrames, localizer: Localizer, items: Dataset, pictures: Path) -> str:
    figures = []
    for title, k in choose_cases(frames):
        item = items[int(frames.index[k])]
        (result,) = localize_items(localizer, [item])
        picture = draw_overlay(item.frame, item.patch, result.localization, truth=item.truth)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
        (pictures / f"{title.lower().replace(' ', '_')}.jpg").write_bytes(data.tobytes())
        caption = html.escape(f"{title}: {item.name}")
        tag = image_tag("jpeg", data.tobytes(), alt=title)
        figures.append(f"<figure>{tag}<figcaption>{caption}</figcaption></figure>")
    return f"<section><h2>Cases</h2>{''.join(figures)}</section>"


def _tiles(summary: dict[str, Any]) -> str:
    answers = summary["estimate"]
    low, high = answers["intervals"]["position_error_m.median"]
    recall = answers["recall"]
    tiles = [
        ("position", f"{answers['position_error_m']['median']:.2f} m", f"median; 95 %: {low:.2f} to {high:.2f} m"),
        ("heading", f"{answers['yaw_error_deg']['median']:.2f}°", "median error"),
        ("lateral", f"{100 * recall['lateral_1m']:.0f} %", "within 1 m"),
        ("longitudinal", f"{100 * recall['longitudinal_1m']:.0f} %", "within 1 m"),
        ("accepted", f"{100 * summary.get('accepted', {'share': 0})['share']:.0f} %", f"of {summary['frames']} frames"),
        ("time", f"{summary['latency_ms']['median']:.0f} ms", "median of a frame"),
    ]
    cells = (f"<div><b>{name}</b><strong>{value}</strong><span>{note}</span></div>" for name, value, note in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _distribution(frames: ItemFrames) -> Figure:
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    sets = [("method", frames.estimate, FUSED), ("blind", frames.blind, ODOMETRY), ("chance", frames.prior, GNSS)]
    errors = [(name, PoseErrors.between(poses, frames.truth), color) for name, poses, color in sets]
    if frames.accepted.any():
        kept = np.flatnonzero(frames.accepted)
        accepted = PoseErrors.between([frames.estimate[k] for k in kept], [frames.truth[k] for k in kept])
        errors.insert(1, ("accepted", accepted, FRAME))
    for axis, part, label in zip(
        axes,
        ("lateral", "longitudinal", "yaw"),
        ("lateral error, m", "longitudinal error, m", "heading error, degrees"),
        strict=True,
    ):
        for name, error, color in errors:
            values = np.sort(np.abs(getattr(error, part)))
            values = np.degrees(values) if part == "yaw" else values
            axis.plot(values, np.linspace(0, 1, len(values)), color=color, label=name, linewidth=1.8)
        axis.set(xscale="log", xlabel=label)
        axis.set_xlim(0.02, None)
        axis.axvline(1, color="#999", linewidth=0.8, linestyle=":")
        dress(axis)
    axes[0].set_ylabel("share of frames")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _honesty(frames: ItemFrames, protocol: str) -> Figure:
    errors = PoseErrors.between(frames.estimate, frames.truth)
    values = nees(errors.east_north_yaw, frames.covariance)
    return pairs_honesty_figure(
        {protocol: values[frames.accepted]},
        {protocol: frames.quality},
        {protocol: errors.position < QUALITY_RADIUS},
    )


def _save(figure: Figure, path: Path) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    path.write_bytes(buffer.getvalue())
    return image_tag("png", buffer.getvalue(), alt=path.stem)


_OWN_CAPTION = (
    "Errors in the map frame; lateral and longitudinal along the true heading; recall counts the limit. Intervals by a "
    "block bootstrap, because frames of a drive resemble their neighbours. The blind model is the same network on a "
    "black image: what the map alone gives away. NEES is 3 where the covariance is honest."
)
