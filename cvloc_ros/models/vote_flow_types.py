"""What `VoteFlow` takes and gives: what it knows of ground and patch, which poses it searches, what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

Block = tuple[slice, slice, slice]
"""Headings, shifts forward and shifts left of the first vote."""


class BoxMask(NamedTuple):
    """A block as a tensor: all poses are voted on, and those outside count for nothing. The work is always the same.

    Attributes:
        searched: (headings, shifts, shifts) bool.
        peaks: around how many peaks the second vote is held.

    """

    searched: Tensor
    peaks: int


@dataclass
class VoteFlowOutput:
    """What the network says about a batch; shapes as in `VoteFlow.forward`.

    Attributes:
        coarse_logits: (B, headings, shifts, shifts) over the search box.
        peak_logits: (B, K) the first two votes together at each peak of the first around which the second was held.
        peak_cells: (B, K, headings, shifts, shifts) bool, the cells of the first vote that belong to each.
        best: (B,) which of the K peaks won; the first where training has given it.
        candidates: (B, K, 3) where the second vote puts the pose at each.
        box_logits: (B, headings, shifts, shifts) over the search box, after the later votes have had their say.
        fine_logits: (B, headings, shifts, shifts) around ``fine_centre``, in the vehicle frame of that pose.
        fine_centre: (B, 3) the peak that won.
        voted: (B, 3) pose that the votes give, the last that was held: the answer.
        choice_logits: (B, L) all three votes together at each candidate that the third was held at.
        close_logits: (B, headings, shifts, shifts) the third vote around ``close_centre``, the candidate that won.
        close_centre: (B, 3).
        solved: (B,) whether the last least squares was well posed; as long as there was none, it counts as such.
        starts: per iteration, of one flow after the other, (B, 3) pose from which the flow was measured.
        points: per iteration, (B, rows, cols, 2) where the cells were taken to be, metres in the vehicle frame: not
            quite where level ground would have them.
        flows: per iteration, (B, 2, rows, cols) metres in the vehicle frame of its start.
        scales: per iteration, (B, rows, cols) metres.
        weights: per iteration, (B, rows, cols) in [0, 1].
        tilts: per iteration, (B, 2) slope of the ground, forward and left, after least squares.
        poses: per iteration, (B, 3) pose after least squares; where the last lies the third vote is held again.

    """

    coarse_logits: Tensor
    peak_logits: Tensor
    peak_cells: Tensor
    best: Tensor
    candidates: Tensor
    box_logits: Tensor
    fine_logits: Tensor
    fine_centre: Tensor
    voted: Tensor
    solved: Tensor
    choice_logits: Tensor | None = None
    close_logits: Tensor | None = None
    close_centre: Tensor | None = None
    starts: list[Tensor] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    flows: list[Tensor] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    tilts: list[Tensor] = field(default_factory=list)
    poses: list[Tensor] = field(default_factory=list)


class GroundFeatures(NamedTuple):
    """What the network knows of the ground that a camera sees, on the BEV's cells.

    Attributes:
        coarse: (B, Dc, rows, cols) unit descriptors for the first vote.
        fine: (B, Df, rows, cols) likewise for the second vote and the flow.
        coarse_weight: (B, 1, rows, cols) in [0, 1]: how much the first vote counts a cell; zero where unseen.
        fine_weight: likewise of the second vote.
        hidden: (B, hidden, rows, cols) what the descriptors were read off.
        close: (B, Dc, rows, cols) unit descriptors of the near ground for the third vote, and ``close_weight``; None
            where there is no third vote.
        close_weight: see ``close``.

    """

    coarse: Tensor
    fine: Tensor
    coarse_weight: Tensor
    fine_weight: Tensor
    hidden: Tensor
    close: Tensor | None = None
    close_weight: Tensor | None = None


class PatchFeatures(NamedTuple):
    """What the network knows of a satellite patch: it serves every image that is searched on that patch.

    Attributes:
        coarse: (B, Dc + 1, S/4, S/4) unit descriptors times the share of imagery, which comes last, in [0, 1].
        fine: (B, Df + 1, S/2, S/2) likewise.
        close: (B, Dc + 1, S, S) likewise; None where there is no third vote.

    """

    coarse: Tensor
    fine: Tensor
    close: Tensor | None = None
