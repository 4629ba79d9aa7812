"""Checkpoints on disk: whole or not there, whatever breaks and whenever."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distrain.checkpoint.retention import Retention
from distrain.checkpoint.store import MANIFEST, Found, Manifest, Progress, find, newest_valid, prune, recover, save

FILES = {"state.index": b"names" * 9, "state.data-00000-of-00001": bytes(range(200)), "empty": b""}


def _manifest(step: int, *, position: int = 80) -> Manifest:
    progress = Progress(step=step, position=position, skipped=1, epoch_loss=0.625, epoch_examples=16)
    return Manifest(progress, 2, False, 4, 123, "a" * 64, "b" * 64, "c" * 64, {"distrain": "0.1.0"})


def _write(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).write_bytes(content)


def _save(folder: Path, *steps: int, keep: int = 3, write: Callable[[Path], None] = _write) -> Path:
    for step in steps:
        path = save(folder, _manifest(step), write)
        prune(folder, Retention(keep, None, 8).retained, newest=step)
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _only(folder: Path) -> Found:
    (found,) = find(folder)
    return found


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    path = _save(tmp_path / "checkpoints", 120)
    found = _only(tmp_path / "checkpoints")
    assert (found.path, found.step, found.valid, found.why_not) == (path, 120, True, None)
    assert found.manifest is not None
    assert found.manifest.progress == _manifest(120).progress
    assert {name: size for name, (size, _) in found.manifest.files.items()} == {n: len(c) for n, c in FILES.items()}
    assert _names(path) == sorted([*FILES, MANIFEST])
    assert path.name == "step_00000120"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay_and_are_found_oldest_first(tmp_path: Path, keep: int) -> None:
    _save(tmp_path, 10, 20, 30, 40, keep=keep)
    assert [(found.step, found.valid) for found in find(tmp_path)] == [(s, True) for s in (10, 20, 30, 40)[-keep:]]


def test_steps_of_more_digits_are_newer(tmp_path: Path) -> None:
    _save(tmp_path, 99_999_999, 100_000_000, keep=1)
    assert _names(tmp_path) == ["step_100000000"]
    _save(tmp_path, 100_000_001)
    newest, rejected = newest_valid(tmp_path)
    assert newest is not None
    assert (newest.step, rejected) == (100_000_001, [])


def test_no_folder_and_other_things_in_it_are_no_checkpoints(tmp_path: Path) -> None:
    assert find(tmp_path / "none") == []
    (tmp_path / "step_x").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert newest_valid(tmp_path) == (None, [])


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (_save(tmp_path, 1) / name).unlink()
    found = _only(tmp_path)
    assert not found.valid
    assert (name.removesuffix(".json")) in str(found.why_not)


@pytest.mark.parametrize("name", [name for name, content in FILES.items() if content])
def test_a_file_with_one_byte_less_or_more_or_one_bit_flipped_is_named(tmp_path: Path, name: str) -> None:
    file, content = _save(tmp_path, 1) / name, FILES[name]
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        assert _only(tmp_path).why_not == f"{name} does not match its sha256"
    for other in (content[:-1], content + b"\0", b""):
        file.write_bytes(other)
        assert _only(tmp_path).why_not == f"{name} has {len(other)} bytes, expected {len(content)}"
    file.write_bytes(content)
    assert _only(tmp_path).valid


def test_a_truncated_manifest_is_named(tmp_path: Path) -> None:
    file = _save(tmp_path, 1) / MANIFEST
    content = file.read_bytes()
    for length in range(0, len(content.rstrip()), 7):
        file.write_bytes(content[:length])
        assert "manifest" in str(_only(tmp_path).why_not), length


def test_no_bit_of_a_manifest_can_flip_unseen(tmp_path: Path) -> None:
    """A position or a loss that is off by a bit would go on unnoticed, and end as another run."""
    file = _save(tmp_path, 1) / MANIFEST
    content = file.read_bytes()
    unseen = []
    for place in range(len(content.rstrip())):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 4
        file.write_bytes(flipped)
        if _only(tmp_path).valid:
            unseen.append(content[max(0, place - 20) : place + 1].decode())
    assert unseen == []


@pytest.mark.parametrize(
    "text",
    [
        *("null", "[]", '{"progress": 5}', '{"progress": {}}', "{", "\udcff"),
        '{"progress": {"stride": 1}}',
        json.dumps({"progress": {}, "files": {"state.index": 5}} | dict.fromkeys("abc")),
    ],
)
def test_any_other_manifest_is_refused_not_raised(tmp_path: Path, text: str) -> None:
    (_save(tmp_path, 1) / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    assert "manifest" in str(_only(tmp_path).why_not)


@pytest.mark.parametrize("files", [{"state.index": 5}, {"state.index": [1, 2, 3]}, [1], None])
def test_files_of_another_form_are_refused_not_raised(tmp_path: Path, files: object) -> None:
    file = _save(tmp_path, 1) / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"files": files}))
    assert not _only(tmp_path).valid


def test_another_format_is_refused_and_told(tmp_path: Path) -> None:
    file = _save(tmp_path, 1) / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    assert not _only(tmp_path).valid


def test_the_newest_valid_one_is_taken_and_newer_ones_are_told(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        path = _save(tmp_path, step, keep=4)
        if step > 20:
            (path / "state.index").unlink()
    newest, rejected = newest_valid(tmp_path)
    assert newest is not None
    assert (newest.step, [found.step for found in rejected]) == (20, [40, 30])


def test_what_a_kill_left_is_cleared_away(tmp_path: Path) -> None:
    _save(tmp_path, 10)
    for name in ("tmp_00000020", "tmp_00000010_replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.index").write_bytes(b"half")
    assert [found.step for found in find(tmp_path)] == [10]
    _save(tmp_path, 20)
    assert _names(tmp_path) == ["step_00000010", "step_00000020"]


@pytest.mark.parametrize("kept", [(), ("state.index",), tuple(FILES)])
def test_without_its_manifest_it_was_not_finished(tmp_path: Path, kept: tuple[str, ...]) -> None:
    """As a kill leaves it, between the first file and the last, or while an old one is removed."""
    folder = tmp_path / "step_00000010"
    folder.mkdir()
    for name in kept:
        (folder / name).write_bytes(FILES[name])
    assert "no manifest" in str(_only(tmp_path).why_not)


def test_a_save_that_fails_leaves_the_earlier_ones(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "state.index").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    _save(tmp_path, 10, 20, keep=2)
    for step in (20, 30):
        with pytest.raises(OSError, match="No space"):
            _save(tmp_path, step, write=full, keep=2)
    assert _names(tmp_path) == ["step_00000010", "step_00000020"]
    assert all(found.valid for found in find(tmp_path))


def test_the_one_of_the_same_step_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only thing here that a full or broken disk does and a test cannot do to a real one."""
    path, rename = _save(tmp_path, 10), Path.rename

    def fails_at_last(self: Path, target: Path) -> Path:
        if self.name == "tmp_00000010":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_last)
    with pytest.raises(OSError, match="Input/output"):
        _save(tmp_path, 10)
    assert _only(tmp_path).path == path
    assert _only(tmp_path).valid


