"""The training loop: render, match, step; validate on unseen towns and on the held-out style; resume."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, default_collate

from cvloc_ros.datasets.town import town_pairs
from cvloc_ros.datasets.town.seeds import VALIDATION_TOWNS
from cvloc_ros.models.losses import relative_pose, total_loss
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.samples import TownSamples, make_sample, to_inputs
from cvloc_ros.training.side_task import GroundNaming

STYLES = ("train", "heldout")
Report = Callable[[int, dict[str, float]], None]


def train(config: TrainConfig, out: Path, *, resume: bool, report: Report) -> VoteFlow:
    """Train a `VoteFlow` and return the averaged network.

    Writes ``config.json``, ``log.csv`` (losses and validation), and ``checkpoint.pt`` (replaced whole, at every
    validation) into ``out``.

    Args:
        config: the settings.
        out: folder of the run.
        resume: go on from ``out/checkpoint.pt``.
        report: called with the samples seen and numbers to show, after every step.

    Raises:
        FileNotFoundError: there is nothing to resume.
        FloatingPointError: a loss is not finite; the terms are named.

    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
    # On the device from the start: what a checkpoint says of the optimizer goes to where its weights are.
    network: VoteFlow = VoteFlow().to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    naming = GroundNaming(network).to(fabric.device)
    weights = [*network.parameters(), *naming.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
    average_from = config.warm_up  # an average that remembers the random start would lag behind for long
    shipped = cast(VoteFlow, averaged.module)
    checkpoint = out / "checkpoint.pt"
    seen = 0
    if resume:
        if not checkpoint.exists():
            raise FileNotFoundError(f"expected a checkpoint to resume from at {checkpoint}: start without --resume")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        parts: dict[str, torch.nn.Module | torch.optim.Optimizer] = {
            "network": network,
            "naming": naming,
            "averaged": averaged,
            "optimizer": optimizer,
        }
        for name, part in parts.items():
            part.load_state_dict(state[name])
        seen = state["seen"]
    else:
        (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2))
        (out / "log.csv").unlink(missing_ok=True)
    model, optimizer = fabric.setup(network, optimizer)

    validation = {style: validation_samples(network, style, config.validation_pairs) for style in STYLES}
    batches = iter(loader(config, network, first_town=seen // 100))
    while seen < config.samples:
        batch = next(batches)
        truth = batch["truth"].to(fabric.device)
        inputs = to_inputs(batch, fabric.device)
        outputs = model(**inputs, **teacher(truth))
        losses = total_loss(network, outputs, truth, camera=inputs["camera"], tilt=batch["tilt"].to(fabric.device))
        patch_classes, bev_classes = (batch[name].to(fabric.device) for name in ("patch_classes", "bev_classes"))
        losses["naming"] = naming.loss(patch_classes, bev_classes, inputs["coverage"], inputs["visible"])
        losses["total"] = losses["total"] + config.naming * losses["naming"]
        if not torch.isfinite(losses["total"]):
            terms = {k: float(v.detach()) for k, v in losses.items()}
            raise FloatingPointError(f"the loss is not finite after {seen} samples: {terms}")
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(losses["total"])
        fabric.clip_gradients(model, optimizer, max_norm=config.clip)
        rate = learning_rate(config, seen)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        if seen < average_from:
            averaged.n_averaged.zero_()  # the next update copies the network
        averaged.update_parameters(network)
        seen += config.batch

        row = {k: float(v.detach()) for k, v in losses.items()} | {"rate": rate}
        if seen % config.validate_every < config.batch or seen >= config.samples:
            for style in STYLES:
                scores = validate(shipped, validation[style], fabric.device)
                row |= {f"{style}_{k}": v for k, v in scores.items()}
            save(checkpoint, network, naming, averaged, optimizer, seen)
        append_row(out / "log.csv", {"seen": seen} | row)
        report(seen, row)
    return shipped.eval()


def learning_rate(config: TrainConfig, seen: int) -> float:
    """Return the learning rate after so many samples: a ramp up, a plateau, a ramp down."""
    rising = seen / max(1, config.warm_up)
    falling = (config.samples - seen) / max(1.0, config.decay * config.samples)
    return config.learning_rate * max(0.0, min(1.0, rising, falling))


def loader(config: TrainConfig, network: VoteFlow, *, first_town: int) -> DataLoader:
    """Return batches rendered ahead by worker processes."""
    samples = TownSamples(first_town, network.config, reuse=config.reuse)
    return DataLoader(
        samples,
        batch_size=config.batch,
        num_workers=config.workers,
        multiprocessing_context="spawn" if config.workers else None,
        prefetch_factor=8 if config.workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def teacher(truth: Tensor) -> dict[str, Tensor]:
    """Return where the second vote and the flow start in training: near the truth, as a good vote would put them."""

    def jittered(metres: float, degrees: float) -> Tensor:
        spread = torch.tensor([metres, metres, math.radians(degrees)], device=truth.device)
        return truth + (2 * torch.rand_like(truth) - 1) * spread

    return {"centre": jittered(2.4, 1.6), "start": jittered(1.0, 0.8)}


def validation_samples(network: VoteFlow, style: str, count: int) -> list[dict[str, np.ndarray]]:
    """Return samples of towns that training never sees; the same ones every time."""
    rng = np.random.default_rng(VALIDATION_TOWNS)
    pairs = town_pairs(VALIDATION_TOWNS, count, style=style)
    return [make_sample(pair, rng, network.config, None) for pair in pairs]


@torch.inference_mode()
def validate(network: VoteFlow, samples: list[dict[str, np.ndarray]], device: torch.device) -> dict[str, float]:
    """Return the errors of the votes and of the final pose, metres and degrees, over the samples."""
    network.eval()
    voted, final, truth = [], [], []
    for i in range(0, len(samples), 20):
        batch = default_collate([{k: torch.from_numpy(v) for k, v in s.items()} for s in samples[i : i + 20]])
        with torch.autocast(device.type, dtype=torch.bfloat16):
            outputs = network(**to_inputs(batch, device))
        voted.append(outputs.voted.float().cpu())
        final.append(outputs.poses[-1].float().cpu())
        truth.append(batch["truth"])
    true = torch.cat(truth)
    error = relative_pose(true, torch.cat(final))
    distance = error[:, :2].norm(dim=1)
    return {
        "vote_median_m": float(relative_pose(true, torch.cat(voted))[:, :2].norm(dim=1).median()),
        "median_m": float(distance.median()),
        "mean_m": float(distance.mean()),
        "yaw_median_deg": float(error[:, 2].abs().median().rad2deg()),
        "lateral_1m": float((error[:, 1].abs() <= 1).float().mean()),
        "longitudinal_1m": float((error[:, 0].abs() <= 1).float().mean()),
    }


def save(path: Path, network, naming, averaged, optimizer, seen: int) -> None:
    """Replace the checkpoint whole: an interruption leaves the old one."""
    state = {
        "network": network.state_dict(),
        "naming": naming.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "seen": seen,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


LOG_COLUMNS = ["seen", "total", "coarse", "fine", "flow", "pose", "tilt", "naming", "rate"] + [
    f"{style}_{name}"
    for style in STYLES
    for name in ("vote_median_m", "median_m", "mean_m", "yaw_median_deg", "lateral_1m", "longitudinal_1m")
]


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to the log, with its header if it is the first."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
