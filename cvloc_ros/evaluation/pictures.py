"""The match picture: one image that shows whether and why a localization is right, live in RViz and in the report.

Left, above: what the camera sees, with the edges of the satellite image as they lie on the ground at the estimated
pose; where the estimate is right, they run along kerbs and markings. Left, below: the ground ahead from above, by
camera and by satellite from the estimate, which then agree; and how likely the places of the search box are. Right:
the satellite patch around the prior, the prior's heading up, with the prior, what was searched around it, the estimate,
2-sigma ellipses and the matches, bright where they weigh much. Below: the verdict in words.
"""

from __future__ import annotations

import re

import numpy as np

from cvloc_ros.evaluation import drawing, panels
from cvloc_ros.geometry import SE2, GroundGrid, wrap_angle
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.gate import REASONS
from cvloc_ros.localization.types import Frame, Localization

OVERLAY_GRID = GroundGrid.centred(256, 0.4)
"""A patch that suits the picture: 51 m to each side."""

_GAP = 14
_PATCH_SIDE = 560
_CAMERA = (700, 273)  # width, height
_SMALL = (224, 273)
_STRIP = 92
_WIDTH = 3 * _GAP + _CAMERA[0] + _PATCH_SIDE
_HEIGHT = 2 * _GAP + _PATCH_SIDE + _STRIP


def draw_overlay(
    frame: Frame,
    patch: Patch,
    localization: Localization,
    *,
    truth: SE2 | None = None,
    state: str = "",
    credit: str = "",
) -> np.ndarray:
    """Draw the match picture.

    Args:
        frame: the image with its camera.
        patch: the satellite image around the prior: ``patch.T_map_patch`` is the prior's pose.
        localization: what came out.
        truth: the true ``T_map_base``, if known.
        state: of the tracker, if there is one.
        credit: whom the satellite image is from.

    Returns:
        RGB uint8, (680, 1302, 3).

    """
    canvas = np.full((_HEIGHT, _WIDTH, 3), drawing.SHADE, np.uint8)
    T_patch_base = patch.T_map_patch.inverse() @ localization.T_map_base
    seen, expected = panels.bird_panels(frame, patch, T_patch_base, size=_SMALL)
    above = panels.patch_panel(patch, localization, side=_PATCH_SIDE, truth=truth)
    if credit:
        drawing.tag(above, drawing.plain_text(credit), x=_PATCH_SIDE, y=_PATCH_SIDE)
    _place(canvas, panels.camera_panel(frame, patch, T_patch_base, size=_CAMERA), x=_GAP, y=_GAP)
    for i, panel in enumerate((seen, expected, panels.posterior_panel(localization.posterior, size=_SMALL))):
        _place(canvas, panel, x=_GAP + i * (_SMALL[0] + _GAP), y=2 * _GAP + _CAMERA[1])
    _place(canvas, above, x=2 * _GAP + _CAMERA[0], y=_GAP)
    _draw_strip(canvas, localization, truth=truth, state=state)
    return canvas


def _place(canvas: np.ndarray, panel: np.ndarray, *, x: int, y: int) -> None:
    canvas[y : y + panel.shape[0], x : x + panel.shape[1]] = panel


def _draw_strip(canvas: np.ndarray, localization: Localization, *, truth: SE2 | None, state: str) -> None:
    """Write the result in words: the verdict on the first line, numbers on the second."""
    y = _GAP + _PATCH_SIDE + 36
    accepted = localization.accepted
    verdict = "accepted" if accepted else f"rejected: {localization.reason.replace('_', ' ')}"
    width = drawing.text_width(verdict, 0.62)
    color = drawing.ACCEPTED if accepted else drawing.REJECTED
    drawing.box(canvas, x=_GAP, y=y - 24, width=width + 24, height=36, color=color)
    drawing.write(canvas, verdict, x=_GAP + 12, y=y, size=0.62, color=drawing.SHADE)

    total = localization.milliseconds.get("total", sum(localization.milliseconds.values()))
    facts = [("quality", f"{localization.quality:.2f}"), ("time", f"{total:.0f} ms")]
    if state:
        facts.insert(0, ("state", state))
    if truth is not None:
        error = truth.inverse() @ localization.T_map_base
        turn = abs(np.degrees(float(wrap_angle(error.yaw))))
        facts.append(("error", f"{np.hypot(error.x, error.y):.2f} m, {turn:.1f} deg"))
    if not accepted:
        facts.append(("why", re.split("[:,]", REASONS.get(localization.reason, ""))[0]))
    _write_facts(canvas, facts, x=_GAP + width + 24 + 28, y=y)

    T_prior_base = localization.prior.T_map_base.inverse() @ localization.T_map_base
    moved = f"{T_prior_base.x:+.2f} m along, {T_prior_base.y:+.2f} m left, {np.degrees(T_prior_base.yaw):+.1f} deg"
    facts = [
        ("sigma", _sigmas(localization.T_map_base, localization.covariance)),
        ("prior's sigma", _sigmas(localization.prior.T_map_base, localization.prior.covariance)),
        ("estimate - prior", moved),
    ]
    _write_facts(canvas, facts, x=_GAP, y=y + 38)


def _write_facts(canvas: np.ndarray, facts: list[tuple[str, str]], *, x: int, y: int) -> None:
    for name, value in facts:
        x = drawing.write(canvas, name, x=x, y=y, size=0.52, color=drawing.QUIET) + 8
        x = drawing.write(canvas, value, x=x, y=y, size=0.52) + 26


def _sigmas(T_map_base: SE2, covariance: np.ndarray) -> str:
    """Write a covariance (map frame) as standard deviations in the vehicle's axes."""
    R = T_map_base.rotation().T
    along, across = np.sqrt(np.diag(R @ covariance[:2, :2] @ R.T))
    return f"{along:.2f} m along, {across:.2f} m across, {np.degrees(np.sqrt(covariance[2, 2])):.1f} deg"
