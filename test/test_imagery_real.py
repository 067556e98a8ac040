"""Real files of the kinds that people have, opened as they would and compared with their own pixels."""

import math

import cv2
import numpy as np
import pytest
import rasterio

from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame
from cvloc_ros.imagery import ImageryError, SatelliteMap, raster_datum
from cvloc_ros.imagery.prefetch import download, plan_download

pytestmark = [pytest.mark.shared_data, pytest.mark.usefixtures("imagery_cache")]
NORTH_UP = SE2(0, 0, np.pi / 2)


@pytest.fixture
def aerial(shared_data):
    if not (shared_data / "aerial").is_dir():
        pytest.skip(f"{shared_data / 'aerial'} is absent")
    return shared_data / "aerial"


def test_an_aerial_image_in_utm(aerial):
    """Colorado, 0.15 m, EPSG:26913: 35 m high, so that a patch of 51 m is not covered wholly."""
    path = aerial / "201404_13SED190110_201404_0x1500m_CL_1.tif"
    opened = SatelliteMap.open(path, raster_datum(str(path)))
    patch = opened.patch(NORTH_UP, GroundGrid.centred(50, 0.4))
    with rasterio.open(path) as raster:
        half = round(10 / 0.15)
        row, col = (n // 2 for n in raster.shape)
        pixels = raster.read([1, 2, 3])[:, row - half : row + half, col - half : col + half]
    assert patch.covered == 1.0
    np.testing.assert_allclose(patch.image.mean(axis=(0, 1)), pixels.mean(axis=(1, 2)), atol=1.5)
    assert 0.6 < opened.patch(NORTH_UP, GroundGrid.centred(128, 0.4)).covered < 0.75


def test_naip_is_not_covered_where_its_alpha_says_so(aerial):
    """An excerpt of the United States' NAIP as COG in Web Mercator, mostly empty."""
    path = aerial / "usda_naip_256_lzw_z3.tif"
    with rasterio.open(path) as raster:
        mask = raster.dataset_mask() > 0
        rows, cols = np.nonzero(mask)
        k = len(rows) // 2
        x, y = raster.xy(rows[k], cols[k])
        (longitude,), (latitude,) = rasterio.warp.transform(raster.crs, "EPSG:4326", [x], [y])
        scale = raster.res[0] * math.cos(math.radians(latitude))
    patch = SatelliteMap.open(path, LocalFrame(latitude, longitude)).patch(NORTH_UP, GroundGrid.centred(256, 0.4))
    half = round(51.2 / scale)
    around = mask[max(0, rows[k] - half) : rows[k] + half, max(0, cols[k] - half) : cols[k] + half]
    outside = around.sum() / (2 * half) ** 2  # what lies beyond the raster is not covered either
    assert patch.covered == pytest.approx(outside, abs=0.03)
    assert patch.image[~patch.coverage].size == 0 or patch.image[~patch.coverage].max() == 0


def test_mbtiles(aerial):
    path = aerial / "one_tile.mbtiles"
    patch = SatelliteMap.open(path, raster_datum(str(path))).patch(SE2(), GroundGrid.centred(64, 0.4))
    assert patch.covered == 1.0 and np.ptp(patch.image) <= 2  # a pixel of zoom 0 is 78 km wide


def test_a_folder_of_tiles(aerial):
    folder = aerial / "robosat_xyz/tests/fixtures/images"
    path = next(iter(sorted(folder.rglob("*.jpg"))))
    z, x, y = int(path.parts[-3]), int(path.parts[-2]), int(path.stem)
    latitude = math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * (y + 0.5) / 2**z))))
    datum = LocalFrame(latitude, (x + 0.5) / 2**z * 360 - 180)
    patch = SatelliteMap.open(folder, datum).patch(NORTH_UP, GroundGrid.centred(60, 0.4))
    tile = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    half = round(12 / (156543.034 * math.cos(math.radians(latitude)) / 2**z * 256 / len(tile)))
    middle = len(tile) // 2
    expected = cv2.resize(tile[middle - half : middle + half, middle - half : middle + half], (60, 60))
    assert patch.covered == 1.0
    assert np.corrcoef(patch.image[..., 1].ravel(), expected[..., 1].ravel())[0, 1] > 0.95


def test_another_folder_is_named(aerial):
    with pytest.raises(ImageryError, match="'.*aerial' is a folder without tiles z/x/y.png"):
        SatelliteMap.open(aerial, LocalFrame(48.2, 16.3))


def test_a_photograph_on_a_web_server_takes_as_much_as_was_said(aerial, server):
    """Its tiles are kept without loss: Vienna's 0.3 m, as JPEG there, as PNG here."""
    server.files["/city.tif"] = (aerial / "44_2_op_2023_30cm.tif").read_bytes()
    frame = LocalFrame(48.18537, 16.31196)
    (plan,) = plan_download(f"{server.url}/city.tif", frame, [(-100.0, -100.0, 100.0, 100.0)])
    sizes: list[int] = []
    assert download(plan, progress=sizes.append) == []
    assert plan.megabytes == pytest.approx(sum(sizes) / 1e6, rel=0.25)
