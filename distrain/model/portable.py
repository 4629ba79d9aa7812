"""A model that others can load: of Keras's own layers alone, so that no code of this project is needed for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from distrain.model.dropout import ReLUDropout
from distrain.model.sync_batch_norm import StepBatchNormalization
from distrain.model.unet import CropAndConcatenate

Crop = tuple[tuple[int, int], tuple[int, int]]


def portable(model: keras.Model, image_shape: tuple[int, int, int]) -> keras.Model:
    """A copy with the same weights, in which Keras's layers take the places of ours.

    What ours crop by the sizes that they see is cropped as for images of `image_shape`, and so for all that differ from
    these by whole strides of the coarsest resolution. A model that is no graph of layers is returned as it is.
    """
    if not (isinstance(model, keras.Sequential) or hasattr(model, "operations")):
        return model
    crops: dict[str, Crop] = {}
    drops: dict[str, keras.layers.Layer] = {}  # what follows the ReLU of that name

    def note(layer: keras.layers.Layer, *arguments: Any, **options: Any) -> Any:
        if isinstance(layer, CropAndConcatenate):
            crops[layer.name] = _crop(*arguments[0])
        return layer(*arguments, **options)

    def call(layer: keras.layers.Layer, *arguments: Any, **options: Any) -> Any:
        if layer.name in crops:
            skipped, upsampled = arguments[0]
            cropped = keras.layers.Cropping2D(crops[layer.name], name=f"{layer.name}_crop")(skipped)
            return layer([cropped, upsampled])
        result = layer(*arguments, **options)
        return drops[layer.name](result) if layer.name in drops else result

    def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, ReLUDropout):
            drops[f"{layer.name}_relu"] = keras.layers.Dropout(
                1 - layer.keep, seed=layer.seed, name=layer.name, dtype=layer.dtype_policy
            )
        return _stock(layer)

    sized = keras.Input(image_shape, dtype=model.inputs[0].dtype)
    structure = type(model.input)([sized]) if isinstance(model.input, list | tuple) else sized
    keras.models.clone_model(model, input_tensors=structure, call_function=note)
    copy = keras.models.clone_model(model, clone_function=stock, call_function=call)
    copy.set_weights(model.get_weights())
    return copy


def has_own_layers(model: keras.Model) -> bool:
    """Whether `portable` puts others in the place of any of its layers."""
    return any(isinstance(layer, ReLUDropout | CropAndConcatenate | StepBatchNormalization) for layer in model.layers)


def needed_code(config: Any) -> Iterator[str]:
    """What in a model's serialised configuration is not Keras's own, and so needs its code where it is loaded."""
    if isinstance(config, dict):
        if config.get("class_name") == "__lambda__":
            yield "a lambda"  # kept as byte code, which Keras does not load
        if "registered_name" in config and "class_name" in config:
            module = config.get("module") or ""
            if not module.startswith("keras") or ">" in (config["registered_name"] or ""):
                yield str(config["registered_name"] or config["class_name"])
        config = list(config.values())
    if isinstance(config, list | tuple):
        for item in config:
            yield from needed_code(item)


def _crop(skipped: Any, upsampled: Any) -> Crop:
    """How much of the first tensor goes at the top, bottom, left and right, as `unet.centre` has it."""
    (top, bottom), (left, right) = (
        ((have - want) // 2, have - want - (have - want) // 2)
        for have, want in zip(skipped.shape[1:3], upsampled.shape[1:3], strict=True)
    )
    return (top, bottom), (left, right)


def _stock(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Keras's layer for one of ours, a copy of any other."""
    common = {"name": layer.name, "dtype": layer.dtype_policy}
    if isinstance(layer, ReLUDropout):
        return keras.layers.ReLU(name=f"{layer.name}_relu", dtype=layer.dtype_policy)
    if isinstance(layer, CropAndConcatenate):
        return keras.layers.Concatenate(**common)
    if isinstance(layer, StepBatchNormalization):
        return keras.layers.BatchNormalization.from_config(layer.get_config())
    return layer.__class__.from_config(layer.get_config())
