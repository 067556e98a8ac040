"""What stands on the ground: prisms (buildings, hedges, walls, cars), trees and posts, as arrays of equal length."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

BUILDING, BARRIER, CAR, VAN = 0, 1, 2, 3  # kinds of prism
LAMP, SIGN, BOLLARD, POLE = 0, 1, 2, 3  # kinds of post

_Table = TypeVar("_Table", bound="_Columns")


class _Columns:
    """Equal-length arrays that are selected and joined together; all have a position, metres."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def select(self: _Table, index: np.ndarray) -> _Table:
        """Return the rows of an index or mask."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})  # type: ignore

    def near(self: _Table, centre: np.ndarray, reach: float) -> _Table:
        """Return the rows within ``reach`` metres of a point (2,)."""
        return self.select(np.hypot(self.x - centre[0], self.y - centre[1]) < reach)

    def within(self: _Table, half: float) -> _Table:
        """Return the rows in a square of twice ``half`` metres about the origin."""
        return self.select((np.abs(self.x) < half) & (np.abs(self.y) < half))

    def joined(self: _Table, other: _Table) -> _Table:
        """Return these rows and then the other's."""
        columns = {f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}  # type: ignore
        return replace(self, **columns)  # type: ignore[type-var]

    @classmethod
    def from_rows(cls: type[_Table], rows: list[tuple]) -> _Table:
        """Build from tuples in the order of the fields."""
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(fields(cls)))  # type: ignore[arg-type]
        return cls(*table.T.copy())


@dataclass(frozen=True, eq=False)
class Prisms(_Columns):
    """Boxes on the ground, optionally with a gable roof whose ridge runs along the local x axis.

    Attributes:
        x, y: centre, metres.
        yaw: of the local x axis, radians.
        hx, hy: half length and half width, metres.
        eave: height of the walls over the ground, metres.
        ridge: height of the ridge over the eaves; 0 for a flat top.
        kind: BUILDING, BARRIER, CAR or VAN.
        material: of the top, see `materials`.
        grammar: index of the facade grammar (buildings).
        phase: [0, 1), so that like buildings are not the same.

    """

    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray
    hx: np.ndarray
    hy: np.ndarray
    eave: np.ndarray
    ridge: np.ndarray
    kind: np.ndarray
    material: np.ndarray
    grammar: np.ndarray
    phase: np.ndarray

    def corners(self) -> np.ndarray:
        """Return the footprints, (N, 4, 2) metres, in order around; the first two and the last two end the ridge."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        ex = np.stack([c, s], -1) * self.hx[:, None]
        ey = np.stack([-s, c], -1) * self.hy[:, None]
        centre = np.stack([self.x, self.y], -1)
        return np.stack([centre + ex - ey, centre + ex + ey, centre - ex + ey, centre - ex - ey], axis=1)


@dataclass(frozen=True, eq=False)
class Trees(_Columns):
    """Trees: trunk position (m), crown radius, total height, height of the crown's lower edge, hue (0..15), shape."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    height: np.ndarray
    clear: np.ndarray
    hue: np.ndarray
    shape: np.ndarray


@dataclass(frozen=True, eq=False)
class Posts(_Columns):
    """Posts: position (m), height, radius, kind."""

    x: np.ndarray
    y: np.ndarray
    height: np.ndarray
    radius: np.ndarray
    kind: np.ndarray


@dataclass(frozen=True, eq=False)
class Slots(_Columns):
    """Places where a car may stand: pose (m, rad)."""

    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray
