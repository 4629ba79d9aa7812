"""What `fit` does with a distributed optimizer: weights by examples, averages moving statistics, keeps XLA out of it.

`keras.Model.make_train_function` is the one thing of Keras that is replaced, when a first optimizer is distributed; for
models whose optimizer is not, it stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from distrain.errors import BadInput, RunFailed
from distrain.keras.exchange import Exchange
from distrain.keras.optimizer import distribute_outer, exchange_of
from distrain.keras.place import place, warn_on_rank_0
from distrain.keras.reducer import counting
from distrain.keras.sync_batch_norm import SyncBatchNormalization
from distrain.kernels import compiled as kernels
from distrain.step.fingerprint import Fingerprint, build_fingerprint, verify

Step = Callable[[Any], Any]

# The proof that all ranks hold the same bits is made after the first step in a world, then once in so many calls.
PROVE_EVERY = 100
# Where a model has its `Resume`.
RESUME = "_distrain_resume"

_keras_own = keras.Model.make_train_function


def install() -> None:
    """Have `fit` and `train_on_batch` see to it where a model's optimizer is distributed."""
    keras.Model.make_train_function = _make_train_function


def _make_train_function(self: keras.Model, force: bool = False) -> None:
    if self.optimizer is not None and exchange_of(getattr(self.optimizer, "inner_optimizer", None)) is not None:
        distribute_outer(self.optimizer)
    if not exchanges_of(self):
        _keras_own(self, force)
    elif force or self.train_function is None:
        self.train_function = _train_function(self)


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """The distributed optimizers of a model: the one it was compiled with, and those of a training step of its own."""
    found = [model.optimizer, *vars(model).values()]
    optimizers = {id(each): each for each in found if isinstance(each, keras.optimizers.Optimizer)}
    return [each for each in optimizers.values() if exchange_of(each) is not None]


def exchanges_of(model: keras.Model) -> list[Exchange]:
    """What makes the optimizers of a model distributed."""
    return [exchange for each in optimizers_of(model) if (exchange := exchange_of(each)) is not None]


def buffers_of(model: keras.Model) -> list[tf.Variable]:
    """What the forward pass changes on each rank by itself, such as the moving averages of batch normalisation."""
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, SyncBatchNormalization)]
    found = {id(each): each for layer in layers for each in layer._non_trainable_variables}
    weights = {id(weight) for weight in model.weights}
    return [each.value for key, each in found.items() if key in weights and each.value.dtype.is_floating]


def _train_function(model: keras.Model) -> Step:
    exchanges = exchanges_of(model)
    jit = model.jit_compile and not model.run_eagerly
    step: Step = model.train_step
    if jit and _separable(model):
        step = _separate(model, exchanges[0])
    elif jit:
        warn_on_rank_0(
            "this model trains without XLA: gradients can be exchanged outside of it alone, and its training step "
            "cannot be taken apart (one of its own, or synchronised normalisation); say so with "
            "compile(jit_compile=False)"
        )
    buffers = buffers_of(model)

    def counted(data: Any) -> Any:
        examples = tf.cast(_examples(data), tf.float64)
        before = [tf.identity(buffer) for buffer in buffers]
        with counting(examples):
            outputs = step(data)
        _average(buffers, before, examples)
        return outputs

    # What Keras makes of it must be no function of XLA's; evaluation may stay one.
    chosen, model._jit_compile = model._jit_compile, False
    try:
        function = model._make_function(counted)
    finally:
        model._jit_compile = chosen
    proof = Proof(model)

    def proved(iterator: Iterator[Any]) -> Any:
        resume: Resume | None = vars(model).get(RESUME)
        if resume is not None:
            if resume.batches > 0:
                if not resume.begun:
                    resume.begun = True
                    if _lacks_metrics(model):
                        # A first step would make them: what is restored has their sums, too.
                        spec = iterator.element_spec  # type: ignore[attr-defined]  # tf.data's
                        model._symbolic_build(data_batch=spec)
                resume.pass_by(iterator, int(model.steps_per_execution))
                return model.get_metrics_result()
            delattr(model, RESUME)
        outputs = function(iterator)
        proof.after_step()
        return outputs

    return proved


def _lacks_metrics(model: keras.Model) -> bool:
    """Whether metrics that `compile` asks for are still to be made: its own, or the losses of several outputs.

    Without any, nothing has to be known of the data, which a training step of the model's own may read as it likes.
    """
    compiled, loss = model._compile_metrics, model._compile_loss
    several = len(getattr(model, "outputs", None) or ()) > 1
    return (compiled is not None and not compiled.built) or (several and loss is not None and not loss.built)


