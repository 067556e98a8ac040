"""dense_flow in the training loop, from both starts, and the table of its ablations."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from raft_large import raft_large
from safetensors.torch import save_file
from training_runs import first_batch, fresh_task, rows, run, stop_at

from cvloc_ros.models.dense_flow_config import FULL, SMALL
from cvloc_ros.models.matcher import Matcher, MatchInput
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.weights import SHIPPED, WeightsError, load_network, provenance, save_weights
from cvloc_ros.training import dense_flow_task, stream
from cvloc_ros.training.ablations import COLUMNS, VARIANTS, run_ablations
from cvloc_ros.training.checkpoint import Stopped
from cvloc_ros.training.config import SourceConfig, TrainConfig
from cvloc_ros.training.methods import complete, read_config
from cvloc_ros.training.samples import item_sample
from cvloc_ros.training.scenes import Scene, validation_items
from cvloc_ros.training.settings import ConfigError, write_yaml
from cvloc_ros.training.sync_norm import SyncedBatchNorm, synchronize
from cvloc_ros.training.task import start_beside
from cvloc_ros.training.train import start_from

TINY = complete(
    TrainConfig(
        method="dense_flow", samples=8, batch=4, workers=0, threads=1, pool=4, warm_up=4, validation_pairs=2,
        validation=(SourceConfig(protocol="heldout"),), precision="32-true", pictures=1,
    ),
    {"refine_blocks": 1, "hidden": 8, "iterations": 2},
    {},
)  # fmt: skip


def identity(config):
    """With trunks of its own, as in the paper."""
    own = {"encoders": "resnet", "trunk_widths": (8, 8, 8, 8), "start": "identity", "tilt_degrees": 0.0, "reach": 0}
    return replace(config, network=replace(config.network, **own))


def test_presets_survive_the_file(tmp_path):
    for preset, network in (("full", FULL), ("small", SMALL)):
        config = complete(TrainConfig(method="dense_flow"), {"preset": preset}, {})
        assert config.network == network
        write_yaml(config, tmp_path / "config.yaml")
        assert read_config(tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match="network.start: expected one of identity, vote, got str 'gps'"):
        complete(TrainConfig(method="dense_flow"), {"start": "gps"}, {})


@pytest.mark.parametrize("config", [TINY, identity(TINY)], ids=["vote", "identity"])
def test_a_run_learns_validates_and_draws(config, tmp_path):
    task = run(config, tmp_path)
    last = rows(tmp_path)[-1]
    assert float(last["heldout_median_m"]) > 0 and float(last["matching"]) > 0
    # the shipped vote is right about most places; the prior is about none
    assert (float(last["heldout_start_median_m"]) < 5) == (config.network.start == "vote")
    assert len(list((tmp_path / "pictures").iterdir())) == 1
    vote = {n: t for n, t in task.network.state_dict().items() if n.startswith("encoders.vote.")}
    assert bool(vote) == (config.network.start == "vote")
    if vote:  # which is the shipped one, and is not trained
        shipped = load_network(SHIPPED / "vote_flow.safetensors").state_dict()
        assert all(torch.equal(tensor, shipped[n.removeprefix("encoders.vote.")]) for n, tensor in vote.items())


def test_starts_in_training_are_beside_the_truth():
    batch = first_batch(TINY)
    task, seen = fresh_task(TINY), {}
    forward = task.network.forward
    task.network.forward = lambda **inputs: seen.update(inputs) or forward(**inputs)
    task(batch, 0.5)["total"].backward()
    off = (seen["start"] - batch["truth"]).abs()
    reach = task.config.start_metres, task.config.start_degrees
    assert 0.1 < off[:, :2].max() <= reach[0] and 0 < off[:, 2].max() <= np.radians(reach[1])
    assert torch.equal(seen["start"], start_beside(batch["truth"], batch["jitter"][:, 0], reach))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters() if p.requires_grad)
    task = fresh_task(identity(TINY))
    task.network.forward = lambda **inputs: seen.update(inputs) or forward(**inputs)
    task(batch, 0.5)
    assert seen["start"] is None


def test_validation_and_the_matcher_start_from_the_same_vote():
    task = fresh_task(TINY)
    layout = task.layout
    (item,) = validation_items(SourceConfig(protocol="train"), 1, grid=layout.patch, box=(20.0, np.radians(10)))
    sample = {name: torch.from_numpy(value)[None] for name, value in item_sample(item, layout).items()}
    with torch.inference_mode():
        found = task.locate(task.network.eval(), sample)
    matcher: Matcher = task.matcher(task.network, device="cpu")
    given = MatchInput(
        item.frame.image, item.frame.camera, item.frame.T_base_camera, item.patch.image, item.patch.coverage,
        box=(20.0, 20.0, np.radians(10)),
    )  # fmt: skip
    (match,) = matcher.match_batch([given])
    np.testing.assert_allclose(match.pose, found["final"][0].numpy(), atol=0.02)


def test_a_vote_of_other_sizes_is_refused(tmp_path):
    other = tmp_path / "vote.safetensors"
    save_weights(VoteFlow(VoteFlowConfig(heights=(0.0, 2.0))), other, {})
    with pytest.raises(WeightsError, match=r"vote_flow with heights of \(0.0, 3.0, 6.0\).*got \(0.0, 2.0\)"):
        fresh_task(replace(TINY, task=replace(TINY.task, vote_weights=str(other))))
    save_weights(VoteFlow(VoteFlowConfig(local_contrast=0.0)), other, {})
    with pytest.raises(WeightsError, match=r"vote_flow with local_contrast of 3.0, as the network's, got 0.0"):
        fresh_task(replace(TINY, task=replace(TINY.task, vote_weights=str(other))))
    save_weights(VoteFlow(VoteFlowConfig(fine_heading_step_degrees=1.0)), other, {})  # no weight depends on it
    fresh_task(replace(TINY, task=replace(TINY.task, vote_weights=str(other))))
    dense = tmp_path / "dense.safetensors"
    save_weights(fresh_task(identity(TINY)).network, dense, {})
    with pytest.raises(WeightsError, match="expected a vote_flow, got another method"):
        fresh_task(replace(TINY, task=replace(TINY.task, vote_weights=str(dense))))


def test_a_frozen_vote_does_not_come_to_see_other_images(tmp_path):
    vote, old = tmp_path / "vote.safetensors", tmp_path / "dense.safetensors"
    save_weights(VoteFlow(VoteFlowConfig(local_contrast=0.0)), vote, {})
    before = replace(TINY.network, local_contrast=0.0), replace(TINY.task, vote_weights=str(vote))
    before = replace(TINY, network=before[0], task=before[1])
    save_weights(fresh_task(before).network, old, {"encoders": provenance(vote)})
    assert start_from(fresh_task(before), old)["weights"] == old.name
    with pytest.raises(WeightsError, match=r"expected a local_contrast of 0.0 under `network` .* got 3.0"):
        start_from(fresh_task(TINY), old)


def test_a_frozen_vote_stays_frozen_in_several_processes():
    network = synchronize(fresh_task(TINY).network, gpu=False)
    assert not any(p.requires_grad for p in network.encoders.parameters())
    own = synchronize(fresh_task(identity(TINY)).network, gpu=False)
    assert any(isinstance(module, SyncedBatchNorm) for module in own.modules())


def test_the_card_says_which_vote_it_is_built_on(tmp_path):
    built_on = fresh_task(TINY).built_on
    shipped = SHIPPED / "vote_flow.safetensors"
    assert built_on == provenance(shipped)
    assert built_on["sha256"] == hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert built_on["samples"] > 1e4 and built_on["lineage"]["samples"] > 1e5
    assert fresh_task(identity(TINY)).built_on is None


def test_a_resumed_run_is_built_on_the_vote_that_it_began_with(tmp_path, monkeypatch):
    config = replace(TINY, samples=12)
    with pytest.raises(Stopped):
        run(config, tmp_path, report=stop_at(4))
    monkeypatch.setattr(dense_flow_task, "provenance", lambda path: {"weights": "shipped since"})
    assert fresh_task(config).built_on == {"weights": "shipped since"}
    assert run(config, tmp_path, resume=True).built_on == provenance(SHIPPED / "vote_flow.safetensors")


@pytest.mark.parametrize(("name", "config"), [("vote_weights", identity(TINY)), ("trunk_weights", TINY)])
def test_weights_for_other_encoders_are_refused(name, config):
    with pytest.raises(ConfigError, match=rf"task.{name}: expected the encoders (vote|resnet) for it, got"):
        fresh_task(replace(config, task=replace(config.task, **{name: "some.safetensors"})))


def test_trunks_can_start_from_a_resnet18(tmp_path):
    config = identity(TINY)
    config = replace(config, network=replace(config.network, trunk_widths=(64, 64, 128, 256), stride=8, patch_cell=0.2))
    trunk = fresh_task(config).network.encoders.ground_trunk.state_dict()
    state = {n: torch.rand_like(t) if t.is_floating_point() else t.clone() for n, t in trunk.items()}
    save_file(state, tmp_path / "resnet18.safetensors")
    task = replace(config.task, trunk_weights=str(tmp_path / "resnet18.safetensors"))
    encoders = fresh_task(replace(config, task=task)).network.encoders
    for loaded in (encoders.ground_trunk.state_dict(), encoders.satellite_trunk.state_dict()):
        assert torch.equal(loaded["layer2.0.conv1.weight"], state["layer2.0.conv1.weight"])
        assert not torch.equal(loaded["layer3.0.conv1.weight"], state["layer3.0.conv1.weight"])
    with pytest.raises(WeightsError, match="task.trunk_weights: expected a safetensors file"):
        fresh_task(replace(config, task=replace(config.task, trunk_weights=str(tmp_path / "none"))))


def test_the_flow_can_start_from_a_raft(tmp_path):
    """That its recurrent part then does what RAFT's does is in `test_raft`."""
    task = replace(TINY.task, flow_weights=str(tmp_path / "raft.safetensors"))
    with pytest.raises(WeightsError, match="task.flow_weights: expected a safetensors file"):
        fresh_task(replace(TINY, task=task))
    save_file(raft_large(), tmp_path / "raft.safetensors")
    with pytest.raises(WeightsError, match=r"task.flow_weights: expected .*\(16, 50, 1, 1\).*got \(256, 324, 1, 1\)"):
        fresh_task(replace(TINY, task=task))
    sizes = {"hidden": 128, "levels": 4, "radius": 4, "stride": 8, "patch_cell": 0.2}
    network = replace(identity(TINY).network, **sizes)
    update = fresh_task(replace(TINY, network=network, task=task)).network.update
    assert torch.equal(update.flow[0].weight, raft_large()["update_block.flow_head.conv1.weight"])


