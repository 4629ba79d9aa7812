"""The models against what can be told without them: limits, sums by hand, random draws."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from distrain.bench.simulate import (
    Cluster,
    Failures,
    Link,
    Worker,
    agreement,
    exchange,
    fitted,
    halving,
    hierarchical,
    predict,
    ring,
)

LINK = Link(latency=2e-5, bandwidth=1e9)
SIZE = 1e8


@pytest.mark.parametrize("workers", [2, 8, 100, 1000])
def test_the_slowest_of_many_is_as_late_as_draws_say(workers: int) -> None:
    draw = random.Random(workers)
    drawn = statistics.mean(max(draw.gauss(1.0, 0.1) for _ in range(workers)) for _ in range(2000))
    assert Worker(1.0, 0.1).slowest_of(workers) == pytest.approx(drawn, abs=0.01)
    assert Worker(1.0, 0.1).slowest_of(1) == 1.0


@pytest.mark.parametrize(("workers", "room"), [(2, 2), (3, 2), (4, 2), (7, 3)])
def test_more_workers_than_cores_are_done_when_the_cores_are(workers: int, room: int) -> None:
    draw = random.Random(workers)
    steps = [[draw.gauss(1.0, 0.1) for _ in range(workers)] for _ in range(2000)]
    # Cores of which none rests while a worker has something left.
    drawn = statistics.mean(max(one) if workers <= room else sum(one) / room for one in steps)
    assert Worker(1.0, 0.1).crowded(workers, room).slowest_of(workers) == pytest.approx(drawn, abs=0.01)


def test_a_ring_of_two_sends_all_once_each_way() -> None:
    # Half of it out, half of it back.
    assert ring(SIZE, 2, LINK) == pytest.approx(2 * (2e-5 + 0.05))
    assert halving(SIZE, 2, LINK) == pytest.approx(2 * 2e-5 + 0.1)
    assert ring(SIZE, 1, LINK) == halving(SIZE, 1, LINK) == 0


def test_bytes_do_not_grow_with_the_workers_and_messages_do() -> None:
    free = Link(0.0, 1e9)
    assert ring(SIZE, 1000, free) == pytest.approx(2 * SIZE / 1e9, rel=2e-3)
    assert ring(0, 1024, LINK) == pytest.approx(2046 * 2e-5)
    assert halving(0, 1024, LINK) == pytest.approx(20 * 2e-5)


def test_within_hosts_it_is_faster() -> None:
    cluster = Cluster(Link(1e-6, 1e11), LINK, per_host=8)
    assert hierarchical(SIZE, 64, cluster) < ring(SIZE, 64, LINK)
    assert exchange(SIZE, 8, cluster) == min(ring(SIZE, 8, cluster.inside), halving(SIZE, 8, cluster.inside))
    assert exchange(SIZE, 1, cluster) == 0
    agreeing = Cluster(cluster.inside, LINK, per_host=8, agreeing=1e-3)
    assert exchange(SIZE, 64, agreeing) - exchange(SIZE, 64, cluster) == pytest.approx(6e-3)


def _goodput_by_draws(failures: Failures, workers: int, seed: int = 1) -> float:
    """The part of the time that is kept, by playing it."""
    draw = random.Random(seed)
    rate = workers / failures.between
    interval = failures.interval(workers)
    time, kept = 0.0, 0
    to_go, working = draw.expovariate(rate), True
    while kept < 4000:
        need = interval + failures.save if working else failures.restart
        if to_go < need:
            time, to_go, working = time + to_go, draw.expovariate(rate), False
            continue
        time, to_go = time + need, to_go - need
        kept += working
        working = True
    return kept * interval / time


@pytest.mark.parametrize(("workers", "every"), [(1, 600.0), (64, 600.0), (1000, 600.0), (1000, None)])
def test_goodput_is_what_comes_of_failures_at_random(workers: int, every: float | None) -> None:
    failures = Failures(between=1e6, restart=60.0, save=5.0, every=every)
    assert failures.goodput(workers) == pytest.approx(_goodput_by_draws(failures, workers), rel=0.03)


def test_the_best_interval_is_near_the_best() -> None:
    best = Failures(between=1e6, restart=60.0, save=5.0).goodput(512)
    for factor in (0.5, 2.0):
        interval = factor * Failures(1e6, 60.0, 5.0).interval(512)
        assert Failures(1e6, 60.0, 5.0, interval).goodput(512) < best


def test_a_run_that_never_comes_to_a_checkpoint_keeps_nothing() -> None:
    assert Failures(between=100.0, restart=60.0, save=5.0, every=600.0).goodput(4096) == 0
    assert Failures(between=180.0, restart=60.0, save=1.0).goodput(4096) == 0


def test_a_world_is_its_slowest_worker_and_the_exchange() -> None:
    worker, cluster = Worker(0.2, 0.01), Cluster(LINK, LINK)
    one, many = predict([1, 256], worker, SIZE, cluster)
    assert (one.step, one.exchange, one.efficiency, one.goodput) == (0.2, 0.0, 1.0, 1.0)
    assert many.step == pytest.approx(worker.slowest_of(256) + exchange(SIZE, 256, cluster))
    assert many.efficiency == pytest.approx(0.2 / many.step)


def test_an_exchange_of_nothing_is_the_agreement() -> None:
    # Two doublings: a fitted ring's six messages of no bytes are what they took.
    assert agreement(LINK, 4) * 2 == pytest.approx(ring(0, 4, LINK))


def test_a_link_is_found_again_from_the_times_of_a_ring() -> None:
    sizes = [4096.0, 65536.0, 1e6, 1e8]
    found = fitted(sizes, [ring(size, 4, LINK) for size in sizes], 4)
    assert math.isclose(found.latency, LINK.latency, rel_tol=1e-6)
    assert math.isclose(found.bandwidth, LINK.bandwidth, rel_tol=1e-6)
