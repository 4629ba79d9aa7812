"""The interface is Horovod's: the same names with the same arguments."""

from __future__ import annotations

import inspect
from typing import Any

import horovod.keras
import horovod.tensorflow.keras
import pytest

import distrain.keras as hvd

# Parts of a world, what Spark's estimators use, and what Horovod imports for itself.
WITHOUT = {"ProcessSet", "add_process_set", "remove_process_set", "global_process_set", "BestModelCheckpoint"}
WITHOUT |= {"is_version_greater_equal_than", "TensorFlowKerasState"}
MODULES = (horovod.tensorflow.keras, horovod.keras)


def names(module: Any) -> set[str]:
    """What a module of Horovod offers, as against what it imports for itself."""
    found = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    return {
        name for name in found if (getattr(vars(module)[name], "__module__", None) or "horovod").startswith("horovod")
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_names_are_there(module: Any) -> None:
    offered = names(module)
    assert "DistributedOptimizer" in offered
    assert offered - set(dir(hvd)) <= WITHOUT


@pytest.mark.parametrize("part", ["callbacks", "elastic"])
def test_all_names_of_its_parts_are_there(part: str) -> None:
    offered = names(getattr(horovod.tensorflow.keras, part)) - WITHOUT
    assert len(offered) >= 4
    assert offered <= set(dir(getattr(hvd, part)))


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    "name", ["DistributedOptimizer", "allreduce", "allgather", "broadcast", "reducescatter", "load_model"]
)
def test_functions_take_what_horovods_take(name: str) -> None:
    assert parameters(getattr(hvd, name)) == parameters(getattr(horovod.tensorflow.keras, name))


@pytest.mark.parametrize(
    "name",
    [
        "BroadcastGlobalVariablesCallback",
        "MetricAverageCallback",
        "LearningRateScheduleCallback",
        "LearningRateWarmupCallback",
    ],
)
def test_callbacks_take_what_horovods_take(name: str) -> None:
    assert parameters(getattr(hvd.callbacks, name)) == parameters(getattr(horovod.tensorflow.keras.callbacks, name))


def test_reductions_are_horovods_numbers() -> None:
    for name in ("Average", "Sum", "Adasum", "Min", "Max", "Product"):
        assert int(getattr(hvd, name)) == getattr(horovod.tensorflow, name)
