"""frames.csv of an evaluation on a data set: a row for every frame, appended as it is done, so that work is resumed.

Whatever is reported is computed from the file's rows, so that a resumed evaluation and one in a single go agree: to the
digit where frames are matched one by one; where an interruption has cut a batch in two, to rounding, which in single
precision is less than 1 mm and 0.01 degrees.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.item import Dataset, Item
from cvloc_ros.evaluation.batches import in_batches
from cvloc_ros.evaluation.items import ItemResult, localize_items
from cvloc_ros.evaluation.metrics import PoseErrors
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.localizer import Localizer

LIST = "list"
"""Of an identity, the key of what tells one list of frames from another."""
_POSES = ("prior", "truth", "estimate", "blind")
_COVARIANCE = ("var_x", "cov_xy", "cov_x_yaw", "var_y", "cov_y_yaw", "var_yaw")  # m, m, rad; upper triangle
_ERRORS = ("position_error_m", "lateral_error_m", "longitudinal_error_m", "yaw_error_deg")
COLUMNS = (
    "index",
    "name",
    *(f"{pose}_{part}" for pose in _POSES for part in ("x", "y", "yaw_deg")),
    *_COVARIANCE,
    "quality",
    "accepted",
    "reason",
    *_ERRORS,
    "total_ms",
)


@dataclass(frozen=True, eq=False)
class ItemFrames:
    """What was found on N frames; poses are ``T_map_base`` in the item's map.

    Attributes:
        index: (N,) of the items in their data set.
        name: of each item.
        prior: where each search began.
        truth: where each vehicle was.
        estimate: what the method answered.
        blind: what it answered with the camera's image blanked.
        covariance: (N, 3, 3) of the estimates, over (x m, y m, yaw rad).
        quality: (N,) in [0, 1].
        accepted: (N,) bool.
        milliseconds: (N,) of the method; of a batch, a frame's share.

    """

    index: np.ndarray
    name: list[str]
    prior: list[SE2]
    truth: list[SE2]
    estimate: list[SE2]
    blind: list[SE2]
    covariance: np.ndarray
    quality: np.ndarray
    accepted: np.ndarray
    milliseconds: np.ndarray


def spread_over(total: int, count: int | None) -> list[int]:
    """Return ``count`` indices spread evenly over ``total``; all of them for None."""
    if count is None or count >= total:
        return list(range(total))
    return np.unique(np.linspace(0, total - 1, count).round().astype(int)).tolist()


def evaluate_items(
    localizer: Localizer,
    items: Dataset,
    folder: Path,
    *,
    indices: Sequence[int],
    identity: dict[str, str],
    batch_size: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
    say: Callable[[str], None] = lambda line: None,
) -> ItemFrames:
    """Localize items, with the camera's image and blind, and keep every answer in ``folder/frames.csv``.

    Args:
        localizer: matches; its satellite map is not used.
        items: a data set that was opened with the matcher's grid.
        folder: made if it is not there; frames that its file has already are not done again.
        indices: of the items to do.
        identity: what the answers depend on besides the items (protocol, weights, …), kept in ``folder/run.json``.
        batch_size: how many frames are matched together; None for what the matcher's device takes best.
        progress: is told how many of the items are done.
        say: is told if answers on another list of frames were there: they are set aside.

    Returns:
        The answers on these items, in their order.

    Raises:
        DatasetError: a file of an item is missing or wrong.
        ValueError: the folder holds the answers of another evaluation.

    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "frames.csv"
    _check_identity(folder / "run.json", identity, say)
    _drop_torn_line(path)
    done = {int(row["index"]) for row in _rows(path)} if path.exists() else set()
    todo = [index for index in indices if index not in done]
    finished = len(indices) - len(todo)
    progress(finished)
    if todo:
        new = not path.exists()
        batches = in_batches(((index, items[index]) for index in todo), batch_size or localizer.matcher.batch_size)
        with path.open("a", newline="") as file, closing(batches):
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            for batch in batches:
                writer.writerows(_localize(localizer, batch))
                file.flush()  # an interruption costs one batch
                finished += len(batch)
                progress(finished)
    return read_frames(path, indices)


