"""How good the pose is that the flow starts from: what an answer would be without the last part of its network."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import default_collate

from cvloc_ros.datasets.item import Item
from cvloc_ros.datasets.town import town_pairs
from cvloc_ros.datasets.town.seeds import SETS, TEST_TOWNS
from cvloc_ros.evaluation.batches import in_batches
from cvloc_ros.evaluation.metrics import PoseErrors
from cvloc_ros.evaluation.pairs import place_pairs
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.models.losses import relative_pose
from cvloc_ros.training.samples import item_sample
from cvloc_ros.training.task import Task

_BATCH = 10


@torch.inference_mode()
def evaluate_start(task: Task, localizer: Localizer, *, count: int) -> dict[str, dict]:
    """Return the errors of the first of ``task.poses``, as `PoseErrors.summary` tells them, by the names of `SETS`.

    Args:
        task: with the trained network.
        localizer: that runs it; pairs and priors are those that `evaluate_towns` gives it.
        count: pairs of each set; the same as there.

    """
    device = next(task.network.parameters()).device
    task.network.eval()
    scores = {}
    for style, name in SETS.items():
        errors: list[np.ndarray] = []
        for batch in in_batches(place_pairs(localizer, town_pairs(TEST_TOWNS, count, style=style)), _BATCH):
            items = [Item("", frame, prior, SE2(), patch) for frame, prior, patch in batch]
            samples = [{k: torch.from_numpy(v) for k, v in item_sample(i, task.layout).items()} for i in items]
            tensors = {k: v.to(device) for k, v in default_collate(samples).items()}
            start = task.locate(task.network, tensors)[task.poses[0]]
            errors.extend(relative_pose(tensors["truth"], start.float()).cpu().numpy().astype(float))
        scores[name] = PoseErrors.between([SE2(*error) for error in errors], [SE2()] * len(errors)).summary()
    return scores
