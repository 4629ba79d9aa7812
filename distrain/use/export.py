"""Writing a trained model down for others: a SavedModel, or a `.keras` file, both to be loaded without distrain."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from distrain.errors import BadInput, RunFailed
from distrain.job.schema import UNet
from distrain.model.build import input_shape
from distrain.model.portable import needed_code, portable
from distrain.model.tiling import unet_tiling
from distrain.use.pictures import normalisation, normalisation_in_words
from distrain.use.saved import Saved
from distrain.use.weights import trained_model

SUFFIX = ".keras"
PROBABILITIES, LOGITS = "probabilities", "logits"
# Where TensorFlow leaves room for what others add to a SavedModel; beside a `.keras` file it is NAME.keras.json.
EXTRA = "assets.extra"
DESCRIPTION = "distrain.json"


def export(saved: Saved, target: Path, *, logits: bool) -> dict[str, Any]:
    """Write the model to `target`, a new folder or a file that ends in `.keras`; returns its description.

    Raises `BadInput` where it cannot be written in that form, `RunFailed` where it cannot be written at all.
    """
    if os.path.lexists(target):
        raise BadInput(f"{target}: is there already, expected a new name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written ({error.strerror}), expected a name in a folder") from error
    model = trained_model(saved)
    temporary = target.with_name(f"tmp_{target.name}")
    kind = LOGITS if logits else PROBABILITIES
    description = describe(saved, model, kind=kind)
    text = json.dumps(description, indent=1) + "\n"
    try:
        if target.suffix == SUFFIX:
            _write_keras(model, saved, temporary, kind=kind)
            target.with_name(f"{target.name}.json").write_text(text, encoding="utf-8")
        else:
            _write_saved_model(model, saved, temporary, kind=kind)
            (temporary / EXTRA).mkdir()
            (temporary / EXTRA / DESCRIPTION).write_text(text, encoding="utf-8")
        temporary.replace(target)
    except (OSError, tf.errors.OpError) as error:
        raise RunFailed(f"{target}: cannot be written ({' '.join(str(error).split())})") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
    return description


def describe(saved: Saved, model: keras.Model, *, kind: str) -> dict[str, Any]:
    """What somebody must know who uses the model, as JSON holds it."""
    normalise, value_range = normalisation(saved.job.data.train)
    options, sizes, border = saved.job.model, "", 0
    if isinstance(options, UNet):
        tiling = unet_tiling(options)
        border = tiling.lost // 2
        height, width, _ = saved.spec.image_shape
        sizes = f"{height} x {width}, and what differs from that by multiples of {tiling.stride}"
    return {
        "run": str(saved.folder.path),
        "step": saved.manifest.progress.step,
        "weights_sha256": saved.manifest.weights_sha256,
        "input": {
            "shape": [None, *input_shape(model, saved.spec)],
            "dtype": model.compute_dtype,
            "sizes": sizes or "the shape's",
            "normalise": normalise,
            "value_range": value_range,
            "values": normalisation_in_words(normalise, value_range),
        },
        "output": {
            "kind": kind,
            "classes": saved.spec.classes,
            "class_names": list(saved.class_names),
            "border": border,
        },
        "versions": saved.manifest.versions,
    }


def _write_keras(model: keras.Model, saved: Saved, path: Path, *, kind: str) -> None:
    """Raises `BadInput` where the file could not be loaded without the user's own code."""
    model = portable(model, saved.spec.image_shape)
    needed = sorted(set(needed_code(keras.saving.serialize_keras_object(model))))
    if needed:
        raise BadInput(
            f"the model holds {', '.join(needed)}, which a {SUFFIX} file does not hold the code of: "
            "expected a name without this ending, for a SavedModel, which holds it"
        )
    if kind == PROBABILITIES:
        output = keras.layers.Softmax(name=PROBABILITIES)(model.outputs[0])
        model = keras.Model(model.input, output, name=model.name)
    model.save(path)


def _write_saved_model(model: keras.Model, saved: Saved, path: Path, *, kind: str) -> None:
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(image, training=False)
        return {kind: logits if kind == LOGITS else tf.nn.softmax(logits)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    shape = [None, *input_shape(model, saved.spec)]
    archive.add_endpoint("serve", serve, [tf.TensorSpec(shape, model.compute_dtype, "image")])
    archive.write_out(str(path), verbose=False)
