"""The training loop: render, match, step; validate on what training never sees; stop and go on anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cvloc_ros.models.memory import keep_freed_memory
from cvloc_ros.models.weights import WeightsError, load_network, provenance, read_card
from cvloc_ros.training.checkpoint import Checkpoint, Stopped, StopSignals
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.loading import share, steps
from cvloc_ros.training.log import Log
from cvloc_ros.training.methods import make_task
from cvloc_ros.training.scenes import open_source
from cvloc_ros.training.settings import write_yaml
from cvloc_ros.training.sync_norm import synchronize
from cvloc_ros.training.task import Task
from cvloc_ros.training.validation import Validation

Report = Callable[[int, dict[str, float]], None]

_BEGINNING = "beginning"  # in a run's folder: what it started from, if that is to have a share in what comes out


def train(config: TrainConfig, out: Path, *, resume: bool, report: Report) -> Task:
    """Train a network and return its task with the averaged network in it.

    With ``start_share`` that is a mean of the averaged network and the one that the run started from, of which a copy
    is kept in ``out`` (``beginning.safetensors`` and ``.json``).

    Writes ``config.yaml``, ``log.csv`` (losses and validation), ``checkpoint.pt`` (replaced whole, at every validation
    and when the run is stopped), ``pictures`` and, where tensorboard is installed, ``tensorboard`` into ``out``; with
    ``start_from`` also ``lineage.json``; where encoders that stay as they are have come from is in ``encoders.json``.

    Args:
        config: the settings.
        out: folder of the run.
        resume: go on from ``out/checkpoint.pt``.
        report: called in the first process with the samples seen and numbers to show, after every step.

    Raises:
        FileNotFoundError: there is nothing to resume.
        FileExistsError: there is, but ``resume`` is not set.
        ValueError: settings that do not fit each other, the number of processes, or the data sets.
        WeightsError: ``start_from``, or other weights that the settings name, do not load.
        DatasetError: a file of a data set is missing or wrong.
        FloatingPointError: a loss or a gradient is not finite; the terms are named.
        Stopped: SIGTERM or SIGINT came; the run can be resumed.

    """
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise FileExistsError(
            f"{out} holds a run already: go on with --resume, choose another --out, or remove the folder"
        )
    for source in config.data:  # what is missing should be said now, not by a worker later
        if source.source != "town":
            open_source(source, cell=config.network.patch.cell)
    fabric = make_fabric(config, out)
    share(config, fabric.world_size)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    task = make_task(config, begin=not (resume or config.start_from))  # these bring all weights
    lineage = start_from(task, Path(config.start_from)) if config.start_from and not resume else None
    if fabric.is_global_zero and not resume:
        out.mkdir(parents=True, exist_ok=True)
        for name, origin in (("lineage", lineage), ("encoders", task.built_on)):
            (out / f"{name}.json").unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
            if origin:
                (out / f"{name}.json").write_text(json.dumps(origin, indent=1) + "\n")
        if config.start_share:  # a copy: the file may be another one, or elsewhere, by the time the run ends
            for suffix in (".safetensors", ".json"):
                shutil.copyfile(Path(config.start_from).with_suffix(suffix), out / f"{_BEGINNING}{suffix}")
    run = _Run(config, out, fabric, task)
    if resume:
        run.seen = run.checkpoint.load()
        if (out / "encoders.json").exists():  # the checkpoint's, not those that are shipped by now
            task.built_on = json.loads((out / "encoders.json").read_text())
    if fabric.is_global_zero:
        write_yaml(config, out / "config.yaml")  # a run that was made longer stays so
    with StopSignals() as signals:
        run.go_on(signals, report)
    run.task.network = run.averaged.module.eval()
    if config.start_share:
        _mix(run.task.network, load_network(out / f"{_BEGINNING}.safetensors"), config.start_share)
    return run.task


class _Run:
    """The objects of a run and their steps."""

    def __init__(self, config: TrainConfig, out: Path, fabric: Fabric, task: Task):
        self.config, self.out, self.fabric, self.task, self.seen = config, out, fabric, task, 0
        # On the device from the start: what a checkpoint says of the optimizer goes to where its weights are.
        task.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = AveragedModel(task.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        task = synchronize(task, gpu=fabric.device.type == "cuda")
        if config.compile:  # the encoders only: what follows them is many small steps, which take long to compile
            for encoder in task.encoders:
                encoder.compile()
        optimizer = torch.optim.AdamW(task.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.model, self.optimizer = fabric.setup(task, optimizer)
        parts = {"task": task, "averaged": self.averaged, "optimizer": optimizer, "scale": fabric.strategy.precision}
        self.checkpoint = Checkpoint(out / "checkpoint.pt", parts)
        self.names = [*task.terms, "total"]

    def go_on(self, signals: StopSignals, report: Report) -> None:
        """Train to the end, or until a signal."""
        config, fabric, task = self.config, self.fabric, self.task
        validation = Validation(task, config) if fabric.is_global_zero else None
        if validation:
            log = Log(self.out / "log.csv", [*self.names, "rate", *validation.columns()])
            log.begin(self.seen)
        fabric.barrier()
        batches = steps(config, task.layout, fabric, seen=self.seen)
        while self.seen < config.samples:
            row, stop = self.step(next(batches), signals)
            ended = self.seen >= config.samples
            checked = self.seen % config.validate_every < config.batch or ended
            if validation:
                if checked:
                    network = self.averaged.module
                    row |= validation.measure(network, fabric.device, fabric.autocast())
                    validation.draw(network, self.out / "pictures", self.seen)
                log.append({"seen": self.seen} | row)
                fabric.log_dict(row, step=self.seen)
                report(self.seen, row)
            if checked or stop:
                self.checkpoint.save(fabric, self.seen)
            if stop and not ended:
                raise Stopped(
                    f"stopped after {self.seen} of {config.samples} samples, nothing is lost: go on with "
                    f"cvloc train --out {self.out} --resume",
                    signals.received,
                )

    def step(self, parts: list[dict[str, Tensor]], signals: StopSignals) -> tuple[dict[str, float], bool]:
        """Take one step; return the means of its losses over all processes, and whether one of these was told to stop.

        Raises:
            FloatingPointError: a loss or a gradient is not finite.

        """
        config, fabric = self.config, self.fabric
        # what a method draws in a step depends on the step alone: a resumed run draws the same
        torch.manual_seed((config.seed + 1) * 2**32 + self.seen * fabric.world_size + fabric.global_rank)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        values = torch.zeros(len(self.names), device=fabric.device)
        for part in parts:
            with fabric.no_backward_sync(self.model, enabled=part is not parts[-1]):
                losses = self.model(part, self.seen / config.samples)
                fabric.backward(losses["total"] / len(parts))
            values += torch.stack([losses[name].detach().float() for name in self.names]) / len(parts)
        flag = values.new_tensor([float(signals.received > 0)])
        *means, stop = fabric.all_reduce(torch.cat([values, flag]), reduce_op="mean").tolist()  # type: ignore[union-attr]
        row = dict(zip(self.names, means, strict=True))
        if not torch.isfinite(torch.tensor(means)).all():
            raise FloatingPointError(f"the loss is not finite after {self.seen} samples: {row}")
        self._clip()
        row["rate"] = learning_rate(config, self.seen)
        for group in self.optimizer.param_groups:
            group["lr"] = row["rate"]
        self.optimizer.step()
        if self.seen < config.warm_up:  # an average that remembers the start would lag behind for long:
            self.averaged.n_averaged.zero_()  # the update copies the network
        self.averaged.update_parameters(self.task.network)
        self.seen += config.batch
        return row, stop > 0

    def _clip(self) -> None:
        """Limit the gradient; a loss scale that is too large for half precision is the scaler's to mend."""
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        try:
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=not scaled
            )
        except RuntimeError:
            bad = [n for n, p in self.task.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            raise FloatingPointError(
                f"the gradient is not finite after {self.seen} samples, of {', '.join(bad[:5])} and so on ({len(bad)})"
            ) from None


class _KeepingInputs(MixedPrecision):
    """Mixed precision that does not round what goes in: half precision has three digits, and positions need more."""

    def convert_input(self, data: Any) -> Any:
        """Leave a batch as it is; autocast rounds where that does no harm."""
        return data


def make_fabric(config: TrainConfig, out: Path) -> Fabric:
    """Return Fabric for this process: alone, or one of those that torchrun has started."""
    processes, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    loggers: list[Logger] = []
    if importlib.util.find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(out, name="tensorboard", version=""))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mixed = config.precision != "32-true"
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        precision=None if mixed else "32-true",
        plugins=[_KeepingInputs(config.precision, device)] if mixed else None,  # type: ignore[arg-type]
        loggers=loggers,
    )
    fabric.launch()
    return fabric


