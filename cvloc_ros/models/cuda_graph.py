"""Functions on a GPU, recorded as CUDA graphs: a thousand small kernels are launched in one call."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

_COMPILERS = ("cc", "gcc", "clang")  # one of them builds what launches Triton's kernels
_WARM_UP = 3  # calls in which libraries choose their kernels and take what memory they need


class Recorder:
    """Calls a function; it records what that launches on a GPU, and replays it when the function is called alike.

    The function must do the same work whatever its tensors hold, and wait for nothing. What a recording returns is
    overwritten by the next call.

    Attributes:
        record: whether it records.

    """

    def __init__(self, function: Callable[..., Any], *, record: bool, choose: bool = False):
        """Take a function.

        Args:
            function: any.
            record: it runs on a GPU; else it is only called.
            choose: let cuDNN time its kernels for large convolutions: its first choice can be poor.

        """
        self._function, self.record, self._choose = function, record, choose
        self._fixed: tuple[Tensor, ...] = ()
        self._recorded: dict[tuple, _Recorded] = {}

    def __call__(self, *given: Any, fixed: tuple[Tensor, ...] = ()) -> Any:
        """Call the function with ``given``, then ``fixed``.

        Args:
            given: tensors, or (named) tuples, lists and dictionaries of them, of the same shapes in every call. What
                else is in them is part of what is recorded, for which there is a recording of each kind.
            fixed: tensors that recordings hold on to: they serve for as long as these are the same objects. Of new
                ones nothing is recorded before they come a second time: they may be others in every call.

        """
        if not self.record:
            return self._function(*given, *fixed)
        if len(fixed) != len(self._fixed) or any(a is not b for a, b in zip(fixed, self._fixed, strict=True)):
            self._fixed = fixed
            self._recorded.clear()
            return self._function(*given, *fixed)
        leaves, structure = tree_flatten(given)
        kind = tuple((leaf.shape, leaf.dtype) if torch.is_tensor(leaf) else leaf for leaf in leaves)
        if kind not in self._recorded:

            def alike(leaves: list) -> Any:
                return self._function(*tree_unflatten(leaves, structure), *fixed)

            try:
                self._recorded[kind] = _Recorded(alike, leaves, choose=self._choose)
            except RuntimeError as error:  # out of memory, or something that cannot be recorded
                self.record = False
                self._recorded.clear()
                _warn("the GPU is given its work piece by piece, which takes longer", error)
                return self._function(*given, *fixed)
        return self._recorded[kind](leaves)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose small kernels torch.compile joins into few; as it is where that does not work.

    The first call takes some seconds, or some ten where nothing is in the compiler's cache.
    """
    if not _can_compile():
        return function
    chosen: Callable[..., Any] | None = None

    def call(*given: Any) -> Any:
        nonlocal chosen
        try:
            chosen = chosen or torch.compile(function, dynamic=False, fullgraph=True)
            return chosen(*given)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may say: the function itself needs none
            if chosen is function:
                raise
            chosen = function
            _warn("torch.compile failed, so that a frame takes some milliseconds more", error)
            return function(*given)

    return call


def compile_method(module: nn.Module, name: str) -> None:
    """Put what `compiled` makes of a module's method in its place; copies of the module call it with themselves."""
    method = compiled(getattr(type(module), name))
    setattr(module, name, MethodType(method, module))


def _can_compile() -> bool:
    """Return whether what torch.compile needs for a GPU is there."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)
    return compiler is not None and importlib.util.find_spec("triton") is not None


def _warn(consequence: str, error: Exception) -> None:
    reason, *_ = str(error).strip().split("\n")
    warnings.warn(f"{consequence}: {reason}", stacklevel=3)


class _Recorded:
    """What a function launches, with the memory that it reads and writes."""

    def __init__(self, function: Callable[[list], Any], given: list, *, choose: bool):
        own = [leaf.clone() if torch.is_tensor(leaf) else leaf for leaf in given]
        self._inputs = [leaf for leaf in own if torch.is_tensor(leaf)]
        self._device = self._inputs[0].device
        self._graph = torch.cuda.CUDAGraph()
        usual = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = usual or choose
        try:
            with torch.cuda.device(self._device):
                self._record(function, own)
        finally:
            torch.backends.cudnn.benchmark = usual

    def _record(self, function: Callable[[list], Any], own: list) -> None:
        before, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(before)
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                function(own)
        before.wait_stream(beside)
        try:
            # other threads may use the GPU meanwhile
            with torch.cuda.graph(self._graph, stream=beside, capture_error_mode="thread_local"):
                self._outputs = function(own)
        finally:
            torch.cuda.set_stream(before)  # a recording that failed stays on its own

    def __call__(self, given: list) -> Any:
        with torch.cuda.device(self._device):
            torch._foreach_copy_(self._inputs, [leaf for leaf in given if torch.is_tensor(leaf)])
            self._graph.replay()
        return self._outputs
