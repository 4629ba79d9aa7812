"""A rank that is not like the others is named, and none is where all are alike."""

from __future__ import annotations

import numpy as np
import pytest

from distrain.gradients.rank_comparison import SURE, Floats, Odd, odd_ranks

STEPS = 200


def _seen(
    size: int,
    seed: int,
    *,
    uneven: bool = False,
    loss: dict[int, float] | None = None,
    norm: dict[int, float] | None = None,
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Floats, Floats, Floats]:
    """Losses and norms that fall over time, skewed as losses are, times a factor for some ranks."""
    draw = np.random.default_rng(seed)
    examples = np.full((STEPS, size), 4.0)
    if uneven:
        examples[:, 0] = 5
    falling = np.exp(-2 * np.arange(STEPS) / STEPS)[:, None]
    losses, norms = (falling * draw.gamma(examples / 2, 2 / examples) for _ in range(2))
    for rank, factor in (loss or {}).items():
        losses[:, rank] *= factor
    for rank, factor in (norm or {}).items():
        norms[:, rank] *= factor
    return np.arange(size), losses, norms, examples


def _named(odd: list[Odd]) -> list[tuple[int, str]]:
    return [(one.rank, one.measure) for one in odd]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("uneven", [False, True])
def test_sound_ranks_are_not_named(size: int, uneven: bool) -> None:
    """300 runs, of which chance may name 0.3 at most."""
    assert sum(bool(odd_ranks(*_seen(size, seed, uneven=uneven))) for seed in range(300)) <= 2


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("measure", ["loss", "norm"])
def test_a_rank_that_is_worse_is_named_alone(size: int, measure: str) -> None:
    bad = size - 1
    factor = {bad: 2.0}
    odd = odd_ranks(*(_seen(size, 1, loss=factor) if measure == "loss" else _seen(size, 1, norm=factor)))
    assert _named(odd) == [(bad, measure)]
    assert odd[0].chance < SURE
    assert odd[0].ratio == pytest.approx(2, rel=0.15)
    assert odd[0].steps == STEPS
    assert f"rank {bad}: its {measure} is " in odd[0].text


def test_of_three_one_that_has_it_easy_is_named_and_of_two_the_other() -> None:
    assert _named(odd_ranks(*_seen(3, 1, loss={1: 0.3}))) == [(1, "loss")]
    assert _named(odd_ranks(*_seen(2, 1, loss={1: 0.3}))) == [(0, "loss")]


def test_a_rank_is_judged_by_how_much_it_differs_not_by_how_steadily() -> None:
    """Without noise all ranks differ from the mean of the others, at every step alike."""
    losses = np.tile([1.0, 1.0, 3.0], (STEPS, 1))
    assert _named(odd_ranks(np.arange(3), losses, losses, np.ones_like(losses))) == [(2, "loss")]


def test_two_bad_ones_of_six_are_both_named_the_worse_first() -> None:
    assert _named(odd_ranks(*_seen(6, 1, loss={2: 2.0, 4: 4.0}))) == [(4, "loss"), (2, "loss")]


def test_a_rank_that_is_named_for_its_loss_is_not_named_again() -> None:
    assert _named(odd_ranks(*_seen(2, 1, loss={1: 2.0}, norm={1: 2.0}))) == [(1, "loss")]
    assert _named(odd_ranks(*_seen(4, 1, loss={1: 2.0}, norm={1: 2.0, 3: 3.0}))) == [(1, "loss"), (3, "norm")]


def test_steps_of_few_are_not_enough() -> None:
    ranks, losses, norms, examples = _seen(2, 1, loss={1: 1000.0})
    assert odd_ranks(ranks, losses[:15], norms[:15], examples[:15]) == []
    assert _named(odd_ranks(ranks, losses[:25], norms[:25], examples[:25])) == [(1, "loss")]


def test_norms_of_unequal_shares_are_not_compared() -> None:
    """A smaller share has a larger norm by noise alone."""
    assert odd_ranks(*_seen(2, 1, uneven=True, norm={1: 2.0})) == []


def test_one_huge_step_names_nobody() -> None:
    ranks, losses, norms, examples = _seen(2, 3)
    losses[50, 1] = 1e9
    norms[50, 1] = 1e9
    assert odd_ranks(ranks, losses, norms, examples) == []


def test_absent_ranks_are_left_out() -> None:
    """As where ranks take turns, or a last batch is too small for all."""
    ranks, losses, norms, examples = _seen(4, 1, loss={2: 2.0})
    for values in (losses, norms, examples):
        values[::2, :2] = np.nan
        values[5] = np.nan
    assert _named(odd_ranks(ranks, losses, norms, examples)) == [(2, "loss")]
    nobody = np.full_like(losses, np.nan)
    assert odd_ranks(ranks, nobody, nobody, nobody) == []


def test_losses_of_zero_are_no_difference() -> None:
    zero = np.zeros((STEPS, 2))
    assert odd_ranks(np.arange(2), zero, zero, np.ones((STEPS, 2))) == []
