"""Metrics against values worked out by hand, and the files that a run leaves."""

import csv
import io
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from recorded_drive import DATUM, OracleLocalizer, RecordedDrive
from rich.console import Console

from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.town.sensors import GnssModel
from cvloc_ros.evaluation import metrics
from cvloc_ros.evaluation.honesty import reliability_curve, run_honesty_figure
from cvloc_ros.evaluation.metrics import PoseErrors, chance, chi2_3dof_cdf, nees, statistics
from cvloc_ros.evaluation.outputs import write_outputs
from cvloc_ros.evaluation.pictures import OVERLAY_GRID, draw_overlay
from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.evaluation.run import run_bag
from cvloc_ros.evaluation.summary import begun, frame_nees, summarize
from cvloc_ros.evaluation.summary_table import print_summary
from cvloc_ros.evaluation.trajectory import in_words, trajectory_metrics
from cvloc_ros.geometry import SE2
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.types import Localization, Matches, Prior

ERROR_KEYS = {"position_error_m", "lateral_error_m", "longitudinal_error_m", "yaw_error_deg", "recall"}
RECALL_KEYS = {"lateral_1m", "lateral_5m", "longitudinal_1m", "longitudinal_5m", "yaw_1deg", "yaw_5deg"}
FACT_KEYS = {"source", "notes", "method", "weights", "device", "datum", "frames", "localized", "rejected", "dropped"}
FACT_KEYS |= {"start", "duration_s", "distance_m", "latency_ms", "rate_hz"}


@pytest.mark.parametrize("heading", np.radians([0, 37, 90, 180, -140]))
def test_lateral_and_longitudinal_are_along_the_true_heading(heading):
    truth = SE2(100.0, -50.0, float(heading))
    turned = 0.4  # a wrong predicted heading must not change the axes
    ahead, left = truth @ SE2(1.0, 0.0, turned), truth @ SE2(0.0, 2.0, -turned)
    errors = PoseErrors.between([ahead, left], [truth, truth])
    np.testing.assert_allclose(errors.longitudinal, [1, 0], atol=1e-9)
    np.testing.assert_allclose(errors.lateral, [0, 2], atol=1e-9)
    np.testing.assert_allclose(errors.position, [1, 2], atol=1e-9)
    np.testing.assert_allclose(errors.yaw, [0.4, -0.4], atol=1e-9)


def test_heading_errors_wrap():
    errors = PoseErrors.between([SE2(0, 0, np.radians(179))], [SE2(0, 0, np.radians(-179))])
    assert np.degrees(errors.yaw[0]) == pytest.approx(-2)


def test_recall_includes_its_limit():
    truth = SE2(0.0, 0.0, np.radians(37))
    estimates = [truth @ SE2(1.0, 5.0, np.radians(1.0)), truth @ SE2(1.01, 5.01, np.radians(5.01))]
    recall = PoseErrors.between(estimates, [truth, truth]).recall()
    assert recall == {
        "lateral_1m": 0.0,
        "lateral_5m": 0.5,
        "longitudinal_1m": 0.5,
        "longitudinal_5m": 1.0,
        "yaw_1deg": 0.5,
        "yaw_5deg": 0.5,
    }


def test_statistics_by_hand():
    values = statistics(np.array([-3.0, 4.0]))
    assert values["mean"] == 3.5 and values["median"] == 3.5 and values["max"] == 4.0
    assert values["rmse"] == pytest.approx(np.sqrt(12.5)) and values["p95"] == pytest.approx(3.95)


