"""From the job's `model`, `loss` and `optimizer` to the Keras and TensorFlow objects they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from distrain.data.order import mix
from distrain.data.provider import ExampleSpec
from distrain.errors import BadInput
from distrain.factory import call_factory
from distrain.job import schema
from distrain.job.schema import (
    Adam,
    Application,
    CrossEntropy,
    CustomLoss,
    CustomModel,
    CustomOptimizer,
    Decaying,
    Dice,
    Job,
    LossChoice,
    ModelChoice,
    Momentum,
    OptimizerChoice,
    UNet,
)
from distrain.model.loss_scale import LossScale
from distrain.model.losses import Loss, cross_entropy, dice
from distrain.model.optimizers import LARS, WarmUp
from distrain.model.sync_batch_norm import synchronised
from distrain.model.unet import build_unet
from distrain.nearest import one_of


@dataclass(frozen=True)
class Trained:
    """What is trained: the model, its loss per example, the factor of its kernels' squares, and the optimizer.

    `rate` is the learning rate where that is fixed for all of the run, by the job; `loss_scale` is there where layers
    compute in float16.
    """

    model: keras.Model
    loss: Loss
    l2: float
    optimizer: keras.optimizers.Optimizer
    rate: float | None = None
    loss_scale: LossScale | None = None

    def trainable(self) -> list[tf.Variable]:
        """The trainable weights as TensorFlow's variables, in the model's order."""
        return [weight.value for weight in self.model.trainable_variables]

    def logits(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """What the model makes of images, in the weights' precision, whatever its layers compute in."""
        dtype = self.trainable()[0].dtype
        return tf.cast(self.model(tf.cast(images, dtype), training=training), dtype)

    def buffers(self) -> list[tf.Variable]:
        """Weights that the forward pass updates, such as the moving averages of batch normalisation."""
        return [weight.value for weight in self.model.non_trainable_weights]

    def random_states(self) -> list[tf.Variable]:
        """The states [2] of the model's random generators, which the step sets; they are no part of the weights."""
        weights = {id(weight) for weight in self.model.weights}
        others = [variable for variable in self.model.variables if id(variable) not in weights]
        return [variable.value for variable in others if variable.path.endswith("seed_generator_state")]

    def kernels(self) -> list[tf.Variable]:
        """What L2 acts on: all trainable weights of two dimensions and more, so no biases."""
        return [variable for variable in self.trainable() if variable.shape.rank >= 2]


def build(job: Job, spec: ExampleSpec, *, batch_size: int, epoch_steps: int) -> Trained:
    """Build what the job names for examples of `spec`. Raises `BadInput` naming the key that does not fit."""
    model = build_model(job, spec)
    loss, l2 = _loss(job.loss, spec)
    optimizer = build_optimizer(job.optimizer, batch_size=batch_size, epoch_steps=epoch_steps)
    optimizer.build(model.trainable_variables)
    fixed = isinstance(job.optimizer, Decaying) and not callable(getattr(optimizer, "_learning_rate", None))
    rate = float(optimizer.learning_rate) if fixed else None
    loss_scale = LossScale() if job.train.precision == "mixed_float16" else None
    return Trained(model, loss, l2, optimizer, rate, loss_scale)


def build_model(job: Job, spec: ExampleSpec) -> keras.Model:
    """The model alone. Raises as `build`."""
    precision = job.train.precision
    keras.config.set_floatx("float64" if precision == "float64" else "float32")
    keras.config.set_dtype_policy("float32" if precision == "tensorfloat32" else precision)
    # TensorFlow's own choice for float32 on GPUs, by which two workers are 4e-3 from one, not 4e-4.
    tf.config.experimental.enable_tensor_float_32_execution(precision not in ("float32", "float64"))
    keras.utils.set_random_seed(mix(job.seed) % 2**31)
    model = _model(job.model, spec, seed=mix(job.seed) % 2**31)
    _check_output(model, spec)
    return synchronised(model) if job.train.sync_batch_norm else model


def input_shape(model: keras.Model, spec: ExampleSpec) -> tuple[int | None, int | None, int]:
    """Height, width and channels of the images that a model takes, None for any; of `spec` where it does not say."""
    inputs = getattr(model, "inputs", None)
    height, width, channels = spec.image_shape if not inputs else inputs[0].shape[1:]
    return height, width, channels