def start_from(task: Task, path: Path) -> dict[str, Any]:
    """Load weights into a task's network, what they are built on included; return where they come from, for the card.

    Raises:
        WeightsError: a missing or damaged file, or one of another method or architecture, or with encoders that stay as
            they are and know images of another contrast.

    """
    network, card = load_network(path), read_card(path)
    if card["method"] != task.method:
        raise WeightsError(f"expected weights of {task.method} to start from, got {path} of {card['method']}")
    try:
        task.network.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the network of this training: {error}: give it its sizes") from None
    task.built_on = card.get("encoders")
    own: Any = task.network
    wanted, given = network.config.local_contrast, own.config.local_contrast
    if task.built_on and given != wanted:
        raise WeightsError(
            f"expected a local_contrast of {wanted} under `network` for the encoders of {path}, which stay as they "
            f"are, got {given}"
        )
    return provenance(path)


def _mix(network: nn.Module, other: nn.Module, share: float) -> None:
    """Take a ``share`` of another network of the same sizes into a network, averages of its norms included."""
    with torch.no_grad():
        given = other.state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(given[name].to(value), share)


def learning_rate(config: TrainConfig, seen: int) -> float:
    """Return the learning rate after so many samples: a ramp up, a plateau, a ramp down."""
    rising = seen / max(1, config.warm_up)
    falling = (config.samples - seen) / max(1.0, config.decay * config.samples)
    return config.learning_rate * max(0.0, min(1.0, rising, falling))
