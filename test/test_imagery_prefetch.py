"""Prefetching: estimates, resumes, follows tracks of all kinds, and makes a drive need no network."""

import numpy as np
import pytest
from imagery_world import VIENNA
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.track import read_track
from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import ImageryError, SatelliteMap, http_tiles
from cvloc_ros.imagery import prefetch as prefetching
from cvloc_ros.imagery.prefetch import boxes_along, download, plan_download

pytestmark = pytest.mark.usefixtures("imagery_cache")

BOX = [(-150.0, -150.0, 150.0, 150.0)]
PLACES = [(48.2, 16.3), (48.201, 16.302), (48.203, 16.302)]


@pytest.fixture
def template(server):
    return f"{server.url}/xyz/{{z}}/{{x}}/{{y}}.png"


def cvloc(*arguments, **options):
    return CliRunner().invoke(app, ["prefetch", *map(str, arguments)], **options)


def test_what_was_prefetched_needs_no_network(server, template, monkeypatch):
    (plan,) = plan_download(template, VIENNA, BOX)
    assert not server.requests and 9 <= plan.tiles <= 25 and len(plan.missing) == plan.tiles
    assert 0.1 < plan.megabytes < 1.0
    sizes = []
    assert download(plan, progress=sizes.append) == []
    assert len(sizes) == len(server.requests) == plan.tiles and all(sizes)
    server.stop()
    monkeypatch.setenv("CVLOC_OFFLINE", "1")
    patch = SatelliteMap.open(template, VIENNA).patch(SE2(20, 30, 1), GroundGrid.centred(300, 0.4))
    assert patch.covered == 1.0


def test_interrupted_it_goes_on(server, template):
    (plan,) = plan_download(template, VIENNA, BOX)

    def interrupt(size):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(plan, workers=1, progress=interrupt)
    (rest,) = plan_download(template, VIENNA, BOX)
    assert 0 < len(rest.missing) < plan.tiles
    before = len(server.requests)
    download(rest)
    assert len(server.requests) == before + len(rest.missing)
    assert plan_download(template, VIENNA, BOX)[0].missing == []


def test_a_server_that_asks_for_time_gets_it(server, template, monkeypatch):
    """However often it asks: that is no failure of a tile."""
    (plan,) = plan_download(template, VIENNA, BOX)
    monkeypatch.setattr(http_tiles, "_LONGEST_WAIT", 0.2)
    server.mood = "limiting"
    heard = []

    def relent(why):
        heard.append(why)
        if len(heard) == 2 * prefetching._ATTEMPTS:
            server.mood = "fine"

    assert download(plan, workers=1, waiting=relent) == []
    assert "429" in heard[0] and plan_download(template, VIENNA, BOX)[0].missing == []


def test_a_server_that_only_asks_for_time_is_given_up(server, template, monkeypatch):
    (plan,) = plan_download(template, VIENNA, BOX)
    monkeypatch.setattr(http_tiles, "_LONGEST_WAIT", 0.2)
    monkeypatch.setattr(prefetching, "_PATIENCE", 1.0)
    server.mood, heard = "limiting", []
    with pytest.raises(ImageryError, match="gives no tiles any more .HTTP 429"):
        download(plan, workers=1, waiting=heard.append)
    assert len(heard) < 10 and len(server.requests) < 10


def test_a_server_that_gives_nothing_is_given_up(server, template, monkeypatch):
    monkeypatch.setattr(prefetching, "_ATTEMPTS", 1)
    (plan,) = plan_download(template, VIENNA, BOX)
    server.mood = 403
    with pytest.raises(ImageryError, match="gives no tiles any more .HTTP 403 Forbidden.*run it again"):
        download(plan, workers=1)
    assert len(server.requests) <= 8


def test_single_failures_are_told_and_absent_tiles_are_remembered(server, template, monkeypatch):
    monkeypatch.setattr(prefetching, "_ATTEMPTS", 1)
    (plan,) = plan_download(template, VIENNA, BOX)
    z, x, y = plan.missing[3]
    server.mood, server.bad = "html", lambda *tile: tile == (z, x, y)
    assert len(download(plan)) == 1
    server.mood = 404
    (rest,) = plan_download(template, VIENNA, BOX)
    sizes = []
    assert rest.missing == [(z, x, y)] and download(rest, progress=sizes.append) == [] and sizes == [0]
    assert plan_download(template, VIENNA, BOX)[0].missing == []


