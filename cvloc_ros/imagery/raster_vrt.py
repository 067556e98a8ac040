"""GDAL's virtual rasters, written around others: palettes as colours, mosaics with the overviews of their parts."""

from __future__ import annotations

import os
from xml.sax.saxutils import escape

import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile


def palette_as_colors(dataset: rasterio.DatasetReader) -> str:
    """Return a GDAL VRT that shows a paletted raster as RGB, so that resampling mixes colours and not indices."""
    source = escape(os.path.abspath(dataset.name) if os.path.exists(dataset.name) else dataset.name)
    affine = ", ".join(repr(value) for value in dataset.transform.to_gdal())
    nodata = "" if dataset.nodata is None else f"<NODATA>{dataset.nodata:g}</NODATA>"
    has_alpha = dataset.nodata is not None or any(entry[3] < 255 for entry in dataset.colormap(1).values())
    names = ("Red", "Green", "Blue", "Alpha")[: 4 if has_alpha else 3]
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{component}"><ColorInterp>{name}</ColorInterp>'
        f'<ComplexSource><SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand>'
        f"{nodata}<ColorTableComponent>{component}</ColorTableComponent></ComplexSource></VRTRasterBand>"
        for component, name in enumerate(names, start=1)
    )
    return (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}">'
        f"<SRS>{escape(dataset.crs.to_wkt())}</SRS><GeoTransform>{affine}</GeoTransform>{bands}</VRTDataset>"
    )


def mosaic_with_overviews(dataset: rasterio.DatasetReader, factors: list[int]) -> str:
    """Return a mosaic (VRT) that is read coarsely through the overviews of its parts, averaged where they have none.

    Empty if it is no plain mosaic: warped and pansharpened ones have no parts to be read so.
    """
    with MemoryFile(ext=".vrt") as file:  # elsewhere than the mosaic, so that its parts are named in full
        rasterio.shutil.copy(dataset, file.name, driver="VRT")
        mosaic = file.read().decode()
    if "subClass=" in mosaic.partition(">")[0]:
        return ""
    overviews = f'<OverviewList resampling="average">{" ".join(map(str, factors))}</OverviewList>'
    return mosaic.replace("</VRTDataset>", f"{overviews}</VRTDataset>")


def described(dataset: rasterio.DatasetReader) -> str:
    """Return a raster's name for a message: of a description in XML, the first file that it is made of."""
    if dataset.name.lstrip().startswith("<VRTDataset"):
        return next(iter(dataset.files), "a VRT")
    return dataset.name