def test_chance_is_what_guessing_the_centre_scores():
    expected = chance()
    assert expected["position_error_m"]["mean"] == pytest.approx(15.3, abs=0.01)
    assert expected["recall"]["lateral_1m"] == 0.05 and expected["recall"]["longitudinal_5m"] == 0.25
    assert expected["recall"]["yaw_1deg"] == 0.1
    rng = np.random.default_rng(0)
    truths = [SE2(*rng.uniform(-20, 20, 2), yaw) for yaw in rng.uniform(-np.pi, np.pi, 20000)]
    # The box lies along the vehicle's axes, and so do the errors.
    box = [truth @ SE2(*rng.uniform(-20, 20, 2), np.radians(rng.uniform(-10, 10))) for truth in truths]
    measured = PoseErrors.between(box, truths).summary()
    for name in ERROR_KEYS:
        for key, value in expected[name].items():
            assert measured[name][key] == pytest.approx(value, rel=0.03, abs=0.005), (name, key)


def test_nees_of_honest_and_overconfident_estimates():
    rng = np.random.default_rng(1)
    A = np.array([[0.5, 0, 0], [0.3, 0.2, 0], [0.01, 0.0, 0.02]])
    errors = rng.normal(size=(20000, 3)) @ A.T
    covariance = np.broadcast_to(A @ A.T, (20000, 3, 3))
    honest = nees(errors, covariance)
    assert honest.mean() == pytest.approx(3.0, rel=0.03)
    assert np.mean(honest <= metrics.CHI2_3DOF_95) == pytest.approx(0.95, abs=0.005)
    assert nees(errors, covariance / 4).mean() == pytest.approx(12.0, rel=0.03)
    assert chi2_3dof_cdf(metrics.CHI2_3DOF_95) == pytest.approx(0.95, abs=1e-4)
    assert np.mean(honest <= 3) == pytest.approx(float(chi2_3dof_cdf(3.0)), abs=0.01)


@pytest.fixture(scope="module")
def result():
    drive = RecordedDrive(seconds=30, gnss=GnssModel(outage=(0.0, 0.5)))
    picture = np.full((65, 130, 3), 90, np.uint8)
    run = run_bag(drive, OracleLocalizer(drive), datum=DATUM, painter=lambda frame, localization, truth: picture)
    return replace(run, imagery="nowhere.tif", method="oracle", weights="none", device="cpu")


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_outputs(result, path)
    return path


