"""A report as one HTML file that needs nothing but itself: plots, pictures, styles and programs are inside.

What comes from a run is data: it is escaped, and the page's policy forbids every request that would leave it.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distrain.errors import BadInput
from distrain.job.load import differences, dump_yaml
from distrain.report.collect import Run
from distrain.report.figures import COLOURS, Figure, figures, marks, spoken

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
MISSING = "\N{EN DASH}"
# Pictures of predictions: so many of a run, evenly spread, and no wider than this.
PICTURES = 12
WIDEST = 1000
QUALITY = 80
MEASURES = ("norm", "mean_norm", "update_ratio", "coherence", "alignment", "noise_scale", "snr")
# The events that tell what each worker runs on; others have no more than how many there were.
WORLDS = ("started", "resumed", "resized")
# Details of events that stand in columns, or tables, of their own.
SHOWN_ELSEWHERE = ("kind", "event", "step", "epoch", "position", "time", "workers")


def page(runs: Sequence[Run]) -> str:
    """The report of one run, or of several compared. Raises `BadInput` where Plotly is not installed."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    shown = figures(runs)
    sections = [
        ("summary", "Summary", _summary(runs)),
        ("plots", "Over time", _choices() + "".join(map(_figure, shown))),
        ("predictions", "Predictions", "".join(_pictures(run, len(runs)) for run in runs)),
        ("epochs", "Epochs", "".join(_epochs(run, len(runs)) for run in runs)),
        ("variables", "Variables", "".join(_variables(run, len(runs)) for run in runs)),
        ("ranks", "Workers", "".join(_ranks(run, len(runs)) for run in runs)),
        ("configuration", "Configuration", _configuration(runs)),
        ("environment", "Environment", _environment(runs)),
        ("events", "Events", "".join(_events(run, len(runs)) for run in runs)),
    ]
    there = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in there)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-heading"><h2 id="{key}-heading">{heading}</h2>{content}</section>'
        for key, heading, content in there
    )
    lines = [mark for number, run in enumerate(runs) for mark in marks(run, number, epochs=len(runs) == 1)]
    data = {
        "figures": [{"key": one.key, "traces": one.traces, "layout": one.layout} for one in shown],
        "marks": lines,
        "pictures": {run.name: [picture for _, picture in _encoded(run)] for run in runs},
    }
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · distrain</title>
<link rel="icon" href="data:,">
<style>{_asset("report.css")}</style>
</head>
<body>
<a class="skip" href="#summary">To the summary</a>
<header>
<div><h1>{escape(title)}</h1><p>distrain's report, made {made}</p></div>
<button id="theme" type="button" aria-pressed="false">Dark</button>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
<noscript><p>Plots need JavaScript. All else is here without it.</p></noscript>
{body}
</main>
<p id="told" class="unseen" role="status" aria-live="polite"></p>
<script type="application/json" id="data">{_json(data)}</script>
<script>{_program(_plotly())}</script>
<script>{_program(_asset("report.js"))}</script>
</body>
</html>
"""


# ---- parts


def _summary(runs: Sequence[Run]) -> str:
    rows: dict[str, list[str]] = {}
    for number, run in enumerate(runs):
        manifest = run.manifest
        state = "no checkpoint yet" if manifest is None else "finished" if manifest.finished else "not finished"
        found: dict[str, Any] = {"state": state}
        if manifest is not None:
            progress = manifest.progress
            found |= {"checkpoint of step": progress.step, "epoch": manifest.epoch, "parameters": manifest.parameters}
            found |= {"workers": manifest.world_size, "skipped steps": progress.skipped}
            if progress.best is not None:
                found["best"] = f"{_number(progress.best)} at step {progress.best_step}"
        last = [float(part.times[-1]) for part in (run.steps, run.epochs, run.validations) if len(part)]
        found["from first to last record"] = _duration(max(last) - run.begun) if last else None
        found["restarts"] = len(run.restarts())
        for words, records in (("training", run.epochs), ("validation", run.validations)):
            found |= {f"{words} {spoken(name)}": float(column[-1]) for name, column in records.values.items()}
        for name, value in found.items():
            rows.setdefault(name, [MISSING] * len(runs))[number] = _number(value)
    heads = ["", *(run.name for run in runs)]
    marked = [
        f'<th scope="col"><span class="key" data-series="{n % COLOURS}"></span>{escape(text)}</th>'
        for n, text in enumerate(heads[1:])
    ]
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'
        for name, values in rows.items()
    )
    advice = "".join(
        f"<p>{'' if len(runs) == 1 else f'<strong>{escape(run.name)}:</strong> '}{escape(run.gradients['advice'])}</p>"
        for run in runs
        if run.gradients is not None and run.gradients["advice"]
    )
    head = f"<thead><tr><td></td>{''.join(marked)}</tr></thead>"
    table = f"<table>{head}<tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="group" aria-label="Summary">{table}</div>{advice}'


def _choices() -> str:
    options = "".join(
        f'<label><input type="radio" name="place" value="{key}"{" checked" if key == "step" else ""}> {words}</label>'
        for key, words in (("step", "step"), ("examples", "examples seen"), ("hours", "hours since the beginning"))
    )
    return (
        f'<fieldset id="places" class="screen"><legend>Horizontal axis</legend>{options}</fieldset>'
        '<p class="screen">In a plot: <kbd>←</kbd> <kbd>→</kbd> go from point to point, '
        "<kbd>+</kbd> <kbd>-</kbd> zoom, "
        "<kbd>Shift</kbd> with <kbd>←</kbd> <kbd>→</kbd> moves, <kbd>0</kbd> shows all. Dashed lines are "
        "restarts, faint ones ends of epochs.</p>"
    )


def _figure(figure: Figure) -> str:
    label, title = escape(f"{figure.title}. {figure.says}", quote=True), escape(figure.title, quote=True)
    buttons = "".join(
        f'<button type="button" data-do="{action}" aria-label="{words}: {title}">{sign}</button>'
        for action, words, sign in (
            ("in", "Zoom in", "+"),
            ("out", "Zoom out", "\N{MINUS SIGN}"),
            ("all", "Show all", "0"),
            ("save", "Save as a picture", "⤓"),
        )
    )
    rows = [[trace["name"], *map(_number, _extremes(trace))] for trace in figure.traces if trace["type"] == "scatter"]
    numbers = (
        _details("Numbers", _table(["curve", "points", "first", "last", "least", "greatest"], rows)) if rows else ""
    )
    return (
        f'<figure id="{figure.key}" aria-labelledby="{figure.key}-title" aria-describedby="{figure.key}-about">'
        f'<figcaption><h3 id="{figure.key}-title">{escape(figure.title)}</h3>'
        f'<p id="{figure.key}-about">{escape(figure.about)}</p></figcaption>'
        f'<div class="plot" data-key="{figure.key}" tabindex="0" role="group" aria-roledescription="plot" '
        f'aria-label="{label}"></div><div class="buttons screen">{buttons}</div>{numbers}</figure>'
    )


def _extremes(trace: Mapping[str, Any]) -> list[Any]:
    values = [value for value in trace["y"] if value is not None]
    return [len(values), values[0], values[-1], min(values), max(values)]


def _pictures(run: Run, runs: int) -> str:
    encoded = _encoded(run)
    if not encoded:
        return ""
    name, last = escape(run.name, quote=True), len(encoded) - 1
    epochs = json.dumps([epoch for epoch, _ in encoded])
    return (
        f'<figure class="pictures" aria-label="Predictions of {name}" data-run="{name}" data-epochs="{epochs}">'
        f"{_heading(run, runs)}"
        f'<p class="screen"><label>Epoch <input type="range" min="0" max="{last}" value="{last}"></label> '
        f"<output>{encoded[-1][0]}</output></p>"
        f'<img src="{encoded[-1][1]}" alt="Validation examples of {name}: input, label and prediction side by side, '
        f'after epoch {encoded[-1][0]}">'
        "<figcaption>Input, label and prediction of the first validation examples, one a row.</figcaption></figure>"
    )


def _encoded(run: Run) -> list[tuple[int, str]]:
    """Epoch and data URL of the pictures that are shown."""
    chosen = np.unique(np.linspace(0, len(run.pictures) - 1, min(PICTURES, len(run.pictures))).round().astype(int))
    found = []
    for number in chosen.tolist() if run.pictures else []:
        path = run.pictures[number]
        try:
            with Image.open(path) as picture:
                picture.thumbnail((WIDEST, 4 * WIDEST))
                file = io.BytesIO()
                picture.convert("RGB").save(file, format="WEBP", quality=QUALITY)
        except OSError:
            continue  # one that is being replaced, or damaged, is no reason to show nothing
        encoded = base64.b64encode(file.getvalue()).decode()
        found.append((int(path.stem.rpartition("_")[2]), f"data:image/webp;base64,{encoded}"))
    return found


def _epochs(run: Run, runs: int) -> str:
    """A row for each epoch: the training's mean loss, and what validation gave."""
    rows: dict[int, dict[str, float]] = {}
    for words, records in (("training", run.epochs), ("validation", run.validations)):
        for number, epoch in enumerate(records.epochs):
            row = rows.setdefault(int(epoch), {})
            row["step"] = records.steps[number]
            row |= {f"{words} {spoken(name)}": float(column[number]) for name, column in records.values.items()}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = _table(
        ["epoch", *names],
        [[str(epoch), *(_number(row.get(name)) for name in names)] for epoch, row in sorted(rows.items())],
    )
    return _heading(run, runs) + _details(f"Epochs: {len(rows)}", table) if rows else ""


