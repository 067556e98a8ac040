"""dense_flow in training: from starts beside the truth, as a vote gives them, or from the prior as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvloc_ros.localization.setting import check_settings, setting
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.dense_flow_encoders import VoteEncoders
from cvloc_ros.models.dense_flow_losses import dense_flow_loss
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher
from cvloc_ros.models.matcher import Matcher
from cvloc_ros.models.pretrained import load_raft, load_resnet18
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.weights import SHIPPED, WeightsError, load_network, provenance
from cvloc_ros.training.samples import to_inputs
from cvloc_ros.training.settings import ConfigError
from cvloc_ros.training.task import Task, start_beside

# of `VoteFlowConfig`: of no matter for the weights of two votes
_OTHER_PARTS = {"patch_size", "window", "iterations", "flow_hidden", "tilt_degrees", "peaks", "candidates"}
_OTHER_PARTS |= {"fine_shifts", "fine_headings", "fine_heading_step_degrees"}
_OTHER_PARTS |= {name for name in vars(VoteFlowConfig()) if name.startswith("close_")}


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
    flow_weights: str = setting(
        "",
        "RAFT (.safetensors, names of torchvision's raft_large) whose recurrent part the flow starts from, as its "
        "authors start from theirs; empty starts anew",
    )
    start_metres: float = setting(
        2.5, "training's starts are up to so many metres from the truth, forward and left", limits=(0.0, 20.0)
    )
    start_degrees: float = setting(3.0, "and up to so many degrees, small errors more often", limits=(0.0, 10.0))

    def __post_init__(self) -> None:
        """Refuse settings outside their limits."""
        check_settings(self)

    @property
    def weights_of_others(self) -> tuple[str, ...]:
        """Files that the network starts from and this package has not trained: who knows what they have seen."""
        return tuple(path for path in (self.trunk_weights, self.flow_weights) if path)


class DenseFlowTask(Task):
    """Trains `DenseFlow`; the encoders of a vote, where it has these, stay as they are."""

    method = "dense_flow"
    summary = "dense flow from BEV to satellite by a recurrent decoder, weighted least squares (NeurIPS 2023)"
    terms = ("matching", "confidence", "position", "tilt")
    drawn = terms
    poses = ("start", "final")

    def __init__(self, network: DenseFlowConfig, config: DenseFlowTaskConfig):
        """Build the network.

        Raises:
            ConfigError: weights for other encoders than the network's.

        """
        super().__init__()
        self.config = config
        self.network: DenseFlow = DenseFlow(network)
        for name, wanted in (("vote_weights", "vote"), ("trunk_weights", "resnet")):
            if getattr(config, name) and network.encoders != wanted:
                raise ConfigError(f"task.{name}: expected the encoders {wanted} for it, got {network.encoders}")

    def begin(self) -> None:
        """Load the vote whose encoders the network has, or what its trunks start from; and what its flow starts from.

        Raises:
            WeightsError: they do not load, or are of another architecture.

        """
        config, encoders = self.config, self.network.encoders
        if isinstance(encoders, VoteEncoders):
            path = Path(config.vote_weights) if config.vote_weights else SHIPPED / "vote_flow.safetensors"
            _load_vote(encoders, path)
            self.built_on = provenance(path)
        elif config.trunk_weights:
            for trunk in (encoders.ground_trunk, encoders.satellite_trunk):
                _load("trunk_weights", load_resnet18, trunk, config.trunk_weights)
        if config.flow_weights:
            _load("flow_weights", load_raft, self.network.update, config.flow_weights)

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
            start = start_beside(truth, batch["jitter"][:, 0], (self.config.start_metres, self.config.start_degrees))
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


def _load(name: str, load: Callable[[Any, Path], None], part: nn.Module, path: str) -> None:
    """Load weights of others into a part, as a setting of this name tells.

    Raises:
        WeightsError: they do not fit.

    """
    try:
        load(part, Path(path))
    except ValueError as error:
        raise WeightsError(f"task.{name}: {error}") from None


def _load_vote(encoders: VoteEncoders, path: Path) -> None:
    vote = load_network(path)
    if not isinstance(vote, VoteFlow):
        raise WeightsError(f"task.vote_weights: expected a vote_flow, got another method in {path}")
    wanted = encoders.vote.config
    for name in vars(wanted).keys() - _OTHER_PARTS:
        if (value := getattr(vote.config, name)) != getattr(wanted, name):
            raise WeightsError(
                f"task.vote_weights: expected a vote_flow with {name} of {getattr(wanted, name)}, as the network's, "
                f"got {value} in {path}"
            )
    state = vote.state_dict()
    encoders.vote.load_state_dict({name: state[name] for name in encoders.vote.state_dict()})
