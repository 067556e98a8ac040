"""dense_flow in training: from starts beside the truth, as a vote gives them, or from the prior as in the paper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from cvloc_ros.datasets.item import Item
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.setting import check_settings, setting
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.dense_flow_losses import dense_flow_loss
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher, regrid
from cvloc_ros.models.matcher import Matcher
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.weights import SHIPPED, WeightsError, load_network
from cvloc_ros.training.samples import item_sample, to_inputs
from cvloc_ros.training.task import Task, beside


@dataclass(frozen=True)
class DenseFlowTaskConfig:
    """Settings of dense_flow's training; where it starts from is ``network.start``."""

    vote_weights: str = setting(
        "", "vote_flow whose votes validation and calibration start from; empty takes the shipped one, as `cvloc run`"
    )
    start_metres: float = setting(
        1.0, "training's starts are uniform within so many metres of the truth, forward and left", limits=(0.0, 20.0)
    )
    start_degrees: float = setting(0.8, "and within so many degrees", limits=(0.0, 10.0))

    def __post_init__(self) -> None:
        """Refuse settings outside their limits."""
        check_settings(self)


class DenseFlowTask(Task):
    """Trains `DenseFlow`; a vote, where it starts from one, stays as it is."""

    method = "dense_flow"
    summary = "dense flow from BEV to satellite by a recurrent decoder, weighted least squares (NeurIPS 2023)"
    terms = ("matching", "confidence", "position", "vote")
    drawn = terms
    poses = ("start", "final")

    def __init__(self, network: DenseFlowConfig, config: DenseFlowTaskConfig):
        """Build the network, and load the vote where it starts from one.

        Raises:
            WeightsError: the vote's weights do not load.

        """
        super().__init__()
        self.config = config
        self.network: DenseFlow = DenseFlow(network)
        self._vote: tuple[VoteFlow, ...] = ()  # in a tuple, so that it is no part of what is trained
        if network.start == "vote":
            path = Path(config.vote_weights) if config.vote_weights else SHIPPED / "vote_flow.safetensors"
            vote = load_network(path)
            if not isinstance(vote, VoteFlow):
                raise WeightsError(f"task.vote_weights: expected a vote_flow, got another method in {path}")
            self._vote = (vote,)

    def forward(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Return the losses; see `Task.forward`."""
        truth, start = batch["truth"], None
        if self._vote:
            start = beside(truth, batch["jitter"][:, 0], (self.config.start_metres, self.config.start_degrees))
        outputs = self.network(**_inputs(batch), start=start)
        with torch.autocast(truth.device.type, enabled=False):
            return dense_flow_loss(self.network, outputs, truth, progress=progress)

    def prepare(self, item: Item) -> dict[str, np.ndarray]:
        """Return an item's sample with its ``start`` (3,); see `Task.prepare`."""
        sample = super().prepare(item)
        start = np.zeros(3, np.float32)
        for vote in self._vote:
            layout = vote.config
            patch = item.patch
            if patch.grid != layout.patch:
                image = regrid(patch.image, patch.grid, layout.patch)
                coverage = regrid(patch.coverage.astype(np.float32), patch.grid, layout.patch) > 0.5
                patch = Patch(image, coverage, layout.patch, patch.T_map_patch)
            seen = {name: torch.from_numpy(v) for name, v in item_sample(replace(item, patch=patch), layout).items()}
            with torch.inference_mode():
                start = vote(**to_inputs(default_collate([seen]))).voted[0].float().numpy()
        return sample | {"start": start}

    def locate(self, network: DenseFlow, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the start and the pose; see `Task.locate`."""
        return {"start": batch["start"], "final": network(**_inputs(batch), start=batch["start"]).pose}

    def matcher(self, network: DenseFlow, *, device: str) -> Matcher:
        """Return the matcher that runs a network."""
        return DenseFlowMatcher(network, vote=self._vote[0] if self._vote else None, device=device)


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in to_inputs(batch).items() if name != "camera"}
