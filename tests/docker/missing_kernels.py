"""Which operations of a step and of a validation TensorFlow's GPU build, and Horovod's, have no kernel for GPUs for.

    distrain launch -n 2 -- tests/docker/missing_kernels.py

Without one an operation runs on the CPU, and its tensors go there and back. No GPU is needed: nothing is computed, the
compiled functions are looked through. Prints JSON: names of what was compiled, with the operations.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from distrain.cli.worker import settle
from distrain.job.schema import Parallel
from distrain.world.start import start

started = start(os.environ)
settle(Parallel(), started)

import tensorflow as tf  # noqa: E402 (devices and threads are settled first)
from tensorflow.python.framework import kernels as registry  # noqa: E402

from distrain.data.provider import ExampleSpec  # noqa: E402
from distrain.gradients.statistics import GradientStatistics  # noqa: E402
from distrain.job.load import check_job  # noqa: E402
from distrain.kernels import compiled  # noqa: E402
from distrain.model.build import build  # noqa: E402
from distrain.step.evaluate_step import build_evaluate_step  # noqa: E402
from distrain.step.train_step import build_train_step  # noqa: E402
from distrain.world.collectives import HorovodCollectives  # noqa: E402

SPEC = ExampleSpec((60, 60, 1), (60, 60), 2)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "lars": ({"optimizer": {"name": "lars"}}, {"clip_norm": 1.0}),
    "lamb": ({"optimizer": {"name": "lamb"}}, {"accumulate": 2}),
    "float16": ({"train": {"precision": "mixed_float16"}}, {"wire": tf.float16}),
    "bfloat16": ({"train": {"precision": "mixed_bfloat16"}}, {"wire": tf.bfloat16}),
    "adasum": ({"gradients": False}, {"adaptive": True, "wire": tf.bfloat16}),
}


def missing(function: Any) -> list[str]:
    """The operations, with their types, that no kernel for GPUs serves."""
    return sorted({_shown(node) for node in _nodes(function) if not _served(node)})


def _nodes(function: Any) -> Iterator[Any]:
    graph = function.get_concrete_function().graph.as_graph_def()
    yield from graph.node
    for inner in graph.library.function:
        yield from inner.node_def


def _types(node: Any) -> dict[str, int]:
    return {name: value.type for name, value in node.attr.items() if value.type}


def _served(node: Any) -> bool:
    found = registry.get_registered_kernels_for_op(node.op).kernel
    types = _types(node)
    # Arguments and what control flow is made of have no kernels at all; texts, of assertions, are never on a GPU.
    if not found or tf.string.as_datatype_enum in types.values():
        return True
    return any(
        kernel.device_type in ("GPU", "DEFAULT")
        and all(types.get(each.name, 0) in (0, *each.allowed_values.list.type) for each in kernel.constraint)
        for kernel in found
    )


def _shown(node: Any) -> str:
    return f"{node.op}({', '.join(sorted(tf.as_dtype(kind).name for kind in _types(node).values()))})"


# As on a GPU.
compiled.serve = lambda value: False
lacking = {}
for case, (sections, options) in CASES.items():
    job = check_job(
        {"data": {"train": {"provider": "circles", "size": 60}}, "model": {"layers": 2, "features": 4}, **sections},
        source=case,
    )
    trained = build(job, SPEC, batch_size=8, epoch_steps=5)
    statistics = GradientStatistics(trained.trainable(), every=2) if job.gradients.enabled else None
    step: Any = build_train_step(
        trained, statistics, HorovodCollectives(started.horovod, case), SPEC, started.world, **options
    )
    lacking[case] = missing(step.__wrapped__)
    lacking[f"{case}, validation"] = missing(build_evaluate_step(trained, SPEC))
if started.world.rank == 0:
    print(json.dumps(lacking), flush=True)
started.control.gather(None)
started.close()
