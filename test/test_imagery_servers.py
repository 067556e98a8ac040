"""Servers that are slow, down, limiting or lying cost bounded time and one line, and never a key or the map."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from imagery_world import GRID, VIENNA, gdal_description

from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import ImageryError, SatelliteMap, gdal_settings, http_tiles, redacted, satellite_map, tile_layer
from cvloc_ros.imagery.uri import LayerUri

KEY = "s3cr3t-k3y"
PATIENCE = 60.0  # seconds in which a busy machine should manage what takes one


@pytest.fixture(autouse=True)
def surroundings(imagery_cache, monkeypatch):
    """A key to be kept secret, and maps that try again at once."""
    monkeypatch.setenv("MAP_KEY", KEY)
    monkeypatch.setattr(satellite_map, "_RETRY", (0.0, 0.0))
    monkeypatch.setattr(gdal_settings, "_HTTP_TIMEOUT", 1)


@pytest.fixture
def impatient(monkeypatch):
    """What a slow server is to meet; on a busy machine, so little might be too little for others."""
    monkeypatch.setattr(http_tiles, "_SILENCE", 0.5)
    monkeypatch.setattr(http_tiles, "_DEADLINE", 1.0)


def within_bounds(work):
    """Do something that must not last for ever."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result(timeout=5 * PATIENCE)


def open_map(server, address="{z}/{x}/{y}.png?key=${MAP_KEY}"):
    return SatelliteMap.open(f"{server.url}/xyz/{address}", VIENNA)


MOODS = {
    "html": "text/html instead of an image",
    "html as png": "expected an image, got 26 bytes that are none: not recognized",
    "html without a type": "expected an image",
    "of another size": "256 x 256 pixels, got 100 x 100",
    "cut off": "bytes came",
    "damaged": "only its beginning",
    "redirecting for ever": "more than 3 redirections",
    "redirecting to a file": "or one to no web address",
    "limiting": "HTTP 429 Too Many Requests",
    "endless": "more than 576 KiB",
    "dripping": "no complete answer",
    "dripping headers": "no complete answer",
    "silent": "no complete answer|no connection",
    "hanging up": "no proper answer",
    401: "HTTP 401 Unauthorized: check the key",
    403: "HTTP 403 Forbidden: check the key and the terms",
    500: "HTTP 500",
    599: "HTTP 599 unknown status",
}


@pytest.mark.parametrize("mood", MOODS, ids=str)
def test_a_bad_server_costs_one_line(server, mood, caplog, capfd, request):
    if mood in ("dripping", "dripping headers", "silent"):
        request.getfixturevalue("impatient")
    caplog.set_level(logging.DEBUG)
    server.mood = mood
    opened = open_map(server)
    patch = within_bounds(lambda: opened.patch(SE2(), GRID))
    assert patch.covered == 0.0 and patch.image.max() == 0
    assert opened.problem.startswith(f"tiles of 127.0.0.1:{server.server_port} are missing: ")
    assert any(words in opened.problem for words in MOODS[mood].split("|")), opened.problem
    assert "\n" not in opened.problem and opened.problems == [opened.problem]
    assert KEY in server.requests[0][0], "the server must have been asked with the key"
    printed = capfd.readouterr()
    for text in (opened.problem, caplog.text, printed.out, printed.err):
        assert KEY not in text


@pytest.mark.parametrize("mood", ["redirecting", "without a type", "fine"])
def test_an_unusual_answer_is_taken(server, mood):
    server.mood = mood
    opened = open_map(server)
    assert opened.patch(SE2(), GRID).covered == 1.0 and opened.problem == ""


@pytest.mark.parametrize("mood", [404, 410, "empty"], ids=str)
def test_tiles_that_do_not_exist_are_holes_and_not_asked_for_again(server, mood):
    server.mood, server.bad = mood, lambda z, x, y: x % 2 == 0
    grid = GroundGrid.centred(250, 0.4)
    opened = open_map(server)
    assert 0.1 < opened.patch(SE2(), grid).covered < 0.9 and opened.problem == ""
    count = len(server.requests)
    assert open_map(server).patch(SE2(), grid).covered < 0.9
    assert len(server.requests) == count


