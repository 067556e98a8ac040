"""The report of a run: one self-contained HTML page, and its pictures as PNG files."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from cvloc_ros import __version__
from cvloc_ros.evaluation.honesty import run_honesty_figure
from cvloc_ros.evaluation.map_plot import map_figure
from cvloc_ros.evaluation.plots import errors_figure
from cvloc_ros.evaluation.records import FrameRecord, RunResult, Sample
from cvloc_ros.evaluation.report_style import PAGE
from cvloc_ros.evaluation.summary import begun, compared
from cvloc_ros.evaluation.trajectory import AIM, AIM_NAME, AIM_START, EVO_NAME, in_words
from cvloc_ros.imagery import redacted
from cvloc_ros.localization.gate import REASONS

_DPI = 130
_MATCH_WIDTH = 1100  # pixels of a match picture on the page


def write_report(result: RunResult, summary: dict[str, Any], folder: Path) -> None:
    """Write report.html, and pictures/map.png, errors.png, calibration.png, match_*.jpg as far as there is data."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    sections = [
        _tiles(summary),
        _notes(result),
        _figure("Map", _save(map_figure(result), pictures / "map.png"), _MAP_CAPTION),
    ]
    caption = _ERRORS_CAPTION if "tracker" in summary else _SIGMA_CAPTION
    sections.append(_figure("Over time", _save(errors_figure(result), pictures / "errors.png"), caption))
    if rows := compared(summary):
        words = in_words(summary.get("trajectory", {}))
        scored = f"<p>The aim: {AIM_START}. This run: {begun(summary)}.</p>"
        scored += f"<p>{EVO_NAME}: {words}</p>" if words else ""
        sections.append(f"<section><h2>Errors</h2>{_error_table(rows)}{scored}<p>{_TABLE_CAPTION}</p></section>")
    honesty = run_honesty_figure(result)
    if honesty is not None:
        picture = _save(honesty, pictures / "calibration.png")
        sections.append(_figure("Can the covariance be trusted?", picture, _HONESTY_CAPTION))
    chosen = choose_samples(result)
    if chosen:
        images = [np.asarray(cv2.imdecode(np.frombuffer(s.jpeg, np.uint8), cv2.IMREAD_COLOR)) for _, s in chosen]
        for caption, sample in chosen:
            (pictures / f"match_{caption.split(':')[0].lower()}.jpg").write_bytes(sample.jpeg)
        sections.append(_matches(chosen, images))
    sections += [_frames(summary), _settings(result, summary)]
    title = f"{Path(result.source).name} · {result.method or 'run'}"
    page = PAGE.format(title=html.escape(title), body="\n".join(sections), version=__version__)
    (folder / "report.html").write_text(page)


