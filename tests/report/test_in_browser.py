"""The report in a real browser: no request leaves it, nothing goes wrong, and all of it can be used by keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrain.cli.main import main
from tests.browser import Browser
from tests.report.made_up import make_run

pytestmark = pytest.mark.soak

READY = "document.documentElement?.dataset.ready"
FIRST = "document.querySelector('.plot')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that shows the report of two runs."""
    folder = tmp_path_factory.mktemp("report")
    one, other = make_run(folder / "one").path, make_run(folder / "other", rate=0.5).path
    assert main(["report", str(one), str(other), "--to", str(folder / "both.html")]) == 0
    with Browser(folder / "profile") as browser:
        browser.width(1200)
        browser.open(folder / "both.html", READY)
        yield browser


def _range(browser: Browser) -> Any:
    return json.loads(browser.run(f"JSON.stringify({FIRST}._fullLayout.xaxis.range)"))


def _background(path: Path) -> float:
    with Image.open(path) as picture:
        return float(np.median(np.asarray(picture.convert("L"))))


def test_no_request_leaves_the_page_and_nothing_goes_wrong(browser: Browser) -> None:
    assert browser.run("document.querySelectorAll('.plot .main-svg').length") >= 10
    assert browser.console == []
    (own,) = {address for address in browser.requests if not address.startswith(("data:", "blob:"))}
    assert own.startswith("file:")


def test_a_request_would_be_seen_and_stopped(browser: Browser) -> None:
    """What the test above rests on."""
    before = len(browser.console)
    browser.run("void (new Image().src = 'http://127.0.0.1:9/pixel.png')")
    browser.until("true")
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert any("Content Security Policy" in line for line in browser.console[before:])
    del browser.console[before:]
    browser.requests[:] = [address for address in browser.requests if not address.startswith("http:")]


def test_all_plots_and_controls_have_names(browser: Browser) -> None:
    named = browser.named()
    plots = browser.run("document.querySelectorAll('.plot').length")
    told = [name for role, name in named if role == "group" and (": from " in name or "variables, norms" in name)]
    assert len(told) == plots
    for role in ("figure", "button", "slider", "radio", "link", "table"):
        found = [name for other, name in named if other == role]
        assert role == "table" or (found and all(found)), (role, found)
    assert ("radio", "examples seen") in named


def test_arrows_go_from_point_to_point_and_tell_the_values(browser: Browser) -> None:
    browser.run(f"{FIRST}.focus()")
    browser.press("ArrowRight")
    first = browser.run("document.getElementById('told').textContent")
    browser.press("ArrowRight")
    second = browser.run("document.getElementById('told').textContent")
    assert first.startswith("step 1: one: each step 1.000")
    assert second.startswith("step 2: one: each step 0.5000")
    assert browser.run(f"{FIRST}.querySelectorAll('.hovertext').length") >= 1


def test_plus_minus_and_zero_zoom(browser: Browser) -> None:
    browser.run(f"{FIRST}.focus()")
    low, high = _range(browser)
    browser.press("+")
    browser.until(f"{FIRST}._fullLayout.xaxis.range[0] > {low}")
    closer = _range(browser)
    assert closer[1] - closer[0] == pytest.approx((high - low) / 2)
    browser.press("ArrowRight", modifiers=8)
    browser.until(f"{FIRST}._fullLayout.xaxis.range[0] > {closer[0]}")
    browser.press("0")
    browser.until(f"{FIRST}._fullLayout.xaxis.range[0] <= {low}")


def test_everything_can_be_reached_by_tab(browser: Browser) -> None:
    browser.run("document.activeElement.blur(), window.scrollTo(0, 0)")
    seen = set()
    for _ in range(120):
        browser.press("Tab")
        seen.add(browser.run("(document.activeElement.dataset.key || document.activeElement.type || '') + ''"))
    keys = set(
        json.loads(browser.run("JSON.stringify([...document.querySelectorAll('.plot')].map(p => p.dataset.key))"))
    )
    assert keys | {"button", "radio", "range"} <= seen


def test_the_axis_can_be_examples_or_hours(browser: Browser) -> None:
    browser.run("document.querySelector('#places input[value=examples]').click()")
    browser.until(f"{FIRST}.data[0].x[1] === 16")
    browser.run("document.querySelector('#places input[value=step]').click()")
    browser.until(f"{FIRST}.data[0].x[1] === 2")


def test_restarts_are_marked_in_the_colour_of_their_run(browser: Browser) -> None:
    shapes = json.loads(browser.run(f"JSON.stringify({FIRST}.layout.shapes)"))
    assert [shape["x0"] for shape in shapes] == [20, 20]
    assert len({shape["line"]["color"] for shape in shapes}) == 2


def test_the_slider_shows_predictions_of_other_epochs(browser: Browser) -> None:
    before = browser.run("document.querySelector('.pictures img').src")
    browser.run("document.querySelector('.pictures input').focus()")
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('.pictures img').src") != before
    assert browser.run("document.querySelector('.pictures img').alt").endswith("after epoch 2")
    assert browser.run("document.querySelector('.pictures img').complete")


def test_it_fits_wide_and_narrow_windows_light_and_dark_and_paper(browser: Browser, tmp_path: Path) -> None:
    greys = {}
    for width in (1200, 400):
        browser.width(width)
        browser.until(f"{FIRST}.getBoundingClientRect().right <= {width}")
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(f"Math.abs({FIRST}._fullLayout.width - {FIRST}.clientWidth)") <= 1
    for scheme in ("dark", "light"):
        browser.media(prefers_color_scheme=scheme)
        browser.until(f"document.documentElement.dataset.theme === '{scheme}'")
        browser.screenshot(tmp_path / f"{scheme}.png")
        greys[scheme] = _background(tmp_path / f"{scheme}.png")
    assert greys["dark"] < 40
    assert greys["light"] > 220
    browser.printed(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert browser.console == []
