"""`cvloc export`: the file answers as the network does, in another runtime."""

import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import FULL
from cvloc_ros.models.onnx_export import (
    DENSE_FLOW_OUTPUTS,
    INPUTS,
    VOTE_FLOW_OUTPUTS,
    check_onnx,
    example_inputs,
    export_onnx,
)
from cvloc_ros.models.weights import SHIPPED, load_network

HINT = "is not installed: pip install 'cvloc_ros[export]'"


@pytest.mark.parametrize(
    ("method", "outputs", "weights"),
    [("vote_flow", VOTE_FLOW_OUTPUTS, "weight"), ("dense_flow", DENSE_FLOW_OUTPUTS, "weights")],
)
def test_exported_equals_eager(method, outputs, weights, tmp_path):
    pytest.importorskip("onnx", reason=f"onnx {HINT}")
    pytest.importorskip("onnxscript", reason=f"onnxscript {HINT}")
    onnxruntime = pytest.importorskip("onnxruntime", reason=f"onnxruntime {HINT}")
    path = tmp_path / "model" / f"{method}.onnx"
    result = CliRunner().invoke(app, ["export", "--method", method, "--out", str(path)], catch_exceptions=False)
    assert result.exit_code == 0 and "its pose is PyTorch's" in result.output
    assert [file.name for file in path.parent.iterdir()] == [f"{method}.onnx"], "weights are inside"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert tuple(value.name for value in session.get_inputs()) == INPUTS
    assert tuple(value.name for value in session.get_outputs()) == outputs
    assert all(isinstance(side, int) for value in session.get_inputs() for side in value.shape), "shapes are fixed"
    apart = check_onnx(load_network(SHIPPED / f"{method}.safetensors"), path, seed=2)
    assert apart["solved"] == 0
    assert apart["pose"] < 1e-3 and apart[weights] < 1e-3
    for metres in apart.keys() & {"start", "tilt", "ground", "moved", "points", "flow"}:
        assert apart[metres] < 0.01
    for logits in apart.keys() & {"coarse_logits", "close_logits"}:
        assert apart[logits] < 0.01  # between -30 and 30


@pytest.mark.parametrize(
    "choices",
    [{}, {"bev_of": "image", "bev_samples_per_cell": 8, "context_of": "patch", "weighted_centroids": False}],
    ids=["as the authors chose", "otherwise"],
)
def test_the_papers_design_too(choices, tmp_path):
    """ResNets, the whole patch in sight, level ground, no vote: in small, and untrained."""
    pytest.importorskip("onnx", reason=f"onnx {HINT}")
    pytest.importorskip("onnxscript", reason=f"onnxscript {HINT}")
    pytest.importorskip("onnxruntime", reason=f"onnxruntime {HINT}")
    sizes = {"image_width": 128, "image_height": 128, "patch_size": 128, "bev_rows": 16, "bev_cols": 16}
    torch.manual_seed(0)
    small = replace(FULL, **sizes, trunk_widths=(8, 8, 8, 8), hidden=8, iterations=2, refine_blocks=1)
    network = DenseFlow(replace(small, **choices)).eval()
    export_onnx(network, tmp_path / "identity.onnx")
    apart = check_onnx(network, tmp_path / "identity.onnx")
    assert tuple(apart) == DENSE_FLOW_OUTPUTS and apart["solved"] == 0
    assert all(value < 1e-3 for value in apart.values()), apart
    with torch.inference_mode():
        assert network(*example_inputs(network)).solved.all(), "it sees something"


def test_without_the_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'cvloc_ros\[export\]'"):
        CliRunner().invoke(app, ["export", "--out", str(tmp_path / "x.onnx")], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
