"""Coordinate frames as TF messages describe them: the newest transform of every frame to its parent, without ROS."""

from __future__ import annotations

from typing import Any

import numpy as np

from cvloc_ros.datasets.message_reading import frame_name, transform_matrix


class MissingTransform(LookupError):
    """Two frames are not connected; the text says what each of them hangs from."""


class TransformTree:
    """Transforms by child frame. One thread may update it while others look up."""

    def __init__(self) -> None:
        """Start with no frame."""
        self._edges: dict[str, tuple[str, np.ndarray, bool]] = {}  # child -> (parent, T_parent_child, is static)

    def __contains__(self, child: str) -> bool:
        """Whether the transform of a frame to its parent is known."""
        return frame_name(child) in self._edges

    def update(self, transform: Any, *, static: bool) -> None:
        """Take in one TransformStamped.

        Raises:
            ConversionError: it is no rigid motion.

        """
        T = transform_matrix(transform.transform.translation, transform.transform.rotation)
        self._edges[frame_name(transform.child_frame_id)] = (frame_name(transform.header.frame_id), T, static)

    @property
    def frames(self) -> list[str]:
        """All frames that occur, sorted."""
        edges = dict(self._edges)
        return sorted({*edges, *(parent for parent, _, _ in edges.values())})

    def lookup(self, target: str, source: str) -> np.ndarray:
        """Return ``T_target_source`` (4x4) through any chain of frames.

        Raises:
            MissingTransform: they are not connected.

        """
        target, source = frame_name(target), frame_name(source)
        to_target, to_source = self._chain(target), self._chain(source)
        common = next((frame for frame in to_source if frame in to_target), None)
        if common is None:
            ends = " and ".join(
                f"'{frame}'" + (f" (which hangs from '{list(chain)[-1]}')" if len(chain) > 1 else "")
                for frame, chain in ((source, to_source), (target, to_target))
            )
            raise MissingTransform(f"no transform connects {ends}; known frames: {', '.join(self.frames) or 'none'}")
        return np.linalg.inv(to_target[common]) @ to_source[common]

    def clear_moving(self) -> None:
        """Forget all transforms that are not static."""
        self._edges = {child: edge for child, edge in self._edges.items() if edge[2]}

    def _chain(self, frame: str) -> dict[str, np.ndarray]:
        """Return ``T_ancestor_frame`` of a frame itself and of all frames above it, nearest first."""
        T = np.eye(4)
        chain = {frame: T}
        edges = self._edges  # clear_moving, in another thread, puts a new dictionary in its place
        while frame in edges:
            frame, T_parent_child, _ = edges[frame]
            if frame in chain:
                break  # a loop: whoever published it has bigger problems, but we must end
            T = T_parent_child @ T
            chain[frame] = T
        return chain
