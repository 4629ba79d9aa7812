"""When a run ends, and what is due after a step: pure functions of the job and of how far the run has come."""

from __future__ import annotations

from dataclasses import dataclass

from distrain.checkpoint.store import Progress
from distrain.data.batches import Plan
from distrain.data.order import Batch, batch_at, epoch_steps
from distrain.errors import BadInput
from distrain.job.schema import DEFAULT_BATCH_SIZE, Train

EPOCHS = 10


@dataclass(frozen=True)
class Schedule:
    """The course of a run over `examples` examples: until `epochs` passes or `steps` steps are done."""

    examples: int
    plan: Plan
    epochs: int | None
    steps: int | None

    @property
    def epoch_steps(self) -> int:
        """Batches in an epoch."""
        return epoch_steps(examples=self.examples, batch_size=self.plan.batch_size, remainder=self.plan.remainder)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, where none is skipped."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * self.epoch_steps

    def next_batch(self, progress: Progress) -> Batch:
        """The global batch to draw next."""
        return batch_at(
            progress.position,
            examples=self.examples,
            batch_size=self.plan.batch_size,
            remainder=self.plan.remainder,
        )

    def epoch(self, progress: Progress) -> int:
        """The epoch that the next batch belongs to."""
        return self.next_batch(progress).start // self.examples

    def finished(self, progress: Progress) -> bool:
        """True once nothing is left to do."""
        if self.steps is not None:
            return progress.step >= self.steps
        assert self.epochs is not None
        return self.epoch(progress) >= self.epochs


def make_schedule(train: Train, *, examples: int, seed: int, size: int) -> Schedule:
    """The schedule of a job for a world of `size` workers. Raises `BadInput` where the batch does not fit."""
    if train.batch_size_per_worker is not None:
        batch_size = train.batch_size_per_worker * size
    else:
        batch_size = DEFAULT_BATCH_SIZE if train.batch_size is None else train.batch_size
    if batch_size < size:
        raise BadInput(f"'train.batch_size' is {batch_size}, expected at least one example for each of {size} workers")
    if train.remainder == "drop" and batch_size > examples:
        raise BadInput(
            f"'train.batch_size' is {batch_size}, expected at most the {examples} examples of an epoch, "
            "since 'train.remainder' is 'drop'"
        )
    epochs = EPOCHS if train.epochs is None and train.steps is None else train.epochs
    return Schedule(examples, Plan(seed, batch_size, train.remainder), epochs, train.steps)
