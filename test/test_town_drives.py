"""The drives of `cvloc eval town-drives`: what a scenario does to a drive, and how a drive is judged."""

import json
from dataclasses import replace

import numpy as np
import pytest
from recorded_drive import OracleLocalizer
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.town import Town
from cvloc_ros.datasets.town.drive import simulate_drive
from cvloc_ros.datasets.town.sensors import SECOND, GnssModel
from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.evaluation.town_drives import COLUMNS, judge, run_scenario, table_rows, write_drives
from cvloc_ros.evaluation.town_scenarios import MemoryDrive, Scenario
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.types import Frame


class Blind(OracleLocalizer):
    """An oracle that needs light."""

    def localize(self, frame: Frame, prior):
        answer = super().localize(frame, prior)
        return answer if frame.image.any() else replace(answer, accepted=False, quality=0.1, reason="low_quality")


@pytest.fixture(scope="module")
def drive():
    return simulate_drive(Town.generate(1_000_000, size=300.0), 1_000_000, duration=22.0, image_rate=2.0)


@pytest.fixture(scope="module")
def images(drive):
    return list(drive.images(workers=1))


def test_a_scenario_darkens_images_and_cuts_gnss(drive, images):
    scenario = Scenario("dark", GnssModel(bias=8.0, outage=(5.0, 9.0)), black=(4.0, 8.0))
    row, frames = run_scenario(drive, images, Blind(drive), seed=1, scenario=scenario)
    assert len(frames) == 45 and row.scenario == "dark" and row.metres == drive.trajectory.distance
    start = frames[0].stamp
    dark = [frame for frame in frames if 4 <= (frame.stamp - start) / SECOND < 8]
    assert len(dark) == 8 and not any(frame.accepted for frame in dark)
    assert row.rmse < 1.0 and row.wrong == 0 and 0 <= row.recovery < 8

    events = list(MemoryDrive(drive, scenario.images(drive, images)))
    assert [event.stamp for event in events] == sorted(event.stamp for event in events)
    shown = {event.stamp: event.image() for event in events if isinstance(event, ImageEvent)}
    assert all(shown[stamp].any() != (4 <= (stamp - start) / SECOND < 8) for stamp in shown)


def test_a_wrong_initial_pose_is_as_wrong_as_it_is_told(drive, images):
    scenario = Scenario("lost", GnssModel(outage=(0.0, np.inf)), initial_error=(25.0, 20.0))
    row, frames = run_scenario(drive, images, Blind(drive), seed=2, scenario=scenario)
    first = frames[0]
    assert np.hypot(first.fused.x - first.truth.x, first.fused.y - first.truth.y) == pytest.approx(25.0)
    assert abs(np.degrees(first.fused.yaw - first.truth.yaw)) == pytest.approx(20.0)
    assert 2 < row.recovery < 22 and row.tracking < 1
    again, _ = run_scenario(drive, images, Blind(drive), seed=2, scenario=scenario)
    assert again == row


def test_same_sensors_but_for_what_the_scenario_changes(drive, images):
    once, twice, worse = (Scenario("x", GnssModel(bias=bias)).sensors(drive, seed=4) for bias in (1.0, 1.0, 9.0))
    assert [fix.latitude for fix in once.fixes] == [fix.latitude for fix in twice.fixes]
    assert [event.stamp for event in once.fixes] == [event.stamp for event in worse.fixes]
    assert once.fixes[0].latitude != worse.fixes[0].latitude


def frame(second, state, error):
    return FrameRecord(round(second * SECOND), True, "", fused=SE2(error, 0.0, 0.0), state=state, truth=SE2())


def test_a_drive_is_judged_by_its_worst_moments():
    frames = [
        frame(0, "initializing", 9.0),
        frame(1, "tracking", 3.0),
        frame(2, "tracking", 6.0),
        frame(3, "tracking", 7.0),
        frame(4, "degraded", 8.0),
        frame(5, "tracking", 6.0),
        frame(6, "tracking", 1.0),
    ]
    row = judge(frames, good_from=SECOND, seed=0, scenario="s", metres=10.0)
    assert row.wrong == 2.0  # from 1 s, when it was last seen to be right, to 3 s
    assert row.recovery == 5.0 and row.worst == 7.0
    assert row.rmse == pytest.approx(np.sqrt(np.mean(np.square([3.0, 6.0, 7.0, 8.0, 6.0, 1.0]))))
    never = judge(frames[:1], good_from=0, seed=0, scenario="s", metres=10.0)
    assert never.recovery == np.inf == never.rmse and never.tracking == 0


def test_the_table_shows_each_drive_and_the_worst(tmp_path):
    one = judge([frame(0, "tracking", 1.0), frame(1, "tracking", 6.0)], good_from=0, seed=7, scenario="s", metres=1.0)
    two = judge([frame(0, "lost", 30.0)], good_from=0, seed=8, scenario="s", metres=1.0)
    rows = table_rows([two, one])
    assert [row[1] for row in rows] == ["7", "8", "worst of 2"]
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert rows[2] == ["s", "worst of 2", "inf", "6.00", "1.0", "inf", "0 %", "100 %"]
    write_drives([one, two], tmp_path)
    assert json.loads((tmp_path / "town_drives.json").read_text())[1]["recovery"] is None
    assert (tmp_path / "town_drives.md").read_text().count("\n") == 7


def test_the_command_names_what_it_knows():
    wrong = CliRunner().invoke(app, ["eval", "town-drives", "--scenario", "fog"])
    assert wrong.exit_code == 2 and "black" in wrong.output and "fog" in wrong.output
    assert "town-drives" in CliRunner().invoke(app, ["eval", "moon"]).output
