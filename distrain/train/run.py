"""A run from its job to its end: take up the newest checkpoint, train, say what was reached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from distrain import __version__
from distrain.checkpoint.retention import Retention
from distrain.checkpoint.saver import Saver
from distrain.checkpoint.store import Progress
from distrain.data.batches import Batches
from distrain.data.order import Batch, drawn
from distrain.data.source import Source
from distrain.errors import EXIT_DONE, EXIT_STOPPED, RunEnds
from distrain.job.schema import Job
from distrain.log import predictions
from distrain.log.display import Display
from distrain.log.gradient_table import GradientTable
from distrain.log.live import Live
from distrain.log.parts import SECONDS as FLUSH_SECONDS
from distrain.log.recorder import Recorder
from distrain.log.records import cut
from distrain.log.serve import Report, Server
from distrain.log.tracking import END_SECONDS, FAILED_SECONDS, MOVED, REST_SECONDS, Tracking
from distrain.step.evaluate_step import EvaluateStep, build_evaluate_step
from distrain.step.fingerprint import build_fingerprint, verify
from distrain.train.opening import Opened, Request, open_run, reopen
from distrain.train.parts import Parts, build_parts, build_step
from distrain.train.saving import Saving
from distrain.train.standing import Done, described, foremost, taken_over
from distrain.train.stop import StopRequest
from distrain.train.summary import announce, conclude
from distrain.train.trainer import Trainer
from distrain.train.validation import Validated, read_examples, stack, validate, watched
from distrain.train.warm_start import warm_start
from distrain.train.watch import Watch
from distrain.world.collectives import AloneCollectives, Collectives, HorovodCollectives
from distrain.world.control import agreed
from distrain.world.devices import inventory
from distrain.world.start import Started, survivable
from distrain.world.topology import World
from distrain.world.versions import versions

# What a checkpoint under way may take when the run has failed: the launcher leaves 12 s.
WRITING_SECONDS = 8.0
# In a world that may change, what rank 0 writes into `gradients/` and `events/` is on disk after so long.
ELASTIC_FLUSH_SECONDS = 5.0


@dataclass
class Kept:
    """What a worker keeps when its world changes: what it has built, and its trainer, with the state.

    `begun` tells that the run has begun: from then on the folder is not that of an old run. `untold` is why the last
    checkpoint could not be written, where there was no step more in its world to tell that by.
    """

    parts: Parts | None = None
    trainer: Trainer | None = None
    begun: bool = False
    untold: RunEnds | None = None


def run(
    request: Request, started: Started, stop: StopRequest, *, watch: Watch | None = None, kept: Kept | None = None
) -> int:
    """Train the job in the world that was joined; returns the exit code. Collective.

    Raises `errors.RunEnds` on all ranks alike where the run ends before its last step, `errors.WorldChanged` where it
    is to go on in another world, with what is in `kept` then. A `watch` that is given goes on when this returns.
    """
    kept = kept or Kept()
    with ExitStack() as stack:
        if watch is None:
            watch = Watch(request.job.parallel.stall_timeout.seconds, rank=started.world.rank)
            stack.callback(watch.close)
        finished = _train(request, started, stop, watch, kept, stack)
    assert kept.trainer is not None
    if started.world.rank == 0:
        conclude(request, kept.trainer.progress, kept.trainer.schedule, finished=finished)
    return EXIT_DONE if finished else EXIT_STOPPED


def _train(request: Request, started: Started, stop: StopRequest, watch: Watch, kept: Kept, stack: ExitStack) -> bool:
    """Train until the run is finished (True) or asked to stop; `stack` lets go of all that it took hold of."""
    trainer = begin(request, started, stop, watch, kept, stack)
    try:
        finished = trainer.train()
    except Exception as error:
        error.add_note(f"after step {trainer.progress.step}")
        raise
    if not finished:
        trainer.recorder.event("stopped", *trainer.place(), signal=stop.name)
    return finished


def begin(request: Request, started: Started, stop: StopRequest, watch: Watch, kept: Kept, stack: ExitStack) -> Trainer:
    """All that comes before the next step: the folder opened, the state taken up, the same on every rank. Collective.

    `stack` lets go of all that it took hold of. Raises as `run` does.
    """
    job, world, control = request.job, started.world, started.control
    before = kept.trainer

    def build_once() -> Parts:
        kept.parts = kept.parts or build_parts(job, started, watch)
        return kept.parts

    parts = agreed(control, build_once, holds=before is not None)
    watch.doing("opening the run's folder")
    alone = world.size == 1 and started.membership is None
    collectives: Collectives = AloneCollectives() if alone else HorovodCollectives(started.horovod)
    saver = Saver(
        request.folder.checkpoints,
        parts.state,
        retention=Retention(job.checkpoint.keep, job.checkpoint.keep_every, len(parts.training)),
        world_size=world.size,
        versions=versions(),
        after=[request.folder.metrics],
        examples=parts.training.form(),
    )
    opening = _open(request, started, parts, saver, kept, stack)
    cut(request.folder.examples(world.rank), opening.before.position)
    watch.doing("taking up the state")
    if parts.trained.rate is not None:
        # A checkpoint's is that of its batches, which may have been others'.
        parts.trained.optimizer.learning_rate = parts.trained.rate
    if before is None or before.progress.position != opening.progress.position:
        # Where this breaks off, what this rank has is nobody's state.
        kept.parts = kept.trainer = None
    collectives.broadcast(list(parts.state.variables.values()), opening.root)
    kept.parts = parts

    server = agreed(control, lambda: _serve(request, world, parts, stack), holds=before is not None)
    tracking = Tracking(request.folder, job.log.services) if world.rank == 0 and job.log.services else None
    opening = replace(opening, server=server, tracking=tracking)
    trainer = kept.trainer = _trainer(request, started, stop, parts, collectives, saver, watch, opening)
    stack.callback(trainer.recorder.close)
    if tracking is not None:
        stack.push(partial(_end_tracking, trainer, tracking))
    stack.push(partial(_finish_writing, trainer, kept))
    stack.callback(trainer.batches.close)
    trainer.complete = opening.complete
    trainer.saving.failure = None if before is None else before.saving.failure or before.recorder.failure
    workers = control.gather(inventory())
    if opening.opened is not None:
        announce(opening.opened, trainer.recorder, parts.schedule, parts.trained, world, workers, opening.resized)
        for caveat in parts.training.caveats:
            trainer.recorder.line(f"note: {caveat}")
    if server is not None:
        trainer.recorder.line(f"live at {server.url}")
    # Once the log is cut back to where this world begins.
    trainer.saving.note(kept.untold, trainer.progress)
    kept.untold = None
    return trainer


@dataclass(frozen=True)
class Opening:
    """From where a world goes on: from rank `root`'s state at `progress`, with what is left to do about a step.

    The logs were cut back to `before`. `opened` is rank 0's hold on the folder. `complete`: it was a finished run's.
    `server` answers for rank 0, where the job wants that, and `tracking` has services told.
    """

    opened: Opened | None
    progress: Progress
    before: Progress
    root: int = 0
    done: Done | None = None
    resized: bool = False
    complete: bool = False
    server: Server | None = None
    tracking: Tracking | None = None


def _open(request: Request, started: Started, parts: Parts, saver: Saver, kept: Kept, stack: ExitStack) -> Opening:
    """Go on from what some rank still holds, else from the newest checkpoint. Collective; raises as `agree` does.

    `stack` lets go of the folder.
    """
    world, control = started.world, started.control

    def hold(open_folder: Callable[[], Opened]) -> Opened | None:
        if world.rank != 0:
            return None
        opened = open_folder()
        stack.callback(_release, opened, saver)
        return opened

    standings: list[Any] = [None]
    if started.membership is not None:
        trainer = kept.trainer
        own = None if trainer is None else described(trainer.progress, trainer.done)
        told = control.gather({"begun": kept.begun, "standing": own})
        kept.begun = any(one["begun"] for one in told)
        standings = [one["standing"] for one in told]
    root = foremost(standings)
    if root is None:
        # A run that has begun is not moved aside, whatever becomes of its workers.
        first = replace(request, fresh=request.fresh and not kept.begun)
        opened = agreed(control, lambda: hold(lambda: open_run(first, saver, lambda: _warm(request.job, parts))))
        found = control.gather(None if opened is None else [asdict(opened.progress), opened.complete])[0]
        progress = Progress(**found[0])
        kept.begun = True
        return Opening(opened, progress, progress, complete=found[1])

    def indices(batch: Batch) -> list[int]:
        training = parts.training
        share = {"rank": world.rank, "size": world.size, "examples": len(training), "seed": request.job.seed}
        return drawn(batch, **share, order=training.order)

    progress, done = taken_over(standings[root], indices)
    before = progress if done is None else done.before
    opened = agreed(control, lambda: hold(lambda: reopen(request, before, progress)), holds=kept.trainer is not None)
    return Opening(opened, progress, before, root, done, resized=True)


def _warm(job: Job, parts: Parts) -> str | None:
    """Set the weights to those that the job says to begin with; returns where they are from."""
    source = job.model.init_from
    return None if source is None else warm_start(parts.trained.model, source)


def _release(opened: Opened, saver: Saver) -> None:
    """Let others use the folder; where a checkpoint is still being written, that is left to this process's end."""
    if not saver.writing:
        opened.release()


