"""The endless stream of training samples: any mix of data sets, in shards that start anywhere.

Every rendering process makes one *shard* of the stream, and a step takes as many samples from each shard. A shard is
a function of the seed, its number and the number of shards: sample n of it has its own random numbers, so that a run
that goes on at n gets what it would have got, whoever computes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from cvloc_ros.datasets.town import Town, TownPair, render_pair
from cvloc_ros.datasets.town.seeds import VALIDATION_TOWNS
from cvloc_ros.training.augment import AugmentConfig
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.samples import Layout, make_sample
from cvloc_ros.training.scenes import Scene, open_source

PAIRS_PER_TOWN = 32


class _Source(Protocol):
    def next(self) -> Scene: ...


class TownPool:
    """Rendered pairs, each used ``reuse`` times, spread over a pool so that a batch mixes many towns.

    While the pool fills every pair is new. Then every ``reuse`` draws a random place of the pool gets a new pair, and
    those draws fall on random places, the first on the new one.
    """

    def __init__(
        self, shard: int, shards: int, augment: AugmentConfig, *, first_town: int, reuse: int, size: int, position: int
    ):
        """Start at the shard's ``position``: the pool is as it would be then; ``first_town`` is a seed."""
        self.shard, self.shards, self.augment, self.first_town = shard, shards, augment, first_town
        self.reuse, self.size, self.position = reuse, size, position
        self.rng = np.random.default_rng([shards, shard])
        self._town: tuple[int, Town] | None = None
        filled = list(range(min(position, size)))
        draws = self.rng.random(max(0, position - size))
        for new, draw in enumerate(draws[::reuse]):
            filled[int(draw * size)] = size + new
        self.new = len(filled) + len(draws[::reuse])
        rendered = {number: self._render(number) for number in sorted(filled)}  # a town's pairs after one another
        self.pool: list[TownPair] = [rendered[number] for number in filled]

    def next(self) -> Scene:
        """Return the next scene."""
        if len(self.pool) < self.size:
            self.pool.append(self._render_new())
            slot = len(self.pool) - 1
        else:
            slot = int(self.rng.random() * self.size)
            if (self.position - self.size) % self.reuse == 0:
                self.pool[slot] = self._render_new()
        self.position += 1
        return Scene.of_pair(self.pool[slot])

    def _render_new(self) -> TownPair:
        self.new += 1
        return self._render(self.new - 1)

    def _render(self, number: int) -> TownPair:
        """Render a pair of the shard: those of every ``shards``-th town, one after another."""
        town = self.shard + self.shards * (number // PAIRS_PER_TOWN)
        if self._town is None or self._town[0] != town:
            self._town = town, Town.generate((self.first_town + town) % VALIDATION_TOWNS)
        scatter = self.augment.scatter if town >= self.augment.natural_towns else 0.0
        return render_pair(self._town[1], number % PAIRS_PER_TOWN, scatter=scatter)


class ItemCycle:
    """The items of a data set, all of them before any comes again; each shard has its own part."""

    def __init__(self, items, shard: int, shards: int, *, seed: int, position: int):
        """Start at the shard's ``position``."""
        self.items, self.shard, self.shards, self.seed, self.position = items, shard, shards, seed, position
        self._order: tuple[int, np.ndarray] | None = None

    def next(self) -> Scene:
        """Return the next scene."""
        count = self.shards * self.position + self.shard
        epoch, place = divmod(count, len(self.items))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.items))
        self.position += 1
        return Scene.of_item(self.items[int(self._order[1][place])])


def shard_samples(
    config: TrainConfig, layout: Layout, *, shard: int, shards: int, position: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the samples of a shard for ever, from its ``position`` on.

    Raises:
        DatasetError: a file of a data set is missing or wrong.

    """
    weights = np.array([source.weight for source in config.data])
    bounds = np.cumsum(weights / weights.sum())[:-1]
    choice = np.random.default_rng([config.seed, shards, shard])
    taken = np.bincount(np.searchsorted(bounds, choice.random(position), side="right"), minlength=len(weights))
    sources: list[_Source] = [
        TownPool(
            shard,
            shards,
            config.augment,
            first_town=config.first_town,
            reuse=config.reuse,
            size=config.pool,
            position=int(used),
        )
        if source.source == "town"
        else ItemCycle(open_source(source, cell=layout.patch.cell), shard, shards, seed=config.seed, position=int(used))
        for source, used in zip(config.data, taken, strict=True)
    ]
    while True:
        rng = np.random.default_rng([config.seed, shards, shard, position])
        source = sources[int(np.searchsorted(bounds, choice.random(), side="right"))]
        yield make_sample(source.next(), rng, layout, config.augment)
        position += 1


class Stream(IterableDataset):
    """The shards of one process, each in a worker of its own, or the only one in the process itself."""

    def __init__(self, config: TrainConfig, layout: Layout, *, shards: int, first: int, position: int):
        """Make the shards from ``first`` on of ``shards``, each from its ``position`` on."""
        self.config, self.layout, self.shards, self.first, self.position = config, layout, shards, first, position

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield samples for ever."""
        cv2.setNumThreads(1)
        worker = get_worker_info()
        shard = self.first + (worker.id if worker else 0)
        return shard_samples(self.config, self.layout, shard=shard, shards=self.shards, position=self.position)
