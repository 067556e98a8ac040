"""Rasters much finer than the map are read through their overviews: a part of the bytes, and the same picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp, Resampling
from test_imagery import GRID, VIENNA, georeference, utm, write

from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import SatelliteMap

pytestmark = pytest.mark.usefixtures("imagery_cache")

NORTH_UP = SE2(0, 0, np.pi / 2)
SIZE, PIXEL = 1600, 0.05  # 80 m


def ground(size, dtype=np.uint8):
    """Return a picture (3, size, size) with detail of all sizes, as the ground has."""
    rng = np.random.default_rng(0)
    layers = []
    for scale in (1, 4, 16, 64):
        coarse = rng.normal(0, 1, (size // scale + 2, size // scale + 2)).astype(np.float32)
        layers.append(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))
    grey = np.clip(128 + 22 * sum(layers), 1, 255)
    return np.stack([grey, 255 - grey, 0.5 * grey + 60]).astype(dtype)


def add_overviews(path, resampling=Resampling.average):
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8, 16], resampling)
    return path


def assert_alike(patch, expected, *, mean_difference, shift=0.1):
    assert patch.covered == expected.covered == 1.0
    a, b = (cv2.cvtColor(one.image, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (expected, patch))
    assert np.abs(a - b).mean() < mean_difference
    (dx, dy), _ = cv2.phaseCorrelate(a, b, cv2.createHanningWindow(a.shape[::-1], cv2.CV_32F))
    assert np.hypot(dx, dy) * patch.grid.cell < shift


@pytest.mark.parametrize("resampling", ["average", "nearest"])
def test_a_server_is_asked_for_a_part_of_the_bytes_only(server, tmp_path, resampling):
    size = 3072
    fine = write(
        tmp_path / "fine.tif",
        ground(size),
        transform=utm(size, PIXEL),
        photometric="YCBCR",
        compress="JPEG",
        tiled=True,
    )
    rasterio.shutil.copy(fine, tmp_path / "cog.tif", driver="COG", compress="JPEG", overview_resampling=resampling)
    patches, sent, asked = [], [], []
    for name in ("fine.tif", "cog.tif"):
        server.files[f"/{name}"] = Path(tmp_path / name).read_bytes()
        server.sent = 0
        server.requests.clear()
        patches.append(
            SatelliteMap.open(f"{server.url}/{name}", VIENNA).patch(SE2(3, 4, 0.5), GroundGrid.centred(200, 0.4))
        )
        sent.append(server.sent)
        asked.append(len(server.requests))
    assert sent[1] < sent[0] / 3 and asked[1] < asked[0]
    if resampling == "average":
        assert_alike(patches[1], patches[0], mean_difference=2.0, shift=0.03)
    else:  # a pixel stands for 4 x 4, and lies 7.5 cm from their middle both ways
        assert_alike(patches[1], patches[0], mean_difference=8.0, shift=0.12)


@pytest.mark.parametrize("rotation_deg", [0.0, 30.0])
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_the_picture_is_that_of_full_resolution(tmp_path, crs, rotation_deg):
    pixel = PIXEL / 111_000 if crs == "EPSG:4326" else PIXEL
    transform = georeference(crs, VIENNA, size=SIZE, pixel=pixel, rotation_deg=rotation_deg)
    fine = write(tmp_path / "fine.tif", ground(SIZE), crs=crs, transform=transform, photometric="RGB")
    expected = SatelliteMap.open(fine, VIENNA).patch(SE2(1.3, -2.1, 0.7), GRID)
    patch = SatelliteMap.open(add_overviews(fine), VIENNA).patch(SE2(1.3, -2.1, 0.7), GRID)
    assert_alike(patch, expected, mean_difference=1.5, shift=0.03)


def test_16_bits_are_scaled_alike(tmp_path):
    fine = write(tmp_path / "fine.tif", 9 * ground(SIZE, np.uint16), transform=utm(SIZE, PIXEL), photometric="RGB")
    expected = SatelliteMap.open(fine, VIENNA).patch(SE2(), GRID)
    patch = SatelliteMap.open(add_overviews(fine), VIENNA).patch(SE2(), GRID)
    assert_alike(patch, expected, mean_difference=4.0)  # the range is taken from other pixels


def outdated(path, *, west=0, size=SIZE, pixel=PIXEL):
    """Write a raster that is 90 in full resolution, and was 200 when its overviews were made."""
    transform = utm(SIZE, pixel) @ rasterio.Affine.translation(west, 0)
    write(path, np.full((3, SIZE, size), 200, np.uint8), transform=transform, photometric="RGB", tiled=True)
    add_overviews(path)
    with rasterio.open(path, "r+") as dataset:
        dataset.write(np.full((3, SIZE, size), 90, np.uint8))
    return path


def mosaic(path, parts, *, mask=False):
    """Write a VRT of rasters that lie side by side, as gdalbuildvrt does, and return its path."""
    with rasterio.open(parts[0]) as first:
        affine, crs, height = first.transform.to_gdal(), first.crs.to_wkt(), first.height
    widths = []
    for part in parts:
        with rasterio.open(part) as dataset:
            widths.append(dataset.width)

    def sources(band):
        return "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{part.name}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
            f'<DstRect xOff="{sum(widths[:i])}" yOff="0" xSize="{width}" ySize="{height}"/></SimpleSource>'
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
        )

    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{color}</ColorInterp>{sources(band)}'
        "</VRTRasterBand>"
        for band, color in enumerate(("Red", "Green", "Blue"), start=1)
    )
    if mask:
        bands += f'<MaskBand><VRTRasterBand dataType="Byte">{sources("mask,1")}</VRTRasterBand></MaskBand>'
    path.write_text(
        f'<VRTDataset rasterXSize="{sum(widths)}" rasterYSize="{height}"><SRS>{crs.replace(chr(34), "&quot;")}</SRS>'
        f"<GeoTransform>{','.join(map(repr, affine))}</GeoTransform>{bands}</VRTDataset>"
    )
    return path


@pytest.mark.parametrize("kind", ["GeoTIFF", "mosaic"])
def test_full_resolution_is_not_touched(tmp_path, kind):
    if kind == "GeoTIFF":
        raster = outdated(tmp_path / "a.tif")
    else:
        parts = [outdated(tmp_path / f"{i}.tif", west=i * SIZE // 2, size=SIZE // 2) for i in range(2)]
        raster = mosaic(tmp_path / "a.vrt", parts)
    patch = SatelliteMap.open(raster, VIENNA).patch(SE2(), GroundGrid.centred(150, 0.4))
    assert patch.covered == 1.0 and (patch.image == 200).all()


def test_overviews_that_are_hardly_finer_than_the_map_are_not_used(tmp_path):
    patch = SatelliteMap.open(outdated(tmp_path / "a.tif", pixel=0.1), VIENNA).patch(SE2(), GRID)
    assert (patch.image == 90).all()


def with_hole(kind, folder):
    """Write a grey raster whose western half is missing in one way or another, with overviews."""
    path, transform = folder / "map.tif", utm(SIZE, PIXEL)
    image = np.full((3, SIZE, SIZE), 200, np.uint8)
    there = np.full((SIZE, SIZE), 255, np.uint8)
    there[:, : SIZE // 2] = 0
    if kind == "alpha":
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        write(path, np.concatenate([image, there[None]]), transform=transform, interp=colors, photometric="RGB")
    elif kind == "nodata":
        write(path, np.where(there, image, 0), transform=transform, nodata=0, photometric="RGB")
    elif kind == "palette":
        write(path, np.where(there, 7, 3)[None].astype(np.uint8), transform=transform, nodata=3)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, {3: (90, 10, 90, 255), 7: (200, 200, 200, 255)})
    else:
        write(path, image, transform=transform, photometric="RGB")
        if kind == "mask without overviews":
            add_overviews(path)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(there)
    if kind != "mask without overviews":
        add_overviews(path, Resampling.nearest)
    return mosaic(folder / "map.vrt", [path], mask=True) if kind == "mosaic with masks" else path


@pytest.mark.parametrize("kind", ["alpha", "nodata", "palette", "mask", "mask without overviews", "mosaic with masks"])
def test_holes_are_holes_in_overviews_too(tmp_path, kind):
    patch = SatelliteMap.open(with_hole(kind, tmp_path), VIENNA).patch(NORTH_UP, GRID)
    assert not patch.coverage[:, :28].any() and patch.coverage[:, 32:].all()
    assert (patch.image[:, 32:] == 200).all() and (patch.image[:, :28] == 0).all()
