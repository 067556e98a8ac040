"""Imagery: patches are where the raster says, at any CRS, rotation and pixel type, and say what they cover."""

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame
from cvloc_ros.imagery import ImageryError, SatelliteMap, raster_datum, satellite_map

VIENNA = LocalFrame(48.2, 16.3)
GRID = GroundGrid.centred(60, 0.4)
LEVELS_PER_METRE = 4.0


def georeference(crs, frame, *, size, pixel, rotation_deg=0.0):
    """Return the geotransform of a square raster around a frame's datum, turned by an angle."""
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(frame.longitude, frame.latitude)
    half = size * pixel / 2
    return Affine.translation(x, y) @ Affine.rotation(rotation_deg) @ Affine(pixel, 0, -half, 0, -pixel, half)


def place_coded(crs, transform, frame, size):
    """Return an RGB raster whose red says how far east a pixel is of the datum, green how far north."""
    cols, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    x, y = transform @ (cols, rows)
    longitude, latitude = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    code = np.clip(128 + LEVELS_PER_METRE * frame.to_enu(latitude, longitude), 0, 255).round().astype(np.uint8)
    return np.stack([code[..., 0], code[..., 1], np.full_like(code[..., 0], 77)])


def write(path, bands, *, crs="EPSG:32633", transform=None, interp=None, **profile):
    bands = np.asarray(bands)
    count, height, width = bands.shape
    profile |= dict(count=count, height=height, width=width, dtype=bands.dtype, crs=crs, transform=transform)
    with rasterio.open(path, "w", driver="GTiff", **profile) as dataset:
        if interp:
            dataset.colorinterp = interp
        dataset.write(bands)
    return str(path)


def utm(size=300, pixel=0.2):
    return georeference("EPSG:32633", VIENNA, size=size, pixel=pixel)


@pytest.mark.parametrize("pixel", [0.1, 0.35, 0.8], ids=["finer", "alike", "coarser"])
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:4326"])
@pytest.mark.parametrize("rotation_deg", [0.0, 30.0])
def test_a_patch_shows_the_place_where_it_is(tmp_path, crs, rotation_deg, pixel):
    size = int(100 / pixel)
    unit = {"EPSG:3857": pixel / np.cos(np.radians(VIENNA.latitude)), "EPSG:4326": pixel / 111_000}.get(crs, pixel)
    transform = georeference(crs, VIENNA, size=size, pixel=unit, rotation_deg=rotation_deg)
    raster = write(
        tmp_path / "map.tif", place_coded(crs, transform, VIENNA, size), crs=crs, transform=transform, photometric="RGB"
    )
    satellite_map = SatelliteMap.open(raster, VIENNA)
    for T_map_patch in (SE2(0, 0, 0), SE2(3.21, -5.43, 0.7), SE2(-4.05, 2.22, -2.5)):
        patch = satellite_map.patch(T_map_patch, GRID)
        assert patch.covered == 1.0
        seen = (patch.image[..., :2].astype(float) - 128) / LEVELS_PER_METRE
        error = seen - T_map_patch.apply(GRID.centres())
        assert np.abs(error.mean(axis=(0, 1))).max() < 0.03
        # Half a level of rounding in the raster and another in each of two resamplings.
        assert np.abs(error).max() < 0.4
        for corner in (error[:15, :15], error[:15, -15:], error[-15:, :15], error[-15:, -15:]):
            assert np.abs(corner.mean(axis=(0, 1))).max() < 0.1  # neither turned nor scaled


def test_forward_is_up_and_left_is_left(tmp_path):
    image = np.zeros((3, 300, 300), np.uint8)
    image[0, :150] = 255  # north half red
    image[1, :, :150] = 255  # west half green
    satellite_map = SatelliteMap.open(write(tmp_path / "map.tif", image, transform=utm(), photometric="RGB"), VIENNA)
    patch = satellite_map.patch(SE2(0, 0, np.pi / 2), GRID).image  # heading north
    assert patch[5, 30, 0] > 250 and patch[55, 30, 0] < 5
    assert patch[30, 5, 1] > 250 and patch[30, 55, 1] < 5
    patch = satellite_map.patch(SE2(0, 0, 0), GRID).image  # heading east: north is left
    assert patch[30, 5, 0] > 250 and patch[30, 55, 0] < 5