def read_frames(path: Path, indices: Sequence[int]) -> ItemFrames:
    """Read the answers on some items from a frames.csv that has them."""
    by_index = {int(row["index"]): row for row in _rows(path)}
    rows = [by_index[index] for index in indices]
    covariance = np.empty((len(rows), 3, 3))
    upper = np.triu_indices(3)
    for matrix, row in zip(covariance, rows, strict=True):
        matrix[upper] = matrix.T[upper] = [float(row[name]) for name in _COVARIANCE]
    return ItemFrames(
        index=np.array(indices),
        name=[row["name"] for row in rows],
        **{pose: [_pose(row, pose) for row in rows] for pose in _POSES},
        covariance=covariance,
        quality=np.array([float(row["quality"]) for row in rows]),
        accepted=np.array([row["accepted"] == "1" for row in rows]),
        milliseconds=np.array([float(row["total_ms"]) for row in rows]),
    )


def _localize(localizer: Localizer, batch: list[tuple[int, Item]]) -> Iterator[dict[str, object]]:
    """Return the rows of items, which come with their indices."""
    items = [item for _, item in batch]
    seen, blind = (localize_items(localizer, items, blind=blind) for blind in (False, True))
    for (index, _), *results in zip(batch, seen, blind, strict=True):
        yield _row(index, *results)


def _row(index: int, seen: ItemResult, blind: ItemResult) -> dict[str, object]:
    found = seen.localization
    errors = PoseErrors.between([found.T_map_base], [seen.truth])
    poses = (found.prior.T_map_base, seen.truth, found.T_map_base, blind.localization.T_map_base)
    row: dict[str, object] = {"index": index, "name": seen.name}
    for name, pose in zip(_POSES, poses, strict=True):
        row |= {f"{name}_x": f"{pose.x:.5f}", f"{name}_y": f"{pose.y:.5f}"}
        row[f"{name}_yaw_deg"] = f"{np.degrees(pose.yaw):.5f}"
    upper = found.covariance[np.triu_indices(3)]
    row |= {name: f"{value:.6g}" for name, value in zip(_COVARIANCE, upper, strict=True)}
    row |= {"quality": f"{found.quality:.4f}", "accepted": int(found.accepted), "reason": found.reason}
    values = (errors.position[0], errors.lateral[0], errors.longitudinal[0], np.degrees(errors.yaw[0]))
    row |= {name: f"{value:.4f}" for name, value in zip(_ERRORS, values, strict=True)}
    return row | {"total_ms": f"{found.milliseconds.get('total', 0.0):.2f}"}


def _pose(row: dict[str, str], name: str) -> SE2:
    return SE2(float(row[f"{name}_x"]), float(row[f"{name}_y"]), float(np.radians(float(row[f"{name}_yaw_deg"]))))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"expected the columns of this version in {path}: remove it, or choose another --out")
        return list(reader)


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that an interruption has left without its end."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if not whole:
        path.unlink()
    elif len(whole) < len(data):
        path.write_bytes(whole)


def _check_identity(path: Path, identity: dict[str, str], say: Callable[[str], None]) -> None:
    before = json.loads(path.read_text()) if path.exists() else identity
    if before != identity and before | {LIST: identity.get(LIST)} == identity:
        answers, aside = path.with_name("frames.csv"), path.with_name("frames_before.csv")
        if answers.exists():
            answers.replace(aside)
            say(f"the list of frames is another one than before: all are done anew; the answers so far are in {aside}")
        before = identity
    if before == identity:
        path.write_text(json.dumps(identity, indent=1) + "\n")
    else:
        differing = ", ".join(
            f"{key}: {before.get(key)} before, {identity.get(key)} now"
            for key in sorted(before.keys() | identity.keys())
            if before.get(key) != identity.get(key)
        )
        raise ValueError(
            f"{path.parent} holds the results of another evaluation ({differing}): choose another --out, or remove it"
        )
