"""Colours, strokes and letters of the match picture: OpenCV's drawing with sub-pixel positions, outlines, one font."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np

Color = tuple[int, int, int]

BLACK: Color = (0, 0, 0)
TEXT: Color = (232, 234, 237)
SHADE: Color = (24, 26, 31)
EMPTY: Color = (44, 48, 56)
"""Where nothing is known."""
QUIET: Color = (154, 160, 166)
PRIOR: Color = (255, 183, 77)
ACCEPTED: Color = (102, 222, 140)
REJECTED: Color = (255, 99, 97)
TRUTH: Color = (255, 255, 255)
EDGE: Color = (64, 224, 255)

_PLASMA = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_PLASMA)[:, 0, ::-1]
_SHIFT = 4  # bits of sub-pixel position
_FONT = cv2.FONT_HERSHEY_DUPLEX


def weight_colors(weights: np.ndarray) -> np.ndarray:
    """Return RGB colours (N, 3) uint8 of weights (N,) in [0, 1]: dark violet for little, yellow for much."""
    return _PLASMA[np.round(60 + 195 * np.clip(weights, 0, 1)).astype(np.uint8)]


def heat_colors(values: np.ndarray) -> np.ndarray:
    """Return RGB colours (H, W, 3) uint8 of values (H, W) in [0, 1]: black for nothing, white for all."""
    scaled = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1])


def polyline(image: np.ndarray, pixels: np.ndarray, color: Color, *, thickness: int = 1) -> None:
    """Draw an open line through pixels (N, 2) as (u, v)."""
    cv2.polylines(image, [_fixed(pixels)], False, _bgr(color), thickness, cv2.LINE_AA, _SHIFT)


def outlined(image: np.ndarray, pixels: np.ndarray, color: Color, *, thickness: int = 1) -> None:
    """Draw an open line that shows on any background."""
    polyline(image, pixels, BLACK, thickness=thickness + 2)
    polyline(image, pixels, color, thickness=thickness)


def polygon(image: np.ndarray, pixels: np.ndarray, color: Color) -> None:
    """Fill an outline (N, 2), with a dark edge."""
    points = _fixed(pixels)
    cv2.fillPoly(image, [points], _bgr(color), cv2.LINE_AA, _SHIFT)
    cv2.polylines(image, [points], True, BLACK, 1, cv2.LINE_AA, _SHIFT)


def dot(image: np.ndarray, pixel: np.ndarray, color: Color, *, radius: float) -> None:
    """Draw a disc with a dark edge."""
    centre = tuple(int(value) for value in _fixed(pixel))
    for size, tint in ((radius + 1.0, BLACK), (radius, color)):
        cv2.circle(image, centre, round(size * (1 << _SHIFT)), _bgr(tint), -1, cv2.LINE_AA, _SHIFT)


def write(image: np.ndarray, text: str, *, x: int, y: int, size: float, color: Color = TEXT) -> int:
    """Write a line whose baseline starts at (x, y); return where it ends."""
    cv2.putText(image, text, (x, y), _FONT, size, _bgr(color), 1, cv2.LINE_AA)
    return x + text_width(text, size)


def tag(image: np.ndarray, text: str, *, x: int, y: int) -> None:
    """Write a small label on a dark ground, centred at height y, beginning at x or where it still fits."""
    width = text_width(text, 0.4) + 10
    x = min(max(x, 0), image.shape[1] - width)
    y = min(max(y, 8), image.shape[0] - 9)
    box(image, x=x, y=y - 8, width=width, height=17, color=SHADE, opacity=0.72)
    write(image, text, x=x + 5, y=y + 5, size=0.4)


def plain_text(text: str) -> str:
    """Return a text without the letters that OpenCV 4 and RViz cannot write."""
    return unicodedata.normalize("NFKD", text.replace("©", "(c)")).encode("ascii", "ignore").decode()


def text_width(text: str, size: float) -> int:
    """Return how many pixels a line takes."""
    return int(cv2.getTextSize(text, _FONT, size, 1)[0][0])


def box(image: np.ndarray, *, x: int, y: int, width: int, height: int, color: Color, opacity: float = 1.0) -> None:
    """Fill a rectangle, or darken what is under it."""
    area = image[y : y + height, x : x + width]
    area[:] = np.round((1 - opacity) * area + opacity * np.array(color)).astype(np.uint8)


def caption(image: np.ndarray, text: str) -> None:
    """Name a panel in its upper left corner."""
    box(image, x=0, y=0, width=text_width(text, 0.46) + 18, height=25, color=SHADE, opacity=0.72)
    write(image, text, x=9, y=17, size=0.46)


def legend(image: np.ndarray, entries: list[tuple[str, Color]]) -> None:
    """Explain colours in the upper left corner."""
    width = 10 + sum(text_width(name, 0.46) + 34 for name, _ in entries)
    box(image, x=0, y=0, width=width, height=25, color=SHADE, opacity=0.72)
    x = 14
    for name, color in entries:
        dot(image, np.array([x, 12.0]), color, radius=4.5)
        x = write(image, name, x=x + 10, y=17, size=0.46) + 24


def scale_bar(image: np.ndarray, *, metres: float, pixels: float) -> None:
    """Draw a length in the lower left corner."""
    height, width = 38, round(pixels) + 28
    top = image.shape[0] - height
    box(image, x=0, y=top, width=width, height=height, color=SHADE, opacity=0.72)
    y = top + 28.0
    polyline(image, np.array([[14.0, y - 5], [14.0, y], [14.0 + pixels, y], [14.0 + pixels, y - 5]]), TEXT, thickness=2)
    text = f"{metres:g} m"
    write(image, text, x=(width - text_width(text, 0.42)) // 2, y=top + 19, size=0.42)


def north_arrow(image: np.ndarray, *, up_yaw: float) -> None:
    """Point north in the upper right corner, where the picture's up has the heading ``up_yaw`` (from east)."""
    angle = np.pi / 2 - up_yaw  # of north, counter-clockwise from up
    north = np.array([-np.sin(angle), -np.cos(angle)])
    side = np.array([-north[1], north[0]])
    side_length = 58
    box(image, x=image.shape[1] - side_length, y=0, width=side_length, height=side_length, color=SHADE, opacity=0.72)
    centre = np.array([image.shape[1] - side_length / 2, side_length / 2])
    tail = centre - 6 * north
    polygon(image, tail + np.stack([16 * north, 7 * side - 10 * north, -5 * north, -7 * side - 10 * north]), TEXT)
    u, v = centre + 20 * north
    write(image, "N", x=round(u) - 5, y=round(v) + 5, size=0.42)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Return pixels in OpenCV's fixed-point coordinates; far-away ones are held near the picture."""
    return np.round(np.clip(pixels, -1e4, 1e4) * (1 << _SHIFT)).astype(np.int32)


def _bgr(color: Color) -> tuple[int, int, int]:
    """Return a colour as OpenCV's type checks want it; the pictures stay RGB."""
    red, green, blue = (int(value) for value in color)
    return red, green, blue
