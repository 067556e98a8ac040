"""Validation while training runs: errors on frames that training never sees, and pictures of a few of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from cvloc_ros.datasets.item import Item
from cvloc_ros.evaluation.pictures import draw_overlay
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.models.losses import relative_pose
from cvloc_ros.training.calibrate import UNCALIBRATED
from cvloc_ros.training.config import SourceConfig, TrainConfig
from cvloc_ros.training.log import SCORES
from cvloc_ros.training.samples import item_sample, search_box
from cvloc_ros.training.scenes import validation_items
from cvloc_ros.training.task import Task

_BATCH = 20


class Validation:
    """The validation sets of a run, kept in memory as samples; a few also as items, to be drawn."""

    def __init__(self, task: Task, config: TrainConfig):
        """Render the towns and read the data sets.

        Raises:
            DatasetError: a file of a data set is missing or wrong.
            ValueError: there is no such protocol.

        """
        self.task, self.samples, self.drawn = task, {}, {}
        for source in config.validation:
            items = self._items(source, config.validation_pairs)
            self.samples[source.name] = [_tensors(item_sample(item, task.layout)) for item in items]
            self.drawn[source.name] = items[: config.pictures]

    def _items(self, source: SourceConfig, count: int) -> list[Item]:
        layout = self.task.layout
        return validation_items(source, count, grid=layout.patch, box=search_box(layout))

    def columns(self) -> list[str]:
        """Return the names of what `measure` returns."""
        named = [f"{pose}_median_m" for pose in self.task.poses[:-1]]
        return [f"{name}_{score}" for name in self.samples for score in (*named, *SCORES)]

    @torch.inference_mode()
    def measure(self, network: nn.Module, device: torch.device, autocast: AbstractContextManager) -> dict[str, float]:
        """Return the errors over each set: metres and degrees, medians, means and recalls.

        Args:
            network: like the task's.
            device: where it is.
            autocast: entered for each batch.

        """
        network.eval()
        scores = {}
        for name, samples in self.samples.items():
            poses: dict[str, list[Tensor]] = {pose: [] for pose in self.task.poses}
            for i in range(0, len(samples), _BATCH):
                batch = {k: v.to(device) for k, v in default_collate(samples[i : i + _BATCH]).items()}
                with autocast:
                    found = self.task.locate(network, batch)
                for pose, values in found.items():
                    poses[pose].append(relative_pose(batch["truth"], values.float()).cpu())
            errors = {pose: torch.cat(values) for pose, values in poses.items()}
            for pose in self.task.poses[:-1]:
                scores[f"{name}_{pose}_median_m"] = float(errors[pose][:, :2].norm(dim=1).median())
            scores |= {f"{name}_{k}": v for k, v in _scores(errors[self.task.poses[-1]]).items()}
        return scores

    def draw(self, network: Any, out: Path, seen: int) -> None:
        """Write a match picture of the first pairs of each set into ``out``."""
        device = next(network.parameters()).device
        localizer = Localizer(self.task.matcher(network, device=str(device)), UNCALIBRATED, None)
        for name, items in self.drawn.items():
            for number, item in enumerate(items):
                localization = localizer.match(item.frame, item.prior, item.patch)
                picture = draw_overlay(item.frame, item.patch, localization, truth=item.truth)
                out.mkdir(parents=True, exist_ok=True)
                path = out / f"{name}_{number}_{seen:08d}.jpg"
                if not cv2.imwrite(str(path), picture[..., ::-1]):
                    raise OSError(f"expected to write a picture to {path}: is the disk full?")


def _tensors(sample: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in sample.items()}


def _scores(error: Tensor) -> dict[str, float]:
    """Return the statistics `SCORES` of errors (N, 3) in the frame of the truth."""
    distance = error[:, :2].norm(dim=1)
    values = (
        distance.median(),
        distance.mean(),
        error[:, 2].abs().median().rad2deg(),
        (error[:, 1].abs() <= 1).float().mean(),
        (error[:, 0].abs() <= 1).float().mean(),
    )
    return dict(zip(SCORES, map(float, values), strict=True))
