"""Programs whose world changes: state that is kept in memory, and a function that is called anew in each world.

All ranks are equal: in a new world the state comes from whichever has committed most. Gloo only, as in Horovod.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from distrain.errors import EXIT_STOPPED, BadInput, Dismissed, WorldChanged
from distrain.keras.fitting import RESUME, Resume, passing_by
from distrain.keras.place import gathered, place
from distrain.keras.replica import broadcast_model, random_states, state_of
from distrain.world.start import PLACE_SECONDS, lost_another


class KerasState:
    """A model with its optimizer, and values of the program's own, which are attributes: all that ranks share.

    The values are those that JSON holds. Making one is no exchange, so that workers that join later may do it too.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None, **values: Any) -> None:
        if not model.built:
            raise BadInput("KerasState: Model must be built first. Run `model.build(input_shape)`.")
        try:
            json.dumps(values)
        except (TypeError, ValueError) as error:
            raise BadInput(f"KerasState: expected values that JSON holds, {error}") from error
        self.model = model
        self.optimizer = optimizer or model.optimizer
        self.commits = 0
        self._names = tuple(values)
        self._callbacks: list[Callable[[], object]] = []
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._values: dict[str, Any] = {}
        self._set(values)
        self.save()

    def register_reset_callbacks(self, callbacks: Sequence[Callable[[], object]]) -> None:
        """Have functions called after the world has changed, before the state is made the same on all ranks."""
        self._callbacks.extend(callbacks)

    def on_reset(self) -> None:
        """Call them."""
        for callback in self._callbacks:
            callback()

    def commit(self) -> None:
        """Keep the state as it is, to go back to. Collective; raises `WorldChanged` on all ranks where it has."""
        self.save()
        self.commits += 1
        self.check_host_updates()

    def check_host_updates(self) -> None:
        """See whether workers are to come or go. Collective; raises `WorldChanged` on all ranks where they are."""
        membership = place().started.membership
        if membership is not None and any(gathered(membership.changed)):
            raise WorldChanged

    def save(self) -> None:
        """Keep the state as it is, on this rank."""
        self._arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        self._values = json.loads(json.dumps({name: getattr(self, name) for name in self._names}))

    def restore(self) -> None:
        """Go back to the state that was kept last."""
        for name, variable in self._variables().items():
            if name in self._arrays:
                variable.assign(self._arrays[name])
            else:
                # Made since, by a first step.
                variable.assign(np.zeros_like(variable.numpy()))
        self._set(self._values)

    def sync(self) -> None:
        """Make the state that of the rank that has committed most. Collective."""
        rows = gathered([self.commits, {name: getattr(self, name) for name in self._names}])
        root = max(range(len(rows)), key=lambda number: (rows[number][0], -number))
        broadcast_model(self.model, root, optimizer=self.optimizer)
        self.commits = rows[root][0]
        self._set(rows[root][1])
        self.save()

    def _variables(self) -> dict[str, Any]:
        states = {f"random/{number:04d}": state for number, state in enumerate(random_states(self.model))}
        return state_of(self.model, self.optimizer) | states

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)


def run(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function of a state called in each world anew, until it returns; all ranks have the same state then.

    When a worker is lost, all go back to the last commit; when some are to come or go, on from the present state. A
    worker for which the new world has no place ends. Every other error is raised.
    """

    @wraps(function)
    def wrapper(state: KerasState, *arguments: Any, **options: Any) -> Any:
        while True:
            try:
                state.sync()
                return function(state, *arguments, **options)
            except Exception as change:
                if not place().elastic:
                    raise
                if isinstance(change, WorldChanged):
                    state.save()
                elif lost_another(change):
                    state.restore()
                else:
                    raise
            try:
                place().rejoin(PLACE_SECONDS)
            except Dismissed as dismissal:
                print(dismissal, file=sys.stderr)
                sys.exit(EXIT_STOPPED)
            state.on_reset()

    return wrapper


class CommitStateCallback(keras.callbacks.Callback):
    """Commits `state` after each `batches_per_commit` batches, and each epoch. To be the last of the callbacks."""

    def __init__(self, state: KerasState, batches_per_commit: int = 1) -> None:
        super().__init__()
        if batches_per_commit < 1:
            raise BadInput(f"CommitStateCallback: batches_per_commit is {batches_per_commit}, expected 1 or more")
        self.state = state
        self.batches_per_commit = batches_per_commit
        self.batches_remaining = batches_per_commit

    def on_train_begin(self, logs: Any = None) -> None:
        self.batches_remaining = self.batches_per_commit

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if passing_by(self.model):
            return
        self.batches_remaining -= 1
        if self.batches_remaining == 0:
            self.batches_remaining = self.batches_per_commit
            self.state.commit()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.commit()


class UpdateBatchStateCallback(keras.callbacks.Callback):
    """Keeps the number of batches that an epoch has had in `state.batch`; in a new world, these go by untrained on."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def on_train_begin(self, logs: Any = None) -> None:
        if self.state.batch > 0:
            setattr(self.model, RESUME, Resume(self.state.batch, drawn=True, restore=self.state.restore))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not passing_by(self.model):
            self.state.batch = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.batch = 0


class UpdateEpochStateCallback(keras.callbacks.Callback):
    """Keeps the number of epochs, over all worlds, in `state.epoch`; for `fit(epochs=EPOCHS - state.epoch)`."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state
        self.initial_epoch = state.epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self.initial_epoch = self.state.epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.epoch = self.initial_epoch + epoch + 1
