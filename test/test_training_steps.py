"""A step of the training: its arithmetic, what is not finite, and what a data set does not know."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_pairs import table  # noqa: F401 (fixture: a town as pairs)
from training_runs import TINY, first_batch, fresh_task, rows, run, state, trained

from cvloc_ros.models.losses import total_loss
from cvloc_ros.training.config import SourceConfig, TrainConfig
from cvloc_ros.training.task import start_beside
from cvloc_ros.training.train import learning_rate, make_fabric
from cvloc_ros.training.vote_flow_task import VoteFlowTask


def gradient(config, out):
    """A tenth of the gradient of a run's first step, as its optimizer has it."""
    run(replace(config, samples=config.batch, clip=1e6), out)
    return torch.cat([value.flatten() for name, value in sorted(state(out).items()) if name.endswith("exp_avg")])


def test_starts_are_more_often_near_the_truth():
    jitter = torch.linspace(-1, 1, 2001)[:, None].expand(-1, 3)
    off = start_beside(torch.zeros(2001, 3), jitter, (2.0, 4.0)) / torch.tensor([2.0, 2.0, np.radians(4.0)])
    assert off.min() == -1 and off.max() == 1
    assert off.abs().median() == pytest.approx(0.25, abs=0.01)
    assert (off.abs() > 0.5625).float().mean() == pytest.approx(0.25, abs=0.01)


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

    def test_the_averaged_network_follows(self, tmp_path):
        """Through the warm-up it is the network itself, then it remembers; batch normalization's averages, too."""
        after = []
        config = replace(TINY, samples=16, warm_up=8, validate_every=4, ema=0.75)  # a checkpoint a step
        run(config, tmp_path, report=lambda seen, row: after.append(state(tmp_path)) if seen > 4 else None)
        _, second, third, last = *after, state(tmp_path)
        changed = 0
        for name, value in last.items():
            if name.startswith("/averaged/module.") and value.is_floating_point():
                own = name.replace("/averaged/module.", "/task/network.")
                assert torch.equal(second[name], second[own]), f"{name} lags behind"
                expected = 0.75 * (0.75 * second[own] + 0.25 * third[own]) + 0.25 * last[own]
                torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7, msg=name)
                changed += not torch.equal(second[own], last[own])
        assert changed > 50

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
