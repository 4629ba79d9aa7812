"""`distrain data`: what there is to do with data before training: index, check, pack, show. Needs no TensorFlow."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from distrain.data.examine import examine
from distrain.data.formats import tfrecord
from distrain.data.order import Batch, drawn
from distrain.data.pack import Packing, pack
from distrain.data.parallel import in_order
from distrain.data.paths import Wanted, files
from distrain.data.provider import Example
from distrain.data.select import make_provider, select
from distrain.data.source import Source
from distrain.data.tfrecords import may_be_shard
from distrain.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInput
from distrain.job import schema
from distrain.job.load import load_job, resolved
from distrain.log.sheet import draw_sheet

PARTS = ("train", "validation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    index = actions.add_parser("index", help="make the index of TFRecord shards, verifying all checksums")
    index.add_argument("files", nargs="+", metavar="SHARD", help="shards: folders, globs, files, brace ranges, URLs")
    index.add_argument("--index-dir", type=Path, help="folder for the indices; beside the shards where left out")
    check = actions.add_parser("check", help="read everything once; name all bad examples and count the classes")
    _add_job(check)
    check.add_argument("--part", choices=PARTS, help="only the training or the validation examples")
    packing = actions.add_parser("pack", help="pack examples into balanced TFRecord shards; goes on if interrupted")
    _add_job(packing)
    packing.add_argument("folder", type=Path, metavar="FOLDER", help="where the shards go: a new folder")
    packing.add_argument("--part", choices=PARTS, default="train", help="the training or the validation examples")
    packing.add_argument("--shards", type=int, default=1, metavar="N", help="number of shards")
    packing.add_argument("--compression", choices=("none", "gzip"), default="none", help="of the shards")
    show = actions.add_parser("show", help="draw examples and labels as the model sees them, augmentation included")
    _add_job(show)
    show.add_argument("--part", choices=PARTS, default="train", help="the training or the validation examples")
    show.add_argument("--count", type=int, default=16, help="how many, in the order of the epoch")
    show.add_argument("--epoch", type=int, default=0, help="as this epoch draws and changes them")
    show.add_argument("--to", type=Path, default=Path("examples.png"), help="the PNG to write")
    for action in (index, check, packing):
        action.add_argument("--threads", type=int, default=_cores(), help="threads that read")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, metavar="JOB.yaml", help="the job file whose data it is about")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set a key of the job"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def main(arguments: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    if getattr(arguments, "threads", 1) < 1:
        raise BadInput(f"--threads is {arguments.threads}, expected at least 1")
    return ACTIONS[arguments.action](arguments)


def _index(arguments: argparse.Namespace) -> int:
    wanted = Wanted("data index", "TFRecord shards", may_be_shard, (".tfrecord",))
    paths = files(tuple(arguments.files), "SHARD", wanted)
    folder = arguments.index_dir
    if folder is not None and not folder.is_dir():
        raise BadInput(f"--index-dir: {folder}: no such folder")

    def build(path: str) -> int | BadInput:
        try:
            return tfrecord.build_index(path, None if folder is None else str(folder))
        except BadInput as error:
            return error

    records, bad = 0, 0
    with _bar(len(paths), "shard") as bar:
        for path, count in zip(paths, in_order(build, paths, threads=arguments.threads), strict=True):
            if isinstance(count, BadInput):
                bad += 1
                bar.write(str(count), file=sys.stdout)
            else:
                records += count
                bar.write(f"{path}: {count} records", file=sys.stdout)
            bar.update()
    print(f"{len(paths) - bad} shards, {records} records")
    return _ended(bad, len(paths), "shards")


def _check(arguments: argparse.Namespace) -> int:
    job = load_job(arguments.job, arguments.overrides)
    bad, examples = 0, 0
    for part in PARTS if arguments.part is None else (arguments.part,):
        if part != arguments.part and getattr(job.data, part) is None:
            continue
        provider = make_provider(_options(job, part), key=f"data.{part}", seed=job.seed)
        source = Source(provider, provider.spec, lambda example, index, epoch: example)
        with _bar(len(source), "example") as bar:
            found = examine(
                _form_free(source, job, part),
                threads=arguments.threads,
                found_bad=lambda index, error: bar.write(f"example {index}: {error}", file=sys.stdout),
                one_done=bar.update,
            )
        unit = "pixels" if source.spec.segmentation else "examples"
        print(f"data.{part}: {found.examples} examples, {found.bad} bad")
        for number, count in enumerate(found.counts.tolist()):
            name = getattr(provider, "class_names", ())[number:][:1]
            label = f"class {number}" + "".join(f" ({text})" for text in name)
            print(f"  {label}: {count} {unit} ({100 * count / max(int(found.counts.sum()), 1):.2f} %)")
        bad, examples = bad + found.bad, examples + found.examples
    return _ended(bad, examples, "examples")


def _form_free(source: Source, job: schema.Job, part: str) -> Source:
    """With a crop images may differ in size, so it is the cropped ones whose form is checked."""
    options = _options(job, part)
    if isinstance(options, schema.Files) and options.crop is not None:
        return select(options, key=f"data.{part}", seed=job.seed, training=False)
    return source


def _pack(arguments: argparse.Namespace) -> int:
    job = load_job(arguments.job, arguments.overrides)
    options = _options(job, arguments.part)
    # What is packed is whole; a crop is for those that read it.
    provider = make_provider(options, key=f"data.{arguments.part}", seed=job.seed)
    source = resolved(job)["data"][arguments.part]
    packing = Packing(provider, source, arguments.shards, arguments.compression, arguments.threads)
    with _bar(len(provider), "example") as bar:
        kept = pack(packing, arguments.folder, done=bar.update)
    known = f", {kept} of them there already" if kept else ""
    print(f"{len(provider)} examples in {arguments.shards} shards{known}")
    print(f"read them by: {{provider: tfrecords, files: {arguments.folder}}}")
    return EXIT_DONE


def _show(arguments: argparse.Namespace) -> int:
    job = load_job(arguments.job, arguments.overrides)
    if arguments.count < 1 or arguments.epoch < 0:
        raise BadInput(f"--count is {arguments.count}, --epoch {arguments.epoch}, expected at least 1 and 0")
    source = select(
        _options(job, arguments.part),
        key=f"data.{arguments.part}",
        seed=job.seed,
        training=arguments.part == "train",
        data=job.data,
    )
    batch = Batch(arguments.epoch * len(source), min(arguments.count, len(source)))
    indices = drawn(batch, rank=0, size=1, examples=len(source), seed=job.seed, order=source.order)
    if arguments.part == "validation":
        indices = list(range(batch.size))
    examples: list[tuple[str, Example]] = []
    for index, example in zip(indices, source.read_batch(indices, arguments.epoch), strict=True):
        if isinstance(example, BadInput):
            if not source.skips:
                raise example
            print(f"skipped example {index}: {example}")
        else:
            examples.append((f"example {index}", example))
    if not examples:
        raise BadInput(f"'data.{arguments.part}': none of {batch.size} examples could be read, expected at least one")
    try:
        draw_sheet(arguments.to, examples, classes=source.spec.classes)
    except OSError as error:
        raise BadInput(f"--to: {arguments.to}: cannot be written ({error.strerror})") from error
    print(f"{len(examples)} examples of epoch {arguments.epoch}: {arguments.to}")
    return EXIT_DONE


ACTIONS = {"index": _index, "check": _check, "pack": _pack, "show": _show}


def _options(job: schema.Job, part: str) -> schema.ProviderChoice:
    options: schema.ProviderChoice | None = getattr(job.data, part)
    if options is None:
        other = "validation" if part == "train" else "train"
        raise BadInput(f"'data.{part}' is missing in the job, expected it, or --part {other}")
    return options


def _bar(total: int, unit: str) -> Any:
    """A progress bar on a terminal, nothing elsewhere."""
    bar: Any = tqdm(total=total, unit=unit, file=sys.stderr, disable=None, leave=False)
    return bar


def _ended(bad: int, total: int, what: str) -> int:
    if not bad:
        return EXIT_DONE
    print(f"distrain: {bad} of {total} {what} are bad", file=sys.stderr)
    return EXIT_BAD_INPUT
