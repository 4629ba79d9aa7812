"""What tests of several packages share; no TensorFlow here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from distrain.data.provider import Example, ExampleSpec
from distrain.errors import BadInput
from distrain.job.load import check_job
from distrain.job.schema import Job
from distrain.world.control import BytesControl, Control
from distrain.world.topology import World

T = TypeVar("T")


def make_job(**sections: Any) -> Job:
    """A job of circles with these sections."""
    return check_job({"data": {"train": {"provider": "circles"}}, **sections}, source="test")


class Numbered:
    """Examples that tell their index: an image full of it, its label the index modulo 3; some cannot be read."""

    def __init__(self, examples: int, unreadable: tuple[int, ...] = ()) -> None:
        self.spec = ExampleSpec((4, 4, 1), (), 3)
        self._examples = examples
        self._unreadable = unreadable

    def __len__(self) -> int:
        return self._examples

    def read(self, index: int) -> Example:
        if index in self._unreadable:
            raise BadInput(f"picture_{index}.png: broken")
        return Example(np.full((4, 4, 1), index, np.float32), np.asarray(index % 3, np.int32))


class Reading:
    """A provider of the user's own that gives what it was made with, whatever that is."""

    def __init__(self, example: Any, examples: int = 3) -> None:
        self.spec = ExampleSpec((4, 4, 1), (), 3)
        self._example = example
        self._examples = examples

    def __len__(self) -> int:
        return self._examples

    def read(self, index: int) -> Any:
        return self._example


def reading(image: Any = 0.0, label: Any = 1, shape: tuple[int, ...] = (4, 4, 1), examples: int = 3) -> Reading:
    return Reading((np.full(shape, image), label), examples)


def reading_text() -> Reading:
    return Reading("no pair")


class SpecAlone:
    """Half a provider."""

    spec = ExampleSpec((4, 4, 1), (), 3)


def choosy(colour: str) -> Numbered:
    raise ValueError(f"no {colour}\n today")


def in_world(size: int, action: Callable[[World, Control], T]) -> list[Future[T]]:
    """Run `action` for each rank of a world of threads, until all have ended; in rank order."""
    slots = [b""] * size
    barrier = threading.Barrier(size, timeout=30)

    def gather_for(rank: int) -> Callable[[bytes], list[bytes]]:
        def gather(data: bytes) -> list[bytes]:
            slots[rank] = data
            barrier.wait()
            seen = list(slots)
            barrier.wait()
            return seen

        return gather

    with ThreadPoolExecutor(size) as executor:
        return [
            executor.submit(action, World(rank, size, rank, size, "gloo"), BytesControl(gather_for(rank)))
            for rank in range(size)
        ]