def _variables(run: Run, runs: int) -> str:
    if run.gradients is None:
        return ""
    rows = [
        [
            one["variable"],
            *(_number(one[name]) for name in MEASURES),
            "; ".join(f"{reason['rule']}: {reason['text']}" for reason in one["attention"]),
        ]
        for one in run.gradients["variables"]
    ]
    heads = ["variable", *(name.replace("_", " ") for name in MEASURES), "attention"]
    about = (
        f"<p>Medians over the newest {run.gradients['recent_steps']} measured steps; what needs a look comes first.</p>"
    )
    return (
        _heading(run, runs) + about + _details(f"Variables: {len(rows)}", _table(heads, rows), opened=len(rows) <= 40)
    )


def _ranks(run: Run, runs: int) -> str:
    """A row for each rank of the newest world: where it runs, and what its own examples gave."""
    started = [event for event in run.events if event["event"] in WORLDS]
    workers = started[-1]["workers"] if started else []
    seen = {one["rank"]: one for one in (run.gradients or {"ranks": []})["ranks"]}
    names = ("steps", "examples", "loss", "norm", "loss_to_others", "norm_to_others")
    rows = []
    for rank in sorted({*range(len(workers)), *seen}):
        worker = workers[rank] if rank < len(workers) else {}
        gpus = ", ".join(worker.get("gpus", [])) or "none"
        place = [worker.get("host"), str(worker.get("pid", MISSING)), worker.get("cores"), gpus if worker else None]
        rows.append([str(rank), *map(_number, place), *(_number(seen.get(rank, {}).get(name)) for name in names)])
    if not rows:
        return ""
    odd = "".join(f"<p>{escape(one['text'])}</p>" for one in (run.gradients or {"odd_ranks": []})["odd_ranks"])
    heads = ["rank", "host", "process", "cores", "GPUs", *(name.replace("_", " ") for name in names)]
    return _heading(run, runs) + _table(heads, rows) + odd