def test_a_server_without_any_tiles_here_says_so(server):
    server.mood = 404
    opened = open_map(server)
    assert opened.patch(SE2(), GRID).covered == 0.0
    assert "none of" in opened.problem and "at zoom 18" in opened.problem and "#maxzoom" in opened.problem


def test_one_bad_tile_is_one_hole_that_heals(server):
    grid = GroundGrid.centred(250, 0.4)
    opened = open_map(server)
    server.mood, server.bad = "html", lambda z, x, y: (x + y) % 4 == 0
    patch = opened.patch(SE2(), grid)
    assert 0.3 < patch.covered < 0.95
    server.mood = "fine"
    assert within_bounds(lambda: _patch_when_whole(opened, grid)).covered == 1.0
    assert opened.problem == "" and len(opened.problems) == 1


def _patch_when_whole(opened, grid):
    waits = threading.Event()
    while (patch := opened.patch(SE2(), grid)).covered < 1.0:
        waits.wait(0.05)
    return patch


def test_the_mosaic_outlives_the_server(server):
    opened = open_map(server)
    before = opened.patch(SE2(), GRID)
    server.stop()
    after = opened.patch(SE2(2.0, 0, 0), GRID)
    assert after.covered == 1.0 and opened.problem == ""
    np.testing.assert_array_equal(opened.patch(SE2(), GRID).image, before.image)
    assert within_bounds(lambda: opened.patch(SE2(700, 0, 0), GRID)).covered == 0.0
    assert "Connection refused" in opened.problem


def test_the_mosaic_outlives_server_and_cache(server, imagery_cache, monkeypatch):
    """Nothing could be kept on disk: what is in memory is all there is, and reading it again must not lose it."""
    imagery_cache.write_text("a file where the folder should be")
    monkeypatch.setattr(satellite_map, "_PREFETCH_CELLS", 100)  # every patch starts the reading of another mosaic
    opened = open_map(server)
    before = opened.patch(SE2(), GRID)
    assert before.covered == 1.0
    server.stop()
    for _ in range(2):
        opened.patch(SE2(2.0, 0, 0), GRID)
        within_bounds(opened._prefetch.result)
    assert "Connection refused" in opened.problem
    np.testing.assert_array_equal(opened.patch(SE2(), GRID).image, before.image)
    onward = opened.patch(SE2(16.0, 0, 0), GRID)  # the last mosaic reached half as far
    assert 0.1 < onward.covered < 1.0 and onward.image[onward.coverage].min() > 0
    assert onward.coverage[-10:].all() and not onward.coverage[:10].any()  # heading east


def test_a_slow_server_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(tile_layer, "_PATIENCE", 0.3)
    server.mood = "silent"
    opened = open_map(server)
    assert within_bounds(lambda: opened.patch(SE2(), GRID)).covered == 0.0
    assert "no answer within" in opened.problem


def test_a_server_that_asks_for_time_gets_it(server):
    server.mood = "limiting"  # for 300 s
    opened = open_map(server)
    opened.patch(SE2(), GRID)
    count = len(server.requests)
    server.mood = "fine"
    for _ in range(3):
        assert opened.patch(SE2(900, 0, 0), GRID).covered == 0.0
        opened.patch(SE2(), GRID)
    assert len(server.requests) == count and "429" in opened.problem


def test_a_server_that_only_fails_is_left_alone(server, monkeypatch):
    monkeypatch.setattr(satellite_map, "_MOSAIC_CELLS", 1600)
    monkeypatch.setattr(tile_layer, "_THREADS", 1)
    server.mood = 500
    opened = open_map(server)
    opened.patch(SE2(), GRID)
    assert len(server.requests) == 8 and " of " in opened.problem


def test_a_lie_is_not_kept(server, tmp_path):
    server.mood = "of another size"
    open_map(server).patch(SE2(), GRID)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("mood", ["html", "endless", "silent"], ids=str)
