"""Weights that others have trained, under the names of torchvision's networks: what of them dense_flow can start from.

Files are .safetensors of a state_dict. Where one is of another network, the first tensor that does not fit is named.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cvloc_ros.models.raft import UpdateBlock
from cvloc_ros.models.resnet_trunk import ResNetTrunk

_RESNET_PARTS = ("conv1.", "bn1.", "layer1.", "layer2.")  # the third layer is new: torchvision's has another stride
_MOTION, _GRU = "update_block.motion_encoder", "update_block.recurrent_block"
_RAFT_PARTS = {
    "encoder.correlation.0": (f"{_MOTION}.convcorr1.0",),
    "encoder.correlation.2": (f"{_MOTION}.convcorr2.0",),
    "encoder.flow.0": (f"{_MOTION}.convflow1.0",),
    "encoder.flow.2": (f"{_MOTION}.convflow2.0",),
    "encoder.merge": (f"{_MOTION}.conv.0",),
    "gru.along_row.gates": (f"{_GRU}.convgru1.convz", f"{_GRU}.convgru1.convr"),
    "gru.along_row.candidate": (f"{_GRU}.convgru1.convq",),
    "gru.along_column.gates": (f"{_GRU}.convgru2.convz", f"{_GRU}.convgru2.convr"),
    "gru.along_column.candidate": (f"{_GRU}.convgru2.convq",),
    "flow.0": ("update_block.flow_head.conv1",),
    "flow.2": ("update_block.flow_head.conv2",),
    "mask.0": ("mask_predictor.convrelu.0",),
    "mask.2": ("mask_predictor.conv",),
}


def load_resnet18(trunk: ResNetTrunk, path: Path) -> None:
    """Load a ResNet-18 into a trunk, except for its third layer, which stays as it was initialized.

    Args:
        trunk: of a ResNet-18's widths.
        path: the weights of torchvision's ``resnet18``; timm's ``resnet18`` has the same names.

    Raises:
        ValueError: not such a file, or a trunk of other widths.

    """
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in trunk.state_dict().items()
        if name.startswith(_RESNET_PARTS) and not name.endswith("num_batches_tracked")  # of no matter; timm has none
    }
    hint = "give the state_dict of a ResNet-18 with torchvision's names, and a trunk of widths (64, 64, 128, 256)"
    trunk.load_state_dict(_read(path, shapes, hint=hint), strict=False)


def load_raft(update: UpdateBlock, path: Path) -> None:
    """Load RAFT's recurrent part; the confidence head, which RAFT has not, stays as it was initialized.

    RAFT counts columns before rows, in its flow and in the windows that it looks up; here rows come first.

    Args:
        update: of RAFT's sizes: 128 hidden channels, four levels of radius 4, a stride of 8.
        path: the weights of torchvision's ``raft_large``.

    Raises:
        ValueError: not such a file, or an update of other sizes.

    """
    own = update.state_dict()
    parts = {
        f"{part}.{kind}": [f"{source}.{kind}" for source in sources]
        for part, sources in _RAFT_PARTS.items()
        for kind in ("weight", "bias")
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for part, sources in parts.items():
        outputs, *others = own[part].shape
        shapes |= dict.fromkeys(sources, (outputs // len(sources), *others))
    hint = "give the state_dict of torchvision's raft_large, and a network of hidden 128, levels 4, radius 4, stride 8"
    given = _read(path, shapes, hint=hint)
    state = {part: torch.cat([given[source] for source in sources]) for part, sources in parts.items()}
    windows = state["encoder.correlation.0.weight"]
    state["encoder.correlation.0.weight"] = windows.unflatten(1, (4, 9, 9)).transpose(2, 3).reshape(windows.shape)
    state["encoder.flow.0.weight"] = state["encoder.flow.0.weight"].flip(1)
    for name in [name for name in state if name.startswith("gru.") and name.endswith("weight")]:
        *others, column, row = state[name].split(1, dim=1)  # the flow is the last of what goes in
        state[name] = torch.cat([*others, row, column], dim=1)
    for name in ("flow.2.weight", "flow.2.bias"):
        state[name] = state[name].flip(0)
    update.load_state_dict(state, strict=False)


def _read(path: Path, shapes: dict[str, tuple[int, ...]], *, hint: str) -> dict[str, Tensor]:
    """Return a file's tensors of these names and shapes, and no others."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"expected a safetensors file at {path}, got {error}") from None
    for name, shape in shapes.items():
        found = tuple(state[name].shape) if name in state else "nothing"
        if found != shape:
            raise ValueError(f"expected {name} of shape {shape} in {path}, got {found}: {hint}")
    return {name: state[name] for name in shapes}
