"""Runs of the training loop for tests: settings, stops, and what a run leaves behind."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import replace

import torch
from lightning_fabric import Fabric

from cvloc_ros.models.weights import SHIPPED
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.loading import steps
from cvloc_ros.training.methods import complete, make_task
from cvloc_ros.training.train import train

SMALL = {"encoder_widths": [8, 8, 8, 8], "bev_hidden": 8, "flow_hidden": 8, "iterations": 1}
TINY = complete(
    TrainConfig(
        samples=24, batch=4, workers=0, threads=1, pool=4, warm_up=4, ema=0.9, validation=(), precision="32-true"
    ),
    SMALL,
    {},
)  # fmt: skip


def run(config, out, *, resume=False, report=lambda seen, row: None):
    return train(config, out, resume=resume, report=report)


def stop_at(samples, number=signal.SIGTERM):
    def report(seen, row):
        if seen == samples:
            os.kill(os.getpid(), number)

    return report


def state(out):
    """All tensors of a run's checkpoint by name."""
    found = {}

    def walk(value, name):
        if isinstance(value, dict):
            for key, each in value.items():
                walk(each, f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            found[name] = value

    walk(torch.load(out / "checkpoint.pt", weights_only=True), "")
    assert len(found) > 50
    return found


def rows(out):
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def trained(method="vote_flow"):
    """Settings that go on from shipped weights."""
    given = str(SHIPPED / f"{method}.safetensors")
    return complete(replace(TINY, method=method, network=None, task=None, start_from=given), {}, {})


def fresh_task(config):
    torch.manual_seed(config.seed)
    return make_task(config)


def first_batch(config):
    return next(steps(config, config.network, Fabric(accelerator="cpu", devices=1), seen=0))[0]
