"""From any camera's image to the size that the network was trained on, and from any light to an even one."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from cvloc_ros.geometry import Camera, ForwardView, PinholeCamera

# Focal lengths that training covers, in widths of the network's image; others are scaled into the range.
FOCAL_RANGE = (190 / 416, 330 / 416)
HORIZON_ROW = 0.47  # of the image's height
_VIEW_FOCAL = 250 / 416  # likewise, of the view that is cut out of a fisheye image or a panorama: 80 degrees wide
_TILE = 64  # about how many pixels wide and high the parts of an image are whose contrasts are evened out


def fit_image(
    image: np.ndarray, camera: Camera, T_base_camera: np.ndarray, *, width: int, height: int, stretch: bool = False
) -> tuple[np.ndarray, Camera]:
    """Scale and crop (or pad) an image to ``width`` x ``height`` with the horizon at a fixed row.

    The image's width is kept where the camera's field of view is one that training covers; a wider or narrower one
    is cropped or padded at the sides, so that angles keep their size. Out of the image of any other than a pinhole
    camera a level pinhole view forward is cut.

    Args:
        image: RGB uint8 (H, W, 3).
        camera: its intrinsics.
        T_base_camera: 4x4; only the rotation is used, to find the horizon and the way ahead.
        width: pixels.
        height: pixels.
        stretch: resize a pinhole camera's image whatever its aspect and its horizon.

    Returns:
        The image (height, width, 3) and its camera, which takes points in the same optical frame.

    """
    if not isinstance(camera, PinholeCamera):
        view = _forward_view(camera, np.asarray(T_base_camera, float).tobytes(), width, height)
        return view.cut(image), view
    if stretch:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), camera.resized(width, height)
    relative = camera.K[0, 0] / camera.width
    scale = float(np.clip(relative, *FOCAL_RANGE)) / relative * width / camera.width
    scaled = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    left = 0 if scaled.width == width else round(scaled.K[0, 2] - (width - 1) / 2)
    ahead = T_base_camera[:3, :3].T @ np.array([1.0, 0.0, 0.0])  # the forward direction, which meets the horizon
    horizon = scaled.K[1, 1] * ahead[1] / max(ahead[2], 1e-3) + scaled.K[1, 2]
    top = round(horizon - HORIZON_ROW * height)
    if scaled.height == height and abs(top) <= 0.12 * height:
        top = 0  # an image of the right size is left as it is
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if scale != 1:
        image = cv2.resize(image, (scaled.width, scaled.height), interpolation=interpolation)
    rows = slice(max(0, top), min(scaled.height, top + height))
    cols = slice(max(0, left), min(scaled.width, left + width))
    if (rows, cols) == (slice(top, top + height), slice(left, left + width)):
        fitted = image[rows, cols]
    else:
        fitted = np.full((height, width, 3), np.array(cv2.mean(image)[:3]).astype(np.uint8))
        if rows.stop > rows.start and cols.stop > cols.start:
            fitted[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = image[rows, cols]
    return fitted, scaled.cropped(left=left, top=top, width=width, height=height)


def even_contrast(image: np.ndarray, limit: float) -> np.ndarray:
    """Even out the contrast of each channel over an image, and its brightness.

    What a place looks like changes with light and season, the edges in it less: under snow or at dusk they are faint.
    This is contrast-limited adaptive histogram equalization (Zuiderveld, Graphics Gems IV, 1994); on a GPU it is
    `contrast.even_contrast_on_device`.

    Args:
        image: RGB uint8 (H, W, 3).
        limit: how steep a tone curve may become: with 3, contrasts grow to three or four times what they were, and
            no more; 0 leaves the image as it is.
    """
    if not limit:
        return image
    rows, cols = contrast_tiles(*image.shape[:2])
    equalizer = cv2.createCLAHE(limit, (cols, rows))
    return cv2.merge([equalizer.apply(channel) for channel in cv2.split(image)])


def contrast_tiles(height: int, width: int) -> tuple[int, int]:
    """Return in how many parts, down and across, the contrast of an image is evened out."""
    return max(1, round(height / _TILE)), max(1, round(width / _TILE))


@lru_cache(maxsize=4)
def _forward_view(camera: Camera, T_base_camera: bytes, width: int, height: int) -> ForwardView:
    """Return the same view for every frame of a camera: where its pixels come from is found out once."""
    ahead = PinholeCamera.from_focal(width, height, _VIEW_FOCAL * width, cy=HORIZON_ROW * height)
    return ForwardView(ahead, camera, np.frombuffer(T_base_camera).reshape(4, 4))