def test_gdal_s_drivers_are_bounded_too(server, mood, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CPL_CURL_VERBOSE", "YES")
    imagery = gdal_description(server).replace("key=1", "key=${MAP_KEY}")
    opened = SatelliteMap.open(imagery, VIENNA)
    server.mood = mood
    patch = within_bounds(lambda: opened.patch(SE2(), GroundGrid.centred(10, 0.4)))
    assert patch.covered == 0.0 and "are missing" in opened.problem and "\n" not in opened.problem
    assert KEY in server.requests[0][0]
    printed = capfd.readouterr()
    for text in (opened.problem, caplog.text, printed.out, printed.err):
        assert KEY not in text


def test_a_raster_s_server_that_is_down_is_an_error_at_the_start(server, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    for imagery in (
        f"{server.url}/absent.tif?key=${{MAP_KEY}}",
        f"{server.url}/absent.tif?key={KEY}",
        f"WMTS:{server.url}/absent.xml?key=${{MAP_KEY}},layer=a",
    ):
        with pytest.raises(ImageryError, match="not readable") as error:
            within_bounds(lambda imagery=imagery: SatelliteMap.open(imagery, VIENNA))
        assert error.value.__cause__ is None and error.value.__suppress_context__
        printed = capfd.readouterr()
        for text in (str(error.value), caplog.text, printed.out, printed.err):
            assert KEY not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@a.example/{z}/{x}/{y}.png", "https://…@a.example/{z}/{x}/{y}.png"),
        ("at http://a.example/t?key=abc&l=1 now", "at http://a.example/t?key=…&l=… now"),
        ("https://a/{z}?key=${MAP_KEY}&BBOX={bbox-epsg-3857}", "https://a/{z}?key=${MAP_KEY}&BBOX={bbox-epsg-3857}"),
        ("<ServerUrl>https://a/b?x=1&amp;sig=2</ServerUrl>", "<ServerUrl>https://a/b?x=…&amp;sig=…</ServerUrl>"),
        ("<UserPwd>me:s3cret</UserPwd><Cookie>a=s3cret</Cookie>", "<UserPwd>…</UserPwd><Cookie>…</Cookie>"),
        ("from https://u:p@ss@a.example/{z} to u@b", "from https://…@a.example/{z} to u@b"),
        ("PLMosaic:mosaic=a,api_key=s3cret", "PLMosaic:mosaic=a,api_key=…"),
        ("https://a.example/{z}/{x}/{y}@2x.png", "https://a.example/{z}/{x}/{y}@2x.png"),
        ("/data/map.tif", "/data/map.tif"),
    ],
)
def test_what_is_shown_has_no_keys(text, shown):
    assert redacted(text) == shown


def test_values_of_variables_are_never_shown():
    uri = LayerUri.parse("https://a.example/${MAP_KEY}/{z}/{x}/{y}.png")
    assert KEY in uri.expanded()
    assert redacted(f"GET https://a.example/{KEY}/1/2/3.png") == "GET https://a.example/${MAP_KEY}/1/2/3.png"
    assert KEY not in str(ImageryError(f"no {KEY}"))


@pytest.mark.parametrize("names", ["${SHORT_KEY}/${LONG_KEY}", "${LONG_KEY}/${SHORT_KEY}"])
def test_a_key_that_another_one_begins_with_leaves_no_tail(names, monkeypatch):
    monkeypatch.setenv("SHORT_KEY", "abcd")
    monkeypatch.setenv("LONG_KEY", "abcd-efgh-long")
    expanded = LayerUri.parse(f"https://a.example/{names}/{{z}}/{{x}}/{{y}}.png").expanded()
    assert redacted(expanded) == f"https://a.example/{names}/{{z}}/{{x}}/{{y}}.png"


@pytest.mark.parametrize("password", ["p@ss", "p,ss", "p#ss", "p?ss"])
def test_the_server_s_name_is_shown_without_the_password(password):
    assert LayerUri.parse(f"https://me:{password}@a.example:80/{{z}}/{{x}}/{{y}}.png").host == "a.example:80"
    assert LayerUri.parse("WMTS:https://a.example,layer=photo").host == "a.example"


def test_errors_of_the_system_are_shown_without_keys(server):
    """Of a tile: nothing that a tile's origin raises may carry a key further."""
    opened = open_map(server)

    def fail(tile):
        raise OSError(f"cannot open {server.url}/{KEY}?key={KEY}")

    opened._layers[0]._origin.fetch = fail
    assert opened.patch(SE2(), GRID).covered == 0.0
    assert "cannot open" in opened.problem and KEY not in opened.problem
