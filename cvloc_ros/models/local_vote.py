"""A vote around poses: half a cell's shifts and a few headings, for which the map is turned instead of the ground."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from cvloc_ros.geometry import GroundGrid
from cvloc_ros.models.flow import half_cell_lattice


class LocalVote(nn.Module):
    """The axes of a vote around poses, where it looks at the map, and which pose it gives.

    Attributes:
        headings: (H,) radians.
        shifts: (S,) metres, of both axes, the farthest forward and left first.
        lattice: (4 n, n, 2) metres in the vehicle's frame: points half a cell apart, those of one parity after those
            of another. Samples two apart then lie side by side: shifts of half a cell are four votes of whole cells.

    """

    headings: Tensor
    shifts: Tensor
    lattice: Tensor

    def __init__(self, grid: GroundGrid, *, shifts: int, headings: int, step_degrees: float):
        """Vote with the cells of a grid; ``shifts`` (half cells) and ``headings`` are counted to each side."""
        super().__init__()
        points = half_cell_lattice(grid, shifts)
        register_grid(self, "lattice", np.concatenate([points[i::2, j::2] for i in (0, 1) for j in (0, 1)]))
        register_grid(self, "shifts", -grid.cell / 2 * np.arange(-shifts, shifts + 1))
        register_grid(self, "headings", math.radians(step_degrees) * np.arange(-headings, headings + 1))

    def poses(self, centres: Tensor) -> Tensor:
        """Return the poses (B, K H, 3) from which the map is looked at for centres (B, K, 3); metres and radians."""
        poses = centres.repeat_interleave(len(self.headings), 1)
        poses[..., 2] += self.headings.repeat(centres.shape[1])
        return poses

    def phases(self, sampled: Tensor, count: int) -> Tensor:
        """Return what was sampled at the lattice, (B, K H, C, 4 n, n), as maps (B K, 4 H, C, n, n) to slide over."""
        n = self.lattice.shape[1]
        maps = sampled.unflatten(-2, (4, n)).transpose(2, 3)
        return maps.reshape(len(sampled) * count, 4 * len(self.headings), -1, n, n)

    def join(self, score: Tensor) -> Tensor:
        """Put the four phases (B, K, 4 H, 1, steps, steps) of a vote together: (B, K, H, S, S)."""
        b, count, *_, steps = score.shape
        score = score.reshape(b, count, -1, 2, 2, steps, steps).permute(0, 1, 2, 5, 3, 6, 4)
        wanted = len(self.shifts)
        return score.flatten(5, 6).flatten(3, 4)[..., :wanted, :wanted]

    def mean(self, logits: Tensor, centre: Tensor) -> Tensor:
        """Return the posterior's mean (B, 3): where two headings or places tie, it lies between them.

        Args:
            logits: (B, H, S, S) around ``centre``.
            centre: (B, 3) x, y (m), yaw (rad).

        """
        p = logits.flatten(1).softmax(1).view_as(logits)
        yaw = (p.sum((2, 3)) * self.headings).sum(1)
        dx = (p.sum((1, 3)) * self.shifts).sum(1)
        dy = (p.sum((1, 2)) * self.shifts).sum(1)
        along = centre[:, 2] + yaw  # shifts were counted along the axes of each turned vehicle
        c, s = torch.cos(along), torch.sin(along)
        return torch.stack([centre[:, 0] + c * dx - s * dy, centre[:, 1] + s * dx + c * dy, along], dim=-1)


def register_grid(module: nn.Module, name: str, value: np.ndarray) -> None:
    """Give a module a constant that goes where it goes and is not saved with its weights."""
    module.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)
