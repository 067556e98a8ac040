"""vote_flow for driving: the same function as `VoteFlow`, one image at a time, without gradients.

What makes it fast, on any device: batch norms are folded into the convolutions, these run in half precision where the
processor has it, channels last throughout, and samples are gathered by index in that layout; the first vote is held
over the search box only; the second vote is a matrix product. Votes' scores, geometry and least squares stay in single
precision. Shapes depend on nothing but the search box, and nothing waits for a result before the last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cvloc_ros.models.bev import BevEncoder
from cvloc_ros.models.encoder import Encoder
from cvloc_ros.models.vote import trusted_mean
from cvloc_ros.models.vote_flow import Block, PatchFeatures, VoteFlow


def fast_precision(device: torch.device) -> torch.dtype:
    """Return in which precision a device runs convolutions fastest; half precision costs accuracy millimetres."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    able: dict = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


class FastVoteFlow(VoteFlow):
    """A trained `VoteFlow`, made fast."""

    turned_cells: Tensor
    turned_shares: Tensor

    def __init__(self, network: VoteFlow, *, precision: torch.dtype = torch.float32):
        """Copy a network; its convolutions will run in ``precision``."""
        super().__init__(network.config)
        self.load_state_dict(network.state_dict())
        self.eval().requires_grad_(False)
        _fold_batch_norms(self)
        self.precision = precision
        for part in (self.ground, self.satellite, self.satellite_coarse, self.satellite_fine, self.update):
            part.to(dtype=precision, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ground, self.satellite = _FastEncoder(self.ground), _FastEncoder(self.satellite)  # type: ignore[assignment]
        self.bev = _FastBevEncoder(self.bev, precision)  # type: ignore[assignment]
        self._register_turned()
        self.to(next(network.parameters()).device)

    def _register_turned(self) -> None:
        """Where the BEV's cells are sampled to turn it to each heading of the first vote: see `rotate_bev`."""
        c = self.config
        cos, sin = torch.cos(self.headings)[:, None, None], torch.sin(self.headings)[:, None, None]
        x, y = self.cells[..., 0], self.cells[..., 1]
        row = (c.bev_x_max - (cos * x + sin * y)) / c.bev_cell - 0.5
        col = (c.bev.y_max - (cos * y - sin * x)) / c.bev_cell - 0.5
        cells, shares = bilinear(row, col, (c.bev_size, c.bev_size))
        self.register_buffer("turned_cells", cells, persistent=False)
        self.register_buffer("turned_shares", shares, persistent=False)

    def encode_satellite(self, patch: Tensor, coverage: Tensor) -> PatchFeatures:
        """Describe a patch: see `VoteFlow.encode_satellite`."""
        half, quarter = self.satellite(patch)
        maps = []
        for features, head, factor in ((quarter, self.satellite_coarse, 4), (half, self.satellite_fine, 2)):
            covered = F.avg_pool2d(coverage, factor)
            maps += [F.normalize(head(features).float(), dim=1) * covered, covered]
        return PatchFeatures(*maps)

    def _coarse_vote(
        self,
        descriptors: Tensor,
        weight: Tensor,
        satellite: PatchFeatures,
        precision: torch.dtype,
        block: Block | None,
    ) -> Tensor:
        """Hold the first vote over a block of its poses; the others are not looked at."""
        whole = block is None
        headings, xs, ys = block or (slice(0, len(self.headings)), *[slice(0, len(self.shifts))] * 2)
        bev = torch.cat([descriptors * weight, weight], dim=1)
        kernels = sample(bev, self.turned_cells[headings], self.turned_shares[headings]).permute(0, 3, 1, 2)
        n, (top, left, pad) = self.config.bev_size, self._first_cells()
        rows = slice(top + xs.start, top + xs.stop - 1 + n)
        cols = slice(left + ys.start, left + ys.stop - 1 + n)
        maps, covered = (F.pad(plane, pad)[:, :, rows, cols] for plane in (satellite.coarse, satellite.coarse_covered))
        weights = kernels[:, -1:]
        similarity = F.conv2d(maps.to(precision), kernels[:, :-1].to(precision)).float()
        counted = F.conv2d(covered, weights)
        score = trusted_mean(similarity, counted, weights.sum((1, 2, 3))[None, :, None, None])
        logits = score * self.coarse_sharpness.exp()
        return logits if whole else self._within((headings, xs, ys), logits)

    def _fine_vote(
        self, descriptors: Tensor, weight: Tensor, satellite: PatchFeatures, centre: Tensor, precision: torch.dtype
    ) -> Tensor:
        """Hold the second vote: see `VoteFlow._fine_vote`."""
        k, n = len(self.fine_headings), self.fine_lattice.shape[1]
        poses = centre.repeat(k, 1)
        poses[:, 2] += self.fine_headings
        where = self._on_patch(self.fine_lattice, poses, satellite.fine.shape[-1])
        maps = sample(satellite.fine, *where).view(4 * k, n, n, -1)
        covered = sample(satellite.fine_covered, *where).view(4 * k, n, n, -1)
        similarity = correlate_rows(maps.to(precision), (descriptors * weight)[0].permute(1, 2, 0).to(precision))
        counted = correlate_rows(covered, weight[0].permute(1, 2, 0))
        score = trusted_mean(similarity[None], counted[None], weight.sum())[0]
        steps = score.shape[-1]
        score = score.view(k, 2, 2, steps, steps).permute(0, 3, 1, 4, 2).reshape(1, k, 2 * steps, 2 * steps)
        wanted = len(self.fine_shifts)
        return score[:, :, :wanted, :wanted] * self.fine_sharpness.exp()

    def _look_around(
        self, fine: Tensor, satellite: PatchFeatures, lattice: Tensor, points: Tensor, pose: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Correlate every cell with the satellite around it: see `VoteFlow._look_around`."""
        cells = satellite.fine.shape[-1]
        around = sample(satellite.fine, *self._on_patch(lattice[0], pose, cells))[0]
        covered = sample(satellite.fine_covered, *self._on_patch(points[0], pose, cells)).permute(0, 3, 1, 2)
        window, n = self.config.window, self.config.bev_size
        near = around.unfold(0, window, 2).unfold(1, window, 2).permute(0, 1, 3, 4, 2).reshape(n * n, window**2, -1)
        correlation = near @ fine[0].permute(1, 2, 0).reshape(n * n, -1, 1)
        return correlation.view(1, n, n, -1).permute(0, 3, 1, 2).to(self.precision), covered

    def _on_patch(self, points: Tensor, poses: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """Return what `sample` needs for vehicle-frame points (rows, cols, 2), m, as placed by poses (K, 3)."""
        cos, sin = torch.cos(poses[:, 2])[:, None, None], torch.sin(poses[:, 2])[:, None, None]
        x = cos * points[..., 0] - sin * points[..., 1] + poses[:, 0, None, None]
        y = sin * points[..., 0] + cos * points[..., 1] + poses[:, 1, None, None]
        scale = cells / (2 * self.half_extent)
        return bilinear((self.half_extent - x) * scale - 0.5, (self.half_extent - y) * scale - 0.5, (cells, cells))


class _FastEncoder(nn.Module):
    """`Encoder` of one image."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.features(standardize(image).to(self.encoder.up8.weight.dtype))


class _FastBevEncoder(nn.Module):
    """`BevEncoder` of one image; in single precision, because the weights of the votes are sensitive."""

    def __init__(self, bev: BevEncoder, precision: torch.dtype):
        super().__init__()
        self.bev, self.precision = bev.to(memory_format=torch.channels_last), precision  # type: ignore[call-overload]

    def forward(self, half: Tensor, quarter: Tensor, pixels: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        mask = visible[0, ..., None].float()
        ground = sample(half.float(), *_points_of(half, pixels[0, 0])) * mask[0]
        above = sample(quarter.float(), *_points_of(quarter, pixels[0])) * mask
        columns = torch.cat([above, mask], dim=-1).permute(1, 2, 0, 3).flatten(2)
        samples = torch.cat([ground, columns], dim=-1).permute(2, 0, 1)[None]
        *descriptors, hidden = self.bev.describe(samples, visible[:, None].float())
        return *descriptors, hidden.to(self.precision)


def standardize(image: Tensor) -> Tensor:
    """Do what `encoder.standardize` does to one image, channels last, in two passes over it."""
    rows = image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])
    each = rows.new_ones(1, len(rows))
    centred = rows - each @ rows / len(rows)
    deviation = (each @ centred.square() / (len(rows) - 1)).sqrt()
    return (centred / (deviation + 1e-3)).view(1, *image.shape[2:], -1).permute(0, 3, 1, 2)


def bilinear(row: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the four cells of a plane (rows, cols) that a place lies between, and their shares of it.

    Args:
        row: (...) fractional; 0 is the centre of the first cell.
        col: (...) likewise.
        size: of the plane.

    Returns:
        (..., 4) flat indices, and (..., 4) shares, 0 for a cell outside.

    """
    top, left = row.floor(), col.floor()
    down, right = row - top, col - left
    rows, cols = torch.stack([top, top, top + 1, top + 1], -1), torch.stack([left, left + 1, left, left + 1], -1)
    shares = torch.stack([1 - down, 1 - down, down, down], -1) * torch.stack([1 - right, right, 1 - right, right], -1)
    inside = (rows >= 0) & (rows < size[0]) & (cols >= 0) & (cols < size[1])
    cells = rows.clamp(0, size[0] - 1) * size[1] + cols.clamp(0, size[1] - 1)
    return cells.int(), shares * inside


def sample(features: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """Sample features (1, C, rows, cols), best channels last, at places (..., 4) of `bilinear`: (..., C)."""
    rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    found = F.embedding_bag(cells.view(-1, 4), rows, per_sample_weights=shares.view(-1, 4), mode="sum")
    return found.view(*cells.shape[:-1], -1)


def correlate_rows(maps: Tensor, kernel: Tensor) -> Tensor:
    """Slide a kernel over maps that are little larger than itself, as one matrix product of their rows.

    Args:
        maps: (M, H, W, C).
        kernel: (h, w, C).

    Returns:
        (M, H - h + 1, W - w + 1) float32.

    """
    m, height, width, channels = maps.shape
    h, w, _ = kernel.shape
    shifts, steps = width - w + 1, height - h + 1
    shifted = kernel.new_zeros(h, shifts, width, channels)
    for j in range(shifts):
        shifted[:, j, j : j + w] = kernel
    # every row of the maps with every row of the kernel; those that meet at a shift lie on a diagonal
    products = maps.view(m * height, -1) @ shifted.view(h * shifts, -1).T
    row, one = h * shifts, shifts
    met = products.as_strided((m, steps, shifts, h), (height * row, row, 1, row + one))
    return met.float().sum(-1)


def _points_of(features: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `sample` needs for normalized image coordinates (..., 2): see `ground_pixels`."""
    rows, cols = features.shape[-2:]
    col, row = (where[..., 0] + 1) * (cols / 2) - 0.5, (where[..., 1] + 1) * (rows / 2) - 0.5
    return bilinear(row, col, (rows, cols))


def _fold_batch_norms(module: nn.Module) -> None:
    """Put every batch norm that follows a convolution into its weights."""
    for child in module.modules():
        if not isinstance(child, nn.Sequential):
            continue
        for k in range(len(child) - 1):
            convolution, norm = child[k], child[k + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                child[k], child[k + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
