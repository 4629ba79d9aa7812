"""A run's model with the weights of one of its checkpoints."""

from __future__ import annotations

import keras

from distrain.checkpoint.state import read_weights, set_weights, sha256
from distrain.data.provider import ExampleSpec
from distrain.errors import BadInput
from distrain.model.build import build_model
from distrain.use.saved import Saved


def trained_model(saved: Saved, spec: ExampleSpec | None = None) -> keras.Model:
    """The trained model, built for examples of `spec`; as it was trained where left out. Raises `BadInput`."""
    # Its weights are float32 then: what is computed from them may well be, too.
    mixed = saved.job.train.precision.startswith("mixed")
    train = saved.job.train.model_copy(update={"precision": "float32"}) if mixed else saved.job.train
    model = build_model(saved.job.model_copy(update={"train": train}), spec or saved.spec)
    take_up(model, saved)
    return model


def take_up(model: keras.Model, saved: Saved) -> None:
    """Set a model's weights to those of the checkpoint, bit for bit. Raises `BadInput` where they are of another."""
    try:
        weights = read_weights(saved.checkpoint)
    except OSError as error:
        raise BadInput(str(error)) from error
    if sha256(weights, "weights") != saved.manifest.weights_sha256:
        raise BadInput(
            f"{saved.checkpoint}: its weights are not those that were saved, expected an undamaged checkpoint"
        )
    set_weights(model, list(weights.items()), source=str(saved.checkpoint))
