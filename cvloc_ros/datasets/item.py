"""What every data set gives: one camera frame, where it is thought to be, where it truly is, and the map around."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.types import Frame, Prior

PATCH_GRID = GroundGrid.centred(288, 0.4)
"""115 m a side: what the default network looks at."""

KNOWN_YAW = np.radians(1.0)
"""Standard deviation of a heading that a protocol calls known, radians."""


@dataclass(frozen=True, eq=False)
class Item:
    """One frame of a data set, ready for `Localizer.match`.

    Attributes:
        name: the image's, as the data set's lists have it.
        frame: the image with its camera; base_link stands on the ground.
        prior: where the search starts and how far it goes; its pose is the patch's.
        truth: ``T_map_base``. The map is an ENU frame that the data set chooses: metres east and north, yaw
            counter-clockwise from east.
        patch: the satellite image around the prior, vehicle forward up.

    """

    name: str
    frame: Frame
    prior: Prior
    truth: SE2
    patch: Patch


class Dataset(Protocol):
    """A sequence of items. They are read when they are asked for, and the same each time."""

    @property
    def digest(self) -> str:
        """Is another one where the lists that name frames, priors and truths, or their order, are others."""
        ...

    def __len__(self) -> int:
        """Return how many items there are."""
        ...

    def __getitem__(self, index: int) -> Item:
        """Read an item, in any thread, but one at a time.

        Raises:
            IndexError: there is no such item.
            DatasetError: a file of it is missing or wrong.

        """
        ...

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        ...


def digest_of(*lists: Any) -> str:
    """Return a short hash of lists of words and numbers, or arrays."""
    text = json.dumps(lists, default=np.ndarray.tolist)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def box_prior(T_map_base: SE2, *, radius: float, yaw: float) -> Prior:
    """Return the prior whose error is uniform in a box of half-widths ``radius`` (m, x and y) and ``yaw`` (rad)."""
    return Prior(T_map_base, np.diag([radius**2, radius**2, yaw**2]) / 3)
