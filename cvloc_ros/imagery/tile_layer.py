"""A layer of the map that is made of tiles: which ones a place needs, and what there is of them, in bounded time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import cv2
import numpy as np
from rasterio.io import MemoryFile

from cvloc_ros.geometry import LocalFrame, meters_per_pixel
from cvloc_ros.imagery.folder_tiles import FolderTiles
from cvloc_ros.imagery.http_tiles import HttpTiles
from cvloc_ros.imagery.raster import RasterReader
from cvloc_ros.imagery.raster_tiles import TILE, RasterTiles
from cvloc_ros.imagery.tiles import (
    WEB_MERCATOR,
    Tile,
    TileCache,
    TileError,
    assemble,
    decode_tile,
    tiles_of_box,
    zoom_for,
)
from cvloc_ros.imagery.uri import ImageryError, LayerUri, redacted

_PATIENCE = 10.0  # seconds for which the map waits for tiles before it goes on without them
_THREADS = 8  # tiles that are asked for at once
REACH = 50e3
"""Metres from the datum within which imagery is used: beyond it the flat map is off by more than half a metre."""
_FINER = 3  # zooms finer than asked for at which offline use looks for a tile's parts


class TileOrigin(Protocol):
    """Where tiles come from."""

    def fetch(self, tile: Tile) -> tuple[bytes, np.ndarray] | None:
        """Return a tile's file and RGBA pixels, None if there is no such tile; TileError if it did not come."""
        ...