def _configuration(runs: Sequence[Run]) -> str:
    found = ""
    for run in runs[1:]:
        lines = differences(runs[0].job, run.job)
        items = "".join(f"<li><code>{escape(line)}</code></li>" for line in lines) or "<li>no difference</li>"
        found += f"<h3>{escape(run.name)}, to {escape(runs[0].name)}</h3><ul>{items}</ul>"
    for run in runs:
        text = f"<pre tabindex='0'>{escape(dump_yaml(run.job))}</pre>"
        found += _details(f"job.yaml of {run.name}", text)
    return found


def _environment(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.versions))
    rows = [[name, *(run.versions.get(name, MISSING) for run in runs)] for name in names]
    rows.append(["folder", *(str(run.folder.path.resolve()) for run in runs)])
    return _table(["", *(run.name for run in runs)], rows)


def _events(run: Run, runs: int) -> str:
    rows = []
    for event in run.events:
        details = {name: value for name, value in event.items() if name not in SHOWN_ELSEWHERE}
        words = ", ".join(f"{name.replace('_', ' ')}: {_number(value)}" for name, value in details.items())
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
        rows.append([when, event["event"], str(event["step"]), str(event["epoch"]), words])
    for found in run.checkpoints:
        if not found.valid:
            rows.append(["", "checkpoint not valid", str(found.step), "", f"{found.path.name}: {found.why_not}"])
    table = _table(["time", "event", "step", "epoch", "details"], rows)
    return _heading(run, runs) + _details(f"Events: {len(rows)}", table, opened=len(rows) <= 30) if rows else ""


# ---- pieces


def _heading(run: Run, runs: int) -> str:
    return f"<h3>{escape(run.name)}</h3>" if runs > 1 else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(text)}</td>" for text in row[1:])}</tr>'
        for row in rows
    )
    label = escape(", ".join(text for text in heads if text), quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="Table: {label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _details(summary: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{content}</details>"


def _number(value: Any) -> str:
    """A value as tables show it."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _asset(name: str) -> str:
    return files("distrain.report").joinpath("static", name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Plotly's own program, which its Python package brings; that is not imported, it would take seconds."""
    found = importlib.util.find_spec("plotly")
    for folder in (found.submodule_search_locations if found else None) or ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise BadInput("report: Plotly is not installed, expected the package 'plotly' beside distrain")


def _json(data: Any) -> str:
    """JSON in which nothing can end the element that it stands in, or begin another."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _program(text: str) -> str:
    """A program whose strings cannot end the element that it stands in."""
    return text.replace("</script", "<\\/script")
