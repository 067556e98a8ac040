"""`DenseFlow` behind the `Matcher` interface: numpy in, numpy out, on the CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cvloc_ros.geometry import GroundGrid
from cvloc_ros.models.cuda_graph import Recorder
from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput
from cvloc_ros.models.dense_flow_encoders import Patch, VoteEncoders
from cvloc_ros.models.dense_flow_posterior import PoseGrid, pose_scores
from cvloc_ros.models.fast_vote_flow import FastVotes, fast_precision
from cvloc_ros.models.matcher import Match, MatchInput
from cvloc_ros.models.network_inputs import PatchView, View
from cvloc_ros.models.vote_flow_matcher import GPU_BATCH, of_one_block, peak_similarities, posterior_axes
from cvloc_ros.models.vote_flow_types import Block, BoxMask, VoteFlowOutput
from cvloc_ros.models.vote_network import Votes

_SCALES = (0.1, 20.0)  # m; no match is trusted to better than the first, none is said to be worse than the second


class DenseFlowMatcher:
    """Runs the network.

    Args:
        network: trained.
        device: to run it on.
        fast: take one image at a time, in half precision where the processor has it, with `FastVotes`.

    """

    name = "dense_flow"

    def __init__(self, network: DenseFlow, *, device: str = "cpu", fast: bool = False):
        self.device = torch.device(device)
        self.network = network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        c = network.config
        precision = fast_precision(self.device) if fast else torch.float32
        self.precision = str(precision).removeprefix("torch.")
        self._fast = fast
        if fast:
            self.network = deepcopy(self.network)
            if precision != torch.float32:
                self.network.halve(precision)
            if isinstance(encoders := self.network.encoders, VoteEncoders):
                encoders.vote = FastVotes(encoders.vote, precision=precision)
        self.patch_grid: GroundGrid = c.patch
        self.search_box = (c.box_metres, float(np.radians(c.box_degrees)))
        self.batch_size = GPU_BATCH if self.device.type == "cuda" and not fast else 1
        record = fast and self.device.type == "cuda"
        self._locate = Recorder(self._find, record=record)
        self._view = View(c, self.device)
        self._patches = PatchView(
            Recorder(lambda *patch: self.network.encode_satellite(*patch), record=record), self.device
        )

    @torch.inference_mode()
    def match_batch(self, inputs: Sequence[MatchInput]) -> list[Match]:
        """Match images; see `Matcher.match_batch`. What starts from the identity, starts from the box's centre."""
        if self._fast and len(inputs) > 1:
            return [match for each in inputs for match in self.match_batch([each])]
        encoders = self.network.encoders
        if self.network.config.start == "identity" or not isinstance(encoders, VoteEncoders):
            centres = [each.centre for each in inputs]
            return self._match(inputs, start=torch.tensor(centres, dtype=torch.float32, device=self.device))
        return [
            match
            for group in of_one_block(encoders.vote, inputs)
            for match in self._match(group, block=encoders.vote.block(group[0].box, group[0].centre))
        ]

    def _match(
        self, inputs: Sequence[MatchInput], *, start: Tensor | None = None, block: Block | BoxMask | None = None
    ) -> list[Match]:
        """Match images, from a start, or from a vote over a block of its poses."""
        began = time.perf_counter()
        image, *camera = self._view.look(inputs)
        prepared = time.perf_counter()
        patch = self._patches.look(inputs)
        encoded = time.perf_counter()
        out = self._locate(patch, image, start, block, fixed=tuple(camera))
        found = []
        for k, one in enumerate(_each(out, len(inputs))):
            posterior = self._voted(one) if one.votes else self._posterior(one, patch.coverage[k : k + 1], inputs[k])
            found.append(self._matches(one) | posterior)
        spent = {"prepare": prepared - began, "encode": encoded - prepared, "match": time.perf_counter() - encoded}
        milliseconds = {stage: 1e3 * seconds / len(inputs) for stage, seconds in spent.items()}
        return [Match(**each, milliseconds=milliseconds) for each in found]

    def _find(
        self,
        patch: Patch,
        image: Tensor,
        start: Tensor | None,
        block: Block | BoxMask | None,
        pixels: Tensor,
        visible: Tensor,
        camera: Tensor,
    ) -> DenseFlowOutput:
        """Find images on patches that have been described."""
        return self.network.locate(patch, image, pixels, visible, camera, start=start, block=block)

    def _matches(self, out: DenseFlowOutput) -> dict[str, Any]:
        """Return the pose, and the matches of one image's whole cells: the means over their pixels."""
        stride = self.network.config.stride
        points = torch.cat([out.moved[-1], out.ground], dim=-1).permute(0, 3, 1, 2)
        means = F.avg_pool2d(points, stride)[0].permute(1, 2, 0).cpu().numpy().astype(float)
        moved, ground = means[..., :2], means[..., 2:]
        weights = F.avg_pool2d(out.weights[:, None], stride)[0, 0].cpu().numpy().astype(float)
        confidence = F.avg_pool2d(out.confidences[-1][:, None], stride)[0, 0].cpu().numpy().astype(float)
        used = weights > 0
        pose = out.pose[0].cpu().numpy().astype(float)
        base, moved, weights = ground[used], moved[used], weights[used]
        scales = self._scales(base, moved, weights, confidence[used], pose)
        solved = bool(out.solved[0])
        return {"pose": pose, "solved": solved, "base": base, "patch": moved, "weights": weights, "scales": scales}

    def _scales(self, base, patch, weights, confidence, pose) -> np.ndarray:
        """Return the mean absolute error expected of a match's components, metres.

        An absolute confidence is the probability that a distance stays under a limit; distances are taken to be
        exponential, in any direction. A relative one says nothing in metres: then it is the frame's residual.
        """
        c = self.network.config
        if c.confidence and c.confidence_target == "absolute":
            distance = c.confident_metres / -np.log1p(-confidence.clip(1e-6, 1 - 1e-6))
            return np.clip(2 / np.pi * distance, *_SCALES)
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        residual = np.abs(base @ np.array([[cos, sin], [-sin, cos]]) + pose[:2] - patch).mean(axis=-1)
        mean = (weights * residual).sum() / max(weights.sum(), 1e-9)
        return np.full(len(base), np.clip(mean, *_SCALES))

    def _voted(self, out: DenseFlowOutput) -> dict[str, Any]:
        """Return the posteriors of the vote that gave the start."""
        vote, votes = self.network.encoders.vote, out.votes
        assert isinstance(vote, Votes) and votes
        at_peaks = peak_similarities(
            (votes.coarse_logits, vote.coarse_sharpness), (votes.fine_logits, vote.fine_sharpness)
        )
        axes = posterior_axes(vote, vote.second) | {"similarity": tuple(at_peaks[0].tolist())}
        return _posterior(votes.box_logits[0], votes.fine_logits[0]) | axes

    def _posterior(self, out: DenseFlowOutput, coverage: Tensor, given: MatchInput) -> dict[str, Any]:
        sharpness = self.network.config.posterior_sharpness
        everywhere, nearby = PoseGrid.of_box(self.network), PoseGrid.around_a_pose(self.network)
        inside = everywhere.inside(given.box, given.centre)
        score = torch.full(inside.shape, float("-inf"), device=self.device)
        score[inside] = pose_scores(self.network, out, coverage, everywhere.poses(out.pose.new_zeros(3))[inside])
        local = pose_scores(self.network, out, coverage, nearby.poses(out.pose[0]))
        yaw, shifts = everywhere.axes()
        local_yaw, local_shift = nearby.axes()
        return _posterior(score * sharpness, local * sharpness) | {
            "x": shifts,
            "y": shifts,
            "yaw": yaw,
            "local_shift": local_shift,
            "local_yaw": local_yaw,
            "similarity": (float(score.max()), float(local.max())),
        }


def _posterior(logits: Tensor, local_logits: Tensor) -> dict[str, Any]:
    """Return the posteriors of one image, from logits (headings, shifts, shifts)."""
    return {
        name: x.float().flatten().softmax(0).view_as(x).cpu().numpy().astype(float)
        for name, x in (("probability", logits), ("local", local_logits))
    }


def _each(out: DenseFlowOutput, count: int) -> Iterator[DenseFlowOutput]:
    """Yield what a network says about the images of a batch, as batches of one."""

    def one(value: Any, k: int) -> Any:
        if isinstance(value, list):
            return [one(each, k) for each in value]
        if isinstance(value, VoteFlowOutput):
            return replace(value, **{name: one(each, k) for name, each in vars(value).items()})
        return value if value is None else value[k : k + 1]

    for k in range(count):
        yield replace(out, **{name: one(value, k) for name, value in vars(out).items()})
