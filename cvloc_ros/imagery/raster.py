"""Georeferenced rasters of any kind, opened as RGB with coverage and read into the map frame through rasterio."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine
from rasterio.transform import xy as pixel_corners
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery.raster_vrt import described, mosaic_with_overviews, palette_as_colors
from cvloc_ros.imagery.uri import ImageryError, redacted

WGS84 = CRS.from_epsg(4326)
_STRETCH_SIZE = 1024  # pixels a side that are looked at to scale more than 8 bits to 8
_STRETCH_PERCENTILES = (0.5, 99.5)
_TRANSFORM_TOLERANCE = 0.02  # source pixels; GDAL's own 0.125 is visible at 1 m/px
# Before rasterio 1.4 its I/O errors are only OSErrors, and some of GDAL's come as they are.
READ_ERRORS = (RasterioError, CPLE_BaseError, OSError)
_ATTRIBUTION_TAGS = ("attribution", "copyright", "tifftag_copyright")
_SERVICES = ("WMS", "WMTS")  # GDAL's drivers that know their overviews without asking
_OVERVIEW_PER_CELL = 0.55  # of a file, at most: what has been decimated without averaging is shifted by half a pixel
_LARGE = 2**26  # pixels: the range of a larger raster without overviews is taken from samples


def open_raster(uri: str) -> rasterio.DatasetReader:
    """Open anything rasterio reads, with palettes expanded to colours.

    Raises:
        ImageryError: there is no such file, it is no raster, or it has no coordinate system.

    """
    try:
        dataset = rasterio.open(uri)
    except READ_ERRORS as error:
        local = "://" not in uri and not uri.lstrip().startswith("<") and not uri.startswith("/vsi")
        if local and not os.path.exists(uri):
            raise ImageryError(
                f"expected a georeferenced raster, but there is no file '{uri}': check the imagery's path"
            ) from None
        if local and os.path.isdir(uri):
            raise ImageryError(
                f"expected imagery, but '{uri}' is a folder without tiles z/x/y.png: name the folder that has the zoom "
                "levels, or one of the files"
            ) from None
        raise ImageryError(
            f"expected a georeferenced raster (GeoTIFF, COG, VRT, MBTiles, ...), but '{uri}' is not readable "
            f"as one: {_reason(error)}"
        ) from None  # whose text, included here without keys, may hold them
    if dataset.crs is None or dataset.transform.is_identity:
        dataset.close()
        raise ImageryError(
            f"expected a georeferenced raster, but '{uri}' has no coordinate system or no geotransform: add them "
            "(gdal_translate -a_srs EPSG:... -a_ullr ...) or keep its world file and .aux.xml beside it"
        )
    if dataset.dtypes[0].startswith("complex"):
        dataset.close()
        raise ImageryError(
            f"expected imagery, but '{uri}' has complex numbers: convert it (gdal_translate -ot Float32)"
        )
    if dataset.colorinterp[0] == ColorInterp.palette:
        expanded = rasterio.open(palette_as_colors(dataset))
        dataset.close()
        return expanded
    return dataset


def attribution(dataset: rasterio.DatasetReader) -> str:
    """Return whom the raster's own tags credit, empty if nobody."""
    tags = {name.lower(): value for name, value in dataset.tags().items()}
    return next((tags[tag] for tag in _ATTRIBUTION_TAGS if tag in tags), "")


def map_crs(frame: LocalFrame) -> CRS:
    """Return the map frame as rasterio knows coordinate systems."""
    return CRS.from_wkt(frame.crs.to_wkt())


def outline(dataset: rasterio.DatasetReader, frame: LocalFrame) -> np.ndarray:
    """Return the raster's border in the map frame, (N, 2) metres.

    Raises:
        ImageryError: the raster's coordinate system and the map frame have nothing in common.

    """
    t = np.linspace(0, 1, 17)
    columns = np.concatenate([t, np.ones_like(t), t, np.zeros_like(t)]) * dataset.width
    rows = np.concatenate([np.zeros_like(t), t, np.ones_like(t), t]) * dataset.height
    x, y = pixels_to_crs(dataset, columns, rows)
    try:
        east, north = transform_points(dataset.crs, map_crs(frame), x, y)
    except (CRSError, *READ_ERRORS) as error:
        raise ImageryError(
            f"'{described(dataset)}' cannot be brought into the map frame: check its coordinate system, for which PROJ "
            f"says: {_reason(error)}"
        ) from None
    return np.stack([east, north], axis=-1)


