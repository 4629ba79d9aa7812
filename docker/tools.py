"""What the set-up scripts share: errors of one line, the cache, disk space, uv, and running tools with a log.

Standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV_REQUIREMENTS = ROOT / "requirements" / "uv.txt"
HEARTBEAT_SECONDS = 10.0

# What the tools write when one of these is the matter, in the order of looking.
_CAUSES = (
    (r"No space left on device|os error 28|Disk quota exceeded", "the disk is full"),
    (r"Read-only file system|Permission denied", "a folder cannot be written to"),
    (r"DO NOT MATCH THE HASHES|[Hh]ash mismatch|hash digest", "a download is not what its pinned hash says"),
    (
        r"[Cc]onnection|[Cc]onnect error|tcp connect|dns error|resolve host|[Nn]ame or service|timed out"
        r"|error sending request|[Nn]etwork|[Pp]roxy|certificate|CERTIFICATE|client error",
        "the package index cannot be reached",
    ),
    (r"No matching distribution|not found in the package registry", "the package index does not answer or lacks it"),
)


class SetupError(Exception):
    """Something that the user has to see to; its text is the one line to show."""


def say(text: str) -> None:
    """Shows a line of progress. Standard output is left to results that other programs read."""
    print(text, file=sys.stderr, flush=True)


def guarded(main: Callable[[], int]) -> int:
    """Runs a script's main function; turns what went wrong into a line and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_exit)
    try:
        return main()
    except SetupError as error:
        say(f"error: {error}")
        return 2
    except OSError as error:
        say(f"error: {error.strerror or error}: {error.filename or 'no file named'}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; the same command starts it again")
        return 130


def _raise_exit(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)


def elapsed(start: float) -> str:
    """The time since `start` as minutes and seconds."""
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes}:{seconds:02}"


# --- folders ---------------------------------------------------------------------------------------------------------


def _user_cache() -> Path:
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules have relative paths ignored.
    return Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"


def cache_folder() -> Path:
    """Where this project keeps what is costly to make, outside the work tree."""
    return _user_cache() / "distrain"


def uv_cache_folder() -> Path:
    """Where uv keeps downloaded packages."""
    return Path(os.environ.get("UV_CACHE_DIR") or _user_cache() / "uv")


def make_folder(folder: Path) -> Path:
    """Makes a folder that can be written to, or says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        advice = "; set XDG_CACHE_HOME to a folder that can be" if folder.is_relative_to(_user_cache()) else ""
        raise SetupError(f"cannot write to {folder} ({error.strerror}){advice}") from error


def existing_parent(folder: Path) -> Path:
    """The folder itself or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def require_space(needs: Mapping[Path, float]) -> None:
    """Checks that each folder's file system has the gigabytes that all folders on it need together."""
    groups: dict[int, list[Path]] = {}
    for folder in needs:
        groups.setdefault(existing_parent(folder).stat().st_dev, []).append(folder)
    for folders in groups.values():
        wanted = sum(needs[folder] for folder in folders)
        free = shutil.disk_usage(existing_parent(folders[0])).free / 1e9
        if free < wanted:
            places = " and ".join(str(folder) for folder in folders)
            raise SetupError(f"not enough disk space for {places}: {wanted:.1f} GB needed, {free:.1f} GB free")


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds a lock file, after saying `busy` where another process has it; it is freed even by a kill."""
    make_folder(path.parent)
    with path.open("w") as lock:
        said = -HEARTBEAT_SECONDS
        while not _try_lock(lock.fileno()):
            if time.monotonic() - said >= HEARTBEAT_SECONDS:
                say(busy)
                said = time.monotonic()
            time.sleep(0.2)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- running tools ---------------------------------------------------------------------------------------------------


def run_logged(
    command: Sequence[str],
    log: Path,
    what: str,
    environment: Mapping[str, str],
    folder: Path = ROOT,
    progress: Callable[[str], str] = lambda tail: "elapsed",
) -> None:
    """Runs a tool with its output in `log`, and a line every few seconds on how far it is.

    `what` is what the tool does, as in "cannot <what>"; `progress` makes something readable of the log's end.
    """
    start = time.monotonic()
    with log.open("ab") as output:
        # A session of its own, so that stopping it stops the compilers that it started, too.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not _ended(process):
                say(f"  {elapsed(start)} {progress(tail_of(log))}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode != 0:
        raise SetupError(f"cannot {what}: {cause_of(log)}; the log is {log}")


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(HEARTBEAT_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def tail_of(log: Path, size: int = 20_000) -> str:
    """The end of a log, as text."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - size))
        return stream.read().decode(errors="replace")


