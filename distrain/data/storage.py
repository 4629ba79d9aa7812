"""Files wherever they are: ordinary local ones, and objects behind a URL (`s3://`, `gs://`, `http://`, ...) by fsspec.

Local files are opened anew for each read and read by position, never mapped: a mapped file that is cut short, or whose
mount vanishes, ends the whole process with a signal, where a read gives an error that can be told.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distrain.data.pool import empty
from distrain.errors import BadInput

IMAGE = "an image"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REMOTE_BLOCK = 1 << 18
# Extras of this package that bring what a protocol needs.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


class Status(NamedTuple):
    """What tells a file from what was there before: its size in bytes and when it last changed (0 where unknown)."""

    size: int
    changed_ns: int


def shown(path: str) -> str:
    """The path as error messages show it: quoted only where it would break the line."""
    return path if path.isprintable() else ascii(path)


def one_line(error: BaseException) -> str:
    """What an error of the system or of a library says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_url(path: str) -> bool:
    """Whether the path names an object behind a URL rather than a local file."""
    return _URL.match(path) is not None


def unreadable(path: str, error: BaseException, what: str = IMAGE) -> BadInput:
    """What to raise where the system refuses to read a file."""
    noun = what.removeprefix("an ").removeprefix("a ")
    return BadInput(f"{shown(path)}: cannot be read ({one_line(error)}), expected a readable {noun} file")


def regular(path: str, what: str = IMAGE) -> Status:
    """Checks that a non-empty ordinary file is there; opening a pipe, for one, would wait for ever."""
    if is_url(path):
        return _remote_status(path, what)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise _missing(path, what) from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what) from error
    return _checked(path, status, what)


@contextlib.contextmanager
def opened(path: str, what: str = IMAGE) -> Iterator[BinaryIO]:
    """An ordinary file, open for reading from its start. Raises `BadInput`."""
    if is_url(path):
        with _remote_errors(path, what), _filesystem(path, what).open(path, "rb", block_size=_REMOTE_BLOCK) as remote:
            if remote.size == 0:
                raise _empty(path, what)
            yield remote
        return
    regular(path, what)
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed by the `with` below; only opening itself may fail here)
    except OSError as error:
        raise unreadable(path, error, what) from error
    with file:
        yield file


def read(path: str, start: int, length: int, what: str, *, known: Status | None = None) -> memoryview:
    """The `length` bytes from byte `start` on; all of them, or `BadInput`.

    With `known`, a local file that is no longer as it was then is refused.
    """
    if is_url(path):
        with _remote_errors(path, what):
            data: bytes = _filesystem(path, what).cat_file(path, start=start, end=start + length)
        return _whole(path, memoryview(data), len(data), start, length)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _missing(path, what) from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error, what) from error
    try:
        status = _checked(path, os.fstat(descriptor), what)
        if known is not None and status != known:
            raise BadInput(f"{shown(path)}: has changed since it was opened, expected data that stays as it is")
        # Not more memory than the file can fill, whatever a header claims.
        view = empty((max(0, min(length, status.size - start)),), np.uint8).data
        done = 0
        # One call reads at most 2 GiB.
        while done < len(view) and (count := os.preadv(descriptor, [view[done:]], start + done)):
            done += count
    except (OSError, OverflowError) as error:
        raise unreadable(path, error, what) from error
    finally:
        os.close(descriptor)
    return _whole(path, view, done, start, length)


def listed(pattern: str, what: str) -> list[str]:
    """The objects that a URL with a glob in it matches, or those directly in the folder that it names; sorted."""
    with _remote_errors(pattern, what):
        filesystem = _filesystem(pattern, what)
        if any(sign in pattern for sign in "*?["):
            found = filesystem.glob(pattern)
        elif filesystem.isfile(pattern):
            return [pattern]
        else:
            entries = filesystem.ls(pattern.rstrip("/") + "/", detail=True)
            found = [entry["name"] for entry in entries if entry["type"] == "file"]
    return sorted(str(filesystem.unstrip_protocol(name)) for name in found)


def _checked(path: str, status: os.stat_result, what: str) -> Status:
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(f"{shown(path)}: is a folder, expected {what} file")
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{shown(path)}: is not an ordinary file, expected {what} file")
    if status.st_size == 0:
        raise _empty(path, what)
    return Status(status.st_size, status.st_mtime_ns)


def _missing(path: str, what: str) -> BadInput:
    return BadInput(f"{shown(path)}: no such file, expected {what}")


def _empty(path: str, what: str) -> BadInput:
    return BadInput(f"{shown(path)}: is empty (0 bytes), expected {what}")


def _whole(path: str, data: memoryview, count: int, start: int, length: int) -> memoryview:
    if count != length:
        raise BadInput(
            f"{shown(path)}: is cut short: {count} bytes at byte {start}, expected {length}; it is damaged, or "
            "has changed since it was opened"
        )
    return data


# --- behind a URL ---


def _remote_status(path: str, what: str) -> Status:
    with _remote_errors(path, what):
        info = _filesystem(path, what).info(path)
    if info.get("type") == "directory":
        raise BadInput(f"{shown(path)}: is a folder, expected {what} file")
    if not info.get("size"):
        raise _empty(path, what)
    return Status(int(info["size"]), 0)


def _filesystem(path: str, what: str) -> Any:
    return _filesystem_of(path.split("://", 1)[0].lower(), path, what)


@functools.lru_cache(maxsize=32)
def _known_filesystem(protocol: str) -> Any:
    import fsspec

    # What is there may change while we run: listings are not kept.
    return fsspec.filesystem(protocol, use_listings_cache=False)


def _filesystem_of(protocol: str, path: str, what: str) -> Any:
    try:
        return _known_filesystem(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        extras = "python3 docker/environment.py --extras"
        advice = f"the extra '{extra}' of distrain installed ({extras})" if extra else "its package installed"
        raise BadInput(f"{shown(path)}: cannot be read ({one_line(error)}), expected {advice}") from error
    except ValueError as error:
        raise unreadable(path, error, what) from error


@contextlib.contextmanager
def _remote_errors(path: str, what: str) -> Iterator[None]:
    """Turns what fsspec and the clients beneath it raise into one line."""
    try:
        yield
    except BadInput:
        raise
    except FileNotFoundError:
        raise _missing(path, what) from None
    except _remote_failures() as error:
        raise unreadable(path, error, what) from error


def _remote_failures() -> tuple[type[Exception], ...]:
    """OSError is what fsspec promises; some failures of the clients that it uses come through as their own."""
    failures: list[type[Exception]] = [OSError, ValueError, RuntimeError, TimeoutError]
    for module, name in (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("aiohttp", "ClientError"),
        ("gcsfs.retry", "HttpError"),
        ("google.auth.exceptions", "GoogleAuthError"),
    ):
        if module in sys.modules:
            failures.append(getattr(sys.modules[module], name))
    return tuple(failures)
