"""The parts of RAFT that dense_flow decodes its flow with (Teed and Deng, ECCV 2020).

Coordinates are (row, column), 0 at the centre of the first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.models.flow import ConvGru, LocalCorrelation


class CorrelationPyramid:
    """Similarities of every BEV cell with places of the satellite, and their averages over 2x2, 4x4, … places.

    Args:
        volumes: of each level, (B, rows * cols, h, w) float32, of each cell with h x w places.
        shape: rows and cols of the BEV.
        radius: places of a look-up to each side, on every level.

    """

    def __init__(self, volumes: list[Tensor], shape: tuple[int, ...], *, radius: int):
        self.volumes, self.shape, self.radius = volumes, shape, radius

    @classmethod
    def everywhere(cls, bev: Tensor, satellite: Tensor, *, levels: int, radius: int) -> CorrelationPyramid:
        """Correlate every cell with the whole patch, as the paper does.

        Args:
            bev: (B, C, rows, cols) descriptors.
            satellite: (B, C, H, W) likewise; a place is a cell of it.
            levels: of the pyramid.
            radius: as for the class.

        """
        queries = bev.flatten(2).transpose(1, 2) / bev.shape[1] ** 0.5
        volumes = []
        for level in range(levels):  # averaging features before the product is averaging the product, for less
            satellite = F.avg_pool2d(satellite, 2) if level else satellite
            # float32: the gather's gradient would go through a float32 copy of the whole volume in every iteration
            volumes.append((queries @ satellite.flatten(2)).float().unflatten(2, satellite.shape[-2:]))
        return cls(volumes, bev.shape[-2:], radius=radius)

    @classmethod
    def around(cls, bev: Tensor, samples: Tensor, *, reach: int, levels: int, radius: int) -> CorrelationPyramid:
        """Correlate every cell with what is near to where a rigid start puts it: a few hundredths of the patch.

        Args:
            bev: (B, C, rows, cols) descriptors.
            samples: (B, C, n, n) of the satellite, half a cell apart in the axes of the started vehicle, reaching
                ``reach`` samples beyond the outermost cells or more (see `half_cell_lattice`).
            reach: places to each side; a cell's own is the middle one, (reach, reach).
            levels: of the pyramid.
            radius: as for the class.

        """
        side = 2 * reach + 1
        volume = LocalCorrelation.apply(samples.float(), bev.float() / bev.shape[1] ** 0.5, side)
        volumes = [volume.flatten(2).transpose(1, 2).unflatten(2, (side, side))]
        while len(volumes) < levels:
            volumes.append(F.avg_pool2d(volumes[-1], 2, ceil_mode=True, count_include_pad=False))
        return cls(volumes, bev.shape[-2:], radius=radius)

    def look_up(self, where: Tensor) -> Tensor:
        """Return the correlations around a place of every BEV cell, zero beyond the volume.

        All (2 radius + 1)^2 places of a window lie equally between cells: one gather serves all of them.

        Args:
            where: (B, 2, rows, cols) float32, row and column of the volume's places.

        Returns:
            (B, levels (2 radius + 1)^2, rows, cols) in the order of levels, rows, columns.

        """
        centres = where.flatten(2).transpose(1, 2)  # (B, N, 2)
        window = torch.arange(-self.radius, self.radius + 2, device=where.device)
        out = []
        for level, volume in enumerate(self.volumes):
            centre = ((centres + 0.5) / 2**level - 0.5).clamp(-1e4, 1e4)  # what has flown away stays an index
            whole = centre.floor()
            row, column = (whole.long()[..., None] + window).unbind(2)  # (B, N, window) each
            rows, columns = volume.shape[-2:]
            inside = ((row >= 0) & (row < rows))[..., None] & ((column >= 0) & (column < columns))[..., None, :]
            index = row.clamp(0, rows - 1)[..., None] * columns + column.clamp(0, columns - 1)[..., None, :]
            values = volume.flatten(2).gather(2, index.flatten(2)).view(index.shape) * inside
            down, right = (centre - whole)[..., None, None].unbind(2)
            values = values[..., :-1, :] * (1 - down) + values[..., 1:, :] * down
            values = values[..., :-1] * (1 - right) + values[..., 1:] * right
            out.append(values.flatten(2))
        return torch.cat(out, dim=2).transpose(1, 2).unflatten(2, self.shape)


class MotionEncoder(nn.Module):
    """Correlations and the flow so far to ``hidden`` channels; the flow itself is the last two of them."""

    def __init__(self, correlations: int, hidden: int):
        super().__init__()
        self.correlation = nn.Sequential(
            nn.Conv2d(correlations, 2 * hidden, 1), nn.ReLU(), nn.Conv2d(2 * hidden, 3 * hidden // 2, 3, padding=1)
        )
        self.flow = nn.Sequential(
            nn.Conv2d(2, hidden, 7, padding=3), nn.ReLU(), nn.Conv2d(hidden, hidden // 2, 3, padding=1)
        )
        self.merge = nn.Conv2d(2 * hidden, hidden - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """Map flow (B, 2, rows, cols) and correlation (B, correlations, rows, cols)."""
        both = torch.cat([F.relu(self.correlation(correlation)), F.relu(self.flow(flow))], dim=1)
        return torch.cat([F.relu(self.merge(both)), flow], dim=1)


class SepConvGru(nn.Module):
    """RAFT's recurrent unit: one with a kernel along a row, then one with a kernel along a column."""

    def __init__(self, hidden: int, inputs: int):
        super().__init__()
        self.along_row = ConvGru(hidden, inputs, (1, 5))
        self.along_column = ConvGru(hidden, inputs, (5, 1))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return the updated hidden state (B, hidden, rows, cols) after the inputs (B, inputs, rows, cols)."""
        return self.along_column(self.along_row(hidden, x), x)


class UpdateBlock(nn.Module):
    """One iteration: correlations and flow to a new recurrent state, and what is read off it."""

    def __init__(self, *, correlations: int, hidden: int, factor: int, confidence: bool):
        super().__init__()
        self.encoder = MotionEncoder(correlations, hidden)
        self.gru = SepConvGru(hidden, 2 * hidden)
        self.flow = nn.Sequential(
            nn.Conv2d(hidden, 2 * hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * hidden, 2, 3, padding=1)
        )
        self.mask = nn.Sequential(
            nn.Conv2d(hidden, 2 * hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * hidden, 9 * factor**2, 1)
        )
        self.confidence = (
            nn.Sequential(
                nn.Conv2d(hidden, 2 * hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(2 * hidden, hidden // 2, 3, padding=1),
                nn.Conv2d(hidden // 2, 1, 3, padding=1),
                nn.Conv2d(1, 1, 1),
            )
            if confidence
            else None
        )

    def forward(self, hidden: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new state (B, hidden, rows, cols) and the change of flow (B, 2, rows, cols), in its unit."""
        motion = self.encoder(flow, correlation)
        hidden = self.gru(hidden, torch.cat([context, motion], dim=1))
        return hidden, self.flow(hidden).float()

    def upsampling(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, 9 factor^2, rows, cols) for `convex_upsample`, small as RAFT's to start with."""
        return 0.25 * self.mask(hidden).float()


def convex_upsample(values: Tensor, logits: Tensor, factor: int) -> Tensor:
    """Upsample by learned convex combinations of the 3x3 cells around each (RAFT, section 3.3).

    Args:
        values: (B, C, rows, cols).
        logits: (B, 9 factor^2, rows, cols).
        factor: fine cells along a cell's side.

    Returns:
        (B, C, factor rows, factor cols), in the unit of the values.

    """
    b, c, rows, cols = values.shape
    weights = logits.view(b, 1, 9, factor, factor, rows, cols).softmax(dim=2)
    around = F.unfold(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3).view(b, c, 9, 1, 1, rows, cols)
    fine = (weights * around).sum(dim=2)  # (B, C, factor, factor, rows, cols)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(b, c, factor * rows, factor * cols)