def test_averages_finer_imagery(tmp_path):
    image = np.zeros((3, 600, 600), np.uint8)
    image[:, ::4] = 255  # lines of 0.1 m every 0.4 m
    raster = write(tmp_path / "map.tif", image, transform=utm(600, 0.1), photometric="RGB")
    patch = SatelliteMap.open(raster, VIENNA).patch(SE2(), GRID)
    assert abs(patch.image.mean() - 255 / 4) < 3


def test_coverage_ends_with_the_raster(tmp_path):
    raster = write(tmp_path / "map.tif", np.full((3, 300, 300), 200, np.uint8), transform=utm(), photometric="RGB")
    satellite_map = SatelliteMap.open(raster, VIENNA)  # reaches 30 m to each side
    assert satellite_map.bounds == pytest.approx((-30, -30, 30, 30), abs=1.0)
    half = satellite_map.patch(SE2(30, 0, 0), GRID)
    assert abs(half.covered - 0.5) < 0.03
    assert half.coverage[40:].all() and not half.coverage[:20].any()  # heading east: the far rows are outside
    assert (half.image[~half.coverage] == 0).all() and half.image[half.coverage].min() > 95
    assert satellite_map.patch(SE2(500, 0, 0), GRID).covered == 0.0


def holes(kind, tmp_path):
    """Write a grey raster of 60 m whose western half is missing in one way or another."""
    image = np.full((3, 300, 300), 200, np.uint8)
    path = tmp_path / f"{kind}.tif"
    if kind == "alpha":
        alpha = np.full((1, 300, 300), 255, np.uint8)
        alpha[..., :150] = 0
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        return write(path, np.concatenate([image, alpha]), transform=utm(), interp=colors, photometric="RGB")
    if kind == "nodata":
        image[..., :150] = 0
        return write(path, image, transform=utm(), nodata=0, photometric="RGB")
    if kind.startswith("palette"):
        index = np.full((1, 300, 300), 7, np.uint8)
        index[..., :150] = 3
        alpha = kind == "palette with alpha"  # which a TIFF's palette does not have
        with rasterio.open(
            path, "w", driver="PNG" if alpha else "GTiff", width=300, height=300, count=1, dtype="uint8",
            crs="EPSG:32633", transform=utm(), nodata=None if alpha else 3,
        ) as dataset:  # fmt: skip
            dataset.write(index)
            dataset.write_colormap(1, {3: (90, 10, 90, 0 if alpha else 255), 7: (200, 200, 200, 255)})
        return str(path)
    write(path, image, transform=utm(), photometric="RGB")
    mask = np.full((300, 300), 255, np.uint8)
    mask[:, :150] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    return str(path)


@pytest.mark.parametrize("kind", ["alpha", "nodata", "mask", "palette with alpha", "palette with nodata"])
def test_holes_are_not_covered(tmp_path, kind):
    patch = SatelliteMap.open(holes(kind, tmp_path), VIENNA).patch(SE2(0, 0, np.pi / 2), GRID)
    assert not patch.coverage[:, :28].any() and patch.coverage[:, 32:].all()
    assert (patch.image[:, 32:] == 200).all() and (patch.image[:, :28] == 0).all()


def test_one_band_is_grey_and_16_bits_are_scaled(tmp_path):
    ramp = np.tile(np.linspace(1000, 3000, 300).astype(np.uint16), (1, 300, 1))
    patch = SatelliteMap.open(write(tmp_path / "map.tif", ramp, transform=utm()), VIENNA).patch(
        SE2(0, 0, np.pi / 2), GroundGrid.centred(140, 0.4)
    )
    assert (patch.image[..., 0] == patch.image[..., 2]).all()
    assert patch.image[:, :4].max() < 20 and patch.image[:, -4:].min() > 235
    assert abs(int(patch.image[70, 70, 0]) - 128) < 3


