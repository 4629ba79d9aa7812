"""Each rank's report has a place of its own, in turns where there are more ranks than places."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from distrain.gradients.statistics import Contribution
from distrain.step.rank_reports import PLACES, read, report, turn_of
from distrain.world.topology import World


def _sum(size: int, steps: int, *, bad: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """What the allreduce gives to all: rank r has r + 1 examples, each of loss 2 r, and gradients of norm r."""
    turn = turn_of(tf.constant(steps, tf.int64), size)
    total = tf.zeros([min(size, PLACES), 3])
    for rank in range(size):
        examples = tf.constant(rank + 1.0)
        loss_sum = tf.constant(np.nan) if rank == bad else 2.0 * rank * examples
        own = Contribution(tf.stack([0.25 * rank**2 * examples, 0.75 * rank**2 * examples]), tf.constant(1.0))
        total += report(loss_sum, examples, own, turn, World(rank, size))
    return total, turn


@pytest.mark.parametrize("size", [2, 3, PLACES])
def test_all_report_in_each_step(size: int) -> None:
    for steps in range(3):
        told = read(*_sum(size, steps))
        numbers = np.arange(size)
        assert told.ranks.tolist() == numbers.tolist()
        assert told.examples.tolist() == (numbers + 1).tolist()
        np.testing.assert_allclose(told.losses, 2 * numbers)
        np.testing.assert_allclose(told.norms, numbers, rtol=1e-6)


def test_in_larger_worlds_all_report_within_as_many_steps_as_there_are_turns() -> None:
    size = 2 * PLACES + 5
    seen = [read(*_sum(size, steps)) for steps in range(3)]
    assert [told.ranks.tolist() for told in seen] == [
        list(range(PLACES)),
        list(range(PLACES, 2 * PLACES)),
        list(range(2 * PLACES, size)),
    ]
    np.testing.assert_allclose(seen[2].losses, 2 * np.arange(2 * PLACES, size))


def test_a_loss_that_is_not_finite_is_told_of_its_own_rank_alone() -> None:
    told = read(*_sum(2 * PLACES, 0, bad=PLACES + 3))
    assert np.isfinite(told.losses).all()
    told = read(*_sum(2 * PLACES, 1, bad=PLACES + 3))
    assert np.flatnonzero(np.isnan(told.losses)).tolist() == [3]


def test_ranks_without_examples_are_left_out() -> None:
    reports = tf.constant([[6.0, 3.0, 12.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    told = read(reports, tf.constant(0, tf.int64))
    assert (told.ranks.tolist(), told.examples.tolist()) == ([0, 2], [3, 1])
    assert (told.losses.tolist(), told.norms.tolist()) == ([2, 1], [2, 1])