def _separable(model: keras.Model) -> bool:
    """True where computing gradients and applying them are known to be one after the other."""
    own = type(model).train_step is not keras.Model.train_step or "train_step" in vars(model)
    exchanging = any(isinstance(layer, SyncBatchNormalization) for layer in model._flatten_layers())
    return not own and not exchanging


def _separate(model: keras.Model, exchange: Exchange) -> Step:
    """Keras's own step with all but the optimizer compiled by XLA."""
    variables: list[Any] = []

    def forward_and_backward(data: Any) -> tuple[Any, list[Any]]:
        with exchange.taking() as taken, kernels.left_out():
            outputs = model.train_step(data)
        variables[:] = [variable for applied in taken for variable in applied.variables]
        return outputs, [gradient for applied in taken for gradient in applied.gradients]

    compiled = tf.function(forward_and_backward, jit_compile=True, reduce_retracing=True, autograph=False)

    def step(data: Any) -> Any:
        outputs, gradients = compiled(data)
        if gradients:
            model.optimizer.apply(gradients, variables)
        return outputs

    return step


def _examples(data: Any) -> tf.Tensor:
    """The number of examples in a batch as Keras gives it to a step: x, (x,), (x, y) or (x, y, sample_weight)."""
    x = data[0] if isinstance(data, tuple) else data
    for tensor in keras.tree.flatten(x):
        if tensor is not None:
            return tf.shape(tensor)[0]
    raise BadInput("fit: expected data with at least one input")


def _average(buffers: list[tf.Variable], before: list[tf.Tensor], examples: tf.Tensor) -> None:
    """Give each rank the mean over all examples of what the step has changed; what has not changed keeps every bit."""
    if not buffers or place().horovod is None:
        return
    weight = examples / place().collectives("distrain.fit.examples").sum_group([examples])[0]
    for dtype in sorted({buffer.dtype.name for buffer in buffers}):
        members = [number for number, buffer in enumerate(buffers) if buffer.dtype.name == dtype]
        changes = [
            # A rank without examples has no change, whatever it holds.
            tf.math.multiply_no_nan(buffers[number] - before[number], tf.cast(weight, dtype))
            for number in members
        ]
        sums = place().collectives(f"distrain.fit.{dtype}").sum_group(changes)
        for number, change in zip(members, sums, strict=True):
            buffers[number].assign(before[number] + change)


@dataclass
class Resume:
    """The batches of an epoch that were trained on before a checkpoint: they go by, and then `restore` is called.

    `drawn`: whether the data begins with them; `begun`: whether any has gone by.
    """

    batches: int
    drawn: bool
    restore: Callable[[], object]
    begun: bool = False

    def pass_by(self, iterator: Iterator[Any], count: int) -> None:
        """Let up to `count` go by."""
        for _ in range(min(count, self.batches)):
            if self.drawn:
                next(iterator)
            self.batches -= 1
        if self.batches == 0:
            self.restore()


def passing_by(model: keras.Model) -> bool:
    """True in callbacks after a batch that was not trained on."""
    return RESUME in vars(model)


class Proof:
    """The proof that all ranks hold the same bits of a model and its optimizer."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._fingerprint: Fingerprint | None = None
        self._names: list[str] = []
        self._generation = -1
        self._calls = 0

    def after_step(self) -> None:
        """Count a call of the training function, and prove it where that is due. Collective.

        Raises `RunFailed` on all ranks, naming who differs from whom in what.
        """
        here = place()
        if here.horovod is None:
            return
        if here.generation != self._generation:
            self._generation, self._calls = here.generation, 0
        self._calls += 1
        if self._calls != 1 and self._calls % PROVE_EVERY:
            return
        if self._fingerprint is None:
            variables = self._variables()
            self._names = list(variables)
            self._fingerprint = build_fingerprint(list(variables.values()), here.collectives("distrain.proof"))
        try:
            verify(self._fingerprint, self._names, here.started.control, int(self._model.optimizer.iterations))
        except RunFailed as error:
            if self._calls > 1:
                raise
            hint = "is callbacks.BroadcastGlobalVariablesCallback(0) among the callbacks?"
            raise RunFailed(f"{error}; {hint}", agreed=True) from None

    def _variables(self) -> dict[str, tf.Variable]:
        model = self._model
        local = {key for exchange in exchanges_of(model) for key in exchange.reducer.local}
        found = [(each.path, each.value) for each in model.trainable_variables if each.value._unique_id not in local]
        found += [(buffer.name, buffer) for buffer in buffers_of(model)]
        if not local:
            found += [(each.path, each.value) for optimizer in optimizers_of(model) for each in optimizer.variables]
        return {f"{name} ({number})": variable for number, (name, variable) in enumerate(found)}
