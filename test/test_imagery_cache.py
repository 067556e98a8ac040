"""What came over the network is kept, and offline use asks nobody."""

from pathlib import Path

import numpy as np
import pytest
from imagery_world import GRID, VIENNA, assert_in_place, gdal_description, place_raster, wmts_capabilities
from test_imagery import utm, write
from tile_server import TileServer

from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import SatelliteMap, satellite_map

pytestmark = pytest.mark.usefixtures("imagery_cache")


def test_a_second_map_asks_nobody(server):
    template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"
    first = SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
    count = len(server.requests)
    again = SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
    assert len(server.requests) == count
    np.testing.assert_array_equal(again.image, first.image)


def test_another_key_finds_the_same_tiles(server, monkeypatch, tmp_path):
    template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png?key=${{MAP_KEY}}"
    for key in ("first-key", "second-key"):
        monkeypatch.setenv("MAP_KEY", key)
        assert SatelliteMap.open(template, VIENNA).patch(SE2(), GRID).covered == 1.0
    assert {path.partition("key=")[2] for path, _ in server.requests} == {"first-key"}
    assert not [path for path in (tmp_path / "cache").rglob("*") if "key" in path.name]


@pytest.mark.parametrize("how", ["variable", "option"])
def test_offline_shows_what_is_kept_and_asks_nobody(server, monkeypatch, how):
    template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"
    online = SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
    count = len(server.requests)
    if how == "variable":
        monkeypatch.setenv("CVLOC_OFFLINE", "1")
    else:
        template += "#offline=1"
    opened = SatelliteMap.open(template, VIENNA)
    np.testing.assert_array_equal(opened.patch(SE2(), GRID).image, online.image)
    miss = opened.patch(SE2(900, 900, 0), GRID)
    assert miss.covered == 0.0 and miss.image.max() == 0 and opened.problem == ""
    assert len(server.requests) == count


def test_offline_overviews_are_made_of_what_is_kept(server, monkeypatch):
    template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"
    SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
    monkeypatch.setenv("CVLOC_OFFLINE", "1")
    coarse = SatelliteMap.open(template, VIENNA, cell=1.6).patch(SE2(), GroundGrid.centred(12, 1.6))
    assert coarse.covered == 1.0
    assert np.abs(coarse.image[5:7, 5:7, :2].mean(axis=(0, 1)) - 128).max() < 4


def test_rasters_behind_a_network_are_kept_too(server, tmp_path, monkeypatch):
    server.files["/a.tif"] = Path(place_raster(tmp_path / "a.tif", tiled=True)).read_bytes()
    online = SatelliteMap.open(f"{server.url}/a.tif", VIENNA).patch(SE2(), GRID)
    count = len(server.requests)
    monkeypatch.setenv("CVLOC_OFFLINE", "1")
    offline = SatelliteMap.open(f"{server.url}/a.tif", VIENNA)
    np.testing.assert_array_equal(offline.patch(SE2(), GRID).image, online.image)
    assert offline.patch(SE2(900, 900, 0), GRID).covered == 0.0
    assert len(server.requests) == count


def test_a_raster_that_its_server_cuts_off_is_taken_from_what_is_kept(server, tmp_path, monkeypatch):
    """Of 16 bits, so that its pixels are looked at when it is opened."""
    monkeypatch.setenv("RASTER_SERVER", server.url)
    levels = np.random.default_rng(0).integers(1000, 3000, (1, 600, 600), dtype=np.uint16)
    path = write(tmp_path / "a.tif", levels, transform=utm(600, 1.0), compress="deflate")
    content = Path(path).read_bytes()
    server.files["/a.tif"] = content
    whole = SatelliteMap.open("${RASTER_SERVER}/a.tif", VIENNA).patch(SE2(), GRID)
    other = TileServer(VIENNA)  # GDAL remembers what the first one sent
    other.files["/a.tif"] = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    monkeypatch.setenv("RASTER_SERVER", other.url)
    opened = SatelliteMap.open("${RASTER_SERVER}/a.tif", VIENNA)
    assert other.requests
    np.testing.assert_array_equal(opened.patch(SE2(), GRID).image, whole.image)
    assert opened.patch(SE2(250, 250, 0), GRID).covered == 0.0 and "could not be read" in opened.problem
    other.stop()


def test_offline_with_an_empty_cache_is_black_without_an_error(server, monkeypatch):
    monkeypatch.setenv("CVLOC_OFFLINE", "1")
    for imagery in (f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", f"{server.url}/a.tif", gdal_description(server)):
        opened = SatelliteMap.open(imagery, VIENNA)
        assert opened.patch(SE2(), GRID).covered == 0.0 and opened.problem == ""
    assert not server.requests


def test_what_is_damaged_on_disk_is_asked_for_again(server, tmp_path):
    template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"
    SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
    for path in (tmp_path / "cache").rglob("18/*/*"):
        path.write_bytes(path.read_bytes()[:100])
    assert_in_place(template)


@pytest.mark.parametrize("kind", ["template", "raster", "WMTS", "description"])
def test_a_full_disk_costs_the_cache_only(server, tmp_path, kind):
    server.files["/a.tif"] = Path(place_raster(tmp_path / "a.tif", tiled=True)).read_bytes()
    server.files["/wmts.xml"] = wmts_capabilities(server).encode()
    imagery = {
        "template": f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png",
        "raster": f"{server.url}/a.tif",
        "WMTS": f"WMTS:{server.url}/wmts.xml,layer=photo",
        "description": gdal_description(server),
    }[kind]
    (tmp_path / "cache").write_text("a file where the folder should be")
    opened = SatelliteMap.open(imagery, VIENNA)
    assert opened.patch(SE2(), GRID).covered == 1.0
    assert opened.problem.count("cannot be kept") == 1 and "are missing" not in opened.problem


def test_a_disk_that_was_full_is_forgotten(server, tmp_path, monkeypatch):
    monkeypatch.setattr(satellite_map, "_RETRY", (0.0, 0.0))
    (tmp_path / "cache").write_text("a file where the folder should be")
    opened = SatelliteMap.open(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", VIENNA)
    opened.patch(SE2(), GRID)
    count = len(server.requests)
    for _ in range(3):
        opened.patch(SE2(), GRID)
    assert opened._prefetch is None and len(server.requests) == count, "all of the map is there"
    (tmp_path / "cache").unlink()
    opened.patch(SE2(200, 0, 0), GRID)
    assert opened.problem == "" and len(opened.problems) == 1
