"""Rasters that are damaged, huge or odd: a clear error or the right patch."""

import numpy as np
import pytest
import rasterio
from test_imagery import GRID, VIENNA, utm, write

from cvloc_ros.geometry import SE2
from cvloc_ros.imagery import ImageryError, SatelliteMap


def test_a_failing_layer_leaves_the_others(tmp_path):
    good = write(tmp_path / "good.tif", np.full((3, 300, 300), 90, np.uint8), transform=utm(), photometric="RGB")
    noise = np.random.default_rng(0).integers(0, 255, (3, 300, 300), dtype=np.uint8)
    write(tmp_path / "bad.tif", noise, transform=utm(), photometric="RGB", compress="deflate")
    bad = cut_off(tmp_path / "bad.tif")
    with pytest.raises(ImageryError, match="could not be read"):
        SatelliteMap.open(bad, VIENNA).patch(SE2(), GRID)
    both = SatelliteMap.open(f"{bad}|{good}", VIENNA)
    assert (both.patch(SE2(), GRID).image == 90).all()
    assert "bad.tif' could not be read" in both.problem


def cut_off(path):
    """Leave the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def test_a_raster_of_16_bits_that_is_cut_off_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 4000, (3, 300, 300), dtype=np.uint16)
    write(tmp_path / "deep.tif", noise, transform=utm(), photometric="RGB", compress="deflate")
    with pytest.raises(ImageryError, match=r"deep.tif' could not be read: .*; if it is damaged .* get it anew"):
        SatelliteMap.open(cut_off(tmp_path / "deep.tif"), VIENNA)


def test_a_huge_raster_is_read_around_the_vehicle(tmp_path):
    """60 000 x 60 000 pixels of 16 bits, without overviews, of which a piece exists."""
    ramp = np.tile(np.linspace(1000, 3000, 600).astype(np.uint16), (1, 600, 1))
    piece = write(tmp_path / "piece.tif", ramp, transform=utm(600))
    affine = utm(60_000).to_gdal()
    (tmp_path / "huge.vrt").write_text(
        f'<VRTDataset rasterXSize="60000" rasterYSize="60000"><SRS>EPSG:32633</SRS><GeoTransform>'
        f'{",".join(map(repr, affine))}</GeoTransform><VRTRasterBand dataType="UInt16" band="1"><NoDataValue>0'
        f'</NoDataValue><SimpleSource><SourceFilename relativeToVRT="0">{piece}</SourceFilename><SourceBand>1'
        '</SourceBand><SrcRect xOff="0" yOff="0" xSize="600" ySize="600"/><DstRect xOff="29700" yOff="29700" '
        'xSize="600" ySize="600"/></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    patch = SatelliteMap.open(tmp_path / "huge.vrt", VIENNA).patch(SE2(0, 0, np.pi / 2), GRID)
    assert patch.covered == 1.0
    assert patch.image[:, 50].mean() > patch.image[:, 10].mean()


@pytest.mark.parametrize("bands", [2, 5])
def test_odd_numbers_of_bands(tmp_path, bands):
    values = np.stack([np.full((300, 300), 40 * (band + 1), np.uint8) for band in range(bands)])
    pixel = (
        SatelliteMap.open(write(tmp_path / "map.tif", values, transform=utm()), VIENNA).patch(SE2(), GRID).image[9, 9]
    )
    assert tuple(pixel) == ((40, 40, 40) if bands == 2 else (40, 80, 120))


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "map.tif").write_bytes(b"")
    with pytest.raises(ImageryError, match="not readable"):
        SatelliteMap.open(tmp_path / "map.tif", VIENNA)


def test_what_is_not_a_number_is_not_covered(tmp_path):
    """Without a nodata value that says so, too."""
    values = np.full((3, 300, 300), 0.5, np.float32)
    values[..., 75:] = np.linspace(0, 1, 225)
    values[..., :150] = np.nan
    patch = SatelliteMap.open(write(tmp_path / "map.tif", values, transform=utm()), VIENNA).patch(
        SE2(0, 0, np.pi / 2), GRID
    )
    assert not patch.coverage[:, :28].any() and patch.coverage[:, 32:].all()


def test_complex_numbers_are_refused(tmp_path):
    raster = write(tmp_path / "radar.tif", np.ones((1, 300, 300), np.complex64), transform=utm())
    with pytest.raises(ImageryError, match="radar.tif' has complex numbers"):
        SatelliteMap.open(raster, VIENNA)


def test_a_coordinate_system_of_nowhere_is_refused_in_one_line(tmp_path):
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    raster = write(tmp_path / "site.tif", np.zeros((3, 300, 300), np.uint8), crs=local, transform=utm())
    with pytest.raises(ImageryError, match="check its coordinate system") as error:
        SatelliteMap.open(raster, VIENNA)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_damaged_palette_is_named_by_its_file(tmp_path):
    path = tmp_path / "palette.tif"
    profile = dict(driver="GTiff", width=300, height=300, count=1, dtype="uint8", compress="deflate")
    with rasterio.open(path, "w", crs="EPSG:32633", transform=utm(), **profile) as dataset:
        dataset.write_colormap(1, {0: (90, 10, 90, 255), 1: (200, 200, 200, 255)})
        dataset.write(np.random.default_rng(0).integers(0, 2, (1, 300, 300), dtype=np.uint8))
    with pytest.raises(ImageryError, match="^'[^<]*palette.tif' could not be read"):
        SatelliteMap.open(cut_off(path), VIENNA).patch(SE2(), GRID)
