"""Weights as safetensors with a card (JSON) beside them; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import DenseFlowConfig
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher
from cvloc_ros.models.matcher import Matcher
from cvloc_ros.models.vote_flow import VoteFlow
from cvloc_ros.models.vote_flow_config import VoteFlowConfig
from cvloc_ros.models.vote_flow_matcher import VoteFlowMatcher

SHIPPED = Path(__file__).parent / "weights"
METHODS = ("vote_flow", "dense_flow")
Network = VoteFlow | DenseFlow


class WeightsError(ValueError):
    """Weights that cannot be loaded; the message says which file, what was expected, and what to do."""


class DeviceError(WeightsError):
    """A device that is not there, or cannot run the network."""


def save_weights(network: Network, path: Path, card: dict) -> None:
    """Write a network in half precision to ``path`` (.safetensors) and its card to the .json beside it."""
    state = {
        name: tensor.detach().cpu().contiguous().to(torch.float16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    path.chmod(0o644)  # safetensors leaves it to its owner alone, and an installation would copy that
    method = "dense_flow" if isinstance(network, DenseFlow) else "vote_flow"
    card = {"method": method, "architecture": asdict(network.config), **card}
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


def load_network(path: Path) -> Network:
    """Build the network that a weights file is for, by its card, and load it.

    Raises:
        WeightsError: a missing or damaged file, or tensors that do not fit the architecture; they are named.

    """
    if not path.exists():
        raise WeightsError(f"expected weights at {path}: give a .safetensors file, or train with `cvloc train`")
    card = read_card(path)
    method = card.get("method")
    if method not in METHODS:
        raise WeightsError(
            f"expected a method of {', '.join(METHODS)} in {path.with_suffix('.json')}, got {method!r}: use weights "
            f"trained with this version"
        )
    try:
        numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["architecture"].items()}
        numbers = {"local_contrast": 0.0} | numbers  # cards from before there was any do not name it
        network: Network = (
            DenseFlow(DenseFlowConfig(**numbers)) if method == "dense_flow" else VoteFlow(VoteFlowConfig(**numbers))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"expected a {method} architecture in {path.with_suffix('.json')}, got {error}") from None
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
            f"the weights {path} do not fit {method}: {len(differing)} tensors differ, the first is {n}: expected "
            f"{wanted.get(n, 'nothing')}, got {found.get(n, 'nothing')}: use weights trained with this version"
        )
    network.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return network.eval()


def weights_path(method: str, weights: str | None = None) -> Path:
    """Return the weights file of a method: the one that is given, or the shipped one.

    Raises:
        WeightsError: an unknown method, or a file of another.

    """
    if method not in METHODS:
        raise WeightsError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
    path = Path(weights) if weights else SHIPPED / f"{method}.safetensors"
    if weights and path.exists() and (found := read_card(path).get("method")) != method:
        raise WeightsError(
            f"expected weights of {method}, got those of {found} in {path}: ask for the method {found}, or give "
            f"weights of {method}"
        )
    return path


def provenance(path: Path) -> dict[str, Any]:
    """Return what the card of something that is made from weights says about them.

    Raises:
        WeightsError: they have no card.

    """
    card = read_card(path)
    own = {name: card.get(name) for name in ("method", "date", "data", "command", "lineage") if card.get(name)}
    training = card.get("training", {})
    if training.get("start_share"):
        own["start_share"] = training["start_share"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"weights": path.name, "sha256": digest, **own, "samples": training.get("samples")}


def choose_device(device: str) -> str:
    """Resolve "auto" to the GPU where there is one.

    Raises:
        WeightsError: another name than "auto", "cpu" and "cuda[:i]".
        DeviceError: a GPU that is not there.

    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not (named := re.fullmatch(r"cpu|cuda(?::(0|[1-9][0-9]*))?", device)):
        raise WeightsError(f"expected device auto, cpu, cuda or cuda:0, cuda:1 and so on, got {device!r}")
    if device != "cpu" and not torch.cuda.is_available():
        raise DeviceError(f"device {device} was asked for, but torch {torch.__version__} sees no GPU: use cpu or auto")
    if named[1] and int(named[1]) >= (count := torch.cuda.device_count()):
        raise DeviceError(f"device {device} was asked for, but the last GPU is cuda:{count - 1}: use that, cpu or auto")
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
    path = weights_path(method, weights)
    device = choose_device(device)
    network, card = load_network(path), read_card(path)
    if isinstance(network, VoteFlow):
        return VoteFlowMatcher(network, device=device, fast=fast), card
    return DenseFlowMatcher(network, device=device, fast=fast), card
