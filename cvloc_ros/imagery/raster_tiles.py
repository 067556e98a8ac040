"""Rasters behind a network (a COG on a web server, WMTS and WMS by GDAL's drivers), cut into tiles.

As tiles they share disk cache, offline use and prefetching with everything else, and a server's failure costs a tile
and not the map.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import rasterio

from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery.gdal_settings import gdal_options
from cvloc_ros.imagery.http_tiles import check_ranges
from cvloc_ros.imagery.raster import RasterReader, attribution, open_raster
from cvloc_ros.imagery.server import Server
from cvloc_ros.imagery.tiles import WEB_MERCATOR, Tile, TileCache, TileError, zoom_for
from cvloc_ros.imagery.uri import ImageryError, LayerUri

TILE = 256
"""Pixels a side."""
_DESCRIPTION = "layer.json"


class RasterTiles:
    """Cuts tiles from a raster; one thread at a time, the others wait."""

    def __init__(self, uri: LayerUri, frame: LocalFrame, cache: TileCache) -> None:
        """Open the raster, or take what is remembered of it if the network is not to be asked or does not answer.

        Raises:
            ImageryError: it cannot be opened, and nothing is remembered of it.

        """
        self._uri = uri
        self._lock = threading.Lock()
        self._server = Server()
        self._raster: RasterReader | None = None
        self._reader: RasterReader | None = None  # of the overview that is as fine as the tiles, all of one zoom
        self._description = cache.folder / _DESCRIPTION
        try:
            known: dict[str, Any] = json.loads(self._description.read_text())
        except (OSError, ValueError):
            known = {}
        if not uri.offline:
            try:
                known = self._open(frame)
            except ImageryError:
                if not known:
                    raise
        self.maxzoom: int | None = known.get("maxzoom")
        """The zoom that has all of the raster's detail; None if nothing is known of it."""
        self.attribution = str(known.get("attribution", ""))

    def fetch(self, tile: Tile) -> tuple[bytes, np.ndarray] | None:
        """Return a tile as PNG file and RGBA pixels, None if the raster has nothing there.

        Raises:
            TileError: it could not be read.

        """
        west, _, east, north = tile.bounds()
        cell = (east - west) / TILE
        with self._lock, self._server.request(), rasterio.Env(**gdal_options(self._uri)):
            try:
                if self._reader is None:
                    self._reader = (self._raster or self._mercator_reader()).for_cells(cell)
                rgba = self._reader.read(west=west, north=north, rows=TILE, cols=TILE, cell=cell)
            except ImageryError as error:
                raise TileError(str(error)) from None
        if not rgba[..., 3].any():
            return None
        return cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))[1].tobytes(), rgba

    def _open(self, frame: LocalFrame) -> dict[str, Any]:
        """Open the raster and remember what is needed of it when the network is gone."""
        with rasterio.Env(**gdal_options(self._uri)):
            self._raster = self._mercator_reader()
            dataset = self._raster.dataset
            resolution = RasterReader.of(dataset, frame).resolution
            known = {
                "maxzoom": zoom_for(frame.latitude, cell=resolution, tile=TILE),
                "attribution": attribution(dataset),
            }
        with suppress(OSError):  # nor can a tile be kept then, and of the first one it is said
            TileCache.write(self._description, json.dumps(known).encode())
        return known

    def _mercator_reader(self) -> RasterReader:
        return RasterReader.in_crs(open_place(self._uri), WEB_MERCATOR)


def open_place(uri: LayerUri) -> rasterio.DatasetReader:
    """Open a layer that is a raster, wherever it is.

    Raises:
        ImageryError: see `open_raster`; or its web server cannot be used.

    """
    place = uri.expanded()
    address = place.removeprefix("/vsicurl/")
    if address.startswith(("http://", "https://")) and not uri.offline:
        check_ranges(address, agent=uri.agent)
    return open_raster(place)
