"""Builds the Horovod wheel from its pinned source and this folder's patches, once per set of inputs.

    python3 docker/horovod/build.py [--gpu] [--output DIR] [--check] [--jobs N]

builds for the Python that runs it, keeps the wheel in the user's cache and prints its path. Needs a C++ compiler, make
and pip or uv; TensorFlow, Open MPI and cmake come as packages into a temporary environment (requirements/build.txt).
With --gpu the wheel has GPU operations by NCCL; CUDA and its compiler are packages too (requirements/build-gpu.txt).
The file is a PEP 517 build backend as well, so that installing this folder installs the same wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The folder is not a package: the scripts in it run on their own.
sys.path.insert(0, str(HERE.parent))

import cuda_toolkit  # noqa: E402
import tools  # noqa: E402
from tools import SetupError, say  # noqa: E402

VERSION = "0.28.1"
SDIST = f"horovod-{VERSION}.tar.gz"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
PATCHES = HERE / "patches"

OPTIONS = {
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITH_MPI": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITHOUT_NVTX": "1",
}
GPU_OPTIONS = {
    "HOROVOD_GPU_OPERATIONS": "NCCL",
    "HOROVOD_LOCAL_VERSION": "cu12",  # the wheel is horovod 0.28.1+cu12
    "CUDAARCHS": cuda_toolkit.ARCHITECTURES,
}
# Horovod takes what the building machine has; a wheel may be used on another one. Servers since 2013 have these.
ARCHITECTURE_FLAGS = {"x86_64": "-mf16c -mavx -mfma"}
COMPILER_VARIABLES = ("CXX", "CC", "CPPFLAGS", "CXXFLAGS", "CFLAGS", "LDFLAGS")

# Packages as downloaded and unpacked by uv, the temporary environment (a copy if on another disk), the objects.
SPACE_GB = 2.5
GPU_SPACE_GB = 8.0
# For one source file with TensorFlow's headers; those of XLA need more.
COMPILER_MEMORY_GB = 1.5
GPU_COMPILER_MEMORY_GB = 2.0


# --- inputs ----------------------------------------------------------------------------------------------------------


def _options(gpu: bool) -> dict[str, str]:
    options = {**OPTIONS, **(GPU_OPTIONS if gpu else {})}
    flags = ARCHITECTURE_FLAGS.get(platform.machine())
    if flags is not None:
        options["HOROVOD_BUILD_ARCH_FLAGS"] = flags
    return options


def _requirements(gpu: bool) -> Path:
    return tools.ROOT / "requirements" / ("build-gpu.txt" if gpu else "build.txt")


def _scripts(gpu: bool) -> list[Path]:
    return [Path(__file__), *([Path(cuda_toolkit.__file__)] if gpu else [])]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _patches() -> list[Path]:
    return sorted(PATCHES.glob("*.patch"))


def inputs_digest(gpu: bool = False) -> str:
    """The hash of everything that decides what the wheel is."""
    inputs = {
        "sdist": SDIST_SHA256,
        "patches": [(patch.name, _sha256(patch)) for patch in _patches()],
        "scripts": [_sha256(script) for script in _scripts(gpu)],
        "requirements": _sha256(_requirements(gpu)),
        "python": [platform.python_implementation(), sysconfig.get_config_var("SOABI")],
        "machine": platform.machine(),
        "libc": platform.libc_ver(),
        "options": _options(gpu),
        "compiler": {name: os.environ[name] for name in COMPILER_VARIABLES if name in os.environ},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]


def _folder(gpu: bool) -> Path:
    return tools.cache_folder() / "horovod" / inputs_digest(gpu)


def cached_wheel(gpu: bool = False) -> Path | None:
    """The wheel for the present inputs, if it has been built."""
    return next(iter(_folder(gpu).glob(f"horovod-{VERSION}*.whl")), None)


# --- checks ----------------------------------------------------------------------------------------------------------


def _compiler() -> list[str]:
    """The command of the C++ compiler."""
    configured = os.environ.get("CXX")
    names = [configured] if configured else ["c++", "g++", "clang++"]
    for name in names:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    where = f"CXX={configured} is not a program" if configured else "none of c++, g++, clang++ is on the PATH"
    raise SetupError(f"Horovod has to be compiled and there is no C++ compiler: {where} (Debian: apt install g++)")


def _check_compiler() -> None:
    command = [*_compiler(), "-std=c++17", "-x", "c++", "-fsyntax-only", "-"]
    source = "#include <optional>\n#include <pthread.h>\nint main() { return std::optional<int>(0).value(); }\n"
    result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[0]
        raise SetupError(f"the C++ compiler {command[0]} cannot compile a small C++17 program: {reason}")


def check(gpu: bool = False) -> None:
    """Checks what a build needs from the machine, before anything is downloaded."""
    if gpu and platform.machine() != "x86_64":
        raise SetupError(f"TensorFlow 2.21 has packages with CUDA for x86_64 only, this is {platform.machine()}")
    _check_compiler()
    if shutil.which("make") is None:
        raise SetupError("Horovod has to be compiled and there is no make on the PATH (Debian: apt install make)")
    tools.make_folder(tools.cache_folder())
    space = GPU_SPACE_GB if gpu else SPACE_GB
    tools.require_space({tools.cache_folder(): space / 2, tools.uv_cache_folder(): space / 2})


# --- the build -------------------------------------------------------------------------------------------------------


def wheel(uv: str | None = None, jobs: int | None = None, gpu: bool = False) -> Path:
    """The wheel for the present inputs; builds it where the cache does not have it."""
    built = cached_wheel(gpu)
    if built is not None:
        return built
    check(gpu)
    folder = tools.make_folder(_folder(gpu))
    with tools.locked(folder / "lock", "waiting for another build of the same Horovod"):
        built = cached_wheel(gpu)
        if built is None:
            built = _build(folder, uv or tools.get_uv(), jobs or _default_jobs(gpu), gpu)
    return built


def _default_jobs(gpu: bool) -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    each = GPU_COMPILER_MEMORY_GB if gpu else COMPILER_MEMORY_GB
    return max(1, min(len(os.sched_getaffinity(0)), int(memory / each)))


def _build(folder: Path, uv: str, jobs: int, gpu: bool) -> Path:
    _remove_work(folder)
    start = time.monotonic()
    log = folder / "build.log"
    log.write_bytes(b"")
    work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    try:
        python = _make_environment(uv, work / "environment", gpu, log)
        tree = _unpack(_sdist(python, log), work)
        _apply_patches(python, tree, log)
        variables = _build_environment(python, jobs, gpu)
        if gpu:
            variables.update(_cuda_environment(python, work / "cuda"))
        made = _compile(python, tree, work / "dist", variables, log)
        _check_wheel(python, made, gpu, log)
        built = folder / made.name
        made.rename(built)
    finally:
        _remove_work(folder)
    say(f"built {built.name} in {tools.elapsed(start)}, kept in {folder}")
    return built


def _remove_work(folder: Path) -> None:
    """Removes the working folders, also those of killed builds: whoever holds the lock is the only build here."""
    for work in folder.glob("work-*"):
        shutil.rmtree(work, ignore_errors=True)


def _make_environment(uv: str, environment: Path, gpu: bool, log: Path) -> Path:
    say(f"Horovod: making an environment to build in (TensorFlow, Open MPI, cmake{', CUDA, clang' if gpu else ''})")
    what = "get the packages that Horovod is built with"
    variables = tools.index_environment()
    interpreter = str(getattr(sys, "_base_executable", sys.executable))
    tools.run_logged([uv, "venv", "--python", interpreter, str(environment)], log, what, variables)
    python = environment / "bin" / "python"
    command = [uv, "pip", "sync", "--require-hashes", "--python", str(python), str(_requirements(gpu))]
    tools.run_logged(command, log, what, variables)
    return python


def _sdist(python: Path, log: Path) -> Path:
    """The source archive, from the cache or the package index, its hash checked."""
    folder = tools.make_folder(tools.cache_folder() / "horovod" / "sdist")
    archive = folder / SDIST
    if not archive.exists():
        _download(python, archive, log)
    if _sha256(archive) != SDIST_SHA256:
        archive.unlink()
        raise SetupError(f"{SDIST} is not the pinned one (sha256 differs); it was removed, try again")
    return archive


def _download(python: Path, archive: Path, log: Path) -> None:
    say(f"Horovod: downloading {SDIST}")
    with tempfile.TemporaryDirectory(prefix="download-", dir=archive.parent) as folder:
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(f"horovod=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
        # pip checks the hash before it runs anything of the archive.
        command = [str(python), "-m", "pip", "download", "--no-input", "--no-deps", "--no-binary", ":all:"]
        command += ["--no-build-isolation", "--require-hashes", "-r", str(requirement), "-d", folder]
        tools.run_logged(command, log, f"download {SDIST}", tools.index_environment())
        (Path(folder) / SDIST).replace(archive)


def _unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        # Early releases of Python 3.11 do not have the filter.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        tar.extractall(folder)  # noqa: S202 - its sha256 is pinned
    return folder / SDIST.removesuffix(".tar.gz")


def _apply_patches(python: Path, tree: Path, log: Path) -> None:
    for patch in _patches():
        # patch-ng wants every line of context at its exact place.
        command = [str(python), "-m", "patch_ng", "--strip=1", f"--directory={tree}", str(patch)]
        tools.run_logged(command, log, f"apply {patch.name}", os.environ)


def _build_environment(python: Path, jobs: int, gpu: bool) -> dict[str, str]:
    unwanted = re.compile("HOROVOD_|MPI_|CCL_|NCCL_|CUDA|CMAKE_|MAKE|MFLAGS|PYTHONPATH|PYTHONHOME")
    variables = {name: value for name, value in os.environ.items() if not unwanted.match(name)}
    variables.update(_options(gpu))
    variables["MAKEFLAGS"] = f"-j{jobs}"
    variables["PATH"] = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    variables["MPI_HOME"] = str(python.parent.parent)
    variables["CXX"] = shlex.join(_compiler())
    return variables


def _cuda_environment(python: Path, folder: Path) -> dict[str, str]:
    """Makes a CUDA toolkit of the packages; what tells Horovod and cmake of it and of NCCL."""
    site = _site_packages(python)
    toolkit = str(cuda_toolkit.make(folder, site, python, _compiler()))
    nccl = site / "nvidia" / "nccl"
    return {
        "HOROVOD_CUDA_HOME": toolkit,
        "CUDA_PATH": toolkit,
        "HOROVOD_NCCL_INCLUDE": str(nccl / "include"),
        "HOROVOD_NCCL_LIB": str(nccl / "lib"),
    }


def _site_packages(python: Path) -> Path:
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def _progress(tail: str) -> str:
    steps = re.findall(r"^\[ *(\d+)%\] \w+ \w+ \w+ (\S+)", tail, re.MULTILINE)
    if not steps:
        return "elapsed"
    percent, target = steps[-1]
    return f"compiling, {percent} %: {Path(target).name.removesuffix('.o')}"


def _compile(python: Path, tree: Path, output: Path, variables: Mapping[str, str], log: Path) -> Path:
    say(f"Horovod: compiling with make {variables['MAKEFLAGS']}, a few minutes")
    command = [str(python), "setup.py", "bdist_wheel", "--dist-dir", str(output)]
    try:
        tools.run_logged(command, log, "compile Horovod", variables, tree, _progress)
    except SetupError:
        say(_errors_of(log))
        raise SetupError(f"cannot compile Horovod, see above; the whole log is {log}") from None
    return next(output.glob("*.whl"))


def _errors_of(log: Path, lines: int = 20) -> str:
    """The compiler's errors, or else the last lines of the log."""
    tail = tools.tail_of(log, 1_000_000).splitlines()
    errors = [line for line in tail if re.search(r"\b(fatal )?error:|CMake Error|No space left", line)]
    return "\n".join(f"  {line[:200]}" for line in (errors or tail)[-lines:])