def test_the_estimate_learns_from_what_is_there(server, template):
    first = plan_download(template, VIENNA, BOX)[0]
    download(first)
    more = plan_download(template, VIENNA, [(-300.0, -300.0, 300.0, 300.0)])[0]
    kept = np.mean([more.layer.cache.size(tile) for tile in first.missing])
    assert more.megabytes == pytest.approx(len(more.missing) * kept / 1e6)


def test_what_needs_no_download_is_refused(tmp_path, template, monkeypatch):
    monkeypatch.setenv("CVLOC_OFFLINE", "1")
    with pytest.raises(ImageryError, match="unset CVLOC_OFFLINE"):
        plan_download(template, VIENNA, BOX)
    (tmp_path / "18" / "1").mkdir(parents=True)
    (tmp_path / "18" / "1" / "1.png").write_bytes(b"")
    with pytest.raises(ImageryError):
        plan_download(str(tmp_path), VIENNA, BOX)


def test_long_legs_of_a_track_have_no_gaps():
    boxes = np.array(list(boxes_along(np.array([[0.0, 0.0], [1.0, 0.0], [1000.0, 400.0]]), 100.0)))
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.hypot(*np.diff(middles, axis=0).T).max() <= 100.0
    np.testing.assert_allclose(middles[[0, -1]], [[0, 0], [1000, 400]])
    np.testing.assert_allclose(boxes[0], [-100, -100, 100, 100])