def cause_of(log: Path) -> str:
    """The likely cause of a tool's failure, from its log."""
    if shutil.disk_usage(log.parent).free < 50e6:
        return f"the disk is full ({log.parent})"  # even the log may lack the reason then
    tail = tail_of(log)
    for pattern, cause in _CAUSES:
        if re.search(pattern, tail):
            return cause
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return f"it ended with: {lines[-1]}" if lines else "it said nothing"


# --- package index ---------------------------------------------------------------------------------------------------


def _pip_configuration() -> dict[str, str]:
    """pip's settings from its files and from the environment, without their section names."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings: dict[str, str] = {}
    # Sorted, ":env:" comes before "global": later lines must not win over it.
    for line in sorted(listing.splitlines()):
        name, _, value = line.partition("=")
        with contextlib.suppress(ValueError, SyntaxError):
            settings.setdefault(name.rpartition(".")[2], str(ast.literal_eval(value)))
    return settings


@functools.cache
def index_environment() -> Mapping[str, str]:
    """The environment in which pip and uv ask the same package index, whichever of them it was configured for."""
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONHOME"}}
    pip = _pip_configuration()
    if "UV_DEFAULT_INDEX" not in environment and "UV_INDEX_URL" not in environment and "index-url" in pip:
        environment["UV_DEFAULT_INDEX"] = pip["index-url"]
    if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        environment.setdefault("UV_NO_INDEX", "1")
        environment.setdefault("UV_FIND_LINKS", pip.get("find-links", ""))
    if "trusted-host" in pip:
        environment.setdefault("UV_INSECURE_HOST", pip["trusted-host"])
    if "cert" in pip:
        environment.setdefault("SSL_CERT_FILE", pip["cert"])
    uv_index = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")
    if uv_index and "index-url" not in pip:
        environment["PIP_INDEX_URL"] = uv_index
    # pip is only ever told to write to a folder of its own here, whatever it is configured to do otherwise.
    environment.update(PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    environment.update(UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1")
    return environment


# --- uv --------------------------------------------------------------------------------------------------------------


def _pinned_uv() -> str:
    match = re.search(r"^uv==([\d.]+)", UV_REQUIREMENTS.read_text(), re.MULTILINE)
    if match is None:
        raise SetupError(f"{UV_REQUIREMENTS} does not name a version of uv")
    return match.group(1)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _uv_on_path(at_least: str) -> str | None:
    uv = shutil.which("uv")
    if uv is None:
        return None
    output = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"uv (\d+\.\d+\.\d+)", output)
    return uv if match and _numbers(match.group(1)) >= _numbers(at_least) else None


def get_uv() -> str:
    """The path of uv: the one on the PATH if it is new enough, else the pinned one, installed if need be."""
    pinned = _pinned_uv()
    on_path = _uv_on_path(pinned)
    if on_path is not None:
        return on_path
    folder = cache_folder() / f"uv-{pinned}"
    uv = folder / "bin" / "uv"
    if not uv.exists():
        with locked(cache_folder() / "uv.lock", "waiting for another set-up that installs uv"):
            if not uv.exists():
                _install_uv(pinned, folder)
    return str(uv)


def _install_uv(version: str, folder: Path) -> None:
    has_pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if has_pip.returncode != 0:
        raise SetupError(
            f"{sys.executable} has no pip, which is to install uv: install pip for it (Debian: python3-pip),"
            f" or put uv {version} or newer on the PATH"
        )
    say(f"installing uv {version} into {folder}")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "--no-input"]
    command += ["--target", str(partial), "-r", str(UV_REQUIREMENTS)]
    run_logged(command, new_log("uv"), f"install uv {version}", index_environment())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def new_log(name: str) -> Path:
    """An empty log file of that name in the cache."""
    log = make_folder(cache_folder() / "logs") / f"{name}.log"
    log.write_bytes(b"")
    return log