def choose_samples(result: RunResult) -> list[tuple[str, Sample]]:
    """Return the best, the median and the worst of the pictured accepted frames, and a rejected one, as captioned.

    Without truth they are ranked by quality.
    """
    frames = {frame.stamp: frame for frame in result.frames}
    pictured = [(frames[s.stamp], s) for s in result.samples if s.stamp in frames]
    accepted = sorted(
        ((frame, sample) for frame, sample in pictured if frame.accepted), key=lambda pair: _badness(pair[0])
    )
    chosen = {}
    if accepted:
        chosen = {"best": accepted[0], "median": accepted[len(accepted) // 2], "worst": accepted[-1]}
    rejected = next(((frame, sample) for frame, sample in pictured if not frame.accepted), None)
    if rejected is not None:
        chosen["rejected"] = rejected
    start = result.frames[0].stamp if result.frames else 0
    return [(_sample_caption(name, frame, start), sample) for name, (frame, sample) in chosen.items()]


def _badness(frame: FrameRecord) -> float:
    error = _position_error(frame)
    return error if error is not None else -(frame.quality or 0.0)


def _position_error(frame: FrameRecord) -> float | None:
    if frame.estimate is None or frame.truth is None:
        return None
    return float(np.hypot(frame.estimate.x - frame.truth.x, frame.estimate.y - frame.truth.y))


def _sample_caption(name: str, frame: FrameRecord, start: int) -> str:
    parts = [f"{name.capitalize()}: {(frame.stamp - start) * 1e-9:.1f} s"]
    error = _position_error(frame)
    if error is not None:
        parts.append(f"error {error:.2f} m")
    if frame.quality is not None:
        parts.append(f"quality {frame.quality:.2f}")
    if frame.reason:
        parts.append(REASONS.get(frame.reason, frame.reason))
    return ", ".join(parts)


def _save(figure: Figure, path: Path) -> str:
    """Write a figure as PNG and return it as an image tag."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    path.write_bytes(buffer.getvalue())
    return image_tag("png", buffer.getvalue(), alt=path.stem)


def image_tag(kind: str, data: bytes, *, alt: str) -> str:
    """Return an image file as a tag that holds it."""
    return f'<img alt="{alt}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _figure(title: str, image: str, caption: str) -> str:
    return f"<section><h2>{title}</h2><figure>{image}<figcaption>{caption}</figcaption></figure></section>"


def _matches(chosen: list[tuple[str, Sample]], images: list[np.ndarray]) -> str:
    figures = []
    for (caption, _), image in zip(chosen, images, strict=True):
        scale = min(1.0, _MATCH_WIDTH / image.shape[1])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 88])
        tag = image_tag("jpeg", data.tobytes(), alt="match")
        figures.append(f"<figure>{tag}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return f"<section><h2>Matches</h2>{''.join(figures)}</section>"


def _tiles(summary: dict[str, Any]) -> str:
    tiles: list[tuple[str, str, str]] = []
    if "position_error_m" in summary:
        tiles.append(("per frame", f"{summary['position_error_m']['median']:.2f} m", "median position error"))
    if "tracker" in summary:
        tiles.append(("fused", f"{summary['tracker']['position_error_m']['rmse']:.2f} m", "RMSE of the position"))
        tiles.append(("heading", f"{summary['tracker']['yaw_error_deg']['median']:.2f}°", "median error, fused"))
    if "gnss" in summary:
        tiles.append(("GNSS", f"{summary['gnss']['position_error_m']['rmse']:.1f} m", "RMSE of the fixes"))
    share = 100 * summary["localized"] / max(1, summary["frames"])
    tiles.append(("localized", f"{share:.0f} %", f"of {summary['frames']} frames"))
    if "latency_ms" in summary:
        tiles.append(("latency", f"{summary['latency_ms']['median']:.0f} ms", "median, image to pose"))
    cells = "".join(
        f"<div><b>{name}</b><strong>{value}</strong><span>{note}</span></div>" for name, value, note in tiles
    )
    facts = f"{summary['duration_s']:.0f} s, {summary['distance_m']:.0f} m driven"
    return f'<p class="facts">{facts} · {html.escape(str(summary["source"]))}</p><div class="tiles">{cells}</div>'


def _notes(result: RunResult) -> str:
    return "".join(f'<p class="note">{html.escape(note)}</p>' for note in result.notes)


def _error_table(errors_by_name: list[tuple[str, dict[str, Any]]]) -> str:
    head = ["", "median m", "mean m", "RMSE m", "95 % m", "max m", "lat. m", "long. m", "yaw °",
            "lat. ≤ 1 m", "long. ≤ 1 m", "yaw ≤ 1°", "NEES", "in 95 %"]  # fmt: skip
    rows = []
    for name, errors in errors_by_name:
        cells = [f"{errors['position_error_m'][key]:.2f}" for key in ("median", "mean", "rmse", "p95", "max")]
        if "recall" in errors:
            names = ("lateral_error_m", "longitudinal_error_m", "yaw_error_deg")
            cells += [f"{errors[key]['median']:.2f}" for key in names]
            recalls = ("lateral_1m", "longitudinal_1m", "yaw_1deg")
            cells += [f"{100 * errors['recall'][key]:.0f} %" for key in recalls]
        if "nees" in errors:
            cells += [f"{errors['nees']['mean']:.1f}", f"{100 * errors['nees']['within_95']:.0f} %"]
        rows.append([name, *cells, *[""] * (len(head) - 1 - len(cells))])
    aim = {"median m": "median", "RMSE m": "rmse", "yaw °": "yaw", "lat. ≤ 1 m": "lateral_1m"}
    rows.append([AIM_NAME, *(AIM[aim[name]] if name in aim else "" for name in head[1:])])
    return table(head, rows)


def _frames(summary: dict[str, Any]) -> str:
    rows = [["localized", str(summary["localized"]), "accepted by the gate and the tracker"]]
    rows += [[reason, str(count), REASONS.get(reason, "")] for reason, count in summary["rejected"].items()]
    if summary["dropped"]:
        rows.append(["dropped", str(summary["dropped"]), "came while the localizer was busy"])
    return f"<section><h2>Frames</h2>{table(['', 'frames', 'meaning'], rows)}</section>"


def _settings(result: RunResult, summary: dict[str, Any]) -> str:
    datum = f"{result.datum.latitude:.7f}, {result.datum.longitude:.7f}"
    rows = [
        ["source", result.source],
        ["imagery", redacted(result.imagery) + (f" ({result.attribution})" if result.attribution else "")],
        ["method", result.method],
        ["weights", result.weights],
        ["device", result.device],
        ["datum", datum],
        ["start", begun(summary)],
    ]
    for section, values in result.settings.items():
        rows += [[f"{section}.{name}", str(value)] for name, value in values.items()]
    raw = html.escape(json.dumps(summary, indent=2))
    return (
        f"<section><h2>Configuration</h2>{table(['', ''], rows)}"
        f"<details><summary>summary.json</summary><pre>{raw}</pre></details></section>"
    )


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table of text."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


_MAP_CAPTION = (
    "North is up. Dots along the track are single frames that were accepted; the line is the fused pose; odometry "
    "alone starts from the first confirmed pose."
)
_ERRORS_CAPTION = (
    "Errors in the map frame, lateral and longitudinal along the true heading. The band is what the fused pose's "
    "covariance claims. The topmost axis is linear up to 1 m and logarithmic above."
)
_SIGMA_CAPTION = "There is no ground truth: these are the standard deviations that the estimates claim."
_TABLE_CAPTION = (
    "Lateral, longitudinal and yaw are medians. The fused track is judged from the first pose that localizations "
    "have confirmed. Chance is the centre of a ±20 m ±10° search box. The aim is for a causal filter on whole drives "
    "of KITTI. Evo takes poses as they are, without aligning them."
)
_HONESTY_CAPTION = (
    "NEES is the squared error in units of the claimed covariance: 3 on average if the claim is honest, and in 95 of "
    "100 cases below the dashed line. In the last panel, a curve on the diagonal means that a region claimed to hold "
    "90 % of the truths does hold 90 %; the dots are the ellipsoids of 1, 2 and 3 sigma."
)
