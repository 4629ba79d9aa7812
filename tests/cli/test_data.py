"""`distrain data`: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from distrain.cli.main import main
from distrain.data.formats import tfrecord
from tests.data.datasets import FORMATS, Options, pixels, provider_of

COUNT, SIZE = 11, 16


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return write(tmp_path, FORMATS["image_pairs"](tmp_path / "data", *pixels(COUNT, SIZE)))


def write(folder: Path, options: Options, **data: Any) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({"data": {"train": options, **data}}), encoding="utf-8")
    return path


def test_check_counts_classes_and_names_every_bad_file(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(job)]) == 0
    _, labels = pixels(COUNT, SIZE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"data.train: {COUNT} examples, 0 bad"
    counts = np.bincount(labels.reshape(-1))
    assert [int(line.split()[2]) for line in lines[1:]] == counts.tolist()
    for number in (3, 7):
        path = tmp_path / "data" / "image" / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:-30])
    assert main(["data", "check", str(job), "--threads", "2"]) == 2
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.out.splitlines()[:2]] == ["example 3", "example 7"]
    assert "003.png" in shown.out
    assert shown.err.splitlines() == ["distrain: 2 of 11 examples are bad"]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_packed_shards_hold_the_same_examples_and_are_balanced(compression: str, job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    assert main(["data", "pack", str(job), str(folder), "--shards", "4", "--compression", compression]) == 0
    manifest = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert [shard["records"] for shard in manifest["shards"]] == [2, 3, 3, 3]
    packed = provider_of({"provider": "tfrecords", "files": str(folder)})
    sound = provider_of(yaml.safe_load(job.read_text(encoding="utf-8"))["data"]["train"])
    assert packed.spec == sound.spec
    for index in range(COUNT):
        assert np.array_equal(packed.read(index).image, sound.read(index).image)
        assert np.array_equal(packed.read(index).label, sound.read(index).label)


def test_packing_goes_on_where_it_was_interrupted(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data", "pack", str(job), str(tmp_path / "packed"), "--shards", "3"]
    assert main(["data", "pack", str(job), str(tmp_path / "whole"), "--shards", "3"]) == 0
    replaced = Path.replace
    names: list[str] = []

    def interrupted(path: Path, target: Path) -> Path:
        names.append(Path(target).name)
        if Path(target).name == "part-00001-of-00003.tfrecord.index":
            raise KeyboardInterrupt
        return replaced(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    monkeypatch.undo()
    assert not (tmp_path / "packed" / "dataset.json").exists()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "3 shards, 1 of them there already" in capsys.readouterr().out
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "packed" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "packed").iterdir())) == len(list((tmp_path / "whole").iterdir()))
    assert main([*arguments[:-1], "2"]) == 2
    assert "another packing (differs in shards)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--shards", "12"], "--shards is 12, expected 1 to 11"),
        (["--part", "validation"], "'data.validation' is missing"),
        (["--threads", "0"], "--threads is 0"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    change: list[str], words: str, job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "pack", str(job), str(tmp_path / "packed"), *change]) == 2
    assert words in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    assert main(["data", "pack", str(job), str(tmp_path / "full")]) == 2
    assert "holds thesis.txt" in capsys.readouterr().err


def test_index_verifies_every_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.tfrecord").write_bytes(b"".join(tfrecord.framed(bytes([n]) * 50) for n in range(4)))
    data = bytearray((tmp_path / "b.tfrecord").read_bytes())
    data[2 * 66 + 20] ^= 1
    (tmp_path / "b.tfrecord").write_bytes(data)
    (tmp_path / "indices").mkdir()
    arguments = ["data", "index", str(tmp_path / "{a,b,c}.tfrecord"), "--index-dir", str(tmp_path / "indices")]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "b.tfrecord: record 2 at byte 132: does not match its checksum" in shown.out
    assert "2 shards, 8 records" in shown.out
    assert sorted(path.name for path in (tmp_path / "indices").iterdir()) == ["a.tfrecord.index", "c.tfrecord.index"]
    shard = tfrecord.open_shard(str(tmp_path / "c.tfrecord"), str(tmp_path / "indices"))
    assert [bytes(shard.record(number)) for number in range(4)] == [bytes([number]) * 50 for number in range(4)]


def test_show_draws_what_the_model_sees(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "sheet.png"
    flips = ["-o", "data.augment.flip_left_right=true", "-o", "data.augment.elastic=3"]
    sheets = []
    for options in ([], flips, [*flips, "--epoch", "1"]):
        assert main(["data", "show", str(job), "--count", "4", "--to", str(picture), *options]) == 0
        with Image.open(picture) as image:
            sheets.append(image.convert("RGB").tobytes())
    assert len(set(sheets)) == 3
    assert main(["data", "show", str(job), "--to", str(tmp_path / "job.yaml" / "x.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_show_draws_whole_classes_too(tmp_path: Path) -> None:
    job = write(tmp_path, FORMATS["class_folders"](tmp_path, *pixels(COUNT, SIZE)))
    assert main(["data", "show", str(job), "--to", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 0
