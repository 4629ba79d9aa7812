"""What is measured inside one world, by all of its workers together: the step, the service, the exchange, saving."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from distrain.bench.figures import Figure, interleaved
from distrain.bench.outside import SIZES, STEPS
from distrain.errors import RunFailed
from distrain.job.schema import Job
from distrain.model.build import Trained, build, build_optimizer
from distrain.model.portable import has_own_layers, portable
from distrain.step.settlement import FLAGS
from distrain.step.train_step import crop_labels
from distrain.train.opening import Request
from distrain.train.parts import build_step
from distrain.train.run import Kept, begin
from distrain.train.standing import Done
from distrain.train.stop import StopRequest
from distrain.train.watch import Watch
from distrain.world.collectives import AloneCollectives, Collectives, HorovodCollectives
from distrain.world.control import agreed
from distrain.world.plain_mpi import sum_in_place
from distrain.world.start import Started

EXCHANGES = 8
EPOCH = 6 * STEPS  # steps between the ends of epochs that are measured
MEETING_SECONDS = 300.0


class Inside:
    """One world's measurements, the same on every rank. `turns` is how often each thing is measured.

    `beside` is where so many worlds meet that are measured at the same time.
    """

    def __init__(
        self,
        job: Job,
        started: Started,
        watch: Watch,
        stop: StopRequest,
        folder: Path,
        turns: int,
        stack: ExitStack,
        beside: tuple[Path, int] | None = None,
    ) -> None:
        kept = Kept()
        self._beside = beside
        self._job, self._started, self._watch, self._turns = job, started, watch, turns
        self._trainer = begin(Request(job, folder), started, stop, watch, kept, stack)
        assert kept.parts is not None
        self._parts = kept.parts
        # As a run does before its first step; what it takes to compile this is no part of a step.
        self._trainer.verify(self._trainer.progress.step)
        alone = started.world.size == 1
        self._collectives: Collectives = AloneCollectives() if alone else HorovodCollectives(started.horovod)
        self._local = self._trainer.batches.next()

    def step(self) -> list[Figure]:
        """The step taken apart: by what it takes without one of its parts."""
        parts, world = self._parts, self._started.world

        def built(statistics: bool, collectives: Collectives) -> Callable[[], None]:
            kept = parts if statistics else replace(parts, statistics=None)
            step = build_step(self._job, kept, collectives, world)
            return self._repeating(lambda *batch: bool(step(*batch).applied))

        gradients = _gradients(parts.trained)
        variants = {
            "whole": built(True, self._collectives),
            "forward and backward": self._repeating(lambda *batch: float(gradients(*batch)[0])),
        }
        if parts.statistics is not None:
            variants["without statistics"] = built(False, self._collectives)
        if world.size > 1:
            variants["without allreduce"] = built(True, AloneCollectives())
        # All variants begin each turn with the same weights; without an allreduce the ranks would drift apart.
        state = {name: variable.numpy() for name, variable in parts.state.variables.items()}

        def put_back() -> None:
            for name, variable in parts.state.variables.items():
                variable.assign(state[name])

        seconds = self._interleaved(variants, STEPS, first=put_back)
        put_back()
        times = {name: np.array(values) / STEPS * 1000 for name, values in seconds.items()}
        figures = [("whole", times["whole"]), ("forward and backward", times["forward and backward"])]
        rest = times["whole"] - times["forward and backward"]
        for name in ("allreduce", "statistics"):
            if f"without {name}" in times:
                taken = times["whole"] - times[f"without {name}"]
                figures.append((name, taken))
                rest = rest - taken
        figures.append(("optimizer, norms, the rest", rest))
        return [Figure.of("step", name, values.tolist(), "ms") for name, values in figures]

    def service(self) -> list[Figure]:
        """All that a run does at a step, against a bare loop of the same model: one batch from memory, no records."""
        trainer = self._trainer
        waited: list[float] = []
        recorded: list[float] = []

        def one() -> None:
            local = trainer.batches.next()
            waited.append(trainer.batches.waited)
            done = trainer.make_step(local)
            began = time.perf_counter()
            trainer.after(done)
            recorded.append(time.perf_counter() - began)

        variants = {"service": one, "bare loop": self._repeating(self._bare())}
        seconds = self._interleaved(variants, STEPS)
        times = {name: np.array(values) / STEPS * 1000 for name, values in seconds.items()}
        rate = self._parts.schedule.plan.batch_size / times["service"] * 1000
        return [
            *(Figure.of("service", f"a step of the {name}", values.tolist(), "ms") for name, values in times.items()),
            Figure.of("service", "bare loop / service", (times["bare loop"] / times["service"]).tolist(), ""),
            Figure.of("service", "examples of all workers", rate.tolist(), "per second"),
            Figure.of("service", "wait for data", [1000 * value for value in waited[STEPS:]], "ms"),
            Figure.of("service", "records, checks, saving", [1000 * value for value in recorded[STEPS:]], "ms"),
        ]

    def epoch(self) -> list[Figure]:
        """As `service`, a turn an epoch with its end and a checkpoint, against as many steps of the bare loop.

        And of one with Keras's layers in place of ours, where the model has any of ours: what a user would have.
        """
        trainer = self._trainer
        made = 0

        def service() -> None:
            nonlocal made
            if made % EPOCH == 0:
                # That of the epoch before, so that it is written beside these steps.
                trainer.saving.begin(trainer.progress)
            for _ in range(STEPS):
                done = self._one_step()
            agreed(self._started.control, self._written)
            made += STEPS
            if made % EPOCH == 0:
                trainer.end_epoch(done, over=True)

        def repeated(step: Callable[[], None]) -> Callable[[], None]:
            def steps() -> None:
                for _ in range(STEPS):
                    step()

            return steps

        variants = {"service": service, "bare loop": repeated(self._repeating(self._bare()))}
        if has_own_layers(self._parts.trained.model):
            variants["bare loop of Keras's layers"] = repeated(self._repeating(self._bare(stock=True)))
        # In parts of an epoch: other load comes and goes within one.
        parts = EPOCH // STEPS
        seconds = self._interleaved(variants, 1, parts=parts)
        times = {
            name: np.reshape(values, (self._turns, parts)).sum(axis=1) / EPOCH * 1000
            for name, values in seconds.items()
        }
        ratios = {f"{name} / service": times[name] / times["service"] for name in times if name != "service"}
        return [
            *(Figure.of("epoch", f"a step of the {name}", values.tolist(), "ms") for name, values in times.items()),
            *(Figure.of("epoch", name, values.tolist(), "") for name, values in ratios.items()),
        ]

    def allreduce(self) -> list[Figure]:
        """Time of an allreduce by size: by Horovod, by mpi4py where MPI is up; and of a copy in memory."""
        figures = []
        for size in SIZES:
            name = _bytes(4 * size)
            variants = {f"copy {name}": _copying(size)}
            if self._started.world.size > 1:
                variants |= {f"Horovod {name}": self._summing(size)}
                if self._started.world.controller == "mpi":
                    variants |= {f"mpi4py {name}": _summing_by_mpi(size)}
            seconds = self._interleaved(variants, EXCHANGES)
            for variant, values in seconds.items():
                times = [value / EXCHANGES * 1000 for value in values]
                figures.append(Figure.of("allreduce", variant, times, "ms"))
        return figures

    def checkpoint(self) -> list[Figure]:
        """How long training stands still for a checkpoint, and how much steps beside the writing of one slow down."""
        free: list[float] = []
        beside: list[float] = []
        copies: list[float] = []
        trainer = self._trainer
        for turn in range(-1, self._turns):
            alone = [self._seconds(self._one_step) for _ in range(STEPS)]
            copy = self._seconds(lambda: trainer.saving.begin(trainer.progress))
            slowed: list[float] = []
            while len(slowed) < STEPS and any(self._started.control.gather(trainer.saving.saver.writing)):
                slowed.append(self._seconds(self._one_step))
            self._watch.doing("finishing a checkpoint")
            agreed(self._started.control, self._written)
            if turn >= 0:
                free += alone
                copies.append(copy)
                beside += slowed
        figures = [("a step alone", free), ("copy of the state", copies)]
        figures += [("a step beside the writing", beside)] if beside else []
        return [Figure.of("checkpoint", name, [1000 * value for value in values], "ms") for name, values in figures]

    def throughput(self) -> list[Figure]:
        """Examples per second of the service."""
        trainer = self._trainer
        variants = {"service": self._one_step}
        self._one_step()
        self._meet()
        seconds = self._interleaved(variants, STEPS)["service"]
        batch = trainer.schedule.plan.batch_size
        return [Figure.of("throughput", "service", [STEPS * batch / value for value in seconds], "per second")]

    def steps(self) -> list[Figure]:
        """Single steps of the service, with what they vary by from one to the next, and the bytes of the gradients."""
        self._one_step()
        self._meet()
        times = [self._seconds(self._one_step) for _ in range(STEPS * self._turns)]
        numbers = sum(variable.shape.num_elements() for variable in self._parts.trained.trainable())
        compressed = self._job.train.compression != "none"
        size = numbers * (2 if compressed else self._parts.trained.trainable()[0].dtype.size)
        return [
            Figure.of("steps", "a step", [1000 * value for value in times], "ms"),
            # What a clock of others' making adds now and then says nothing of the step: the middle half is taken.
            Figure.of("steps", "deviation", [1000 * _deviation(times)], "ms"),
            Figure.of("steps", "gradients", [float(size)], "bytes"),
        ]

    def _written(self) -> None:
        """Wait until a checkpoint is written. Raises `RunEnds` where it could not be."""
        error = self._trainer.saving.saver.wait()
        if error is not None:
            raise error

    def _meet(self) -> None:
        """Wait for the worlds that are measured beside this one, so that all are measured at the same time."""
        if self._beside is None:
            return
        assert self._started.world.size == 1, "only single workers are measured side by side"
        folder, count = self._beside
        (folder / f"ready-{os.getpid()}").touch()
        deadline = time.monotonic() + MEETING_SECONDS
        while len(list(folder.glob("ready-*"))) < count:
            if time.monotonic() > deadline:
                raise RunFailed(f"of {count} worlds side by side not all came to be measured")
            time.sleep(0.01)

    def _one_step(self) -> Done:
        done = self._trainer.make_step(self._trainer.batches.next())
        self._trainer.after(done)
        return done

    def _interleaved(
        self,
        variants: Mapping[str, Callable[[], object]],
        times: int,
        first: Callable[[], object] = lambda: None,
        parts: int = 1,
    ) -> dict[str, list[float]]:
        def measured(action: Callable[[], object]) -> Callable[[], float]:
            def measure() -> float:
                first()
                # All ranks begin together: the time of one's own is what the turn takes.
                self._started.control.gather(None)
                began = time.perf_counter()
                for _ in range(times):
                    action()
                return time.perf_counter() - began

            return measure

        return interleaved(
            {name: measured(action) for name, action in variants.items()},
            turns=parts * self._turns,
            before=parts,
            done=lambda: self._watch.doing("measuring"),
        )

    def _seconds(self, action: Callable[[], object]) -> float:
        self._watch.doing("measuring")
        began = time.perf_counter()
        action()
        return time.perf_counter() - began

    def _repeating(self, step: Callable[..., object]) -> Callable[[], None]:
        """The step on one batch again and again."""
        local = self._local
        images, labels = tf.constant(local.images), tf.constant(local.labels)
        weights, key, flags = tf.constant(local.weights), self._trainer.random_key(), np.zeros(FLAGS, np.float32)

        def one() -> None:
            step(images, labels, weights, key, flags)

        return one

    def _bare(self, *, stock: bool = False) -> Callable[..., object]:
        """A step as one would write it: the same model, the mean gradient by one grouped allreduce, the optimizer.

        `stock`: with Keras's layers in place of ours.
        """
        job, parts = self._job, self._parts
        plan, spec = parts.schedule.plan, parts.training.spec
        course = {"batch_size": plan.batch_size, "epoch_steps": parts.schedule.epoch_steps}
        trained = build(job, spec, **course)
        if stock:
            optimizer = build_optimizer(job.optimizer, **course)
            trained = replace(trained, model=portable(trained.model, spec.image_shape), optimizer=optimizer)
        variables, horovod = trained.model.trainable_variables, self._started.horovod
        trained.optimizer.build(variables)
        gradients_of = _gradients(trained)

        def step(
            images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, key: tf.Tensor, flags: tf.Tensor
        ) -> tf.Tensor:
            loss, gradients = gradients_of(images, labels, weights, key, flags)
            if self._started.world.size > 1:
                gradients = horovod.grouped_allreduce(gradients, op=horovod.Average, name=f"bench.bare.{stock}")
            trained.optimizer.apply(gradients, variables)
            return loss

        # The seed of a new model has TensorFlow compile whatever is called next once more.
        self._trainer.verify(self._trainer.progress.step)
        compiled = tf.function(step, autograph=False)
        return lambda *batch: float(compiled(*batch))

    def _summing(self, size: int) -> Callable[[], object]:
        value = tf.Variable(np.ones(size, np.float32))
        collectives = HorovodCollectives(self._started.horovod, f"bench.{size}")
        summed = tf.function(lambda: collectives.sum_group([value])[0], autograph=False)

        def one() -> None:
            summed()[:1].numpy()

        return one


def _deviation(values: list[float]) -> float:
    """The standard deviation of normal values with the same quartiles."""
    lower, _, upper = statistics.quantiles(values, n=4)
    return (upper - lower) / 1.349


def _gradients(trained: Trained) -> Callable[..., tuple[tf.Tensor, list[tf.Tensor]]]:
    """Mean loss over a batch and its gradients, compiled; the arguments are those of a step."""

    def gradients(
        images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, key: tf.Tensor, flags: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        variables = trained.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = trained.logits(images, training=True)
            loss = tf.reduce_mean(trained.loss(crop_labels(labels, logits), logits))
        return loss, tape.gradient(loss, variables)

    compiled: Callable[..., tuple[tf.Tensor, list[tf.Tensor]]] = tf.function(gradients, autograph=False)
    return compiled


def _copying(size: int) -> Callable[[], object]:
    source, target = np.ones(size, np.float32), np.zeros(size, np.float32)
    return lambda: np.copyto(target, source)


def _summing_by_mpi(size: int) -> Callable[[], object]:
    value = np.zeros(size, np.float32)
    return lambda: sum_in_place(value)


def _bytes(count: int) -> str:
    return f"{count / 1024:.0f} KiB" if count < 1 << 20 else f"{count / 1e6:.0f} MB"
