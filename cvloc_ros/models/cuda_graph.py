"""Functions on a GPU, recorded as CUDA graphs: a thousand small kernels are launched in one call."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
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
            choose: let cuDNN time its kernels for large convolutions: its own guess can be ten times slower.

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
        kind = tuple(None if torch.is_tensor(leaf) else leaf for leaf in leaves)
        if kind not in self._recorded:
            self._recorded[kind] = _Recorded(
                lambda leaves: self._function(*tree_unflatten(leaves, structure), *fixed), leaves, choose=self._choose
            )
        return self._recorded[kind](leaves)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose small kernels torch.compile joins into few; as it is where that does not work.

    The first call takes some seconds, or as many tens of them where nothing is in the compiler's cache.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None or importlib.util.find_spec("triton") is None:
        return function
    chosen = [torch.compile(function, dynamic=False, fullgraph=True)]

    def call(*given: Any) -> Any:
        try:
            return chosen[0](*given)
        except Exception as error:  # whatever a compiler may say: the function itself needs none
            if chosen[0] is function:
                raise
            chosen[0] = function
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"torch.compile failed, the network takes a few milliseconds more: {reason}", stacklevel=2)
            return function(*given)

    return call


class _Recorded:
    """What a function launches, with the memory that it reads and writes."""

    def __init__(self, function: Callable[[list], Any], given: list, *, choose: bool):
        own = [leaf.clone() if torch.is_tensor(leaf) else leaf for leaf in given]
        self._inputs = [leaf for leaf in own if torch.is_tensor(leaf)]
        beside, usual = torch.cuda.Stream(), torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = choose
        try:
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UP):
                    function(own)
            torch.cuda.current_stream().wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads may use the GPU
                self._outputs = function(own)
        finally:
            torch.backends.cudnn.benchmark = usual

    def __call__(self, given: list) -> Any:
        torch._foreach_copy_(self._inputs, [leaf for leaf in given if torch.is_tensor(leaf)])
        self._graph.replay()
        return self._outputs
