"""How a matcher is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `cvloc train`; saved beside the weights, and enough to remake them.

    Attributes:
        samples: training samples in all.
        batch: samples a step.
        learning_rate: of AdamW, between warm-up and decay.
        warm_up: samples over which the learning rate rises from zero.
        decay: share of the samples, at the end, over which it falls to zero; until then a run does not depend on
            ``samples``, so that a resumed run can be made longer or shorter.
        weight_decay: of AdamW.
        naming: weight of the side task: see `side_task`.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights that are validated and shipped.
        seed: of the network's start; the towns are seeded by their number.
        workers: rendering processes.
        threads: of the network's process, on a CPU.
        reuse: times that a rendered pair is used, each with another prior and other colours.
        validation_pairs: of unseen towns in each of the two styles.
        validate_every: samples between validations.

    """

    samples: int = 90_000
    batch: int = 16
    learning_rate: float = 2e-3
    warm_up: int = 2_400
    decay: float = 0.26
    weight_decay: float = 1e-4
    naming: float = 1.0
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
    workers: int = 1
    threads: int = 2
    reuse: int = 2
    validation_pairs: int = 120
    validate_every: int = 4_000
