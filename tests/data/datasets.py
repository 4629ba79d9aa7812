"""The same small data set in every format that distrain reads: the options of the provider for each."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image

from distrain.data.formats import example_message, tfrecord
from distrain.data.pack import Packing, pack
from distrain.data.provider import Provider
from distrain.data.select import make_provider
from distrain.job.schema import ProviderChoice
from tests.support import make_job

Options = dict[str, Any]
CLASSES = 3
Pixels = npt.NDArray[np.uint8]


def options_of(options: Options) -> ProviderChoice:
    """The checked form of a provider's options."""
    return make_job(data={"train": options}).data.train


def provider_of(options: Options) -> Provider:
    """The provider of such options."""
    return make_provider(options_of(options), key="data.train", seed=7)


def pixels(count: int, size: int) -> tuple[Pixels, Pixels]:
    """Images [count, size, size], each with its number in the corner, and label maps of 3 classes."""
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (count, size, size), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255  # so that scaling leaves every value where it was
    labels = random.integers(0, CLASSES, (count, size, size), np.uint8)
    return images, labels


def png(array: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def image_pairs(folder: Path, images: Pixels, labels: Pixels) -> Options:
    for kind, arrays in (("image", images), ("label", labels)):
        (folder / kind).mkdir()
        for number, array in enumerate(arrays):
            (folder / kind / f"{number:03d}.png").write_bytes(png(array))
    count = len(images) - 1
    names = {kind: str(folder / kind[:-1] / f"{{000..{count:03d}}}.png") for kind in ("images", "labels")}
    return {"provider": "image_pairs", **names, "classes": CLASSES}


def tiff_pages(folder: Path, images: Pixels, labels: Pixels) -> Options:
    import tifffile

    for kind, arrays in (("images", images), ("labels", labels)):
        tifffile.imwrite(folder / f"{kind}.tif", arrays, photometric="minisblack")
    names = {kind: str(folder / f"{kind}.tif") for kind in ("images", "labels")}
    return {"provider": "image_pairs", **names, "classes": CLASSES}


def class_folders(folder: Path, images: Pixels, labels: Pixels) -> Options:
    for name in ("apple", "bear", "cat"):
        (folder / name).mkdir()
    for number, array in enumerate(images):
        name = ("apple", "bear", "cat")[int(labels[number, 0, 0])]
        (folder / name / f"{number:03d}.png").write_bytes(png(array))
    return {"provider": "class_folders", "folder": str(folder)}


def npy(folder: Path, images: Pixels, labels: Pixels) -> Options:
    half = len(images) // 2
    for number, part in enumerate((slice(0, half), slice(half, None))):
        np.save(folder / f"x{number}.npy", images[part])
        np.save(folder / f"y{number}.npy", labels[part])
    names = {"images": str(folder / "x?.npy"), "labels": str(folder / "y?.npy")}
    return {"provider": "arrays", **names, "classes": CLASSES}


def npz(folder: Path, images: Pixels, labels: Pixels) -> Options:
    half = len(images) // 2
    np.savez_compressed(folder / "a.npz", images=images[:half], labels=labels[:half])
    np.savez(folder / "b.npz", images=images[half:], labels=labels[half:])
    return {"provider": "arrays", "files": str(folder), "classes": CLASSES}


def hdf5(folder: Path, images: Pixels, labels: Pixels) -> Options:
    with h5py.File(folder / "all.h5", "w") as file:
        file["images"], file["labels"] = images, labels
    return {"provider": "hdf5", "files": str(folder / "all.h5"), "classes": CLASSES}


def hdf5_chunked(folder: Path, images: Pixels, labels: Pixels) -> Options:
    half = len(images) // 2
    for number, part in enumerate((slice(0, half), slice(half, None))):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            for name, array in (("set/x", images[part]), ("set/y", labels[part])):
                chunks = (min(5, half), *array.shape[1:])
                file.create_dataset(name, data=array, chunks=chunks, compression="gzip", fletcher32=True)
    arrays = {"image_array": "set/x", "label_array": "set/y"}
    return {"provider": "hdf5", "files": str(folder), **arrays, "classes": CLASSES, "shuffle": 8}


def _packed(folder: Path, images: Pixels, labels: Pixels, compression: str) -> Options:
    source = npy(folder, images, labels)
    packing = Packing(provider_of(source), source, shards=3, compression=compression, threads=2)
    pack(packing, folder / "packed", done=lambda count: None)
    return {"provider": "tfrecords", "files": str(folder / "packed"), "shuffle": 4, "lanes": 2}


def tfrecords(folder: Path, images: Pixels, labels: Pixels) -> Options:
    return _packed(folder, images, labels, "none")


def tfrecords_gzip(folder: Path, images: Pixels, labels: Pixels) -> Options:
    return _packed(folder, images, labels, "gzip")


def tfrecords_of_png(folder: Path, images: Pixels, labels: Pixels) -> Options:
    """As other programs write them: encoded images, labels as whole numbers or encoded too, one shard by zlib."""
    import zlib

    half = len(images) // 2
    for number, part in enumerate((range(half), range(half, len(images)))):
        records = b"".join(
            tfrecord.framed(
                example_message.serialised(
                    {
                        "x": png(images[place]) if place % 2 else images[place].tobytes(),
                        "y": png(labels[place]) if place % 2 else labels[place].reshape(-1).tolist(),
                    }
                )
            )
            for place in part
        )
        packers: list[Callable[[bytes], bytes]] = [zlib.compress, gzip.compress]
        path = folder / f"shard-{number}"
        path.write_bytes(packers[number](records) if folder.name.endswith("z") else records)
        tfrecord.build_index(str(path))
    shape = [*images.shape[1:], 1]
    names = {"files": str(folder / "shard-{0..1}"), "image": "x", "label": "y", "image_shape": shape}
    return {"provider": "tfrecords", **names, "classes": CLASSES}


FORMATS: dict[str, Callable[[Path, Pixels, Pixels], Options]] = {
    "image_pairs": image_pairs,
    "tiff_pages": tiff_pages,
    "class_folders": class_folders,
    "npy": npy,
    "npz": npz,
    "hdf5": hdf5,
    "hdf5_chunked": hdf5_chunked,
    "tfrecords": tfrecords,
    "tfrecords_gzip": tfrecords_gzip,
    "tfrecords_of_png": tfrecords_of_png,
}
