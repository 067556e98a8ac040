"""The refinement: a recurrent network moves every ground cell a little, and the cells vote for a rigid motion."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.geometry import GroundGrid
from cvloc_ros.models.encoder import conv_bn

MIN_SCALE = 0.1  # m; a match is never trusted to better than this


class ConvGru(nn.Module):
    """A convolutional gated recurrent unit: hidden (B, H, …) and input (B, I, …) to the new hidden."""

    def __init__(self, hidden: int, inputs: int, kernel: tuple[int, int] = (3, 3)):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.gates = nn.Conv2d(hidden + inputs, 2 * hidden, kernel, padding=padding)
        self.candidate = nn.Conv2d(hidden + inputs, hidden, kernel, padding=padding)

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return the updated hidden state."""
        update, reset = torch.sigmoid(self.gates(torch.cat([hidden, x], dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat([reset * hidden, x], dim=1)))
        return (1 - update) * hidden + update * candidate


class FlowUpdate(nn.Module):
    """One step: local correlations to a residual flow and a scale for every BEV cell."""

    def __init__(self, window: int, bev_hidden: int, hidden: int):
        super().__init__()
        self.start = nn.Conv2d(bev_hidden, 2 * hidden, 1)
        self.encode = conv_bn(window * window + 1, hidden)
        self.gru = ConvGru(hidden, 2 * hidden)
        self.head = nn.Sequential(conv_bn(hidden, hidden), nn.Conv2d(hidden, 3, 1))

    def initial(self, bev_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden state and the context that the BEV's features (B, bev_hidden, rows, cols) start from."""
        hidden, context = self.start(bev_features).chunk(2, dim=1)
        return torch.tanh(hidden), F.relu(context)

    def forward(
        self, hidden: Tensor, context: Tensor, correlation: Tensor, coverage: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step.

        Args:
            hidden: (B, hidden, rows, cols).
            context: (B, hidden, rows, cols).
            correlation: (B, window^2, rows, cols) cosine similarities around every cell.
            coverage: (B, 1, rows, cols); imagery lies under the cell.

        Returns:
            The new hidden state, the flow (B, 2, rows, cols) in metres (x forward, y left), and its scale
            (B, rows, cols) in metres: the mean absolute error expected of either component.

        """
        encoded = self.encode(torch.cat([correlation, coverage.to(correlation.dtype)], dim=1))
        hidden = self.gru(hidden, torch.cat([encoded, context], dim=1))
        out = self.head(hidden).float()
        return hidden, out[:, :2], MIN_SCALE + F.softplus(out[:, 2])


def half_cell_lattice(grid: GroundGrid, margin: int) -> np.ndarray:
    """Return points half a cell apart that reach ``margin`` points beyond a grid's outermost cell centres.

    Their number to each side is even, so that they fall into two equal phases: (n rows, n cols, 2) metres.
    """
    first = grid.to_metres(np.array([0, 0])) + margin * grid.cell / 2
    sides = [2 * (cells + margin) for cells in (grid.rows, grid.cols)]
    axes = [start - grid.cell / 2 * np.arange(n) for start, n in zip(first, sides, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


class LocalCorrelation(torch.autograd.Function):
    """Similarity of each cell with a window of samples around it, ``(features, descriptors, window)``.

    features (B, C, 2 rows + window - 2, 2 cols + window - 2), or larger, are samples at half a cell's spacing,
    descriptors (B, C, rows, cols); what comes out is (B, window^2, rows, cols). Written as one product a window place,
    both ways: unfolding the windows would copy every sample six times, and folding them again costs more than all else.
    """

    @staticmethod
    def forward(ctx, features: Tensor, descriptors: Tensor, window: int) -> Tensor:
        """Correlate."""
        # cells are two samples apart: of one parity, the samples that meet them lie side by side
        phases = [features[:, :, i::2, j::2].contiguous() for i in (0, 1) for j in (0, 1)]
        ctx.save_for_backward(descriptors, *phases)
        ctx.window, ctx.size = window, features.shape
        places = _places(phases, window, *descriptors.shape[-2:])
        return torch.stack([(near * descriptors).sum(1) for near in places], dim=1)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        """Return the gradients of features and descriptors."""
        descriptors, *phases = ctx.saved_tensors
        rows, cols = descriptors.shape[-2:]
        d_descriptors, d_features = torch.zeros_like(descriptors), None
        for k, near in enumerate(_places(phases, ctx.window, rows, cols)):
            d_descriptors.addcmul_(near, grad[:, k : k + 1])
        if ctx.needs_input_grad[0]:
            d_phases = [torch.zeros_like(phase) for phase in phases]
            for k, d_near in enumerate(_places(d_phases, ctx.window, rows, cols)):
                d_near.addcmul_(descriptors, grad[:, k : k + 1])
            d_features = grad.new_empty(ctx.size)
            for k, d_phase in enumerate(d_phases):
                d_features[:, :, k // 2 :: 2, k % 2 :: 2] = d_phase
        return d_features, d_descriptors, None


def _places(phases: list[Tensor], window: int, rows: int, cols: int) -> list[Tensor]:
    """Return for every place of the window the samples (B, C, rows, cols) that the cells meet there, as views."""
    return [
        phases[2 * (i % 2) + j % 2][:, :, i // 2 : i // 2 + rows, j // 2 : j // 2 + cols]
        for i in range(window)
        for j in range(window)
    ]
