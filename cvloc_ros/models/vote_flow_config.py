"""Sizes of vote_flow and of its search box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from cvloc_ros.geometry import GroundGrid


@dataclass(frozen=True)
class VoteFlowConfig:
    """Part of the weights' card.

    Attributes:
        image_width: of the camera image as the network sees it, pixels; `preprocess.fit_image` makes it so.
        image_height: likewise.
        local_contrast: limit of what evens out the contrast of both images, see `preprocess.even_contrast`; 0 leaves
            them as they are.
        patch_size: pixels of the satellite patch's side.
        patch_cell: metres a pixel.
        bev_size: cells of the BEV's side.
        bev_cell: metres a cell.
        bev_x_max: forward edge of the BEV, metres.
        heights: at which features are sampled over each ground point, metres, the ground first.
        box_metres: half-width of the search box, forward and left.
        box_degrees: half-width in heading.
        heading_step_degrees: of the first vote; its shifts are BEV cells.
        peaks: of the first vote, if the box is wide, that the second vote is held around.
        fine_shifts: shifts of the second vote to each side, in half BEV cells.
        fine_headings: headings of the second vote to each side.
        fine_heading_step_degrees: of the second vote.
        tilt_degrees: how far the ground tilts under a vehicle, unreported (standard deviation).
        candidates: places that the third vote is held at, if the second was held at as many.
        close_size: cells of the third vote's side, each half a BEV cell, before and beside the vehicle; an even number.
        close_shifts: shifts of the third vote to each side, in half its cells.
        close_headings: headings of the third vote to each side.
        close_heading_step_degrees: of the third vote.
        window: half cells of the local correlation's side.
        iterations: of the flow.
        coarse_channels: of the first vote's descriptors.
        fine_channels: of the second vote's and the flow's.
        close_channels: of the third vote's.
        close_hidden: of the features that those of the ground are read off.
        bev_hidden: of the BEV's features.
        flow_hidden: of the recurrent state.
        encoder_widths: channels at 1/2, 1/4, 1/8 and 1/16 of the image.

    """

    image_fit: ClassVar[str] = "crop"  # see `DenseFlowConfig`

    image_width: int = 416
    image_height: int = 128
    local_contrast: float = 3.0
    patch_size: int = 288
    patch_cell: float = 0.4
    bev_size: int = 24
    bev_cell: float = 1.6
    bev_x_max: float = 40.0
    heights: tuple[float, ...] = (0.0, 3.0, 6.0)
    box_metres: float = 20.0
    box_degrees: float = 10.0
    heading_step_degrees: float = 2.0
    peaks: int = 6
    fine_shifts: int = 5
    fine_headings: int = 2
    fine_heading_step_degrees: float = 1.5
    tilt_degrees: float = 0.3
    candidates: int = 3
    close_size: int = 32
    close_shifts: int = 4
    close_headings: int = 2
    close_heading_step_degrees: float = 0.9
    window: int = 5
    iterations: int = 3
    coarse_channels: int = 16
    fine_channels: int = 24
    close_channels: int = 16
    close_hidden: int = 32
    bev_hidden: int = 64
    flow_hidden: int = 32
    encoder_widths: tuple[int, int, int, int] = (16, 32, 64, 96)

    def __post_init__(self) -> None:
        """Refuse a third vote whose cells are not the BEV's samples, and a limit that is none."""
        if self.local_contrast < 0:
            raise ValueError(f"expected a local_contrast of 0 or more, got {self.local_contrast}")
        if self.close_size % 2 or not 0 < self.close_size < 2 * self.bev_size:
            raise ValueError(
                f"expected an even close_size under {2 * self.bev_size}, twice the bev_size, got {self.close_size}"
            )

    @property
    def tilt_sigma(self) -> float:
        """``tilt_degrees`` as a slope."""
        return math.tan(math.radians(self.tilt_degrees))

    @property
    def bev(self) -> GroundGrid:
        """The grid of the matched ground cells."""
        return GroundGrid(self.bev_size, self.bev_size, self.bev_cell, self.bev_x_max)

    @property
    def bev_samples(self) -> GroundGrid:
        """The grid at which image features are sampled: half the BEV's cell."""
        return GroundGrid(2 * self.bev_size, 2 * self.bev_size, self.bev_cell / 2, self.bev_x_max)

    @property
    def close(self) -> GroundGrid:
        """The grid of the third vote's cells: one cell from the BEV's near edge, because that one is seen by few."""
        cell, n = self.bev_cell / 2, self.close_size
        near = self.bev_x_max - self.bev_size * self.bev_cell
        return GroundGrid(n, n, cell, near + (n + 1) * cell)

    @property
    def patch(self) -> GroundGrid:
        """The satellite patch."""
        return GroundGrid.centred(self.patch_size, self.patch_cell)
