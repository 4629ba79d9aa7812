"""A step over worlds that are not here: what bench has measured, continued by models of exchange, stragglers, failures.

Pure functions of numbers. The models are simple, and their errors are those of what they are fed with: figures of a
machine's own memory say little about a network, so that latency and bandwidth of the network in question are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

STANDARD = NormalDist()


@dataclass(frozen=True)
class Worker:
    """One worker's step without the others: its mean `seconds`, and the standard deviation from step to step."""

    seconds: float
    deviation: float

    def slowest_of(self, workers: int) -> float:
        """The mean of the slowest of so many, each step anew, by Blom's approximation for normal variables.

        G. Blom, "Statistical Estimates and Transformed Beta-Variables", 1958.
        """
        if workers == 1:
            return self.seconds
        return self.seconds + self.deviation * STANDARD.inv_cdf((workers - 0.375) / (workers + 0.25))

    def crowded(self, workers: int, room: int) -> Worker:
        """Each of so many workers on cores for `room` of them: what there is to do, spread over these cores.

        A core that has nothing left takes over from another, so that all end together when all is done: the sum of
        independent steps over the cores.
        """
        if workers <= room:
            return self
        return Worker(self.seconds * workers / room, 0.0)


@dataclass(frozen=True)
class Link:
    """What a message between two workers takes: `latency` in seconds, `bandwidth` in bytes a second."""

    latency: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        """The time of a message of so many bytes."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Cluster:
    """`per_host` workers share a host, by `inside`; hosts are connected by `between`.

    `agreeing` is what workers take to agree that all are ready to reduce: seconds for each doubling of their number.
    """

    inside: Link
    between: Link
    per_host: int = 1
    agreeing: float = 0.0


def ring(size: float, workers: int, link: Link) -> float:
    """An allreduce of `size` bytes around a ring: each sends a part of 1/N to the next, 2 (N - 1) times.

    P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
    """
    return 2 * (workers - 1) * link.seconds(size / workers) if workers > 1 else 0.0


def halving(size: float, workers: int, link: Link) -> float:
    """The same by recursive halving and doubling: 2 log2(N) messages, as many bytes.

    R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.
    """
    if workers == 1:
        return 0.0
    return 2 * math.ceil(math.log2(workers)) * link.latency + 2 * size * (workers - 1) / workers / link.bandwidth


def hierarchical(size: float, workers: int, cluster: Cluster) -> float:
    """The same in three steps: within each host, between one worker of each, and back."""
    hosts = math.ceil(workers / cluster.per_host)
    here = min(workers, cluster.per_host)
    within = ring(size, here, cluster.inside)
    return within + min(ring(size, hosts, cluster.between), halving(size, hosts, cluster.between))


def exchange(size: float, workers: int, cluster: Cluster) -> float:
    """The best of these, after all have agreed that they are ready."""
    if workers == 1:
        return 0.0
    link = cluster.inside if workers <= cluster.per_host else cluster.between
    best = min(ring(size, workers, link), halving(size, workers, link), hierarchical(size, workers, cluster))
    return cluster.agreeing * math.ceil(math.log2(workers)) + best


@dataclass(frozen=True)
class Failures:
    """How often a worker is lost, what it costs: seconds between failures of one worker, to restart, and of a save.

    `every` is how long training goes on between two checkpoints; None: as long as is best.
    """

    between: float
    restart: float
    save: float
    every: float | None = None

    def interval(self, workers: int) -> float:
        """Between two checkpoints; the best by J. W. Young, "A first order approximation ...", 1974."""
        return self.every if self.every is not None else math.sqrt(2 * self.save * self.between / workers)

    def goodput(self, workers: int) -> float:
        """The part of the time that ends in steps that are kept.

        J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006, equation 20:
        failures come at random, also while a checkpoint is written or the run restarts.
        """
        between, interval = self.between / workers, self.interval(workers)
        exponent = (interval + self.save) / between
        if exponent + self.restart / between > 500:
            return 0.0  # never comes to a checkpoint
        return interval / (between * math.exp(self.restart / between) * math.expm1(exponent))


@dataclass(frozen=True)
class Prediction:
    """A world of so many workers: seconds of a step, and what of one worker's speed each of them keeps.

    `efficiency` is without failures, `goodput` the part of the time that they leave.
    """

    workers: int
    step: float
    exchange: float
    efficiency: float
    goodput: float


def predict(
    counts: Iterable[int], worker: Worker, gradients: float, cluster: Cluster, failures: Failures | None = None
) -> list[Prediction]:
    """A step of weak scaling in each world: each worker's own batch, and `gradients` bytes to be summed over all."""
    found = []
    for workers in counts:
        exchanging = exchange(gradients, workers, cluster)
        step = worker.slowest_of(workers) + exchanging
        kept = 1.0 if failures is None else failures.goodput(workers)
        found.append(Prediction(workers, step, exchanging, worker.seconds / step, kept))
    return found


def fitted(sizes: Sequence[float], seconds: Sequence[float], workers: int) -> Link:
    """The link for which a ring of `workers` takes about so long for these sizes, by least relative squares.

    A ring's time is a line in the size: 2 (N - 1) latency + 2 (N - 1)/N size / bandwidth.
    """
    weights = [1 / value**2 for value in seconds]
    total = sum(weights)
    mean_size = sum(weight * size for weight, size in zip(weights, sizes, strict=True)) / total
    mean_time = sum(weight * value for weight, value in zip(weights, seconds, strict=True)) / total
    spread = sum(weight * (size - mean_size) ** 2 for weight, size in zip(weights, sizes, strict=True))
    both = zip(weights, sizes, seconds, strict=True)
    slope = sum(weight * (size - mean_size) * (value - mean_time) for weight, size, value in both) / spread
    start = max(0.0, mean_time - slope * mean_size)
    return Link(start / (2 * (workers - 1)), 2 * (workers - 1) / workers / slope)


def agreement(link: Link, workers: int) -> float:
    """What an exchange of nothing takes of `workers` by a `link` that was fitted to a ring of them.

    Horovod's agreement that all are ready, for each doubling of the workers, in seconds.
    """
    return 2 * (workers - 1) * link.latency / (workers - 1).bit_length()
