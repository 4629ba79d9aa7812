"""After the run, as users have it: evaluated, predicted and exported by commands, alone and by two workers."""

from __future__ import annotations

import csv
import filecmp
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrain.data.values import scaled
from tests.processes.bare import make_bare_environment, run_bare
from tests.processes.worlds import WAYS, Ended, begin_program, end, records, trained, write_job

pytestmark = pytest.mark.processes

PROGRAMS = Path(__file__).parent / "programs"
BORDER = 8  # of the small job's U-Net


def command(way: str, *arguments: str | Path) -> Ended:
    """Run a `distrain` command to its end."""
    return end(begin_program([*WAYS[way], *map(str, arguments)]))


def well(way: str, *arguments: str | Path) -> str:
    ended = command(way, *arguments)
    assert ended.code == 0, ended
    return ended.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small job, with dropout, validated after each epoch."""
    folder = tmp_path_factory.mktemp("after")
    job = write_job(folder, model={"keep_probability": 0.75}, train={"batch_size": 7, "epochs": 2})
    trained("alone", job, "--run-dir", folder / "run")
    return folder / "run"


def evaluated(way: str, *arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(well(way, "evaluate", *arguments, "--json"))
    return found


def test_evaluate_gives_what_the_run_has_logged_on_any_number_of_workers(run: Path) -> None:
    logged = records(run, "validation")
    names = ("loss", "pixel_error", "dice", "iou")
    earlier = evaluated("alone", run, "--checkpoint", str(logged[0]["step"]))
    newest = evaluated("launch", run)
    for found, record in ((earlier, logged[0]), (newest, logged[-1])):
        assert found["examples"] == 5
        assert found["step"] == record["step"]
        assert {name: found[name] for name in names} == pytest.approx({name: record[name] for name in names}, rel=1e-6)
        # Counts of pixels: exactly equal.
        assert {name: found[name] for name in names[1:]} == {name: record[name] for name in names[1:]}
    assert earlier["loss"] != pytest.approx(newest["loss"], rel=1e-3)


@pytest.mark.soak
def test_evaluate_on_other_data(run: Path) -> None:
    more = evaluated("alone", run, "-o", "data.validation.examples=11")
    assert more["examples"] == 11
    other = "data.validation={provider: circles, examples: 5, size: 60, radius: [3, 9], seed: 9}"
    assert evaluated("launch", run, "-o", other)["loss"] != evaluated("alone", run)["loss"]


def pictures(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    random = np.random.default_rng(3)
    for number, size in enumerate(sizes):
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(folder / f"{number}.png")
    return folder


def test_two_workers_in_windows_predict_what_one_does_at_once(run: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "in", (60, 60), (211, 300), (3, 2), (90, 61), (64, 64))
    well("alone", "predict", run, images, tmp_path / "one", "--probabilities")
    well("launch", "predict", run, images, tmp_path / "two", "--probabilities", "--window", "70")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted([f"{number}.{ending}" for number in range(5) for ending in ("npy", "png")])
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False) == (names, [], [])
    with Image.open(tmp_path / "two" / "1.png") as file:
        classes = np.asarray(file)
    probabilities = np.load(tmp_path / "two" / "1.npy")
    assert classes.shape == (211, 300)
    np.testing.assert_array_equal(classes, probabilities.argmax(axis=-1))
    assert set(np.unique(classes)) == {0, 1}


@pytest.mark.soak
def test_a_large_image_in_windows_is_the_same_as_in_one_piece(run: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "in", (4096, 4096))
    well("alone", "predict", run, images, tmp_path / "windows", "--probabilities")
    well("alone", "predict", run, images, tmp_path / "whole", "--probabilities", "--window", "8192")
    for name in ("0.png", "0.npy"):
        assert filecmp.cmp(tmp_path / "windows" / name, tmp_path / "whole" / name, shallow=False), name
    assert np.load(tmp_path / "whole" / "0.npy", mmap_mode="r").shape == (4096, 4096, 2)


@pytest.mark.parametrize("way", [pytest.param("alone", marks=pytest.mark.soak), "launch"])
def test_what_cannot_be_predicted_is_passed_over_and_told(way: str, run: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "in", (60, 60), (70, 70))
    (images / "0.png").write_bytes((images / "0.png").read_bytes()[:500])
    Image.new("RGB", (60, 60)).save(images / "rgb.png")
    ended = command(way, "predict", run, images, tmp_path / "out")
    assert ended.code == 2, ended
    (line,) = ended.errors.splitlines()
    assert line.startswith("distrain: 2 of 3 images could not be predicted, the first: ")
    assert "rgb.png: has 3 channels, expected 1" in ended.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.png"]


def test_exported_models_predict_the_same_where_there_is_tensorflow_alone(run: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "in", (60, 60))
    well("alone", "predict", run, images, tmp_path / "out", "--probabilities")
    expected = np.load(tmp_path / "out" / "0.npy")
    for target in ("saved", "file.keras"):
        output = well("alone", "export", run, tmp_path / target)
        assert "absolute values, less the image's least, divided by its greatest then" in output
        assert f"{BORDER} pixels less at each side" in output
    with Image.open(images / "0.png") as file:
        image = scaled("0.png", np.asarray(file), None)
    mirrored = np.pad(image, BORDER, mode="reflect")[None, :, :, None]
    np.save(tmp_path / "image.npy", mirrored)
    python = make_bare_environment(tmp_path / "bare")
    program = tmp_path / "load.py"
    program.write_bytes((PROGRAMS / "load_exported.py").read_bytes())
    arguments = (tmp_path / "image.npy", tmp_path / "saved", tmp_path / "file.keras", tmp_path / "made.npz")
    assert run_bare(python, program, *arguments).strip() == "probabilities"
    made = np.load(tmp_path / "made.npz")
    np.testing.assert_array_equal(made["saved_model"][0], expected)
    np.testing.assert_array_equal(made["keras"][0], expected)
    described = json.loads((tmp_path / "file.keras.json").read_text(encoding="utf-8"))
    assert described == json.loads((tmp_path / "saved" / "assets.extra" / "distrain.json").read_text(encoding="utf-8"))
    assert described["input"]["sizes"] == "60 x 60, and what differs from that by multiples of 2"


def test_a_run_begins_with_the_weights_of_another(run: Path, tmp_path: Path) -> None:
    """On two workers of which rank 0 alone reads them: the first validation is what the other run's last was."""
    job = write_job(
        tmp_path,
        model={"keep_probability": 0.75, "init_from": str(run)},
        optimizer={"name": "momentum", "learning_rate": 1e-12},
        train={"batch_size": 7, "epochs": 1},
    )
    trained("launch", job, "--run-dir", tmp_path / "warm")
    (event,) = [record for record in records(tmp_path / "warm", "event") if record["event"] == "started"]
    assert event["weights"].startswith(str(run / "checkpoints" / "step_"))
    logged = records(run, "validation")[-1]
    assert records(tmp_path / "warm", "validation")[0]["loss"] == pytest.approx(logged["loss"], rel=1e-6)


