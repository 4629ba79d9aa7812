"""`DistributedOptimizer`: a Keras optimizer that applies the gradients of all ranks instead of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from distrain.errors import BadInput
from distrain.keras.exchange import Applied, Apply, Exchange
from distrain.keras.reducer import Options
from distrain.keras.values import Average, Compression, Compressor

# Where an optimizer has its exchange; its other attributes are Keras's.
EXCHANGE = "_distrain_exchange"
# What Keras's optimizers are told outside of their configuration.
TOLD = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


def DistributedOptimizer(  # noqa: N802, PLR0917 - Horovod's
    optimizer: keras.optimizers.Optimizer,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressor = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: int = Average,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: object = None,
    process_set: Any = None,
    scale_local_gradients: bool = True,
) -> keras.optimizers.Optimizer:
    """An optimizer as the one given, of the same class and state, that applies the gradients of all ranks.

    With `op=Average` each example counts the same, whatever the sizes of the ranks' batches, in `fit` and
    `train_on_batch`; in loops of one's own each rank counts the same. Clipping, weight decay and loss scaling of the
    optimizer act on the average. `backward_passes_per_step`: the optimizer steps once in so many batches, with the sum
    of their gradients, or their mean where `average_aggregated_gradients`. All gradients of one type are one group,
    whatever `groups` says; `name` has no meaning.
    """
    if getattr(process_set, "process_set_id", 0) != 0:
        raise BadInput("DistributedOptimizer: process_set: expected the global one, all processes are one world here")
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        kind = type(optimizer).__name__
        raise BadInput(f"DistributedOptimizer: expected a Keras 3 optimizer (keras.optimizers), got {kind}")
    if exchange_of(optimizer) is not None:
        raise BadInput("DistributedOptimizer: the optimizer is distributed already")
    options = Options(
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        op=op,
        backward_passes_per_step=backward_passes_per_step,
        average_aggregated_gradients=average_aggregated_gradients,
        scale_local_gradients=scale_local_gradients,
        device=device_dense or device_sparse,
    )
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None and exchange_of(inner) is not None:
        raise BadInput("DistributedOptimizer: the inner optimizer is distributed already")
    if optimizer.gradient_accumulation_steps and backward_passes_per_step > 1:
        raise BadInput(
            "DistributedOptimizer: expected backward_passes_per_step or the optimizer's gradient_accumulation_steps, "
            "got both"
        )
    cls = _distributed(type(optimizer))
    distributed = cls.from_config(optimizer.get_config())
    setattr(distributed, EXCHANGE, Exchange(options))
    for attribute in TOLD:
        if hasattr(optimizer, attribute):
            setattr(distributed, attribute, getattr(optimizer, attribute))
    if optimizer.built:
        distributed.build(optimizer._trainable_variables)
        for variable, value in zip(distributed.variables, optimizer.variables, strict=True):
            variable.assign(value)
    return distributed


def PartialDistributedOptimizer(  # noqa: N802 - Horovod's
    optimizer: keras.optimizers.Optimizer,
    *arguments: Any,
    local_layers: keras.layers.Layer | Sequence[keras.layers.Layer] | None = None,
    **options: Any,
) -> keras.optimizers.Optimizer:
    """As `DistributedOptimizer`, but each rank trains the weights of `local_layers` by its own gradients."""
    layers = [local_layers] if isinstance(local_layers, keras.layers.Layer) else list(local_layers or ())
    if not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        seen = ", ".join(type(layer).__name__ for layer in layers)
        raise BadInput(f"PartialDistributedOptimizer: local_layers: expected Keras layers, got {seen}")
    distributed = DistributedOptimizer(optimizer, *arguments, **options)
    for layer in layers:
        for variable in layer.trainable_weights:
            distributed.register_local_var(variable)
    return distributed


def load_model(
    filepath: str | Path,
    custom_optimizers: Iterable[type[keras.optimizers.Optimizer]] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    compression: Compressor = Compression.none,
    legacy_opts: bool = False,
) -> keras.Model:
    """A saved model, with its optimizer distributed and in the state that it was saved in."""
    if legacy_opts:
        raise BadInput("load_model: legacy_opts is True, expected False: Keras 3 has no legacy optimizers")
    named = {cls.__name__: cls for cls in custom_optimizers or ()} | dict(custom_objects or {})
    model = keras.models.load_model(filepath, custom_objects=named)
    if model.optimizer is not None:
        model.optimizer = DistributedOptimizer(model.optimizer, compression=compression)
    return model


def exchange_of(optimizer: object) -> Exchange | None:
    """What makes an optimizer distributed; None where it is not."""
    return getattr(optimizer, EXCHANGE, None)


def distribute_outer(outer: keras.optimizers.Optimizer) -> None:
    """Let an optimizer that has a distributed one within exchange for it, in place.

    Keras puts a `LossScaleOptimizer` around the optimizer of a model in float16, which decides by the gradients that it
    is given whether to apply them: those have to be all ranks', so that all ranks decide alike.
    """
    exchange = exchange_of(outer.inner_optimizer)
    assert exchange is not None
    outer.__class__ = _distributed(type(outer))
    setattr(outer.inner_optimizer, EXCHANGE, None)
    setattr(outer, EXCHANGE, exchange)
    exchange.scaled = False


def _distributed(base: Any) -> Any:
    """The class of optimizers as `base`, but with an exchange before each step."""

    def apply(self: Any, grads: Iterable[Any], trainable_variables: Iterable[Any] | None = None) -> None:
        exchange = exchange_of(self)
        variables = None if trainable_variables is None else list(trainable_variables)
        if exchange is None:
            base.apply(self, list(grads), variables)
            return
        if not self.built and variables is not None:
            with tf.init_scope(), keras.name_scope(self.name, caller=self):
                self.build(variables)
        applied = Applied(list(grads), list(self._trainable_variables) if variables is None else variables)
        _exchanged(self, exchange, applied, lambda gradients: base.apply(self, gradients, applied.variables))

    def register_local_var(self: Any, variable: Any) -> None:
        """Have each rank train a variable by its own gradients."""
        exchange = exchange_of(self)
        assert exchange is not None
        exchange.reducer.local.add(self._var_key(variable))

    def set_attribute(self: Any, name: str, value: Any) -> None:
        exchange = exchange_of(self)
        if exchange is not None and name == "loss_scale_factor":
            # Only a `LossScaleOptimizer` sets this later, where it takes the optimizer for its inner one.
            exchange.scaled = True
        base.__setattr__(self, name, value)

    namespace = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        # Saved, printed and compared as what it is made of: a saved model has to load without distrain.
        "__class__": property(lambda self: base),
        "__setattr__": set_attribute,
        "apply": apply,
        "register_local_var": register_local_var,
        # As it was called in Keras 2, where programs set it by assigning to it.
        "lr": property(lambda self: self.learning_rate),
    }
    return type(base)(base.__name__, (base,), namespace)


def _exchanged(optimizer: Any, exchange: Exchange, applied: Applied, apply: Apply) -> None:
    """Apply the gradients of all ranks where this rank has had its own applied; or leave them to who takes them."""
    if not applied.gradients:
        return
    if exchange.taken is not None:
        exchange.taken.append(applied)
        return
    _check(exchange)
    exchange.build(optimizer._trainable_variables)
    keys = [optimizer._var_key(variable) for variable in applied.variables]
    if exchange.options.backward_passes_per_step > 1:
        places = [optimizer._get_variable_index(variable) for variable in applied.variables]
        exchange.add(applied.gradients, places, keys, apply)
    else:
        exchange.apply(applied.gradients, keys, apply)


def _check(exchange: Exchange) -> None:
    """Refuse where an exchange would fail, or not be made by all ranks."""
    if exchange.scaled:
        raise BadInput(
            "a LossScaleOptimizer around a distributed optimizer would decide on each rank alone whether to step; "
            "expected hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(...))"
        )
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise BadInput(
            "a distributed optimizer cannot be applied in a function with jit_compile=True: XLA cannot exchange "
            "gradients. In 'fit' this is seen to; in a function of your own, compile only what computes the gradients"
        )
