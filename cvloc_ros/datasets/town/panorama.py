"""The upright panorama that a camera's image is cut from: what is visible along each azimuth and elevation.

Columns are azimuths, rows are tangents of elevation; arrays are (columns, rows), so that a ray's column is one line
of memory. The ground is marched as a height field; prisms are intersected exactly and drawn with a depth test.
"""

from __future__ import annotations

import cv2
import numpy as np

from cvloc_ros.datasets.town.scenery import BUILDING, CAR, VAN, Prisms
from cvloc_ros.datasets.town.terrain import Terrain
from cvloc_ros.geometry import PinholeCamera

SKY, GROUND = -2, -1  # values of the index raster; prisms count from 0
FARTHEST = 150.0  # metres
_STEPS = np.geomspace(0.4, FARTHEST, 100).astype(np.float32)
_STEEPEST = 4.0  # tangent of the steepest elevation that is rendered
_PRISMS_TO = 120.0  # metres

# Height of a car's outline over its length, as shares of the whole: tail at -1, nose at 1.
_CAR_OUTLINE = ([-1, -0.95, -0.75, -0.5, 0.12, 0.5, 0.95, 1], [0.45, 0.6, 0.68, 1.0, 1.0, 0.62, 0.52, 0.38])
_VAN_OUTLINE = ([-1, 0.62, 0.8, 1], [1.0, 1.0, 0.62, 0.45])


