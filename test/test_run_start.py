"""`cvloc run --start`: a drive in a bag, without its fixes."""

import json

import numpy as np
import pytest
from bag_rewriting import rewrite
from test_bag_frames import drive, folder, imagery, mcap  # noqa: F401 (fixtures: a town and a bag of it)
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.bag_topics import BagError


def run(*arguments):
    return CliRunner().invoke(app, ["run", *map(str, arguments), "--device", "cpu"], env={"COLUMNS": "200"})


def test_a_drive_without_fixes_needs_one(mcap, imagery, tmp_path):  # noqa: F811
    result = run(mcap, "--imagery", imagery, "--out", tmp_path, "--topics", "fix=")
    assert isinstance(result.exception, BagError)
    assert "expected GNSS, or a pose from which to start" in str(result.exception)
    assert "--start EAST,NORTH,YAW" in str(result.exception) and not list(tmp_path.iterdir())


def test_fixes_that_are_none_do_not_say_where_it_is(mcap, imagery, tmp_path):  # noqa: F811
    def lose(message):
        message.status.status = -1

    bag = rewrite(mcap, tmp_path / "bag", edit={"/gnss/fix": lose})
    result = run(bag, "--imagery", imagery, "--out", tmp_path / "out")
    assert isinstance(result.exception, BagError) and "no message on /gnss/fix is a fix" in str(result.exception)


def test_a_drive_begins_there(mcap, drive, imagery, tmp_path):  # noqa: F811
    x, y, yaw = drive.trajectory.poses[0].tolist()
    start = f"{x - 9},{y + 12},{np.degrees(yaw) + 8}"
    result = run(mcap, "--imagery", imagery, "--out", tmp_path, "--topics", "fix=", "--start", start)
    assert result.exit_code in (0, 1), result.output  # six images in a second start no track
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "waiting" not in summary["rejected"] and summary["start"]["gnss"] is False
    assert summary["start"]["given"]["north_m"] == pytest.approx(y + 12, abs=1e-3)
    assert summary["start"]["position_error_m"] == pytest.approx(15, abs=0.1)
    assert summary["start"]["yaw_error_deg"] == pytest.approx(8, abs=0.1)
    assert "without GNSS, from a start 15 m and 8° off" in (tmp_path / "report.html").read_text()
