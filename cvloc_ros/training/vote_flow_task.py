"""vote_flow in training: votes and flow start near the truth, and the ground is named on the side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cvloc_ros.localization.setting import check_settings, setting
from cvloc_ros.models.losses import total_loss
from cvloc_ros.models.matcher import Matcher
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher
from cvloc_ros.models.vote_network import Votes
from cvloc_ros.training.samples import to_inputs
from cvloc_ros.training.side_task import GroundNaming
from cvloc_ros.training.task import Task, beside

CENTRE_JITTER = (2.4, 1.6)  # metres, degrees: around the truth, where the second vote is held in training
START_JITTER = (1.0, 0.8)  # where the flow starts
CLOSE_JITTER = (1.2, 0.9)  # and where the third vote is held


@dataclass(frozen=True)
class VoteFlowTaskConfig:
    """Settings of vote_flow's training."""

    naming: float = setting(1.0, "weight of the side task: see `side_task`", limits=(0.0, 1e3))
    votes_stay: bool = setting(
        False,
        "train the flow and the third vote alone: encoders and the first two votes stay as they are, so that what is "
        "built on them (dense_flow small) fits, and so do the averages of all norms; nothing is named then",
    )

    def __post_init__(self) -> None:
        """Refuse settings outside their limits."""
        check_settings(self)


class VoteFlowTask(Task):
    """Trains `VoteFlow`."""

    method = "vote_flow"
    summary = "vote over the search box, second around its peaks, flow with the ground's tilt, third, flow, third again"
    terms = ("coarse", "fine", "peak", "close", "choice", "flow", "pose", "tilt", "naming")
    drawn = ("coarse", "fine", "peak", "close", "choice", "flow", "pose")
    poses = ("vote", "final")

    def __init__(self, network: VoteFlowConfig, config: VoteFlowTaskConfig):
        super().__init__()
        self.config = config
        self.network: VoteFlow = VoteFlow(network)
        self.naming = GroundNaming(self.network)
        if config.votes_stay:
            self.naming.requires_grad_(False)
            with torch.device("meta"):  # only the names are wanted
                votes = dict(Votes(network).named_parameters())
            for name in votes:
                self.network.get_parameter(name).requires_grad_(False)

    def train(self, mode: bool = True) -> VoteFlowTask:
        """Put the task into training; with ``votes_stay`` all norms go by their averages, as in what is shipped."""
        super().train(mode and not self.config.votes_stay)
        return self

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        """What is worth compiling."""
        return self.network.ground, self.network.satellite

    def forward(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Return the losses; see `Task.forward`."""
        inputs, truth, jitter = to_inputs(batch), batch["truth"], batch["jitter"]
        near = {
            "centre": beside(truth, jitter[:, 0], CENTRE_JITTER),
            "start": beside(truth, jitter[:, 1], START_JITTER),
            "close": beside(truth, jitter[:, 2], CLOSE_JITTER),
        }
        outputs = self.network(**inputs, **near)
        with torch.autocast(truth.device.type, enabled=False):
            losses = total_loss(
                self.network,
                outputs,
                truth,
                camera=inputs["camera"],
                tilt=batch["tilt"],
                tilt_known=batch["tilt_known"],
            )
            losses["naming"] = self._naming(batch, inputs)
        losses["total"] = losses["total"] + self.config.naming * losses["naming"]
        return losses

    def _naming(self, batch: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        """Return the loss of the side task, zero where it could teach nothing."""
        if self.config.votes_stay:
            return batch["truth"].new_zeros(())
        naming = self.naming.loss(batch["patch_classes"], batch["bev_classes"], inputs["coverage"], inputs["visible"])
        return (naming * batch["classes_known"]).mean()

    def locate(self, network: VoteFlow, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the first two votes' pose, from which the flow starts, and the answer; see `Task.locate`."""
        outputs = network(**to_inputs(batch))
        return {"vote": outputs.starts[0], "final": outputs.voted}

    def matcher(self, network: VoteFlow, *, device: str) -> Matcher:
        """Return the matcher that runs a network."""
        return VoteFlowMatcher(network, device=device)
