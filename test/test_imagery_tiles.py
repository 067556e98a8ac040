"""Tiles of every kind show the place where they are; they are kept on disk, and offline use asks nobody."""

import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from tile_server import LEVELS_PER_METRE, TO_WGS84, TileServer, place_picture, place_tile, tile_bounds

from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, meters_per_pixel
from cvloc_ros.imagery import ImageryError, SatelliteMap, http_tiles, raster, raster_datum, satellite_map, tile_layer
from cvloc_ros.imagery.tiles import Tile, TileError, decode_tile, tile_positions, zoom_for
from cvloc_ros.imagery.uri import parse_layers

VIENNA = LocalFrame(48.2, 16.3)
GRID = GroundGrid.centred(50, 0.4)
POSES = (SE2(0, 0, 0), SE2(3.21, -5.43, 0.7), SE2(-4.05, 2.22, -2.5))


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A cache of its own for every test, mosaics of a few tiles, and no hurry on a busy machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CVLOC_OFFLINE", raising=False)
    for module, name in ((tile_layer, "_PATIENCE"), (http_tiles, "_SILENCE"), (http_tiles, "_DEADLINE")):
        monkeypatch.setattr(module, name, 100.0)
    monkeypatch.setattr(raster, "_HTTP_TIMEOUT", 100)
    monkeypatch.setattr(satellite_map, "_MOSAIC_CELLS", 160)
    monkeypatch.setattr(satellite_map, "_PREFETCH_CELLS", 8)


@pytest.fixture
def server():
    server = TileServer(VIENNA)
    yield server
    server.stop()


def assert_in_place(imagery, *, tolerance=0.05, cell=0.4):
    opened = SatelliteMap.open(imagery, VIENNA, cell=cell)
    for pose in POSES:
        patch = opened.patch(pose, GRID)
        assert patch.covered == 1.0, opened.problem
        seen = (patch.image[..., :2].astype(float) - 128) / LEVELS_PER_METRE
        error = seen - pose.apply(GRID.centres())
        assert np.abs(error.mean(axis=(0, 1))).max() < tolerance
        for corner in (error[:12, :12], error[:12, -12:], error[-12:, :12], error[-12:, -12:]):
            assert np.abs(corner.mean(axis=(0, 1))).max() < 3 * tolerance  # neither turned nor scaled
    return opened