def test_palette_becomes_colours(tmp_path):
    index = np.zeros((1, 300, 300), np.uint8)
    index[..., 150:] = 7
    raster = tmp_path / "map.tif"
    with rasterio.open(
        raster, "w", driver="GTiff", width=300, height=300, count=1, dtype="uint8", crs="EPSG:32633", transform=utm()
    ) as dataset:
        dataset.write(index)
        dataset.write_colormap(1, {0: (255, 0, 0, 255), 7: (10, 20, 200, 255)})
    patch = SatelliteMap.open(raster, VIENNA).patch(SE2(0, 0, np.pi / 2), GRID)
    assert patch.covered == 1.0
    assert tuple(patch.image[30, 5]) == (255, 0, 0) and tuple(patch.image[30, 55]) == (10, 20, 200)


def test_a_large_raster_is_read_around_the_vehicle(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (900, 900, 3), dtype=np.uint8), (0, 0), 3)
    raster = write(tmp_path / "map.tif", np.moveaxis(noise, -1, 0), transform=utm(900, 0.4), photometric="RGB")
    whole = SatelliteMap.open(raster, VIENNA)
    monkeypatch.setattr(satellite_map, "_WHOLE_CELLS", 256)
    monkeypatch.setattr(satellite_map, "_MOSAIC_CELLS", 200)
    monkeypatch.setattr(satellite_map, "_PREFETCH_CELLS", 30)
    moving = SatelliteMap.open(raster, VIENNA)
    for along in np.linspace(-190, 190, 60):
        pose = SE2(along, 0.5 * along, 0.4)
        expected, patch = whole.patch(pose, GRID), moving.patch(pose, GRID)
        np.testing.assert_allclose(patch.image, expected.image.astype(int), atol=2)
        np.testing.assert_array_equal(patch.coverage, expected.coverage)
        assert moving._mosaic is None or max(moving._mosaic.rgba.shape[:2]) <= 200


def test_threads_get_their_own_patches(tmp_path, monkeypatch):
    monkeypatch.setattr(satellite_map, "_WHOLE_CELLS", 100)
    monkeypatch.setattr(satellite_map, "_MOSAIC_CELLS", 160)
    transform = utm(600, 0.1)
    raster = write(
        tmp_path / "map.tif",
        place_coded("EPSG:32633", transform, VIENNA, 600),
        transform=transform,
        photometric="RGB",
    )
    shared = SatelliteMap.open(raster, VIENNA)
    poses = [SE2(float(x), float(y), float(yaw)) for x, y, yaw in np.random.default_rng(1).uniform(-8, 8, (64, 3))]
    with ThreadPoolExecutor(8) as threads:
        patches = list(threads.map(lambda pose: shared.patch(pose, GRID), poses))
    for pose, patch in zip(poses, patches, strict=True):
        middle = (patch.image[29:31, 29:31, :2].mean(axis=(0, 1)) - 128) / LEVELS_PER_METRE
        assert np.abs(middle - [pose.x, pose.y]).max() < 0.3


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ImageryError, match="there is no file .*check"):
        SatelliteMap.open(tmp_path / "absent.tif", VIENNA)
    text = tmp_path / "text.tif"
    text.write_text("hello")
    with pytest.raises(ImageryError, match="not readable"):
        SatelliteMap.open(text, VIENNA)
    nowhere = write(tmp_path / "nowhere.tif", np.zeros((3, 10, 10), np.uint8), crs=None, transform=utm(10))
    with pytest.raises(ImageryError, match=r"nowhere.tif' has no coordinate system .*gdal_translate -a_srs"):
        SatelliteMap.open(nowhere, VIENNA)
    bare = str(tmp_path / "bare.png")
    cv2.imwrite(bare, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageryError, match="no coordinate system"), pytest.warns(NotGeoreferencedWarning):
        raster_datum(bare)
    raster = write(tmp_path / "map.tif", np.zeros((3, 10, 10), np.uint8), transform=utm(10), photometric="RGB")
    with pytest.raises(ImageryError, match=r"within 50 km of the datum.*check the datum"):
        SatelliteMap.open(raster, LocalFrame(49.0, 8.4))


