"""What a trained model makes of an image of any size: in one piece, or in windows that give the same together."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.data.provider import FloatArray
from distrain.errors import BadInput
from distrain.model.tiling import Tiling, Window

Classes = npt.NDArray[np.int32]


class Predictor:
    """Classes and probabilities from a model of logits that takes images of `shape`, where None is any size.

    With a `tiling`, images of any size give maps of their own size: they are mirrored at their edges as far as the
    model needs, and no more than a square of `window` pixels is looked at together. Without one an image is looked at
    as it is, and a map may be smaller than it.
    """

    def __init__(
        self, model: keras.Model, shape: tuple[int | None, int | None, int], tiling: Tiling | None, *, window: int
    ) -> None:
        self._tiling = tiling
        self._window = window
        self._shape = shape
        dtype = model.compute_dtype

        def predict(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = model(tf.cast(images, dtype), training=False)
            return tf.argmax(logits, axis=-1, output_type=tf.int32), tf.cast(tf.nn.softmax(logits), tf.float32)

        self._predict = tf.function(
            predict, input_signature=[tf.TensorSpec([None, *self._shape], tf.float32)], autograph=False
        )

    def check(self, name: str, image: FloatArray) -> None:
        """Refuse an image that the model does not take. Raises `BadInput`."""
        wanted = self._shape[:2]
        if any(size not in (None, have) for size, have in zip(wanted, image.shape[:2], strict=True)):
            seen, expected = (" x ".join(map(str, size)) for size in (image.shape[:2], wanted))
            raise BadInput(f"{name}: is {seen} (height x width), expected {expected}, the size that the model takes")

    def whole(self, images: Sequence[FloatArray]) -> tuple[Classes, FloatArray]:
        """The class [n] and the probabilities [n, classes] of images that have one class each."""
        classes, probabilities = self._predict(np.stack(images))
        return classes.numpy(), probabilities.numpy()

    def pixels(self, image: FloatArray, *, probabilities: bool) -> tuple[Classes, FloatArray | None]:
        """The class of each pixel [h, w], and the probabilities [h, w, classes] where they are asked for."""
        if self._tiling is None:
            found, chances = (values.numpy()[0] for values in self._predict(image[None]))
            return found, chances if probabilities else None
        height, width = image.shape[:2]
        rows, columns = (self._tiling.windows(size, self._window) for size in (height, width))
        padded = self._padded(image, rows[-1], columns[-1])
        classes = np.empty((height, width), np.int32)
        every: FloatArray | None = None
        for row in rows:
            for column in columns:
                seen = padded[row.start : row.start + row.size, column.start : column.start + column.size]
                found, chances = self._predict(seen[None])
                kept = np.s_[
                    row.first - row.start : row.last - row.start,
                    column.first - column.start : column.last - column.start,
                ]
                place = np.s_[row.first : row.last, column.first : column.last]
                target = classes[place]
                target[:] = found.numpy()[0][kept][: target.shape[0], : target.shape[1]]
                if probabilities:
                    if every is None:
                        every = np.empty((height, width, chances.shape[-1]), np.float32)
                    wanted = every[place]
                    wanted[:] = chances.numpy()[0][kept][: target.shape[0], : target.shape[1]]
        return classes, every

    def _padded(self, image: FloatArray, row: Window, column: Window) -> FloatArray:
        """The image with mirrored pixels around it, so that the last windows of both axes end with it."""
        assert self._tiling is not None
        before = self._tiling.lost // 2
        last = zip((row, column), image.shape[:2], strict=True)
        room = [(before, window.start + window.size - before - size) for window, size in last]
        return np.pad(image, [*room, (0, 0)], mode="reflect")