class Panorama:
    """Depth (m, horizontal), index (`SKY`, `GROUND` or prism) of every pixel of the panorama.

    Attributes:
        eye: camera position in the map (x, y, z), metres.
        azimuth: (C,) of the columns, radians; cos and sin are kept.
        slope: (R,) tangent of the rows' elevation, falling.
        depth: (C, R) float32; index: (C, R) int16.

    """

    def __init__(self, T_map_camera: np.ndarray, camera: PinholeCamera, *, oversample: float) -> None:
        rays = camera.rays(_pixels(camera)) @ T_map_camera[:3, :3].T
        ahead = T_map_camera[:3, 2]
        middle = np.arctan2(ahead[1], ahead[0])
        turned = np.arctan2(rays[..., 1], rays[..., 0]) - middle
        turned = (turned + np.pi) % (2 * np.pi) - np.pi
        slopes = np.clip(rays[..., 2] / np.maximum(np.hypot(rays[..., 0], rays[..., 1]), 1e-6), -_STEEPEST, _STEEPEST)
        step = 1 / (oversample * camera.K[0, 0])
        drop = 1 / (oversample * camera.K[1, 1])
        columns = int(np.ceil((turned.max() - turned.min()) / step)) + 3
        rows = int(np.ceil((slopes.max() - slopes.min()) / drop)) + 3
        if columns * rows > 40e6:
            raise ValueError(f"expected a camera of up to about 10 megapixels, got {camera.width} x {camera.height}")
        left, top = turned.max() + step, slopes.max() + drop
        self._columns = ((left - turned) / step).astype(np.float32)
        self._rows = ((top - slopes) / drop).astype(np.float32)
        self.eye = T_map_camera[:3, 3].astype(np.float32)
        self.azimuth = (middle + left - step * np.arange(columns)).astype(np.float64)
        self.cos, self.sin = np.cos(self.azimuth).astype(np.float32), np.sin(self.azimuth).astype(np.float32)
        self.slope = (top - drop * np.arange(rows)).astype(np.float32)
        self.top, self.step, self.drop, self.middle, self.left = top, step, drop, middle, left
        self.depth = np.full((columns, rows), np.float32(1e4))
        self.index = np.full((columns, rows), SKY, np.int16)

    def to_image(self, panorama: np.ndarray) -> np.ndarray:
        """Cut the camera's picture out of a panorama (C, R, channels)."""
        return cv2.remap(panorama, self._rows, self._columns, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def row_of(self, slope):
        """Return the fractional row of a tangent of elevation."""
        return (self.top - slope) / self.drop

    def column_of(self, azimuth):
        """Return the fractional column of a map azimuth, nearest to the picture's middle."""
        return (self.left - ((azimuth - self.middle + np.pi) % (2 * np.pi) - np.pi)) / self.step

    def march_ground(self, terrain: Terrain) -> None:
        """Find the ground: the first of the steps whose slope, the largest so far, reaches the pixel's."""
        columns, rows = self.depth.shape
        points = np.stack([self.eye[0] + self.cos[:, None] * _STEPS, self.eye[1] + self.sin[:, None] * _STEPS], -1)
        rise = terrain(points) - self.eye[2]
        highest = np.maximum.accumulate(rise / _STEPS, axis=1)
        # A step is below pixel row r if its own row is greater than r; counting those gives the first that is not.
        last = np.minimum(np.ceil(self.row_of(highest)) - 1, rows - 1).astype(np.int64)
        flat = (last + np.arange(columns)[:, None] * rows)[last >= 0]
        hidden = np.bincount(flat, minlength=columns * rows).reshape(columns, rows)
        first = np.cumsum(hidden[:, ::-1], axis=1)[:, ::-1]
        seen = first < len(_STEPS)
        c, r = np.nonzero(seen)
        j = np.maximum(first[seen], 1)
        far, near = _STEPS[j], _STEPS[j - 1]
        over = rise[c, j] - self.slope[r] * far
        under = rise[c, j - 1] - self.slope[r] * near
        part = under / np.minimum(under - over, -1e-6)
        self.depth[seen] = np.maximum(near + (far - near) * part, 0.05)
        self.index[seen] = GROUND

    def draw_prisms(self, prisms: Prisms, base: np.ndarray) -> None:
        """Draw prisms whose ground heights are ``base`` (N,); their rows become the index raster's values."""
        away = np.hypot(prisms.x - self.eye[0], prisms.y - self.eye[1])
        reach = np.hypot(prisms.hx, prisms.hy)
        turned = np.abs(
            self.column_of(np.arctan2(prisms.y - self.eye[1], prisms.x - self.eye[0])) - len(self.azimuth) / 2
        )
        wide = np.arcsin(np.clip(reach / np.maximum(away, 1e-3), 0, 1)) / self.step + len(self.azimuth) / 2
        chosen = np.flatnonzero((away - reach < _PRISMS_TO) & ((turned < wide) | (away < reach)))
        if not len(chosen):
            return
        near, far, along, ahead = self._intersect(prisms.select(chosen))
        hit = (near < far) & (near > 0.3)
        closest = np.where(hit, near, np.inf).min(axis=1)
        horizon = np.full(len(self.azimuth), -np.inf, np.float32)
        for k in np.argsort(closest, kind="stable"):
            if not np.isfinite(closest[k]):
                break
            i = int(chosen[k])
            columns = np.flatnonzero(hit[k])
            span = slice(int(columns[0]), int(columns[-1]) + 1)
            start, stop = near[k, span], np.maximum(far[k, span], near[k, span] + 1e-3)
            kind = prisms.kind[i]
            distances, heights = _outline(prisms, i, start, stop, along[k, span], ahead[k, span])
            slopes = (heights + np.float32(base[i]) - self.eye[2]) / distances
            if (slopes.max(axis=0) <= horizon[span]).all():
                continue
            lowest = (float(base[i]) - 1.0 - float(self.eye[2])) / float(start[hit[k, span]].min())
            self._draw(i, span, hit[k, span], distances, slopes, lowest)
            if kind == BUILDING:
                horizon[span] = np.where(hit[k, span], np.maximum(horizon[span], slopes.max(axis=0)), horizon[span])

    def _intersect(self, prisms: Prisms):
        """Return distances (N, C) at which the columns' rays enter and leave, and the eye and ray along local y."""
        c, s = (f(prisms.yaw).astype(np.float32)[:, None] for f in (np.cos, np.sin))
        dx, dy = (
            (self.eye[0] - prisms.x).astype(np.float32)[:, None],
            (self.eye[1] - prisms.y).astype(np.float32)[:, None],
        )
        ox, oy = dx * c + dy * s, dy * c - dx * s
        ux, uy = self.cos * c + self.sin * s, self.sin * c - self.cos * s
        ux, uy = (np.where(np.abs(u) < 1e-6, np.float32(1e-6), u) for u in (ux, uy))
        hx, hy = prisms.hx.astype(np.float32)[:, None], prisms.hy.astype(np.float32)[:, None]
        x1, x2 = (-hx - ox) / ux, (hx - ox) / ux
        y1, y2 = (-hy - oy) / uy, (hy - oy) / uy
        near = np.maximum(np.minimum(x1, x2), np.minimum(y1, y2))
        far = np.minimum(np.maximum(x1, x2), np.maximum(y1, y2))
        car = (prisms.kind == CAR) | (prisms.kind == VAN)
        along = np.where(car[:, None], ox, oy) + np.zeros_like(ux)  # the axis that the outline changes along
        return near, far, along, np.where(car[:, None], ux, uy)

    def _draw(self, i: int, span: slice, hit, distances, slopes, lowest: float) -> None:
        """Draw one prism's wall at the first distance, then its top from each distance to the next."""
        rows = len(self.slope)
        r0 = int(np.clip(np.floor(self.row_of(slopes.max())), 0, rows))
        r1 = int(np.clip(np.ceil(self.row_of(lowest)) + 1, 0, rows))
        if r0 >= r1:
            return
        slope = self.slope[None, r0:r1]
        depth, index = self.depth[span, r0:r1], self.index[span, r0:r1]
        top = np.where(hit, slopes[0], np.float32(-1e3))[:, None]
        shown = (slope <= top) & (distances[0][:, None] < depth)
        np.copyto(depth, distances[0][:, None], where=shown)
        np.copyto(index, np.int16(i), where=shown)
        for k in range(1, len(distances)):
            risen = np.maximum(top[:, 0], np.where(hit, slopes[k], np.float32(-1e3)))[:, None]
            if (risen > top + 1e-4).any():
                d0, d1 = distances[k - 1][:, None], distances[k][:, None]
                z0, z1 = d0 * slopes[k - 1][:, None], d1 * slopes[k][:, None]
                under, over = z0 - slope * d0, z1 - slope * d1
                reached = d0 + (d1 - d0) * np.clip(under / np.minimum(under - over, np.float32(-1e-6)), 0, 1)
                shown = (slope > top) & (slope <= risen) & (reached < depth)
                np.copyto(depth, reached, where=shown)
                np.copyto(index, np.int16(i), where=shown)
            top = risen


def _outline(prisms: Prisms, i: int, start, stop, along, ahead) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (K, C) through a prism and its height at each, from where the rays enter it."""
    kind, eave, ridge = prisms.kind[i], np.float32(prisms.eave[i]), np.float32(prisms.ridge[i])
    if kind in (CAR, VAN):
        knots, shares = _CAR_OUTLINE if kind == CAR else _VAN_OUTLINE
        corners = (np.array(knots, np.float32)[:, None] * np.float32(prisms.hx[i]) - along) / ahead
        distances = np.concatenate([start[None], np.sort(np.clip(corners, start, stop), axis=0), stop[None]])
        place = (along + ahead * distances) / np.float32(prisms.hx[i])
        return distances, eave * np.interp(place, knots, shares).astype(np.float32)
    if ridge <= 0:
        return np.stack([start, stop]), np.full((2, len(start)), eave, np.float32)
    distances = np.stack([start, np.clip(-along / ahead, start, stop), stop])
    off = np.abs(along + ahead * distances) / np.float32(prisms.hy[i])
    return distances, eave + ridge * np.clip(1 - off, 0, 1)


def _pixels(camera: PinholeCamera) -> np.ndarray:
    u, v = np.meshgrid(np.arange(camera.width, dtype=float), np.arange(camera.height, dtype=float))
    return np.stack([u, v], axis=-1)
