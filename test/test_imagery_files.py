"""Folders of tiles and rasters on this machine, and several layers at once."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from imagery_world import (
    GRID,
    VIENNA,
    assert_in_place,
    degrees_around,
    place_raster,
    tiles_around,
    write_folder,
)
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from tile_server import place_tile

from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import ImageryError, SatelliteMap

pytestmark = pytest.mark.usefixtures("imagery_cache")


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

    @pytest.mark.parametrize("pattern", ["", "/{z}/{x}/{y}.png"], ids=["folder", "pattern"])
    @pytest.mark.parametrize("neighbour", [".DS_Store", ".hidden.png", "1.png.aux.xml", "damaged"])
    def test_what_lies_beside_the_tiles_does_not_matter(self, tmp_path, neighbour, pattern, monkeypatch):
        folder = write_folder(tmp_path / "tiles")
        if neighbour == "damaged":
            first = min(folder.rglob("*.png"))
            first.write_bytes(first.read_bytes()[:100])
        else:
            for column in folder.glob("18/*"):
                (column / neighbour).write_text("<none of a tile's bytes>")
        order = Path.glob
        monkeypatch.setattr(Path, "glob", lambda *args: sorted(order(*args)))  # the worst comes first
        assert SatelliteMap.open(f"{folder}{pattern}", VIENNA).patch(SE2(), GRID).covered == 1.0

    def test_a_folder_of_damaged_tiles_is_refused_with_one_that_is_named(self, tmp_path):
        folder = write_folder(tmp_path / "tiles")
        for path in folder.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ImageryError, match=r"found none that can be read, e.g. '.*png': .* only its beginning"):
            SatelliteMap.open(folder, VIENNA)

    def test_no_tiles_at_all(self, tmp_path):
        (tmp_path / "tiles" / "18" / "1").mkdir(parents=True)
        with pytest.raises(ImageryError, match="expected tiles z/x/y.png"):
            SatelliteMap.open(tmp_path / "tiles", VIENNA)


class TestFiles:
    def test_mbtiles(self, tmp_path):
        assert assert_in_place(write_mbtiles(tmp_path / "a.mbtiles")).attribution == "Testers"

    @pytest.mark.parametrize("left", [0, 100, 3000], ids=["empty", "its header", "cut off"])
    def test_a_bad_tile_in_mbtiles_is_a_hole(self, tmp_path, left):
        grid = GroundGrid.centred(200, 0.4)
        whole = SatelliteMap.open(write_mbtiles(tmp_path / "a.mbtiles"), VIENNA).patch(SE2(), grid)
        damaged = write_mbtiles(tmp_path / "b.mbtiles", left={tiles_around(18, 0)[0]: left})
        patch = SatelliteMap.open(damaged, VIENNA).patch(SE2(), grid)
        assert whole.covered == 1.0 and 0.3 < patch.covered < 0.9
        assert patch.image[~patch.coverage].max() == 0
        assert (patch.image == whole.image)[patch.coverage].mean() > 0.95  # all but the hole's seam

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


def write_mbtiles(path, *, left=None):
    """Write tiles around the datum; ``left`` says how many bytes are left of which."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE metadata (name text, value text)")
        database.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
        about = {"name": "a", "format": "png", "minzoom": "18", "maxzoom": "18", "attribution": "Testers"}
        about["bounds"] = ",".join(map(str, degrees_around()))
        database.executemany("INSERT INTO metadata VALUES (?, ?)", about.items())
        for z, x, y in tiles_around(18):
            data = place_tile(VIENNA, z, x, y)[: (left or {}).get((z, x, y))]
            database.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (z, x, 2**z - 1 - y, data))
    database.close()
    return path
