"""The vote: correlation of BEV descriptors with satellite descriptors over a box of poses.

A vote's score at a pose is the weighted mean of the descriptors' cosine similarities over the BEV cells that fall
on imagery, so that a patch with a missing corner neither helps nor hurts the poses that reach into it. The mean of a
few cells is high or low by chance, though: where most of the view has no imagery, the score is drawn to the average.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ENOUGH = 0.7  # share of the weight on imagery from which on a score is taken as it is


class Correlate(torch.autograd.Function):
    """Slide kernels over maps: ``out[m, k, i, j] = sum_{c, u, v} maps[m, c, i + u, j + v] kernels[k, c, u, v]``.

    The gradients are written as forward convolutions, which CPUs run several times faster than the convolution
    backward of kernels this large.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, kernels: Tensor) -> Tensor:
        """Correlate maps (B, M, C, H, W) with kernels (B, K, C, h, w) to (B, M, K, H - h + 1, W - w + 1)."""
        ctx.save_for_backward(maps, kernels)
        return torch.stack([F.conv2d(m, k) for m, k in zip(maps, kernels, strict=True)])

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        """Return the gradients of both inputs."""
        maps, kernels = ctx.saved_tensors
        d_maps = d_kernels = None
        grad = grad.to(maps.dtype)
        if ctx.needs_input_grad[0]:
            d_maps = torch.stack([_map_gradient(k, g) for k, g in zip(kernels, grad, strict=True)])
        if ctx.needs_input_grad[1]:
            pairs = zip(maps, grad, strict=True)
            d_kernels = torch.stack([F.conv2d(m.transpose(0, 1), g.transpose(0, 1)).transpose(0, 1) for m, g in pairs])
        return d_maps, d_kernels


def _map_gradient(kernels: Tensor, grad: Tensor) -> Tensor:
    """Convolve fully kernels (K, C, h, w) with gradients (M, K, i, j): (M, C, h + i - 1, w + j - 1).

    Whichever of the two is smaller slides over the other.
    """
    (h, w), (i, j) = kernels.shape[-2:], grad.shape[-2:]
    if i * j < h * w:
        padded = F.pad(kernels.transpose(0, 1), (j - 1, j - 1, i - 1, i - 1))
        return F.conv2d(padded, grad.flip(-1, -2)).transpose(0, 1)
    padded = F.pad(grad, (w - 1, w - 1, h - 1, h - 1))
    return F.conv2d(padded, kernels.flip(-1, -2).transpose(0, 1))


def slide(maps: Tensor, kernels: Tensor, *, precision: torch.dtype = torch.float32) -> Tensor:
    """Slide kernels over maps: see `Correlate`.

    Args:
        maps: (B, M, C, H, W).
        kernels: (B, K, C, h, w).
        precision: of the arithmetic on a CPU. A GPU goes through the Fourier transform, in float32: one launch for the
            whole batch, where its convolutions of kernels this large would be one by one.

    Returns:
        (B, M, K, H - h + 1, W - w + 1) float32.

    """
    if not maps.is_cuda:
        return Correlate.apply(maps.to(precision), kernels.to(precision)).float()
    return slide_by_fourier(maps, kernels)


def slide_by_fourier(maps: Tensor, kernels: Tensor) -> Tensor:
    """Do what `slide` does, anywhere. Shifts that a kernel fits at do not reach round the map's end."""
    (height, width), (h, w) = maps.shape[-2:], kernels.shape[-2:]
    size = (height + height % 2, width + width % 2)
    there = torch.fft.rfft2(maps.float(), size)[:, :, None]
    here = torch.fft.rfft2(kernels.float(), size)[:, None]
    found = torch.fft.irfft2((there * here.conj()).sum(3), size)
    return found[..., : height - h + 1, : width - w + 1]


def weigh(descriptors: Tensor, weight: Tensor) -> Tensor:
    """Return descriptors (B, C, rows, cols) times their weights (B, 1, rows, cols), with these as the last channel."""
    descriptors, weight = (each.permute(0, 2, 3, 1) for each in (descriptors, weight))  # in this layout cat is fast
    return torch.cat([descriptors * weight, weight], dim=-1).permute(0, 3, 1, 2)


