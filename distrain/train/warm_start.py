"""Beginning a run from weights that another one, or somebody else, has trained: `model.init_from`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras
import tensorflow as tf

from distrain.checkpoint.state import Arrays, read_weights, set_weights
from distrain.checkpoint.store import MANIFEST, Found, at_step, newest_valid
from distrain.errors import BadInput
from distrain.log.folder import RunFolder

KEY = "'model.init_from'"
EXPECTED = "expected a run's folder, one of its checkpoints, or a .keras file"


def warm_start(model: keras.Model, source: str) -> str:
    """Set a model's weights to those of a run, of one of its checkpoints, or of a `.keras` file; returns which.

    Raises `BadInput` where they cannot be read, or are not of this model.
    """
    path = Path(source).expanduser()
    if path.suffix == ".keras":
        name, weights = str(path), _of_keras(path)
    else:
        found = _checkpoint(path)
        name = str(found.path)
        try:
            weights = read_weights(found.path)
        except OSError as error:
            raise BadInput(f"{KEY}: {error}") from error
    set_weights(model, list(weights.items()), source=f"{KEY}: {name}")
    return name


def _checkpoint(path: Path) -> Found:
    """The checkpoint that a path is, or the newest valid one of the run that it is."""
    if (path / MANIFEST).is_file():
        found = at_step(path.parent, int(path.name.rpartition("_")[2]))
        if found.why_not is not None:
            raise BadInput(f"{KEY}: {path}: {found.why_not}")
        return found
    if not RunFolder(path).job.is_file():
        raise BadInput(f"{KEY}: {path}: {'no run' if path.exists() else 'no such folder'}, {EXPECTED}")
    newest, rejected = newest_valid(RunFolder(path).checkpoints)
    if newest is None:
        why = f" ({rejected[0].path.name}: {rejected[0].why_not})" if rejected else ""
        raise BadInput(f"{KEY}: {path}: has no valid checkpoint{why}, {EXPECTED}")
    return newest


def _of_keras(path: Path) -> Arrays:
    """The weights of a `.keras` file, by number and path."""
    if not path.is_file():
        raise BadInput(f"{KEY}: {path}: no such file, {EXPECTED}")
    try:
        model = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile, tf.errors.OpError) as error:
        # What Keras says of a file that needs code goes on for pages, the first sentence first.
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{KEY}: {path}: Keras cannot load it ({reason})") from error
    return {f"{number:04d}/{weight.path}": weight.numpy() for number, weight in enumerate(model.weights)}
