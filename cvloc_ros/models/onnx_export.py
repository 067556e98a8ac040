"""A network as an ONNX file of fixed shapes, for other runtimes (ONNX Runtime, TensorRT, OpenVINO)."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cvloc_ros.geometry import PinholeCamera, camera_extrinsics
from cvloc_ros.models.bev import ground_pixels
from cvloc_ros.models.dense_flow import DenseFlow, DenseFlowOutput
from cvloc_ros.models.vote_flow import VoteFlow

INPUTS = ("image", "pixels", "visible", "camera", "patch", "coverage")
"""As the networks' ``forward`` takes them, of one image."""
VOTE_FLOW_OUTPUTS = ("pose", "solved", "coarse_logits", "close_logits", "points", "flow", "scale", "weight")
"""As in `VoteFlowOutput`: what was voted last, and of the flow the last iteration."""
DENSE_FLOW_OUTPUTS = ("pose", "solved", "start", "tilt", "ground", "moved", "weights")
"""As in `DenseFlowOutput`."""
_OPSET = 18  # the exporter's own; 16 was the first to sample images as torch does


def output_names(network: VoteFlow | DenseFlow) -> tuple[str, ...]:
    """Return what a network's file gives, in order."""
    return DENSE_FLOW_OUTPUTS if isinstance(network, DenseFlow) else VOTE_FLOW_OUTPUTS


class _Located(nn.Module):
    """The network with a tuple for an answer."""

    def __init__(self, network: VoteFlow | DenseFlow):
        super().__init__()
        self.network = network

    def forward(
        self, image: Tensor, pixels: Tensor, visible: Tensor, camera: Tensor, patch: Tensor, coverage: Tensor
    ) -> tuple[Tensor, ...]:
        out = self.network(image, pixels, visible, camera, patch, coverage)
        if isinstance(out, DenseFlowOutput):
            return out.pose, out.solved, out.start, out.tilt, out.ground, out.moved[-1], out.weights
        last = (out.points, out.flows, out.scales, out.weights)
        assert out.close_logits is not None
        return out.voted, out.solved, out.coarse_logits, out.close_logits, *(each[-1] for each in last)


def example_inputs(network: VoteFlow | DenseFlow, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Return inputs of the shapes that a network takes, in the order of `INPUTS`: images of noise, a level camera."""
    c, generator = network.config, torch.Generator().manual_seed(seed)
    camera = PinholeCamera.from_focal(c.image_width, c.image_height, 250.0)
    pixels, visible = ground_pixels(camera, camera_extrinsics(height=1.65), c.bev_samples, c.heights)
    return (
        torch.rand(1, 3, c.image_height, c.image_width, generator=generator),
        torch.from_numpy(pixels)[None],
        torch.from_numpy(visible)[None],
        torch.tensor([[0.0, 0.0, 1.65]]),
        torch.rand(1, 3, c.patch_size, c.patch_size, generator=generator),
        torch.ones(1, 1, c.patch_size, c.patch_size),
    )


def export_onnx(network: VoteFlow | DenseFlow, path: Path) -> None:
    """Write a network that matches one image with one patch over the whole search box; see its ``forward``.

    Raises:
        ImportError: onnx or onnxscript are not installed.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)  # the exporter says what of its own it has not found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Located(network.cpu().eval()),
                example_inputs(network),
                input_names=INPUTS,
                output_names=output_names(network),
                opset_version=_OPSET,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
            assert program is not None
            _simplify(program.model)
            program.save(path, external_data=False)
    finally:
        logging.disable(logging.NOTSET)


def _simplify(model: Any) -> None:
    """Work out what is constant, and once what is there twice.

    Of the exporter's own optimizer only this pays: its rules for rewriting take a minute, and the file runs no faster.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    optimizer.fold_constants(model, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)


def check_onnx(network: VoteFlow | DenseFlow, path: Path, *, seed: int = 1) -> dict[str, float]:
    """Return by how much the answers of ONNX Runtime differ from torch's: by output, the largest difference.

    Raises:
        ImportError: onnxruntime is not installed.

    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = example_inputs(network, seed=seed)
    answers = session.run(None, {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)})
    with torch.inference_mode():
        wanted = _Located(network.cpu().eval())(*inputs)
    return {
        name: float(np.abs(answer.astype(float) - value.numpy().astype(float)).max())
        for name, answer, value in zip(output_names(network), answers, wanted, strict=True)
    }
