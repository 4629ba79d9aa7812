"""Stands on the PATH for a program whose other side is not here: sees whether it could have done what it was told.

    stand_in.py NAME ARGUMENT ...

Writes down the call; ends with 0 where every option is one of the program's, and every file that is named is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from distrain.cli import train
from distrain.cli.parser import Parser
from distrain.job.load import load_job
from distrain.train.schedule import make_schedule


def docker(words: Sequence[str]) -> int:
    """The engine: `run`, `build`, `compose -f FILE up`; an image's arguments are distrain's."""
    parser = argparse.ArgumentParser(prog="docker", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info")
    build = commands.add_parser("build", allow_abbrev=False)
    for option in ("--target", "--file", "--tag", "--build-arg", "--secret"):
        build.add_argument(option, action="append")
    build.add_argument("context")
    run = commands.add_parser("run", allow_abbrev=False)
    run.add_argument("--rm", action="store_true")
    run.add_argument("--gpus")
    run.add_argument("-v", dest="volume", type=_volume)
    run.add_argument("image", choices=("distrain:cpu", "distrain:gpu"))
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    compose = commands.add_parser("compose", allow_abbrev=False)
    compose.add_argument("-f", dest="file", type=_existing)
    compose.add_argument("action", choices=("up",))
    compose.add_argument("--abort-on-container-exit", action="store_true")
    compose.add_argument("--exit-code-from")
    found = parser.parse_args(words)
    if found.command == "build":
        _existing(found.file[0])
        _existing(found.context)
    elif found.command == "run":
        _train([word.replace("/opt/distrain/", "") for word in found.arguments])
    return 0


def kubectl(words: Sequence[str]) -> int:
    """The real one, which reads its options before it asks a server: it must miss that alone."""
    real = Path(sys.prefix) / "bin" / "kubectl"
    if words[0] == "kustomize":
        return subprocess.run([real, *words], check=False).returncode
    if "-k" in words:
        overlay = words[words.index("-k") + 1]
        subprocess.run([real, "kustomize", overlay], check=True, stdout=subprocess.DEVNULL)
    nowhere = ["--server", "http://127.0.0.1:9", "--request-timeout", "2s"]
    done = subprocess.run([real, *nowhere, *words], check=False, capture_output=True, text=True)
    print(done.stderr, file=sys.stderr)
    return 0 if re.search(r"127\.0\.0\.1:9.*refused", done.stderr) else 1


def sbatch(words: Sequence[str]) -> int:
    """Slurm's: its own options, a script that the shell can read, and what distrain would train there."""
    parser = argparse.ArgumentParser(prog="sbatch", allow_abbrev=False)
    for option in ("--nodes", "--ntasks-per-node", "--cpus-per-task"):
        parser.add_argument(option, type=int)
    for option in ("--gres", "--mem"):
        parser.add_argument(option)
    parser.add_argument("script", type=_existing)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    found = parser.parse_args(words)
    subprocess.run(["bash", "-n", found.script], check=True)
    # What the script asks for, where the command line does not.
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", found.script.read_text(encoding="utf-8"), re.MULTILINE))
    _train(
        ["train", *found.arguments],
        workers=(found.nodes or int(asked["nodes"])) * (found.ntasks_per_node or int(asked["ntasks-per-node"])),
    )
    return 0


def scancel(words: Sequence[str]) -> int:
    """Slurm's."""
    parser = argparse.ArgumentParser(prog="scancel", allow_abbrev=False)
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--signal", choices=("TERM", "USR1"))
    parser.add_argument("job", type=int)
    parser.parse_args(words)
    return 0


def ssh(words: Sequence[str]) -> int:
    """Every host is this machine: the command runs here."""
    rest, hosts = list(words), 0
    # Options may stand before the host and behind it.
    while rest and (rest[0].startswith("-") or not hosts):
        word = rest.pop(0)
        hosts += not word.startswith("-")
        if word in ("-o", "-p", "-i"):
            rest.pop(0)
    os.execvp("sh", ["sh", "-c", " ".join(rest)])  # noqa: S606 - this is what ssh does with it


def uv(words: Sequence[str]) -> int:
    """The real one; of the packages for GPUs it sees whether all could be had, and puts those for CPUs there."""
    # Compiling what is there to be looked at once would take most of the time.
    real, words = os.environ["STAND_IN_UV"], [word for word in words if word != "--compile-bytecode"]
    instead = words[:2] == ["pip", "sync"] and Path(words[-1]).name == "gpu.txt"
    if instead:
        subprocess.run([real, *words, "--dry-run"], check=True)
        words[-1] = str(Path(words[-1]).with_name("cpu.txt"))
    code = subprocess.run([real, *words], check=False).returncode
    if instead:
        _copy_bytecode(Path(words[words.index("--python") + 1]).parents[1])
    return code


def _copy_bytecode(environment: Path) -> None:
    """Put there what this environment has compiled of the same files: TensorFlow's take most of a minute."""
    packages = Path(sysconfig.get_path("purelib"))
    there = environment / packages.relative_to(sys.prefix)
    for compiled in packages.rglob(f"*.{sys.implementation.cache_tag}.pyc"):
        source = Path(importlib.util.source_from_cache(str(compiled)))
        same = there / source.relative_to(packages)
        if source.is_file() and same.is_file() and _written(source) == _written(same):
            target = there / compiled.relative_to(packages)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(compiled, target)


def _written(source: Path) -> tuple[int, int]:
    """What Python sees by whether bytecode is of this source: the second it was written, and its size."""
    found = source.stat()
    return int(found.st_mtime), found.st_size


def _train(words: Sequence[str], workers: int = 1) -> None:
    """What `distrain train` would say of its arguments and job on so many workers; its data may be elsewhere."""
    parser = Parser(prog="distrain")
    train.add_arguments(parser.add_subparsers(required=True).add_parser("train"))
    found = parser.parse_args(words)
    job = load_job(found.job, found.overrides)
    make_schedule(job.train, examples=sys.maxsize, seed=job.seed, size=workers)


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise SystemExit(f"{text}: no such file")
    return path


def _volume(text: str) -> str:
    folder, _, inside = text.partition(":")
    _existing(folder)
    if not inside.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text}: expected FOLDER:/INSIDE")
    return text


def main() -> int:
    """Stand in for the program of this name."""
    name, words = sys.argv[1], sys.argv[2:]
    with Path(os.environ["STAND_IN_CALLS"]).open("a", encoding="utf-8") as calls:
        calls.write(json.dumps([name, *words]) + "\n")
    programs = {"docker": docker, "kubectl": kubectl, "sbatch": sbatch, "scancel": scancel, "ssh": ssh, "uv": uv}
    return programs[name](words)


if __name__ == "__main__":
    sys.exit(main())
