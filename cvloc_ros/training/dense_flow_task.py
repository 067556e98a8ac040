"""dense_flow in training: from starts beside the truth, as a vote gives them, or from the prior as in the paper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cvloc_ros.localization.setting import check_settings, setting
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.dense_flow_encoders import VoteEncoders
from cvloc_ros.models.dense_flow_losses import dense_flow_loss
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher
from cvloc_ros.models.matcher import Matcher
from cvloc_ros.models.resnet_trunk import load_resnet18
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.weights import SHIPPED, WeightsError, load_network
from cvloc_ros.training.samples import to_inputs
from cvloc_ros.training.task import Task, beside


@dataclass(frozen=True)
class DenseFlowTaskConfig:
    """Settings of dense_flow's training; where it starts from is ``network.start``."""

    vote_weights: str = setting(
        "", "vote_flow (.safetensors) whose encoders and vote the encoders vote are; empty takes the shipped one"
    )
    trunk_weights: str = setting(
        "",
        "ResNet-18 (.safetensors, torchvision's names) that the encoders resnet start from, but for their third layer; "
        "empty starts anew",
    )
    start_metres: float = setting(
        1.0, "training's starts are uniform within so many metres of the truth, forward and left", limits=(0.0, 20.0)
    )
    start_degrees: float = setting(0.8, "and within so many degrees", limits=(0.0, 10.0))

    def __post_init__(self) -> None:
        """Refuse settings outside their limits."""
        check_settings(self)


class DenseFlowTask(Task):
    """Trains `DenseFlow`; the encoders of a vote, where it has these, stay as they are."""

    method = "dense_flow"
    summary = "dense flow from BEV to satellite by a recurrent decoder, weighted least squares (NeurIPS 2023)"
    terms = ("matching", "confidence", "position", "tilt")
    drawn = terms
    poses = ("start", "final")

    def __init__(self, network: DenseFlowConfig, config: DenseFlowTaskConfig):
        """Build the network, and load what its encoders start from.

        Raises:
            WeightsError: the weights of the vote or of the trunks do not load, or are of another architecture.

        """
        super().__init__()
        self.config = config
        self.network: DenseFlow = DenseFlow(network)
        encoders = self.network.encoders
        if isinstance(encoders, VoteEncoders):
            _load_vote(
                encoders, Path(config.vote_weights) if config.vote_weights else SHIPPED / "vote_flow.safetensors"
            )
        elif config.trunk_weights:
            try:
                for trunk in (encoders.ground_trunk, encoders.satellite_trunk):
                    load_resnet18(trunk, Path(config.trunk_weights))
            except ValueError as error:
                raise WeightsError(f"task.trunk_weights: {error}") from None

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        """What is worth compiling."""
        own = self.network.encoders
        if isinstance(own, VoteEncoders):
            return own.vote.ground, own.vote.satellite
        return own.ground_trunk, own.satellite_trunk

    def forward(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Return the losses; see `Task.forward`."""
        truth, start = batch["truth"], None
        if self.network.config.start == "vote":
            start = beside(truth, batch["jitter"][:, 0], (self.config.start_metres, self.config.start_degrees))
        outputs = self.network(**to_inputs(batch), start=start)
        with torch.autocast(truth.device.type, enabled=False):
            given = {name: batch[name] for name in ("camera", "tilt", "tilt_known")}
            return dense_flow_loss(self.network, outputs, truth, progress=progress, **given)

    def locate(self, network: DenseFlow, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the start and the pose; see `Task.locate`."""
        out = network(**to_inputs(batch))
        return {"start": out.start, "final": out.pose}

    def matcher(self, network: DenseFlow, *, device: str) -> Matcher:
        """Return the matcher that runs a network."""
        return DenseFlowMatcher(network, device=device)


def _load_vote(encoders: VoteEncoders, path: Path) -> None:
    vote = load_network(path)
    if not isinstance(vote, VoteFlow):
        raise WeightsError(f"task.vote_weights: expected a vote_flow, got another method in {path}")
    wanted = encoders.vote.config
    if replace(vote.config, iterations=0) != wanted:
        differing = [n for n, value in vars(wanted).items() if n != "iterations" and getattr(vote.config, n) != value]
        n = differing[0]
        raise WeightsError(
            f"task.vote_weights: expected a vote_flow with {n} of {getattr(wanted, n)}, as the network has it, got "
            f"{getattr(vote.config, n)} in {path}"
        )
    encoders.vote.load_state_dict(vote.state_dict())
