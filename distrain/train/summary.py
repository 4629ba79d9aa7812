"""What rank 0 tells its user at a run's beginning and end."""

from __future__ import annotations

from typing import Any

from distrain.checkpoint.store import Progress
from distrain.log.folder import last_record
from distrain.log.recorder import Recorder
from distrain.model.build import Trained
from distrain.train.opening import Opened, Request
from distrain.train.schedule import Schedule
from distrain.world.topology import World


def announce(
    opened: Opened,
    recorder: Recorder,
    schedule: Schedule,
    trained: Trained,
    world: World,
    workers: list[dict[str, Any]],
    resized: bool,
) -> None:
    """Say what begins or goes on, and record it as an event with what each of the `workers` runs on."""
    progress = opened.progress
    place = (progress.step, schedule.epoch(progress), progress.position)
    if resized:
        recorder.line(f"{world.size} workers from step {progress.step} on")
        recorder.event("resized", *place, world_size=world.size, workers=workers)
        return
    how = "1 worker" if world.size == 1 else f"{world.size} workers ({world.controller})"
    recorder.line(
        f"{trained.model.count_params():,} parameters, {schedule.examples:,} examples, batches of "
        f"{schedule.plan.batch_size}, {schedule.total_steps:,} steps, {how}"
    )
    if opened.aside is not None:
        recorder.line(f"moved the old run to {opened.aside}")
    for found in opened.rejected:
        recorder.line(f"passed over {found.path}: {found.why_not}")
    if opened.resumed is None:
        begun_with: dict[str, Any] = {} if opened.weights is None else {"weights": opened.weights}
        if opened.weights is not None:
            recorder.line(f"beginning with the weights of {opened.weights}")
        recorder.event("started", *place, world_size=world.size, workers=workers, **begun_with)
        return
    recorder.line(f"going on from {opened.resumed.path}")
    recorder.event(
        "resumed",
        *place,
        world_size=world.size,
        workers=workers,
        checkpoint=opened.resumed.path.name,
        passed_over=[f"{found.path.name}: {found.why_not}" for found in opened.rejected],
        records_removed=opened.removed,
        job_changes=opened.changed,
    )


def conclude(request: Request, progress: Progress, schedule: Schedule, *, finished: bool) -> None:
    """Say what was reached, where it is, and what can be done next."""
    folder = request.folder
    state = "finished" if finished else "stopped early"
    print(f"\n{state} after step {progress.step} of {schedule.total_steps}, epoch {schedule.epoch(progress)}")
    for kind in ("epoch", "validation"):
        record = last_record(folder, kind)
        if record is not None:
            shown = {name: value for name, value in record.items() if isinstance(value, float) and name != "time"}
            values = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown.items())
            print(f"  {'training' if kind == 'epoch' else kind}: {values}")
    print(f"  run's folder: {folder.path}")
    pictures = sorted(folder.predictions.glob("epoch_*.png"))
    if pictures:
        print(f"  pictures: {folder.predictions} (newest: {pictures[-1].name})")
    print("  next:")
    print(f"    distrain inspect {folder.path}")
    print(f"    tensorboard --logdir {folder.events}")
    if not finished:
        print("    the same command again goes on from here")