class TestTracks:
    def test_csv(self, tmp_path):
        lines = "\n".join(f"{lat},{lon}" for lat, lon in PLACES)
        for text in (lines, f"latitude,longitude\n{lines}", f"# a comment\n{lines}\n\n"):
            (tmp_path / "a.csv").write_text(text)
            np.testing.assert_allclose(read_track(tmp_path / "a.csv"), PLACES)
        (tmp_path / "a.csv").write_text("t,Lon,alt,Lat\n" + "\n".join(f"1,{lon},3,{lat}" for lat, lon in PLACES))
        np.testing.assert_allclose(read_track(tmp_path / "a.csv"), PLACES)

    def test_gpx(self, tmp_path):
        points = "".join(f'<trkpt lat="{lat}" lon="{lon}"><ele>3</ele></trkpt>' for lat, lon in PLACES)
        (tmp_path / "a.gpx").write_text(
            f'<gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>{points}</trkseg></trk></gpx>'
        )
        np.testing.assert_allclose(read_track(tmp_path / "a.gpx"), PLACES)

    def test_tum(self, tmp_path):
        places = VIENNA.to_enu(*np.transpose(PLACES))
        np.savetxt(tmp_path / "a.tum", np.hstack([np.arange(3)[:, None], places, np.zeros((3, 5))]))
        np.testing.assert_allclose(read_track(tmp_path / "a.tum", datum=VIENNA), PLACES)
        with pytest.raises(ImageryError, match="--datum"):
            read_track(tmp_path / "a.tum")

    def test_bag(self, tmp_path):
        write_fixes(tmp_path / "bag", [*PLACES, (np.nan, np.nan)])
        np.testing.assert_allclose(read_track(tmp_path / "bag"), PLACES)

    def test_fixes_of_a_bag_are_those_that_localization_takes(self, tmp_path):
        unknown, none = -2, -1
        known = np.diag([4.0, 4.0, 9.0]).ravel()
        write_fixes(tmp_path / "vouched", [(0.0, 0.0), *PLACES], status=unknown, covariance=known)
        np.testing.assert_allclose(read_track(tmp_path / "vouched"), PLACES)
        for status in (unknown, none):
            write_fixes(tmp_path / f"status{status}", PLACES, status=status)
            with pytest.raises(ImageryError, match="found none"):
                read_track(tmp_path / f"status{status}")

    def test_the_place_that_a_receiver_writes_before_it_knows_one_is_left_out(self, tmp_path):
        (tmp_path / "a.csv").write_text("\n".join(f"{lat},{lon}" for lat, lon in [(0.0, 0.0), *PLACES]))
        places = read_track(tmp_path / "a.csv")
        np.testing.assert_allclose(places, PLACES)
        points = "".join(f'<trkpt lat="{lat}" lon="{lon}"/>' for lat, lon in [PLACES[0], ("0", "0.000"), *PLACES[1:]])
        (tmp_path / "a.gpx").write_text(f"<gpx>{points}</gpx>")
        np.testing.assert_allclose(read_track(tmp_path / "a.gpx"), PLACES)

    @pytest.mark.parametrize(
        ("name", "text"),
        [("a.csv", "x,y,z\n1,2,3"), ("a.csv", "north,east"), ("a.csv", ""), ("a.csv", "100,500"), ("a.gpx", "<gpx>"),
         ("a.gpx", "<gpx/>"), ("a.gpx", '<gpx><trkpt lat="48.2"/></gpx>'), ("a.csv", "0,0"),
         ("a.mcap", "no bag"), ("a.tum", "1 2")],
    )  # fmt: skip
    def test_others_are_refused(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        with pytest.raises(ImageryError, match=name):
            read_track(tmp_path / name, datum=VIENNA)
        with pytest.raises(ImageryError, match="there is no file"):
            read_track(tmp_path / "absent.csv")


class TestCommand:
    def test_says_what_it_takes_and_asks(self, server, template):
        result = cvloc(template, "--around", "48.2,16.3", "--radius", 120, input="n\n")
        assert result.exit_code == 1 and not server.requests
        assert "zoom 18, 0.40 m a pixel" in result.output and "to download: about" in result.output
        assert "whose terms apply" in result.output

    def test_along_a_track(self, server, template, tmp_path):
        write_fixes(tmp_path / "bag", PLACES)
        arguments = (template, "--track", tmp_path / "bag", "--radius", 60, "--yes")
        result = cvloc(*arguments)
        assert result.exit_code == 0, result.output
        count = len(server.requests)
        assert 10 < count < 60
        assert "everything is there" in cvloc(*arguments).output and len(server.requests) == count

    def test_within_a_box(self, server, template):
        result = cvloc(template, "--box", "16.3,48.2,16.303,48.202", "--yes")
        assert result.exit_code == 0, result.output
        assert 4 <= len(server.requests) <= 25

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [((), "one of"), (("--box", "1,2,3"), "west,south"), (("--box", "3,2,1,4"), "west must be less"),
         (("--around", "north"), "for --around: expected"), (("--around", "1,2", "--box", "1,2,3,4"), "one of")],
    )  # fmt: skip
    def test_wrong_areas_are_refused(self, template, arguments, words):
        result = cvloc(template, *arguments)
        assert result.exit_code == 2 and words in " ".join(result.output.split())

    def test_failures_are_told(self, server, template, monkeypatch):
        monkeypatch.setattr(prefetching, "_ATTEMPTS", 1)
        server.mood, server.bad = 500, lambda z, x, y: x % 3 == 0 and y % 3 == 0
        result = cvloc(template, "--around", "48.2,16.3", "--radius", 150, "--yes")
        assert result.exit_code == 1 and "did not come, e.g. HTTP 500" in " ".join(result.output.split())


def write_fixes(path, places, *, status=0, covariance=None):
    store = get_typestore(Stores.ROS2_JAZZY)
    Fix, Status = store.types["sensor_msgs/msg/NavSatFix"], store.types["sensor_msgs/msg/NavSatStatus"]
    Header, Time = store.types["std_msgs/msg/Header"], store.types["builtin_interfaces/msg/Time"]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/fix", Fix.__msgtype__, typestore=store)
        for second, (latitude, longitude) in enumerate(places):
            header = Header(Time(second, 0), "gnss")
            fix = Fix(
                header, Status(status, 1), latitude, longitude, 0.0,
                np.zeros(9) if covariance is None else covariance, 0 if covariance is None else 2,
            )  # fmt: skip
            writer.write(topic, second * 10**9, store.serialize_cdr(fix, Fix.__msgtype__))
