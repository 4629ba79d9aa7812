"""From the job's `data` section to a source: built-ins, the user's own, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrain.data.batches import Batches, Plan
from distrain.data.select import select
from distrain.data.source import Source
from distrain.errors import BadInput
from distrain.world.topology import World
from tests.support import make_job


def _select(options: dict[str, Any], *, seed: int = 7, training: bool = True) -> Source:
    job = make_job(data={"train": options})
    return select(job.data.train, key="data.train", seed=seed, training=training)


def _own(factory: str, **options: Any) -> dict[str, Any]:
    return {"provider": f"tests.support:{factory}", **options}


def test_a_provider_of_the_users_own_gets_its_options() -> None:
    source = _select(_own("Numbered", examples=5))
    assert len(source) == 5
    example = source.read(4, 0)
    assert (example.image[0, 0, 0], int(example.label)) == (4, 1)


def test_what_it_reads_is_made_to_be_what_the_step_wants() -> None:
    example = _select(_own("reading", image=2, label=2)).read(0, 0)
    assert (example.image.dtype.name, example.label.dtype.name, example.label.shape) == ("float32", "int32", ())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": [4, 5, 1]}, r"example 2: image \(4, 5, 1\) .*expected \(4, 4, 1\)"),
        ({"shape": [4, 4]}, r"example 2: image \(4, 4\)"),
        ({"label": [1, 2]}, r"label \(2,\), expected .*\(\)"),
        ({"label": 3}, "example 2: label values 3 to 3, expected 0 to 2"),
        ({"label": -1}, "label values -1 to -1"),
        ({"label": float("nan")}, "label values nan"),
        ({"label": 0.5}, "example 2: label"),
    ],
)
def test_an_example_that_is_not_what_its_spec_says_is_refused_by_its_index(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        _select(_own("reading", **options)).read(2, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (_own("reading", examples=0), "'data.train': holds no examples"),
        (_own("nothing"), "has no function 'nothing'"),
        (_own("reading", colour="red"), "cannot be called like this.*colour"),
        (_own("Numbered"), "cannot be called like this.*examples"),
        (_own("choosy", colour="red"), "choosy: no red today"),
        (_own("make_job", data={"train": {"provider": "circles"}}), "returned Job, expected a provider"),
        (_own("SpecAlone"), "returned SpecAlone, expected a provider"),
        ({"provider": "tests.nowhere:reading"}, "cannot import 'tests.nowhere'"),
        ({"provider": ":reading"}, "expected package.module:factory"),
        ({"provider": "tests.support:"}, "expected package.module:factory|has no function ''"),
        ({"provider": "..support:reading"}, "expected package.module:factory"),
    ],
)
def test_what_is_no_provider_is_refused_in_one_line_by_its_key(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        _select(options)
    assert "'data.train'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_example_that_is_no_pair_does_not_pass() -> None:
    """A mistake in the user's own code: whatever it raises, it is not taken for an example."""
    batches = Batches(_select(_own("reading_text")), Plan(7, 2, "keep"), World(), 0)
    with pytest.raises((BadInput, ValueError)):
        raise batches.next().error or AssertionError("it passed")
    batches.close()


def test_factories_are_found_beside_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_data.py").write_text("from tests.support import Numbered\ndef three(): return Numbered(3)\n")
    monkeypatch.chdir(tmp_path)
    assert len(_select({"provider": "my_own_data:three"})) == 3


def test_a_factory_with_a_mistake_in_it_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broken_data.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="No module named 'not_there_at_all'"):
        _select({"provider": "my_broken_data:three"})


@pytest.mark.parametrize(("own", "same"), [(None, False), (5, True)])
def test_circles_take_the_jobs_seed_unless_they_have_their_own(own: int | None, same: bool) -> None:
    options = {"provider": "circles", "size": 48, **({} if own is None else {"seed": own})}
    one, other = (_select(options, seed=seed).read(0, 0).image for seed in (7, 8))
    assert np.array_equal(one, other) is same


def test_pairs_are_cropped_at_random_in_training_and_at_the_centre_otherwise(tmp_path: Path) -> None:
    values = np.arange(144, dtype=np.uint8).reshape(12, 12)
    Image.fromarray(values).save(tmp_path / "image.png")
    Image.fromarray((values % 2).astype(np.uint8)).save(tmp_path / "label.png")
    options = {"provider": "image_pairs", "images": str(tmp_path / "image.png"), "labels": str(tmp_path / "label.png")}
    training, other = (_select({**options, "crop": [4, 6]}, training=flag) for flag in (True, False))
    assert training.spec.image_shape == other.spec.image_shape == (4, 6, 1)
    crops = [training.read(0, epoch).image.tobytes() for epoch in range(8)]
    assert len(set(crops)) > 4
    assert crops == [training.read(0, epoch).image.tobytes() for epoch in range(8)]
    centre = other.read(0, 3)
    np.testing.assert_allclose(centre.image[..., 0] * 143, values[4:8, 3:9], rtol=1e-5)
    assert np.array_equal(centre.label, values[4:8, 3:9] % 2)
