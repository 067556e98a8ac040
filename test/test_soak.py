"""The verdict of tools/soak.py: what it lets pass and what it does not."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

TOOL = Path(__file__).resolve().parents[1] / "tools" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(soak):
    """Two hours of 75 s loops, a row every 15 s."""
    rng = np.random.default_rng(0)
    row = soak.Row(0.0, 0, 580.0, 160.0, 70.0, 2.0, "tracking", 150, 146, 1, 80.0, 120.0, 0.2, "")
    seconds = np.arange(15.0, 7200.0, 15.0)
    return [
        replace(
            row, seconds=s, loop=int(s // 75), memory_mb=580.0 + rng.uniform(0, 5), median_ms=80 + rng.uniform(0, 9)
        )
        for s in seconds
    ]


def test_steady_run_is_good_whatever_happens_in_the_warm_up(soak, rows):
    rows = [replace(row, memory_mb=300.0, median_ms=900.0) if row.seconds < 500 else row for row in rows]
    good, lines = soak.judge(rows)
    assert good and all(line.startswith("good") for line in lines[:3]), lines
    assert "95 whole ones" in lines[2]


@pytest.mark.parametrize(
    ("spoil", "bad"),
    [
        (lambda row: replace(row, memory_mb=row.memory_mb + row.seconds / 100), "memory"),
        (lambda row: replace(row, median_ms=row.median_ms * (1 + row.seconds / 7200)), "latency"),
        (lambda row: replace(row, accepted=100) if row.loop == 40 else row, "loops"),
    ],
    ids=["leak", "slower and slower", "one loop is lost"],
)
def test_each_fault_is_bad(soak, rows, spoil, bad):
    good, lines = soak.judge([spoil(row) for row in rows])
    assert not good
    assert [line.split()[1].rstrip(":") for line in lines if line.startswith("BAD")] == [bad]


def test_rows_become_a_picture(soak, rows, tmp_path):
    soak.plot(rows, tmp_path / "soak.png", title="two hours")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
