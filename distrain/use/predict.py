"""Predicting images by all ranks of a world: images in, class maps or a table of classes out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from distrain.data.parallel import in_order
from distrain.data.provider import FloatArray
from distrain.errors import BadInput, RunFailed
from distrain.job.schema import Labelled, UNet
from distrain.model.build import input_shape
from distrain.model.tiling import Tiling, unet_tiling
from distrain.train.watch import Watch
from distrain.use.evaluate import share_of_batch
from distrain.use.pictures import Picture, find_pictures, read_picture
from distrain.use.predictor import Predictor
from distrain.use.saved import Saved
from distrain.use.weights import trained_model
from distrain.world.control import agreed
from distrain.world.start import Started

Row = dict[str, Any]
# The largest value of a PNG's pixel.
MOST = (1 << 16) - 1


@dataclass(frozen=True)
class Wish:
    """What is to be predicted: images by `images`, into `folder`, seen through squares of `window` pixels.

    Segmentation: `probabilities` too. Classification: `lines` of JSON instead of CSV.
    """

    images: str
    folder: Path
    window: int
    probabilities: bool = False
    lines: bool = False


@dataclass(frozen=True)
class Done:
    """How many images there were, why some of them could not be predicted, and in words what was made of the rest."""

    images: int
    bad: list[str]
    words: str


def predict(wish: Wish, saved: Saved, started: Started, watch: Watch) -> Done:
    """Predict every image, each rank its share; an image that cannot be read is passed over. Collective.

    Raises `BadInput` on all ranks where there are no images, or the folder cannot be used, `RunFailed` where it cannot
    be written into.
    """
    world, control = started.world, started.control

    def prepare() -> tuple[list[Picture], Predictor]:
        watch.doing("finding the images")
        pictures = find_pictures(wish.images)
        _check_folder(wish, pictures)
        tiling = unet_tiling(saved.job.model) if isinstance(saved.job.model, UNet) else None
        _check_window(wish.window, tiling)
        watch.doing("building the model")
        model = trained_model(saved)
        return pictures, Predictor(model, input_shape(model, saved.spec), tiling, window=wish.window)

    pictures, predictor = agreed(control, prepare)
    outcome: _Maps | _Table = (
        _Maps(wish, saved, predictor) if saved.spec.segmentation else _Table(wish, saved, predictor)
    )
    mine = pictures[world.rank :: world.size]
    batch = 1 if saved.spec.segmentation else share_of_batch(saved.job, world.size)

    def read(picture: Picture) -> FloatArray | BadInput:
        try:
            image = read_picture(picture, saved.spec, saved.job.data.train)
            predictor.check(str(picture.page), image)
        except BadInput as error:
            return error
        return image

    reads = in_order(read, mine, threads=saved.job.data.reading.threads)
    rows: list[Row] = []
    bad: list[str] = []

    def one_round(own: Sequence[Picture]) -> tuple[list[Row], list[str]]:
        """This rank's part of what the ranks do between two words with each other."""
        watch.doing(f"predicting {own[0].page}" if own else "waiting for the last images")
        images = [(picture, next(reads)) for picture in own]
        good = [(picture, image) for picture, image in images if not isinstance(image, BadInput)]
        reasons = [str(image) for _, image in images if isinstance(image, BadInput)]
        with _telling_of(wish.folder):
            return outcome.take(good) if good else [], reasons

    for start in range(0, -(-len(pictures) // world.size), batch):
        own = mine[start : start + batch]
        for told, reasons in control.gather(agreed(control, partial(one_round, own))):
            rows += told
            bad += reasons

    def finish() -> None:
        with _telling_of(wish.folder):
            if world.rank == 0:
                outcome.finish(sorted(rows, key=lambda row: row["image"]))

    agreed(control, finish)
    return Done(len(pictures), bad, outcome.words)


class _Maps:
    """A PNG of classes for each image, and an NPY file of probabilities where they are wished for."""

    def __init__(self, wish: Wish, saved: Saved, predictor: Predictor) -> None:
        self._wish = wish
        self._predictor = predictor
        options = saved.job.data.train
        values = options.label_values if isinstance(options, Labelled) else None
        usable = values is not None and min(values) >= 0 and max(values) <= MOST
        self._values = np.array(values if usable else range(saved.spec.classes))
        shown = ", ".join(map(str, self._values[:8])) + (", ..." if len(self._values) > 8 else "")
        also = " and .npy with the probabilities" if wish.probabilities else ""
        self.words = f"NAME.png with the classes as {shown}{also}"

    def take(self, images: Sequence[tuple[Picture, FloatArray]]) -> list[Row]:
        for picture, image in images:
            classes, probabilities = self._predictor.pixels(image, probabilities=self._wish.probabilities)
            write_map(self._wish.folder / f"{picture.name}.png", self._values[classes])
            if probabilities is not None:
                with writing(self._wish.folder / f"{picture.name}.npy") as file:
                    np.save(file, probabilities)
        return []

    def finish(self, rows: Sequence[Row]) -> None:
        """Nothing is left to do."""


class _Table:
    """One table with a row for each image: its class, and the probability of each class."""

    def __init__(self, wish: Wish, saved: Saved, predictor: Predictor) -> None:
        self._wish = wish
        self._predictor = predictor
        self._names = saved.class_names or tuple(map(str, range(saved.spec.classes)))
        self._path = wish.folder / ("predictions.jsonl" if wish.lines else "predictions.csv")
        self.words = f"{self._path.name}, a line for each"

    def take(self, images: Sequence[tuple[Picture, FloatArray]]) -> list[Row]:
        classes, probabilities = self._predictor.whole([image for _, image in images])
        return [
            {
                "image": str(picture.page),
                "class": self._names[number],
                "probability": float(chances[number]),
                "probabilities": dict(zip(self._names, map(float, chances), strict=True)),
            }
            for (picture, _), number, chances in zip(images, classes.tolist(), probabilities, strict=True)
        ]

    def finish(self, rows: Sequence[Row]) -> None:
        with writing(self._path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            if self._wish.lines:
                text.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                table = csv.writer(text)
                table.writerow(["image", "class", "probability", *(f"probability of {name}" for name in self._names)])
                for row in rows:
                    table.writerow([row["image"], row["class"], row["probability"], *row["probabilities"].values()])
            text.flush()
            text.detach()


def write_map(path: Path, values: npt.NDArray[np.integer]) -> None:
    """Write a grey PNG of whole numbers [h, w], of 8 bits or of 16 where it takes them. Raises `OSError`."""
    kind = np.uint8 if values.max(initial=0) < 256 else np.uint16
    with writing(path) as file:
        Image.fromarray(values.astype(kind)).save(file, format="PNG")


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole, for as many readers as there may be. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        yield file
    temporary.replace(path)


@contextmanager
def _telling_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(f"{folder}: cannot be written ({error.strerror or error})") from error


def _check_folder(wish: Wish, pictures: Sequence[Picture]) -> None:
    """Make the folder. Raises `BadInput` where that cannot be, or where images lie in it that would be written over."""
    try:
        wish.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{wish.folder}: cannot be made ({error.strerror}), expected a folder for the output") from error
    folder = wish.folder.resolve()
    inside = next((one.page for one in pictures if Path(one.page.path).resolve().parent == folder), None)
    if inside is not None:
        raise BadInput(f"{wish.folder}: holds the image {inside.path}, expected another folder for the output")


def _check_window(window: int, tiling: Tiling | None) -> None:
    if tiling is not None and tiling.window_size(window) is None:
        least = tiling.lost + 2 * tiling.margin + 2 * tiling.stride
        raise BadInput(f"--window is {window}, expected at least {least} for this model")
