"""The replica state: written and read back bit for bit, refused where it is of another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distrain.checkpoint.state import ReplicaState, Snapshot, sha256, write
from distrain.errors import BadInput
from distrain.gradients.statistics import GradientStatistics
from tests.small_models import make_trained

GROUPS = ("weights", "optimizer", "gradient_mean")


def _state(model: str = "batch_norm", *, seed: int = 0, mean: bool = True, precision: str = "float32") -> ReplicaState:
    trained = make_trained(model, seed=seed, precision=precision)
    return ReplicaState(trained, GradientStatistics(trained.trainable()) if mean else None)


def _disturb(state: ReplicaState) -> None:
    """Values of their own in every variable, NaN, infinity and a denormal number among them."""
    random = np.random.default_rng(5)
    for variable in state.variables.values():
        values = np.asarray(random.integers(1, 2**40, variable.shape)) / (1 if variable.dtype.is_integer else 3e13)
        values = values.astype(variable.dtype.as_numpy_dtype)
        if values.size > 4 and variable.dtype.is_floating:
            values.flat[:4] = [np.nan, -np.inf, 1e-40, -0.0]
        variable.assign(values)


def _bits(state: ReplicaState) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.arrays().items()}


@pytest.mark.parametrize("precision", ["float32", "float64", "mixed_float16"])
def test_what_was_written_is_restored_bit_for_bit(tmp_path: Path, precision: str) -> None:
    state = _state(precision=precision)
    _disturb(state)
    write(state.arrays(), tmp_path)
    other = _state(seed=1, precision=precision)
    assert _bits(other) != _bits(state)
    other.restore(tmp_path)
    assert _bits(other) == _bits(state)


def test_a_snapshot_is_the_state_as_it_was() -> None:
    state = _state()
    snapshot = Snapshot(state)
    for value in (3, 4):
        for variable in state.variables.values():
            variable.assign(np.full(variable.shape, value, variable.dtype.as_numpy_dtype))
        expected = state.arrays()
        snapshot.take()
        _disturb(state)
        assert list(snapshot.arrays) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(snapshot.arrays[name], array)
            np.testing.assert_array_equal(snapshot.tensors[name].numpy(), array)


def test_it_holds_all_that_a_step_changes() -> None:
    names = [name.split("/", 2) for name in _state().variables]
    held = {group: [path for member, _, path in names if member == group] for group in GROUPS}
    trainable = ["convolution/kernel", "convolution/bias", "norm/gamma", "norm/beta", "logits/kernel", "logits/bias"]
    buffers = ["norm/moving_mean", "norm/moving_variance"]
    assert sorted(held["weights"]) == sorted(trainable + buffers)
    assert held["gradient_mean"] == [
        *("count", "folded", "typical_squares", "signal", "noise", "smoothed_weight"),
        *(f"{kind}/{path}" for kind in ("recent", "base") for path in trainable),
    ]
    # Momentum's slots, the step count and the learning rate.
    assert len(held["optimizer"]) == len(trainable) + 2
    mixed = list(_state(precision="mixed_float16").variables)
    assert [name.split("/", 2)[2] for name in mixed if name.startswith("optimizer")][-2:] == [
        *("loss_scale", "loss_scale_steps")
    ]


@pytest.mark.parametrize(
    ("model", "seen"),
    [("dense", "logits/kernel"), ("convolution", "norm/gamma"), ("frozen", "frozen/kernel")],
)
def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path: Path, model: str, seen: str) -> None:
    write(_state(model).arrays(), tmp_path)
    state = _state("frozen" if model == "convolution" else "batch_norm")
    before = _bits(state)
    with pytest.raises(BadInput, match="expected"):
        state.restore(tmp_path)
    assert _bits(state) == before


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_another_precision_is_refused(tmp_path: Path, precision: str) -> None:
    write(_state(precision="float64" if precision == "float32" else "float32").arrays(), tmp_path)
    with pytest.raises(BadInput, match=f"expected {precision}"):
        _state(precision=precision).restore(tmp_path)


def test_a_checkpoint_with_more_in_it_is_of_another_model(tmp_path: Path) -> None:
    state = _state("dense")
    write({**state.arrays(), "weights/0002/second/kernel": np.zeros((3, 3), np.float32)}, tmp_path)
    with pytest.raises(BadInput, match="second/kernel"):
        state.restore(tmp_path)


def test_without_a_running_mean_there_is_none() -> None:
    state = _state("dense", mean=False)
    assert not [name for name in state.variables if name.startswith("gradient_mean")]


@pytest.mark.parametrize("group", GROUPS)
def test_a_digest_changes_with_one_bit_of_its_group_alone(group: str) -> None:
    arrays = _state("dense").arrays()
    before = {name: sha256(arrays, name) for name in GROUPS}
    name = [name for name in arrays if name.startswith(group)][-1]
    changed = np.atleast_1d(arrays[name]).copy()
    changed.view(np.uint8).reshape(-1)[-1] ^= 1
    arrays[name] = changed.reshape(arrays[name].shape)
    assert {name for name in GROUPS if sha256(arrays, name) != before[name]} == {group}


@pytest.mark.parametrize(
    "other",
    [
        {"weights/a": np.zeros((3, 2), np.float32)},
        {"weights/a": np.zeros((2, 3), np.int32)},
        {"weights/b": np.zeros((2, 3), np.float32)},
        {"weights/a": np.zeros((2, 3), np.float32), "weights/b": np.zeros(0, np.float32)},
        {},
    ],
)
def test_a_digest_is_over_names_shapes_and_types_too(other: dict[str, np.ndarray]) -> None:
    assert sha256(other, "weights") != sha256({"weights/a": np.zeros((2, 3), np.float32)}, "weights")


def test_a_digest_does_not_depend_on_the_layout_in_memory() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert sha256({"w/a": np.asfortranarray(array)}, "w") == sha256({"w/a": array}, "w")


def test_tensorflow_not_finding_the_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be written"):
        write({"a": np.zeros(3, np.float32)}, Path("/dev/null/folder"))
