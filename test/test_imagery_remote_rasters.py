"""Rasters on web servers that fail or lie: bounded in time and memory, left alone, and back when the server is."""

from pathlib import Path

import numpy as np
import pytest
from imagery_world import GRID, VIENNA
from test_imagery import utm, write

from cvloc_ros.geometry import SE2
from cvloc_ros.imagery import ImageryError, SatelliteMap, gdal_settings, http_tiles, raster_datum, satellite_map


@pytest.fixture
def raster(server, tmp_path, imagery_cache, monkeypatch):
    """Return the address of a raster that the server has."""
    monkeypatch.setattr(gdal_settings, "_HTTP_TIMEOUT", 1)
    noise = np.random.default_rng(0).integers(0, 255, (3, 1200, 1200), dtype=np.uint8)
    server.files["/a.tif"] = Path(
        write(tmp_path / "a.tif", noise, transform=utm(1200, 0.4), photometric="RGB", tiled=True)
    ).read_bytes()
    return f"{server.url}/a.tif"


def test_a_server_that_was_down_at_the_start_is_asked_again(server, raster):
    server.mood = 403
    with pytest.raises(ImageryError, match="HTTP response code: 403"):
        SatelliteMap.open(raster, VIENNA)
    server.mood = "fine"
    assert SatelliteMap.open(raster, VIENNA).patch(SE2(), GRID).covered == 1.0


def test_a_server_that_only_fails_is_left_alone(server, raster, monkeypatch):
    monkeypatch.setattr(satellite_map, "_RETRY", (0.0, 0.0))
    monkeypatch.setattr(satellite_map, "_MOSAIC_CELLS", 800)
    opened = SatelliteMap.open(raster, VIENNA)
    count = len(server.requests)
    server.mood = 403
    assert opened.patch(SE2(), GRID).covered == 0.0
    for _ in range(3):
        opened.patch(SE2(), GRID)
    assert len(server.requests) - count <= 32  # for 8 tiles of 49 or more, each in several parts
    assert "are missing" in opened.problem and "\n" not in opened.problem


def test_an_answer_without_end_is_refused_at_the_start(server, raster):
    server.mood = "endless"
    for use in (lambda place: SatelliteMap.open(place, VIENNA), raster_datum):
        with pytest.raises(ImageryError, match="for 16 bytes with more, and does not say how much: download"):
            use(f"{server.url}/xyz/18/1/1.png")
    assert len(server.requests) == 2


def test_a_silent_server_is_not_waited_for(server, raster, monkeypatch):
    monkeypatch.setattr(http_tiles, "_SILENCE", 0.5)
    server.mood = "silent"
    with pytest.raises(ImageryError, match="gives no answer within"):
        SatelliteMap.open(f"{server.url}/xyz/18/1/1.png", VIENNA)
    assert len(server.requests) == 1


def test_what_is_no_raster_is_refused_in_one_line(server, raster):
    server.mood = "html"
    with pytest.raises(ImageryError, match="not readable as one: .*not recognized") as error:
        SatelliteMap.open(f"{server.url}/xyz/18/1/1.png", VIENNA)
    assert "\n" not in str(error.value)
