"""vote_flow for driving: the same function as `VoteFlow`, one image at a time, without gradients.

What makes it fast, on any device: batch norms are folded into the convolutions, most of which run in half precision
where the processor has it, channels last throughout, and samples are gathered by index in that layout, the camera's at
places that are found once; the first vote is held over the search box only (on a GPU what lies outside is masked: the
work stays the same); the others are two matrix products each; the flow's context is convolved once. What the BEV's
samples go through first, what reads off the first two votes' descriptors, all votes, whose peaks may be nearly as high
as each other, geometry and least squares stay in single precision. Shapes depend on nothing but the search box, and
nothing waits for a result before the last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.models.bev import BevEncoder
from cvloc_ros.models.close_look import CloseLook
from cvloc_ros.models.cuda_graph import compile_method
from cvloc_ros.models.encoder import Encoder
from cvloc_ros.models.flow import MIN_SCALE, FlowUpdate
from cvloc_ros.models.fused import fuse
from cvloc_ros.models.local_vote import LocalVote
from cvloc_ros.models.sampling import bilinear, correlate, sample
from cvloc_ros.models.vote import slide, trusted_mean
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_types import Block, BoxMask, PatchFeatures
from cvloc_ros.models.vote_network import Votes


def fast_precision(device: torch.device) -> torch.dtype:
    """Return in which precision a device runs convolutions fastest; half precision costs accuracy millimetres."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    able: dict = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


