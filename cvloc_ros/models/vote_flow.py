"""vote_flow, the compact default matcher: vote over the search box, vote again around its peaks, refine by flow.

Frames: *vehicle* is the frame of the BEV (the camera's vehicle, wherever it is); *patch* is the vehicle-frame of the
prior, in which the satellite patch is cut. A pose (x, y, yaw) is the vehicle's in the patch; (0, 0, 0) means that
the prior was right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cvloc_ros.models.flow import FlowUpdate, LocalCorrelation, half_cell_lattice
from cvloc_ros.models.solver import place, solve_pose, solve_tilt, tilt_shift
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.vote_flow_types import Block, GroundFeatures, PatchFeatures, VoteFlowOutput
from cvloc_ros.models.vote_network import Votes


class VoteFlow(Votes):
    """The network: the votes, and the flow that refines what they give."""

    flow_lattice: Tensor

    def __init__(self, config: VoteFlowConfig | None = None):
        super().__init__(config or VoteFlowConfig())
        c = self.config
        self.update = FlowUpdate(c.window, c.bev_hidden, c.flow_hidden)
        self.match_information = nn.Parameter(torch.tensor(1.7))  # log of 1/m^2 for a match of full weight
        self.tilt_gain = nn.Parameter(torch.tensor(0.7))  # log: the flow, unsure, shows less tilt than there is
        n = 2 * (c.bev_size - 1) + c.window
        self._register("flow_lattice", half_cell_lattice(c.bev, c.window // 2)[:n, :n])

    def forward(
        self,
        image: Tensor,
        pixels: Tensor,
        visible: Tensor,
        camera: Tensor,
        patch: Tensor,
        coverage: Tensor,
        *,
        block: Block | None = None,
        centre: Tensor | None = None,
        start: Tensor | None = None,
    ) -> VoteFlowOutput:
        """Match a batch of camera images with satellite patches.

        Args:
            image: (B, 3, H, W) RGB in [0, 1].
            pixels: (B, Z, 2 rows, 2 cols, 2) from `ground_pixels` on ``config.bev_samples`` at ``config.heights``.
            visible: (B, Z, 2 rows, 2 cols) bool.
            camera: (B, 3) the camera's position in the vehicle's frame, metres.
            patch: (B, 3, S, S) RGB in [0, 1], the prior's forward direction up.
            coverage: (B, 1, S, S) in [0, 1].
            block: which poses of the first vote are searched, see `block`; all of them if None.
            centre: (B, 3) hold the second vote here instead of at the first vote's peak, and at the highest peaks
                elsewhere only to compare (training).
            start: (B, 3) start the flow here instead of at the second vote's result (training).

        """
        satellite = self.encode_satellite(patch, coverage)
        return self.locate(satellite, image, pixels, visible, camera, block=block, centre=centre, start=start)

    def locate(
        self,
        satellite: PatchFeatures,
        image: Tensor,
        pixels: Tensor,
        visible: Tensor,
        camera: Tensor,
        *,
        block: Block | None = None,
        centre: Tensor | None = None,
        start: Tensor | None = None,
    ) -> VoteFlowOutput:
        """Match a batch of camera images with patches that `encode_satellite` has described; else as `forward`."""
        ground = self.describe(image, pixels, visible)
        out = self.vote(ground, satellite, block=block, centre=centre)
        self._flow(out, ground, satellite, camera, out.voted.detach() if start is None else start)
        return out

    def _flow(
        self, out: VoteFlowOutput, ground: GroundFeatures, satellite: PatchFeatures, camera: Tensor, pose: Tensor
    ) -> None:
        """Let the cells move from a pose (B, 3), and add what they find to the output."""
        seen = (ground.fine_weight > 0).squeeze(1)
        state, context = self.update.initial(ground.hidden)
        lattice = self.flow_lattice.expand(len(camera), -1, -1, -1)
        tilt, tilted = torch.zeros_like(camera[:, :2]), lattice
        for _ in range(self.config.iterations):
            points = self._cells_of(tilted)
            correlation, covered = self._look_around(ground.fine, satellite, tilted, pose)
            state, flow, scale = self.update(state, context, correlation, covered)
            weight = (0.1 / scale).square() * seen * covered[:, 0]
            out.starts.append(pose)
            out.points.append(points)
            out.flows.append(flow)
            out.scales.append(scale)
            out.weights.append(weight)
            flow = flow.permute(0, 2, 3, 1)
            solved = solve_tilt(
                points.flatten(1, 2),
                flow.flatten(1, 2),
                weight.flatten(1) * self.match_information.exp(),
                camera=camera,
                start=tilt,
                sigma=self.config.tilt_sigma,
            )
            tilt = tilt + self.tilt_gain.exp() * (solved - tilt)
            tilted = lattice + tilt_shift(lattice, camera, tilt)
            source, moved = self._cells_of(tilted), place(points + flow, pose)
            solution, out.solved = solve_pose(source.flatten(1, 2), moved.flatten(1, 2), weight.flatten(1))
            solution = torch.where(out.solved[:, None], solution, pose)
            out.tilts.append(tilt)
            out.poses.append(solution)
            pose, tilt, tilted = solution.detach(), tilt.detach(), tilted.detach()

    def ground_points(self, camera: Tensor, tilt: Tensor) -> Tensor:
        """Return where the camera sees the cells if the ground is tilted: (B, rows, cols, 2) metres, vehicle frame.

        Args:
            camera: (B, 3) its position in the vehicle's frame, metres.
            tilt: (B, 2) slope of the ground, forward and left.

        """
        cells = self.cells.expand(len(camera), -1, -1, -1)
        return cells + tilt_shift(cells, camera, tilt)

    def _cells_of(self, lattice: Tensor) -> Tensor:
        """Return the cells (B, rows, cols, C) among the points of ``flow_lattice`` (B, n, n, C)."""
        margin = self.config.window // 2
        return lattice[:, margin:-margin:2, margin:-margin:2]

    def _look_around(
        self, fine: Tensor, satellite: PatchFeatures, ground: Tensor, pose: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Correlate every cell with the satellite around it, as placed by a pose.

        Args:
            fine: (B, Df, rows, cols) descriptors of the cells.
            satellite: the patch.
            ground: (B, n, n, 2) points of ``flow_lattice`` on the tilted ground, vehicle frame, metres.
            pose: (B, 3).

        Returns:
            (B, window^2, rows, cols) similarities, and (B, 1, rows, cols) the coverage of the cells.

        """
        around = self._warp(satellite.fine, ground[:, None], pose[:, None])[:, 0]
        covered = self._warp(satellite.fine_covered, self._cells_of(ground)[:, None], pose[:, None])[:, 0]
        return LocalCorrelation.apply(around, fine, self.config.window), covered