def _model(options: ModelChoice, spec: ExampleSpec, *, seed: int) -> keras.Model:
    if isinstance(options, CustomModel):
        model = call_factory(options.name, options.options, spec, key="model")
        if not isinstance(model, keras.Model):
            raise BadInput(f"'model': {options.name} returned {type(model).__name__}, expected a keras.Model")
        return model
    if isinstance(options, Application):
        return _application(options, spec)
    assert isinstance(options, UNet)
    for key, wanted, have in (
        ("channels", options.channels, spec.image_shape[2]),
        ("classes", options.classes, spec.classes),
    ):
        if wanted not in (None, have):
            raise BadInput(f"'model.{key}' is {wanted}, expected {have} as the data has")
    return build_unet(options, channels=spec.image_shape[2], classes=spec.classes, seed=seed)


def _application(options: Application, spec: ExampleSpec) -> keras.Model:
    architecture = getattr(keras.applications, options.architecture, None)
    if architecture is None or not options.architecture[:1].isupper():
        names = sorted(name for name in dir(keras.applications) if name[:1].isupper())
        raise BadInput(f"'model.architecture' is '{options.architecture}'{one_of(options.architecture, names)}")
    arguments = {"classifier_activation": None, **options.options}
    try:
        return architecture(input_shape=spec.image_shape, classes=spec.classes, weights=options.weights, **arguments)
    except (TypeError, ValueError, OSError) as error:
        raise BadInput(f"'model': {options.architecture}: {' '.join(str(error).split())}") from error


def _check_output(model: keras.Model, spec: ExampleSpec) -> None:
    """Refuse a model whose output cannot be compared with the labels."""
    height, width, channels = spec.image_shape
    try:
        shape = tuple(model.compute_output_shape((1, height, width, channels)))
    except ValueError as error:
        raise BadInput(f"'model': does not take images of {height} x {width} x {channels} ({error})") from error
    if len(shape) != len(spec.label_shape) + 2 or shape[-1] != spec.classes:
        expected = "[batch, height, width, classes]" if spec.segmentation else "[batch, classes]"
        raise BadInput(f"'model': gives {list(shape)}, expected {expected} with {spec.classes} classes")
    if any(size is not None and size < 1 for size in shape[1:]):
        raise BadInput(
            f"'model': images of {height} x {width} are too small for it, nothing is left of them, expected larger ones"
        )


def _loss(options: LossChoice, spec: ExampleSpec) -> tuple[Loss, float]:
    if isinstance(options, CustomLoss):
        loss: Loss = call_factory(options.name, options.options, key="loss")
        return loss, 0.0
    if isinstance(options, Dice):
        return dice(), options.l2
    assert isinstance(options, CrossEntropy)
    weights = options.class_weights
    if weights is not None and len(weights) != spec.classes:
        raise BadInput(f"'loss.class_weights': expected {spec.classes} numbers, one a class, got {len(weights)}")
    return cross_entropy(weights), options.l2


def build_optimizer(options: OptimizerChoice, *, batch_size: int, epoch_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer alone, not yet built for any variables. Raises as `build`."""
    if isinstance(options, CustomOptimizer):
        optimizer = call_factory(options.name, options.options, key="optimizer")
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            kind = type(optimizer).__name__
            raise BadInput(f"'optimizer': {options.name} returned {kind}, expected a keras.optimizers.Optimizer")
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor is not None:
            raise BadInput(
                f"'optimizer': {options.name} returned one that scales the loss, expected one that does not: "
                "'train.precision: mixed_float16' does"
            )
        return optimizer
    rate = _learning_rate(options, options.learning_rate, batch_size=batch_size, epoch_steps=epoch_steps)
    if isinstance(options, Adam):
        return keras.optimizers.Adam(rate, options.beta_1, options.beta_2, options.epsilon)
    if isinstance(options, schema.LARS):
        return LARS(rate, options.momentum, options.trust, options.decay, options.nesterov)
    if isinstance(options, schema.LAMB):
        decay = options.decay or None
        return keras.optimizers.Lamb(rate, options.beta_1, options.beta_2, options.epsilon, weight_decay=decay)
    assert isinstance(options, Momentum)
    return keras.optimizers.SGD(rate, momentum=options.momentum, nesterov=options.nesterov)


def _learning_rate(options: Decaying, first: float, *, batch_size: int, epoch_steps: int) -> Any:
    if options.scale_from is not None:
        larger = batch_size / options.scale_from
        first *= larger if options.scaling == "linear" else larger**0.5
    counted = {"batch_size": batch_size, "epoch_steps": epoch_steps}
    rate: Any = first
    if options.decay_rate != 1:
        stair = options.decay_every.steps(**counted)
        rate = keras.optimizers.schedules.ExponentialDecay(first, stair, options.decay_rate, staircase=True)
    return rate if options.warm_up is None else WarmUp(options.warm_up.steps(**counted), rate)
