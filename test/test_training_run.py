"""The training loop: what a stop, a resumption and a second process change (nothing), and what goes wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from test_pairs import table  # noqa: F401 (fixture: a town as pairs)

from cvloc_ros.models.losses import total_loss
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_network import Votes
from cvloc_ros.models.weights import SHIPPED, WeightsError, load_network, save_weights
from cvloc_ros.training.checkpoint import Stopped
from cvloc_ros.training.config import UNSEEN_TOWNS, SourceConfig, TrainConfig
from cvloc_ros.training.loading import steps
from cvloc_ros.training.methods import complete, make_task, read_config
from cvloc_ros.training.settings import write_yaml
from cvloc_ros.training.train import learning_rate, make_fabric, start_from, train
from cvloc_ros.training.vote_flow_task import VoteFlowTask

SMALL = {"encoder_widths": [8, 8, 8, 8], "bev_hidden": 8, "flow_hidden": 8, "iterations": 1}
TINY = complete(
    TrainConfig(
        samples=24, batch=4, workers=0, threads=1, pool=4, warm_up=4, ema=0.9, validation=(), precision="32-true"
    ),
    SMALL,
    {},
)  # fmt: skip


def run(config, out, *, resume=False, report=lambda seen, row: None):
    return train(config, out, resume=resume, report=report)


def stop_at(samples, number=signal.SIGTERM):
    def report(seen, row):
        if seen == samples:
            os.kill(os.getpid(), number)

    return report


def state(out):
    """All tensors of a run's checkpoint by name."""
    found = {}

    def walk(value, name):
        if isinstance(value, dict):
            for key, each in value.items():
                walk(each, f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            found[name] = value

    walk(torch.load(out / "checkpoint.pt", weights_only=True), "")
    assert len(found) > 50
    return found


def rows(out):
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("straight")
    run(TINY, out)
    return out


class TestGoingOn:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_stopped_and_resumed_run_is_the_same_to_the_bit(self, straight, tmp_path, number):
        with pytest.raises(Stopped, match=f"12 of 24 samples.*cvloc train --out {tmp_path} --resume") as stopped:
            run(TINY, tmp_path, report=stop_at(8, number))
        assert stopped.value.signal_number == number and len(rows(tmp_path)) == 3
        run(TINY, tmp_path, resume=True)
        expected, found = state(straight), state(tmp_path)
        assert expected.keys() == found.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
        assert rows(tmp_path) == rows(straight)

    def test_handlers_are_given_back(self, straight):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_log_lines_after_the_checkpoint_are_done_again(self, straight, tmp_path):
        run(replace(TINY, samples=8), tmp_path)
        with (tmp_path / "log.csv").open("a") as file:
            file.write("12,1,1,1,1,1,1,1,1\n16,1,1")  # the machine went off after this
        run(replace(TINY, samples=12), tmp_path, resume=True)
        assert [int(row["seen"]) for row in rows(tmp_path)] == [4, 8, 12]
        assert float(rows(tmp_path)[-1]["coarse"]) > 1.5

    def test_a_run_that_was_made_longer_stays_so(self, tmp_path):
        """The hint of its next stop leaves the number out: the run must not end at the one that it began with."""
        run(replace(TINY, samples=8), tmp_path)
        with pytest.raises(Stopped, match="16 of 24 samples"):
            run(replace(TINY, samples=24), tmp_path, resume=True, report=stop_at(12))
        assert read_config(tmp_path / "config.yaml") == replace(TINY, samples=24)

    def test_a_checkpoint_of_another_version_is_refused(self, tmp_path):
        torch.save({"network": {}, "seen": 3}, tmp_path / "checkpoint.pt")
        with pytest.raises(ValueError, match="expected task, .*another version"):
            run(TINY, tmp_path, resume=True)

    def test_nothing_to_resume(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="start without --resume"):
            run(TINY, tmp_path, resume=True)


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
        """torchrun with two processes over gloo takes the steps of one process with the same rendering processes.

        Gradients of a network that knows nothing are ill conditioned: reversing a batch changes them by two per cent
        in single precision, those of the shipped one by a third of a per cent. So they are compared from there, and
        batch normalization's averages from nothing, where features are as large as their deviations.
        """
        # the first step's rate is zero: both gradients are at one place
        config = replace(TINY if of == "nothing" else trained(of), samples=8, workers=2, clip=1e6)
        write_yaml(config, tmp_path / "settings.yaml")
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


def gradient(config, out):
    """A tenth of the gradient of a run's first step, as its optimizer has it."""
    run(replace(config, samples=config.batch, clip=1e6), out)
    return torch.cat([value.flatten() for name, value in sorted(state(out).items()) if name.endswith("exp_avg")])


def trained(method="vote_flow"):
    """Settings that go on from shipped weights."""
    given = str(SHIPPED / f"{method}.safetensors")
    return complete(replace(TINY, method=method, network=None, task=None, start_from=given), {}, {})


def fresh_task(config):
    torch.manual_seed(config.seed)
    return make_task(config)


class TestArithmetic:
    def test_accumulated_steps_sum_their_gradients(self, tmp_path, monkeypatch):
        """Without batch normalization's view of the batch (frozen), parts of a step are as good as the whole."""
        monkeypatch.setattr(VoteFlowTask, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
        whole, parts = (gradient(replace(TINY, accumulate=n), tmp_path / str(n)) for n in (1, 2))
        assert 0 < (parts - whole).norm() < 1e-3 * whole.norm()

    def test_half_precision_takes_nearly_the_same_steps(self, tmp_path):
        """From the shipped weights: gradients of a network that knows nothing are ill conditioned."""
        config = trained()
        plain, half = (gradient(replace(config, precision=p), tmp_path / p) for p in ("32-true", "bf16-mixed"))
        assert float(half @ plain / half.norm() / plain.norm()) > 0.98
        assert float(half.norm()) == pytest.approx(float(plain.norm()), rel=0.1)

    @pytest.mark.slow
    def test_float16_looks_for_its_scale(self, tmp_path):
        """Steps whose gradient overflows are left out, and the loss is scaled by less from then on."""
        run(replace(TINY, samples=8, precision="16-mixed"), tmp_path)
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["scale"]["scale"] == 2**14
        found = state(tmp_path)
        for name, value in fresh_task(TINY).named_parameters():
            assert torch.equal(found[f"/task/{name}"], value), name

    @pytest.mark.slow
    def test_compiled_steps_are_the_same(self, tmp_path, monkeypatch):
        """Captured and differentiated by the compiler, but not translated: a C++ compiler would take minutes."""
        compiled = []
        through = partial(torch.compile, backend="aot_eager")
        monkeypatch.setattr(torch, "compile", lambda *given, **more: compiled.append(1) or through(*given, **more))
        config = trained()
        plain, found = (gradient(replace(config, compile=each), tmp_path / str(each)) for each in (False, True))
        assert len(compiled) == 2, "both encoders"
        assert (found - plain).norm() < 0.01 * plain.norm()

    def test_a_loss_that_is_not_finite_is_named(self, tmp_path, monkeypatch):
        def broken(*arguments, **keywords):
            losses = total_loss(*arguments, **keywords)
            return losses | {"flow": losses["flow"] * float("nan"), "total": losses["total"] * float("nan")}

        monkeypatch.setattr("cvloc_ros.training.vote_flow_task.total_loss", broken)
        with pytest.raises(FloatingPointError, match="not finite after 0 samples: .*'flow': nan, 'pose': [0-9]"):
            run(TINY, tmp_path)

    def test_a_gradient_that_is_not_finite_is_named(self, tmp_path, monkeypatch):
        def broken(model, out, truth, **keywords):
            losses = total_loss(model, out, truth, **keywords)
            zero = model.tilt_gain - model.tilt_gain
            return losses | {"total": losses["total"] + zero.sqrt()}  # 0, with an infinite slope

        monkeypatch.setattr("cvloc_ros.training.vote_flow_task.total_loss", broken)
        with pytest.raises(FloatingPointError, match="gradient is not finite after 0 samples, of network.tilt_gain"):
            run(TINY, tmp_path)

    def test_learning_rate_rises_holds_and_falls(self):
        config = TrainConfig(samples=10_000, warm_up=1000, decay=0.2, learning_rate=1.0)
        rates = [learning_rate(config, seen) for seen in (0, 500, 1000, 7900, 9000, 10_000)]
        np.testing.assert_allclose(rates, [0, 0.5, 1, 1, 0.5, 0], atol=1e-9)


def first_batch(config):
    return next(steps(config, config.network, Fabric(accelerator="cpu", devices=1), seen=0))[0]


class TestUnknowns:
    def test_what_a_data_set_does_not_know_teaches_nothing(self):
        batch = first_batch(TINY)
        task = fresh_task(TINY)
        known = task(batch, 0.0)
        unknown = task(batch | {name: torch.zeros(4) for name in ("tilt_known", "classes_known")}, 0.0)
        assert known["tilt"] > 0 and known["naming"] > 0
        assert unknown["tilt"] == unknown["naming"] == 0
        half = task(batch | {"classes_known": torch.tensor([1.0, 0.0, 1.0, 1.0])}, 0.0)
        assert 0 < half["naming"] < known["naming"]
        unknown["total"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
        assert not any(p.grad.any() for p in task.naming.parameters())

    def test_towns_and_a_data_set_train_together(self, table, tmp_path):  # noqa: F811
        pairs = SourceConfig(source="pairs", root=str(table), weight=3.0)
        config = replace(TINY, samples=8, data=(SourceConfig(), pairs), validation=(pairs,), pictures=3)
        run(config, tmp_path)
        assert float(rows(tmp_path)[-1]["pairs_median_m"]) > 0
        assert len(list((tmp_path / "pictures").glob("pairs_*_00000008.jpg"))) == 3


@pytest.mark.slow
def test_validation_is_logged_drawn_and_shown(tmp_path):
    config = replace(TINY, samples=8, validation=UNSEEN_TOWNS, validation_pairs=4, pictures=1)
    task = run(config, tmp_path)
    assert isinstance(task.network, VoteFlow) and not task.network.training
    assert float(rows(tmp_path)[-1]["heldout_mean_m"]) > 0 and float(rows(tmp_path)[-1]["train_vote_median_m"]) > 0
    assert rows(tmp_path)[0]["train_mean_m"] == ""
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["heldout_0_00000008.jpg", "train_0_00000008.jpg"]
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'cvloc_ros[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("total")] == [4, 8]


def test_votes_that_stay_are_as_they_were(tmp_path):
    """Weights and norms alike; the flow and the third vote learn."""
    torch.manual_seed(7)
    given = tmp_path / "given.safetensors"
    save_weights(VoteFlow(TINY.network), given, {"date": "2020-01-01"})
    task = replace(TINY.task, votes_stay=True)
    after = run(replace(TINY, samples=12, task=task, start_from=str(given)), tmp_path / "run").network.state_dict()
    before = load_network(given).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not changed & Votes(TINY.network).state_dict().keys()
    learned = {"close", "update", "tilt_gain", "match_information", "close_sharpness"}
    assert {name.partition(".")[0] for name in changed} == learned
    assert not any("running" in name for name in changed)
    assert float(rows(tmp_path / "run")[-1]["naming"]) == 0 < float(rows(tmp_path / "run")[-1]["close"])


class TestLineage:
    def test_training_goes_on_from_weights_and_says_so(self, tmp_path):
        torch.manual_seed(7)
        parent = VoteFlow(TINY.network)
        card = {"date": "2020-01-01", "training": {"samples": 1234}, "lineage": {"weights": "old.safetensors"}}
        save_weights(parent, tmp_path / "parent.safetensors", card)
        run(replace(TINY, samples=4, start_from=str(tmp_path / "parent.safetensors")), tmp_path / "run")
        lineage = json.loads((tmp_path / "run/lineage.json").read_text())
        assert lineage["weights"] == "parent.safetensors" and lineage["samples"] == 1234
        assert lineage["lineage"] == {"weights": "old.safetensors"} and len(lineage["sha256"]) == 64
        trained = state(tmp_path / "run")  # the first step's rate is zero
        for name, value in load_network(tmp_path / "parent.safetensors").named_parameters():
            torch.testing.assert_close(trained[f"/task/network.{name}"], value, msg=name)

    def test_a_share_of_what_it_started_from_is_in_what_comes_out(self, tmp_path):
        torch.manual_seed(7)
        given = tmp_path / "parent.safetensors"
        save_weights(VoteFlow(TINY.network), given, {"date": "2020-01-01"})
        config = replace(TINY, samples=12, start_from=str(given))
        begun = load_network(given).state_dict()
        trained = run(config, tmp_path / "plain").network.state_dict()
        with pytest.raises(Stopped):
            run(replace(config, start_share=0.25), tmp_path / "shared", report=stop_at(4))
        given.unlink()  # the run has a copy
        mixed = run(replace(config, start_share=0.25), tmp_path / "shared", resume=True).network.state_dict()
        assert state(tmp_path / "shared").keys() == state(tmp_path / "plain").keys()
        for name, value in mixed.items():
            expected = trained[name] + (begun[name] - trained[name]) * (0.25 if value.is_floating_point() else 0)
            torch.testing.assert_close(value, expected, msg=name)
        assert max(float((mixed[name] - trained[name]).abs().max()) for name in mixed) > 1e-3

    def test_weights_of_another_size_are_refused(self):
        with pytest.raises(WeightsError, match="does not fit the network of this training"):
            start_from(fresh_task(TINY), SHIPPED / "vote_flow.safetensors")

    def test_shipped_weights_are_a_start(self):
        task = VoteFlowTask(complete(TrainConfig(), {}, {}).network, complete(TrainConfig(), {}, {}).task)
        assert start_from(task, SHIPPED / "vote_flow.safetensors")["samples"] > 10_000


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_coordinates_go_in_as_they_are(tmp_path, precision):
    """Lightning rounds inputs to half precision by itself: to 6 cm at 10 m."""
    fabric = make_fabric(TrainConfig(precision=precision), tmp_path)
    model = fabric.setup(_Echo())
    place = torch.tensor([12.345678])
    assert torch.equal(model({"truth": place})["truth"], place)


class _Echo(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def forward(self, batch):
        assert batch["truth"].dtype == torch.float32
        return batch
