"""`VoteFlow` behind the `Matcher` interface: numpy in, numpy out, on the CPU or a GPU."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from cvloc_ros.geometry import Camera, GroundGrid
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.fast_vote_flow import FastVoteFlow, fast_precision
from cvloc_ros.models.matcher import Match
from cvloc_ros.models.preprocess import fit_image
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_types import PatchFeatures


class VoteFlowMatcher:
    """Runs the network on one frame at a time."""

    name = "vote_flow"

    def __init__(self, network: VoteFlow, *, device: str = "cpu", fast: bool = False):
        """Run a network on a device, as it is (eager) or as a `FastVoteFlow`."""
        self.device = torch.device(device)
        network = network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = FastVoteFlow(network, precision=fast_precision(self.device)) if fast else network
        self.precision = str(getattr(self.network, "precision", torch.float32)).removeprefix("torch.")
        c = network.config
        self.patch_grid: GroundGrid = c.patch
        self.search_box = (c.box_metres, float(np.radians(c.box_degrees)))
        self._satellite: tuple[np.ndarray, np.ndarray, PatchFeatures] | None = None
        self._ground: tuple[Camera, np.ndarray, Tensor, Tensor] | None = None

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
        """Match one image; see `Matcher.match`."""
        c = self.network.config
        began = time.perf_counter()
        fitted, fitted_camera = fit_image(image, camera, T_base_camera, width=c.image_width, height=c.image_height)
        pixels, visible = self._ground_pixels(camera, T_base_camera, fitted_camera)
        inputs = {
            "image": self._tensor(fitted),
            "pixels": pixels,
            "visible": visible,
            "camera": torch.tensor(T_base_camera[None, :3, 3], dtype=torch.float32, device=self.device),
        }
        prepared = time.perf_counter()
        satellite = self._patch_features(patch, coverage)
        encoded = time.perf_counter()
        out = self.network.locate(satellite, **inputs, block=self.network.block(box, centre))
        arrays = {
            "pose": out.poses[-1],
            "start": out.starts[-1],
            "points": out.points[-1],
            "flow": out.flows[-1],
            "ground": self.network.ground_points(inputs["camera"], out.tilts[-1]),
            "scale": out.scales[-1],
            "weight": out.weights[-1],
            "coarse": out.box_logits.flatten(1).softmax(1).view_as(out.box_logits),
            "fine": out.fine_logits.flatten(1).softmax(1).view_as(out.fine_logits),
        }
        a = {name: value[0].float().cpu().numpy() for name, value in arrays.items()}
        solved = bool(out.solved[0])
        similarity = (
            float(out.coarse_logits.max() / self.network.coarse_sharpness.exp()),
            float(out.fine_logits.max() / self.network.fine_sharpness.exp()),
        )
        matched = time.perf_counter()
        seen = a["weight"] > 0
        moved = a["points"][seen] + a["flow"].transpose(1, 2, 0)[seen]
        x, y, yaw = a["start"].astype(float)
        cos, sin = np.cos(yaw), np.sin(yaw)
        return Match(
            pose=a["pose"].astype(float),
            solved=solved,
            base=a["ground"][seen].astype(float),
            patch=moved @ np.array([[cos, sin], [-sin, cos]]) + [x, y],
            weights=a["weight"][seen].astype(float),
            scales=a["scale"][seen].astype(float),
            probability=a["coarse"].astype(float),
            x=self.network.shifts.cpu().numpy().astype(float),
            y=self.network.shifts.cpu().numpy().astype(float),
            yaw=self.network.headings.cpu().numpy().astype(float),
            local=a["fine"].astype(float),
            local_shift=self.network.fine_shifts.cpu().numpy().astype(float),
            local_yaw=self.network.fine_headings.cpu().numpy().astype(float),
            similarity=similarity,
            milliseconds={
                "prepare": 1e3 * (prepared - began),
                "encode": 1e3 * (encoded - prepared),
                "match": 1e3 * (matched - encoded),
            },
        )

    def _tensor(self, image: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self.device, non_blocking=True)
        return tensor.permute(2, 0, 1)[None].float().div_(255).contiguous(memory_format=torch.channels_last)

    def _patch_features(self, patch: np.ndarray, coverage: np.ndarray) -> PatchFeatures:
        """Describe a patch once for as long as it stays the same object."""
        if self._satellite is None or self._satellite[0] is not patch or self._satellite[1] is not coverage:
            covered = torch.from_numpy(coverage.astype(np.float32))[None, None].to(self.device)
            self._satellite = patch, coverage, self.network.encode_satellite(self._tensor(patch), covered)
        return self._satellite[2]

    def _ground_pixels(self, camera: Camera, T_base_camera: np.ndarray, fitted: Camera) -> tuple[Tensor, Tensor]:
        """Project the BEV once for as long as the camera stays the same object, mounted the same."""
        c = self.network.config
        if self._ground is None or self._ground[0] is not camera or not np.array_equal(self._ground[1], T_base_camera):
            pixels, visible = ground_pixels(fitted, T_base_camera, c.bev_samples, c.heights)
            self._ground = (
                camera,
                T_base_camera.copy(),
                torch.from_numpy(pixels)[None].to(self.device),
                torch.from_numpy(visible)[None].to(self.device),
            )
        return self._ground[2], self._ground[3]
