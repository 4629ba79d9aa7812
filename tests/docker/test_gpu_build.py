"""Horovod with GPU operations: built, loaded and used, on the CPU. No GPU is needed, and none is used.

The packages of the environment take some 7 GB of disk.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tools

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorFlow has packages with CUDA for x86_64 only"),
]


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gpu") / "venv"
    script = str(tools.ROOT / "docker" / "environment.py")
    subprocess.run([sys.executable, script, "--group", "gpu", "--venv", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


def _run(venv: Path, *command: str, cwd: Path, **variables: str) -> str:
    """The output of a program of the environment, which must not see a GPU and must succeed."""
    path = f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    program = [str(venv / "bin" / command[0]), *command[1:]]
    done = subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_horovod_has_nccl(venv: Path, tmp_path: Path) -> None:
    shown = _run(venv, "horovodrun", "--check-build", cwd=tmp_path)
    for feature in ("TensorFlow", "MPI", "Gloo", "NCCL"):
        assert f"[X] {feature}" in shown
    assert "Horovod with NCCL      yes, NCCL 2." in _run(venv, "distrain", "check", cwd=tmp_path)


def test_collectives_of_tensors_on_a_gpu_are_left_there(venv: Path, tmp_path: Path) -> None:
    program = """
import json
import horovod.tensorflow
from tensorflow.python.framework import kernels
names = ["Allreduce", "GroupedAllreduce", "Broadcast", "Alltoall", "Allgather"]
names = [f"Horovod{name}" for name in names]
found = {name: [kernel.device_type for kernel in kernels.get_registered_kernels_for_op(name).kernel] for name in names}
print(json.dumps(found))
"""
    found = json.loads(_run(venv, "python", "-c", program, cwd=tmp_path))
    assert {name: set(devices) for name, devices in found.items()} == {name: {"CPU", "GPU"} for name in found}


def test_nothing_of_a_step_has_to_leave_the_gpu(venv: Path, tmp_path: Path) -> None:
    program = str(Path(__file__).parent / "missing_kernels.py")
    command = ["distrain", "launch", "-n", "2", "--", program]
    lacking = json.loads(_run(venv, *command, cwd=tmp_path).splitlines()[-1])
    assert len(lacking) == 12
    assert not any(lacking.values()), lacking


def test_xla_knows_the_allreduce(venv: Path, tmp_path: Path) -> None:
    program = """
import tensorflow as tf
import horovod.tensorflow as hvd
hvd.init()
reduce = tf.function(lambda x: hvd.allreduce(x, op=hvd.Sum, name="x"), jit_compile=True)
print(reduce.experimental_get_compiler_ir(tf.ones([3]))(stage="hlo"))
"""
    command = ["horovodrun", "--gloo", "-np", "1", "--network-interface", "lo", str(venv / "bin" / "python"), "-c"]
    shown = _run(venv, *command, program, cwd=tmp_path, HOROVOD_ENABLE_XLA_OPS="1")
    assert 'custom_call_target="CallbackHVDAllreduce"' in shown
    assert 'custom_call_target="CallbackHVDAllreduceDone"' in shown


def test_two_workers_train_on_the_cpu(venv: Path, tmp_path: Path) -> None:
    job = str(tools.ROOT / "launch" / "jobs" / "circles.yaml")
    command = ["distrain", "launch", "-n", "2", "--", "train", job, "-o", "train.epochs=1", "-o", "train.batch_size=64"]
    _run(venv, *command, "--run-dir", "run", cwd=tmp_path)
    facts = json.loads(_run(venv, "distrain", "inspect", "run", "--json", cwd=tmp_path))
    assert (facts["finished"], facts["world_size"], facts["epoch"]) == (True, 2, 1)
