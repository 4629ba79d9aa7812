"""What a job names, built: data, schedule, model, the statistics of its gradients, and the step over them."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from distrain.checkpoint.state import ReplicaState
from distrain.data.select import select
from distrain.data.source import Source
from distrain.errors import BadInput
from distrain.gradients.statistics import GradientStatistics
from distrain.job.schema import Gradients, Job
from distrain.model.build import Trained, build
from distrain.model.loss_scale import part_of
from distrain.step.train_step import TrainStep, build_train_step
from distrain.train.schedule import Schedule, make_schedule
from distrain.train.validation import measured
from distrain.train.watch import Watch
from distrain.world.collectives import Collectives
from distrain.world.devices import uses_gpu
from distrain.world.start import Started
from distrain.world.topology import World


@dataclass(frozen=True)
class Parts:
    """What a job names, built; the same on every rank."""

    training: Source
    validation: Source | None
    schedule: Schedule
    trained: Trained
    statistics: GradientStatistics | None
    state: ReplicaState


def build_parts(job: Job, started: Started, watch: Watch) -> Parts:
    """Build what the job names. Raises `BadInput`."""
    world = started.world
    watch.doing("finding what 'data.train' names")
    training = select(job.data.train, key="data.train", seed=job.seed, training=True, data=job.data)
    validation = None
    if job.data.validation is not None:
        watch.doing("finding what 'data.validation' names")
        validation = select(job.data.validation, key="data.validation", seed=job.seed, training=False, data=job.data)
        best, metrics = job.checkpoint.best, measured(segmentation=validation.spec.segmentation)
        if best is not None and best not in metrics:
            raise BadInput(f"'checkpoint.best' is '{best}', expected what is measured here: {', '.join(metrics)}")
    watch.doing("building the model")
    schedule = make_schedule(job.train, examples=len(training), seed=job.seed, size=world.size)
    trained = build(job, training.spec, batch_size=schedule.plan.batch_size, epoch_steps=schedule.epoch_steps)
    statistics = make_statistics(job.gradients, trained) if job.gradients.enabled else None
    return Parts(training, validation, schedule, trained, statistics, ReplicaState(trained, statistics))


def build_step(job: Job, parts: Parts, collectives: Collectives, world: World) -> TrainStep:
    """The compiled step as the job wants it."""
    compression = job.train.compression
    return build_train_step(
        parts.trained,
        parts.statistics,
        collectives,
        parts.training.spec,
        world,
        accumulate=job.train.accumulate,
        clip_norm=job.train.clip_norm,
        part=part_of(parts.schedule.plan.batch_size),
        wire=None if compression == "none" else tf.as_dtype(compression),
        adaptive=job.train.reduction == "adasum",
        jit_compile=job.parallel.jit_compile is True,
        programs=job.parallel.jit_compile is not False and uses_gpu(),
    )


def make_statistics(options: Gradients, trained: Trained) -> GradientStatistics:
    """The statistics of the model's gradients as the job asks for them."""
    return GradientStatistics(
        trained.trainable(),
        mode=options.mode,
        decay=options.decay,
        window=options.window,
        every=options.every,
        smoothing=options.smoothing,
    )
