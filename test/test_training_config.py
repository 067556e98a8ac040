"""The training's settings: what a YAML file may say, and what is refused with what words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.models.dense_flow_config import FULL
from cvloc_ros.models.weights import SHIPPED, load_network, read_card
from cvloc_ros.training.config import SourceConfig, TrainConfig
from cvloc_ros.training.loading import share
from cvloc_ros.training.methods import read_config
from cvloc_ros.training.settings import ConfigError, write_yaml
from cvloc_ros.training.train import learning_rate


def written(folder, text):
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_what_is_written_is_read_again(tmp_path):
    text = """
        samples: 32
        learning_rate: 1e-3
        network: {iterations: 2, heights: [0, 4.5]}
        task: {naming: 0}
        augment: {mirrored: 1}
        data: [{weight: 0.8}, {source: kitti, root: /data, protocol: train, weight: 0.2}]
    """
    config = read_config(written(tmp_path, text), batch=8)
    assert (config.samples, config.batch, config.learning_rate) == (32, 8, 1e-3)
    assert config.network.iterations == 2 and config.network.heights == (0.0, 4.5)
    assert [source.name for source in config.data] == ["train", "kitti-train"]
    assert config.task.naming == 0.0 and isinstance(config.task.naming, float)
    write_yaml(config, tmp_path / "again.yaml")
    assert read_config(tmp_path / "again.yaml") == config


def test_the_defaults_train_the_shipped_vote_flow_for_about_as_long():
    """What is shipped was trained in many sittings, each from weights of the one before."""
    config, path = read_config(None), SHIPPED / "vote_flow.safetensors"
    card = read_card(path)
    samples, before = card["training"]["samples"], card
    while before := before.get("lineage"):
        samples += before["samples"]
    assert samples == pytest.approx(config.samples, rel=0.1)
    assert config.network == load_network(path).config == read_config(path.with_suffix(".yaml")).network


def test_dense_flow_has_the_defaults_that_made_its_shipped_weights_but_for_the_sittings():
    """They were made in two, each with a rate and schedule of its own; sizes, losses, starts and data are the same."""
    default, shipped = read_config(None, method="dense_flow"), read_config(SHIPPED / "dense_flow.yaml")
    assert (default.samples, default.batch, default.warm_up, default.precision) == (30_000, 16, 1_000, "bf16-mixed")
    assert (default.decay, default.ema, default.reuse, default.start_from) == (0.5, 0.995, 4, "")
    assert shipped.samples + read_card(SHIPPED / "dense_flow.safetensors")["lineage"]["samples"] >= default.samples
    begins = ("start_from", "first_town", "seed", "samples", "learning_rate", "warm_up", "decay", "ema")
    machine = ("threads", "reuse", "pool", "validation_pairs", "validate_every")
    assert replace(shipped, **{name: getattr(default, name) for name in begins + machine}) == default
    assert read_config(None, method="dense_flow", samples=8).samples == 8


def test_what_a_file_leaves_out_has_the_defaults_of_its_preset(tmp_path):
    config = read_config(written(tmp_path, "{method: dense_flow, augment: {scatter: 0.3}}"))
    assert (config.augment.scatter, config.augment.filtered, config.reuse) == (0.3, 0.0, 4)
    full = read_config(written(tmp_path, "{method: dense_flow, network: {preset: full}}"))
    assert (full.augment, full.reuse) == (TrainConfig().augment, TrainConfig().reuse)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "tools/training").glob("*.yaml")), ids=str)
def test_recipes_are_settings(path):
    config = read_config(path)
    assert config.method == ("vote_flow" if path.stem == "vote_flow_gpu" else "dense_flow")
    if path.stem == "dense_flow_full":
        assert config.network == FULL
        rates = [learning_rate(config, seen) for seen in (0, 33_000, 660_000)]
        assert rates == pytest.approx([0.0, 2e-5, 0.0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smaples: 3", "smaples: expected one of method, .*samples"),
        ("samples: many", "samples: expected int, got str 'many'"),
        ("samples: true", "samples: expected int, got bool True"),
        ("samples: 2.5", "samples: expected int, got float 2.5"),
        ("compile: 1", "compile: expected bool, got int 1"),
        ("decay: 1.5", "decay: expected 0.0 to 1.0, got 1.5"),
        ("precision: fp8", "precision: expected one of bf16-mixed, 16-mixed, 32-true, got 'fp8'"),
        ("method: raft", "method: expected one of vote_flow.*, got 'raft'"),
        ("network: {iteration: 3}", "network.iteration: expected one of image_width"),
        ("network: {heights: 3}", "network.heights: expected a list, got int 3"),
        ("network: {encoder_widths: [1, 2]}", r"network.encoder_widths: expected a list of 4, got list \[1, 2\]"),
        ("network: {preset: huge}", "network.preset: expected one of .*, got 'huge'"),
        ("network: small", "network: expected a mapping, got 'small'"),
        ("augment: {mirrored: 2}", "augment.mirrored: expected 0 to 1, got 2.0"),
        ("data: []", "data: expected one source or more, got none"),
        ("data: {source: town}", "data: expected a list, got dict"),
        ("data: [{source: kitti}]", r"data\[0\]: kitti: expected root, where the data set is, got root ''"),
        ("data: [{root: /data}]", r"data\[0\]: town: expected no root"),
        ("data: [{protocol: heldout}]", "data: expected towns of the style train, got heldout"),
        ("data: [{weight: 0}]", r"data\[0\]: weight: expected 1e-06"),
        ("validation: [{}, {protocol: train}]", "validation: expected each set once, got train, train"),
        ("task: {votes_stay: true}", "task.votes_stay: expected weights in start_from, .*got none"),
        ("start_share: 0.5", "start_share: expected weights in start_from, .*got none"),
        ("- 3", "expected a mapping of settings in .*, got list"),
        ("a: [", "expected YAML in"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        read_config(written(tmp_path, text))


def test_parts_of_a_step_must_come_out_even():
    config = TrainConfig(batch=12, workers=4)
    assert share(config, 2) == (2, 4)
    assert share(TrainConfig(batch=12, workers=0), 2) == (0, 2)
    with pytest.raises(ValueError, match="workers to be a multiple of the 3 processes, got 4"):
        share(config, 3)
    with pytest.raises(ValueError, match="batch that is a multiple of the 5 rendering processes, got 12"):
        share(TrainConfig(batch=12, workers=5), 1)
    with pytest.raises(ValueError, match="multiple of the 8 processes times accumulate, got 12"):
        share(TrainConfig(batch=12, workers=0, accumulate=4), 2)


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["train", *map(str, arguments)])

    def test_a_folder_with_a_run_is_left_alone(self, tmp_path):
        (tmp_path / "checkpoint.pt").write_text("precious")
        result = self.run("--out", tmp_path)
        assert isinstance(result.exception, FileExistsError) and "--resume" in str(result.exception)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]

    def test_a_run_is_resumed_with_its_own_settings(self, tmp_path):
        result = self.run("--resume", "--out", tmp_path, "--batch", 8)
        assert result.exit_code == 2 and "leave out --batch" in " ".join(result.output.replace("│", " ").split())

    def test_which_run_is_resumed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for arguments, name in (((), "vote_flow"), (("--method", "dense_flow"), "dense_flow")):
            assert f"runs/{name}/config.yaml" in str(self.run("--resume", *arguments).exception)
        write_yaml(read_config(None), tmp_path / "config.yaml")
        result = self.run("--resume", "--out", tmp_path, "--method", "dense_flow")
        words = " ".join(result.output.replace("│", " ").split())
        assert result.exit_code == 2 and "is a run of vote_flow, not of dense_flow" in words

    def test_nothing_to_resume(self, tmp_path):
        result = self.run("--resume", "--out", tmp_path)
        assert isinstance(result.exception, ConfigError) and "no file" in str(result.exception)

    def test_a_missing_data_set_is_named_before_anything_is_done(self, tmp_path):
        settings = {"data": [{"source": "pairs", "root": str(tmp_path / "pairs.csv")}], "workers": 0}
        path = written(tmp_path, yaml.safe_dump(settings))
        result = self.run("--config", path, "--out", tmp_path / "run")
        assert "expected a table of pairs" in str(result.exception)
        assert not (tmp_path / "run").exists()


def test_names_are_those_of_the_protocols():
    assert SourceConfig(source="kitti", root="/d", protocol="cross").name == "kitti-cross"
    assert SourceConfig(source="pairs", root="/d").name == "pairs"
