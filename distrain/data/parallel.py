"""Many calls by a few threads, their results in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(action: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """`action` of each item, in the items' order; at most a few more than `threads` are begun before they are asked
    for. What an action raises is raised in its place. Without threads each is done when it is asked for.
    """
    if threads == 0:
        yield from map(action, items)
        return
    waiting: deque[Future[R]] = deque()
    executor = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(executor.submit(action, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
