"""Weights of a RAFT that nobody has trained."""

import numpy as np
import torch


def raft_large() -> dict[str, torch.Tensor]:
    """Weights by the names and shapes of `torchvision.models.optical_flow.raft_large`."""
    motion, gru, head = (f"update_block.{part}" for part in ("motion_encoder", "recurrent_block", "flow_head"))
    shapes = {
        f"{motion}.convcorr1.0": (256, 324, 1, 1),
        f"{motion}.convcorr2.0": (192, 256, 3, 3),
        f"{motion}.convflow1.0": (128, 2, 7, 7),
        f"{motion}.convflow2.0": (64, 128, 3, 3),
        f"{motion}.conv.0": (126, 256, 3, 3),
        f"{head}.conv1": (256, 128, 3, 3),
        f"{head}.conv2": (2, 256, 3, 3),
        "mask_predictor.convrelu.0": (256, 128, 3, 3),
        "mask_predictor.conv": (576, 256, 1, 1),
    }
    for k, kernel in ((1, (1, 5)), (2, (5, 1))):
        shapes |= {f"{gru}.convgru{k}.conv{gate}": (128, 384, *kernel) for gate in "zrq"}
    generator = torch.Generator().manual_seed(3)
    state = {"feature_encoder.conv.bias": torch.zeros(256)}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / np.prod(shape[1:]) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[:1], generator=generator) / 10
    return state
