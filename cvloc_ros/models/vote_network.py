"""The first two votes of vote_flow: over the search box, and again around its peaks, on finer features.

Frames are those of `VoteFlow`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.models.bev import BevEncoder
from cvloc_ros.models.encoder import Encoder
from cvloc_ros.models.local_vote import LocalVote, register_grid
from cvloc_ros.models.peaks import find_peaks, heard
from cvloc_ros.models.vote import rotate_bev, warp_to_vehicle, weigh, weighted_vote
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.vote_flow_types import Block, BoxMask, GroundFeatures, PatchFeatures, VoteFlowOutput

TRAINED_PEAKS = 3
"""Around how many peaks the second vote is held in training, at most: more of them cost time and teach little."""


class Votes(nn.Module):
    """The part of `VoteFlow` that sees and votes: two encoders, the BEV describer, the satellite heads."""

    layout = torch.contiguous_format  # of the satellite's maps: planes, which votes and flow sample one by one

    # constant grids, registered as buffers
    cells: Tensor
    headings: Tensor
    shifts: Tensor

    def __init__(self, config: VoteFlowConfig):
        super().__init__()
        self.config = c = config
        half, quarter = c.encoder_widths[:2]
        self.ground = Encoder(c.encoder_widths)
        self.satellite = Encoder(c.encoder_widths)
        self.bev = BevEncoder((half, quarter), len(c.heights), c.bev_hidden, c.coarse_channels, c.fine_channels)
        self.satellite_coarse = nn.Conv2d(quarter, c.coarse_channels, 1)
        self.satellite_fine = nn.Conv2d(half, c.fine_channels, 1)
        self.coarse_sharpness = nn.Parameter(torch.tensor(3.0))  # log of the vote's inverse temperature
        self.fine_sharpness = nn.Parameter(torch.tensor(3.0))
        register_grid(self, "cells", c.bev.centres())
        reach = round(c.box_degrees / c.heading_step_degrees)
        register_grid(self, "headings", np.radians(c.heading_step_degrees) * np.arange(-reach, reach + 1))
        reach = int(np.ceil(c.box_metres / c.bev_cell))
        register_grid(self, "shifts", -c.bev_cell * np.arange(-reach, reach + 1))  # row 0 is farthest forward
        self.second = LocalVote(
            c.bev, shifts=c.fine_shifts, headings=c.fine_headings, step_degrees=c.fine_heading_step_degrees
        )

    @property
    def half_extent(self) -> float:
        """Metres from the patch's centre to its edge."""
        return self.config.patch_size * self.config.patch_cell / 2

    def encode_satellite(self, patch: Tensor, coverage: Tensor) -> PatchFeatures:
        """Describe a patch.

        Args:
            patch: (B, 3, S, S) RGB in [0, 1].
            coverage: (B, 1, S, S) in [0, 1].

        Raises:
            ValueError: another size than the config's: all scales would be wrong.

        """
        half, quarter = self._encode_patch(patch)
        return self._describe_patch(half, quarter, coverage)

    def _encode_patch(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the satellite encoder's features of a patch of the config's size, see `encode_satellite`."""
        side = self.config.patch_size
        if patch.shape[1:] != (3, side, side):
            raise ValueError(f"expected a patch of shape (B, 3, {side}, {side}), got {tuple(patch.shape)}")
        return self.satellite(patch)

    def _describe_patch(self, half: Tensor, quarter: Tensor, coverage: Tensor) -> PatchFeatures:
        """Read the descriptors off the satellite encoder's features."""
        maps = []
        for features, head, factor in ((quarter, self.satellite_coarse, 4), (half, self.satellite_fine, 2)):
            covered = F.avg_pool2d(coverage, factor)
            described = weigh(F.normalize(head(features).float(), dim=1), covered)
            maps.append(described.contiguous(memory_format=self.layout))
        return PatchFeatures(*maps)

    def describe(self, image: Tensor, pixels: Tensor, visible: Tensor) -> GroundFeatures:
        """Describe the ground that a batch of images shows; the arguments are those of `VoteFlow.forward`."""
        return GroundFeatures(*self.bev(*self.ground(image), pixels, visible))

    def vote(
        self,
        ground: GroundFeatures,
        satellite: PatchFeatures,
        *,
        block: Block | BoxMask | None = None,
        centre: Tensor | None = None,
    ) -> VoteFlowOutput:
        """Hold the votes, of what `describe` and `encode_satellite` gave; ``block``, ``centre`` as for `VoteFlow`."""
        precision = ground.hidden.dtype  # what autocast, if it is on, has chosen for this device
        coarse = weigh(ground.coarse, ground.coarse_weight)
        coarse_logits = self._coarse_vote(coarse, satellite.coarse, precision, block)
        count = self._peak_count(block) if centre is None else min(TRAINED_PEAKS, self.config.peaks)
        peaks = find_peaks(coarse_logits, self.headings, self.shifts, count=count, given=centre)
        fine_logits = self.fine_sharpness.exp() * self._hold(
            self.second, weigh(ground.fine, ground.fine_weight), satellite.fine, peaks.poses, precision=precision
        )
        evidence = fine_logits.flatten(2).logsumexp(2)
        peak_logits = peaks.heights.detach() + evidence
        found = peaks.heights.isfinite()  # a small box may have fewer peaks
        best = peak_logits.argmax(1)
        if centre is not None:
            best = torch.zeros_like(best)
        candidates = self.second.mean(fine_logits.flatten(0, 1), peaks.poses.flatten(0, 1)).view_as(peaks.poses)
        each = torch.arange(len(best), device=best.device)
        return VoteFlowOutput(
            coarse_logits=coarse_logits,
            peak_logits=peak_logits,
            peak_cells=peaks.cells,
            best=best,
            candidates=candidates,
            box_logits=heard(coarse_logits, evidence.where(found, evidence.amax(1, keepdim=True)), peaks.cells),
            fine_logits=fine_logits[each, best],
            fine_centre=peaks.poses[each, best],
            voted=candidates[each, best],
            solved=torch.ones_like(best, dtype=torch.bool),
        )

    def block(
        self, box: tuple[float, float, float], centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> Block | BoxMask:
        """Return which headings and shifts of the first vote a search box needs.

        The box is centred at the vote's pose nearest to its own centre, so that it always holds as many poses.

        Args:
            box: half-widths in the axes of its centre: metres forward, metres left, radians.
            centre: x, y (m), yaw (rad) in the patch's frame.

        """
        c = self.config
        cos, sin = abs(math.cos(centre[2])), abs(math.sin(centre[2]))
        along = (
            (len(self.headings), centre[2], box[2], math.radians(c.heading_step_degrees)),
            (len(self.shifts), centre[0], cos * box[0] + sin * box[1], -c.bev_cell),
            (len(self.shifts), centre[1], sin * box[0] + cos * box[1], -c.bev_cell),
        )
        slices = []
        for count, at, half, step in along:
            middle = round(count // 2 + at / step)
            reach = math.floor(half / abs(step) + 0.5 + 1e-6)
            slices.append(slice(max(0, middle - reach), min(count, middle + reach + 1)))
        return slices[0], slices[1], slices[2]

    def _warp(self, features: Tensor, points: Tensor, poses: Tensor) -> Tensor:
        """Sample patch features at vehicle-frame points: see `warp_to_vehicle`."""
        return warp_to_vehicle(features, points, poses, half_extent=self.half_extent)

    def _coarse_vote(
        self, ground: Tensor, satellite: Tensor, precision: torch.dtype, block: Block | BoxMask | None
    ) -> Tensor:
        """Correlate weighed descriptors over all shifts and headings of the box; the map is cut to its shifts."""
        assert not isinstance(block, BoxMask), "only the fast network takes a mask"
        c = self.config
        turned = rotate_bev(ground, self.cells, self.headings, x_max=c.bev_x_max, y_max=c.bev.y_max, cell=c.bev_cell)
        top, left, pad = self._first_cells()
        size = c.bev_size + len(self.shifts) - 1
        box = F.pad(satellite, pad)[:, None, :, top : top + size, left : left + size]
        score = weighted_vote(box, turned, block=block, precision=precision)
        logits = score[:, 0] * self.coarse_sharpness.exp()
        return logits if block is None else self._within(block, logits)

    def _first_cells(self) -> tuple[int, int, tuple[int, int, int, int]]:
        """Return the row and column of the patch's features where the first shift puts the BEV's first cell.

        They count from what `F.pad` makes of the features with the padding that is returned as the third.
        """
        c, reach = self.config, len(self.shifts) // 2
        cells = round(2 * self.half_extent / c.bev_cell)
        # zero shift puts BEV row 0 on the map row of the same metres
        top = round((self.half_extent - c.bev_x_max) / c.bev_cell) - reach
        left = round((self.half_extent - c.bev.y_max) / c.bev_cell) - reach
        size = c.bev_size + 2 * reach
        pad = (max(0, -left), max(0, left + size - cells), max(0, -top), max(0, top + size - cells))
        return max(0, top), max(0, left), pad

    def _within(self, block: Block, logits: Tensor) -> Tensor:
        """Return the first vote (B, headings, shifts, shifts) of which only a block is known."""
        size = len(self.shifts)
        whole = logits.new_full((len(logits), len(self.headings), size, size), float("-inf"))
        whole[:, block[0], block[1], block[2]] = logits
        return whole

    def _peak_count(self, block: Block | BoxMask | None) -> int:
        """Return around how many peaks the second vote is held: one, where it sees most of the box from there."""
        if isinstance(block, BoxMask):
            return block.peaks
        reach = self.config.fine_shifts  # half cells
        if block is not None and all(side.stop - side.start <= 3 * reach for side in block[1:]):
            return 1
        return self.config.peaks

    def _hold(
        self,
        vote: LocalVote,
        ground: Tensor,
        satellite: Tensor,
        centres: Tensor,
        *,
        precision: torch.dtype,
        lattice: Tensor | None = None,
    ) -> Tensor:
        """Hold a local vote.

        Args:
            vote: which.
            ground: (B, D + 1, rows, cols) weighed descriptors of its cells, see `weigh`.
            satellite: (B, D + 1, n, n) those of the patch.
            centres: (B, K, 3) poses around which it is held.
            precision: of the correlation, on a CPU.
            lattice: (B, 4 n, n, 2) where its lattice really is, if the ground is not level; metres.

        Returns:
            (B, K, headings, shifts, shifts) mean similarities.

        """
        b, count = centres.shape[:2]
        points = vote.lattice if lattice is None else lattice[:, None]
        poses = vote.poses(centres)
        around = vote.phases(self._warp(satellite, points, poses), count)
        score = weighted_vote(around, ground[:, None].repeat_interleave(count, 0), precision=precision)
        return vote.join(score.unflatten(0, (b, count)))
