"""The ground as the camera sees it, and the satellite image as the camera would see it: for pictures and point clouds.

All ground is the plane z = 0 of base_link, as for the matcher.
"""

from __future__ import annotations

import cv2
import numpy as np

from cvloc_ros.evaluation.drawing import EMPTY
from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.types import Frame

_HORIZON_AT = 0.22  # of a view's height: the sky tells nothing
_FAR = 1e4  # metres
_EDGE_SCALE = 2  # edges are looked for in a patch enlarged by this
_EDGE_BLUR = 1.6  # pixels of the enlarged patch
_EDGE_SHARE = 0.08  # of the enlarged patch's pixels that may be edges, at most
_SHORTEST_EDGE = 4.0  # metres


def project_ground(ground: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Project ground points (..., 2) of the vehicle's frame; returns pixels (..., 2) and which are in view (...)."""
    T_camera_base = np.linalg.inv(frame.T_base_camera)
    return frame.camera.project(np.asarray(ground) @ T_camera_base[:3, :2].T + T_camera_base[:3, 3])


def bird_view(frame: Frame, grid: GroundGrid) -> tuple[np.ndarray, np.ndarray]:
    """Colour a ground grid with what the camera sees there.

    Returns:
        RGB uint8 (rows, cols, 3), and bool (rows, cols): which cells are in view.

    """
    pixels, visible = project_ground(grid.centres(), frame)
    maps = np.where(visible[..., None], pixels, 0).astype(np.float32)
    image = cv2.remap(frame.image, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image[~visible] = EMPTY
    return image, visible


def satellite_view(patch: Patch, T_patch_base: SE2, grid: GroundGrid) -> np.ndarray:
    """Return the satellite image on the ground grid of a vehicle at ``T_patch_base``: RGB uint8 (rows, cols, 3)."""
    return sample_patch(patch, T_patch_base.apply(grid.centres()))


def sample_patch(patch: Patch, points: np.ndarray) -> np.ndarray:
    """Return a patch's colours (H, W, 3) at points (H, W, 2) in its frame; `EMPTY` where it has none."""
    image = np.where(patch.coverage[..., None], patch.image, np.array(EMPTY, np.uint8))
    cells = patch.grid.to_cells(points).astype(np.float32)
    return cv2.remap(
        image, cells[..., 1], cells[..., 0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=EMPTY
    )


def satellite_edges(patch: Patch) -> list[np.ndarray]:
    """Return the strongest edges of the satellite image as lines (N, 2), metres in the patch's frame."""
    grey = cv2.cvtColor(patch.image, cv2.COLOR_RGB2GRAY)
    size = (_EDGE_SCALE * patch.grid.cols, _EDGE_SCALE * patch.grid.rows)
    grey = cv2.GaussianBlur(cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC), (0, 0), _EDGE_BLUR)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    strong = float(np.quantile(slope[::4, ::4], 1 - _EDGE_SHARE))  # a dull picture has edges, too
    edges = cv2.Canny(grey, 0.5 * strong, strong, L2gradient=True)
    edges[~cv2.resize(patch.coverage.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)] = 0
    chains, _ = cv2.findContours(edges, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cell = patch.grid.cell / _EDGE_SCALE
    lines = []
    for chain in chains:
        if len(chain) * cell < 2 * _SHORTEST_EDGE:  # a contour runs along both sides of its line
            continue
        pixels = cv2.blur(chain.astype(np.float32), (1, 5), borderType=cv2.BORDER_REPLICATE)[:, 0, ::-1]
        lines.append(patch.grid.to_metres((pixels + 0.5) / _EDGE_SCALE - 0.5))
    return lines


class CameraView:
    """The rows of the camera's image that show the ground, scaled to a panel of ``size`` (width, height)."""

    def __init__(self, frame: Frame, size: tuple[int, int]) -> None:
        """Choose rows of the panel's aspect, with the horizon near their top."""
        camera, T_base_camera = frame.camera, frame.T_base_camera
        rows = min(round(camera.width * size[1] / size[0]), camera.height)
        far_ahead = np.linalg.inv(T_base_camera) @ [_FAR, 0.0, T_base_camera[2, 3], 1.0]
        (_, horizon), _ = camera.project(far_ahead[:3])
        top = int(np.clip(horizon - _HORIZON_AT * rows, 0, camera.height - rows))
        shrinks = camera.width > size[0]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        self.image = cv2.resize(frame.image[top : top + rows], size, interpolation=interpolation)
        self._frame, self._top, self._rows = frame, top, rows
        self._scale = np.array([size[0] / camera.width, size[1] / rows])

    def project(self, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project ground points (N, 2) of the vehicle's frame; returns pixels (N, 2) and which are in view (N,)."""
        pixels, visible = project_ground(ground, self._frame)
        v = pixels[..., 1] - self._top
        inside = visible & (v >= -0.5) & (v <= self._rows - 0.5)
        return (pixels - [0, self._top] + 0.5) * self._scale - 0.5, inside
