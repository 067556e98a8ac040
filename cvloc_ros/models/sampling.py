"""Reading feature maps between their cells, and sliding kernels over them, by index and matrix product.

For one map at a time, without gradients: what `grid_sample` and `conv2d` give, faster where maps are channels last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bilinear(row: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the four cells of a plane (rows, cols) that a place lies between, and their shares of it.

    Args:
        row: (...) fractional; 0 is the centre of the first cell.
        col: (...) likewise.
        size: of the plane, at least 2 x 2.

    Returns:
        (..., 4) flat indices int32, and (..., 4) shares, 0 where the place is more than a cell away. Outside of the
        plane there is nothing: shares add up to less than 1 within half a cell of its border.

    """
    top, rows = _linear(row, size[0])
    left, cols = _linear(col, size[1])
    first = (top * size[1] + left).int()
    cells = torch.stack([first, first + 1, first + size[1], first + size[1] + 1])
    shares = (rows[:, None] * cols).flatten(0, 1)
    # the four are put side by side at the very end: loops over only four numbers are slow
    return cells.movedim(0, -1).contiguous(), shares.movedim(0, -1).contiguous()


def _linear(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the first of the two cells of a line that a place lies between, and the shares (2, ...) of both."""
    first = at.floor().clamp_(0, size - 2)
    beyond = at - first  # in [0, 1), but for places outside, which are nearer to one cell than to the other or to none
    return first, 1 - torch.stack([beyond, beyond - 1]).abs_().clamp_max_(1)


def sample(features: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """Sample features (1, C, rows, cols), best channels last, at places (..., 4) of `bilinear`: (..., C)."""
    rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    found = F.embedding_bag(cells.reshape(-1, 4), rows, per_sample_weights=shares.reshape(-1, 4), mode="sum")
    return found.view(*cells.shape[:-1], -1)


def correlate(maps: Tensor, kernel: Tensor) -> Tensor:
    """Slide a kernel over maps that are little larger than itself: one matrix product.

    Args:
        maps: (M, H, W, C).
        kernel: (h, w, C).

    Returns:
        (M, H - h + 1, W - w + 1).

    """
    m, height, width, channels = maps.shape
    h, w, _ = kernel.shape
    rows, cols = height - h + 1, width - w + 1
    # One long line: the kernel between zeros. A window on it as long as a map, and a cell or a row earlier, holds the
    # kernel a cell or a row later: all of them are the kernel at each place of a map, from the last to the first. What
    # comes out is turned round.
    line = F.pad(kernel, (0, 0, 0, width - w)).flatten()
    before, row = ((rows - 1) * width + cols - 1) * channels, width * channels
    line = F.pad(line, (before, before + (height - h) * row))
    shifted = line.as_strided((rows, cols, height * row), (row, channels, 1)).reshape(rows * cols, -1)
    return (shifted @ maps.reshape(m, -1).T).flip(0).T.reshape(m, rows, cols)