class FastVotes(Votes):
    """The votes of a trained network, made fast."""

    layout = torch.channels_last
    turned_cells: Tensor
    turned_shares: Tensor

    def __init__(self, network: Votes, *, precision: torch.dtype = torch.float32):
        """Copy a network; most of its convolutions will run in ``precision``."""
        super().__init__(network.config)
        self.load_state_dict(network.state_dict())
        self.eval().requires_grad_(False)
        self.precision = precision
        halved = self._replace_parts()
        fuse(self)
        for part in halved:
            part.to(dtype=precision)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._register_turned()
        self.to(next(network.parameters()).device)

    def _replace_parts(self) -> list[nn.Module]:
        """Put fast forms in the place of the network's parts; return those that run in half precision."""
        self.ground = _FastEncoder(self.ground, self.precision)  # type: ignore[assignment]
        self.satellite = _FastEncoder(self.satellite, self.precision)  # type: ignore[assignment]
        body = _InPrecision(self.bev.body, self.precision)
        self.bev.body = body  # type: ignore[assignment]
        self.bev = _FastBevEncoder(self.bev, self.precision)  # type: ignore[assignment]
        return [self.ground, self.satellite, body]

    def _describe_patch(self, half: Tensor, quarter: Tensor, coverage: Tensor) -> PatchFeatures:
        """Read the descriptors off in single precision."""
        return super()._describe_patch(half.float(), quarter.float(), coverage)

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

    def block(
        self, box: tuple[float, float, float], centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> Block | BoxMask:
        """Return which poses of the first vote a search box needs, see `Votes.block`; on a GPU as a mask."""
        block = super().block(box, centre)
        if not self.cells.is_cuda:
            return block
        searched = torch.zeros(len(self.headings), len(self.shifts), len(self.shifts), dtype=torch.bool)
        searched[block] = True  # type: ignore[index]
        return BoxMask(searched.to(self.cells.device), self._peak_count(block))

    def _coarse_vote(
        self, ground: Tensor, satellite: Tensor, precision: torch.dtype, block: Block | BoxMask | None
    ) -> Tensor:
        """Hold the first vote over a block of its poses; the others are not looked at, or not counted."""
        searched = block.searched if isinstance(block, BoxMask) else None
        everywhere = (slice(0, len(self.headings)), *[slice(0, len(self.shifts))] * 2)
        headings, xs, ys = everywhere if block is None or isinstance(block, BoxMask) else block
        kernels = sample(ground, self.turned_cells[headings], self.turned_shares[headings]).permute(0, 3, 1, 2)
        n, (top, left, pad) = self.config.bev_size, self._first_cells()
        rows = slice(top + xs.start, top + xs.stop - 1 + n)
        cols = slice(left + ys.start, left + ys.stop - 1 + n)
        maps, weights = F.pad(satellite, pad)[:, None, :, rows, cols], kernels[:, -1:]
        similarity = slide(maps[:, :, :-1], kernels[None, :, :-1])[:, 0]
        counted = slide(maps[:, :, -1:], weights[None])[:, 0]
        score = trusted_mean(similarity, counted, weights.sum((1, 2, 3))[None, :, None, None], searched)
        logits = score * self.coarse_sharpness.exp()
        if searched is not None:
            return logits.masked_fill(~searched, float("-inf"))
        return logits if block is None else self._within((headings, xs, ys), logits)

    def _hold(
        self,
        vote: LocalVote,
        ground: Tensor,
        satellite: Tensor,
        centres: Tensor,
        *,
        precision: torch.dtype,
        lattice: Tensor | None = None,
    ) -> Tensor:
        """Hold a local vote in single precision: see `Votes._hold`."""
        count, n = centres.shape[1], vote.lattice.shape[1]
        points = vote.lattice if lattice is None else lattice[0]
        maps = sample(satellite, *self._on_patch(points, vote.poses(centres)[0], satellite.shape[-1]))
        maps = maps.view(-1, n, n, satellite.shape[1])
        kernel = ground[0].permute(1, 2, 0)
        weight = kernel[..., -1:]
        # with a zero for the coverage: without it, maps would be copied
        similarity = correlate(maps, F.pad(kernel[..., :-1], (0, 1)))
        counted = correlate(maps[..., -1:], weight)
        similarity, counted = (each.unflatten(0, (count, -1)) for each in (similarity, counted))
        return vote.join(trusted_mean(similarity, counted, weight.sum())[None])

    def _on_patch(self, points: Tensor, poses: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """Return what `sample` needs for vehicle-frame points (rows, cols, 2), m, as placed by poses (K, 3)."""
        scale = cells / (2 * self.half_extent)  # cells a metre; they count backward and to the right
        cos, sin = torch.cos(poses[:, 2]), torch.sin(poses[:, 2])
        turn = -scale * torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2)
        shift = (self.half_extent - poses[:, :2]) * scale - 0.5
        where = torch.addmm(shift.reshape(-1, 1), turn, points.reshape(-1, 2).T).view(-1, 2, *points.shape[:-1])
        row, col = where.unbind(1)
        return bilinear(row, col, (cells, cells))


class FastVoteFlow(FastVotes, VoteFlow):
    """A trained `VoteFlow`, made fast."""

    def __init__(self, network: VoteFlow, *, precision: torch.dtype = torch.float32):
        """Copy a network; most of its convolutions will run in ``precision``."""
        super().__init__(network, precision=precision)
        if self.cells.is_cuda:
            compile_method(self, "_step")  # two thirds of all kernels

    def _replace_parts(self) -> list[nn.Module]:
        self.update = _FastFlowUpdate(self.update)  # type: ignore[assignment]
        close, self.close = self.close, _FastCloseLook(self.close, self.precision)  # type: ignore[assignment]
        of_patch = [close.patch_pixels, close.patch_features, close.patch_body, close.patch_head]
        of_ground = [_InPrecision(part, self.precision) for part in (close.sampled, close.body)]
        close.sampled, close.body = of_ground  # type: ignore[assignment]
        return [*super()._replace_parts(), self.update, *of_patch, *of_ground]

    def _look_around(self, fine: Tensor, satellite: Tensor, ground: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Correlate every cell with the satellite around it: see `VoteFlow._look_around`."""
        around = sample(satellite, *self._on_patch(ground[0], pose, satellite.shape[-1]))
        covered = self._cells_of(around[..., -1:])
        window, n = self.config.window, self.config.bev_size
        near = around[0, ..., :-1].unfold(0, window, 2).unfold(1, window, 2).permute(0, 1, 3, 4, 2)
        near = near.reshape(n * n, window**2, -1)
        correlation = fine[0].permute(1, 2, 0).reshape(n * n, 1, -1) @ near.mT  # faster than the other way round
        return correlation.view(1, n, n, -1).permute(0, 3, 1, 2).to(self.precision), covered.permute(0, 3, 1, 2)


class _FastEncoder(nn.Module):
    """`Encoder` of one image."""

    def __init__(self, encoder: Encoder, precision: torch.dtype):
        super().__init__()
        self.encoder, self.precision = encoder, precision

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.features(standardize(image).to(self.precision))


class _InPrecision(nn.Module):
    """A part in another precision than what is around it."""

    def __init__(self, part: nn.Module, precision: torch.dtype):
        super().__init__()
        self.part, self.precision = part, precision

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x.to(self.precision)).float()


class _FastBevEncoder(nn.Module):
    """`BevEncoder` of one image; before its body and after it in single precision: the votes' weights are sensitive."""

    def __init__(self, bev: BevEncoder, precision: torch.dtype):
        super().__init__()
        self.bev, self.precision = bev, precision
        self._view: tuple[Tensor, Tensor, tuple[Tensor, ...]] | None = None

    def forward(self, half: Tensor, quarter: Tensor, pixels: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        # a camera stays where it is: what it sees where is found once for as long as the same tensors say so
        if self._view is None or self._view[0] is not pixels or self._view[1] is not visible:
            self._view = pixels, visible, _sight(half, quarter, pixels[0], visible[0])
        mask, cells, shares, above_cells, above_shares = self._view[2]
        above = sample(quarter.float(), above_cells, above_shares)
        columns = torch.cat([above, mask], dim=-1).flatten(2)
        samples = torch.cat([sample(half.float(), cells, shares), columns], dim=-1).permute(2, 0, 1)[None]
        *descriptors, hidden = self.bev.describe(samples, visible[:, None])
        return *descriptors, hidden.to(self.precision)


class _FastCloseLook(nn.Module):
    """`CloseLook` of one image; what is read off the ground's features in single precision."""

    def __init__(self, close: CloseLook, precision: torch.dtype):
        super().__init__()
        self.close, self.precision = close, precision
        self._view: tuple[Tensor, Tensor, tuple[Tensor, ...]] | None = None

    def describe_patch(self, patch: Tensor, half: Tensor) -> Tensor:
        return self.close.describe_standardized(standardize(patch).to(self.precision), half)

    def describe(
        self, image: Tensor, half: Tensor, hidden: Tensor, pixels: Tensor, visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self._view is None or self._view[0] is not pixels or self._view[1] is not visible:
            where, seen = self.close.near(pixels, visible)
            self._view = pixels, visible, (seen, *_in_image(where[0], half), *_in_image(where[0], image))
        seen, cells, shares, pixel_cells, pixel_shares = self._view[2]
        colours = sample(standardize(image), pixel_cells, pixel_shares)
        samples = torch.cat([sample(half.float(), cells, shares), colours], dim=-1).permute(2, 0, 1)[None]
        return self.close.describe_samples(samples * seen, seen, hidden.float())


class _FastFlowUpdate(nn.Module):
    """`FlowUpdate` whose context, which stays the same from step to step, is convolved once."""

    def __init__(self, update: FlowUpdate):
        super().__init__()
        self.update = update
        gates, candidate = update.gru.gates, update.gru.candidate
        changing = candidate.in_channels - candidate.out_channels  # channels, which come first
        self.gates = _convolution(gates.weight[:, :changing])
        self.candidate = _convolution(candidate.weight[:, :changing])
        self.context_gates = _convolution(gates.weight[:, changing:], gates.bias)
        self.context_candidate = _convolution(candidate.weight[:, changing:], candidate.bias)

    def initial(self, bev_features: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, context = self.update.initial(bev_features)
        context = context.contiguous(memory_format=torch.channels_last)
        return hidden, (self.context_gates(context), self.context_candidate(context))

    def forward(
        self, hidden: Tensor, context: tuple[Tensor, Tensor], correlation: Tensor, coverage: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.update.encode(torch.cat([correlation, coverage.to(correlation.dtype)], dim=1))
        gates = self.gates(torch.cat([hidden, encoded], dim=1), plus=context[0])
        update, reset = torch.sigmoid(gates).chunk(2, dim=1)
        candidate = self.candidate(torch.cat([reset * hidden, encoded], dim=1), plus=context[1])
        hidden = torch.lerp(hidden, torch.tanh(candidate), update)
        out = self.update.head(hidden).float()
        return hidden, out[:, :2], MIN_SCALE + F.softplus(out[:, 2])


def _convolution(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """Return a 3x3 convolution of these weights."""
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=bias is not None)
    convolution.weight.data = weight.detach().contiguous(memory_format=torch.channels_last)
    if bias is not None:
        convolution.bias = nn.Parameter(bias.detach())
    return convolution.requires_grad_(False)


def standardize(image: Tensor) -> Tensor:
    """Do what `encoder.standardize` does to one image, channels last, in two passes over it."""
    _, channels, height, width = image.shape
    rows = image.permute(0, 2, 3, 1).reshape(height, width * channels)  # long ones: loops over three numbers are slow
    each, count = rows.new_ones(1, height), height * width

    def total(values: Tensor) -> Tensor:
        return (each @ values).view(width, channels).sum(0)

    centred = rows - (total(rows) / count).repeat(width)
    deviation = (total(centred.square()) / (count - 1)).sqrt()
    return (centred / (deviation + 1e-3).repeat(width)).view(1, height, width, channels).permute(0, 3, 1, 2)


def _sight(half: Tensor, quarter: Tensor, pixels: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
    """Return what the camera sees (rows, cols, Z, 1), and where: for `sample` on the ground, and at all heights.

    Args:
        half: (1, C2, H/2, W/2), of which only the size matters.
        quarter: (1, C4, H/4, W/4) likewise.
        pixels: (Z, rows, cols, 2) normalized image coordinates, see `ground_pixels`.
        visible: (Z, rows, cols) bool.

    """
    mask, where = visible.permute(1, 2, 0)[..., None].float(), pixels.permute(1, 2, 0, 3)
    cells, shares = _in_image(where[:, :, 0], half)
    above_cells, above_shares = _in_image(where, quarter)
    return mask, cells, shares * mask[:, :, 0], above_cells, above_shares * mask


def _in_image(where: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `sample` needs for normalized image coordinates (..., 2)."""
    rows, cols = features.shape[-2:]
    col, row = (where[..., 0] + 1) * (cols / 2) - 0.5, (where[..., 1] + 1) * (rows / 2) - 0.5
    return bilinear(row, col, (rows, cols))