def weighted_vote(
    maps: Tensor,
    kernels: Tensor,
    *,
    block: tuple[slice, slice, slice] | None = None,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Return the mean similarity of every shift.

    Args:
        maps: (B, M, C + 1, H, W) what `weigh` makes of unit descriptors and the share of imagery, in [0, 1].
        kernels: (B, K, C + 1, h, w) what it makes of unit descriptors and how much they count, not negative.
        block: which kernels, rows and columns of what comes out are wanted; all if None.
        precision: of the correlation, see `slide`; what comes out is float32.

    Returns:
        (B, M, K, H - h + 1, W - w + 1), or the block of it, in [-1, 1]: see `trusted_mean`.

    """
    weights = kernels[:, :, -1:]
    similarity = slide(maps[:, :, :-1], kernels[:, :, :-1], precision=precision)
    counted = slide(maps[:, :, -1:], weights, precision=precision)
    total = weights.float().sum(dim=(-3, -2, -1))[:, None, :, None, None]
    if block is not None:
        kernel, row, column = block
        similarity, counted = (sums[:, :, kernel, row, column] for sums in (similarity, counted))
        total = total[:, :, kernel]
    return trusted_mean(similarity, counted, total)


def trusted_mean(similarity: Tensor, counted: Tensor, total: Tensor, among: Tensor | None = None) -> Tensor:
    """Return the mean similarities of a vote, drawn to their average where little of the view lies on imagery.

    Args:
        similarity: (B, ...) weighted sums of the cells' similarities.
        counted: (B, ...) weights of the cells on imagery.
        total: weights of all cells, to be broadcast.
        among: (...) bool, which of them the average is taken over; all if None.

    """
    everywhere = tuple(range(1, similarity.dim()))
    sums = [each if among is None else each * among for each in (similarity, counted)]
    average = sums[0].sum(everywhere, keepdim=True) / sums[1].sum(everywhere, keepdim=True).clamp_min(1e-6)
    trust = (counted / (_ENOUGH * total.clamp_min(1e-6))).clamp(max=1.0)
    return average + trust * (similarity / counted.clamp_min(1e-6) - average)


def rotate_bev(bev: Tensor, grid_xy: Tensor, headings: Tensor, *, x_max: float, y_max: float, cell: float) -> Tensor:
    """Resample a BEV (B, C, rows, cols) as seen after turning the vehicle to each heading, (B, K, C, rows, cols).

    Args:
        bev: cells of the vehicle's frame.
        grid_xy: (rows, cols, 2) metric centres of the output's cells in the patch's frame.
        headings: (K,) radians, counter-clockwise from the patch's forward direction.
        x_max: forward edge of the BEV, metres.
        y_max: left edge of the BEV, metres.
        cell: metres.

    """
    b, c, rows, cols = bev.shape
    cos, sin = torch.cos(headings), torch.sin(headings)
    x, y = grid_xy[..., 0], grid_xy[..., 1]
    x_vehicle = cos[:, None, None] * x + sin[:, None, None] * y
    y_vehicle = -sin[:, None, None] * x + cos[:, None, None] * y
    v = (x_max - x_vehicle) / cell / rows * 2 - 1
    u = (y_max - y_vehicle) / cell / cols * 2 - 1
    where = torch.stack([u, v], dim=-1).reshape(1, -1, cols, 2).expand(b, -1, -1, -1)
    turned = F.grid_sample(bev, where.to(bev.dtype), align_corners=False)
    return turned.reshape(b, c, len(headings), rows, cols).transpose(1, 2)


def warp_to_vehicle(features: Tensor, points: Tensor, poses: Tensor, *, half_extent: float) -> Tensor:
    """Sample patch features at vehicle-frame points as placed by poses.

    Args:
        features: (B, C, S, S) on a patch that reaches ``half_extent`` metres from its centre to each side.
        points: (rows, cols, 2) or (B, 1, rows, cols, 2) metres in the vehicle's frame.
        poses: (B, K, 3) x, y (m), yaw (rad) of the vehicle in the patch's frame.
        half_extent: metres.

    Returns:
        (B, K, C, rows, cols), zero outside the patch.

    """
    b, k, _ = poses.shape
    rows, cols = points.shape[-3:-1]
    cos, sin = torch.cos(poses[..., 2])[..., None, None], torch.sin(poses[..., 2])[..., None, None]
    x = cos * points[..., 0] - sin * points[..., 1] + poses[..., 0, None, None]
    y = sin * points[..., 0] + cos * points[..., 1] + poses[..., 1, None, None]
    where = torch.stack([-y / half_extent, -x / half_extent], dim=-1).reshape(b, k * rows, cols, 2)
    sampled = F.grid_sample(features, where.to(features.dtype), align_corners=False)
    return sampled.reshape(b, -1, k, rows, cols).transpose(1, 2)
