"""Items in batches; the next items are read by a thread while a batch is matched."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
_END = object()


def in_batches(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """Cut items into lists of ``size``; the last may be shorter.

    With a size of 1 nothing is read ahead: what is matched alone has the processor to itself, as in driving.

    Raises:
        Exception: what reading an item raised, after the items before it.

    """
    batch: list[T] = []
    try:
        for item in _read_ahead(items, size) if size > 1 else items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _read_ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """Give items in their order, up to ``count`` of them read before they are asked for."""
    iterator = iter(items)
    reading: deque[Future[T | object]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read_ahead") as pool:
        try:
            while True:
                while len(reading) <= count:
                    reading.append(pool.submit(next, iterator, _END))
                item = reading.popleft().result()
                if item is _END:
                    return
                yield cast(T, item)
        finally:
            for each in reading:
                each.cancel()
