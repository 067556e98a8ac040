"""Batches for a step, rendered ahead by worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from cvloc_ros.training.checkpoint import leave_signals_to_parent
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.samples import Layout
from cvloc_ros.training.stream import Stream

_AHEAD = 8  # steps


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
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_parent,
    )
    batches = iter(loader)
    while True:
        parts = [next(batches) for _ in range(max(1, workers))]  # one of each worker
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        chunks = {name: value.chunk(config.accumulate) for name, value in whole.items()}
        yield [
            {name: value[i].to(fabric.device, non_blocking=True) for name, value in chunks.items()}
            for i in range(config.accumulate)
        ]


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
