"""`DenseFlow` behind the `Matcher` interface: numpy in, numpy out, on the CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cvloc_ros.geometry import GroundGrid
from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput
from cvloc_ros.models.dense_flow_posterior import PoseGrid, pose_scores
from cvloc_ros.models.matcher import Match, MatchInput
from cvloc_ros.models.network_inputs import View, camera_positions, coverage_tensor, image_tensor
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_matcher import GPU_BATCH, of_one_block, peak_similarity, posterior_axes

_SCALES = (0.1, 20.0)  # m; no match is trusted to better than the first, none is said to be worse than the second


class DenseFlowMatcher:
    """Runs the network, after a vote where it starts from one.

    Args:
        network: trained.
        vote: gives the start and the posterior; needed where ``network.config.start`` is "vote", ignored otherwise.
        device: of both.

    Raises:
        ValueError: the network starts from a vote and there is none.

    """

    name = "dense_flow"

    def __init__(self, network: DenseFlow, *, vote: VoteFlow | None = None, device: str = "cpu"):
        if network.config.start == "vote" and vote is None:
            raise ValueError("this dense_flow starts from a vote: expected the VoteFlow that gives it, got None")
        self.device = torch.device(device)
        self.network = network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        c = network.config
        self.patch_grid: GroundGrid = c.patch
        self.search_box = (c.box_metres, float(np.radians(c.box_degrees)))
        self.batch_size = GPU_BATCH if self.device.type == "cuda" else 1
        self._view = View(c, self.device)
        self._vote = None if c.start == "identity" or vote is None else _Vote(vote, self.device)

    @torch.inference_mode()
    def match_batch(self, inputs: Sequence[MatchInput]) -> list[Match]:
        """Match images; see `Matcher.match_batch`. What starts from the identity, starts from the box's centre."""
        if self._vote is None:
            return self._match(inputs)
        return [match for group in of_one_block(self._vote.network, inputs) for match in self._match(group)]

    def _match(self, inputs: Sequence[MatchInput]) -> list[Match]:
        """Match images; if there is a vote, such as search the same poses of it."""
        began = time.perf_counter()
        ground = self._view.look(inputs)
        patch = image_tensor([each.patch for each in inputs], self.device)
        coverage = coverage_tensor([each.coverage for each in inputs], self.device)
        spent = {"prepare": time.perf_counter() - began}
        began = time.perf_counter()
        posteriors: list[dict[str, Any]] = []
        if self._vote:
            start, posteriors = self._vote.hold(inputs, self.patch_grid)
            spent["vote"] = time.perf_counter() - began
            began = time.perf_counter()
        else:
            start = torch.tensor([each.centre for each in inputs], dtype=torch.float32, device=self.device)
        out = self.network(**ground, patch=patch, coverage=coverage, start=start)
        each_out = [_one_of(out, k) for k in range(len(inputs))]
        if not self._vote:
            posteriors = [
                self._posterior(one, covered, given.box, given.centre)
                for one, covered, given in zip(each_out, coverage.split(1), inputs, strict=True)
            ]
        matches = [self._matches(one) for one in each_out]
        spent["match"] = time.perf_counter() - began
        milliseconds = {stage: 1e3 * seconds / len(inputs) for stage, seconds in spent.items()}
        return [
            Match(
                pose=one.pose[0].cpu().numpy().astype(float),
                solved=bool(one.solved[0]),
                **found,
                **posterior,
                milliseconds=milliseconds,
            )
            for one, found, posterior in zip(each_out, matches, posteriors, strict=True)
        ]

    def _matches(self, out: DenseFlowOutput) -> dict[str, Any]:
        """Return the matches of one image's whole cells: the means over their pixels."""
        stride = self.network.config.stride
        moved = F.avg_pool2d(out.moved[-1].permute(0, 3, 1, 2), stride)[0].permute(1, 2, 0).cpu().numpy().astype(float)
        weights = F.avg_pool2d(out.weights[:, None], stride)[0, 0].cpu().numpy().astype(float)
        confidence = F.avg_pool2d(out.confidences[-1][:, None], stride)[0, 0].cpu().numpy().astype(float)
        used = weights > 0
        base = self.network.cells.cpu().numpy().astype(float)[used]
        scales = self._scales(base, moved[used], weights[used], confidence[used], out.pose[0].cpu().numpy())
        return {"base": base, "patch": moved[used], "weights": weights[used], "scales": scales}

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

    def _posterior(self, out: DenseFlowOutput, coverage: Tensor, box, centre) -> dict[str, Any]:
        sharpness = self.network.config.posterior_sharpness
        everywhere, nearby = PoseGrid.of_box(self.network), PoseGrid.around_a_pose(self.network)
        inside = everywhere.inside(box, centre)
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


class _Vote:
    """The two votes of a `VoteFlow`, without its flow."""

    def __init__(self, network: VoteFlow, device: torch.device):
        network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = copy(network)  # of the same weights; the caller's keeps its flow
        self.network.config = replace(network.config, iterations=0)
        self._axes, self._view, self._device = posterior_axes(network), View(network.config, device), device

    def hold(self, inputs: Sequence[MatchInput], grid: GroundGrid) -> tuple[Tensor, list[dict[str, Any]]]:
        """Return the voted poses (B, 3) and the posteriors' fields of each `Match`.

        Args:
            inputs: that search the same poses of the first vote.
            grid: of their patches.

        """
        patches, coverages = [each.patch for each in inputs], [each.coverage for each in inputs]
        wanted = self.network.config.patch
        if grid != wanted:
            patches = [regrid(patch, grid, wanted) for patch in patches]
            coverages = [regrid(coverage.astype(np.float32), grid, wanted) > 0.5 for coverage in coverages]
        out = self.network(
            **self._view.look(inputs),
            patch=image_tensor(patches, self._device),
            coverage=coverage_tensor(coverages, self._device),
            camera=camera_positions(inputs, self._device),
            block=self.network.block(inputs[0].box, inputs[0].centre),
        )
        similarity = peak_similarity(self.network, out).tolist()
        return out.voted, [
            _posterior(out.box_logits[k], out.fine_logits[k]) | self._axes | {"similarity": tuple(similarity[k])}
            for k in range(len(inputs))
        ]


def regrid(image: np.ndarray, source: GroundGrid, target: GroundGrid) -> np.ndarray:
    """Resample an image from one ground grid of the vehicle's to another, bilinear, zero beyond its edge."""
    while target.cell > 1.8 * source.cell and source.rows % 2 == 0 and source.cols % 2 == 0:
        source = source.coarser(2)
        image = cv2.resize(image, (source.cols, source.rows), interpolation=cv2.INTER_AREA)
    first = source.to_cells(target.to_metres(np.array([0, 0])))
    step = target.cell / source.cell
    M = np.array([[step, 0, first[1]], [0, step, first[0]]])
    return cv2.warpAffine(image, M, (target.cols, target.rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _posterior(logits: Tensor, local_logits: Tensor) -> dict[str, Any]:
    return {
        name: x.float().flatten().softmax(0).view_as(x).cpu().numpy().astype(float)
        for name, x in (("probability", logits), ("local", local_logits))
    }


def _one_of(out: DenseFlowOutput, k: int) -> DenseFlowOutput:
    """Return what a network says about one image of a batch, as a batch of one."""
    fields: dict[str, Any] = {
        name: [each[k : k + 1] for each in value] if isinstance(value, list) else value[k : k + 1]
        for name, value in vars(out).items()
    }
    return replace(out, **fields)
