"""`VoteFlow` behind the `Matcher` interface: numpy in, numpy out, on the CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvloc_ros.geometry import GroundGrid
from cvloc_ros.models.cuda_graph import Recorder
from cvloc_ros.models.fast_vote_flow import FastVoteFlow, fast_precision
from cvloc_ros.models.local_vote import LocalVote
from cvloc_ros.models.matcher import Match, MatchInput
from cvloc_ros.models.network_inputs import PatchView, View
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_types import Block, BoxMask, PatchFeatures
from cvloc_ros.models.vote_network import Votes

GPU_BATCH = 16


class VoteFlowMatcher:
    """Runs the network."""

    name = "vote_flow"

    def __init__(self, network: VoteFlow, *, device: str = "cpu", fast: bool = False):
        """Run a network on a device, as it is (eager) or as a `FastVoteFlow`, which takes one image at a time."""
        self.device = torch.device(device)
        network = network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = FastVoteFlow(network, precision=fast_precision(self.device)) if fast else network
        self.precision = str(getattr(self.network, "precision", torch.float32)).removeprefix("torch.")
        self.batch_size = GPU_BATCH if self.device.type == "cuda" and not fast else 1
        c = network.config
        self.patch_grid: GroundGrid = c.patch
        self.search_box = (c.box_metres, float(np.radians(c.box_degrees)))
        self._axes = posterior_axes(network, network.third)
        record = fast and self.device.type == "cuda"
        self._view = View(c, self.device, record=record)
        self.locate = Recorder(self._find, record=record)
        encode = Recorder(lambda *patch: self.network.encode_satellite(*patch), record=record)
        self._patches = PatchView(c, encode, self.device, beside=fast and self.device.type == "cpu", record=record)

    @torch.inference_mode()
    def match_batch(self, inputs: Sequence[MatchInput]) -> list[Match]:
        """Match images; see `Matcher.match_batch`. Neighbours that search the same poses go through together."""
        if isinstance(self.network, FastVoteFlow):
            return [match for each in inputs for match in self._match([each])]
        return [match for group in of_one_block(self.network, inputs) for match in self._match(group)]

    def expect(self, patch: np.ndarray, coverage: np.ndarray) -> Future | None:
        """Begin to describe a patch; see `Matcher.expect`."""
        return self._patches.expect(patch, coverage)

    def _match(self, inputs: Sequence[MatchInput]) -> list[Match]:
        """Match images that search the same poses of the first vote."""
        began = time.perf_counter()
        satellite = self._patches.look([(each.patch, each.coverage) for each in inputs])
        image, *camera = self._view.look(inputs)
        block = self.network.block(inputs[0].box, inputs[0].centre)
        found = self.locate(satellite, image, block, fixed=tuple(camera)).arrays()
        spent = {"prepare": self._view.seconds, "encode": self._patches.seconds}
        spent["match"] = time.perf_counter() - began - sum(spent.values())
        milliseconds = {stage: 1e3 * seconds / len(inputs) for stage, seconds in spent.items()}
        return [
            self._answer({name: value[k] for name, value in found.items()}, milliseconds) for k in range(len(inputs))
        ]

    def _find(
        self,
        satellite: PatchFeatures | Future,
        image: Tensor,
        block: Block | BoxMask,
        pixels: Tensor,
        visible: Tensor,
        camera: Tensor,
    ) -> Packed:
        """Return what an answer is made of."""
        ground = self.network.describe(image, pixels, visible)
        out = self.network.locate(self._patches.arrived(satellite), ground, camera, block=block)
        assert out.close_logits is not None
        found = {
            "pose": out.voted,
            "start": out.starts[-1],
            "points": out.points[-1],
            "flow": out.flows[-1],
            "ground": self.network.ground_points(camera, out.tilts[-1]),
            "scale": out.scales[-1],
            "weight": out.weights[-1],
            "coarse": out.box_logits.flatten(1).softmax(1).view_as(out.box_logits),
            "close": out.close_logits.flatten(1).softmax(1).view_as(out.close_logits),
            "similarity": peak_similarities(
                (out.coarse_logits, self.network.coarse_sharpness), (out.close_logits, self.network.close_sharpness)
            ),
            "solved": out.solved,
        }
        return Packed.of(found)

    def _answer(self, found: dict[str, np.ndarray], milliseconds: dict[str, float]) -> Match:
        """Return what was found of one image of a batch."""
        seen = found["weight"] > 0
        moved = found["points"][seen] + found["flow"].transpose(1, 2, 0)[seen]
        x, y, yaw = found["start"].astype(float)
        cos, sin = np.cos(yaw), np.sin(yaw)
        return Match(
            pose=found["pose"].astype(float),
            solved=bool(found["solved"]),
            base=found["ground"][seen].astype(float),
            patch=moved @ np.array([[cos, sin], [-sin, cos]]) + [x, y],
            weights=found["weight"][seen].astype(float),
            scales=found["scale"][seen].astype(float),
            probability=found["coarse"].astype(float),
            local=found["close"].astype(float),
            **self._axes,
            similarity=tuple(found["similarity"].tolist()),
            milliseconds=milliseconds,
        )


def of_one_block(network: Votes, inputs: Sequence[MatchInput]) -> Iterator[list[MatchInput]]:
    """Cut a batch into runs that search the same poses of the first vote, which go through the network together."""
    for _, run in groupby(inputs, key=lambda each: network.block(each.box, each.centre)):
        yield list(run)


def posterior_axes(network: Votes, local: LocalVote) -> dict[str, np.ndarray]:
    """Return the axes of the first vote and of a local one under their names in `Match`."""
    axes = {
        "x": network.shifts,
        "y": network.shifts,
        "yaw": network.headings,
        "local_shift": local.shifts,
        "local_yaw": local.headings,
    }
    return {name: axis.cpu().numpy().astype(float) for name, axis in axes.items()}


class Packed(NamedTuple):
    """Tensors in one, to come from their device at once."""

    values: Tensor
    shapes: dict[str, torch.Size]

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Packed:
        """Pack tensors, as float32."""
        values = torch.cat([each.float().flatten() for each in tensors.values()])
        return cls(values, {name: each.shape for name, each in tensors.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return them as arrays."""
        ends = np.cumsum([shape.numel() for shape in self.shapes.values()])
        parts = np.split(self.values.cpu().numpy(), ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def peak_similarities(*votes: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cosine similarities (B, votes) at the peaks of votes, given with the log of their sharpness."""
    return torch.stack([logits.flatten(1).amax(1) / sharpness.exp() for logits, sharpness in votes], dim=1)
