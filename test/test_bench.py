"""The bench's rows: the keys that users rely on, every stage of both variants, ratios that follow from the times."""

import pytest

from cvloc_ros.evaluation.bench import bench_localizer
from cvloc_ros.localization.localizer import load_localizer

KEYS = ["method", "variant", "device", "precision", "stage", "median_ms", "p95_ms", "hz", "peak_mb", "ratio"]


def test_rows():
    calls = []
    rows = bench_localizer(load_localizer(None, device="cpu"), frames=5, progress=lambda: calls.append(1))
    assert len(calls) == 5
    assert all(list(row) == KEYS for row in rows)
    by_variant = {name: {r["stage"]: r for r in rows if r["variant"] == name} for name in ("eager", "bf16")}
    stages = set(by_variant["eager"])
    assert stages == set(by_variant["bf16"])
    assert {"decode", "patch", "encode satellite", "encode ground", "vote and solve", "weigh", "total"} <= stages
    for eager in by_variant["eager"].values():
        other = by_variant["bf16"][eager["stage"]]
        assert eager["ratio"] == 1.0
        assert 0 < eager["median_ms"] <= eager["p95_ms"]
        assert other["ratio"] == pytest.approx(eager["median_ms"] / other["median_ms"], abs=0.02, rel=0.02)
