from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from distrain.cli import check


def test_nccl_is_shown_with_its_version() -> None:
    found = check._nccl(23203)
    assert (found.good, found.seen) == (True, "yes, NCCL 2.32.3")


def test_no_nccl_is_no_fault_and_there_is_something_to_do_about_it() -> None:
    found = check._nccl(0)
    assert (found.good, found.needed, found.seen) == (False, False, "no")
    assert "docker/environment.py --group gpu" in found.advice


def _install_driver(folder: Path, error: int) -> None:
    """A library in the place of NVIDIA's, which knows CUDA 12.9 or cannot say."""
    source = folder / "libcuda.c"
    source.write_text(f"int cuDriverGetVersion(int* version) {{ *version = 12090; return {error}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)


@pytest.mark.parametrize(
    ("error", "good", "seen"), [(0, True, "for CUDA up to 12.9"), (34, False, "no libcuda.so.1 that works")]
)
def test_the_driver_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, good: bool, seen: str
) -> None:
    _install_driver(tmp_path, error)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = check._driver()
    assert (found.good, found.needed, found.seen) == (good, False, seen)