def test_attribution_comes_from_the_tags(tmp_path):
    raster = write(tmp_path / "map.tif", np.zeros((3, 10, 10), np.uint8), transform=utm(10), photometric="RGB")
    assert SatelliteMap.open(raster, VIENNA).attribution == ""
    with rasterio.open(raster, "r+") as dataset:
        dataset.update_tags(TIFFTAG_COPYRIGHT="City of Testing, CC BY")
    assert SatelliteMap.open(raster, VIENNA).attribution == "City of Testing, CC BY"


def test_raster_datum_is_the_centre(tmp_path):
    raster = write(tmp_path / "map.tif", np.zeros((3, 10, 10), np.uint8), transform=utm(10), photometric="RGB")
    assert np.abs(VIENNA.to_enu(*_place(raster_datum(raster)))).max() < 1e-3


def _place(frame):
    return frame.latitude, frame.longitude


@pytest.mark.shared_data
def test_patches_of_the_vienna_orthophoto_are_where_its_coordinates_say(shared_data):
    raster = shared_data / "aerial" / "44_2_op_2023_30cm.tif"
    if not raster.exists():
        pytest.skip(f"{raster} is absent")
    frame = raster_datum(raster)
    satellite_map = SatelliteMap.open(raster, frame)
    grid = GroundGrid.centred(150, 0.4)
    to_wgs84 = Transformer.from_crs("EPSG:31256", "EPSG:4326", always_xy=True)
    with rasterio.open(raster) as dataset:
        image = np.moveaxis(dataset.read(), 0, -1)
        to_pixel = ~dataset.transform
    for easting, northing in [(-1500, 338550), (-1650, 338700), (-1350, 338400), (-1350, 338700)]:
        (lon, lon_up), (lat, lat_up) = to_wgs84.transform([easting, easting], [northing, northing + 10])
        origin, up = frame.to_enu([lat, lat_up], [lon, lon_up])
        heading = np.arctan2(*(up - origin)[::-1])  # grid north, seen from the map frame
        patch = satellite_map.patch(SE2(*origin, heading), grid)

        ahead_left = grid.centres()
        cols, rows = to_pixel @ (easting - ahead_left[..., 1], northing + ahead_left[..., 0])
        smooth = cv2.GaussianBlur(image, (0, 0), 0.5)
        expected = cv2.remap(smooth, np.float32(cols - 0.5), np.float32(rows - 0.5), cv2.INTER_LINEAR)
        seen, wanted = (
            cv2.GaussianBlur(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 2)
            for i in (patch.image, expected)
        )
        (dx, dy), _ = cv2.phaseCorrelate(wanted, seen, cv2.createHanningWindow(seen.shape[::-1], cv2.CV_32F))
        assert np.hypot(dx, dy) * grid.cell < 0.05
        assert np.corrcoef(seen.ravel(), wanted.ravel())[0, 1] > 0.999


def test_the_mosaic_is_read_ahead_and_seldom(tmp_path, monkeypatch):
    raster = write(
        tmp_path / "map.tif", np.full((3, 900, 900), 90, np.uint8), transform=utm(900, 0.4), photometric="RGB"
    )
    monkeypatch.setattr(satellite_map, "_WHOLE_CELLS", 256)
    monkeypatch.setattr(satellite_map, "_MOSAIC_CELLS", 400)
    monkeypatch.setattr(satellite_map, "_PREFETCH_CELLS", 60)
    moving = SatelliteMap.open(raster, VIENNA)
    threads = []
    read = moving._read
    monkeypatch.setattr(moving, "_read", lambda box: threads.append(threading.current_thread().name) or read(box))
    for along in np.arange(-120, 120, 2.0):
        assert moving.patch(SE2(along, 0, 0), GRID).covered == 1.0
        if moving._prefetch is not None:
            moving._prefetch.result()  # the vehicle is slower than the disk
    assert threads[0] == "MainThread" and all(name.startswith("imagery") for name in threads[1:])
    assert 2 <= len(threads) <= 5
    middle = moving._mosaic.col0 + moving._mosaic.rgba.shape[1] / 2
    assert middle * moving.cell > 0  # most of it lies ahead of, or around, the last place
    count = len(threads)
    for _ in range(3):  # far from where it was, it does not read on and on
        assert moving.patch(SE2(-120, -100, 0), GRID).covered == 1.0
        if moving._prefetch is not None:
            moving._prefetch.result()
    assert len(threads) == count + 1
