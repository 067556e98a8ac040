"""Batches for a step, rendered ahead by worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from cvloc_ros.training.checkpoint import leave_signals_to_parent
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.samples import Layout
from cvloc_ros.training.stream import Stream

_AHEAD = 8  # steps


class PackedBatch(NamedTuple):
    """Samples in one tensor: handing over a dozen from each process takes longer than some GPUs take for a step.

    Attributes:
        rows: (B, bytes) uint8, a sample in each.
        fields: names, dtypes and shapes of what a sample is made of, in their order.

    """

    rows: Tensor
    fields: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]

    @classmethod
    def of(cls, samples: Sequence[dict[str, Any]]) -> PackedBatch:
        """Pack samples whose arrays are alike."""
        rows = [
            np.concatenate([np.ascontiguousarray(value).reshape(-1).view(np.uint8) for value in sample.values()])
            for sample in samples
        ]
        fields = ((name, torch.as_tensor(value).dtype, np.shape(value)) for name, value in samples[0].items())
        return cls(torch.from_numpy(np.stack(rows)), tuple(fields))

    def tensors(self) -> dict[str, Tensor]:
        """Return the samples' tensors (B, ...) by name, on the device of ``rows``."""
        found, start = {}, 0
        for name, dtype, shape in self.fields:
            end = start + math.prod(shape) * dtype.itemsize
            own = self.rows[:, start:end].clone(memory_format=torch.contiguous_format)  # aligned, without gaps
            found[name], start = own.view(dtype).view(-1, *shape), end
        return found


def steps(config: TrainConfig, layout: Layout, fabric: Fabric, *, seen: int) -> Iterator[list[dict[str, Tensor]]]:
    """Yield what this process does in each step, for ever: ``accumulate`` batches, on its device.

    The step's samples, in all processes together, depend on the number of rendering processes alone.

    Raises:
        ValueError: batch, workers, accumulate and the processes of the run do not divide each other.
        DatasetError: a file of a data set is missing or wrong.

    """
    workers, shards = share(config, fabric.world_size)
    stream = Stream(config, layout, shards=shards, first=fabric.global_rank * max(1, workers), position=seen // shards)
    loader = DataLoader(
        stream,
        batch_size=config.batch // shards,
        num_workers=workers,
        collate_fn=PackedBatch.of,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_parent,
    )
    batches = iter(loader)
    while True:
        parts: list[PackedBatch] = [next(batches) for _ in range(max(1, workers))]  # one of each worker
        rows = torch.cat([part.rows.to(fabric.device, non_blocking=True) for part in parts])
        yield [PackedBatch(chunk, parts[0].fields).tensors() for chunk in rows.chunk(config.accumulate)]


def share(config: TrainConfig, processes: int) -> tuple[int, int]:
    """Return the rendering processes of each process, and the shards of the stream.

    Raises:
        ValueError: they do not divide each other.

    """
    if config.workers % processes:
        raise ValueError(
            f"expected workers to be a multiple of the {processes} processes, got {config.workers}: workers are those "
            "of all processes together"
        )
    shards = max(config.workers, processes)
    for name, divisor in (
        ("rendering processes", shards),
        ("processes times accumulate", processes * config.accumulate),
    ):
        if config.batch % divisor:
            raise ValueError(
                f"expected a batch that is a multiple of the {divisor} {name}, got {config.batch}: choose another batch"
            )
    return config.workers // processes, shards
