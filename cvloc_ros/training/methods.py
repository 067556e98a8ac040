"""The methods that can be trained, and the settings of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cvloc_ros.models.dense_flow_config import FULL, SMALL
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.dense_flow_task import DenseFlowTask, DenseFlowTaskConfig
from cvloc_ros.training.settings import ConfigError, build, read_yaml
from cvloc_ros.training.task import Task
from cvloc_ros.training.vote_flow_task import VoteFlowTask, VoteFlowTaskConfig

METHODS: dict[str, tuple[type, dict[str, Any], Any]] = {
    "vote_flow": (VoteFlowTask, {"default": VoteFlowConfig()}, VoteFlowTaskConfig()),
    "dense_flow": (DenseFlowTask, {"small": SMALL, "full": FULL}, DenseFlowTaskConfig()),
}
"""Task, presets of the network's settings (the first is the default), default settings of the task."""

TRAINING_DEFAULTS: dict[str, dict[str, Any]] = {
    "small": {  # learns in an hour, on encoders that are trained already
        "samples": 30_000,
        "warm_up": 1_000,
        "decay": 0.5,
        "threads": 1,
        "reuse": 4,
        "validate_every": 6_000,
        "pictures": 0,
        "augment": {"filtered": 0.0},
    },
}
"""By preset, where the training's defaults differ from those of `TrainConfig`."""


def read_config(path: Path | None, **overriding: Any) -> TrainConfig:
    """Read a training's settings.

    Args:
        path: of the YAML file; None for the method's defaults, which also stand for what the file leaves out.
        overriding: settings that count instead of the file's, where they are not None.

    Raises:
        ConfigError: an unknown name, or a value of a wrong type or out of range; expected and got are named.

    """
    values = read_yaml(path) if path else {}
    values |= {name: value for name, value in overriding.items() if value is not None}
    network, task = values.pop("network", {}), values.pop("task", {})
    given = build(TrainConfig(), values)  # refuses what it does not know
    defaults = TRAINING_DEFAULTS.get(_preset(given.method, network), {})
    return complete(build(build(TrainConfig(), defaults), values), network, task)


def complete(config: TrainConfig, network: Any, task: Any) -> TrainConfig:
    """Return settings with those of the method: ``network`` may name a ``preset`` that its other values change.

    Raises:
        ConfigError: as `read_config`.

    """
    preset = _preset(config.method, network)
    _, presets, settings = METHODS[config.method]
    network = {name: value for name, value in network.items() if name != "preset"}
    if isinstance(task, dict) and task.get("votes_stay") and not config.start_from:
        raise ConfigError("task.votes_stay: expected weights in start_from, whose votes are to stay, got none")
    task = build(settings, task, "task")
    for name in ("vote_weights", "trunk_weights", "flow_weights"):
        if config.start_from and (path := getattr(task, name, "")):
            raise ConfigError(f"start_from: expected no task.{name} besides, which it would replace, got {path}")
    return replace(config, network=build(presets[preset], network, "network"), task=task)


def _preset(method: str, network: Any) -> str:
    """Return the name of the preset that a method's ``network`` settings change."""
    if method not in METHODS:
        raise ConfigError(f"method: expected one of {', '.join(METHODS)}, got '{method}'")
    if not isinstance(network, dict):
        raise ConfigError(f"network: expected a mapping, got {network!r}")
    presets = METHODS[method][1]
    preset = network.get("preset", next(iter(presets)))
    if preset not in presets:
        raise ConfigError(f"network.preset: expected one of {', '.join(presets)}, got {preset!r}")
    return preset


def make_task(config: TrainConfig, *, begin: bool = True) -> Task:
    """Build the task of a training; its network's start depends on torch's random numbers.

    Raises:
        WeightsError: ``begin``, and what it loads does not fit; see `Task.begin`.

    """
    task: Task = METHODS[config.method][0](config.network, config.task)
    if begin:
        task.begin()
    return task
