"""What the training loop asks of a method: its network, its losses, its poses, its matcher."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from cvloc_ros.models.matcher import Matcher
from cvloc_ros.training.samples import Layout


class Task(nn.Module, ABC):
    """A method in training. Its parameters are those of the network, and of heads that only training needs.

    Losses are means over samples, so that a step may be split over processes and in time.

    Attributes:
        method: name of the matcher.
        summary: what it is, in a line of the weights' card.
        network: what is trained, averaged and shipped; its ``config`` says what it wants to see.
        terms: names of the losses, without ``total``.
        drawn: those of them that the training curve shows.
        poses: names of what `locate` returns; the last is the answer.
        built_on: where trained weights come from that are part of the network and stay as they are; None without.

    """

    method: str
    summary: str
    network: nn.Module
    terms: tuple[str, ...]
    drawn: tuple[str, ...]
    poses: tuple[str, ...]
    built_on: dict[str, Any] | None = None

    def begin(self) -> None:
        """Load the trained parts that the network begins with, and say in ``built_on`` which of them stays.

        A training that goes on has them in its checkpoint, one that starts from weights in these.

        Raises:
            WeightsError: they do not load, or do not fit.

        """

    @property
    def layout(self) -> Layout:
        """What the network wants to see."""
        return self.network.config  # type: ignore[return-value]

    @property
    @abstractmethod
    def encoders(self) -> tuple[nn.Module, ...]:
        """The parts of the network that take whole images, and are worth compiling."""

    @abstractmethod
    def forward(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Return the losses, scalars under the names of ``terms``, and their ``total``.

        Args:
            batch: of samples as `make_sample` gives them.
            progress: share of the training that is done, for schedules.

        """

    @abstractmethod
    def locate(self, network: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return poses (B, 3) under the names of ``poses``, x, y (m), yaw (rad) in the patch, without the truth.

        Args:
            network: like ``self.network``, with weights of its own.
            batch: of samples as `item_sample` gives them.

        """

    @abstractmethod
    def matcher(self, network: Any, *, device: str) -> Matcher:
        """Return the matcher that runs a network."""


def beside(truth: Tensor, jitter: Tensor, reach: tuple[float, float]) -> Tensor:
    """Return poses (B, 3) around the truth, where a vote is held or the flow starts.

    Args:
        truth: (B, 3).
        jitter: (B, 3) in [-1, 1].
        reach: metres and degrees that a jitter of 1 stands for.

    """
    return truth + jitter * jitter.new_tensor([reach[0], reach[0], math.radians(reach[1])])


def start_beside(truth: Tensor, jitter: Tensor, reach: tuple[float, float]) -> Tensor:
    """Return poses (B, 3) to start from, along each axis more often near the truth than far from it; see `beside`.

    Of uniform jitter half is within a quarter of the reach, and a quarter beyond 0.56 of it.
    """
    return beside(truth, jitter * jitter.abs(), reach)