def test_the_same_step_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path = _save(tmp_path, 10)
    (path / "state.index").write_bytes(b"broken")
    save(tmp_path, _manifest(10, position=88), _write)
    manifest = _only(tmp_path).manifest
    assert manifest is not None
    assert manifest.progress.position == 88
    assert _names(tmp_path) == ["step_00000010"]


def test_newer_ones_that_are_not_valid_do_not_crowd_out_the_one_just_saved(tmp_path: Path) -> None:
    """A run goes on from step 10, since 40 is broken: 20 must not be taken for older than what is kept."""
    _save(tmp_path, 10)
    (tmp_path / "step_00000040").mkdir()
    _save(tmp_path, 20, keep=1)
    assert [(found.step, found.valid) for found in find(tmp_path)] == [(20, True), (40, False)]


def test_only_what_is_needed_is_verified(tmp_path: Path) -> None:
    """The newest valid one is enough: of a large checkpoint every older one would cost a second more to begin."""
    _save(tmp_path, 10, 20, 30)
    (tmp_path / "step_00000010" / "state.index").write_bytes(b"broken")
    newest, rejected = newest_valid(tmp_path)
    assert newest is not None
    assert (newest.step, rejected) == (30, [])


def test_one_that_a_kill_left_between_two_renames_is_put_back(tmp_path: Path) -> None:
    """With `keep: 1` it may be the only one."""
    path = _save(tmp_path, 10, keep=1)
    path.rename(tmp_path / "tmp_00000010_replaced")
    recover(tmp_path)
    assert _only(tmp_path).valid
    path.rename(tmp_path / "tmp_00000010_replaced")
    _save(tmp_path, 20)
    assert [(found.step, found.valid) for found in find(tmp_path)] == [(10, True), (20, True)]


def test_half_removed_ones_go_with_the_next(tmp_path: Path) -> None:
    (_save(tmp_path, 10, 20) / MANIFEST).unlink()
    _save(tmp_path, 30)
    assert [found.step for found in find(tmp_path)] == [10, 30]
