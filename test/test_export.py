"""`cvloc export`: the file answers as the network does, in another runtime."""

import sys

import pytest
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.models.onnx_export import INPUTS, OUTPUTS, check_onnx
from cvloc_ros.models.weights import SHIPPED, load_network

HINT = "is not installed: pip install 'cvloc_ros[export]'"


def test_exported_equals_eager(tmp_path):
    pytest.importorskip("onnx", reason=f"onnx {HINT}")
    pytest.importorskip("onnxscript", reason=f"onnxscript {HINT}")
    onnxruntime = pytest.importorskip("onnxruntime", reason=f"onnxruntime {HINT}")
    path = tmp_path / "model" / "vote_flow.onnx"
    result = CliRunner().invoke(app, ["export", "--out", str(path)], catch_exceptions=False)
    assert result.exit_code == 0 and "its pose is PyTorch's" in result.output
    assert [file.name for file in path.parent.iterdir()] == ["vote_flow.onnx"], "weights are inside"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert tuple(value.name for value in session.get_inputs()) == INPUTS
    assert tuple(value.name for value in session.get_outputs()) == OUTPUTS
    assert all(isinstance(side, int) for value in session.get_inputs() for side in value.shape), "shapes are fixed"
    apart = check_onnx(load_network(SHIPPED / "vote_flow.safetensors"), path, seed=2)
    assert apart["solved"] == 0
    assert apart["pose"] < 1e-3 and apart["weight"] < 1e-3
    assert apart["coarse_logits"] < 0.01 and apart["fine_logits"] < 0.01  # between -30 and 30


def test_without_the_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'cvloc_ros\[export\]'"):
        CliRunner().invoke(app, ["export", "--out", str(tmp_path / "x.onnx")], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
