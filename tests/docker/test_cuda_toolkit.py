"""The CUDA toolkit that GPU builds are compiled with, made of packages that are no more than names here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cuda_toolkit
import pytest

ZIG = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n'

# Stands in for NVIDIA's library: the calls and what they were given, written where the packed code goes.
NVFATBIN = r"""
#include <stdio.h>
#include <string.h>
static char packed[1000];
static int note(const char* kind, const void* code, size_t size, const char* arch) {
  sprintf(packed + strlen(packed), "%s %s %zu %.*s\n", kind, arch, size, (int)strnlen(code, size), (const char*)code);
  return strcmp(arch, "13") == 0 ? 9 : 0;
}
int nvFatbinCreate(void** handle, const char** options, size_t count) {
  *handle = packed;
  for (size_t i = 0; i < count; ++i) sprintf(packed + strlen(packed), "%s\n", options[i]);
  return 0;
}
int nvFatbinAddCubin(void* h, const void* code, size_t size, const char* arch, const char* name) {
  return h != packed || note("elf", code, size, arch);
}
int nvFatbinAddPTX(void* h, const char* code, size_t size, const char* arch, const char* name, const char* options) {
  return h != packed || options || code[size - 1] || note("ptx", code, size, arch);
}
int nvFatbinSize(void* h, size_t* size) { *size = strlen(packed); return h != packed; }
int nvFatbinGet(void* h, void* buffer) { memcpy(buffer, packed, strlen(packed)); return h != packed; }
"""


def _packages(folder: Path) -> Path:
    """A folder of packages with the files that the toolkit takes."""
    files = {
        "nvidia/cuda_nvcc/bin/ptxas": "",
        "nvidia/cuda_nvcc/include/crt/host_defines.h": "",
        "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc": "",
        "nvidia/cuda_runtime/include/__init__.py": "",
        "nvidia/cuda_runtime/include/cuda_runtime_api.h": "#define CUDART_VERSION  12090\n",
        "nvidia/cuda_runtime/lib/libcudart.so.12": "",
        "nvidia/cuda_runtime/lib/libcudart_static.a": "",
        "nvidia/cuda_cccl/include/nv/target": "",
        "nvidia/curand/include/curand.h": "",
        "nvidia/nvfatbin/lib/libnvfatbin.so.12": "",
        "clang_tidy/data/lib/clang/22/include/__clang_cuda_cmath.h": "",
        "ziglang/zig": ZIG,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "ziglang" / "zig").chmod(0o755)
    return folder


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    packages = _packages(tmp_path / "packages")
    return cuda_toolkit.make(tmp_path / "cuda", packages, Path(sys.executable), ["c++"])


def test_files_are_where_clang_and_cmake_look(toolkit: Path) -> None:
    for name in ("bin/ptxas", "include/crt/host_defines.h", "include/nv/target", "nvvm/libdevice/libdevice.10.bc"):
        assert (toolkit / name).exists(), name
    for name in ("lib64/libcudart.so", "lib64/libcudart_static.a", "include/curand.h"):
        assert (toolkit / name).exists(), name
    assert not (toolkit / "include" / "__init__.py").exists()


def test_nvcc_is_clang_that_knows_its_cuda(toolkit: Path) -> None:
    nvcc = str(toolkit / "bin" / "nvcc")
    words = subprocess.run([nvcc, "-c", "a b.cu"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[0] == "clang"
    assert words[-2:] == ["-c", "a b.cu"]
    assert f"--cuda-path={toolkit}" in words
    assert words[words.index("-resource-dir") + 1].endswith("clang_tidy/data/lib/clang/22")
    shown = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    assert "V12.9.0" in shown.splitlines()[0]


@pytest.fixture
def library(tmp_path: Path) -> str:
    source, made = tmp_path / "nvfatbin.c", tmp_path / "libnvfatbin.so"
    source.write_text(NVFATBIN)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return str(made)


def test_machine_code_and_ptx_are_packed(library: str, tmp_path: Path) -> None:
    code, ptx, packed = tmp_path / "a.o", tmp_path / "a.s", tmp_path / "a.fatbin"
    code.write_text("machine code")
    ptx.write_text("ptx")
    images = [f"--image3=kind=elf,sm=80,file={code}", f"--image3=kind=ptx,sm=90,file={ptx}"]
    cuda_toolkit.fatbinary(library, ["-64", "--create", str(packed), *images])
    written = packed.read_text().splitlines()
    assert written[:3] == ["-64", "-cuda", "-compress-mode=none"]
    assert written[3:] == ["elf 80 12 machine code", "ptx 90 4 ptx"]


def test_what_the_library_refuses_ends_the_compilation(library: str, tmp_path: Path) -> None:
    code = tmp_path / "a.o"
    code.write_text("machine code")
    with pytest.raises(SystemExit, match=r"error 1 of libnvfatbin: --image3=kind=elf,sm=13"):
        cuda_toolkit.fatbinary(library, ["--create", "x", f"--image3=kind=elf,sm=13,file={code}"])
