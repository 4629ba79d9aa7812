"""The gradients' statistics on disk: one line of pandas, and read back as they were measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distrain.gradients.measures import MEASURES, RankMoments, measures
from distrain.log.gradient_table import ALL, GradientTable, cut, distinct, read_ranks, read_variables
from distrain.log.parts import PartedTable
from tests.measured import NAMES, fill, moments, ranks


def _table(folder: Path, *spans: tuple[int, int]) -> None:
    for first, last in spans:
        table = GradientTable(folder, NAMES, "float32")
        fill(table, first, last)
        table.close()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pandas_opens_it_in_one_line(tmp_path: Path, dtype: str) -> None:
    table = GradientTable(tmp_path, NAMES, dtype)
    fill(table, 1, 12)
    table.close()
    frame = pd.read_parquet(tmp_path / "variables")
    assert list(frame.columns) == ["step", "epoch", "variable", *MEASURES]
    assert list(frame.variable.cat.categories) == [*NAMES, ALL]
    assert {str(frame[name].dtype) for name in MEASURES} == {dtype}
    assert list(frame.variable[frame.step == 11]) == [*NAMES, ALL]
    assert set(frame.epoch[frame.step == 11]) == {1}
    expected = measures(moments(11))
    for name in MEASURES:
        np.testing.assert_array_equal(frame[name][frame.step == 11], expected[name].astype(dtype))
    frame = pd.read_parquet(tmp_path / "ranks")
    assert list(frame.columns) == ["step", "epoch", "rank", "examples", "loss", "norm"]
    np.testing.assert_array_equal(frame.loss[frame.step == 3], ranks(3).losses.astype(dtype))
    assert list(frame["rank"][frame.step == 3]) == [0, 1]


def test_it_is_read_back_by_step_and_variable(tmp_path: Path) -> None:
    _table(tmp_path, (1, 7), (8, 12))
    history = read_variables(tmp_path, ("norm", "agreement"))
    assert history is not None
    assert list(history.steps) == list(range(1, 13))
    assert list(history.epochs) == [0] * 10 + [1] * 2
    assert history.names == list(NAMES)
    assert history.values.keys() == {"norm", "agreement"}
    for step, row in zip(history.steps, history.values["agreement"], strict=True):
        np.testing.assert_allclose(row, measures(moments(step))["agreement"], rtol=1e-6)
    seen = read_ranks(tmp_path)
    assert seen is not None
    assert seen.losses.shape == seen.norms.shape == seen.examples.shape == (12, 2)
    np.testing.assert_allclose(seen.norms[4], ranks(5).norms, rtol=1e-6)


@pytest.mark.parametrize("latest", [1, 5, 12, 50])
def test_the_newest_steps_alone(tmp_path: Path, latest: int) -> None:
    _table(tmp_path, (1, 12))
    for history in (read_variables(tmp_path, latest=latest), read_ranks(tmp_path, latest=latest)):
        assert history is not None
        assert list(history.steps) == list(range(max(1, 13 - latest), 13))


def test_a_rank_without_examples_is_absent_from_the_step(tmp_path: Path) -> None:
    table = GradientTable(tmp_path, NAMES, "float32")
    for step, present in ((1, [0, 1, 2]), (2, [0]), (3, [1, 2])):
        count = len(present)
        seen = RankMoments(np.array(present), np.full(count, 0.5), np.full(count, 2.0), np.full(count, 4))
        table.write(step, 0, measures(moments()), seen)
    table.close()
    history = read_ranks(tmp_path)
    assert history is not None
    assert list(history.ranks) == [0, 1, 2]
    assert np.isfinite(history.losses).tolist() == [[True] * 3, [True, False, False], [False, True, True]]


def test_after_a_kill_both_tables_are_cut_to_the_checkpoint(tmp_path: Path) -> None:
    _table(tmp_path, (1, 9))
    cut(tmp_path, 6)
    _table(tmp_path, (7, 12))
    _table(tmp_path / "whole", (1, 12))
    for name in ("variables", "ranks"):
        left, right = (pd.read_parquet(folder / name) for folder in (tmp_path, tmp_path / "whole"))
        pd.testing.assert_frame_equal(left, right)


def test_an_epochs_estimates_are_the_same_after_a_kill(tmp_path: Path) -> None:
    table = GradientTable(tmp_path / "whole", NAMES, "float32")
    fill(table, 1, 17)
    whole = table.estimates(1, 10)
    assert len(whole[0]) == 7
    # Known without a look at the disk, where nothing is yet.
    assert not (tmp_path / "whole").exists()
    assert whole[0][0] == np.float32(measures(moments(11))["signal"][-1])
    _table(tmp_path, (1, 14))
    cut(tmp_path, 13)
    table = GradientTable(tmp_path, NAMES, "float32")
    fill(table, 14, 17)
    for expected, seen in zip(whole, table.estimates(1, 10), strict=True):
        np.testing.assert_array_equal(seen, expected)
    assert len(GradientTable(tmp_path / "none", NAMES, "float32").estimates(0, 10)[0]) == 0


def test_tables_of_something_else_are_refused(tmp_path: Path) -> None:
    _table(tmp_path, (1, 2))
    PartedTable(tmp_path / "other" / "variables", rows=1).append(
        1, lambda: {"step": np.array([3]), "rank": np.array([0])}
    )
    with pytest.raises(OSError, match="no column"):
        read_variables(tmp_path / "other")
    part = next((tmp_path / "variables").glob("*.parquet"))
    frame = pd.read_parquet(part).iloc[1:]
    frame.to_parquet(part)
    with pytest.raises(OSError, match="expected a row for each of 4 variables"):
        read_variables(tmp_path)


def test_variables_of_one_name_are_told_apart() -> None:
    assert distinct(["a", "b", "a", "c", "a"]) == ["a (1)", "b", "a (2)", "c", "a (3)"]
