"""What a run that goes on is doing now: the numbers of its log as Prometheus metrics, and whether it gets on.

Written by the training loop's thread and read by those that answer requests; nothing here waits for anything.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

# Before its first step a run loads, traces and compiles.
FIRST_SECONDS = 120.0
# What a step's record tells: its name there, the metric's after `distrain_`, and its help.
STEP_VALUES = {
    "loss": ("loss", "Mean loss over the newest recorded step's examples."),
    "learning_rate": ("learning_rate", "Learning rate of the newest recorded step."),
    "examples_per_second": ("examples_per_second", "Examples of all workers per second, since the record before."),
    "gradient_norm": ("gradient_norm", "L2 norm of the averaged gradient."),
    "loss_scale": ("loss_scale", "What the loss is multiplied by, as layers compute in float16."),
    "mean_norm": ("gradient_mean_norm", "L2 norm of the running mean of the gradients."),
    "noise_scale": ("gradient_noise_scale", "Gradient noise scale, in examples."),
    "update_ratio": ("gradient_update_ratio", "Norm of the update over the norm of the weights."),
    "coherence": ("gradient_coherence", "Norm of the mean gradient over the mean norm, 0 to 1."),
    "alignment": ("gradient_alignment", "Cosine between the gradient and its running mean."),
    "agreement": ("gradient_agreement", "How far the ranks' gradients agree."),
    "snr": ("gradient_signal_to_noise_ratio", "Signal over noise of the averaged gradient."),
}
COUNTED_EVENTS = {
    "skipped": ("skipped_steps", "Steps skipped since this process began, as loss or gradient was not finite."),
    "overflow": ("overflows", "Steps left out since this process began, as the loss scale was too high; it is halved."),
    "bad_example": ("bad_examples", "Examples skipped since this process began, as they could not be read."),
    "checkpoint_failed": ("checkpoint_failures", "Checkpoints that could not be written since this process began."),
}


class Live(Collector):
    """A run's newest numbers. `about` is what the run is called and made of, `stall_seconds` when it stands still."""

    def __init__(
        self,
        about: Mapping[str, str],
        *,
        workers: int,
        total_steps: int,
        stall_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._about = dict(about)
        self._workers = workers
        self._total_steps = total_steps
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._values: dict[str, tuple[float, str]] = {}
        self._events = dict.fromkeys(COUNTED_EVENTS, 0)
        self._waited = 0.0
        self._place: tuple[int, int, int] | None = None
        self._step_time: float | None = None
        self._since = clock()
        self._stepped = False
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def stepped(self, waited: float) -> None:
        """A step is done, applied or skipped; it waited for data for so many seconds."""
        with self._lock:
            self._since, self._stepped = self._clock(), True
            self._step_time = time.time()
            self._waited += waited

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Take in a record of the run's log."""
        with self._lock:
            self._place = fields["step"], fields["epoch"], fields["position"]
            if kind == "event":
                if fields["event"] in self._events:
                    self._events[fields["event"]] += 1
                return
            for name, value in fields.items():
                if kind == "step" and name in STEP_VALUES:
                    metric, told = STEP_VALUES[name]
                    self._values[metric] = value, told
                elif kind in ("epoch", "validation") and name not in ("step", "epoch", "position"):
                    told = f"{name.replace('_', ' ')} {'over' if kind == 'epoch' else 'of validation after'} the epoch."
                    self._values[f"{kind}_{name}"] = value, told[0].upper() + told[1:]

    def health(self) -> tuple[bool, str]:
        """Whether the run gets on, and a line on why."""
        with self._lock:
            limit = self._stall_seconds if self._stepped else max(self._stall_seconds, FIRST_SECONDS)
            stood = self._clock() - self._since
            last = "no step yet" if self._place is None else f"step {self._place[0]} of {self._total_steps}"
        return stood < limit, f"{last}, {stood:.0f} s since {'the last one' if self._stepped else 'the start'}"

    def exposition(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The metrics, as Prometheus's client asks for them."""
        with self._lock:
            values, events = dict(self._values), dict(self._events)
            waited, place, step_time = self._waited, self._place, self._step_time
        yield InfoMetricFamily("distrain_run", "What the run is called and made of.", value=self._about)
        yield GaugeMetricFamily("distrain_workers", "Workers that train together.", value=self._workers)
        yield GaugeMetricFamily("distrain_planned_steps", "Steps that the run is to make.", value=self._total_steps)
        if place is not None:
            step, epoch, position = place
            yield CounterMetricFamily("distrain_steps", "Steps made, also before a restart.", value=step)
            yield CounterMetricFamily("distrain_examples", "Examples drawn, also before a restart.", value=position)
            yield GaugeMetricFamily("distrain_epoch", "The epoch that the run is in, from 0.", value=epoch)
        if step_time is not None:
            told = "When the last step was done, in seconds since 1970."
            yield GaugeMetricFamily("distrain_last_step_timestamp_seconds", told, value=step_time)
        told = "Time that rank 0 has waited for data since this process began."
        yield CounterMetricFamily("distrain_data_wait_seconds", told, value=waited)
        for event, (name, told) in COUNTED_EVENTS.items():
            yield CounterMetricFamily(f"distrain_{name}", told, value=events[event])
        for name, (value, told) in sorted(values.items()):
            if math.isfinite(value):
                yield GaugeMetricFamily(f"distrain_{name}", told, value=value)