class TileLayer:
    """Tiles in the map frame."""

    def __init__(self, uri: LayerUri, frame: LocalFrame, *, cell: float) -> None:
        """Choose the zoom for a map of ``cell`` metres; a server is not asked yet, unless it is known to GDAL only.

        Raises:
            ImageryError: there are no tiles in a folder, a raster cannot be opened, or a variable is not set.

        """
        self.name = uri.host
        self.bounds = (-REACH, -REACH, REACH, REACH)
        self.problem = self.unkept = ""
        self.offline = uri.offline
        """Whether the network may not be asked."""
        self.cache: TileCache | None = TileCache(uri) if uri.is_remote else None
        """Where tiles from a network are kept; None for a folder, which is none's copy."""
        self.size = uri.tile or (512 if "@2x" in uri.place else 256)
        """Pixels a side of a tile."""
        self.bytes_per_pixel = 0.35
        """About what an aerial photograph takes on disk: as JPEG, of servers; as PNG, of rasters."""
        self.attribution = uri.attribution
        self._frame = frame
        self._origin: TileOrigin
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tiles")
        deepest = [] if uri.maxzoom is None else [uri.maxzoom]
        there: list[int] = []  # the zooms, where they are known
        if self.cache is None:
            self._origin = folder = FolderTiles(uri)
            self.size, there = folder.size, folder.zooms
        elif uri.is_template:
            self._origin = HttpTiles(uri, size=self.size)
        else:
            self._origin = raster = RasterTiles(uri, frame, self.cache)
            self.size, self.bytes_per_pixel = TILE, 2.2  # PNG
            self.attribution = self.attribution or raster.attribution
            deepest += [] if raster.maxzoom is None else [raster.maxzoom]
        if self.cache is not None and not self.attribution:
            self.attribution = f"imagery from {self.name}, whose terms apply"
        self.zoom = min([zoom_for(frame.latitude, cell=cell, tile=self.size), *deepest])
        """Of the tiles that are asked for."""
        if there and self.zoom not in there:
            self.zoom = max([zoom for zoom in there if zoom < self.zoom], default=there[0])

    @property
    def resolution(self) -> float:
        """Metres a pixel at the datum."""
        return meters_per_pixel(self._frame.latitude, self.zoom) * 256 / self.size

    def tiles(self, boxes: Iterable[tuple[float, float, float, float]]) -> list[Tile]:
        """Return the tiles that boxes (west, south, east, north; metres in the map) touch, each once."""
        found: dict[Tile, None] = {}
        for box in boxes:
            found.update(dict.fromkeys(tiles_of_box(self._frame, box, self.zoom)))
        return list(found)

    def read(self, *, west: float, north: float, rows: int, cols: int, cell: float) -> np.ndarray:
        """Read ``rows`` x ``cols`` cells of ``cell`` metres whose upper left corner is (west, north) in the map.

        Tiles that do not come in time, or at all, are not covered; ``problem`` then says why, in one line. ``unkept``
        says why tiles that came are not in the cache.

        Returns:
            RGBA uint8, (rows, cols, 4); alpha is 255 where there are tiles, else the cell is 0.

        """
        tiles = tiles_of_box(self._frame, (west, north - rows * cell, west + cols * cell, north), self.zoom)
        self.unkept = ""
        pieces, reasons = self._gather(tiles)
        self.problem = self._describe(reasons, asked=len(tiles), came=len(pieces))
        if not pieces:
            return np.zeros((rows, cols, 4), np.uint8)
        picture, transform = assemble(pieces, tiles, self.size)
        profile = {"driver": "GTiff", "count": 4, "dtype": "uint8", "photometric": "RGB", "alpha": "yes"}
        height, width = picture.shape[:2]
        with MemoryFile() as file:
            with file.open(**profile, width=width, height=height, crs=WEB_MERCATOR, transform=transform) as dataset:
                dataset.write(np.moveaxis(picture, -1, 0))
            with file.open() as dataset:
                reader = RasterReader.of(dataset, self._frame)
                return reader.read(west=west, north=north, rows=rows, cols=cols, cell=cell)

    def download(self, tile: Tile) -> int:
        """Bring a tile into the cache; return its bytes, 0 if there is no such tile.

        Raises:
            TileError: it did not come.
            OSError: it cannot be kept.

        """
        assert self.cache is not None, "a folder of tiles needs no download"
        fetched = self._origin.fetch(tile)
        data = fetched[0] if fetched else b""
        self.cache.put(tile, data)
        return len(data)

    def _gather(self, tiles: list[Tile]) -> tuple[list[tuple[Tile, np.ndarray]], Counter[str]]:
        """Return the tiles that came, and the reasons why others did not."""
        futures: dict[Future[np.ndarray | None], Tile] = {self._pool.submit(self._tile, tile): tile for tile in tiles}
        done, late = wait(futures, timeout=_PATIENCE)
        reasons: Counter[str] = Counter()
        pieces = []
        for future in late:
            future.cancel()  # one that is under way still comes into the cache
            reasons[f"no answer within {_PATIENCE:.0f} s"] += 1
        for future in done:
            try:
                rgba = future.result()
            except (ImageryError, OSError) as error:
                reasons[redacted(str(error))] += 1
                continue
            if rgba is not None:
                pieces.append((futures[future], rgba))
        return pieces, reasons

    def _tile(self, tile: Tile) -> np.ndarray | None:
        """Return a tile's RGBA pixels, None if there is no such tile, or none to be had offline."""
        if self.cache is not None:
            data = self.cache.get(tile, believe_absence=self.offline)
            if data:
                try:
                    return decode_tile(data, size=self.size)
                except TileError:  # damaged on disk: ask again
                    data = None
            if data is not None:
                return None
            if self.offline:
                return self._from_finer(tile, _FINER)
        fetched = self._origin.fetch(tile)
        if self.cache is not None:
            try:
                self.cache.put(tile, fetched[0] if fetched else b"")
            except OSError as error:  # the tile is here all the same
                self.unkept = f"tiles of {self.name} cannot be kept: {error.strerror} in {self.cache.folder}"
        return fetched[1] if fetched else None

    def _from_finer(self, tile: Tile, depth: int) -> np.ndarray | None:
        """Return a tile made of the four that are on disk one zoom deeper: overviews need no download of their own."""
        assert self.cache is not None
        picture = np.zeros((2 * self.size, 2 * self.size, 4), np.uint8)
        for down, right in np.ndindex(2, 2):
            part = Tile(tile.z + 1, 2 * tile.x + right, 2 * tile.y + down)
            data = self.cache.get(part)
            if data:
                rgba: np.ndarray | None = decode_tile(data, size=self.size)
            else:
                rgba = self._from_finer(part, depth - 1) if depth > 1 and data is None else None
            if rgba is not None:
                row, col = down * self.size, right * self.size
                picture[row : row + self.size, col : col + self.size] = rgba
        return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if picture.any() else None

    def _describe(self, reasons: Counter[str], *, asked: int, came: int) -> str:
        if reasons:
            reason = reasons.most_common(1)[0][0]
            return f"tiles of {self.name} are missing: {reasons.total()} of {asked} did not come ({reason})"
        if not came and not self.offline and isinstance(self._origin, HttpTiles):
            return (
                f"{self.name} has no tiles here: none of {asked} at zoom {self.zoom}; if it ends at a lower zoom, "
                "add #maxzoom=... to the imagery"
            )
        return ""