@dataclass(frozen=True)
class RasterReader:
    """Reads a raster as RGB with coverage, north up in the map frame (or in another metric coordinate system).

    Attributes:
        dataset: the open raster.
        crs: the map frame.
        bands: those that are red, green and blue.
        alpha: the one that is alpha; None if there is none.
        resolution: size of the raster's pixels in it, metres.
        stretch: values that become 0 and 255, for rasters of more than 8 bits.

    """

    dataset: rasterio.DatasetReader
    crs: CRS
    bands: list[int]
    alpha: int | None
    resolution: float
    stretch: tuple[float, float] | None

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader, frame: LocalFrame) -> RasterReader:
        """Measure the raster's resolution in the map, and its range if it has more than 8 bits.

        Raises:
            ImageryError: the raster cannot be read.

        """
        return cls.in_crs(dataset, map_crs(frame))

    @classmethod
    def in_crs(cls, dataset: rasterio.DatasetReader, crs: CRS) -> RasterReader:
        """Do the same in another metric coordinate system than a map.

        Raises:
            ImageryError: the raster cannot be read.

        """
        middle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) + [dataset.width / 2, dataset.height / 2]
        x, y = pixels_to_crs(dataset, middle[:, 0], middle[:, 1])
        try:
            points = np.stack(transform_points(dataset.crs, crs, x, y), axis=-1)
            stretch = None if dataset.dtypes[0] == "uint8" else _percentiles(dataset)
        except READ_ERRORS as error:
            raise _unreadable(dataset, error) from None
        area = abs(np.linalg.det(points[1:] - points[0]))
        interp = list(dataset.colorinterp)
        alpha = interp.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in interp else None
        return cls(dataset, crs, _color_bands(dataset), alpha, float(np.sqrt(area)), stretch)

    def for_cells(self, cell: float) -> RasterReader:
        """Return a reader of the coarsest overview that is fine enough for ``cell`` metres; this one if there is none.

        GDAL warps from full resolution whatever is asked for: at 5 cm a pixel that is 64 times what a map of 0.4 m
        needs, and a service may have 4 cm to offer everywhere.

        Raises:
            ImageryError: the overviews cannot be read.

        """
        is_service = self.dataset.driver in _SERVICES
        largest = cell * (1.01 if is_service else _OVERVIEW_PER_CELL) / self.resolution
        if largest < 2:
            return self
        name = self.dataset.name
        try:
            if not is_service:
                self._find_overviews()
            factors = self.dataset.overviews(self.bands[0])
            if not factors and self.dataset.driver == "VRT":
                factors = [2**n for n in range(1, int(np.log2(largest)) + 1)]
                name = mosaic_with_overviews(self.dataset, factors)
            levels = {factor: level for level, factor in enumerate(factors) if factor <= largest}
            if not levels or not name:
                return self
            factor = max(levels)
            overview = rasterio.open(name, overview_level=levels[factor])
            if not self._has_mask_of(overview):
                overview.close()
                return self
        except READ_ERRORS as error:
            raise _unreadable(self.dataset, error) from None
        return replace(self, dataset=overview, resolution=factor * self.resolution)

    def _find_overviews(self) -> None:
        """Have GDAL look for overviews while it reads a pixel: asked for them alone, rasterio halts all threads."""
        rows, cols = (min(256, extent) for extent in self.dataset.shape)
        window = Window((self.dataset.width - cols) // 2, (self.dataset.height - rows) // 2, cols, rows)
        self.dataset.read(self.bands[0], window=window, out_shape=(1, 1))

    def _has_mask_of(self, overview: rasterio.DatasetReader) -> bool:
        """Whether an overview hides what the raster hides; of a mask without overviews GDAL says that all is there."""
        flags = self.dataset.mask_flag_enums[0]
        if flags != overview.mask_flag_enums[0]:
            return False
        if flags != [MaskFlags.per_dataset]:
            return True
        shape = (min(256, overview.height), min(256, overview.width))
        hidden, known = (bool((d.read_masks(1, out_shape=shape) == 0).any()) for d in (self.dataset, overview))
        return known or not hidden

    def read(self, *, west: float, north: float, rows: int, cols: int, cell: float) -> np.ndarray:
        """Read ``rows`` x ``cols`` cells of ``cell`` metres whose upper left corner is (west, north) in the map.

        Returns:
            RGBA uint8, (rows, cols, 4); alpha is 255 where the raster has data, else the cell is 0.

        Raises:
            ImageryError: the raster cannot be read.

        """
        try:
            with WarpedVRT(
                self.dataset,
                crs=self.crs,
                transform=Affine(cell, 0, west, 0, -cell, north),
                width=cols,
                height=rows,
                # Averaging keeps thin things (markings) sharp; at nearly equal cells it would be nearest neighbour.
                resampling=Resampling.average if 1.2 * self.resolution < cell else Resampling.bilinear,
                add_alpha=self.alpha is None,
                tolerance=_TRANSFORM_TOLERANCE,
            ) as warped:
                colors = warped.read(self.bands)
                covered = warped.read(self.alpha or warped.count) > 0
        except READ_ERRORS as error:
            raise _unreadable(self.dataset, error) from None
        if self.stretch is not None:
            covered &= np.isfinite(colors).all(axis=0)
            low, high = self.stretch
            colors = np.clip((colors.astype(np.float32) - low) * (255 / (high - low)) + 0.5, 0, 255)
        rgba = np.empty((rows, cols, 4), np.uint8)
        rgba[..., :3] = np.moveaxis(np.nan_to_num(colors).astype(np.uint8), 0, -1)
        rgba[..., 3] = 255
        rgba[~covered] = 0
        return rgba


def _unreadable(dataset: rasterio.DatasetReader, error: Exception) -> ImageryError:
    advice = "if it is damaged or cut off (gdalinfo -checksum tells), get it anew"
    return ImageryError(f"'{described(dataset)}' could not be read: {_reason(error)}; {advice}")


def _reason(error: Exception) -> str:
    """Return one line, of which rasterio itself only says that there is one; without keys, as a half is no key."""
    return shorten(redacted(str(error.__cause__ or error)), 300, placeholder=" ...").rstrip(".")


def pixels_to_crs(dataset: rasterio.DatasetReader, columns, rows) -> tuple[np.ndarray, np.ndarray]:
    """Map pixel coordinates (0, 0 = outer corner of the first pixel) to the raster's own coordinates."""
    x, y = pixel_corners(dataset.transform, rows, columns, offset="ul")
    return np.asarray(x), np.asarray(y)


def _color_bands(dataset: rasterio.DatasetReader) -> list[int]:
    """Return the bands that are red, green and blue; one band serves as all three."""
    interp = list(dataset.colorinterp)
    rgb = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    if all(color in interp for color in rgb):
        return [interp.index(color) + 1 for color in rgb]
    colors = [band for band, meaning in enumerate(interp, start=1) if meaning != ColorInterp.alpha]
    return colors[:3] if len(colors) >= 3 else [colors[0]] * 3


def _percentiles(dataset: rasterio.DatasetReader) -> tuple[float, float]:
    """Return the range of a raster's colours, without the outliers, over all bands so that hues stay."""
    bands = sorted(set(_color_bands(dataset)))
    sample = np.zeros(0)
    if dataset.width * dataset.height > _LARGE and not dataset.overviews(1):
        size = _STRETCH_SIZE // 8
        rows, cols = (np.linspace(0, extent - size, 8, dtype=int) for extent in dataset.shape)
        reads = [dataset.read(bands, window=Window(col, row, size, size), masked=True) for row in rows for col in cols]
        sample = np.concatenate([read.compressed() for read in reads])
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        scale = max(1.0, max(dataset.width, dataset.height) / _STRETCH_SIZE)
        shape = (max(1, int(dataset.height / scale)), max(1, int(dataset.width / scale)))
        sample = dataset.read(bands, out_shape=(len(bands), *shape), masked=True).compressed()
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(sample, _STRETCH_PERCENTILES)
    return float(low), float(max(high, low + 1e-6))
