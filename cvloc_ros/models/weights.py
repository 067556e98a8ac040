"""Weights as safetensors with a card (JSON) beside them; nothing is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cvloc_ros.models.matcher import Matcher
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher

SHIPPED = Path(__file__).parent / "weights"
METHODS = ("vote_flow",)


class WeightsError(ValueError):
    """Weights that cannot be loaded; the message says which file, what was expected, and what to do."""


class DeviceError(WeightsError):
    """A device that is not there, or cannot run the network."""


def save_weights(network: VoteFlow, path: Path, card: dict) -> None:
    """Write a network in half precision to ``path`` (.safetensors) and its card to the .json beside it."""
    state = {
        name: tensor.detach().cpu().contiguous().to(torch.float16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    path.chmod(0o644)  # safetensors leaves it to its owner alone, and an installation would copy that
    card = {"method": "vote_flow", "architecture": asdict(network.config), **card}
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


def read_card(path: Path) -> dict:
    """Return the card of a weights file.

    Raises:
        WeightsError: there is none, or it is not one.

    """
    card = path.with_suffix(".json")
    if not card.exists():
        raise WeightsError(
            f"expected the card {card} beside the weights {path}: copy both, or train with `cvloc train`"
        )
    try:
        return json.loads(card.read_text())
    except json.JSONDecodeError as error:
        raise WeightsError(f"expected a JSON card in {card}, got {error}: copy it anew") from None


def load_network(path: Path) -> VoteFlow:
    """Build the network that a weights file is for, and load it.

    Raises:
        WeightsError: a missing or damaged file, or tensors that do not fit the architecture; they are named.

    """
    if not path.exists():
        raise WeightsError(f"expected weights at {path}: give a .safetensors file, or train with `cvloc train`")
    card = read_card(path)
    try:
        numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["architecture"].items()}
        network = VoteFlow(VoteFlowConfig(**numbers))
    except (KeyError, TypeError) as error:
        raise WeightsError(f"expected a vote_flow architecture in {path.with_suffix('.json')}, got {error}") from None
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"expected a safetensors file at {path}, got {error}: copy it anew") from None
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    differing = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if differing:
        n = differing[0]
        raise WeightsError(
            f"the weights {path} do not fit vote_flow: {len(differing)} tensors differ, the first is {n}: expected "
            f"{wanted.get(n, 'nothing')}, got {found.get(n, 'nothing')}: use weights trained with this version"
        )
    network.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return network.eval()


def choose_device(device: str) -> str:
    """Resolve "auto" to the GPU where there is one.

    Raises:
        DeviceError: CUDA was asked for by name and is not there.

    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"device {device} was asked for, but torch {torch.__version__} sees no GPU: use cpu or auto")
    return device


def load_matcher(
    method: str, *, weights: str | None = None, device: str = "auto", fast: bool = True
) -> tuple[Matcher, dict]:
    """Return a method's matcher and the card of its weights.

    Args:
        method: one of `METHODS`.
        weights: a .safetensors file; None for the shipped one.
        device: "auto", "cpu" or "cuda[:i]".
        fast: run the method's fast form, as it is used for driving, not the network as it was trained.

    Raises:
        WeightsError: an unknown method or weights that do not load.
        DeviceError: no such device.

    """
    if method not in METHODS:
        raise WeightsError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
    path = Path(weights) if weights else SHIPPED / f"{method}.safetensors"
    network = load_network(path)
    return VoteFlowMatcher(network, device=choose_device(device), fast=fast), read_card(path)
