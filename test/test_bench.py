"""The bench's rows: the keys that users rely on, every stage of both variants, ratios that follow from the times."""

import pytest

from cvloc_ros.evaluation.bench import bench_localizers
from cvloc_ros.localization.localizer import load_localizer

KEYS = ["method", "variant", "device", "precision", "stage", "median_ms", "p95_ms", "hz", "peak_mb", "ratio"]


def test_rows():
    calls = []
    variants = {name: load_localizer(None, device="cpu", fast=name == "fast") for name in ("eager", "fast")}
    rows = bench_localizers(variants, frames=8, progress=lambda: calls.append(1))
    assert len(calls) == 8
    assert all(list(row) == KEYS for row in rows)
    by_variant = {name: {r["stage"]: r for r in rows if r["variant"] == name} for name in ("eager", "fast")}
    stages = set(by_variant["eager"])
    assert stages == set(by_variant["fast"])
    assert {"decode", "patch", "encode satellite", "encode ground", "vote and solve", "weigh", "total"} <= stages
    assert {row["precision"] for row in by_variant["eager"].values()} == {"float32"}
    for eager in by_variant["eager"].values():
        other = by_variant["fast"][eager["stage"]]
        assert eager["ratio"] == 1.0
        assert 0 < eager["median_ms"] <= eager["p95_ms"]
        if other["ratio"] is not None:
            assert other["ratio"] == pytest.approx(eager["median_ms"] / other["median_ms"], abs=0.02, rel=0.02)
    spared = by_variant["fast"]["encode satellite"]
    assert spared["ratio"] is None and spared["p95_ms"] > spared["median_ms"], "three of four frames keep their patch"
    assert by_variant["fast"]["total"]["ratio"] is not None
