"""Before a world is started on other hosts: they are waited for, and it is seen by which network they are reached."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import psutil

from distrain.errors import BadInput
from distrain.launcher.command import World, parse_hosts
from distrain.launcher.discover import discovered
from distrain.launcher.hosts import Answer, common_interface, wait_for


def hosts_of(world: World) -> list[str]:
    """The hosts of a world, as they are named now."""
    if world.elastic is not None:
        assert world.discover is not None
        return discovered(world.discover)
    return [] if world.hosts is None else [host for host, _ in parse_hosts(world.hosts)]


class AskedToStop(Exception):
    """A signal came before anything was started."""


@dataclass(frozen=True)
class ReachedBy:
    """How the hosts of a world reach each other; `seconds` is what they have to answer."""

    world: World
    seconds: float

    def supposed(self) -> World:
        """The world with the interface that it would have if all hosts answered; asks none of them."""
        if not self._matters:
            return self.world
        own = tuple(psutil.net_if_addrs())
        return replace(self.world, interface=common_interface({host: Answer(own) for host in hosts_of(self.world)}))

    def seen(self) -> World:
        """The world with its interface, once all hosts have answered. Raises `BadInput` where they do not."""
        if self.world.local or (self.world.slurm and self.world.controller == "mpi"):
            return self.world
        least = None if self.world.elastic is None else -(-self.world.count // self.world.slots_per_host)
        with _signals_raise():
            answers = wait_for(self._named, self.seconds, least=least)
        return replace(self.world, interface=common_interface(answers)) if self._matters else self.world

    @property
    def _matters(self) -> bool:
        return not self.world.local and not self.world.slurm and self.world.interface is None

    def _named(self) -> list[str]:
        try:
            return hosts_of(self.world)
        except BadInput:
            if self.world.elastic is None:
                raise
            return []  # none yet


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Have the signals that ask to stop raise `AskedToStop`; a container's first process would not see them else."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise AskedToStop

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
