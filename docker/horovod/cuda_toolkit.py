"""A CUDA toolkit made of Python packages, for `build.py --gpu`: there is no nvcc for CUDA 12 among them.

Clang compiles CUDA too. The package ziglang has all of clang but its headers for CUDA, which clang-tidy of the same
version brings; NVIDIA's packages have the headers and runtime of CUDA, the assembler and a library that packs what it
makes. CMake, which asks for nvcc by name, recognises clang under it.
"""

from __future__ import annotations

import ctypes
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Machine code from Volta to Blackwell, and PTX, which the driver compiles for GPUs that are newer.
ARCHITECTURES = "70-real;75-real;80-real;86-real;89-real;90;100-real;120-real"

# What the toolkit takes from the packages of NVIDIA, as patterns in site-packages/nvidia.
_LINKS = {
    "bin": ("cuda_nvcc/bin/ptxas",),
    "include": (
        "cuda_runtime/include/*",
        "cuda_nvcc/include/*",
        "cuda_cccl/include/*",
        "curand/include/*",  # clang's own header for CUDA includes it
    ),
    "lib64": ("cuda_runtime/lib/*",),
    "nvvm": ("cuda_nvcc/nvvm/libdevice",),
}

_NVCC = """#!/bin/sh
# clang, which says on request which CUDA is around it
[ "$1" = --version ] && echo "Cuda compilation tools, V{version}"
exec {clang} "$@"
"""

_FATBINARY = """#!/bin/sh
exec {command} "$@"
"""


def make(folder: Path, site: Path, python: Path, cxx: Sequence[str]) -> Path:
    """Makes the toolkit in `folder` from the packages in `site`; `cxx` is the compiler whose C++ library is used."""
    for name, patterns in _LINKS.items():
        (folder / name).mkdir(parents=True)
        for pattern in patterns:
            for path in sorted((site / "nvidia").glob(pattern)):
                if path.name not in {"__init__.py", "__pycache__"}:
                    (folder / name / path.name).symlink_to(path)
    # CMake looks for this name, and links the static library.
    (folder / "lib64" / "libcudart.so").symlink_to(next((folder / "lib64").glob("libcudart.so.*")))
    resources = next((site / "clang_tidy" / "data" / "lib" / "clang").iterdir())
    clang = [str(site / "ziglang" / "zig"), "clang", "--target=x86_64-linux-gnu", *_gcc(cxx)]
    clang += ["-resource-dir", str(resources), f"--cuda-path={folder}", "-Wno-unknown-cuda-version"]
    clang.append("--no-offload-new-driver")  # which links by a program of clang's that the package does not have
    _write_script(folder / "bin" / "nvcc", _NVCC.format(clang=shlex.join(clang), version=_version(folder)))
    library = next((site / "nvidia" / "nvfatbin" / "lib").glob("libnvfatbin.so.*"))
    command = shlex.join([str(python), str(Path(__file__).resolve()), str(library)])
    _write_script(folder / "bin" / "fatbinary", _FATBINARY.format(command=command))
    return folder


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _gcc(cxx: Sequence[str]) -> list[str]:
    """Where the C++ compiler's own library is, if that is GCC's: clang might find another one."""
    command = [*cxx, "-print-libgcc-file-name"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    folder = Path(result.stdout.strip()).parent
    return [f"--gcc-install-dir={folder}"] if (folder / "crtbegin.o").exists() else []


def _version(folder: Path) -> str:
    """The version of the runtime, as nvcc would write it."""
    header = (folder / "include" / "cuda_runtime_api.h").read_text()
    number = int(header.partition("#define CUDART_VERSION")[2].split()[0])
    return f"{number // 1000}.{number % 1000 // 10}.0"


# --- fatbinary -------------------------------------------------------------------------------------------------------


def fatbinary(library: str, arguments: Sequence[str]) -> None:
    """NVIDIA's program of that name, as far as clang uses it, by NVIDIA's library for the same.

    `--create FILE` says where to, each `--image3=kind=elf|ptx,sm=NUMBER,file=FILE` what to pack.
    """
    nvfatbin = ctypes.CDLL(library)
    handle = ctypes.c_void_p()
    # Not compressed: older drivers do not know how newer versions compress.
    options = (ctypes.c_char_p * 3)(b"-64", b"-cuda", b"-compress-mode=none")
    _check(nvfatbin.nvFatbinCreate(ctypes.byref(handle), options, len(options)), "create")
    for argument in arguments:
        if not argument.startswith("--image3="):
            continue
        image = dict(part.split("=", 1) for part in argument.removeprefix("--image3=").split(","))
        code = Path(image["file"]).read_bytes()
        arch, name = image["sm"].encode(), Path(image["file"]).name.encode()
        if image["kind"] == "elf":
            failed = nvfatbin.nvFatbinAddCubin(handle, code, ctypes.c_size_t(len(code)), arch, name)
        else:
            # The terminating zero counts.
            failed = nvfatbin.nvFatbinAddPTX(handle, code, ctypes.c_size_t(len(code) + 1), arch, name, None)
        _check(failed, argument)
    size = ctypes.c_size_t()
    _check(nvfatbin.nvFatbinSize(handle, ctypes.byref(size)), "size")
    packed = ctypes.create_string_buffer(size.value)
    _check(nvfatbin.nvFatbinGet(handle, packed), "get")
    Path(arguments[arguments.index("--create") + 1]).write_bytes(packed.raw)


def _check(failed: int, what: str) -> None:
    if failed:
        raise SystemExit(f"fatbinary: error {failed} of libnvfatbin: {what}")


if __name__ == "__main__":
    fatbinary(sys.argv[1], sys.argv[2:])
