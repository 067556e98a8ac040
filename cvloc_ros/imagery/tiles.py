"""Web Mercator tiles: where they lie, how their files become pixels, and how they are kept on disk.

Tile (z, x, y) is the x-th from the west and the y-th from the north of 2^z a side (XYZ order, "slippy map").
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from cvloc_ros.geometry import LocalFrame, meters_per_pixel
from cvloc_ros.imagery.raster import READ_ERRORS
from cvloc_ros.imagery.uri import LARGEST_TILE, ImageryError, LayerUri, cache_folder

WEB_MERCATOR = CRS.from_epsg(3857)
HALF_WORLD = 20037508.342789244  # pi * 6378137 m: Web Mercator's x and y end here
_FORMATS = ["JPEG", "PNG", "WEBP", "GTiff"]  # no others: a server must not hand us a VRT that names our files
_COARSER = 1.25  # a tile's pixels may be so much larger than the map's
_DEEPEST = 22
_ABSENCE = 7 * 86400.0  # seconds for which a server's "there is no such tile" is believed

# A tile's file has no coordinates, its address has them.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"rasterio\.io")


class TileError(ImageryError):
    """A tile did not come.

    Attributes:
        wait: seconds for which there is no point in asking again.

    """

    def __init__(self, message: str, *, wait: float = 0.0) -> None:
        """Say why, and for how long there is no point in asking again."""
        super().__init__(message)
        self.wait = wait


class Tile(NamedTuple):
    """A tile's address."""

    z: int
    x: int
    y: int

    def bounds(self) -> tuple[float, float, float, float]:
        """Return west, south, east and north edge in Web Mercator metres."""
        side = 2 * HALF_WORLD / 2**self.z
        west, north = -HALF_WORLD + self.x * side, HALF_WORLD - self.y * side
        return west, north - side, west + side, north


def zoom_for(latitude: float, *, cell: float, tile: int) -> int:
    """Return the coarsest zoom whose pixels, for tiles of ``tile`` pixels, are about as fine as ``cell`` metres."""
    zoom = np.log2(meters_per_pixel(latitude, 0) * 256 / tile / (_COARSER * cell))
    return int(np.clip(np.ceil(zoom), 0, _DEEPEST))


def tile_positions(frame: LocalFrame, points: np.ndarray, zoom: int) -> np.ndarray:
    """Map points of the map frame (..., 2), metres, to tiles and parts of a tile east and south, (..., 2)."""
    degrees = frame.to_wgs84(points)
    latitude = np.radians(np.clip(degrees[..., 0], -85.0511, 85.0511))
    x = degrees[..., 1] / 360 + 0.5
    y = 0.5 - np.arcsinh(np.tan(latitude)) / (2 * np.pi)
    return np.clip(np.stack([x, y], axis=-1), 0, 1 - 1e-12) * 2**zoom


def tiles_of_box(frame: LocalFrame, box: tuple[float, float, float, float], zoom: int) -> list[Tile]:
    """Return the tiles that a box (west, south, east, north; metres in the map) touches, row by row.

    A pixel's breadth around the box is included, for interpolation.
    """
    west, south, east, north = box
    t = np.linspace(0, 1, 9)
    edges = np.concatenate([np.stack(np.broadcast_arrays(east * t + west * (1 - t), y), -1) for y in (south, north)])
    sides = np.concatenate([np.stack(np.broadcast_arrays(x, north * t + south * (1 - t)), -1) for x in (west, east)])
    border = tile_positions(frame, np.concatenate([edges, sides]), zoom)
    x0, y0 = np.floor(border.min(axis=0) - 1 / 64).astype(int).clip(0)
    x1, y1 = np.floor(border.max(axis=0) + 1 / 64).astype(int).clip(None, 2**zoom - 1)
    return [Tile(zoom, x, y) for y in range(y0, y1 + 1) for x in range(x0, x1 + 1)]


