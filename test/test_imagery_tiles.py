"""Tiles of every kind of server show the place where they are; the setting's errors say what to do."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from imagery_world import GRID, VIENNA, assert_in_place, gdal_description, place_raster, wmts_capabilities
from tile_server import tile_bounds

from cvloc_ros.geometry import SE2, LocalFrame, meters_per_pixel
from cvloc_ros.imagery import ImageryError, SatelliteMap, raster_datum
from cvloc_ros.imagery.tiles import Tile, TileError, decode_tile, tile_positions, zoom_for
from cvloc_ros.imagery.uri import parse_layers

pytestmark = pytest.mark.usefixtures("imagery_cache")


class TestServers:
    @pytest.mark.parametrize("rows", ["xyz/{z}/{x}/{y}", "tms/{z}/{x}/{-y}"], ids=["xyz", "tms"])
    def test_templates_are_where_they_say(self, server, rows):
        opened = assert_in_place(f"{server.url}/{rows}.png?key=1")
        assert opened.attribution == f"imagery from 127.0.0.1:{server.server_port}, whose terms apply"
        assert {path.split("/")[2] for path, _ in server.requests} == {"18"}

    def test_double_resolution_tiles_need_one_zoom_less(self, server):
        server.size = 512
        assert_in_place(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}@2x.png")
        assert {path.split("/")[2] for path, _ in server.requests} == {"17"}
        assert_in_place(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png#tile=512")

    def test_web_map_service_by_template(self, server):
        assert_in_place(f"{server.url}/wms?LAYERS=a&SRS=EPSG:3857&WIDTH=256&HEIGHT=256&BBOX={{bbox-epsg-3857}}")

    def test_maxzoom_limits_what_is_asked_for(self, server):
        opened = SatelliteMap.open(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png#maxzoom=16", VIENNA)
        assert opened.patch(SE2(), GRID).covered == 1.0
        assert {path.split("/")[2] for path, _ in server.requests} == {"16"}

    def test_agent_and_attribution_can_be_given(self, server):
        options = "#agent=rover/1.0 (me@example.org)&attribution=City of Testing, CC BY 4.0"
        opened = SatelliteMap.open(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png{options}", VIENNA)
        opened.patch(SE2(), GRID)
        assert opened.attribution == "City of Testing, CC BY 4.0"
        assert {agent for _, agent in server.requests} == {"rover/1.0 (me@example.org)"}

    def test_the_package_names_itself(self, server):
        SatelliteMap.open(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", VIENNA).patch(SE2(), GRID)
        assert all(agent.startswith("cvloc_ros/") for _, agent in server.requests)

    def test_cloud_optimized_geotiff_on_a_web_server(self, server, tmp_path):
        path = place_raster(tmp_path / "a.tif", tiled=True, blockxsize=256, blockysize=256)
        server.files["/a.tif"] = Path(path).read_bytes()
        assert_in_place(f"{server.url}/a.tif", tolerance=0.08)

    def test_gdal_description_of_a_tile_service(self, server):
        assert_in_place(gdal_description(server), tolerance=0.08)

    def test_web_map_tile_service(self, server):
        server.files["/wmts.xml"] = wmts_capabilities(server).encode()
        opened = assert_in_place(f"WMTS:{server.url}/wmts.xml,layer=photo", tolerance=0.08)
        assert opened.problem == ""

    def test_web_map_service_by_gdal_s_driver(self, server):
        """Its finest pixels have 4 cm: unless an overview is asked for, a patch is hundreds of answers."""
        edge = 20037508.342789244
        opened = assert_in_place(
            f"WMS:{server.url}/wms?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS=photo&STYLES=&SRS=EPSG:3857"
            f"&BBOX={-edge},{-edge},{edge},{edge}&FORMAT=image/png",
            tolerance=0.08,
        )
        assert opened.problem == "" and 1 <= len(server.requests) <= 12

    def test_tiles_are_asked_for_when_a_patch_needs_them(self, server):
        opened = SatelliteMap.open(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", VIENNA)
        assert not server.requests
        opened.patch(SE2(), GRID)
        count = len(server.requests)
        assert 1 <= count <= 9
        opened.patch(SE2(1, 1, 1), GRID)
        assert len(server.requests) == count


class TestSetting:
    @pytest.mark.parametrize(
        ("imagery", "words"),
        [
            ("", "got nothing"),
            ("https://a.example/{z}/{x}.png", "template of tiles with {z}"),
            ("https://a.example/{z}/{x}/{y}.png?key={key}", r"keys as \$\{NAME\}"),
            ("https://a.example/{z}/{x}/{y}.png#zoom=3", "unknown option 'zoom'"),
            ("https://a.example/{z}/{x}/{y}.png#place=3", "unknown option 'place'"),
            ("https://a.example/{z}/{x}/{y}.png#maxzoom=deep", "maxzoom from 0 to 24"),
            ("https://a.example/{z}/{x}/{y}.png?key=${NOT_SET_KEY}", "export NOT_SET_KEY"),
        ],
    )
    def test_errors_say_what_to_do(self, imagery, words, monkeypatch):
        monkeypatch.delenv("NOT_SET_KEY", raising=False)
        with pytest.raises(ImageryError, match=words):
            SatelliteMap.open(imagery, VIENNA)

    def test_a_file_may_be_called_anything(self, tmp_path):
        strange = tmp_path / "a|b#c=d.tif"
        place_raster(strange)
        assert [layer.place for layer in parse_layers(str(strange))] == [str(strange)]
        assert_in_place(strange)

    def test_tiles_have_no_centre(self, tmp_path):
        with pytest.raises(ImageryError, match="expected a datum"):
            raster_datum("https://a.example/{z}/{x}/{y}.png")
        path = place_raster(tmp_path / "a.tif")
        assert raster_datum(f"https://a.example/{{z}}/{{x}}/{{y}}.png|{path}") == raster_datum(path)

    def test_the_server_s_address_may_come_from_the_environment(self, server, monkeypatch):
        monkeypatch.setenv("TILE_SERVER", server.url)
        assert_in_place("${TILE_SERVER}/xyz/{z}/{x}/{y}.png")


class TestTiles:
    def test_pixels_are_as_large_as_latitude_and_zoom_say(self):
        assert zoom_for(48.2, cell=0.4, tile=256) == 18 and zoom_for(48.2, cell=0.4, tile=512) == 17
        assert zoom_for(0.0, cell=0.4, tile=256) == 19 and zoom_for(70.0, cell=0.4, tile=256) == 17
        for latitude in np.linspace(-80, 80, 33):
            for cell in (0.1, 0.4, 3.0):
                assert meters_per_pixel(latitude, zoom_for(latitude, cell=cell, tile=256)) <= 1.2501 * cell

    def test_positions_are_those_of_the_standard(self):
        berlin = LocalFrame(52.5163, 13.3777)  # its tile at zoom 15 is found with any slippy-map tool
        assert tile_positions(berlin, np.zeros(2), 15).astype(int).tolist() == [17601, 10746]
        west, south, east, north = Tile(15, 17601, 10746).bounds()
        assert (west, south, east, north) == pytest.approx(tile_bounds(15, 17601, 10746))

    @pytest.mark.parametrize("kind", ["grey", "grey with alpha", "palette", "alpha", "16 bit"])
    def test_all_kinds_of_pictures(self, kind):
        data, expected = picture(kind)
        np.testing.assert_array_equal(decode_tile(data, size=8)[2, 3], expected)
        if kind in ("grey with alpha", "alpha"):
            assert (decode_tile(data, size=8)[7] == 0).all()

    def test_other_sizes_and_files_are_refused(self):
        data, _ = picture("grey")
        with pytest.raises(TileError, match="256 x 256 pixels, got 8 x 8.*#tile"):
            decode_tile(data, size=256)
        description = b'<VRTDataset rasterXSize="8" rasterYSize="8"></VRTDataset>'
        for lie in (b"", b"<html>", data[:30], description):
            with pytest.raises(TileError):
                decode_tile(lie, size=8)

    @pytest.mark.parametrize("size", [None, 256])
    def test_what_would_fill_the_memory_is_refused_before_it_is_unpacked(self, size):
        """A picture of 100 million pixels, which takes some 100 kB."""
        bomb = cv2.imencode(".png", np.zeros((10_000, 10_000), np.uint8))[1].tobytes()
        tracemalloc.start()
        try:
            with pytest.raises(TileError, match="got 10000"):
                decode_tile(bomb, size=size)
            assert tracemalloc.get_traced_memory()[1] < 10e6
        finally:
            tracemalloc.stop()

    def test_of_many_bands_the_first_are_shown(self):
        with rasterio.MemoryFile() as file:
            with file.open(driver="GTiff", width=8, height=8, count=200, dtype="uint8") as dataset:
                for band in range(1, 201):
                    dataset.write(np.full((8, 8), band, np.uint8), band)
            assert tuple(decode_tile(file.read(), size=8)[2, 3]) == (1, 2, 3, 255)


def picture(kind):
    """Return a PNG of 8 x 8 pixels, and RGBA of its pixel in row 2, column 3."""
    if kind == "palette":
        with rasterio.MemoryFile() as file:
            with file.open(driver="PNG", width=8, height=8, count=1, dtype="uint8") as dataset:
                dataset.write(np.full((1, 8, 8), 5, np.uint8))
                dataset.write_colormap(1, {5: (10, 200, 30, 255)})
            return file.read(), (10, 200, 30, 255)
    shapes = {"grey": (8, 8), "grey with alpha": (8, 8, 2), "alpha": (8, 8, 4), "16 bit": (8, 8, 3)}
    pixels = np.full(shapes[kind], 60, np.uint8)
    if kind in ("alpha", "grey with alpha"):
        pixels[..., -1] = 255
        pixels[7, :, -1] = 0
    if kind == "grey with alpha":
        with rasterio.MemoryFile() as file:
            with file.open(driver="PNG", width=8, height=8, count=2, dtype="uint8") as dataset:
                dataset.write(np.moveaxis(pixels, -1, 0))
            return file.read(), (60, 60, 60, 255)
    if kind == "16 bit":
        pixels = pixels.astype(np.uint16) * 256
    return cv2.imencode(".png", pixels)[1].tobytes(), (60, 60, 60, 255)
