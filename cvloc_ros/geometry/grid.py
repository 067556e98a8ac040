"""The ground grid: the one place where metres become cells.

A grid is vehicle-centred. Row 0 is farthest forward, column 0 farthest left, and a value sits at its cell's
centre. BEV and satellite patch are both ground grids, so that a right prior means that they line up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GroundGrid:
    """``rows`` x ``cols`` square cells of ``cell`` metres on the ground, x forward and y left of the vehicle.

    ``x_max`` is the forward edge (not centre) of row 0, in metres; the grid is symmetric about y = 0.
    """

    rows: int
    cols: int
    cell: float
    x_max: float

    def __post_init__(self) -> None:
        """Refuse an empty grid."""
        if self.rows < 1 or self.cols < 1 or not self.cell > 0:
            raise ValueError(
                f"a ground grid needs at least one cell of positive size, got {self.rows} x {self.cols} "
                f"cells of {self.cell} m"
            )

    @classmethod
    def centred(cls, size: int, cell: float) -> GroundGrid:
        """Return a square grid of ``size`` x ``size`` cells with the vehicle in its middle."""
        return cls(rows=size, cols=size, cell=cell, x_max=size * cell / 2)

    @property
    def y_max(self) -> float:
        """Left edge of column 0, metres."""
        return self.cols * self.cell / 2

    def to_metres(self, cells: np.ndarray) -> np.ndarray:
        """Map (row, col) coordinates (..., 2) to (x forward, y left) in metres."""
        cells = np.asarray(cells, dtype=float)
        x = self.x_max - (cells[..., 0] + 0.5) * self.cell
        y = self.y_max - (cells[..., 1] + 0.5) * self.cell
        return np.stack([x, y], axis=-1)

    def to_cells(self, points: np.ndarray) -> np.ndarray:
        """Map (x forward, y left) in metres (..., 2) to fractional (row, col)."""
        points = np.asarray(points, dtype=float)
        row = (self.x_max - points[..., 0]) / self.cell - 0.5
        col = (self.y_max - points[..., 1]) / self.cell - 0.5
        return np.stack([row, col], axis=-1)

    def centres(self) -> np.ndarray:
        """Return the metric centre of every cell, (rows, cols, 2) as (x forward, y left)."""
        row, col = np.meshgrid(np.arange(self.rows), np.arange(self.cols), indexing="ij")
        return self.to_metres(np.stack([row, col], axis=-1))

    def coarser(self, factor: int) -> GroundGrid:
        """Return the grid of the same extent whose cells are ``factor`` times larger."""
        if self.rows % factor or self.cols % factor:
            raise ValueError(f"{self.rows} x {self.cols} cells cannot be grouped by {factor}")
        return GroundGrid(self.rows // factor, self.cols // factor, self.cell * factor, self.x_max)