def test_a_training_that_goes_on_no_longer_needs_what_it_began_with(tmp_path):
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"vote{suffix}").write_bytes((SHIPPED / f"vote_flow{suffix}").read_bytes())
    config = replace(TINY, samples=12, task=replace(TINY.task, vote_weights=str(tmp_path / "vote.safetensors")))
    with pytest.raises(Stopped):
        run(config, tmp_path / "run", report=stop_at(4))
    (tmp_path / "vote.safetensors").unlink()
    encoders = run(config, tmp_path / "run", resume=True).network.encoders
    given = load_network(SHIPPED / "vote_flow.safetensors").state_dict()
    assert torch.equal(encoders.vote.bev.head.weight, given["bev.head.weight"])


def test_weights_that_would_replace_others_are_refused_beside_them():
    for name in ("vote_weights", "trunk_weights", "flow_weights"):
        with pytest.raises(ConfigError, match=f"start_from: expected no task.{name} besides, .*, got b.safetensors"):
            complete(TrainConfig(method="dense_flow", start_from="a.safetensors"), {}, {name: "b.safetensors"})


def test_full_size_samples_fit_the_network():
    """The paper's sizes: stretched images, patches of 0.2 m a pixel."""
    town = stream.Town.generate(0)
    sample = stream.make_sample(Scene.of_pair(stream.render_pair(town, 0)), np.random.default_rng(0), FULL, None)
    shapes = {name: sample[name].shape for name in ("image", "patch", "coverage", "pixels", "visible")}
    assert shapes == {
        "image": (3, 256, 1024),
        "patch": (3, 512, 512),
        "coverage": (1, 512, 512),
        "pixels": (1, 64, 64, 2),
        "visible": (1, 64, 64),
    }
    assert 0.1 < sample["visible"].mean() < 0.4


