"""What an evaluation's results depend on, and what a reader must know of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cvloc_ros import __version__
from cvloc_ros.datasets.item import Dataset, Item
from cvloc_ros.evaluation.item_frames import LIST
from cvloc_ros.evaluation.published import caveat_of
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.models.weights import SHIPPED


def identify(
    protocol: str, root: Path, items: Dataset, *, method: str, weights: str | None, device: str
) -> dict[str, str]:
    """Return what the answers of an evaluation depend on: of lists and weights, the content."""
    path = Path(weights) if weights else SHIPPED / f"{method}.safetensors"
    digest = hashlib.sha256(path.read_bytes() + path.with_suffix(".json").read_bytes()).hexdigest()
    return {
        "protocol": protocol,
        "root": str(root.resolve()),
        LIST: items.digest,
        "method": method,
        "weights": f"{path.name}, sha256 with its card {digest[:16]}",
        "device": device,
        "version": __version__,
    }


def protocol_notes(protocol: str, item: Item, localizer: Localizer, *, share: float) -> list[str]:
    """Return notes on a protocol, on priors that reach farther than the method searches, and on frames left out.

    Args:
        protocol: its name.
        item: one of its items, for its prior.
        localizer: the method.
        share: of the protocol's frames that were evaluated.

    """
    notes = [caveat_of(protocol)] if caveat_of(protocol) else []
    if share < 1:
        notes.append(f"{100 * share:.1f} % of the protocol's frames, spread evenly: no figure for the literature.")
    reach, turn = localizer.matcher.search_box
    variance = np.diag(item.prior.covariance)
    radius, yaw = np.sqrt(3 * variance[:2].max()), np.sqrt(3 * variance[2])  # of errors that are uniform in a box
    if radius > 1.01 * reach or yaw > 1.01 * turn:
        notes.append(
            f"The priors are off by up to {radius:.0f} m and {np.degrees(yaw):.0f}° to each side, the method searches "
            f"{reach:.0f} m and {np.degrees(turn):.0f}°: what lies beyond is out of its reach."
        )
    return notes