def test_summary_has_every_key_and_adds_up(result, folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == FACT_KEYS | ERROR_KEYS | {"tracker", "trajectory", "gnss", "odometry", "nees"}
    assert set(summary["tracker"]) == ERROR_KEYS | {"nees"}
    assert set(summary["recall"]) == set(summary["tracker"]["recall"]) == RECALL_KEYS
    for section in (summary, summary["tracker"], summary["gnss"], summary["odometry"]):
        assert set(section["position_error_m"]) == {"mean", "median", "p95", "rmse", "max"}
    assert set(summary["nees"]) == {"mean", "within_95"} and set(summary["latency_ms"]) == {"median", "p95"}
    assert summary["frames"] == 301 == summary["localized"] + sum(summary["rejected"].values())
    assert summary["rate_hz"] == pytest.approx(summary["localized"] / summary["duration_s"], rel=1e-3)
    assert summary["distance_m"] == pytest.approx(256, abs=2)
    assert 2 < summary["nees"]["mean"] < 4.5
    assert 5 < summary["gnss"]["position_error_m"]["mean"] < 8
    assert summary["tracker"]["position_error_m"]["rmse"] < summary["position_error_m"]["rmse"] < 0.7
    assert summary["odometry"]["position_error_m"]["max"] > 1


@pytest.mark.parametrize("late", [0.0, 3.0])
def test_a_given_start_is_told_with_how_far_it_was_off(late):
    """Also where the truth begins later than the odometry."""
    drive = RecordedDrive(seconds=20, gnss=GnssModel(outage=(0.0, np.inf)))
    x, y, yaw = drive.trajectory.poses[0].tolist()
    given = SE2(x + 12.0, y - 9.0, yaw - np.radians(8.0))
    run = run_bag(drive, OracleLocalizer(drive), datum=DATUM, initial_pose=(given, np.diag([100, 100, 0.02])))
    run = replace(run, truth=[(stamp, pose) for stamp, pose in run.truth if stamp >= drive.start + late * 1e9])
    summary = summarize(run)
    assert summary["start"]["gnss"] is False and summary["start"]["given"]["east_m"] == pytest.approx(x + 12, abs=1e-3)
    assert summary["start"]["position_error_m"] == pytest.approx(15.0, abs=0.01 if not late else 2.0)  # turned by 8°
    assert summary["start"]["yaw_error_deg"] == pytest.approx(8.0, abs=0.01 if not late else 0.5)
    assert summary["tracker"]["position_error_m"]["median"] < 1.0
    if not late:
        assert begun(summary) == "without GNSS, from a start 15 m and 8° off"
    unknown = begun(summarize(replace(run, truth=[])))
    assert (
        unknown == f"without GNSS, from the start {x + 12:.1f} m east, {y - 9:.1f} m north, {np.degrees(yaw) - 8:.0f}°"
    )


def test_the_aim_stands_beside_what_the_run_had(result, folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["start"] == {"gnss": True}
    this = f"This run: with GNSS of {summary['gnss']['position_error_m']['rmse']:.1f} m."
    assert this in (folder / "report.html").read_text()
    console = Console(file=io.StringIO(), width=200)
    print_summary(summary, console=console)
    assert f"The aim: without GNSS, from a start up to 20 m and 10° off. {this}" in console.file.getvalue()


def test_without_truth_error_keys_are_absent():
    drive = RecordedDrive(seconds=10, with_truth=False)
    summary = summarize(run_bag(drive, OracleLocalizer(drive), datum=DATUM))
    assert set(summary) == FACT_KEYS and summary["localized"] > 30


def test_trajectory_is_read_by_evo_and_scores_the_same(result, folder):
    from evo.core import metrics as evo_metrics
    from evo.core.sync import associate_trajectories
    from evo.tools import file_interface

    estimate = file_interface.read_tum_trajectory_file(str(folder / "trajectory.tum"))
    tracked = [frame for frame in result.frames if frame.tracked]
    assert estimate.num_poses == len(tracked)
    truth = file_interface.read_tum_trajectory_file(str(folder / "truth.tum"))
    assert truth.num_poses == len(result.frames)
    truth, estimate = associate_trajectories(truth, estimate, max_diff=1e-4)
    ape = evo_metrics.APE(evo_metrics.PoseRelation.translation_part)
    ape.process_data((truth, estimate))
    summary = json.loads((folder / "summary.json").read_text())
    rmse = summary["tracker"]["position_error_m"]["rmse"]
    assert ape.get_statistic(evo_metrics.StatisticsType.rmse) == pytest.approx(rmse, abs=1e-3)
    assert summary["trajectory"]["ape_rmse_m"] == pytest.approx(rmse, abs=1e-3)
    assert 0 < summary["trajectory"]["rpe_rmse_m"] < 2 * rmse
    rotation = evo_metrics.APE(evo_metrics.PoseRelation.rotation_angle_deg)
    rotation.process_data((truth, estimate))
    yaw = summary["tracker"]["yaw_error_deg"]["mean"]
    assert rotation.get_statistic(evo_metrics.StatisticsType.mean) == pytest.approx(yaw, abs=1e-3)
    first = (folder / "trajectory.tum").read_text().split()[0]
    assert first == f"{tracked[0].stamp // 10**9}.{tracked[0].stamp % 10**9:09d}"


def test_relative_errors_leave_out_an_offset_that_lasts():
    def track(n: int, scale: float, tracked: bool = True) -> list[FrameRecord]:
        return [
            FrameRecord(
                round(i * 1e8), True, "", state="tracking" if tracked else "lost",
                fused=SE2(5 + scale * i, 3.0, 0.02), truth=SE2(i, 0.0, 0.0),
            )
            for i in range(n)
        ]  # fmt: skip

    metrics = trajectory_metrics(track(100, 1.0))
    assert metrics["ape_rmse_m"] == pytest.approx(np.hypot(5, 3))
    assert metrics["ape_rmse_deg"] == pytest.approx(np.degrees(0.02))
    assert metrics["rpe_rmse_m"] == pytest.approx(10 * 0.02, rel=0.01) and metrics["rpe_rmse_deg"] == pytest.approx(0)
    assert set(trajectory_metrics(track(5, 1.0))) == {"ape_rmse_m", "ape_rmse_deg"}  # 4 m: no two frames 10 m apart
    assert in_words(trajectory_metrics(track(5, 1.0))) == "APE 5.83 m, 1.15° (RMSE)" and in_words({}) == ""
    assert trajectory_metrics(track(1, 1.0)) == trajectory_metrics(track(100, 1.0, tracked=False)) == {}


def test_frames_table_has_a_row_for_every_frame(result, folder):
    with (folder / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["stamp_ns"]) for row in rows] == [frame.stamp for frame in result.frames]
    assert rows[0]["reason"] == "waiting" and rows[0]["x"] == "" and rows[0]["truth_x"] != ""
    row, frame = next((r, f) for r, f in zip(rows, result.frames, strict=True) if f.accepted)
    assert row["accepted"] == "1" and row["reason"] == ""
    assert float(row["x"]) == pytest.approx(frame.estimate.x, abs=1e-3)
    assert float(row["position_error_m"]) == pytest.approx(
        np.hypot(frame.estimate.x - frame.truth.x, frame.estimate.y - frame.truth.y), abs=1e-3
    )
    assert float(row["var_x"]) == pytest.approx(0.16) and float(row["total_ms"]) > 0 and float(row["match_ms"]) == 5.0


def test_mcap_opens_and_holds_the_run(result, folder):
    from rosbags.highlevel import AnyReader

    with AnyReader([folder / "run.mcap"]) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        counts = {c.topic: c.msgcount for c in reader.connections}
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        poses = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages() if c.topic == "/cvloc/pose"]
        paths = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages() if c.topic == "/cvloc/path"]
    assert types == {
        "/cvloc/pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
        "/cvloc/odometry": "nav_msgs/msg/Odometry",
        "/cvloc/path": "nav_msgs/msg/Path",
        "/cvloc/fix": "sensor_msgs/msg/NavSatFix",
        "/cvloc/debug/overlay/compressed": "sensor_msgs/msg/CompressedImage",
        "/datum": "sensor_msgs/msg/NavSatFix",
        "/fix": "sensor_msgs/msg/NavSatFix",
        "/ground_truth": "nav_msgs/msg/Odometry",
        "/tf": "tf2_msgs/msg/TFMessage",
    }
    latched = {topic for topic, profile in qos.items() if profile.durability.name == "TRANSIENT_LOCAL"}
    assert latched == {"/datum"} and qos["/datum"].lifespan.sec > 10**9  # no message ever expires
    accepted = [frame for frame in result.frames if frame.accepted]
    assert counts["/cvloc/pose"] == len(accepted) and counts["/fix"] == len(result.fixes)
    assert counts["/cvloc/debug/overlay/compressed"] == len(result.samples) > 20
    header, pose = poses[0].header, poses[0].pose
    assert header.frame_id == "map" and header.stamp.sec * 10**9 + header.stamp.nanosec == accepted[0].stamp
    assert pose.pose.position.x == accepted[0].estimate.x
    covariance = pose.covariance.reshape(6, 6)
    np.testing.assert_allclose(covariance[np.ix_([0, 1, 5], [0, 1, 5])], accepted[0].covariance)
    assert len(paths[-1].poses) > len(paths[0].poses)


