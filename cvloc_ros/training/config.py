"""How a matcher is trained: all settings of `cvloc train`, as one YAML file has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cvloc_ros.datasets.town.seeds import VALIDATION_TOWNS
from cvloc_ros.localization.setting import check_settings, setting
from cvloc_ros.training.augment import AugmentConfig


@dataclass(frozen=True)
class SourceConfig:
    """A data set to train or to validate on."""

    source: str = setting(
        "town",
        "town (rendered while training runs), or kitti, ford, vigor, oxford or pairs at `root`",
        choices=("town", "kitti", "ford", "vigor", "oxford", "pairs"),
    )
    protocol: str = setting(
        "",
        "which part of it; to train on: of kitti train, of ford log1 to log6, of vigor same or cross, of oxford "
        "training; to validate on: of town train or heldout (styles), of the others what `cvloc eval` knows",
    )
    root: str = setting("", "the data set's folder; for pairs the CSV file")
    weight: float = setting(1.0, "share of the samples, relative to the other sources'", limits=(1e-6, 1e6))

    def __post_init__(self) -> None:
        """Refuse settings outside their limits."""
        check_settings(self)
        if (self.source == "town") == bool(self.root):
            wanted = "no root: towns are rendered" if self.root else "root, where the data set is"
            raise ValueError(f"{self.source}: expected {wanted}, got root '{self.root}'")

    @property
    def name(self) -> str:
        """What it is called in logs and protocols, such as ``kitti-same``; of towns the style alone."""
        if self.source == "town":
            return self.protocol or "train"
        return f"{self.source}-{self.protocol}" if self.protocol else self.source


TOWNS = SourceConfig()
UNSEEN_TOWNS = (SourceConfig(protocol="train"), SourceConfig(protocol="heldout"))


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `cvloc train`; saved beside the weights, and enough to remake them.

    ``network`` (sizes) and ``task`` (losses, starts) are of the method's own types, its defaults if None.
    """

    method: str = setting("vote_flow", "the matcher to train")
    network: Any = None
    task: Any = None
    data: tuple[SourceConfig, ...] = (TOWNS,)
    validation: tuple[SourceConfig, ...] = UNSEEN_TOWNS
    augment: AugmentConfig = AugmentConfig()
    start_from: str = setting("", "weights (.safetensors) of the same method to go on from; empty starts anew")
    start_share: float = setting(
        0.0,
        "share of the weights of `start_from` in what comes out, the rest are the trained ones: such a mean often does "
        "better than either on data unlike the training's (WiSE-FT, Wortsman et al., CVPR 2022); validation while "
        "training runs is of the trained ones alone",
        limits=(0.0, 1.0),
    )
    samples: int = setting(930_000, "training samples in all", limits=(1, 10**9))
    batch: int = setting(16, "samples a step, of all processes together", limits=(1, 65_536))
    accumulate: int = setting(1, "parts of a step that pass the network one after another", limits=(1, 1024))
    precision: str = setting("bf16-mixed", "of the network's arithmetic", choices=("bf16-mixed", "16-mixed", "32-true"))
    compile: bool = setting(False, "compile the encoders (torch.compile): slow to start, faster afterwards")
    learning_rate: float = setting(2e-3, "of AdamW, between warm-up and decay", limits=(0.0, 1.0))
    warm_up: int = setting(2_400, "samples over which the learning rate rises from zero", limits=(0, 10**9))
    decay: float = setting(
        0.26,
        "share of the samples, at the end, over which the learning rate falls to zero; until then a run of vote_flow "
        "does not depend on `samples`, so that a resumed one can be made longer or shorter",
        limits=(0.0, 1.0),
    )
    weight_decay: float = setting(1e-4, "of AdamW", limits=(0.0, 1.0))
    clip: float = setting(1.0, "largest norm of the gradient", limits=(1e-6, 1e6))
    ema: float = setting(0.995, "decay of the averaged weights that are validated and shipped", limits=(0.0, 1.0))
    seed: int = setting(
        0, "of the network's start, priors and colours; towns are seeded by their number", limits=(0, 2**31)
    )
    workers: int = setting(1, "rendering processes, of all processes together; 0: the network's own", limits=(0, 1024))
    threads: int = setting(2, "of each network's process, on a CPU", limits=(1, 1024))
    reuse: int = setting(2, "times that a rendered pair is used, each with another prior and colours", limits=(1, 100))
    first_town: int = setting(
        0,
        "seed of the first town: a run that goes on from weights sees towns of its own",
        limits=(0, VALIDATION_TOWNS - 1),
    )
    pool: int = setting(384, "rendered pairs from which a rendering process draws", limits=(1, 10**6))
    validation_pairs: int = setting(120, "pairs of each validation set, spread evenly over it", limits=(1, 10**6))
    validate_every: int = setting(4_000, "samples between validations", limits=(1, 10**9))
    pictures: int = setting(2, "pairs of each validation set of which a picture is drawn", limits=(0, 1000))

    def __post_init__(self) -> None:
        """Refuse settings outside their limits."""
        check_settings(self)
        if not self.data:
            raise ValueError("data: expected one source or more, got none")
        for source in self.data:
            if source.source == "town" and source.protocol not in ("", "train"):
                raise ValueError(f"data: expected towns of the style train, got {source.protocol}: it is held out")
        names = [source.name for source in self.validation]
        if len(set(names)) < len(names):
            raise ValueError(f"validation: expected each set once, got {', '.join(names)}")
        if self.start_share and not self.start_from:
            raise ValueError("start_share: expected weights in start_from, of which to take a share, got none")
