"""Which variables need attention: each rule by a variable that breaks it, and a healthy one that breaks none."""

from __future__ import annotations

import numpy as np
import pytest

from distrain.gradients.attention import FEWEST, RULES, Floats, findings, order, typical

STEPS = 50
HEALTHY = {"norm": 1.0, "update_ratio": 1e-3, "alignment": 0.3, "snr": 0.5}


def _recent(*variables: dict[str, float]) -> dict[str, Floats]:
    """[STEPS, variables] of each measure, with a little noise where it is not zero."""
    spread = np.random.default_rng(0).uniform(0.9, 1.1, (STEPS, 1))
    return {name: spread * np.array([[{**HEALTHY, **one}[name] for one in variables]]) for name in HEALTHY}


def _rules(recent: dict[str, Floats], before: Floats | None = None) -> list[list[str]]:
    earlier = np.ones((100, recent["norm"].shape[1])) if before is None else before
    return [[one.rule for one in found] for found in findings(recent, earlier)]


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({}, []),
        ({"norm": 0.0, "update_ratio": 0.0, "alignment": np.nan, "snr": np.nan}, ["dead"]),
        ({"norm": 20.0}, ["exploding"]),
        ({"norm": 5.0}, []),
        ({"norm": 1e-4}, []),
        ({"update_ratio": 0.5}, ["moving fast"]),
        ({"update_ratio": np.inf}, []),
        ({"update_ratio": 1e-8}, ["hardly moving"]),
        ({"update_ratio": 0.0}, ["hardly moving"]),
        ({"alignment": -0.6}, ["turning back"]),
        ({"alignment": np.nan, "snr": np.nan, "update_ratio": np.nan}, []),
        ({"snr": 0.0}, ["no signal"]),
        ({"norm": 20.0, "snr": 0.001}, ["exploding", "no signal"]),
    ],
)
def test_rules(change: dict[str, float], rules: list[str]) -> None:
    assert _rules(_recent({}, change)) == [[], rules]


def test_one_odd_step_is_no_finding() -> None:
    recent = _recent({})
    for values in recent.values():
        values[7] = 1e6
    recent["alignment"][7] = -1.0
    recent["alignment"][9], recent["snr"][9] = -1.0, -1e6
    assert _rules(recent) == [[]]


def test_a_cosine_of_one_dimension_that_is_now_1_and_now_minus_1_turns_nowhere() -> None:
    recent = _recent({})
    recent["alignment"][:, 0] = np.where(np.arange(STEPS) % 20 < 8, 1.0, -1.0)  # its median is -1, its mean about 0
    assert _rules(recent) == [[]]
    recent["alignment"][:, 0] = np.where(np.arange(STEPS) % 20 < 5, 1.0, -1.0)
    assert _rules(recent) == [["turning back"]]


def test_one_step_with_a_gradient_is_not_dead() -> None:
    recent = _recent({"norm": 0.0})
    recent["norm"][3] = 1e-9
    assert _rules(recent) == [[]]


def test_nothing_explodes_against_too_few_steps_or_none() -> None:
    recent = _recent({"norm": 1e6})
    assert _rules(recent, np.ones((FEWEST - 1, 1))) == [[]]
    assert _rules(recent, np.ones((0, 1))) == [[]]
    assert _rules(recent, np.zeros((FEWEST, 1))) == [[]]
    assert _rules(recent, np.ones((FEWEST, 1))) == [["exploding"]]


def test_the_gravest_comes_first_and_the_sound_last_in_the_models_order() -> None:
    breaking = [{"snr": 0.0}, {}, {"update_ratio": 0.5}, {"norm": 0.0}, {}, {"norm": 30.0, "snr": 0.0}, {"norm": 30.0}]
    found = findings(_recent(*breaking), np.ones((100, len(breaking))))
    assert order(found) == [3, 5, 6, 2, 0, 1, 4]
    assert {one.rule for each in found for one in each} <= set(RULES)


def test_texts_tell_the_number() -> None:
    (found,) = findings(_recent({"norm": 20.0, "update_ratio": 0.25}), np.ones((100, 1)))
    assert [one.text for one in found] == ["norm 20 times that of before", "a step changes it by 0.25 of its norm"]


def test_the_typical_value_leaves_out_what_cannot_be_told() -> None:
    values = np.array([[1.0, np.nan, np.inf], [3.0, np.nan, 2.0], [np.nan, np.nan, 1.0]])
    np.testing.assert_array_equal(typical(values), [2.0, np.nan, 2.0])
