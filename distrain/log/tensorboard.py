"""TensorBoard's view of a run: scalars and histograms under stable names."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.util import event_pb2

_SCALAR = summary_pb2.SummaryMetadata(
    plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class=summary_pb2.DATA_CLASS_SCALAR,
)
_NO_DIMENSIONS = tensor_shape_pb2.TensorShapeProto()
_HISTOGRAM = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="histograms"))
BUCKETS = 30
_BUCKETS = tensor_shape_pb2.TensorShapeProto(
    dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in (BUCKETS, 3)]
)

SECONDS = 60.0

# TensorBoard reads the files of a folder in the order of their names, one after the other.
_numbers = itertools.count()


class EventLog:
    """Writes TensorBoard events to a file of its own in a folder, where more come at least every `flush_seconds`.

    By TensorFlow's writer of records and not by `tf.summary`, whose operations for each step take longer than all else
    that is recorded of it. Raises `OSError` or `tf.errors.OpError` where the file cannot be written.
    """

    def __init__(
        self, folder: Path, *, flush_seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}.v2"
        self._writer = tf.io.TFRecordWriter(str(folder / name))
        self._flush_seconds = flush_seconds
        self._clock = clock
        # Of scalars told together before: their event, and where each value stands in it.
        self._events: dict[tuple[str, ...], tuple[event_pb2.Event, list[tensor_pb2.TensorProto]]] = {}
        self._flushed_at = clock()
        self._add(event_pb2.Event(wall_time=now, file_version="brain.Event:2"))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write each value under its name, all in one event."""
        event, places = self._event(tuple(values))
        for place, value in zip(places, values.values(), strict=True):
            place.tensor_content = np.float32(value).tobytes()
        event.wall_time, event.step = time.time(), step
        self._add(event)

    def histogram(self, step: int, name: str, values: npt.NDArray[np.floating]) -> None:
        """Write the distribution of values [n]."""
        content = _histogram(values).tobytes()
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_DOUBLE, tensor_shape=_BUCKETS, tensor_content=content)
        value = summary_pb2.Summary.Value(tag=name, tensor=tensor, metadata=_HISTOGRAM)
        self._summary(step, summary_pb2.Summary(value=[value]))

    def flush(self) -> None:
        """Have all events in the file."""
        self._writer.flush()
        self._flushed_at = self._clock()

    def close(self) -> None:
        self._writer.close()

    def _event(self, names: tuple[str, ...]) -> tuple[event_pb2.Event, list[tensor_pb2.TensorProto]]:
        """An event with a float32 of no dimensions for each name, as TensorBoard's scalars are."""
        if names not in self._events:
            tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=_NO_DIMENSIONS)
            told = [summary_pb2.Summary.Value(tag=name, tensor=tensor, metadata=_SCALAR) for name in names]
            event = event_pb2.Event(summary=summary_pb2.Summary(value=told))
            self._events[names] = event, [value.tensor for value in event.summary.value]
        return self._events[names]

    def _summary(self, step: int, summary: summary_pb2.Summary) -> None:
        self._add(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: event_pb2.Event) -> None:
        self._writer.write(event.SerializeToString())
        if self._clock() - self._flushed_at >= self._flush_seconds:
            self.flush()


def _histogram(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The buckets [n, 3] of values, each with its edges and its count, as TensorBoard's own `histogram_pb` makes them.

    That takes a fifth of a second to import.
    """
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    counts = np.zeros(BUCKETS)
    if low == high:
        counts[-1] = len(values)
    else:
        places = np.floor((values - low) / ((high - low) / BUCKETS)).astype(int)
        counts += np.bincount(np.minimum(places, BUCKETS - 1), minlength=BUCKETS)
    edges = np.linspace(low, high, BUCKETS + 1)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)


def cut(folder: Path, step: int) -> None:
    """Remove the events after `step`, so that a run that goes on from there draws one line, not two.

    Raises `OSError`.
    """
    try:
        _cut(folder, step)
    except tf.errors.OpError as error:
        raise OSError(f"{folder}: {' '.join(error.message.split())}") from error


def _cut(folder: Path, step: int) -> None:
    for path in sorted(folder.glob("events.out.tfevents.*")):
        records: list[bytes] = []
        whole = False
        # A kill can leave the last event unfinished; nothing can be read behind it.
        with suppress(tf.errors.DataLossError):
            records.extend(record.numpy() for record in tf.data.TFRecordDataset(str(path)))
            whole = True
        kept = [record for record in records if event_pb2.Event.FromString(record).step <= step]
        if not whole or len(kept) < len(records):
            temporary = path.with_name("tmp_" + path.name)
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in kept:
                    writer.write(record)
            temporary.replace(path)
