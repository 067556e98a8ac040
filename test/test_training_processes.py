"""The training loop in more than one process: nothing changes, and a signal to all of them loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import TINY, fresh_task, rows, run, state, stop_at, trained

from cvloc_ros.training.checkpoint import Stopped
from cvloc_ros.training.settings import write_yaml
from cvloc_ros.training.train import start_from


def process(*arguments, processes=1):
    script = str(Path(__file__).with_name("training_process.py"))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29733"]
    command = [sys.executable, *(launcher if processes > 1 else []), script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finished(started):
    out, err = started.communicate(timeout=500)
    assert started.returncode == 0, err[-3000:]
    return out


@pytest.mark.slow
class TestProcesses:
    @pytest.mark.parametrize("of", ["nothing", "vote_flow", "dense_flow"])
    def test_two_processes_are_one(self, of, tmp_path):
        """torchrun with two processes over gloo, also in parts, takes the steps of one with the same renderers.

        Gradients of a network that knows nothing are ill conditioned: reversing a batch changes them by two per cent
        in single precision, those of the shipped one by a third of a per cent. So they are compared from there, and
        batch normalization's averages from nothing, where features are as large as their deviations.
        """
        # the first step's rate is zero: both gradients are at one place
        config = replace(TINY if of == "nothing" else trained(of), samples=8, workers=2, clip=1e6)
        parts = 2 if of == "dense_flow" else 1  # what normalizes by the batch would see smaller ones
        write_yaml(replace(config, accumulate=parts), tmp_path / "settings.yaml")
        started = process(tmp_path / "settings.yaml", tmp_path / "two", processes=2)
        run(config, tmp_path / "one")
        finished(started)
        one, two = state(tmp_path / "one"), state(tmp_path / "two")
        assert one.keys() == two.keys()
        for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
            assert {k: float(v) for k, v in b.items()} == pytest.approx({k: float(v) for k, v in a.items()}, rel=1e-4)
        task = fresh_task(config)
        if of != "nothing":
            start_from(task, Path(config.start_from))
            gradients = [
                torch.cat([v.flatten() for k, v in each.items() if k.endswith("exp_avg")]) for each in (one, two)
            ]
            assert (gradients[1] - gradients[0]).norm() < 0.01 * gradients[0].norm()
        else:
            averages = [name for name in one if name.endswith(("running_mean", "running_var"))]
            assert len(averages) > 50
            for name in averages:
                torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)
        begun = task.named_parameters()
        assert max(float((one[f"/task/{name}"] - value).detach().abs().max()) for name, value in begun) > 1e-3

    def test_sigterm_to_everybody_stops_and_loses_nothing(self, tmp_path):
        """As a batch system does it: rendering processes get the signal too."""
        config = replace(TINY, samples=40_000, workers=2)
        write_yaml(config, tmp_path / "settings.yaml")
        started = process(tmp_path / "settings.yaml", tmp_path / "run")
        deadline = time.monotonic() + 400
        while not ((tmp_path / "run/log.csv").exists() and len(rows(tmp_path / "run")) >= 2):
            assert started.poll() is None and time.monotonic() < deadline, started.communicate()[1][-3000:]
            time.sleep(0.2)
        os.killpg(started.pid, signal.SIGTERM)
        assert "nothing is lost: go on with" in finished(started)
        seen = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["seen"]
        assert seen == int(rows(tmp_path / "run")[-1]["seen"])
        run(replace(config, samples=seen + 8), tmp_path / "run", resume=True)
        assert [int(row["seen"]) for row in rows(tmp_path / "run")] == list(range(4, seen + 9, 4))

    def test_workers_change_nothing_of_a_resumption(self, tmp_path):
        config = replace(TINY, samples=16, workers=1)
        run(config, tmp_path / "straight")
        with pytest.raises(Stopped):
            run(config, tmp_path / "stopped", report=stop_at(8))
        run(config, tmp_path / "stopped", resume=True)
        expected, found = state(tmp_path / "straight"), state(tmp_path / "stopped")
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
