"""Compiles distrain's own TensorFlow operations (distrain/kernels/*.cc), once per set of inputs.

    python3 docker/kernels.py --venv .venv [--output DIR]

Needs a C++ compiler and an environment with TensorFlow, whose headers and library it compiles against; keeps the
wheel in the user's cache and prints its path. Without it distrain does the same by TensorFlow's own operations.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import tools
from tools import SetupError, say

SOURCES = sorted((tools.ROOT / "distrain" / "kernels").glob("*.cc"))
PACKAGE = "distrain_kernels"
FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-shared", "-w", "-Wno-psabi"]
# As TensorFlow itself was compiled (tf.sysconfig.get_compile_flags).
FLAGS += ["-D_GLIBCXX_USE_CXX11_ABI=1", "-DEIGEN_MAX_ALIGN_BYTES=64"]
# No fused multiply-add: the same bits with and without measuring.
FLAGS += ["-ffp-contract=off", "-fno-math-errno"]
# Nobody asks which operation raised which flag; without it choices between numbers are branches.
FLAGS += ["-fno-trapping-math"]
# Servers since 2013 have this.
ARCHITECTURE_FLAGS = {"x86_64": ["-mavx2"]}


def source_digest() -> str:
    """The hash of what this project decides of the wheel."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in [*SOURCES, Path(__file__)])).hexdigest()[:20]


def wheel(venv: Path) -> Path:
    """The wheel for the environment's TensorFlow; compiled where the cache does not have it."""
    tensorflow = _tensorflow(venv)
    folder = tools.cache_folder() / "kernels" / _digest(tensorflow)
    built = next(iter(folder.glob("*.whl")), None)
    if built is not None:
        return built
    tools.make_folder(folder)
    with tools.locked(folder / "lock", "waiting for another compilation of distrain's kernels"):
        built = next(iter(folder.glob("*.whl")), None)
        return built or _build(tensorflow, folder)


def _tensorflow(venv: Path) -> Path:
    found = next(iter(venv.glob("lib/python*/site-packages/tensorflow")), None)
    if found is None:
        raise SetupError(f"{venv} has no TensorFlow to compile distrain's kernels against")
    return found


def _digest(tensorflow: Path) -> str:
    inputs = {
        "source": source_digest(),
        "tensorflow": sorted(found.name for found in tensorflow.parent.glob("tensorflow*.dist-info")),
        "machine": [platform.machine(), *platform.libc_ver()],
        "compiler": os.environ.get("CXX", ""),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]


def _compiler() -> list[str]:
    """The command of the C++ compiler: CXX, or the first of the usual ones."""
    configured = os.environ.get("CXX")
    if configured:
        return shlex.split(configured)
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if found is None:
        raise SetupError(
            "distrain's kernels have to be compiled and there is no C++ compiler (Debian: apt install g++)"
        )
    return [found]


def _build(tensorflow: Path, folder: Path) -> Path:
    say("compiling distrain's kernels")
    log = folder / "build.log"
    log.write_bytes(b"")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        library = Path(work) / "kernels.so"
        command = [*_compiler(), *FLAGS, *ARCHITECTURE_FLAGS.get(platform.machine(), []), *map(str, SOURCES)]
        command += ["-o", str(library), f"-I{tensorflow / 'include'}"]
        command += [f"-L{tensorflow}", "-l:libtensorflow_framework.so.2"]
        tools.run_logged(command, log, "compile distrain's kernels", os.environ)
        made = Path(work) / f"{PACKAGE}-1.0+{source_digest()[:8]}-py3-none-linux_{platform.machine()}.whl"
        _pack(library, made)
        return Path(shutil.move(made, folder / made.name))


def _pack(library: Path, path: Path) -> None:
    """Write a wheel that holds the library alone."""
    name, version, _, _, _ = path.stem.split("-")
    info = f"{name}-{version}.dist-info"
    files = {
        f"{PACKAGE}/__init__.py": b'"""The compiled operations of distrain."""\n',
        f"{PACKAGE}/kernels.so": library.read_bytes(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {path.stem.split('-', 2)[2]}\n".encode(),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content)
        records = [f"{member},sha256={_hash(content)},{len(content)}" for member, content in files.items()]
        archive.writestr(f"{info}/RECORD", "\n".join([*records, f"{info}/RECORD,,", ""]))


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compile distrain's own TensorFlow operations.")
    parser.add_argument("--venv", metavar="DIR", type=Path, default=tools.ROOT / ".venv", help="default: .venv")
    parser.add_argument("--output", metavar="DIR", type=Path, help="copy the wheel there")
    arguments = parser.parse_args()
    made = wheel(arguments.venv.resolve())
    print(shutil.copy(made, tools.make_folder(arguments.output)) if arguments.output else made)
    return 0


if __name__ == "__main__":
    sys.exit(tools.guarded(main))
