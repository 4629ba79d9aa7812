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


def test_the_extras_go_beside_any_environment() -> None:
    extras = _pinned("extras.txt")
    assert set(extras) >= {"s3fs", "gcsfs", "aiohttp", "mlflow-skinny", "wandb"}
    assert not {name for name in extras if name.startswith("tensorflow")}
    for name in ("cpu.txt", "gpu.txt", "dev.txt"):
        pinned = _pinned(name)
        shared = set(extras) & set(pinned)
        assert shared >= {"fsspec", "protobuf", "numpy"}
        assert {name: extras[name] for name in shared} == {name: pinned[name] for name in shared}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """What looks like an environment, but for its stamp."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    return tmp_path


def test_an_environment_with_the_extras_is_also_one_without(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def up_to_date() -> tuple[bool, bool]:
        without, with_extras = (environment._up_to_date(venv, ("cpu",), extras=extras) for extras in (False, True))
        return without, with_extras

    environment._write_stamp(venv, environment._wanted("cpu", venv))
    assert up_to_date() == (True, False)
    environment._write_stamp(venv, environment._wanted("cpu", venv, extras=True))
    assert up_to_date() == (True, True)
    # Other versions of them: to be brought up to date, whoever asks.
    changed = tmp_path / "extras.txt"
    changed.write_text("wandb==0\n")
    requirements = environment._requirements
    monkeypatch.setattr(environment, "_requirements", lambda name: changed if name == "extras" else requirements(name))
    assert up_to_date() == (False, False)


def test_what_is_brought_up_to_date_keeps_its_extras(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[list[str]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(venv / "cache"))
    monkeypatch.setattr(environment, "_check_space", lambda *_: None)
    monkeypatch.setattr(tools, "get_uv", lambda: "uv")
    monkeypatch.setattr(build, "cached_wheel", lambda gpu: venv / "horovod.whl")
    monkeypatch.setattr(build, "wheel", lambda uv, gpu: venv / "horovod.whl")
    monkeypatch.setattr(environment, "_install", lambda uv, groups, *_: installed.append(groups))
    environment._write_stamp(venv, environment._wanted("cpu", venv))
    for group, extras in (("cpu", False), ("cpu", True), ("dev", False), ("cpu", False)):
        environment._set_up(group, venv, extras=extras)
    assert installed == [["cpu"], ["cpu", "extras"], ["dev", "extras"], ["dev", "extras"]]


def test_an_environment_with_more_serves_as_one_with_less(venv: Path) -> None:
    serves = {}
    for group in environment.GROUPS:
        environment._write_stamp(venv, environment._wanted(group, venv))
        serves[group] = {wanted for wanted, by in environment.SERVING.items() if environment._up_to_date(venv, by)}
    assert serves == {"cpu": {"cpu"}, "docs": {"cpu", "docs"}, "dev": {"cpu", "docs", "dev"}, "gpu": {"gpu"}}
