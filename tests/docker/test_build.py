"""What the build of Horovod is made from, on the CPU and for GPUs; the builds themselves are in test_gpu_build.py."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import build
import cuda_toolkit
import environment
import pytest
import tools

REQUIREMENTS = tools.ROOT / "requirements"


def _pinned(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (REQUIREMENTS / name).read_text(), re.MULTILINE))


def test_the_option_decides_what_the_wheel_is() -> None:
    assert build.inputs_digest(gpu=True) != build.inputs_digest(gpu=False)
    assert build._requirements(gpu=True) == REQUIREMENTS / "build-gpu.txt"
    assert build._requirements(gpu=False) == REQUIREMENTS / "build.txt"
    assert build._options(gpu=True)["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert not {"HOROVOD_GPU_OPERATIONS", "HOROVOD_LOCAL_VERSION", "CUDAARCHS"} & set(build._options(gpu=False))


def test_each_input_decides_what_the_wheel_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.inputs_digest(gpu=True), build.inputs_digest()

    def changed() -> tuple[bool, bool]:
        return build.inputs_digest(gpu=True) != before[0], build.inputs_digest() != before[1]

    assert changed() == (False, False)
    with monkeypatch.context() as patch:
        patch.setenv("CXXFLAGS", "-g")
        assert changed() == (True, True)
    with monkeypatch.context() as patch:
        patches = shutil.copytree(build.PATCHES, tmp_path / "patches")
        patch.setattr(build, "PATCHES", patches)
        assert changed() == (False, False)
        (patches / "9999-one-more.patch").touch()
        assert changed() == (True, True)
    with monkeypatch.context() as patch:
        patch.setitem(build.GPU_OPTIONS, "CUDAARCHS", "90")
        assert changed() == (True, False)
    with monkeypatch.context() as patch:
        script = tmp_path / "cuda_toolkit.py"
        script.write_text("# another way of compiling CUDA\n")
        patch.setattr(cuda_toolkit, "__file__", str(script))
        assert changed() == (True, False)
    assert changed() == (False, False)


def test_each_environment_has_its_horovod() -> None:
    def horovod(group: str) -> str:
        return environment._wanted(group, Path("/venv"))["horovod"]

    assert horovod("gpu") == build.inputs_digest(gpu=True)
    assert horovod("cpu") == horovod("dev") == build.inputs_digest(gpu=False)


def test_gpu_builds_use_what_gpu_environments_have() -> None:
    built, used = _pinned("build-gpu.txt"), _pinned("gpu.txt")
    shared = set(built) & set(used)
    assert shared >= {"tensorflow", "openmpi", "nvidia-nccl-cu12", "nvidia-cuda-runtime-cu12", "nvidia-cuda-nvcc-cu12"}
    assert {name: built[name] for name in shared} == {name: used[name] for name in shared}


def test_settings_of_the_user_do_not_get_into_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compiler", lambda: ["c++"])
    for name in ("HOROVOD_GPU_OPERATIONS", "HOROVOD_NCCL_HOME", "HOROVOD_LOCAL_VERSION", "CUDAARCHS", "CUDACXX"):
        monkeypatch.setenv(name, "of the user")
    variables = build._build_environment(Path("/env/bin/python"), 2, gpu=False)
    assert "of the user" not in variables.values()
    variables = build._build_environment(Path("/env/bin/python"), 2, gpu=True)
    assert "of the user" not in variables.values()
    assert variables["CUDAARCHS"] == cuda_toolkit.ARCHITECTURES


def test_a_gpu_build_is_refused_where_tensorflow_has_no_package_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(tools.SetupError, match="x86_64 only, this is aarch64"):
        build.check(gpu=True)


def test_a_wheel_in_the_cache_is_found_by_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cached_wheel(gpu=True) is None
    wheel = build._folder(gpu=True) / "horovod-0.28.1+cu12-cp311-cp311-linux_x86_64.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    assert build.cached_wheel(gpu=True) == wheel
    assert build.cached_wheel(gpu=False) is None


def test_an_environment_with_more_serves_as_one_with_less(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    serves = {}
    for group in environment.GROUPS:
        environment._write_stamp(tmp_path, environment._wanted(group, tmp_path))
        serves[group] = {wanted for wanted, by in environment.SERVING.items() if environment._up_to_date(tmp_path, by)}
    assert serves == {"cpu": {"cpu"}, "docs": {"cpu", "docs"}, "dev": {"cpu", "docs", "dev"}, "gpu": {"gpu"}}
