"""Seeing a large image through windows: which of them give together exactly what the whole image would give.

A convolutional model gives the same for the same neighbourhood wherever it lies, as long as the image is shifted by
whole strides of its coarsest resolution. Integer arithmetic; no TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass

from distrain.job.schema import UNet


@dataclass(frozen=True)
class Window:
    """A part of one axis: the model sees `size` values from `start` on, and what it makes of them is kept in part.

    `first` to `last` (left out) are the places of the whole output that are taken from this window.
    """

    start: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Tiling:
    """What the form of a model says of its inputs and outputs, the same for both axes.

    Inputs shifted by `stride` pixels give outputs shifted by as many. A size fits where it is `remainder` modulo
    `stride`. Outputs are `lost` pixels smaller, half of them on each side. At a side where the image goes on, `margin`
    pixels of a window's output are not what they would be in the whole image.
    """

    stride: int
    remainder: int
    lost: int
    margin: int

    def fitting(self, size: int) -> int:
        """The least size of an input that fits and gives at least `size` pixels."""
        least = size + self.lost
        return least + (self.remainder - least) % self.stride

    def window_size(self, most: int) -> int | None:
        """The size of the largest window of at most `most` pixels; None where none of them gives a whole stride."""
        size = most - (most - self.remainder) % self.stride
        return size if size - self.lost - 2 * self.margin >= self.stride else None

    def windows(self, size: int, most: int) -> list[Window]:
        """The windows of an axis that has `size` pixels, and is made to fit by pixels before and behind it.

        One of them all, where that has at most `most`, else several of one size.
        """
        whole, window = self.fitting(size), self.window_size(most)
        if whole <= most or window is None:
            return [Window(0, whole, 0, whole - self.lost)]
        given = window - self.lost
        step = (given - 2 * self.margin) // self.stride * self.stride
        starts = [*range(0, whole - window, step), whole - window]
        return [
            Window(
                start,
                window,
                start + (self.margin if start > 0 else 0),
                start + given - (self.margin if start + window < whole else 0),
            )
            for start in starts
        ]


def unet_tiling(options: UNet) -> Tiling:
    """The tiling of a U-Net."""
    stride = options.pool ** (options.layers - 1)
    # Two convolutions at each resolution, down and up; those of the coarsest come once.
    pair = 2 * (options.kernel - 1)
    finer = sum(options.pool**level for level in range(options.layers - 1))
    lost = pair * (2 * finer + stride)
    if options.padding == "valid":
        # Each pooling must find whole blocks.
        return Tiling(stride, pair * finer % stride, lost, 0)
    # A pixel depends on those at most so far away, and on all of a block where it meets one.
    reach = lost // 2 + stride - 1
    return Tiling(stride, 0, 0, -(-reach // stride) * stride)