# In the order of the arguments: the library, and the features that it must have.
_LOADS = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
missing = [name for name in sys.argv[2:] if not library["horovod_" + name + "_built"]()]
sys.exit("not built with " + ", ".join(missing) if missing else 0)
"""


def _check_wheel(python: Path, made: Path, gpu: bool, log: Path) -> None:
    """Checks that the library loads from where it gets installed, and has MPI and Gloo, with GPUs CUDA and NCCL."""
    with zipfile.ZipFile(made) as archive:
        name = next(name for name in archive.namelist() if name.startswith("horovod/tensorflow/mpi_lib"))
        library = archive.extract(name, _site_packages(python))
    features = ["mpi", "gloo", *(["cuda", "nccl"] if gpu else [])]
    tools.run_logged([str(python), "-c", _LOADS, library, *features], log, "load the compiled Horovod", os.environ)


# --- command line and PEP 517 ----------------------------------------------------------------------------------------


def build_wheel(wheel_directory: str, config_settings: object = None, metadata_directory: object = None) -> str:
    """PEP 517: puts the wheel into the folder."""
    built = wheel()
    shutil.copy(built, wheel_directory)
    return built.name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build the Horovod wheel of this project for the Python that runs this, or find it in the cache;"
        " print its path."
    )
    parser.add_argument("--gpu", action="store_true", help="with GPU operations by NCCL, for TensorFlow with CUDA")
    parser.add_argument("--output", metavar="DIR", type=Path, help="copy the wheel into this folder as well")
    parser.add_argument("--check", action="store_true", help="build nothing; say whether it is built or could be")
    parser.add_argument(
        "--jobs", metavar="N", type=int, help="files to compile at a time (default: by cores and memory)"
    )
    return parser.parse_args()


def main() -> int:
    """The command line."""
    arguments = _arguments()
    if arguments.check:
        built = cached_wheel(arguments.gpu)
        if built is None:
            check(arguments.gpu)
        print(built or "not built yet; what a build needs is there")
        return 0
    built = wheel(jobs=arguments.jobs, gpu=arguments.gpu)
    if arguments.output is not None:
        built = Path(shutil.copy(built, tools.make_folder(arguments.output)))
    print(built)
    return 0


if __name__ == "__main__":
    sys.exit(tools.guarded(main))