def test_report_is_self_contained_and_shows_the_pictures(folder):
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "@import" not in page and "{" + "body" not in page
    assert page.count("<img") >= 6 and "NEES" in page and "inconsistent_with_track" in page
    assert in_words(json.loads((folder / "summary.json").read_text())["trajectory"]) in page
    cells = re.sub("<[^>]*>", "|", page.split("<td>fused, the aim</td>")[1].split("</tr>")[0]).split("||")
    assert [cell.strip("|") for cell in cells if cell.strip("|")] == [
        "2",
        "3",
        "1",
        "80 %",
    ]  # median, RMSE, yaw, lateral
    for name in ("map", "errors", "calibration"):
        image = cv2.imread(str(folder / "pictures" / f"{name}.png"))
        assert image.shape[1] > 900 and image.std() > 10, name
    matches = sorted(path.name for path in (folder / "pictures").glob("match_*.jpg"))
    assert matches == ["match_best.jpg", "match_median.jpg", "match_rejected.jpg", "match_worst.jpg"]


def test_honesty_is_drawn_over_time_and_as_a_curve(result):
    axes = {axis.get_title(): axis for axis in run_honesty_figure(result).axes}
    over_time, calibration = axes["NEES over time"], axes["Calibration"]
    accepted = [frame for frame in result.frames if frame.accepted]
    drawn = next(line for line in over_time.lines if line.get_label() == "per frame")
    np.testing.assert_allclose(drawn.get_ydata(), frame_nees(accepted))
    curve = next(line for line in calibration.lines if line.get_label() == "per frame")
    claimed, observed = curve.get_data()
    assert np.abs(claimed - observed).max() < 0.15  # this localizer says what it does
    assert run_honesty_figure(replace(result, frames=[])) is None


