"""What the third vote compares: the ground near the vehicle and the satellite patch, as finely as they are given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.models.encoder import Residual, conv_bn, standardize
from cvloc_ros.models.vote_flow_config import VoteFlowConfig


class CloseLook(nn.Module):
    """Describes cells of half a BEV cell near the vehicle, and every pixel of the patch.

    The features of the large encoders say what things are; the pixels, through two convolutions, where they end.
    """

    def __init__(self, config: VoteFlowConfig):
        super().__init__()
        self.config = c = config
        half, hidden, channels = c.encoder_widths[0], c.close_hidden, c.close_channels
        self.patch_pixels = conv_bn(3, channels)
        self.patch_features = nn.Conv2d(half, channels, 1)
        self.patch_body = conv_bn(channels, channels)
        self.patch_head = nn.Conv2d(channels, channels, 1)
        self.sampled = nn.Sequential(conv_bn(half + 3, hidden), conv_bn(hidden, hidden, stride=2))
        self.known = nn.Conv2d(c.bev_hidden, hidden, 1)
        self.body = nn.Sequential(Residual(hidden), Residual(hidden))
        self.head = nn.Conv2d(hidden, channels + 1, 1)
        # of the BEV's samples, the cells near the vehicle
        first, side = 2 * c.bev_size - c.close_size - 1, c.bev_size - c.close_size // 2
        self.rows, self.cols = slice(first, first + c.close_size), slice(side, side + c.close_size)

    def describe_patch(self, patch: Tensor, half: Tensor) -> Tensor:
        """Return unit descriptors (B, Dc, S, S).

        Args:
            patch: (B, 3, S, S) RGB in [0, 1].
            half: (B, C2, S/2, S/2) the satellite encoder's features.

        """
        return self.describe_standardized(standardize(patch), half)

    def describe_standardized(self, patch: Tensor, half: Tensor) -> Tensor:
        """Return what `describe_patch` does, of a patch that has been standardized."""
        features = F.interpolate(self.patch_features(half), scale_factor=2.0, mode="nearest")
        described = self.patch_head(self.patch_body(self.patch_pixels(patch) + features))
        return F.normalize(described.float(), dim=1)

    def describe(
        self, image: Tensor, half: Tensor, hidden: Tensor, pixels: Tensor, visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return unit descriptors (B, Dc, rows, cols) of the near cells, and their weights (B, 1, rows, cols).

        Args:
            image: (B, 3, H, W) RGB in [0, 1].
            half: (B, C2, H/2, W/2) the ground encoder's features.
            hidden: (B, bev_hidden, n, n) what is known of the BEV's cells.
            pixels: (B, Z, 2 n, 2 n, 2) as `VoteFlow.forward` takes them, the ground first.
            visible: (B, Z, 2 n, 2 n) bool.

        """
        where, seen = self.near(pixels, visible)
        features = F.grid_sample(half.to(where.dtype), where, align_corners=False)
        colours = F.grid_sample(standardize(image), where, align_corners=False)
        return self.describe_samples(torch.cat([features, colours], dim=1) * seen, seen, hidden)

    def near(self, pixels: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the near cells' quarters appear, and which of them are seen.

        They lie between four of the BEV's samples each. From five metres on, the mean of the four's places in the
        image is a tenth of a cell from where the camera's geometry would put it, or less.

        Returns:
            (B, 2 rows, 2 cols, 2) normalized image coordinates, and (B, 1, 2 rows, 2 cols) of 0 or 1.

        """
        rows, cols = (slice(2 * part.start, 2 * part.stop) for part in (self.rows, self.cols))
        between = [
            F.interpolate(plane, scale_factor=2.0, mode="bilinear", align_corners=False)[:, :, rows, cols]
            for plane in (pixels[:, 0].permute(0, 3, 1, 2), visible[:, :1].to(pixels.dtype))
        ]
        return between[0].permute(0, 2, 3, 1), (between[1] > 0.999).to(pixels.dtype)

    def describe_samples(self, samples: Tensor, seen: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `describe` does, from features and colours (B, C2 + 3, 2 rows, 2 cols) at `near`."""
        known = F.interpolate(self.known(hidden), scale_factor=2.0, mode="nearest")[:, :, self.rows, self.cols]
        samples = self.sampled(samples.contiguous(memory_format=torch.channels_last))
        described, weight = self.head(self.body(samples + known)).float().split((self.config.close_channels, 1), dim=1)
        return F.normalize(described, dim=1), torch.sigmoid(weight) * F.max_pool2d(seen, 2)
