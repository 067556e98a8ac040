"""A level pinhole view forward, cut out of what a fisheye lens or a panorama sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from cvloc_ros.geometry.camera import Camera, PinholeCamera, camera_extrinsics
from cvloc_ros.geometry.wide_cameras import EquirectangularCamera

_SHARP = 1.4  # source pixels per pixel of the view, from which the source is averaged first


@dataclass(frozen=True, eq=False)
class ForwardView:
    """A pinhole camera in the place of another one, level and looking along base_link's x axis.

    It takes points in the optical frame of the camera that it is cut from, so that it can stand in for it.

    Attributes:
        pinhole: intrinsics of the view.
        source: the camera that it is cut from.
        T_base_source: 4x4, the source's optical frame to base_link.

    """

    pinhole: PinholeCamera
    source: Camera
    T_base_source: np.ndarray

    @property
    def width(self) -> int:
        """Pixels."""
        return self.pinhole.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.pinhole.height

    @property
    def focal(self) -> float:
        """Pixels per radian in the image's middle."""
        return self.pinhole.focal

    @property
    def T_base_view(self) -> np.ndarray:
        """4x4, the view's optical frame to base_link."""
        T = camera_extrinsics(height=0.0)
        T[:3, 3] = self.T_base_source[:3, 3]
        return T

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (..., 3) in the source's optical frame; what the source does not see is not visible."""
        points = np.asarray(points, dtype=float)
        pixels, inside = self.pinhole.project(points @ self._R_view_source.T)
        return pixels, inside & self.source.project(points)[1]

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the rays (..., 3) of pixels (..., 2) in the source's optical frame."""
        return self.pinhole.rays(pixels) @ self._R_view_source

    def resized(self, width: int, height: int) -> ForwardView:
        """Return the view of the image resized to ``width`` x ``height``."""
        return ForwardView(self.pinhole.resized(width, height), self.source, self.T_base_source)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Cut the view (height, width, 3) out of the source's image; its mean colour where the source sees nothing."""
        blank = tuple(int(c) for c in image[::8, ::8].mean(axis=(0, 1)))
        source, columns, rows = self._origin
        if source is not self.source:
            image = cv2.resize(image, (source.width, source.height), interpolation=cv2.INTER_AREA)
        image = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        if isinstance(source, EquirectangularCamera):  # goes on at its other side
            image[:, 0], image[:, -1] = image[:, -2], image[:, 1]
        return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderValue=blank)

    @cached_property
    def _origin(self) -> tuple[Camera, np.ndarray, np.ndarray]:
        """The source, shrunk if the view is coarser, and the columns and rows of it that the view's pixels show.

        They count from a border of one pixel around the source; what it does not see lies outside.
        """
        source, shrink = self.source, self.source.focal / self.focal
        if shrink > _SHARP:  # to an even number of columns: half of them are a panorama's rows
            size = 2 * max(1, round(source.width / shrink / 2)), max(1, round(source.height / shrink))
            source = source.resized(*size)
        columns, rows = np.meshgrid(np.arange(self.width), np.arange(self.height))
        pixels, seen = source.project(self.rays(np.stack([columns, rows], axis=-1)))
        pixels = np.where(seen[..., None], pixels + 1, -2.0).astype(np.float32)
        return source, np.ascontiguousarray(pixels[..., 0]), np.ascontiguousarray(pixels[..., 1])

    @property
    def _R_view_source(self) -> np.ndarray:
        return self.T_base_view[:3, :3].T @ self.T_base_source[:3, :3]
