"""A run as Weights & Biases has it. Its client has a process of its own, which sends in its own time.

What that process was handed counts as sent: it keeps it in the run's folder, for `wandb sync`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb
from wandb.sdk import wandb_setup

from distrain.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from distrain.job.schema import Job
from distrain.log.backlog import Point

# The client waits so long for the service before it gives a run up.
INIT_SECONDS = 20.0
# What our steps are called there. The client's own count what it is handed, behind the last one that the service has.
STEP = "step"
CODES = {"finished": EXIT_DONE, "stopped": EXIT_STOPPED, "failed": EXIT_FAILED}


class WandbRun:
    """The run of `job` called `name`, the one with the id `run` where it was begun before; files go under `folder`.

    All methods raise whatever the client raises where it does not do what it is asked for.
    """

    def __init__(self, job: Job, name: str, run: str | None, *, about: Mapping[str, str], folder: Path) -> None:
        options = job.log.wandb
        assert options is not None
        self.run = run or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=_project(job),
            entity=options.entity,
            mode=options.mode,
            id=self.run,
            name=name,
            resume="allow",
            dir=str(folder),
            config={"distrain": dict(about)},
            settings=wandb.Settings(
                init_timeout=INIT_SECONDS,
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,  # of this process, which does nothing but send
            ),
        )
        # An axis of our own, on which what is told late has its place; by the client's own steps it would be dropped.
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)

    @staticmethod
    def where(job: Job) -> str:
        """The server, the entity and the project that have a run of `job`."""
        assert job.log.wandb is not None
        settings = wandb_setup.singleton().settings
        return f"{settings.base_url} {job.log.wandb.entity or settings.entity or '-'} {_project(job)}"

    @property
    def place(self) -> str:
        """Where the run is to be found."""
        return f"run {self.run} at {self._run.url or self._run.dir}"

    def parameters(self, parameters: Mapping[str, str]) -> None:
        """Tell the job's keys."""
        self._run.config.update(dict(parameters), allow_val_change=True)

    def points(self, points: Sequence[Point]) -> None:
        """Tell the numbers of some records."""
        for point in points:
            self._run.log({STEP: point.step, **point.values})

    def picture(self, path: Path, step: int) -> None:
        """Hand over a picture."""
        self._run.log({STEP: step, "predictions": wandb.Image(str(path), caption=path.stem)})

    def end(self, how: str) -> None:
        """Say how the run has ended: "finished", "stopped" (to go on later) or "failed"."""
        if how == "stopped":
            self._run.mark_preempting()
        self._run.finish(exit_code=CODES[how])

    def leave(self) -> None:
        """Have all on its way, without saying that the run has ended."""
        self._run.mark_preempting()
        self._run.finish(exit_code=EXIT_STOPPED)


def _project(job: Job) -> str:
    assert job.log.wandb is not None
    return job.log.wandb.project or job.name
