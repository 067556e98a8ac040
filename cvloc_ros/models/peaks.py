"""Peaks of the vote over the search box: where a second look is worth it, and what that look says of the vote.

Votes are (B, headings, shifts, shifts); a cell of one has an index (heading, shift forward, shift left).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_NOTHING = float("-inf")
# Headings and shifts to each side of a peak that belong to it, and to each side of a pose that training gives: no peak
# that a second look from there could see may pass for another place.
_OWN, _IN_SIGHT = (2, 2), (2, 4)


class Peaks(NamedTuple):
    """The highest peaks of a batch of votes, none of which is beside another.

    Attributes:
        poses: (B, K, 3) x, y (m), yaw (rad).
        heights: (B, K) the vote there.
        cells: (B, K, headings, shifts, shifts) bool, which cells belong to each.

    """

    poses: Tensor
    heights: Tensor
    cells: Tensor


def find_peaks(logits: Tensor, headings: Tensor, shifts: Tensor, *, count: int, given: Tensor | None = None) -> Peaks:
    """Return the ``count`` highest peaks of votes.

    Args:
        logits: (B, headings, shifts, shifts).
        headings: radians.
        shifts: metres, of both axes.
        count: K.
        given: (B, 3) poses that take the place of the first, however high they are.

    """
    poses, heights, cells = [], [], []
    for k in range(count):
        if k == 0 and given is not None:
            pose, index, reach = given, _nearest_cell(given, headings, shifts), _IN_SIGHT
        else:
            index, reach = highest_cell(logits), _OWN
            pose = torch.stack([shifts[index[:, 1]], shifts[index[:, 2]], headings[index[:, 0]]], dim=1)
        own = _cells_near(index, logits.shape, *reach)
        poses.append(pose)
        heights.append(logits.masked_fill(~own, _NOTHING).flatten(1).amax(1))
        cells.append(own)
        logits = logits.masked_fill(own, _NOTHING)
    return Peaks(torch.stack(poses, 1), torch.stack(heights, 1), torch.stack(cells, 1))


def heard(logits: Tensor, evidence: Tensor, cells: Tensor) -> Tensor:
    """Return votes after the ``evidence`` (B, K) of a closer look at their peaks: log-likelihoods of those places.

    Nobody has looked again at the other places: they count like the worst that was looked at.

    Args:
        logits: (B, headings, shifts, shifts).
        evidence: (B, K).
        cells: (B, K, headings, shifts, shifts) bool, which belong to each peak.

    """
    count = evidence.shape[1]
    if count == 1:
        return logits  # nothing to compare with
    less = (evidence - evidence.amax(1, keepdim=True))[:, :, None, None, None]
    change = less.amin(1)
    for k in reversed(range(count)):
        change = torch.where(cells[:, k], less[:, k], change)
    return logits + change


def highest_cell(logits: Tensor) -> Tensor:
    """Return the index (B, 3) of the highest cell of each vote."""
    rows, cols = logits.shape[2:]
    at = logits.flatten(1).argmax(1)
    return torch.stack([at // (rows * cols), at // cols % rows, at % cols], dim=1)


def _cells_near(index: Tensor, shape: torch.Size, headings: int, shifts: int) -> Tensor:
    """Return which cells of votes of a ``shape`` are so many headings and shifts, or fewer, from an index (B, 3)."""
    axes = [torch.arange(size, device=index.device) for size in shape[1:]]
    reach = (headings, shifts, shifts)
    h, x, y = ((a - i[:, None]).abs() <= r for a, i, r in zip(axes, index.unbind(1), reach, strict=True))
    return h[:, :, None, None] & x[:, None, :, None] & y[:, None, None, :]


def _nearest_cell(pose: Tensor, headings: Tensor, shifts: Tensor) -> Tensor:
    axes = ((headings, pose[:, 2:]), (shifts, pose[:, :1]), (shifts, pose[:, 1:2]))
    return torch.stack([(values - at).abs().argmin(1) for values, at in axes], dim=1)
