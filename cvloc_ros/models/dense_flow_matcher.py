"""`DenseFlow` behind the `Matcher` interface: numpy in, numpy out, on the CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
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
from cvloc_ros.models.vote_flow_matcher import GPU_BATCH, Packed, of_one_block, peak_similarities, posterior_axes
from cvloc_ros.models.vote_flow_types import Block, BoxMask, VoteFlowOutput
from cvloc_ros.models.vote_network import Votes

_SCALES = (0.1, 20.0)  # m; no match is trusted to better than the first, none is said to be worse than the second


class DenseFlowMatcher:
    """Runs the network.

    Args:
        network: trained.
        device: to run it on.
        fast: take one image at a time, with `FastVotes`, the flow in half precision where the processor has it.

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
                encoders.vote = FastVotes(encoders.vote)  # not halved: another peak may win, and the flow stays near
        record = fast and self.device.type == "cuda"
        if record:
            self.network.join_kernels()
        self.patch_grid: GroundGrid = c.patch
        self.search_box = (c.box_metres, float(np.radians(c.box_degrees)))
        self.batch_size = GPU_BATCH if self.device.type == "cuda" and not fast else 1
        encoders = self.network.encoders
        self._vote: Votes | None = None
        if c.start == "vote" and isinstance(encoders, VoteEncoders):
            self._vote = encoders.vote
        self.locate = Recorder(self._find, record=record, choose=True)
        self._view = View(c, self.device, record=record)
        self._seen: tuple[Tensor, list[Tensor]] | None = None
        self._everywhere, self._nearby = PoseGrid.of_box(self.network), PoseGrid.around_a_pose(self.network)
        self._box = self._everywhere.cpu()
        self._axes = self._posterior_axes()
        encode = Recorder(lambda *patch: self.network.encode_satellite(*patch), record=record, choose=True)
        self._patches = PatchView(c, encode, self.device, beside=fast and self.device.type == "cpu", record=record)

    @torch.inference_mode()
    def match_batch(self, inputs: Sequence[MatchInput]) -> list[Match]:
        """Match images; see `Matcher.match_batch`. What starts from the identity, starts from the box's centre."""
        if self._fast and len(inputs) > 1:
            return [match for each in inputs for match in self.match_batch([each])]
        if (vote := self._vote) is None:
            centres = [each.centre for each in inputs]
            return self._match(inputs, start=torch.tensor(centres, dtype=torch.float32, device=self.device))
        return [
            match
            for group in of_one_block(vote, inputs)
            for match in self._match(group, block=vote.block(group[0].box, group[0].centre))
        ]

    def expect(self, patch: np.ndarray, coverage: np.ndarray) -> Future | None:
        """Begin to describe a patch; see `Matcher.expect`."""
        return self._patches.expect(patch, coverage)

    def _posterior_axes(self) -> dict[str, np.ndarray]:
        if self._vote is not None:
            return posterior_axes(self._vote, self._vote.second)
        yaw, shifts = self._everywhere.axes()
        local_yaw, local_shift = self._nearby.axes()
        return {"x": shifts, "y": shifts, "yaw": yaw, "local_shift": local_shift, "local_yaw": local_yaw}

    def _match(
        self, inputs: Sequence[MatchInput], *, start: Tensor | None = None, block: Block | BoxMask | None = None
    ) -> list[Match]:
        """Match images, from a start, or from a vote over a block of its poses."""
        began = time.perf_counter()
        patch = self._patches.look([(each.patch, each.coverage) for each in inputs])
        image, *camera = self._view.look(inputs)
        inside = None
        if self._vote is None:
            camera += self._cells_of(camera[1])
            inside = torch.stack([self._box.inside(each.box, each.centre) for each in inputs]).to(self.device)
        found = [each.arrays() for each in self.locate(patch, image, start, inside, block, fixed=tuple(camera))]
        spent = {"prepare": self._view.seconds, "encode": self._patches.seconds}
        spent["match"] = time.perf_counter() - began - sum(spent.values())
        milliseconds = {stage: 1e3 * seconds / len(inputs) for stage, seconds in spent.items()}
        return [self._answer(each, milliseconds) for each in found]

    def _cells_of(self, visible: Tensor) -> list[Tensor]:
        """Return the cells that each camera sees; the same objects for as long as ``visible`` is the same."""
        if self._seen is None or self._seen[0] is not visible:
            seen = self.network.encoders.seen(visible)
            self._seen = visible, [each.flatten().nonzero()[:, 0] for each in seen]
        return self._seen[1]

    def _find(
        self,
        described: Patch | Future,
        image: Tensor,
        start: Tensor | None,
        inside: Tensor | None,
        block: Block | BoxMask | None,
        pixels: Tensor,
        visible: Tensor,
        camera: Tensor,
        *cells: Tensor,
    ) -> list[Packed]:
        """Return what the answers of a batch are made of."""
        ground = self.network.describe(image, pixels, visible)
        patch: Patch = self._patches.arrived(described)
        out = self.network.locate(patch, ground, camera, start=start, block=block)
        found = []
        for k, one in enumerate(_each(out, len(image))):
            if inside is None:
                posterior = self._voted(one)
            else:
                posterior = self._posterior(one, patch.coverage[k : k + 1], inside[k], cells[k])
            found.append(Packed.of(self._matches(one) | posterior))
        return found

    def _matches(self, out: DenseFlowOutput) -> dict[str, Tensor]:
        """Return the pose, and the matches of one image's cells: the means over their pixels."""
        per_pixel = [out.moved[-1], out.ground, out.weights[..., None], out.confidences[-1][..., None]]
        means = F.avg_pool2d(torch.cat(per_pixel, dim=-1).permute(0, 3, 1, 2), self.network.config.stride)
        moved, ground, weight, confidence = means[0].permute(1, 2, 0).split((2, 2, 1, 1), dim=-1)
        return {
            "pose": out.pose[0],
            "solved": out.solved,
            "moved": moved,
            "ground": ground,
            "weight": weight[..., 0],
            "confidence": confidence[..., 0],
        }

    def _answer(self, found: dict[str, np.ndarray], milliseconds: dict[str, float]) -> Match:
        """Return what was found of one image."""
        found = {name: value.astype(float) for name, value in found.items()}
        used = found["weight"] > 0
        base, moved, weights = (found[name][used] for name in ("ground", "moved", "weight"))
        return Match(
            pose=found["pose"],
            solved=bool(found["solved"]),
            base=base,
            patch=moved,
            weights=weights,
            scales=self._scales(base, moved, weights, found["confidence"][used], found["pose"]),
            probability=found["probability"],
            local=found["local"],
            **self._axes,
            similarity=tuple(found["similarity"].tolist()),
            milliseconds=milliseconds,
        )

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

    def _voted(self, out: DenseFlowOutput) -> dict[str, Tensor]:
        """Return the posteriors of the vote that gave the start."""
        vote, votes = self._vote, out.votes
        assert vote and votes
        at_peaks = peak_similarities(
            (votes.coarse_logits, vote.coarse_sharpness), (votes.fine_logits, vote.fine_sharpness)
        )
        return _posterior(votes.box_logits[0], votes.fine_logits[0]) | {"similarity": at_peaks[0]}

    def _posterior(self, out: DenseFlowOutput, coverage: Tensor, inside: Tensor, cells: Tensor) -> dict[str, Tensor]:
        """Return the posteriors of what has no vote."""
        poses = self._everywhere.poses(torch.zeros_like(out.pose[0]))
        nothing = torch.full(inside.shape, float("-inf"), device=self.device)
        if self.locate.record:  # the same work whatever the box
            score = torch.where(inside, pose_scores(self.network, out, coverage, poses, cells), nothing)
        else:
            score = nothing.masked_scatter(inside, pose_scores(self.network, out, coverage, poses[inside], cells))
        local = pose_scores(self.network, out, coverage, self._nearby.poses(out.pose[0]), cells)
        sharpness = self.network.config.posterior_sharpness
        return _posterior(score * sharpness, local * sharpness) | {
            "similarity": torch.stack([score.max(), local.max()])
        }


def _posterior(logits: Tensor, local_logits: Tensor) -> dict[str, Tensor]:
    """Return the posteriors of one image, from logits (headings, shifts, shifts)."""
    return {
        name: x.float().flatten().softmax(0).view_as(x)
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
