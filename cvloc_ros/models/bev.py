"""From image features to the ground: where each BEV cell is seen, and the network that describes the cells.

The ground is the plane z = 0 of base_link. Over each of its points features are sampled at several heights, because
what a satellite sees of a street is mostly roofs and crowns, and a camera sees those above the horizon. Points are
sampled at twice the BEV grid's resolution and folded into its cells: a cell near the vehicle covers many pixels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvloc_ros.geometry import Camera, GroundGrid
from cvloc_ros.models.encoder import Residual, conv_bn


def ground_pixels(
    camera: Camera, T_base_camera: np.ndarray, grid: GroundGrid, heights: tuple[float, ...] = (0.0,)
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the grid's cell centres, and the points above them, appear in the image.

    Args:
        camera: intrinsics and distortion; any lens.
        T_base_camera: 4x4, optical frame to base_link.
        grid: of the ground.
        heights: Z of them, metres over the ground.

    Returns:
        (Z, rows, cols, 2) float32 normalized image coordinates, -1 and 1 at the outer borders of the first and last
        pixel (the convention of ``grid_sample`` with ``align_corners=False``), and a (Z, rows, cols) visibility mask.

    """
    centres = np.broadcast_to(grid.centres(), (len(heights), grid.rows, grid.cols, 2))
    z = np.broadcast_to(np.reshape(heights, (-1, 1, 1, 1)), (*centres.shape[:3], 1))
    points = np.concatenate([centres, z], axis=-1)
    T_camera_base = np.linalg.inv(T_base_camera)
    pixels, visible = camera.project(points @ T_camera_base[:3, :3].T + T_camera_base[:3, 3])
    size = np.array([camera.width, camera.height])
    normalized = np.where(visible[..., None], (pixels + 0.5) / size * 2 - 1, -2.0)
    return normalized.astype(np.float32), visible


class BevEncoder(nn.Module):
    """Ground features (half and quarter resolution) to descriptors on the BEV grid.

    A cell is (a) a coarse descriptor for the vote over the search box, (b) a fine one for the vote around its peak
    and the flow, (c) how much each of the two votes should count it.
    """

    def __init__(self, widths: tuple[int, int], heights: int, hidden: int, coarse: int, fine: int):
        super().__init__()
        self.split = (coarse, fine, 1, 1)
        half, quarter = widths
        inputs = half + heights * (quarter + 1)
        self.reduce = nn.Sequential(conv_bn(inputs, hidden // 2), conv_bn(hidden // 2, hidden, stride=2))
        self.body = nn.Sequential(Residual(hidden), Residual(hidden), Residual(hidden))
        self.head = nn.Conv2d(hidden, sum(self.split), 1)

    def forward(
        self, half: Tensor, quarter: Tensor, pixels: Tensor, visible: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Describe the BEV cells.

        Args:
            half: (B, C2, H/2, W/2) image features.
            quarter: (B, C4, H/4, W/4) image features.
            pixels: (B, Z, 2 rows, 2 cols, 2) from `ground_pixels` at twice the grid's resolution, the ground first.
            visible: (B, Z, 2 rows, 2 cols) bool.

        Returns:
            coarse (B, Dc, rows, cols) and fine (B, Df, rows, cols) unit descriptors, their weights
            (B, 1, rows, cols) each, zero where unseen, and the hidden features (B, hidden, rows, cols).

        """
        mask = visible[:, None].to(half.dtype)
        return self.describe(self.sample(half, quarter, pixels, mask), mask)

    def sample(self, half: Tensor, quarter: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
        """Return what the camera sees at and above every sample, (B, inputs, 2 rows, 2 cols), channels last."""
        b, heights, rows, cols, _ = pixels.shape
        ground = F.grid_sample(half.to(pixels.dtype), pixels[:, 0], align_corners=False) * mask[:, :, 0]
        above = F.grid_sample(quarter.to(pixels.dtype), pixels.flatten(1, 2), align_corners=False)
        columns = torch.cat([above.view(b, -1, heights, rows, cols), mask], dim=1) * mask
        x = torch.cat([ground, columns.transpose(1, 2).flatten(1, 2)], dim=1)
        return x.contiguous(memory_format=torch.channels_last)

    def describe(self, samples: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Describe the cells, from `sample` and the mask (B, 1, Z, 2 rows, 2 cols) of what is seen; see `forward`."""
        hidden = self.body(self.reduce(samples))
        coarse, fine, coarse_weight, fine_weight = self.head(hidden).float().split(self.split, dim=1)
        seen = F.max_pool2d(mask[:, :, 0].float(), 2)
        return (
            F.normalize(coarse, dim=1),
            F.normalize(fine, dim=1),
            torch.sigmoid(coarse_weight) * seen,
            torch.sigmoid(fine_weight) * seen,
            hidden,
        )