def test_classes_of_whole_images(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name, high in (("dark", 90), ("light", 256)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(0, high, (9, 9), np.uint8)
            pixels[0, 0] = 255
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{name}{number}.png")
    data = {
        "train": {"provider": "class_folders", "folder": str(tmp_path / "data"), "crop": [8, 8]},
        "validation": None,
    }
    model = {"name": "tests.small_models:dense"}
    optimizer = {"name": "adam", "learning_rate": 0.05}
    job = tmp_path / "job.yaml"
    sections = {"data": data, "model": model, "optimizer": optimizer, "train": {"batch_size": 4, "epochs": 20}}
    job.write_text(json.dumps(sections), encoding="utf-8")
    trained("alone", job, "--run-dir", tmp_path / "run")
    for path in (tmp_path / "data").rglob("*.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    well("launch", "predict", tmp_path / "run", tmp_path / "in", tmp_path / "out")
    well("alone", "predict", tmp_path / "run", tmp_path / "in", tmp_path / "out", "--json-lines")
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).stem[:-1] for row in rows] == [row["class"] for row in rows]
    assert len(rows) == 16
    assert float(rows[0]["probability"]) == float(rows[0]["probability of dark"]) > 0.5
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["class"] for line in lines] == [row["class"] for row in rows]


BAD: list[tuple[list[str], str]] = [
    (["evaluate", "/nowhere"], "/nowhere: no run here, expected a folder with a job.yaml"),
    (["evaluate", "RUN", "-o", "model.features=8"], "-o model.features=8: expected a key that begins with 'data.'"),
    (["evaluate", "RUN", "-o", "data.validation.size=12"], "data.validation"),
    (["evaluate", "RUN", "--checkpoint", "77"], "step_00000077: no such checkpoint; expected one of step_"),
    (["evaluate", "RUN", "--checkpoint", "best"], "has no best checkpoint, expected a run with checkpoint.best"),
    (["predict", "RUN", "/nowhere", "OUT"], "INPUT: /nowhere: no such file or folder"),
    (["predict", "RUN", "RUN/predictions", "OUT"], "3 channels"),
    (["predict", "RUN", "RUN/predictions", "RUN/predictions"], "expected another folder for the output"),
    (["predict", "RUN", "RUN/predictions", "RUN/job.yaml"], "job.yaml: cannot be made"),
    (["predict", "RUN", "RUN/predictions", "OUT", "--window", "9"], "--window is 9, expected at least 20"),
]
# Every day what is refused before a world is joined, and what after that. The others' words are seen in tests/use.
DAILY = ("evaluate RUN -o model.features=8", "predict RUN /nowhere OUT")


@pytest.mark.parametrize(
    ("way", "arguments", "words"),
    [
        pytest.param(
            way, arguments, words, marks=() if way == "alone" and " ".join(arguments) in DAILY else pytest.mark.soak
        )
        for way in ("alone", "launch")
        for arguments, words in BAD
    ],
)
def test_bad_input_is_refused_in_one_line(
    way: str, arguments: list[str], words: str, run: Path, tmp_path: Path
) -> None:
    given = [text.replace("RUN", str(run)).replace("OUT", str(tmp_path / "out")) for text in arguments]
    ended = command(way, *given)
    assert ended.code == 2, ended
    (line,) = ended.errors.splitlines()
    assert line.startswith("distrain: ")
    assert words in line


@pytest.mark.soak
@pytest.mark.parametrize(
    ("target", "words"),
    [("there", "is there already, expected a new name"), ("job.yaml/model", "cannot be written")],
)
def test_where_an_export_cannot_go(target: str, words: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "job.yaml").touch()
    ended = command("alone", "export", run, tmp_path / target)
    assert ended.code == 2, ended
    (line,) = ended.errors.splitlines()
    assert words in line
    assert len(list(tmp_path.iterdir())) == 2
