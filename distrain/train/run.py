"""A run from its job to its end: build the parts, take up the newest checkpoint, train, say what was reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from distrain.checkpoint.retention import Retention
from distrain.checkpoint.saver import Saver
from distrain.checkpoint.state import ReplicaState
from distrain.checkpoint.store import Progress
from distrain.data.batches import Batches
from distrain.data.order import Batch, drawn
from distrain.data.select import select
from distrain.data.source import Source
from distrain.errors import EXIT_DONE, EXIT_STOPPED, BadInput
from distrain.gradients.statistics import GradientStatistics
from distrain.job.schema import Gradients, Job
from distrain.log import predictions
from distrain.log.display import Display
from distrain.log.gradient_table import GradientTable
from distrain.log.recorder import Recorder
from distrain.log.records import cut
from distrain.model.build import Trained, build
from distrain.step.evaluate_step import EvaluateStep, build_evaluate_step
from distrain.step.fingerprint import build_fingerprint, verify
from distrain.step.train_step import build_train_step
from distrain.train.opening import Opened, Request, open_run, reopen
from distrain.train.saving import Saving
from distrain.train.schedule import Schedule, make_schedule
from distrain.train.standing import Done, described, foremost, taken_over
from distrain.train.stop import StopRequest
from distrain.train.summary import announce, conclude
from distrain.train.trainer import Trainer
from distrain.train.validation import Validated, measured, read_examples, stack, validate
from distrain.train.watch import Watch
from distrain.world.collectives import AloneCollectives, Collectives, HorovodCollectives
from distrain.world.control import agreed
from distrain.world.devices import inventory
from distrain.world.start import Started
from distrain.world.versions import versions

# What a checkpoint under way may take when the run has failed: the launcher leaves 12 s.
WRITING_SECONDS = 8.0


@dataclass(frozen=True)
class Parts:
    """What a job names, built; the same on every rank."""

    training: Source
    validation: Source | None
    schedule: Schedule
    trained: Trained
    statistics: GradientStatistics | None
    state: ReplicaState


@dataclass
class Kept:
    """What a worker keeps when its world changes: what it has built, and its trainer, with the state."""

    parts: Parts | None = None
    trainer: Trainer | None = None


def run(request: Request, started: Started, stop: StopRequest, kept: Kept | None = None) -> int:
    """Train the job in the world that was joined; returns the exit code. Collective.

    Raises `errors.RunEnds` on all ranks alike where the run ends before its last step, `errors.WorldChanged` where it
    is to go on in another world, with what is in `kept` then.
    """
    job, world, control = request.job, started.world, started.control
    kept = kept or Kept()
    watch = Watch(job.parallel.stall_timeout.seconds, rank=world.rank)
    parts = kept.parts = agreed(control, lambda: kept.parts or build_parts(job, started))
    alone = world.size == 1 and started.membership is None
    collectives: Collectives = AloneCollectives() if alone else HorovodCollectives(started.horovod)
    saver = Saver(
        request.folder.checkpoints,
        parts.state,
        retention=Retention(job.checkpoint.keep, job.checkpoint.keep_every, len(parts.training)),
        world_size=world.size,
        versions=versions(),
        after=[request.folder.metrics],
    )
    opening = _open(request, started, parts, saver, kept.trainer)
    cut(request.folder.examples(world.rank), opening.before.position)
    collectives.broadcast(list(parts.state.variables.values()), opening.root)

    trainer = kept.trainer = _trainer(request, started, stop, parts, collectives, saver, watch, opening.progress)
    trainer.done, trainer.complete = opening.done, opening.complete
    workers = control.gather(inventory())
    if opening.opened is not None:
        announce(opening.opened, trainer.recorder, parts.schedule, parts.trained, world, workers, opening.resized)
        for caveat in parts.training.caveats:
            trainer.recorder.line(f"note: {caveat}")
    try:
        finished = trainer.train()
        if not finished:
            trainer.recorder.event("stopped", *trainer.place(), signal=stop.name)
    except Exception as error:
        error.add_note(f"after step {trainer.progress.step}")
        raise
    finally:
        trainer.batches.close()
        _finish_writing(saver)
        trainer.recorder.close()
        watch.close()
        if opening.opened is not None:
            opening.opened.release()
    if opening.opened is not None:
        conclude(request, trainer.progress, parts.schedule, finished=finished)
    return EXIT_DONE if finished else EXIT_STOPPED


@dataclass(frozen=True)
class Opening:
    """From where a world goes on: from rank `root`'s state at `progress`, with what is left to do about a step.

    The logs were cut back to `before`. `opened` is rank 0's hold on the folder. `complete`: it was a finished run's.
    """

    opened: Opened | None
    progress: Progress
    before: Progress
    root: int = 0
    done: Done | None = None
    resized: bool = False
    complete: bool = False


def _open(request: Request, started: Started, parts: Parts, saver: Saver, trainer: Trainer | None) -> Opening:
    """Go on from what some rank still holds, else from the newest checkpoint. Collective. Raises `BadInput` on all."""
    world, control = started.world, started.control
    standings: list[Any] = [None]
    if started.membership is not None:
        standings = control.gather(None if trainer is None else described(trainer.progress, trainer.done))
    root = foremost(standings)
    if root is None:
        opened = agreed(control, lambda: open_run(request, saver) if world.rank == 0 else None)
        found = control.gather(None if opened is None else [asdict(opened.progress), opened.complete])[0]
        progress = Progress(**found[0])
        return Opening(opened, progress, progress, complete=found[1])

    def indices(batch: Batch) -> list[int]:
        training = parts.training
        share = {"rank": world.rank, "size": world.size, "examples": len(training), "seed": request.job.seed}
        return drawn(batch, **share, order=training.order)

    progress, done = taken_over(standings[root], indices)
    before = progress if done is None else done.before
    opened = agreed(control, lambda: reopen(request, before, progress) if world.rank == 0 else None)
    return Opening(opened, progress, before, root, done, resized=True)


def _finish_writing(saver: Saver) -> None:
    """Let the checkpoint that is being written get done where the run has failed, so far as time allows."""
    try:
        saver.wait(WRITING_SECONDS)
    except TimeoutError:
        return


def build_parts(job: Job, started: Started) -> Parts:
    """Build what the job names. Raises `BadInput`."""
    world = started.world
    training = select(job.data.train, key="data.train", seed=job.seed, training=True, data=job.data)
    validation = None
    if job.data.validation is not None:
        validation = select(job.data.validation, key="data.validation", seed=job.seed, training=False, data=job.data)
        best, metrics = job.checkpoint.best, measured(segmentation=validation.spec.segmentation)
        if best is not None and best not in metrics:
            raise BadInput(f"'checkpoint.best' is '{best}', expected what is measured here: {', '.join(metrics)}")
    schedule = make_schedule(job.train, examples=len(training), seed=job.seed, size=world.size)
    trained = build(job, training.spec, batch_size=schedule.plan.batch_size, epoch_steps=schedule.epoch_steps)
    statistics = make_statistics(job.gradients, trained) if job.gradients.enabled else None
    return Parts(training, validation, schedule, trained, statistics, ReplicaState(trained, statistics))


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


def _trainer(
    request: Request,
    started: Started,
    stop: StopRequest,
    parts: Parts,
    collectives: Collectives,
    saver: Saver,
    watch: Watch,
    progress: Progress,
) -> Trainer:
    job, world = request.job, started.world
    evaluate = None
    if parts.validation is not None:
        evaluate = _watched(build_evaluate_step(parts.trained, parts.validation.spec), watch)
    display = Display(parts.schedule.total_steps, progress.step) if world.rank == 0 else None
    gradients: GradientTable | None = None
    if world.rank == 0 and parts.statistics is not None:
        names = [weight.path for weight in parts.trained.model.trainable_variables]
        gradients = GradientTable(request.folder.gradients, names, job.train.precision)
    recorder = Recorder(
        request.folder,
        job.log,
        rank=world.rank,
        epoch_examples=len(parts.training),
        display=display,
        gradients=gradients,
    )
    fingerprint = build_fingerprint(list(parts.state.variables.values()), collectives)
    return Trainer(
        job=job,
        world=world,
        control=started.control,
        schedule=parts.schedule,
        progress=progress,
        batches=Batches(parts.training, parts.schedule.plan, world, progress.position, job.data.reading),
        step=build_train_step(
            parts.trained,
            parts.statistics,
            collectives,
            parts.training.spec,
            world,
            accumulate=job.train.accumulate,
            clip_norm=job.train.clip_norm,
        ),
        verify=lambda step: verify(fingerprint, list(parts.state.variables), started.control, step),
        saving=Saving(job, world.rank, started.control, parts.schedule, saver, recorder, watch),
        recorder=recorder,
        stop=stop,
        watch=watch,
        membership=started.membership,
        buffers=[] if started.membership is None else parts.trained.buffers(),
        validate=_validation(parts, evaluate, started),
        draw=_drawing(request, parts.validation, evaluate, world.rank),
    )


def _watched(evaluate: EvaluateStep, watch: Watch) -> EvaluateStep:
    """The step that says of itself that something moves: there may be many in one validation."""

    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        watch.doing("validation")
        return evaluate(images, labels)

    return step


def _validation(parts: Parts, evaluate: EvaluateStep | None, started: Started) -> Callable[[], Validated] | None:
    source = parts.validation
    if source is None or evaluate is None:
        return None
    batch_size = max(1, parts.schedule.plan.batch_size // started.world.size)
    return lambda: validate(source, evaluate, started.world, started.control, batch_size=batch_size)


def _drawing(
    request: Request, source: Source | None, evaluate: EvaluateStep | None, rank: int
) -> Callable[[int], None]:
    """Rank 0's picture of an epoch: the first validation examples with what the model makes of them."""
    count = request.job.log.predictions
    if source is None or evaluate is None or rank != 0 or count == 0:
        return lambda epoch: None

    def draw(epoch: int) -> None:
        examples = read_examples(source, count)
        predicted = [evaluate(*stack([example]))[2].numpy()[0] for example in examples]
        path = request.folder.predictions / f"epoch_{epoch:04d}.png"
        predictions.draw(path, examples, predicted, classes=source.spec.classes)

    return draw
