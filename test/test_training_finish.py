"""From a trained network to what is shipped: weights that load, a card for programs and one for people, a curve."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from training_runs import rows

from cvloc_ros.localization.localizer import Localizer, load_localizer
from cvloc_ros.models.weights import SHIPPED, load_network, provenance, save_weights
from cvloc_ros.training import finish as finishing
from cvloc_ros.training.calibrate import UNCALIBRATED
from cvloc_ros.training.config import SourceConfig, TrainConfig
from cvloc_ros.training.log import SCORES, Log
from cvloc_ros.training.methods import complete, make_task, read_config
from cvloc_ros.training.start_accuracy import evaluate_start


@pytest.mark.slow
def test_weights_cards_curve_and_settings_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(finishing, "CALIBRATION_PAIRS", 16)
    monkeypatch.setattr(finishing, "TEST_PAIRS", 4)
    config = complete(TrainConfig(samples=8, start_from="old.safetensors", start_share=0.25), {}, {})
    task = make_task(config)
    task.network.load_state_dict(load_network(SHIPPED / "vote_flow.safetensors").state_dict())
    scores = ("vote_median_m", *SCORES)
    columns = [*task.terms, *(f"{name}_{score}" for name in ("train", "heldout") for score in scores)]
    log = Log(tmp_path / "log.csv", columns)
    log.begin(0)
    log.append(dict.fromkeys(["seen", *task.terms], 4.0))
    log.append(dict.fromkeys(["seen", *columns], 8.0))
    assert len(rows(tmp_path)) == 2
    lineage = {"weights": "old.safetensors", "date": "2020-01-01", "samples": 12}
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    tables = finishing.finish(task, config, tmp_path, progress=lambda what: None)
    assert set(tables) == {"unseen towns", "held-out style"}
    task.poses = ("final", "vote")
    answers = evaluate_start(task, Localizer(task.matcher(task.network, device="cpu"), UNCALIBRATED, None), count=4)
    for name, models in tables.items():
        assert models["vote"] != answers[name], "what the flow starts from is not the answer"
        for score, value in answers[name]["position_error_m"].items():
            assert value == pytest.approx(models["vote_flow"]["position_error_m"][score], abs=1e-3), score
    assert read_config(tmp_path / "vote_flow.yaml") == config
    localizer = load_localizer(None, weights=str(tmp_path / "vote_flow.safetensors"), device="cpu")
    assert localizer.calibration.scale > 0
    card = json.loads((tmp_path / "vote_flow.json").read_text())
    assert card["lineage"] == lineage and card["training"]["samples"] == 8
    text = (tmp_path / "vote_flow.md").read_text()
    assert "| started from (a share of 0.25 is in them) | old.safetensors of 2020-01-01 (12 samples) |" in text
    assert text.count("| vote | ") == 2 and '"Vote"\nis the pose that the flow starts from' in text
    assert "synthetic towns" in text and "vote over the search box" in text
    assert "| never trained on | the towns of the tables below; the held-out style |" in text, "old: who knows on what?"
    assert (tmp_path / "vote_flow.png").stat().st_size > 5000


def test_weights_that_started_from_real_images_have_seen_them():
    towns = {"weights": "b", "data": finishing._data(complete(TrainConfig(), {}, {}))}
    kitti = {"weights": "a", "data": "kitti-train"}
    for origins, real in (({"lineage": towns}, False), ({"encoders": towns}, False), ({"lineage": kitti}, True),
                          ({"lineage": towns | {"lineage": kitti}}, True), ({"encoders": kitti}, True)):  # fmt: skip
        assert finishing._never_seen({"data": towns["data"]} | origins).startswith("any real image") != real


@pytest.mark.parametrize("name", ["trunk_weights", "flow_weights"])
def test_weights_of_others_may_have_seen_anything(name):
    data = finishing._data(complete(TrainConfig(method="dense_flow"), {}, {name: "/a/theirs.safetensors"}))
    assert data.endswith("(cvloc_ros.datasets.town, training styles) (begun with theirs.safetensors)")
    for card in ({"data": data}, {"data": "synthetic towns only", "lineage": {"data": data}}):
        assert finishing._never_seen(card).startswith("the towns")


def test_what_is_built_on_a_mean_of_weights_says_so(tmp_path):
    config = complete(TrainConfig(samples=8, start_from="old.safetensors", start_share=1 / 3), {}, {})
    older = {"weights": "old.safetensors", "date": "2020-01-01", "samples": 12}
    card = {"date": "2020-02-01", "training": asdict(config), "lineage": older}
    save_weights(make_task(config).network, tmp_path / "mean.safetensors", card)
    found = provenance(tmp_path / "mean.safetensors")
    assert finishing._lineage("encoders", found) == (
        "| encoders | mean.safetensors of 2020-02-01 (8 samples), which started from (a share of 0.333 is in them) "
        "old.safetensors of 2020-01-01 (12 samples) |\n"
    )
    assert finishing._lineage("encoders", None) == ""


def test_what_it_was_trained_on_is_said_in_words():
    mixed = (SourceConfig(weight=1.0), SourceConfig(source="kitti", protocol="train", root="/d", weight=3.0))
    words = finishing._data(complete(TrainConfig(data=mixed), {}, {}))
    assert words.startswith("25 % synthetic towns") and words.endswith("75 % kitti-train")
    for data in ((SourceConfig(),), (SourceConfig(), SourceConfig(protocol="train"))):
        assert finishing._data(complete(TrainConfig(data=data), {}, {})).endswith("only")
