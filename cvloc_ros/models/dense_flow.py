"""dense_flow: the NeurIPS 2023 paper's localizer. A flow field from BEV to satellite; least squares make it a pose.

Song et al., "Learning Dense Flow Field for Highly-accurate Cross-view Camera Localization"; what the paper leaves
open is a field of `DenseFlowConfig`, or decided there. Frames are those of `vote_flow`: a pose (x, y, yaw) is the
vehicle's in the patch's frame, metres and radians. The flow itself is in units of ``config.flow_cell``, (row, column),
and counts from where the start pose puts a cell, so that a right start means no flow.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.models.cuda_graph import compile_method
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.dense_flow_encoders import Ground, Patch, TrunkEncoders, VoteEncoders
from cvloc_ros.models.flow import half_cell_lattice
from cvloc_ros.models.raft import CorrelationPyramid, UpdateBlock, convex_upsample
from cvloc_ros.models.refine_block import RefineBlock
from cvloc_ros.models.solver import place, solve_pose, solve_tilt, tilt_shift
from cvloc_ros.models.vote_flow_types import Block, BoxMask, VoteFlowOutput


@dataclass
class DenseFlowOutput:
    """What the network says about a batch. R, C are the pixels of ``config.bev_pixels``, rows, cols the BEV's cells.

    Attributes:
        start: (B, 3) pose that the flow started from.
        votes: that gave the start, if they did.
        seen: (B, R, C) bool: the camera sees the cell that the pixel is in.
        moved: per iteration, (B, R, C, 2) where each ground point was found, metres in the patch's frame; in
            evaluation only the last iteration's.
        confidences: likewise, (B, R, C) S of eq. 3, in [0, 1] and zero where unseen.
        weights: (B, R, C) the last confidence where the point was found on imagery, else zero.
        tilt: (B, 2) slope of the ground, forward and left; zero where it is taken to be level.
        ground: (B, R, C, 2) where the points are on that ground, metres in the vehicle's frame.
        pose: (B, 3) by weighted least squares (eq. 3); the start where it was not solvable.
        solved: (B,) whether it was.
        bev: (B, D, rows, cols) descriptors of the ground cells.
        satellite: (B, D, n, n) descriptors of the patch.

    """

    start: Tensor
    votes: VoteFlowOutput | None
    seen: Tensor
    moved: list[Tensor]
    confidences: list[Tensor]
    weights: Tensor
    tilt: Tensor
    ground: Tensor
    pose: Tensor
    solved: Tensor
    bev: Tensor
    satellite: Tensor


class DenseFlow(nn.Module):
    """The network: encoders, the RefineBlock and the context encoder, the recurrent decoder."""

    # constant grids, registered as buffers: a tensor made in forward would be one more copy to the device
    cells: Tensor
    points: Tensor
    lattice: Tensor

    precision: torch.dtype | None = None
    """Of the convolutions, but those of a vote, where not the surrounding code chooses it: see `halve`."""

    def __init__(self, config: DenseFlowConfig | None = None):
        super().__init__()
        self.config = c = config or DenseFlowConfig()
        self.encoders = VoteEncoders(c) if c.encoders == "vote" else TrunkEncoders(c)
        inputs = self.encoders.bev_channels
        self.refine: RefineBlock | None = None
        if c.refine:
            self.refine = RefineBlock(inputs, self.encoders.descriptor_channels, c.refine_blocks)
            if self._refines_votes:  # descriptors begin as the vote's
                for parameter in self.refine.mix.parameters():
                    nn.init.zeros_(parameter)
        known = inputs if c.context_of == "bev" else self.encoders.descriptor_channels
        self.context = RefineBlock(known, 2 * c.hidden, c.refine_blocks)
        window = (2 * c.radius + 1) ** 2
        self.update = UpdateBlock(
            correlations=c.levels * window, hidden=c.hidden, factor=c.stride, confidence=c.confidence
        )
        if c.tilt_degrees:
            self.match_information = nn.Parameter(torch.tensor(1.7))  # log of 1/m^2 for a match of full weight
            self.tilt_gain = nn.Parameter(torch.tensor(0.7))  # log: the flow, unsure, shows less tilt than there is
        lattice = half_cell_lattice(c.bev, c.reach)
        for name, value in (("cells", c.bev.centres()), ("points", c.bev_pixels.centres()), ("lattice", lattice)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def halve(self, precision: torch.dtype) -> None:
        """Compute in half precision from now on, without gradients; a vote and geometry keep to their own."""
        self.precision = precision
        votes = set(self.encoders.modules()) if isinstance(self.encoders, VoteEncoders) else set()
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in votes:
                module.to(dtype=precision)

    def join_kernels(self) -> None:
        """Have torch.compile join the small kernels of what launches most of them: see `compile_method`."""
        compile_method(self, "_step")
        compile_method(self, "_read_off")
        trunks = (self.encoders.ground_trunk,) if isinstance(self.encoders, TrunkEncoders) else ()
        for part in (self.refine, self.context, *trunks):
            if part is not None:
                compile_method(part, "forward")

    def _half(self, device: torch.device, *, encoders: bool = False) -> AbstractContextManager:
        """Return in which precision to compute on a device; of ``encoders`` if they are not a vote's."""
        if self.precision is None or (encoders and isinstance(self.encoders, VoteEncoders)):
            return nullcontext()
        return torch.autocast(device.type, dtype=self.precision)

    def forward(
        self,
        image: Tensor,
        pixels: Tensor,
        visible: Tensor,
        camera: Tensor,
        patch: Tensor,
        coverage: Tensor,
        *,
        start: Tensor | None = None,
    ) -> DenseFlowOutput:
        """Match a batch of camera images with satellite patches.

        Args:
            image: (B, 3, H, W) RGB in [0, 1].
            pixels: (B, Z, n rows, n cols, 2) from `ground_pixels` on ``config.bev_samples`` at ``config.heights``.
            visible: (B, Z, n rows, n cols) bool.
            camera: (B, 3) the camera's position in the vehicle's frame, metres; of no matter on level ground.
            patch: (B, 3, S, S) RGB in [0, 1], the prior's forward direction up.
            coverage: (B, 1, S, S) in [0, 1].
            start: (B, 3) pose to start the flow from; ``config.start`` if None.

        Raises:
            ValueError: a tensor of another size than the config's.

        """
        described, ground = self.encode_satellite(patch, coverage), self.describe(image, pixels, visible)
        return self.locate(described, ground, camera, start=start)

    def encode_satellite(self, patch: Tensor, coverage: Tensor) -> Patch:
        """Describe a patch; the arguments are those of `forward`."""
        c = self.config
        self._check("a patch", patch, (3, c.patch_size, c.patch_size))
        with self._half(patch.device, encoders=True):
            described = self.encoders.satellite(patch, coverage)
            if (refine := self.refine) is not None and c.refine_siamese:
                covered = F.avg_pool2d(coverage, c.stride).to(described.features.dtype)
                described = described._replace(features=refine(described.features) * covered)
        return described

    def describe(self, image: Tensor, pixels: Tensor, visible: Tensor) -> Ground:
        """Describe the ground that a batch of images shows; the arguments are those of `forward`."""
        c = self.config
        self._check("an image", image, (3, c.image_height, c.image_width))
        self._check("ground pixels", pixels, (len(c.heights), c.bev_samples.rows, c.bev_samples.cols, 2))
        with self._half(image.device, encoders=True):
            return self.encoders.ground(image, pixels, visible)

    def locate(
        self,
        patch: Patch,
        ground: Ground,
        camera: Tensor,
        *,
        start: Tensor | None = None,
        block: Block | BoxMask | None = None,
    ) -> DenseFlowOutput:
        """Match a batch of images with satellite patches.

        Args:
            patch: from `encode_satellite`.
            ground: from `describe`.
            camera: as for `forward`, like ``start``.
            start: see ``camera``.
            block: of a vote that gives the start, which poses it searches; all if None.

        """
        c, votes = self.config, None
        if start is None and c.start == "vote" and isinstance(self.encoders, VoteEncoders):
            votes = self.encoders.hold_vote(ground, patch, block)
            start = votes.voted
        elif start is None:
            start = torch.zeros_like(camera)
        return self.decode(ground, patch, camera, start=start.float(), votes=votes)

    def decode(
        self, ground: Ground, patch: Patch, camera: Tensor, *, start: Tensor, votes: VoteFlowOutput | None = None
    ) -> DenseFlowOutput:
        """Find the flow and the pose; the arguments are what the encoders gave, and those of `locate`."""
        with self._half(start.device):
            return self._decode(ground, patch, camera, start, votes)

    def _decode(
        self, ground: Ground, patch: Patch, camera: Tensor, start: Tensor, votes: VoteFlowOutput | None
    ) -> DenseFlowOutput:
        c, seen = self.config, ground.seen
        descriptors = self._descriptors(ground)
        known = ground.bev if c.context_of == "bev" else self._under(self.cells, patch.features, start)
        hidden, context = self.context(known).split(c.hidden, dim=1)
        hidden, context = torch.tanh(hidden), F.relu(context)
        pyramid = self._correlate(descriptors, patch.features, start)
        flow = torch.zeros_like(start)[:, :2, None, None].repeat(1, 1, c.bev_rows, c.bev_cols)
        seen_points = _repeat(seen[:, 0], c.stride)

        shifts, confidences = [], []
        for i in range(c.iterations):
            hidden, flow = self._step(hidden, context, pyramid, flow.detach(), start, seen)
            if self.training or i == c.iterations - 1:
                shift, confidence = self._read_off(hidden, flow, start)
                shifts.append(shift)
                confidences.append(confidence * seen_points)
        moved = [place(self.points + shift, start) for shift in shifts]
        found = -moved[-1].detach().flip(-1) / c.patch.y_max  # coordinates of `grid_sample` on the patch
        weights = confidences[-1] * F.grid_sample(patch.coverage.float(), found, align_corners=False)[:, 0]
        tilt = self._solve_tilt(shifts[-1], weights, camera) if c.tilt_degrees else torch.zeros_like(start[:, :2])
        on_ground = self.ground_points(camera, tilt)
        pairs = on_ground.flatten(1, 2), moved[-1].flatten(1, 2), weights.flatten(1)
        pose, solved = solve_pose(*pairs, weighted_centroids=c.weighted_centroids)
        return DenseFlowOutput(
            start=start,
            votes=votes,
            seen=seen_points,
            moved=moved,
            confidences=confidences,
            weights=weights,
            tilt=tilt,
            ground=on_ground,
            pose=torch.where(solved[:, None], pose, start),
            solved=solved,
            bev=descriptors,
            satellite=patch.features,
        )

    def _step(
        self, hidden: Tensor, context: Tensor, pyramid: CorrelationPyramid, flow: Tensor, start: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take one iteration: return the next state (B, hidden, rows, cols) and flow (B, 2, rows, cols)."""
        hidden, change = self.update(hidden, context, pyramid.look_up(self._places(flow, start)), flow)
        flow = flow + change
        return hidden, flow * seen if self.config.hold_unseen else flow

    def _read_off(self, hidden: Tensor, flow: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far each pixel has moved, metres (B, R, C, 2), and S before visibility, (B, R, C)."""
        upsampled = convex_upsample(flow, self.update.upsampling(hidden), self.config.stride)
        return self._metres(upsampled, start), self._confidence(hidden)

    def ground_points(self, camera: Tensor, tilt: Tensor) -> Tensor:
        """Return where the camera sees the points if the ground is tilted: (B, R, C, 2) metres, vehicle's frame.

        Args:
            camera: (B, 3) its position in the vehicle's frame, metres.
            tilt: (B, 2) slope of the ground, forward and left.

        """
        points = self.points.expand(len(camera), -1, -1, -1)
        return points + tilt_shift(points, camera, tilt) if self.config.tilt_degrees else points

    def to_features(self, points: Tensor, side: int) -> Tensor:
        """Map patch-frame points (..., 2) in metres to (row, column) among the patch's ``side`` x ``side`` features."""
        c = self.config
        step = c.patch_size // side
        return ((c.patch.y_max - points) / c.patch_cell - 0.5 - self.encoders.first_pixel(step)) / step

    def _descriptors(self, ground: Ground) -> Tensor:
        if self.refine is None:
            return ground.descriptors
        refined = self.refine(ground.bev)
        return ground.descriptors + refined if self._refines_votes else refined

    @property
    def _refines_votes(self) -> bool:
        """Whether the RefineBlock adds to descriptors that are of the BEV already."""
        return self.config.encoders == "vote" and self.config.project

    def _correlate(self, descriptors: Tensor, satellite: Tensor, start: Tensor) -> CorrelationPyramid:
        c = self.config
        if not c.reach:
            return CorrelationPyramid.everywhere(descriptors, satellite, levels=c.levels, radius=c.radius)
        around = self._under(self.lattice, satellite, start)
        return CorrelationPyramid.around(descriptors, around, reach=c.reach, levels=c.levels, radius=c.radius)

    def _under(self, points: Tensor, satellite: Tensor, start: Tensor) -> Tensor:
        """Return the patch's features where the start puts points (rows, cols, 2) of the vehicle's frame, metres.

        They are (B, D, rows, cols) float32, zero beyond the patch.
        """
        side = satellite.shape[-1]
        where = (2 * self.to_features(place(points, start), side) + 1) / side - 1
        return F.grid_sample(satellite.float(), where.flip(-1), align_corners=False)

    def _places(self, flow: Tensor, start: Tensor) -> Tensor:
        """Return where in the pyramid a flow (B, 2, rows, cols) has led the cells."""
        if self.config.reach:
            return self.config.reach + flow
        side = self.config.patch_size // self.config.stride
        return self.to_features(place(self.cells + self._metres(flow, start), start), side).permute(0, 3, 1, 2)

    def _metres(self, flow: Tensor, start: Tensor) -> Tensor:
        """Turn a flow (B, 2, …) to metres (B, …, 2) forward and left, in the axes of the started vehicle.

        It counts backward and right, in the axes of the places that it looks at: those of the patch, where all of that
        is seen.
        """
        shift = flow.permute(0, 2, 3, 1) * -self.config.flow_cell
        return shift if self.config.reach else place(shift, F.pad(-start[:, 2:], (2, 0)))

    def _solve_tilt(self, shift: Tensor, weights: Tensor, camera: Tensor) -> Tensor:
        """Return how the ground is tilted (B, 2), from the cells' means of shifts (B, R, C, 2) and weights."""
        c = self.config
        shift = F.avg_pool2d(shift.permute(0, 3, 1, 2), c.stride).flatten(2).mT
        information = F.avg_pool2d(weights[:, None], c.stride).flatten(1) * self.match_information.exp()
        cells = self.cells.expand(len(shift), -1, -1, -1).flatten(1, 2)
        level = torch.zeros_like(camera[:, :2])
        tilt = solve_tilt(cells, shift, information, camera=camera, start=level, sigma=c.tilt_sigma)
        return self.tilt_gain.exp() * tilt

    def _confidence(self, hidden: Tensor) -> Tensor:
        """Return S before visibility, (B, R, C)."""
        c = self.config
        if self.update.confidence is None:
            return hidden.new_ones(len(hidden), c.bev_rows * c.stride, c.bev_cols * c.stride, dtype=torch.float32)
        score = torch.sigmoid(self.update.confidence(hidden).float())
        return F.interpolate(score, scale_factor=c.stride, mode="bilinear", align_corners=False)[:, 0]

    def _check(self, name: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
        if tensor.shape[1:] != wanted:
            raise ValueError(f"expected {name} of shape (B, {str(wanted)[1:]}, got {tuple(tensor.shape)}")


def _repeat(cells: Tensor, factor: int) -> Tensor:
    """Give every fine cell the value of the cell (B, rows, cols) that it is in."""
    return cells.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
