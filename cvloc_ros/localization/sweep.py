"""Where to look when one search box is not enough: boxes that cover an area and its headings, one after the other."""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle
from cvloc_ros.localization.types import Prior

_REACH, _TURN = 16.0, np.radians(8.0)  # what one box covers for sure, wherever within it the vehicle is and looks
_SPACING = 27.0  # metres: circles of `_REACH` on a hexagonal lattice of this spacing leave no gap
_HEADING_STEP = np.radians(16.0)
_LARGEST = 60.0  # metres: beyond this a sweep would take longer than what it learns stays true
_WHOLE_BOX = np.diag([7.0, 7.0, np.radians(3.5)]) ** 2  # its 3 sigma are the largest box that matchers search
# A matcher that sees nothing tends to answer with the middle of its box. Boxes are laid off what they examine, another
# way each time, so that such answers contradict one another.
_OFFSETS = (
    (3.0, 2.0, np.radians(1.5)),
    (-2.5, 3.0, np.radians(-2.0)),
    (-3.0, -2.0, np.radians(2.0)),
    (2.0, -3.0, np.radians(-1.5)),
)


def whole_box(T_map_base: SE2, turn: int) -> Prior:
    """Return the largest search box that holds a pose, not in its middle; ``turn`` chooses to which side."""
    return Prior(T_map_base @ SE2(*_OFFSETS[turn % len(_OFFSETS)]), _WHOLE_BOX)


class Sweep:
    """Boxes around a pose, nearest first. They are fixed in the odom frame: the vehicle may go on moving."""

    def __init__(self, T_map_base: SE2, T_odom_base: SE2, *, radius: float, heading: float) -> None:
        """Cover ``radius`` metres and ``heading`` radians to either side of a pose that is held at ``T_odom_base``."""
        places = _lattice(min(radius, _LARGEST))
        turns = _headings(heading)
        steps = sorted(
            ((x, y, yaw) for x, y in places for yaw in turns),
            key=lambda step: np.hypot(step[0], step[1]) / _SPACING + abs(step[2]) / _HEADING_STEP,
        )
        # An offset is a place in the map, so it must not turn with the heading that is tried there.
        about = SE2(T_map_base.x, T_map_base.y, 0.0)
        poses = [about @ SE2(x, y, float(wrap_angle(T_map_base.yaw + yaw))) for x, y, yaw in steps]
        self._tiles = [pose @ T_odom_base.inverse() for pose in poses]  # T_map_odom
        self._visits = [0] * len(self._tiles)

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def rounds(self) -> int:
        """How many times all of the boxes have been searched."""
        return min(self._visits)

    def box(self, T_odom_base: SE2, *, skip: int = 0) -> Prior:
        """Return the next box to be searched, or the one ``skip`` later."""
        order = sorted(range(len(self._tiles)), key=lambda k: self._visits[k])  # stable: nearest first
        tile = order[skip % len(order)]
        return whole_box(self._tiles[tile] @ T_odom_base, self._visits[tile])

    def visit(self, prior: Prior, T_odom_base: SE2) -> None:
        """Note that a box was searched; one that is none of the sweep's counts for the one that it nearly is."""
        steps = [(tile @ T_odom_base).inverse() @ prior.T_map_base for tile in self._tiles]
        off = [max(np.hypot(step.x, step.y) / 5.0, abs(step.yaw) / np.radians(4.0)) for step in steps]
        nearest = int(np.argmin(off))
        if off[nearest] < 1.0:
            self._visits[nearest] += 1


def _lattice(radius: float) -> list[tuple[float, float]]:
    """Return the centres (m, m) of boxes whose circles cover a disc; the middle is one of them."""
    reach = max(radius - _REACH / 3, 0.0)
    n = int(np.ceil(reach / _SPACING)) + 1
    steps = [(i, j) for i in range(-2 * n, 2 * n + 1) for j in range(-n, n + 1)]
    points = [(_SPACING * (i + j / 2), _SPACING * j * np.sqrt(3) / 2) for i, j in steps]
    return [(float(x), float(y)) for x, y in points if np.hypot(x, y) <= reach + 1e-6]


def _headings(half: float) -> list[float]:
    """Return headings (rad) whose boxes cover ``half`` to either side; 0 is one of them."""
    if half >= np.pi - _TURN:
        count = int(np.ceil(2 * np.pi / _HEADING_STEP))
        return [float(wrap_angle(2 * np.pi * k / count)) for k in range(count)]
    side = int(np.ceil(max(half - _TURN, 0.0) / _HEADING_STEP))
    return [float(k * _HEADING_STEP) for k in range(-side, side + 1)]