@pytest.mark.slow
class TestAblations:
    def test_every_part_is_left_out_once_and_tabulated(self, tmp_path):
        # a schedule that has the position loss from the start: this run is one step
        network = replace(TINY.network, beta_schedule="paper")
        config = replace(TINY, network=network, samples=4, pictures=0)
        table = run_ablations(config, tmp_path, report=lambda name, seen, row: None)
        assert [row[1] for row in table] == ["the start alone", *VARIANTS]
        with (tmp_path / "ablations.csv").open(newline="") as file:
            assert list(csv.reader(file)) == [list(COLUMNS), *table]
        assert (tmp_path / "ablations.md").read_text().count("| held-out style |") == 7
        for name, changes in VARIANTS.items():
            made = read_config(tmp_path / name.replace(" ", "_") / "config.yaml").network
            assert made == replace(config.network, **changes)
        assert len({(tmp_path / name.replace(" ", "_") / "log.csv").read_text() for name in VARIANTS}) == len(VARIANTS)
        again = run_ablations(config, tmp_path, report=pytest.fail)  # nothing is trained twice
        assert again == table
        with pytest.raises(ConfigError, match="full holds a run with other settings"):
            run_ablations(replace(config, seed=1), tmp_path, report=pytest.fail)

    def test_stopped_it_goes_on(self, tmp_path):
        config, told = replace(TINY, samples=12, pictures=0), []

        def report(name, seen, row):
            told.append((name, seen))
            stop_at(4)(seen, row)

        with pytest.raises(Stopped):
            run_ablations(config, tmp_path, report=report)
        assert told == [("full", 4), ("full", 8)]
        with pytest.raises(Stopped):
            run_ablations(config, tmp_path, report=report)
        assert told[2:] == [("full", 12), ("without projection", 4), ("without projection", 8)]

    def test_a_part_that_cannot_be_left_out_is_named_before_anything_is_trained(self, tmp_path):
        config = replace(TINY, network=replace(TINY.network, refine=False))
        with pytest.raises(ConfigError, match="without projection: expected refine where the encoders vote do not"):
            run_ablations(config, tmp_path, report=pytest.fail)

    def test_other_methods_have_no_table(self, tmp_path):
        with pytest.raises(ConfigError, match="expected dense_flow.*got vote_flow"):
            run_ablations(complete(TrainConfig(), {}, {}), tmp_path, report=pytest.fail)

    def test_variants_start_from_no_weights(self, tmp_path):
        with pytest.raises(ConfigError, match="start_from: expected none, .* got a.safetensors"):
            run_ablations(replace(TINY, start_from="a.safetensors"), tmp_path, report=pytest.fail)
