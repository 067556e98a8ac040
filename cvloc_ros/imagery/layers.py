"""The layers that the `imagery` setting names, opened: each reads a box of the map as RGB with coverage."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import rasterio
from rasterio.warp import transform as transform_points

from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery.gdal_settings import gdal_options
from cvloc_ros.imagery.raster import WGS84, RasterReader, attribution, outline, pixels_to_crs
from cvloc_ros.imagery.raster_tiles import open_place
from cvloc_ros.imagery.tile_layer import REACH, TileLayer
from cvloc_ros.imagery.uri import ImageryError, LayerUri, parse_layers


class Layer(Protocol):
    """What a map is made of."""

    name: str
    """Fit for showing."""
    attribution: str
    """Whom to credit; may be empty."""
    bounds: tuple[float, float, float, float]
    """West, south, east and north edge in the map, metres."""
    problem: str
    """Why the last reading lacks something that it should have; empty if it does not."""
    unkept: str
    """Why what came with the last reading would have to be asked for again; empty if it is kept."""

    def read(self, *, west: float, north: float, rows: int, cols: int, cell: float) -> np.ndarray:
        """Read cells of ``cell`` metres: RGBA uint8, (rows, cols, 4), 0 where there is nothing.

        Raises:
            ImageryError: it cannot be read.

        """
        ...


class RasterLayer:
    """A raster on this machine; see `Layer`."""

    problem = unkept = ""  # what cannot be read is an error

    def __init__(self, uri: LayerUri, frame: LocalFrame, *, cell: float) -> None:
        """Open the raster for a map of ``cell`` metres.

        Raises:
            ImageryError: it cannot be opened, has no coordinate system, or lies nowhere near the datum.

        """
        self.name = uri.place
        self._options = gdal_options(uri)
        with rasterio.Env(**self._options):
            dataset = open_place(uri)
            border = outline(dataset, frame)
            west, south = border.min(axis=0)
            east, north = border.max(axis=0)
            distance = float(np.hypot(max(west, -east, 0.0), max(south, -north, 0.0)))
            if not distance < REACH:
                place = frame.to_wgs84(border.mean(axis=0)) if np.isfinite(border).all() else "an unknown place"
                raise ImageryError(
                    f"expected imagery within {REACH / 1e3:.0f} km of the datum (latitude {frame.latitude:.6f}, "
                    f"longitude {frame.longitude:.6f}), but '{uri.place}' lies around {place}, {distance / 1e3:.0f} km "
                    "away: check the datum and the imagery"
                )
            # Reading is cheap here: finer than need be, so that overviews made without averaging shift nothing.
            self._reader = RasterReader.of(dataset, frame).for_cells(cell / 2)
        self.attribution = uri.attribution or attribution(dataset)
        self.bounds = (float(west), float(south), float(east), float(north))

    def read(self, *, west: float, north: float, rows: int, cols: int, cell: float) -> np.ndarray:
        """See `Layer`."""
        with rasterio.Env(**self._options):
            return self._reader.read(west=west, north=north, rows=rows, cols=cols, cell=cell)


def open_layers(imagery: str, frame: LocalFrame, *, cell: float) -> list[Layer]:
    """Open all layers of the `imagery` setting, the one with priority first.

    Raises:
        ImageryError: one of them cannot be opened.

    """
    return [
        TileLayer(uri, frame, cell=cell) if uri.is_tiled else RasterLayer(uri, frame, cell=cell)
        for uri in parse_layers(imagery)
    ]


def raster_datum(imagery: str) -> LocalFrame:
    """Return the map frame whose datum is the centre of the first raster that the `imagery` setting names.

    Raises:
        ImageryError: it names none (tiles have no centre), or the raster cannot be opened.

    """
    for uri in parse_layers(str(imagery)):
        if uri.is_template or uri.is_folder:
            continue
        with rasterio.Env(**gdal_options(uri)), open_place(uri) as dataset:
            x, y = pixels_to_crs(dataset, [dataset.width / 2], [dataset.height / 2])
            longitude, latitude = transform_points(dataset.crs, WGS84, x, y)
        return LocalFrame(latitude[0], longitude[0])
    raise ImageryError(
        f"expected a datum, got none, and the tiles of '{imagery}' have no centre to take instead: give the datum as "
        "latitude and longitude"
    )
