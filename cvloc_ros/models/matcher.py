"""The one interface of every matching method, in numpy: images and patches in; matches, posteriors and poses out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cvloc_ros.geometry import Camera, GroundGrid


@dataclass(frozen=True, eq=False)
class MatchInput:
    """One image, and where it is sought. What is worked out about a camera or a patch serves for the same object.

    Attributes:
        image: RGB uint8 (H, W, 3), as the camera took it.
        camera: its intrinsics.
        T_base_camera: 4x4.
        patch: RGB uint8 on the matcher's ``patch_grid``; left as it is from now on.
        coverage: bool on the same.
        box: half-widths of the search in the axes of its centre: metres forward, metres left, radians.
        centre: of the box in the patch frame: x, y (m), yaw (rad).

    """

    image: np.ndarray
    camera: Camera
    T_base_camera: np.ndarray
    patch: np.ndarray
    coverage: np.ndarray
    box: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Match:
    """What a method says about one image. The *patch frame* is the vehicle frame of the pose that the patch was cut at.

    Attributes:
        pose: (3,) x, y (m), yaw (rad) of the vehicle in the patch frame.
        solved: whether the matches determined a pose.
        base: (N, 2) ground points, vehicle frame, metres.
        patch: (N, 2) the same points as found on the patch, patch frame, metres.
        weights: (N,) in [0, 1].
        scales: (N,) metres: the mean absolute error expected of either component.
        probability: (headings, xs, ys) posterior over the search box, sums to 1.
        x: (xs,) metres; its axis, and ``y`` (ys,), ``yaw`` (headings,) radians, are those of the patch frame.
        y: see ``x``.
        yaw: see ``x``.
        local: (headings, shifts, shifts) posterior around the place that won, in the vehicle's frame there, sums to 1.
        local_shift: (shifts,) metres, of both axes; ``local_yaw`` (headings,) radians.
        local_yaw: see ``local_shift``.
        similarity: mean cosine similarity of the descriptors at the peak of the box and at the local peak.
        milliseconds: time per stage; of what a batch took together, its share.

    """

    pose: np.ndarray
    solved: bool
    base: np.ndarray
    patch: np.ndarray
    weights: np.ndarray
    scales: np.ndarray
    probability: np.ndarray
    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray
    local: np.ndarray
    local_shift: np.ndarray
    local_yaw: np.ndarray
    similarity: tuple[float, float]
    milliseconds: dict[str, float]


class Matcher(Protocol):
    """A method that finds camera images on satellite patches."""

    name: str
    patch_grid: GroundGrid
    search_box: tuple[float, float]
    """Half-widths of the largest search box: metres forward and left, radians."""
    batch_size: int
    """How many images at a time are best, where many are at hand: 1 where a batch saves no time."""

    def match_batch(self, inputs: Sequence[MatchInput]) -> list[Match]:
        """Match images, each with its patch. An answer is the same, but for rounding, whatever else is in the batch."""
        ...

    def expect(self, patch: np.ndarray, coverage: np.ndarray) -> Future | None:
        """Get ready for an image on a patch, given as in `MatchInput`; answers stay the same.

        Returns:
            What is done when that is; None where the caller did it himself, or gave it to a GPU.

        """
        ...
