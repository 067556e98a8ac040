"""Stopping and going on: a run's state in one file, and signals that stop it at the end of a step."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric


class Stopped(Exception):
    """A training was asked to stop, and has written its checkpoint; the message says how to go on."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopSignals:
    """While it is entered, SIGTERM and the first SIGINT are remembered instead of ending the process."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # somebody who presses twice does not want to wait for the step
        self.received = number


def leave_signals_to_parent(worker: int) -> None:
    """Let a rendering process live through signals to the whole group: its parent ends it after the step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class Checkpoint:
    """What a run goes on from: weights, averages, optimizer, loss scale and position.

    Everything random in a step comes from its number or with its samples (see `stream`), and so needs no state.
    """

    def __init__(self, path: Path, parts: dict[str, Any]):
        """Keep the states of ``parts`` in ``path``."""
        self.path, self.parts = path, parts

    def save(self, fabric: Fabric, seen: int) -> None:
        """Replace the file whole: an interruption leaves the old one. To be called in all processes."""
        state = {name: part.state_dict() for name, part in self.parts.items()} | {"seen": seen}
        if fabric.is_global_zero:
            temporary = self.path.with_suffix(".tmp")
            torch.save(state, temporary)
            temporary.replace(self.path)
        fabric.barrier()

    def load(self) -> int:
        """Restore the parts and return the samples seen.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is not of this kind of training.

        """
        if not self.path.exists():
            raise FileNotFoundError(f"expected a checkpoint to resume from at {self.path}: start without --resume")
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if missing := [name for name in (*self.parts, "seen") if name not in state]:
            raise ValueError(
                f"expected {', '.join(missing)} in {self.path}, got {', '.join(state)}: it was written by another "
                "version; start anew in another folder"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["seen"])
