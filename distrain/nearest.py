"""The name that was meant, where one comes near enough to what was written."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def nearest(name: str, names: Iterable[str]) -> str:
    """`, did you mean 'NAME'?`, or nothing where no name comes near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f", did you mean '{near[0]}'?" if near else ""


def one_of(name: str, names: Iterable[str]) -> str:
    """`, did you mean 'NAME'? Expected one of NAMES`, what of it there is to say."""
    known = list(names)
    hint = nearest(name, known)
    if not known:
        return hint
    return f"{hint} Expected one of {', '.join(known)}" if hint else f", expected one of {', '.join(known)}"


def nearest_path(path: str | Path, *, holding: str | None = None) -> str:
    """As `nearest`, of what is beside a path that is not there; of folders that hold a file `holding` where given."""
    folder, name = os.path.split(os.path.normpath(path))
    names: list[str] = []
    with suppress(OSError):  # no such folder either, or a closed one: nothing is known to be near
        names = os.listdir(folder or os.curdir)
    if holding is not None:
        names = [other for other in names if os.path.exists(os.path.join(folder, other, holding))]
    return nearest(name, [other for other in names if other != name])