def test_reliability_is_counted_by_bins():
    quality, right = np.array([0.1, 0.1, 0.97, 0.99, 1.0]), np.array([False, True, True, True, True])
    np.testing.assert_allclose(reliability_curve(quality, right), [[0.1, 0.5, 2], [0.98667, 1.0, 3]], rtol=1e-4)


def test_outputs_of_a_drive_that_was_never_localized(tmp_path):
    drive = RecordedDrive(seconds=5, with_truth=False)
    drive.fixes = []
    run = run_bag(drive, OracleLocalizer(drive), datum=DATUM)
    assert run.notes and "no GNSS fix" in run.notes[0]
    summary = write_outputs(run, tmp_path)
    assert summary["localized"] == 0 and summary["rejected"] == {"waiting": 51}
    assert (tmp_path / "trajectory.tum").read_text() == "" and not (tmp_path / "truth.tum").exists()
    assert "no GNSS fix" in (tmp_path / "report.html").read_text()


def test_match_picture_of_a_frame_without_matches():
    """Where nothing of the ground is seen there are no matches, and still a picture that shows it."""
    drive = RecordedDrive(seconds=1)
    frame = drive.frame(next(event for event in drive if isinstance(event, ImageEvent)))
    prior = Prior(SE2(), np.eye(3))
    nothing = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    answer = Localization(0, prior, SE2(), np.eye(3), 0.1, False, "degenerate_matches", nothing, None, {"total": 1.0})
    black = np.zeros((OVERLAY_GRID.rows, OVERLAY_GRID.cols, 3), np.uint8)
    picture = draw_overlay(frame, Patch(black, black[..., 0] > 0, OVERLAY_GRID, SE2()), answer)
    assert picture.shape == (680, 1302, 3) and picture.std() > 10


def test_table_fits_a_terminal(folder):
    console = Console(width=80, record=True, file=io.StringIO())
    print_summary(json.loads((folder / "summary.json").read_text()), console=console)
    text = console.export_text()
    assert "…" not in text and "chance" in text and "15.96" in text and "NEES" in text and "fused, the aim" in text
    words = in_words(json.loads((folder / "summary.json").read_text())["trajectory"])
    assert words.startswith("APE ") and words in " ".join(text.split())
