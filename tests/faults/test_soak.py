"""What `make soak` takes for a proof."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.faults.harness import Bench, Case
from tests.faults.soak import ALONE, befall, shortcomings

FAULTS = Counter({"worker killed": 10, "before the rename": 10})


def test_all_struck_and_equal_is_a_proof() -> None:
    assert shortcomings(FAULTS, FAULTS, FAULTS) == []


@pytest.mark.parametrize(
    ("struck", "equal", "words"),
    [
        ({}, FAULTS, "0 of 20 cases were struck"),
        ({"worker killed": 10, "before the rename": 7}, FAULTS, "17 of 20 cases were struck"),
        ({"worker killed": 10, "before the rename": 4}, FAULTS, "4 of 10 cases of 'before the rename' were struck"),
        (FAULTS, {"worker killed": 9, "before the rename": 10}, "1 of 20 cases did not end equal"),
    ],
)
def test_runs_that_nothing_befell_prove_nothing(struck: dict[str, int], equal: dict[str, int], words: str) -> None:
    assert words in "\n".join(shortcomings(FAULTS, Counter(struck), Counter(equal)))


def test_no_cases_are_no_proof() -> None:
    assert shortcomings(Counter(), Counter(), Counter()) == ["no cases were run"]


def test_a_fault_that_misses_is_tried_at_other_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    seeds: list[int] = []

    def trouble(case: Case, run: Path) -> list[int]:
        seeds.append(case.seed)
        return [0 if len(seeds) < 3 else -9]

    monkeypatch.setattr(bench, "trouble", trouble)
    assert befall(bench, Case("worker killed", ALONE, 5), tmp_path / "run") == ([-9], True)
    assert len(set(seeds)) == 3
    assert befall(bench, Case("twice in a row", ALONE, 5), tmp_path / "run") == ([-9], True)
    # What is struck by a touch of a file leaves its mark, whatever its exit code.
    assert befall(bench, Case("before the rename", ALONE, 5), tmp_path / "run") == ([-9], False)
