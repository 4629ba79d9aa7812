"""The report's page: whole, and without anything that would leave it, whatever a run is named."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distrain.cli.main import main
from tests.report.made_up import HARM, make_run

# Attributes by which a page would ask for something.
LINKING = ("src", "href", "srcset", "data", "action", "poster")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the texts of its tables' cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _report(*runs: Path, to: Path | None = None) -> str:
    path = to or runs[0] / "report.html"
    assert main(["report", *map(str, runs), *([] if to is None else ["--to", str(to)])]) == 0
    return path.read_text(encoding="utf-8")


def _data(text: str) -> Any:
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>", maxsplit=1)[0])


def test_nothing_in_it_is_asked_for_elsewhere(tmp_path: Path) -> None:
    elements = Elements(_report(make_run(tmp_path / "run").path))
    links = [value for _, attributes in elements.found for name, value in attributes.items() if name in LINKING]
    assert links
    assert {str(link).split(":")[0] for link in links if not str(link).startswith("#")} == {"data"}
    policies = [attributes["content"] for tag, attributes in elements.found if "http-equiv" in attributes]
    assert len(policies) == 1
    assert str(policies[0]).startswith("default-src 'none'; ")
    assert "http" not in str(policies[0])


def test_what_a_run_says_stays_text(tmp_path: Path) -> None:
    """A host's name with markup in it is a cell's text, and ends no script."""
    run = make_run(tmp_path / "a'b\"><i>").path
    text = _report(run)
    elements = Elements(text)
    assert [tag for tag, _ in elements.found if tag in ("i", "b")] == []
    assert len([tag for tag, _ in elements.found if tag == "script"]) == 3
    assert any(HARM in cell for cell in elements.texts)
    assert run.name in elements.texts
    assert set(_data(text)["pictures"]) == {run.name}


def test_every_section_is_there(tmp_path: Path) -> None:
    text = _report(make_run(tmp_path / "run").path)
    wanted = (
        "summary",
        "plots",
        "predictions",
        "epochs",
        "variables",
        "ranks",
        "configuration",
        "environment",
        "events",
    )
    sections = [attributes["id"] for tag, attributes in Elements(text).found if tag == "section"]
    assert tuple(map(str, sections)) == wanted
    assert "learning_rate: 0.1" in text
    assert "resumed" in text
    for rank in ("100", "101"):
        assert f"<td>{rank}</td>" in text
    assert len(_data(text)["pictures"]["run"]) == 4


def test_every_plot_has_a_name_and_numbers(tmp_path: Path) -> None:
    text = _report(make_run(tmp_path / "run").path)
    plots = [attributes for tag, attributes in Elements(text).found if attributes.get("class") == "plot"]
    assert len(plots) == len(_data(text)["figures"]) == 9
    for plot in plots:
        assert len(str(plot["aria-label"])) > 20
        assert plot["tabindex"] == "0"
    assert text.count("<summary>Numbers</summary>") == 8  # the picture of all variables has its own table


def test_several_runs_are_compared(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one").path, make_run(tmp_path / "other", rate=0.5).path
    text = _report(one, other, to=tmp_path / "both.html")
    assert "<code>optimizer.learning_rate: 0.1 -&gt; 0.5</code>" in text
    assert "<h1>2 runs compared</h1>" in text
    assert {trace["run"] for trace in _data(text)["figures"][0]["traces"]} == {"one", "other"}


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "a" / "run").path, make_run(tmp_path / "b" / "run").path
    text = _report(one, other, to=tmp_path / "both.html")
    assert {trace["run"] for trace in _data(text)["figures"][0]["traces"]} == {"a/run", "b/run"}


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    folder.metrics.write_text(folder.metrics.read_text(encoding="utf-8").splitlines(keepends=True)[0], encoding="utf-8")
    for path in [*folder.gradients.rglob("*.parquet"), *folder.checkpoints.rglob("*.json")]:
        path.unlink()
    for picture in folder.predictions.iterdir():
        picture.write_bytes(b"torn")
    text = _report(folder.path)
    assert _data(text)["figures"] == []
    assert "no checkpoint yet" in text
    assert re.search("manifest: it was not finished", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere"], "/nowhere: no run here, expected a folder with a job.yaml"),
        (["RUN", "RUN"], "several runs: expected --to FILE"),
        (["RUN", "RUN", "--to", "FILE"], "given 2 times, expected different runs"),
        (["RUN", "--to", "/nowhere/file.html"], "/nowhere/file.html: cannot be written"),
    ],
)
def test_bad_input(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run").path
    given = [text.replace("RUN", str(run)).replace("FILE", str(tmp_path / "file.html")) for text in arguments]
    assert main(["report", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
