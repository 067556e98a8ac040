"""Write a town's aerial picture as a georeferenced orthophoto."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyproj import Transformer

from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame

if TYPE_CHECKING:
    from cvloc_ros.datasets.town.town import Town

_TILE, _MARGIN = 512, 16  # pixels; the margin keeps blur and soft shadows continuous over the tiles' seams


def utm_epsg(latitude: float, longitude: float) -> int:
    """Return the EPSG code of the WGS84 UTM zone that holds a place."""
    zone = int((longitude + 180) // 6) % 60 + 1
    return (32600 if latitude >= 0 else 32700) + zone


def map_to_utm(frame: LocalFrame, extent: float) -> tuple[int, np.ndarray]:
    """Return the UTM zone's EPSG code and the similarity (2x3) that takes map metres to easting and northing.

    Fitted over a square of ``extent`` metres about the datum: UTM is conformal, so that a similarity is true to a
    millimetre over a town. It turns by the grid convergence and scales by about 0.9996.
    """
    epsg = utm_epsg(frame.latitude, frame.longitude)
    transformer = Transformer.from_crs(frame.crs, f"EPSG:{epsg}", always_xy=True)
    side = np.linspace(-extent / 2, extent / 2, 5)
    x, y = (a.ravel() for a in np.meshgrid(side, side))
    easting, northing = transformer.transform(x, y)
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate([np.column_stack([x, -y, one, zero]), np.column_stack([y, x, zero, one])])
    a, b, e, n = np.linalg.lstsq(rows, np.concatenate([easting, northing]), rcond=None)[0]
    return epsg, np.array([[a, -b, e], [b, a, n]])


def write_orthophoto(town: Town, path: str | Path, *, cell: float = 0.2, seed: int = 0) -> Path:
    """Write the town as a north-up (grid north) GeoTIFF in the UTM zone of its datum.

    The picture's axes are UTM's, not the map's: between the two lie the grid convergence and scale, as with real
    orthophotos. It is tiled and JPEG-compressed inside.

    Args:
        town: what to render; all of it lies in the picture, with bare land beyond its edges.
        path: of the file; its folder must exist.
        cell: metres per pixel.
        seed: of the picture's season, light, colours and cars.

    Returns:
        The path.

    """
    import rasterio
    from rasterio.transform import Affine
    from rasterio.windows import Window

    path = Path(path)
    epsg, M = map_to_utm(town.datum, town.size)
    scale, turn = float(np.hypot(M[0, 0], M[1, 0])), float(np.arctan2(M[1, 0], M[0, 0]))
    half = 0.5 * town.size * scale * (abs(np.cos(turn)) + abs(np.sin(turn)))
    n = int(np.ceil(2 * half / cell))
    west, north = (np.floor((M[k, 2] + s * half) / cell) * cell for k, s in ((0, -1), (1, 1)))
    look = Appearance.draw(np.random.default_rng([town.seed, seed, 31]), style=town.style, view="satellite")
    profile = dict(driver="GTiff", width=n, height=n, count=3, dtype="uint8", crs=f"EPSG:{epsg}", tiled=True)
    profile |= dict(blockxsize=256, blockysize=256, compress="JPEG", photometric="YCBCR", JPEG_QUALITY=92)
    with rasterio.open(path, "w", transform=Affine(cell, 0, west, 0, -cell, north), **profile) as raster:
        to_map = np.linalg.inv(M[:, :2])
        side = _TILE + 2 * _MARGIN
        grid = GroundGrid(side, side, cell / scale, side * cell / scale / 2)
        for row in range(0, n, _TILE):
            for col in range(0, n, _TILE):
                middle = np.array([west + (col + _TILE / 2) * cell, north - (row + _TILE / 2) * cell])
                x, y = to_map @ (middle - M[:, 2])
                pose = SE2(float(x), float(y), np.pi / 2 - turn)  # "forward" is grid north
                picture = town.render_satellite(pose, grid, appearance=look, cars=seed)
                height, width = min(_TILE, n - row), min(_TILE, n - col)
                part = picture[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width]
                raster.write(part.transpose(2, 0, 1), window=Window(col, row, width, height))
    return path
