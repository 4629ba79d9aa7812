"""Loss and metrics of a trained model over all examples of its validation data, or of other data, by all ranks."""

from __future__ import annotations

from typing import Any

from distrain.data.provider import ExampleSpec
from distrain.data.select import select
from distrain.errors import BadInput
from distrain.job.schema import DEFAULT_BATCH_SIZE, Job
from distrain.model.build import build
from distrain.step.evaluate_step import build_evaluate_step
from distrain.train.validation import Validated, validate, watched
from distrain.train.watch import Watch
from distrain.use.saved import Saved
from distrain.use.weights import take_up
from distrain.world.control import agreed
from distrain.world.start import Started


def evaluate(saved: Saved, started: Started, watch: Watch) -> tuple[int, Validated]:
    """The number of examples, and what was measured over them; the same on all ranks. Collective.

    Raises `BadInput` on all ranks where the data cannot be had, or does not fit the model.
    """
    job, world = saved.job, started.world

    def build_parts() -> Any:
        options = job.data.validation
        assert options is not None
        watch.doing("finding what 'data.validation' names")
        source = select(options, key="data.validation", seed=job.seed, training=False, data=job.data)
        check_fit(saved, source.spec)
        watch.doing("building the model")
        trained = build(job, source.spec, batch_size=1, epoch_steps=1)
        take_up(trained.model, saved)
        return source, build_evaluate_step(trained, source.spec)

    source, step = agreed(started.control, build_parts)
    batch_size = share_of_batch(job, world.size)
    return len(source), validate(source, watched(step, watch), world, started.control, batch_size=batch_size)


def check_fit(saved: Saved, spec: ExampleSpec) -> None:
    """Refuse data that the model was not made for. Raises `BadInput`."""
    seen = (spec.image_shape[2], spec.classes, spec.segmentation)
    expected = (saved.spec.image_shape[2], saved.spec.classes, saved.spec.segmentation)
    if seen != expected:
        raise BadInput(f"'data.validation': has {_words(*seen)}, expected {_words(*expected)} as {saved.name}")


def _words(channels: int, classes: int, segmentation: bool) -> str:
    return f"{channels} channels and {classes} classes of {'pixels' if segmentation else 'images'}"


def share_of_batch(job: Job, size: int) -> int:
    """How many examples a rank takes at once."""
    each = job.train.batch_size_per_worker
    return each if each is not None else max(1, (job.train.batch_size or DEFAULT_BATCH_SIZE) // size)
