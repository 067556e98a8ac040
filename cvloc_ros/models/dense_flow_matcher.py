"""`DenseFlow` behind the `Matcher` interface: numpy in, numpy out, on the CPU or a GPU."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cvloc_ros.geometry import Camera, GroundGrid, PinholeCamera
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.dense_flow_posterior import PoseGrid, pose_scores
from cvloc_ros.models.matcher import Match
from cvloc_ros.models.preprocess import fit_image
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig

_SCALES = (0.1, 20.0)  # m; no match is trusted to better than the first, none is said to be worse than the second


class DenseFlowMatcher:
    """Runs the network on one frame at a time, after a vote where it starts from one.

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
        self._view = _View(c, self.device)
        self._vote = None if c.start == "identity" or vote is None else _Vote(vote, self.device)

    @torch.inference_mode()
    def match(
        self,
        image: np.ndarray,
        camera: Camera,
        T_base_camera: np.ndarray,
        patch: np.ndarray,
        coverage: np.ndarray,
        *,
        box: tuple[float, float, float],
        centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Match:
        """Match one image; see `Matcher.match`. What starts from the identity, starts from the box's centre."""
        began = time.perf_counter()
        inputs = self._view.look(image, camera, T_base_camera) | _patch_tensors(patch, coverage, self.device)
        milliseconds = {"prepare": 1e3 * (time.perf_counter() - began)}
        began = time.perf_counter()
        if self._vote:
            start, posterior = self._vote.hold(
                image, camera, T_base_camera, patch, coverage, self.patch_grid, box, centre
            )
            milliseconds["vote"] = 1e3 * (time.perf_counter() - began)
            began = time.perf_counter()
            out = self.network(**inputs, start=start)
        else:
            out = self.network(**inputs, start=torch.tensor([centre], dtype=torch.float32, device=self.device))
            posterior = self._posterior(out, inputs["coverage"], box, centre)
        matches = self._matches(out)
        milliseconds["match"] = 1e3 * (time.perf_counter() - began)
        return Match(
            pose=out.pose[0].cpu().numpy().astype(float),
            solved=bool(out.solved[0]),
            **matches,
            **posterior,
            milliseconds=milliseconds,
        )

    def _matches(self, out: DenseFlowOutput) -> dict[str, Any]:
        """Return the matches of whole cells: the means over their pixels."""
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


class _View:
    """What one network sees of a camera; the BEV is projected once for as long as the camera stays the same object."""

    def __init__(self, config: DenseFlowConfig | VoteFlowConfig, device: torch.device):
        self._config, self._device = config, device
        self._stretch = isinstance(config, DenseFlowConfig) and config.image_fit == "stretch"
        self._ground: tuple[Camera, np.ndarray, dict[str, Tensor]] | None = None

    def look(self, image: np.ndarray, camera: Camera, T_base_camera: np.ndarray) -> dict[str, Tensor]:
        """Return the network's ``image``, ``pixels`` and ``visible``."""
        c = self._config
        fitted_camera: Camera
        if self._stretch and isinstance(camera, PinholeCamera):
            size = (c.image_width, c.image_height)
            fitted, fitted_camera = cv2.resize(image, size, interpolation=cv2.INTER_AREA), camera.resized(*size)
        else:
            fitted, fitted_camera = fit_image(image, camera, T_base_camera, width=c.image_width, height=c.image_height)
        if self._ground is None or self._ground[0] is not camera or not np.array_equal(self._ground[1], T_base_camera):
            pixels, visible = ground_pixels(fitted_camera, T_base_camera, c.bev_samples, c.heights)
            tensors = {"pixels": torch.from_numpy(pixels), "visible": torch.from_numpy(visible)}
            self._ground = (
                camera,
                T_base_camera.copy(),
                {name: t[None].to(self._device) for name, t in tensors.items()},
            )
        return {"image": _image_tensor(fitted, self._device), **self._ground[2]}


class _Vote:
    """The two votes of a `VoteFlow`, without its flow."""

    def __init__(self, network: VoteFlow, device: torch.device):
        network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = copy(network)  # of the same weights; the caller's keeps its flow
        self.network.config = replace(network.config, iterations=0)
        self._device = device
        self._view = _View(network.config, device)

    def hold(
        self, image, camera, T_base_camera, patch, coverage, grid: GroundGrid, box, centre
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the voted pose (1, 3) and the posterior's fields of a `Match`; the patch is on ``grid``."""
        wanted = self.network.config.patch
        if grid != wanted:
            patch = regrid(patch, grid, wanted)
            coverage = regrid(coverage.astype(np.float32), grid, wanted) > 0.5
        out = self.network(
            **self._view.look(image, camera, T_base_camera),
            **_patch_tensors(patch, coverage, self._device),
            camera=torch.tensor(T_base_camera[None, :3, 3], dtype=torch.float32, device=self._device),
            block=self.network.block(box, centre),
        )
        n = self.network
        axes = {
            "x": n.shifts,
            "y": n.shifts,
            "yaw": n.headings,
            "local_shift": n.fine_shifts,
            "local_yaw": n.fine_headings,
        }
        posterior = _posterior(out.box_logits[0], out.fine_logits[0])
        posterior |= {name: axis.cpu().numpy().astype(float) for name, axis in axes.items()}
        posterior["similarity"] = (
            float(out.coarse_logits.max() / n.coarse_sharpness.exp()),
            float(out.fine_logits.max() / n.fine_sharpness.exp()),
        )
        return out.voted, posterior


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


def _image_tensor(image: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(device, non_blocking=True)
    return tensor.permute(2, 0, 1)[None].float().div_(255).contiguous(memory_format=torch.channels_last)


def _patch_tensors(patch: np.ndarray, coverage: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    covered = torch.from_numpy(coverage.astype(np.float32))[None, None].to(device)
    return {"patch": _image_tensor(patch, device), "coverage": covered}
