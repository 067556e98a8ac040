"""What an evaluation's results depend on, and what a reader must know of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cvloc_ros import __version__
from cvloc_ros.datasets.item import KNOWN_YAW, Dataset
from cvloc_ros.evaluation.item_frames import LIST, ItemFrames
from cvloc_ros.evaluation.published import caveat_of
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.search_box import BOX_FLOOR, BOX_SIGMAS
from cvloc_ros.models.weights import SHIPPED

_ROUNDING = 1e-4  # metres and radians: poses are as frames.csv has them


def identify(
    protocol: str,
    root: Path,
    items: Dataset,
    *,
    method: str,
    weights: str | None,
    device: str,
    imagery: str | None = None,
) -> dict[str, str]:
    """Return what the answers of an evaluation depend on: of lists and weights, the content; of imagery, if named."""
    path = Path(weights) if weights else SHIPPED / f"{method}.safetensors"
    digest = hashlib.sha256(path.read_bytes() + path.with_suffix(".json").read_bytes()).hexdigest()
    return {
        "protocol": protocol,
        "root": str(root.resolve()),
        **({} if imagery is None else {"imagery": imagery}),
        LIST: items.digest,
        "method": method,
        "weights": f"{path.name}, sha256 with its card {digest[:16]}",
        "device": device,
        "version": __version__,
    }


def protocol_notes(protocol: str, frames: ItemFrames, localizer: Localizer, *, share: float) -> list[str]:
    """Return notes on a protocol, on frames left out, on times, and on truths farther off than the method searches.

    Args:
        protocol: its name.
        frames: those that were evaluated, for their priors and truths.
        localizer: the method.
        share: of the protocol's frames that were evaluated.

    """
    notes = [caveat_of(protocol)] if caveat_of(protocol) else []
    if _gives_heading(protocol):
        searched = np.degrees(max(BOX_FLOOR[1], BOX_SIGMAS * KNOWN_YAW))
        notes.append(
            f"The heading is given, but this method searches {searched:.0f}° to each side of it: its headings, and its "
            "positions with them, may be off where a method that keeps the given one is right."
        )
    if share < 1:
        own = protocol in ("bag", "pairs")
        of = "frames, spread evenly" if own else "protocol's frames, spread evenly: no figure for the literature"
        notes.append(f"{100 * share:.1f} % of the {of}.")
    if localizer.matcher.batch_size > 1:
        notes.append(
            f"Frames were matched {localizer.matcher.batch_size} at a time: a frame's time is its share, not a latency."
        )
    reach, turn = localizer.matcher.search_box
    pairs = zip(frames.prior, frames.truth, strict=True)
    off = np.abs([(prior.inverse() @ truth).vector() for prior, truth in pairs])  # along the prior's axes
    beyond = (off > np.array([reach, reach, turn]) + _ROUNDING).any(axis=1)
    if beyond.any():
        notes.append(
            f"The truth of {100 * beyond.mean():.1f} % of the frames is out of the method's reach: it searches "
            f"{reach:.0f} m along the prior's axes and {np.degrees(turn):.0f}° to each side, these are up to "
            f"{off[beyond, :2].max():.0f} m and {np.degrees(off[beyond, 2].max()):.0f}° off."
        )
    return notes


def _gives_heading(protocol: str) -> bool:
    """Whether the prior's heading is the true one: VIGOR's where it is aligned, and Oxford's."""
    return protocol.startswith("oxford") or (protocol.startswith("vigor") and not protocol.endswith("-unaligned"))