def assemble(pieces: Iterable[tuple[Tile, np.ndarray]], tiles: list[Tile], size: int) -> tuple[np.ndarray, Affine]:
    """Put tiles (size, size, 4) into one picture that has room for ``tiles``.

    Returns:
        RGBA uint8, 0 where no tile came; and its geotransform in Web Mercator.

    """
    first, last = tiles[0], tiles[-1]
    picture = np.zeros(((last.y - first.y + 1) * size, (last.x - first.x + 1) * size, 4), np.uint8)
    for tile, rgba in pieces:
        row, col = (tile.y - first.y) * size, (tile.x - first.x) * size
        picture[row : row + size, col : col + size] = rgba
    west, _, east, north = first.bounds()
    pixel = (east - west) / size
    return picture, Affine(pixel, 0, west, 0, -pixel, north)


def decode_tile(data: bytes, *, size: int | None) -> np.ndarray:
    """Decode a tile's file to RGBA uint8, (size, size, 4); None takes any square.

    Raises:
        TileError: the bytes are no image, a damaged one, or one of another size.

    """
    if not _is_whole(data):
        raise TileError(f"expected an image, got {len(data)} bytes that are none, or only its beginning")
    try:
        with MemoryFile(data) as file, file.open(driver=_FORMATS) as dataset:
            shape = (size, size) if size else (dataset.height, dataset.height)
            if (dataset.height, dataset.width) != shape:
                raise TileError(
                    f"expected tiles of {shape[0]} x {shape[0]} pixels, got {dataset.width} x {dataset.height}: "
                    "if all its tiles have that size, add #tile=... to the imagery"
                )
            if dataset.height > LARGEST_TILE:
                raise TileError(f"expected tiles of at most {LARGEST_TILE} pixels a side, got {dataset.height}")
            bands = dataset.read([1, 2, 3] if dataset.count >= 3 else [1])
            alpha = dataset.dataset_mask()
            palette = dataset.colormap(1) if dataset.colorinterp[0] == ColorInterp.palette else None
    except READ_ERRORS as error:
        reason = re.sub(r"'?/vsimem/\S+ ?", "", str(error))  # a name in memory that nobody knows
        raise TileError(f"expected an image, got {len(data)} bytes that are none: {reason}") from None
    if bands.dtype == np.uint16:
        bands, alpha = (bands >> 8).astype(np.uint8), alpha.astype(np.uint8)
    if bands.dtype != np.uint8:
        raise TileError(f"expected a tile with 8 bits a colour, got {bands.dtype}")
    if palette is not None:
        table = np.zeros((256, 4), np.uint8)
        table[list(palette)] = list(palette.values())
        rgba = table[bands[0]]
        rgba[..., 3] = np.minimum(rgba[..., 3], alpha)
    else:
        rgba = np.stack([*np.broadcast_to(bands, (3, *alpha.shape)), alpha], axis=-1)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def _is_whole(data: bytes) -> bool:
    """Whether a file has the end that its kind has: GDAL shows half an image without an error."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in data[-1024:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-1024:]
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return bool(data)


class TileCache:
    """Tiles of one layer on disk, as a folder z/x/y; an empty file remembers that there is no such tile.

    The folder's name is made of the place as written, so that another value of ``${KEY}`` finds the same tiles.
    """

    def __init__(self, uri: LayerUri) -> None:
        """Name the folder; nothing is made before there is something to keep."""
        digest = hashlib.sha256(uri.place.encode()).hexdigest()[:12]
        name = re.sub(r"[^\w.-]+", "_", uri.host)[:60]
        self.folder = cache_folder() / "tiles" / f"{name}-{digest}"

    def path(self, tile: Tile) -> Path:
        """Return where a tile is kept."""
        return self.folder / str(tile.z) / str(tile.x) / str(tile.y)

    def get(self, tile: Tile, *, believe_absence: bool = True) -> bytes | None:
        """Return a tile's file, empty if there is no such tile; None if it must be asked for."""
        path = self.path(tile)
        try:
            data = path.read_bytes()
            if not data and not believe_absence and time.time() - path.stat().st_mtime > _ABSENCE:
                return None
        except OSError:
            return None
        return data

    def size(self, tile: Tile) -> int | None:
        """Return the bytes of a tile's file, 0 if there is no such tile; None if it is not on disk."""
        try:
            return self.path(tile).stat().st_size
        except OSError:
            return None

    def put(self, tile: Tile, data: bytes) -> None:
        """Keep a tile; a reader sees all of it or nothing.

        Raises:
            OSError: the disk is full or read-only.

        """
        self.write(self.path(tile), data)

    @staticmethod
    def write(path: Path, data: bytes) -> None:
        """Write a file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