def _serve(request: Request, world: World, parts: Parts, stack: ExitStack) -> Server | None:
    """Rank 0's answers to who asks how the run gets on, where the job wants them. Raises `BadInput`."""
    job, endpoint = request.job, request.job.log.endpoint
    if world.rank != 0 or endpoint is None:
        return None
    live = Live(
        {"name": job.name, "model": job.model.name, "controller": world.controller, "version": __version__},
        workers=world.size,
        total_steps=parts.schedule.total_steps,
        stall_seconds=job.parallel.stall_timeout.seconds,
    )
    report = Report(request.folder.path)
    server = Server(*endpoint, live, report)
    stack.callback(report.close)
    stack.callback(server.close)
    return server


def _finish_writing(trainer: Trainer, kept: Kept, kind: type | None, error: BaseException | None, trace: Any) -> None:
    """Let the checkpoint that is being written get done, and hear what became of it.

    Where the run has failed, so far as time allows. Where it goes on in another world, whatever the time: rank 0 may be
    another process there, which knows nothing of this one's thread.
    """
    goes_on = trainer.membership is not None and error is not None and survivable(error)
    if goes_on:
        trainer.watch.doing("finishing a checkpoint", alone=True)
    try:
        unsaved = trainer.saving.saver.wait(None if goes_on else WRITING_SECONDS)
    except TimeoutError:
        return
    if goes_on:
        kept.untold = kept.untold or unsaved
    else:
        trainer.saving.note(unsaved, trainer.progress)


