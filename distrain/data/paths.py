"""From the names in a job to files: folders, globs, brace ranges (`part_{000..127}.png`), lists, URLs."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

import bracex

from distrain.data.storage import is_url, listed, one_line, shown
from distrain.errors import BadInput
from distrain.nearest import nearest_path

MOST_BRACES = 1_000_000


class Wanted(NamedTuple):
    """What a provider reads: its own name and that of its files, and which files in a folder or glob are of them."""

    provider: str
    what: str
    usable: Callable[[str], bool]
    endings: Sequence[str]


def files(names: str | Sequence[str], key: str, wanted: Wanted) -> list[str]:
    """The files behind the names given for `key`, in the order given, those of one folder or glob in plain order.

    Nothing at all behind a name is an error: `BadInput`.
    """
    if not names:
        raise BadInput(f"{wanted.provider}: {key} is empty, expected a folder, a glob or a file")
    given = [names] if isinstance(names, str) else names
    return [file for name in given for part in braced(name, key) for file in _expanded(part, key, wanted)]


def braced(name: str, key: str) -> list[str]:
    """The names that braces stand for; a path that exists is taken as it is, and so is one without braces."""
    if "{" not in name or (not is_url(name) and os.path.lexists(os.path.expanduser(name))):
        return [name]
    try:
        return [str(part) for part in bracex.expand(name, keep_escapes=True, limit=MOST_BRACES)]
    except (bracex.ExpansionLimitException, ValueError) as error:
        raise BadInput(f"{key}: {shown(name)}: its braces stand for more than {MOST_BRACES} names") from error


def _expanded(name: str, key: str, wanted: Wanted) -> list[str]:
    """The files of one folder or glob, or the one file; a path that exists is not taken for a glob."""
    if is_url(name):
        return _remote(name, key, wanted)
    path = os.path.expanduser(name)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if glob.has_magic(path):
            found = sorted(file for file in glob.iglob(path, recursive=True) if not os.path.isdir(file))
            return _usable(found, key, f"the glob {shown(name)} matches", wanted)
        expected = f"expected {wanted.what} to read{nearest_path(path)}"
        raise BadInput(f"{key}: {shown(name)}: no such file or folder, {expected}") from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, key, error) from error
    return _folder(path, name, key, wanted) if stat.S_ISDIR(mode) else [path]


def _remote(name: str, key: str, wanted: Wanted) -> list[str]:
    """As for a local name; one that ends like a file is not looked for, since reading it will tell."""
    if not glob.has_magic(name) and wanted.usable(name) and os.path.splitext(name)[1]:
        return [name]
    found = listed(name, wanted.what)
    return found if found == [name] else _usable(found, key, f"{shown(name)} matches", wanted)


def _folder(path: str, name: str, key: str, wanted: Wanted) -> list[str]:
    try:
        with os.scandir(path) as entries:
            # A dangling link counts as a file: leaving it out would pair the files after it wrongly.
            found = sorted(entry.path for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    except OSError as error:
        raise _unreadable(name, key, error) from error
    return _usable(found, key, f"the folder {shown(name)}, its subfolders aside, holds", wanted)


def _usable(found: list[str], key: str, what: str, wanted: Wanted) -> list[str]:
    usable = [file for file in found if wanted.usable(file)]
    if not usable:
        kind = {"images": "an image"}.get(wanted.what, f"one of the {wanted.what}")
        seen = f"{len(found)} files, none of them {kind}" if found else "no files"
        raise BadInput(f"{key}: {what} {seen}, expected files that end in {', '.join(wanted.endings)}")
    return usable


def _unreadable(name: str, key: str, error: Exception) -> BadInput:
    return BadInput(f"{key}: {shown(name)}: cannot be read ({one_line(error)}), expected a readable file or folder")
