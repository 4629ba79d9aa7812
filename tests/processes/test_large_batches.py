"""What large batches and fast hardware ask for, in real worlds: 16 bits, Adasum, fitted rates, warm-up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes.worlds import WAYS, begin_program, end, inspect, records, trained, write_job

pytestmark = pytest.mark.processes

WAYS.setdefault("three", [*WAYS["launch"][:4], "-n", "3", "--"])
STEPS = 24


def _losses(folder: Path, way: str, train: dict[str, Any], optimizer: dict[str, Any]) -> list[float]:
    job = write_job(
        folder,
        train={"batch_size": 7, "epochs": None, "steps": STEPS, **train},
        optimizer={"name": "momentum", "learning_rate": 0.02, **optimizer},
        # Each step proves that all ranks hold the same bits.
        parallel={"verify_every": 1},
        log={"tensorboard": False},
    )
    trained(way, job, "--run-dir", folder / way)
    assert inspect(folder / way)["finished"]
    return [record["loss"] for record in records(folder / way, "step")]


@pytest.mark.soak
def test_half_the_bits_train_as_all_of_them_do(tmp_path: Path) -> None:
    whole = _losses(tmp_path, "alone", {}, {})
    for name, train, tolerance in (
        ("compressed", {"compression": "float16"}, 2e-3),
        ("mixed", {"precision": "mixed_bfloat16", "compression": "bfloat16"}, 3e-2),
    ):
        (tmp_path / name).mkdir()
        half = _losses(tmp_path / name, "launch", train, {})
        np.testing.assert_allclose(half, whole, rtol=tolerance)
        assert half != whole
        assert half[-1] < half[0]


@pytest.mark.parametrize(
    ("workers", "controller"), [(2, "gloo"), (3, "mpi"), *(pytest.param(3, "gloo", marks=pytest.mark.soak),)]
)
def test_gradients_are_reduced_as_numpy_has_it(workers: int, controller: str) -> None:
    program = Path(__file__).parent / "programs" / "reductions.py"
    command = [sys.executable, "-m", "distrain", "launch", "-n", str(workers), "--controller", controller, "--"]
    ended = end(begin_program([*command, str(program)], environment={"PYTHONPATH": str(Path(__file__).parents[2])}))
    assert ended.code == 0, ended.errors[-3000:]
    assert ended.output.count("as NumPy has it") == workers


STATE = ("weights_sha256", "optimizer_sha256", "gradient_mean_sha256", "step", "position", "skipped_steps")


@pytest.mark.soak
def test_an_overflow_on_one_worker_leaves_the_step_out_on_all(tmp_path: Path) -> None:
    """One image is so bright that its gradient is too large for float16, once an epoch; alone it is the same.

    The run that went on from a checkpoint has the bits of the one that did not, the loss scale among them.
    """
    train = {"provider": "tests.processes.programs.bright:circles", "examples": 50, "size": 60}
    job = write_job(
        tmp_path,
        data={"train": {**train, "bright": 17, "factor": 2000.0}},
        train={"epochs": 3, "precision": "mixed_float16"},
        optimizer={"name": "momentum", "learning_rate": 0.02},
        parallel={"verify_every": 1},
    )
    for way in ("alone", "launch"):
        trained(way, job, "--run-dir", tmp_path / way)
    trained("launch", job, "--run-dir", tmp_path / "resumed", "-o", "train.epochs=2")
    trained("launch", job, "--run-dir", tmp_path / "resumed")
    seen = {way: inspect(tmp_path / way) for way in ("alone", "launch", "resumed")}
    assert {name: seen["resumed"][name] for name in STATE} == {name: seen["launch"][name] for name in STATE}
    left_out = {way: [(each["position"], each["loss_scale"]) for each in _overflows(tmp_path / way)] for way in seen}
    assert left_out["alone"] == left_out["launch"] == left_out["resumed"]
    assert [scale for _, scale in left_out["alone"]] == [2.0**15, 2.0**14, 2.0**13]
    for way, found in seen.items():
        assert (found["step"], found["position"], found["skipped_steps"]) == (21, 150, 0)
        assert records(tmp_path / way, "step")[-1]["loss_scale"] in (2.0**13, 2.0**12)
    losses = [[record["loss"] for record in records(tmp_path / way, "step")] for way in ("alone", "launch")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
    assert losses[0][-1] < losses[0][0]


def _overflows(run: Path) -> list[dict[str, Any]]:
    return [event for event in records(run, "event") if event["event"] == "overflow"]


def test_adasum_trains(tmp_path: Path) -> None:
    """Also where XLA compiles forward and backward pass, around the exchange."""
    job = write_job(
        tmp_path,
        train={"batch_size": 7, "epochs": 3, "reduction": "adasum", "compression": "bfloat16"},
        gradients=False,
        parallel={"verify_every": 1, "jit_compile": True},
    )
    trained("launch-mpi", job, "--run-dir", tmp_path / "run")
    losses = [record["loss"] for record in records(tmp_path / "run", "epoch")]
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.soak
def test_a_rate_that_grows_with_the_batch_is_that_of_the_present_workers(tmp_path: Path) -> None:
    rates = []
    for way, steps in (("alone", 4), ("launch", 8)):
        job = write_job(
            tmp_path,
            train={"batch_size": None, "batch_size_per_worker": 4, "epochs": None, "steps": steps},
            optimizer={"name": "momentum", "learning_rate": 0.02, "scale_from": 4},
        )
        trained(way, job, "--run-dir", tmp_path / "run")
        rates.append(records(tmp_path / "run", "step")[-1]["learning_rate"])
    assert rates == pytest.approx([0.02, 0.04], rel=1e-6)


def test_synchronised_batch_normalisation_does_not_depend_on_the_workers(tmp_path: Path) -> None:
    """Batches of 7 of 50 examples: one worker's share is larger than the other's, and that of the last is empty."""
    model = {"name": "tests.small_models:normalised_pixels"}
    losses = []
    for way in ("alone", "launch"):
        job = write_job(
            tmp_path,
            train={"batch_size": 7, "epochs": 3, "precision": "float64", "sync_batch_norm": True},
            model=model,
            parallel={"verify_every": 1},
        )
        trained(way, job, "--run-dir", tmp_path / way)
        losses.append([record["loss"] for kind in ("step", "validation") for record in records(tmp_path / way, kind)])
    assert len(losses[0]) == 3 * 8 + 3
    assert losses[0][23] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("train", "optimizer", "tolerance"),
    [
        ({"precision": "float64", "accumulate": 2, "clip_norm": 0.5}, {"warm_up": 5, "scale_from": 4}, 1e-10),
        ({"precision": "float64"}, {"name": "lars", "learning_rate": 0.2, "trust": 0.05, "decay": 1e-4}, 1e-10),
        ({"precision": "float64"}, {"name": "lamb", "learning_rate": 0.01, "decay": 0.01}, 1e-10),
        ({"precision": "mixed_bfloat16"}, {}, 3e-2),
        ({"precision": "mixed_float16"}, {}, 1e-2),
        ({"precision": "mixed_float16", "compression": "float16", "accumulate": 2, "clip_norm": 0.5}, {}, 1e-2),
        ({"compression": "bfloat16"}, {}, 1e-2),
        (
            {"precision": "mixed_bfloat16", "compression": "float16"},
            {"name": "lars", "learning_rate": 0.02, "trust": 0.05},
            3e-2,
        ),
    ],
)
def test_one_two_and_three_workers_train_alike(
    train: dict[str, Any], optimizer: dict[str, Any], tolerance: float, tmp_path: Path
) -> None:
    losses = [_losses(tmp_path, way, train, optimizer) for way in ("alone", "launch", "three")]
    assert losses[0][-1] < losses[0][0]
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=tolerance)
