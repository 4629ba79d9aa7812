"""TensorBoard's view of a run: scalars and histograms under stable names."""

from __future__ import annotations

from collections.abc import Mapping
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

SECONDS = 60.0


class EventLog:
    """Writes TensorBoard events under a folder, where more come at least every `flush_seconds`."""

    def __init__(self, folder: Path, *, flush_seconds: float = SECONDS) -> None:
        self._writer = tf.summary.create_file_writer(str(folder), flush_millis=round(1000 * flush_seconds))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write each value under its name; all in one event, since one operation for each takes longer than the rest
        of recording a step.
        """
        summary = summary_pb2.Summary(
            value=[
                summary_pb2.Summary.Value(tag=name, tensor=_float(value), metadata=_SCALAR)
                for name, value in values.items()
            ]
        )
        with self._writer.as_default(step):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())

    def histogram(self, step: int, name: str, values: npt.NDArray[np.floating]) -> None:
        """Write the distribution of values [n]."""
        with self._writer.as_default(step):
            tf.summary.histogram(name, values)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _float(value: float) -> tensor_pb2.TensorProto:
    """A float32 of no dimensions, as TensorBoard's scalars are."""
    shape = tensor_shape_pb2.TensorShapeProto()
    return tensor_pb2.TensorProto(
        dtype=types_pb2.DT_FLOAT, tensor_shape=shape, tensor_content=np.float32(value).tobytes()
    )


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
        # A kill can leave the last event unfinished: it is after the checkpoint, and goes.
        with suppress(tf.errors.DataLossError):
            records.extend(record.numpy() for record in tf.data.TFRecordDataset(str(path)))
        kept = [record for record in records if event_pb2.Event.FromString(record).step <= step]
        if len(kept) < len(records):
            temporary = path.with_name("tmp_" + path.name)
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in kept:
                    writer.write(record)
            temporary.replace(path)
