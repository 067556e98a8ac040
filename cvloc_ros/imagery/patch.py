"""What the matcher gets to see of the satellite image: a metric cut-out, vehicle forward up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import SE2, GroundGrid


@dataclass(frozen=True, eq=False)
class Patch:
    """A satellite image on a ground grid.

    Attributes:
        image: RGB uint8, (rows, cols, 3); black where nothing is covered.
        coverage: bool, (rows, cols): where the imagery has data.
        grid: metres and cells of the patch; row 0 is farthest forward, column 0 farthest left.
        T_map_patch: where the grid's vehicle sits in the map (usually the prior).

    """

    image: np.ndarray
    coverage: np.ndarray
    grid: GroundGrid
    T_map_patch: SE2

    @property
    def covered(self) -> float:
        """Share of the patch that has imagery, in [0, 1]."""
        return np.count_nonzero(self.coverage) / self.coverage.size