def tiles_around(zoom, reach=2):
    x, y = map(int, tile_positions(VIENNA, np.zeros(2), zoom))
    return [(zoom, x + i, y + j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]


def write_folder(folder, *, zoom=18, south_first=False, suffix=".png", size=256):
    for z, x, y in tiles_around(zoom):
        row = 2**z - 1 - y if south_first else y
        path = folder / str(z) / str(x) / f"{row}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place_tile(VIENNA, z, x, y, size, suffix))
    return folder


def place_raster(path, **profile):
    """Write a Web Mercator raster of 120 m around the datum."""
    (z, west_x, north_y), (_, east_x, south_y) = tiles_around(18, 1)[0], tiles_around(18, 1)[-1]
    west, _, _, north = tile_bounds(z, west_x, north_y)
    _, south, east, _ = tile_bounds(z, east_x, south_y)
    picture = place_picture(VIENNA, (west, south, east, north), 768)
    pixel = (east - west) / 768
    profile = {"driver": "GTiff", "photometric": "RGB", **profile}
    with rasterio.open(
        path, "w", width=768, height=768, count=3, dtype="uint8", crs="EPSG:3857",
        transform=Affine(pixel, 0, west, 0, -pixel, north), **profile,
    ) as dataset:  # fmt: skip
        dataset.write(np.moveaxis(picture, -1, 0))
    return str(path)


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

    def test_tiles_are_asked_for_when_a_patch_needs_them(self, server):
        opened = SatelliteMap.open(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", VIENNA)
        assert not server.requests
        opened.patch(SE2(), GRID)
        count = len(server.requests)
        assert 1 <= count <= 9
        opened.patch(SE2(1, 1, 1), GRID)
        assert len(server.requests) == count


class TestCache:
    def test_a_second_map_asks_nobody(self, server):
        template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"
        first = SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
        count = len(server.requests)
        again = SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
        assert len(server.requests) == count
        np.testing.assert_array_equal(again.image, first.image)

    def test_another_key_finds_the_same_tiles(self, server, monkeypatch, tmp_path):
        template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png?key=${{MAP_KEY}}"
        for key in ("first-key", "second-key"):
            monkeypatch.setenv("MAP_KEY", key)
            assert SatelliteMap.open(template, VIENNA).patch(SE2(), GRID).covered == 1.0
        assert {path.partition("key=")[2] for path, _ in server.requests} == {"first-key"}
        assert not [path for path in (tmp_path / "cache").rglob("*") if "key" in path.name]

    @pytest.mark.parametrize("how", ["variable", "option"])
    def test_offline_shows_what_is_kept_and_asks_nobody(self, server, monkeypatch, how):
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

    def test_offline_overviews_are_made_of_what_is_kept(self, server, monkeypatch):
        template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"
        SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
        monkeypatch.setenv("CVLOC_OFFLINE", "1")
        coarse = SatelliteMap.open(template, VIENNA, cell=1.6).patch(SE2(), GroundGrid.centred(12, 1.6))
        assert coarse.covered == 1.0
        assert np.abs(coarse.image[5:7, 5:7, :2].mean(axis=(0, 1)) - 128).max() < 4

    def test_rasters_behind_a_network_are_kept_too(self, server, tmp_path, monkeypatch):
        server.files["/a.tif"] = Path(place_raster(tmp_path / "a.tif", tiled=True)).read_bytes()
        online = SatelliteMap.open(f"{server.url}/a.tif", VIENNA).patch(SE2(), GRID)
        count = len(server.requests)
        monkeypatch.setenv("CVLOC_OFFLINE", "1")
        offline = SatelliteMap.open(f"{server.url}/a.tif", VIENNA)
        np.testing.assert_array_equal(offline.patch(SE2(), GRID).image, online.image)
        assert offline.patch(SE2(900, 900, 0), GRID).covered == 0.0
        assert len(server.requests) == count

    def test_offline_with_an_empty_cache_is_black_without_an_error(self, server, monkeypatch):
        monkeypatch.setenv("CVLOC_OFFLINE", "1")
        for imagery in (f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", f"{server.url}/a.tif", gdal_description(server)):
            opened = SatelliteMap.open(imagery, VIENNA)
            assert opened.patch(SE2(), GRID).covered == 0.0 and opened.problem == ""
        assert not server.requests

    def test_what_is_damaged_on_disk_is_asked_for_again(self, server, tmp_path):
        template = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"
        SatelliteMap.open(template, VIENNA).patch(SE2(), GRID)
        for path in (tmp_path / "cache").rglob("18/*/*"):
            path.write_bytes(path.read_bytes()[:100])
        assert_in_place(template)

    def test_a_full_disk_costs_the_cache_only(self, server, tmp_path):
        (tmp_path / "cache").write_text("a file where the folder should be")
        opened = SatelliteMap.open(f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", VIENNA)
        assert opened.patch(SE2(), GRID).covered == 1.0
        assert "cannot be kept" in opened.problem


class TestFolders:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
    def test_folder_of_tiles(self, tmp_path, suffix):
        assert_in_place(str(write_folder(tmp_path / "tiles", suffix=suffix)), tolerance=0.1)

    def test_rows_from_the_south(self, tmp_path):
        folder = write_folder(tmp_path / "tiles", south_first=True)
        assert_in_place(f"{folder}/{{z}}/{{x}}/{{-y}}.png")
        assert_in_place(f"{folder.as_uri()}/{{z}}/{{x}}/{{-y}}.png")
        (folder / "tilemapresource.xml").write_text("<TileMap/>")  # as gdal2tiles leaves it
        assert_in_place(str(folder))

    def test_the_nearest_zoom_that_is_there(self, tmp_path):
        write_folder(tmp_path / "tiles", zoom=16)
        write_folder(tmp_path / "tiles", zoom=17)
        (tmp_path / "tiles" / "20").mkdir()
        opened = SatelliteMap.open(tmp_path / "tiles", VIENNA)
        assert opened.patch(SE2(), GRID).covered == 1.0
        assert opened._layers[0].zoom == 17

    def test_size_is_that_of_the_files(self, tmp_path):
        assert_in_place(str(write_folder(tmp_path / "tiles", zoom=17, size=512)))

    def test_missing_and_empty_tiles_are_holes(self, tmp_path):
        folder = write_folder(tmp_path / "tiles")
        assert SatelliteMap.open(folder, VIENNA).patch(SE2(), GroundGrid.centred(200, 0.4)).covered == 1.0
        _, x, y = tiles_around(18, 0)[0]
        (folder / "18" / str(x) / f"{y}.png").write_bytes(b"")
        (folder / "18" / str(x + 1) / f"{y}.png").unlink()
        opened = SatelliteMap.open(folder, VIENNA)
        patch = opened.patch(SE2(), GroundGrid.centred(200, 0.4))
        assert 0.05 < patch.covered < 0.95 and opened.problem == ""
        assert patch.image[~patch.coverage].max() == 0

    def test_a_damaged_tile_is_a_hole_that_is_named(self, tmp_path):
        folder = write_folder(tmp_path / "tiles")
        _, x, y = tiles_around(18, 0)[0]
        (folder / "18" / str(x) / f"{y}.png").write_text("hello")
        opened = SatelliteMap.open(folder, VIENNA)
        assert 0 < opened.patch(SE2(), GroundGrid.centred(200, 0.4)).covered < 1.0
        assert "1 of" in opened.problem and "expected an image" in opened.problem

    def test_no_tiles_at_all(self, tmp_path):
        (tmp_path / "tiles" / "18" / "1").mkdir(parents=True)
        with pytest.raises(ImageryError, match="expected tiles z/x/y.png"):
            SatelliteMap.open(tmp_path / "tiles", VIENNA)


class TestFiles:
    def test_mbtiles(self, tmp_path):
        with sqlite3.connect(tmp_path / "a.mbtiles") as database:
            database.execute("CREATE TABLE metadata (name text, value text)")
            database.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
            about = {"name": "a", "format": "png", "minzoom": "18", "maxzoom": "18", "attribution": "Testers"}
            about["bounds"] = ",".join(map(str, degrees_around()))
            database.executemany("INSERT INTO metadata VALUES (?, ?)", about.items())
            for z, x, y in tiles_around(18):
                row = (z, x, 2**z - 1 - y, place_tile(VIENNA, z, x, y))
                database.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", row)
        database.close()
        assert assert_in_place(tmp_path / "a.mbtiles").attribution == "Testers"

    @pytest.mark.parametrize("driver", ["GTiff", "COG", "VRT"])
    def test_rasters(self, tmp_path, driver):
        path = place_raster(tmp_path / "a.tif")
        if driver == "COG":
            rasterio.shutil.copy(path, tmp_path / "cog.tif", driver="COG")
            path = tmp_path / "cog.tif"
        if driver == "VRT":
            with (
                rasterio.open(path) as dataset,
                WarpedVRT(dataset, crs="EPSG:32633", resampling=Resampling.bilinear) as warped,
            ):
                rasterio.shutil.copy(warped, tmp_path / "a.vrt", driver="VRT")
            path = tmp_path / "a.vrt"
        assert_in_place(path)

    def test_the_first_layer_has_priority(self, tmp_path, server):
        with rasterio.open(
            tmp_path / "fine.tif", "w", driver="GTiff", width=300, height=300, count=3, dtype="uint8",
            crs=CRS.from_wkt(VIENNA.crs.to_wkt()), transform=Affine(0.2, 0, 0, 0, -0.2, 30), photometric="RGB",
        ) as dataset:  # fmt: skip
            dataset.write(np.full((3, 300, 300), 9, np.uint8))
            dataset.update_tags(TIFFTAG_COPYRIGHT="Fine")
        tiles = f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png#attribution=Coarse"
        opened = SatelliteMap.open(f"{tmp_path}/fine.tif | {tiles}", VIENNA)
        patch = opened.patch(SE2(0, 0, np.pi / 2), GRID)  # the raster begins at the datum and lies east of it
        assert patch.covered == 1.0
        assert (patch.image[:, 27:] == 9).all() and (patch.image[:, :23, 2] == 77).all()
        assert opened.attribution == "Fine; Coarse"
        below = SatelliteMap.open(f"{tiles}|{tmp_path}/fine.tif", VIENNA).patch(SE2(0, 0, np.pi / 2), GRID)
        assert (below.image[..., 2] == 77).all()

    def test_lower_layers_are_not_asked_for_what_is_covered(self, tmp_path, server):
        place_raster(tmp_path / "fine.tif")
        opened = SatelliteMap.open(f"{tmp_path}/fine.tif|{server.url}/xyz/{{z}}/{{x}}/{{y}}.png", VIENNA)
        assert opened.patch(SE2(), GRID).covered == 1.0
        assert not server.requests


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


def degrees_around():
    """Return west, south, east, north of `tiles_around` in degrees."""
    corners = [tile_bounds(*tile) for tile in (tiles_around(18)[0], tiles_around(18)[-1])]
    west, south = TO_WGS84.transform(corners[0][0], corners[1][1])
    east, north = TO_WGS84.transform(corners[1][2], corners[0][3])
    return west, south, east, north


def gdal_description(server):
    edge = 20037508.342789244
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{server.url}/xyz/${{z}}/${{x}}/${{y}}.png?key=1</ServerUrl>'
        f"</Service><DataWindow><UpperLeftX>{-edge}</UpperLeftX><UpperLeftY>{edge}</UpperLeftY><LowerRightX>{edge}"
        f"</LowerRightX><LowerRightY>{-edge}</LowerRightY><TileLevel>18</TileLevel><TileCountX>1</TileCountX>"
        "<TileCountY>1</TileCountY><YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection>"
        "<BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount></GDAL_WMS>"
    )


def wmts_capabilities(server):
    """Return what a WMTS says of itself, with the deepest zoom only."""
    edge = 20037508.342789244
    scale = meters_per_pixel(0, 18) / 0.00028
    return f"""<?xml version="1.0"?>
<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1" version="1.0.0">
 <Contents>
  <Layer><ows:Title>photo</ows:Title><ows:Identifier>photo</ows:Identifier>
   <Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style><Format>image/png</Format>
   <TileMatrixSetLink><TileMatrixSet>world</TileMatrixSet></TileMatrixSetLink>
   <ResourceURL format="image/png" resourceType="tile"
    template="{server.url}/xyz/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png"/>
  </Layer>
  <TileMatrixSet><ows:Identifier>world</ows:Identifier><ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>
   <TileMatrix><ows:Identifier>18</ows:Identifier><ScaleDenominator>{scale!r}</ScaleDenominator>
    <TopLeftCorner>{-edge} {edge}</TopLeftCorner><TileWidth>256</TileWidth><TileHeight>256</TileHeight>
    <MatrixWidth>262144</MatrixWidth><MatrixHeight>262144</MatrixHeight></TileMatrix>
  </TileMatrixSet>
 </Contents>
</Capabilities>"""
