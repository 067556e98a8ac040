"""vote_flow, the compact default matcher: two votes, refined by flow, and a third that looks closely, twice.

Frames: *vehicle* is the frame of the BEV (the camera's vehicle, wherever it is); *patch* is the vehicle-frame of the
prior, in which the satellite patch is cut. A pose (x, y, yaw) is the vehicle's in the patch; (0, 0, 0) means that
the prior was right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cvloc_ros.models.close_look import CloseLook
from cvloc_ros.models.flow import FlowUpdate, LocalCorrelation, half_cell_lattice
from cvloc_ros.models.local_vote import LocalVote, register_grid
from cvloc_ros.models.peaks import heard
from cvloc_ros.models.solver import place, solve_pose, solve_tilt, tilt_shift
from cvloc_ros.models.vote import weigh
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.vote_flow_types import Block, BoxMask, GroundFeatures, PatchFeatures, VoteFlowOutput
from cvloc_ros.models.vote_network import Votes


class VoteFlow(Votes):
    """The network: two votes over what the encoders see, a flow that refines, and a third vote that looks closely.

    The third is held on finer features, on ground tilted as the flow has found it: around what the flow made of the
    best candidate, and at the next best. From its mean the flow starts again, and where that ends the third is held
    once more: its mean is the pose.
    """

    flow_lattice: Tensor

    def __init__(self, config: VoteFlowConfig | None = None):
        super().__init__(config or VoteFlowConfig())
        c = self.config
        self.update = FlowUpdate(c.window, c.bev_hidden, c.flow_hidden)
        self.match_information = nn.Parameter(torch.tensor(1.7))  # log of 1/m^2 for a match of full weight
        self.tilt_gain = nn.Parameter(torch.tensor(0.7))  # log: the flow, unsure, shows less tilt than there is
        n = 2 * (c.bev_size - 1) + c.window
        register_grid(self, "flow_lattice", half_cell_lattice(c.bev, c.window // 2)[:n, :n])
        self.close = CloseLook(c)
        self.close_sharpness = nn.Parameter(torch.tensor(3.0))
        self.third = LocalVote(
            c.close, shifts=c.close_shifts, headings=c.close_headings, step_degrees=c.close_heading_step_degrees
        )

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
        close: Tensor | None = None,
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
            start: (B, 3) start the first flow here instead of at the second vote's result (training).
            close: (B, 3) hold the third vote here instead of where the flow has ended, and neither start the flow again
                nor hold the vote once more (training).

        """
        satellite, ground = self.encode_satellite(patch, coverage), self.describe(image, pixels, visible)
        return self.locate(satellite, ground, camera, block=block, centre=centre, start=start, close=close)

    def encode_satellite(self, patch: Tensor, coverage: Tensor) -> PatchFeatures:
        """Describe a patch for all three votes; see `Votes.encode_satellite`."""
        half, quarter = self._encode_patch(patch)
        close = weigh(self.close.describe_patch(patch, half), coverage).contiguous(memory_format=self.layout)
        return self._describe_patch(half, quarter, coverage)._replace(close=close)

    def describe(self, image: Tensor, pixels: Tensor, visible: Tensor) -> GroundFeatures:
        """Describe the ground for all three votes; see `Votes.describe`."""
        half, quarter = self.ground(image)
        ground = GroundFeatures(*self.bev(half, quarter, pixels, visible))
        close, weight = self.close.describe(image, half, ground.hidden, pixels, visible)
        return ground._replace(close=close, close_weight=weight)

    def locate(
        self,
        satellite: PatchFeatures,
        ground: GroundFeatures,
        camera: Tensor,
        *,
        block: Block | BoxMask | None = None,
        centre: Tensor | None = None,
        start: Tensor | None = None,
        close: Tensor | None = None,
    ) -> VoteFlowOutput:
        """Match what `describe` and `encode_satellite` made of images and patches; else as `forward`."""
        out = self.vote(ground, satellite, block=block, centre=centre)
        begin = self.update.initial(ground.hidden)
        self._flow(out, ground, satellite, camera, begin, out.voted if start is None else start)
        self._choose(out, ground, satellite, camera, close)
        if close is None:
            self._flow(out, ground, satellite, camera, begin, out.voted)
            self._look_again(out, ground, satellite, camera)
        return out

    def _choose(
        self,
        out: VoteFlowOutput,
        ground: GroundFeatures,
        satellite: PatchFeatures,
        camera: Tensor,
        close: Tensor | None,
    ) -> None:
        """Hold the third vote at the candidates, and add what it says to the output; ``close`` as for `forward`."""
        logits = out.peak_logits
        count = min(self.config.candidates, logits.shape[1])
        # the best, which the flow has refined, comes first: in training, the one that is beside the truth
        order = logits.scatter(1, out.best[:, None], float("inf")).topk(count, 1).indices
        others = out.candidates.gather(1, order[:, 1:, None].expand(-1, -1, 3))
        first = out.poses[-1] if close is None else close
        poses = torch.cat([first[:, None], others], dim=1).detach()
        third = self._look_closely(ground, satellite, camera, poses, out.tilts[-1])
        evidence = third.flatten(2).logsumexp(2)
        out.choice_logits = logits.gather(1, order).detach() + evidence
        best = out.choice_logits.argmax(1) if close is None else torch.zeros_like(out.best)
        each = torch.arange(len(best), device=best.device)
        out.close_logits, out.close_centre = third[each, best], poses[each, best]
        out.voted = self.third.mean(out.close_logits, out.close_centre)
        out.box_logits = heard(out.box_logits, evidence, out.peak_cells[each[:, None], order])

    def _look_again(
        self, out: VoteFlowOutput, ground: GroundFeatures, satellite: PatchFeatures, camera: Tensor
    ) -> None:
        """Hold the third vote once more, where the last flow has ended: it sees the place more finely than the flow.

        What it says of other places is less telling than what it said of them before: `close_logits` stays as it is.
        """
        pose = out.poses[-1].detach()
        again = self._look_closely(ground, satellite, camera, pose[:, None], out.tilts[-1])[:, 0]
        out.voted = self.third.mean(again, pose)

    def _look_closely(
        self, ground: GroundFeatures, satellite: PatchFeatures, camera: Tensor, poses: Tensor, tilt: Tensor
    ) -> Tensor:
        """Return the third vote (B, K, headings, shifts, shifts) around poses (B, K, 3), on ground of a tilt (B, 2)."""
        assert ground.close is not None and ground.close_weight is not None and satellite.close is not None
        lattice = self.third.lattice.expand(len(camera), -1, -1, -1)
        return self.close_sharpness.exp() * self._hold(
            self.third,
            weigh(ground.close, ground.close_weight),
            satellite.close,
            poses,
            precision=ground.hidden.dtype,
            lattice=lattice + tilt_shift(lattice, camera, tilt.detach()),
        )

    def _flow(
        self,
        out: VoteFlowOutput,
        ground: GroundFeatures,
        satellite: PatchFeatures,
        camera: Tensor,
        begin: tuple[Tensor, Tensor],
        pose: Tensor,
    ) -> None:
        """Let the cells move from a pose (B, 3), and add what they find to the output.

        ``begin`` is the recurrent state before the first step, and its context.
        """
        seen = (ground.fine_weight > 0).squeeze(1)
        state, context = begin
        pose = pose.detach()
        tilt, tilted = torch.zeros_like(camera[:, :2]), self.flow_lattice.expand(len(camera), -1, -1, -1)
        for _ in range(self.config.iterations):
            out.starts.append(pose)
            out.points.append(self._cells_of(tilted))
            state, flow, scale, weight, tilt, tilted, pose, out.solved = self._step(
                (ground.fine, seen),
                satellite.fine,
                camera,
                context,
                state,
                tilt,
                tilted,
                pose,
            )
            out.flows.append(flow)
            out.scales.append(scale)
            out.weights.append(weight)
            out.tilts.append(tilt)
            out.poses.append(pose)
            pose, tilt, tilted = pose.detach(), tilt.detach(), tilted.detach()

    def _step(
        self,
        ground: tuple[Tensor, Tensor],
        satellite: Tensor,
        camera: Tensor,
        context: Any,
        state: Tensor,
        tilt: Tensor,
        tilted: Tensor,
        pose: Tensor,
    ) -> tuple[Tensor, ...]:
        """Take a step of the flow.

        Args:
            ground: fine descriptors of the cells, and which of them are seen.
            satellite: fine weighed descriptors of the patch.
            camera: (B, 3).
            context: of the recurrent unit.
            state: likewise.
            tilt: (B, 2) before the step.
            tilted: (B, n, n, 2) ``flow_lattice`` on ground so tilted.
            pose: (B, 3) before the step.

        Returns:
            The state, flow, scale and weight of the cells; and the tilt, the lattice, the pose, and whether it was
            well posed, after the step.

        """
        points = self._cells_of(tilted)
        correlation, covered = self._look_around(ground[0], satellite, tilted, pose)
        state, flow, scale = self.update(state, context, correlation, covered)
        weight = (0.1 / scale).square() * ground[1] * covered[:, 0]
        shift = flow.permute(0, 2, 3, 1)
        found = solve_tilt(
            points.flatten(1, 2),
            shift.flatten(1, 2),
            weight.flatten(1) * self.match_information.exp(),
            camera=camera,
            start=tilt,
            sigma=self.config.tilt_sigma,
        )
        tilt = tilt + self.tilt_gain.exp() * (found - tilt)
        lattice = self.flow_lattice.expand(len(camera), -1, -1, -1)
        tilted = lattice + tilt_shift(lattice, camera, tilt)
        source, moved = self._cells_of(tilted), place(points + shift, pose)
        solution, solved = solve_pose(source.flatten(1, 2), moved.flatten(1, 2), weight.flatten(1))
        return state, flow, scale, weight, tilt, tilted, torch.where(solved[:, None], solution, pose), solved

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

    def _look_around(self, fine: Tensor, satellite: Tensor, ground: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Correlate every cell with the satellite around it, as placed by a pose.

        Args:
            fine: (B, Df, rows, cols) descriptors of the cells.
            satellite: (B, Df + 1, S/2, S/2) fine weighed descriptors of the patch.
            ground: (B, n, n, 2) points of ``flow_lattice`` on the tilted ground, vehicle frame, metres.
            pose: (B, 3).

        Returns:
            (B, window^2, rows, cols) similarities, and (B, 1, rows, cols) the coverage of the cells.

        """
        around = self._warp(satellite, ground[:, None], pose[:, None])[:, 0]
        covered = self._cells_of(around[:, -1, :, :, None]).permute(0, 3, 1, 2)
        return LocalCorrelation.apply(around[:, :-1], fine, self.config.window), covered