def _end_tracking(
    trainer: Trainer, tracking: Tracking, kind: type | None, error: BaseException | None, trace: Any
) -> None:
    """Let the services that are told of the run hear its last and how it ended, so far as time allows."""
    if error is None:
        how = "finished" if trainer.schedule.finished(trainer.progress) else "stopped"
        # A run that was finished before was started again for that; in an elastic world the others do not wait.
        seconds = REST_SECONDS if trainer.complete and trainer.membership is None else END_SECONDS
    else:
        goes_on = trainer.membership is not None and survivable(error)
        how, seconds = MOVED if goes_on else "failed", FAILED_SECONDS
    trainer.watch.doing("telling the tracking services", alone=True)
    for text in tracking.close(how, min(seconds, trainer.job.parallel.stall_timeout.seconds / 2)):
        trainer.recorder.line(text)


def _trainer(
    request: Request,
    started: Started,
    stop: StopRequest,
    parts: Parts,
    collectives: Collectives,
    saver: Saver,
    watch: Watch,
    opening: Opening,
) -> Trainer:
    job, world, progress = request.job, started.world, opening.progress
    flush_seconds = FLUSH_SECONDS if started.membership is None else ELASTIC_FLUSH_SECONDS
    evaluate = None
    if parts.validation is not None:
        evaluate = watched(build_evaluate_step(parts.trained, parts.validation.spec), watch)
    display = Display(parts.schedule.total_steps, progress.step) if world.rank == 0 else None
    gradients: GradientTable | None = None
    if world.rank == 0 and parts.statistics is not None:
        names = [weight.path for weight in parts.trained.model.trainable_variables]
        precision = parts.trained.trainable()[0].dtype.name
        gradients = GradientTable(request.folder.gradients, names, precision, flush_seconds=flush_seconds)
    recorder = Recorder(
        request.folder,
        job.log,
        rank=world.rank,
        epoch_examples=len(parts.training),
        display=display,
        gradients=gradients,
        live=None if opening.server is None else opening.server.live,
        tracking=opening.tracking,
        flush_seconds=flush_seconds,
    )
    fingerprint = build_fingerprint(list(parts.state.variables.values()), collectives)

    def prove(step: int) -> None:
        if world.size > 1:
            verify(fingerprint, list(parts.state.variables), started.control, step)

    return Trainer(
        job=job,
        world=world,
        control=started.control,
        schedule=parts.schedule,
        progress=progress,
        batches=Batches(parts.training, parts.schedule.plan, world, progress.position, job.data.reading),
        step=build_step(job, parts, collectives, world),
        verify=prove,
        saving=Saving(job, world.rank, started.control, parts.schedule, saver, recorder, watch),
        recorder=recorder,
        stop=stop,
        watch=watch,
        membership=started.membership,
        buffers=[] if started.membership is None else parts.trained.buffers(),
        validate=_validation(parts, evaluate, started),
        draw=_drawing(request, parts.validation, evaluate, world.rank),
        done=opening.done,
    )


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
