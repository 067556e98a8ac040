"""The training loop: what a stop and a resumption change (nothing), what is logged, and where a run starts from."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest
import torch
from training_runs import TINY, fresh_task, rows, run, state, stop_at

from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_network import Votes
from cvloc_ros.models.weights import SHIPPED, WeightsError, load_network, save_weights
from cvloc_ros.training.checkpoint import Stopped
from cvloc_ros.training.config import UNSEEN_TOWNS, TrainConfig
from cvloc_ros.training.methods import complete, read_config
from cvloc_ros.training.train import start_from
from cvloc_ros.training.vote_flow_task import VoteFlowTask


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
