"""The bench's rows: the keys that users rely on, every stage of both variants, ratios that follow from the times."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.evaluation import bench
from cvloc_ros.evaluation.bench import bench_localizers, rendering_time
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.localizer import load_localizer
from cvloc_ros.localization.types import Localization, Matches, Posterior, Prior
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import FULL
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.weights import DeviceError, WeightsError

TINY = replace(FULL, trunk_widths=(8, 8, 8, 8), hidden=8, iterations=2, refine_blocks=1)
KEYS = ["method", "variant", "device", "precision", "stage", "median_ms", "p95_ms", "hz", "peak_mb", "ratio"]


def test_rows():
    calls = []
    variants = {name: load_localizer(None, device="cpu", fast=name == "fast") for name in ("eager", "fast")}
    published = []

    def publish(localization):
        published.append(localization)
        time.sleep(1e-3)

    rows = bench_localizers(variants, frames=8, publish=publish, progress=lambda: calls.append(1))
    assert len(calls) == 8 and len(published) > 16
    assert all(list(row) == KEYS for row in rows)
    by_variant = {name: {r["stage"]: r for r in rows if r["variant"] == name} for name in ("eager", "fast")}
    stages = set(by_variant["eager"])
    assert stages == set(by_variant["fast"])
    assert {
        "decode",
        "patch",
        "encode satellite",
        "encode ground",
        "vote and solve",
        "weigh",
        "publish",
        "total",
    } <= stages
    assert {row["precision"] for row in by_variant["eager"].values()} == {"float32"}
    waits = by_variant["eager"].pop("ahead")
    assert waits["ratio"] is None, "a patch of every frame's own is not known before"
    assert waits["median_ms"] < by_variant["eager"]["patch"]["median_ms"] / 4
    for eager in by_variant["eager"].values():
        other = by_variant["fast"][eager["stage"]]
        assert eager["ratio"] == 1.0
        assert 0 < eager["median_ms"] <= eager["p95_ms"]
        if other["ratio"] is not None:
            assert other["ratio"] == pytest.approx(eager["median_ms"] / other["median_ms"], abs=0.02, rel=0.02)
    spared, ahead = (by_variant["fast"][stage] for stage in ("encode satellite", "ahead"))
    assert spared["ratio"] is None and spared["p95_ms"] < by_variant["eager"]["encode satellite"]["median_ms"] / 4
    assert ahead["ratio"] is None and ahead["p95_ms"] > ahead["median_ms"], "three of four frames keep their patch"
    total = by_variant["fast"]["total"]
    assert total["ratio"] is not None and total["hz"] > 0 and total["peak_mb"] > 50


@torch.inference_mode()
@pytest.mark.parametrize("network", [VoteFlow(), DenseFlow(TINY)], ids=["vote_flow", "dense_flow"])
def test_no_part_is_counted_twice(network):
    """What a patch takes is a stage as a whole: none of the parts that are timed one by one works on it."""
    side = network.config.patch_size
    with bench._timed_submodules(network.eval(), replayed=False) as inside:
        network.encode_satellite(torch.rand(1, 3, side, side), torch.ones(1, 1, side, side))
    assert inside and not any(inside.values())


def test_the_rate_is_of_all_that_is_done():
    """Every fourth frame takes longer, and counts; the median does not know it. What is done ahead counts, too."""
    spent = {"eager": [{"ahead": ahead, "total": total} for ahead, total in [(0.0, 10.0)] * 3 + [(20.0, 30.0)]]}
    _, row = bench._rows("eager", load_localizer(None, device="cpu", fast=False), spent, 123.4)
    assert (row["median_ms"], row["hz"], row["peak_mb"], row["ratio"]) == (10.0, 50.0, 123, 1.0)


def test_rows_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "rendering_time", lambda *, pairs, workers: rendering_time(pairs=2, workers=1))
    methods = ["--method", "vote_flow", "--method", "dense_flow"]
    devices = ["--device", "cpu"] if torch.cuda.is_available() else ["--device", "auto", "--device", "cpu"]  # one
    result = CliRunner().invoke(
        app, ["bench", "--frames", "5", *methods, *devices, "--json", str(tmp_path / "a/rows.json")]
    )
    assert result.exit_code == 0 and result.output.count("frames a second") == 2
    assert "a training pair is rendered in" in result.output
    rows = json.loads((tmp_path / "a/rows.json").read_text())
    assert all(list(row) == KEYS for row in rows)
    totals = [(row["method"], row["variant"]) for row in rows if row["stage"] == "total"]
    assert totals == [(method, variant) for method in methods[1::2] for variant in ("eager", "fast")]


def test_what_is_not_there_is_said_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(bench, "bench_localizers", lambda *given, **options: pytest.fail("timed"))
    unknown = CliRunner().invoke(app, ["bench", "--method", "vote_flow", "--method", "telepathy"])
    assert unknown.exit_code == 2 and "telepathy" in unknown.output
    with pytest.raises(WeightsError, match="expected device auto, cpu, cuda or .*, got 'tpu'"):
        CliRunner().invoke(app, ["bench", "--device", "cpu", "--device", "tpu"], catch_exceptions=False)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda was asked for"):
            CliRunner().invoke(app, ["bench", "--device", "cpu", "--device", "cuda"], catch_exceptions=False)


def test_weights_are_of_one_method():
    options = ["--method", "vote_flow", "--method", "dense_flow", "--weights", "a.safetensors"]
    result = CliRunner().invoke(app, ["bench", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "expected one --method with it, got vote_flow, dense_flow" in result.output


@pytest.mark.parametrize(
    "options",
    [["--preset", "full"], ["--preset", "large"], ["--preset", "full", "--method", "dense_flow", "--weights", "a"]],
)
def test_only_dense_flow_has_the_papers_size(options):
    result = CliRunner().invoke(app, ["bench", *options], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "full with --method dense_flow and no --weights" in result.output


def test_what_is_published_of_an_image():
    """The bytes that are timed are the node's messages."""
    pytest.importorskip("rclpy", reason="messages need ROS 2")
    from diagnostic_msgs.msg import DiagnosticArray
    from geometry_msgs.msg import PoseWithCovarianceStamped
    from rclpy.serialization import deserialize_message

    from cvloc_ros.ros import frame_status
    from cvloc_ros.ros.image_messages import serialize

    matches = Matches(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1))
    posterior = Posterior(np.ones((1, 1, 1)), np.zeros(1), np.zeros(1), np.zeros(1), SE2())
    prior = Prior(SE2(3.0, 4.0, 0.1), np.eye(3))
    localization = Localization(
        stamp=1_500_000_000,
        prior=prior,
        T_map_base=SE2(1.0, 2.0, 0.3),
        covariance=0.1 * np.eye(3),
        quality=0.9,
        accepted=True,
        reason="",
        matches=matches,
        posterior=posterior,
        milliseconds={"match": 1.0, "total": 1.0},
        covered=1.0,
        search_box=(4.0, 4.0, 0.1),
    )
    pose, start, status = serialize(localization)
    pose, start = (deserialize_message(each, PoseWithCovarianceStamped) for each in (pose, start))
    assert (pose.header.stamp.sec, pose.header.stamp.nanosec) == (1, 500_000_000)
    assert (pose.pose.pose.position.x, start.pose.pose.position.y) == (1.0, 4.0)
    assert frame_status.decode(deserialize_message(status, DiagnosticArray)).quality == 0.9
