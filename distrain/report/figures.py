"""The plots of a report, as Plotly takes them: plain values. Colours are names that the page has a light and a dark of.

A point has three places: its step, the examples seen up to it, and the hours since the run began; the page shows the
one that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distrain.gradients.attention import typical
from distrain.report.collect import Records, Run

# A plot is no wider than so many points can be told apart.
MOST = 600
ROWS = 60
COLOURS = 6


@dataclass(frozen=True)
class Figure:
    """One plot: title, a sentence on what it shows, Plotly's traces and layout, and what they say in words."""

    key: str
    title: str
    about: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    says: str = ""


def figures(runs: Sequence[Run]) -> list[Figure]:
    """All plots that these runs have the numbers for."""
    found = [_loss(runs), *_metrics(runs), _learning_rate(runs), _throughput(runs), _norms(runs), _noise(runs)]
    maps = [_heat_map(run, number, len(runs)) for number, run in enumerate(runs)]
    return [figure for figure in (*found, _agreement(runs), *maps) if figure is not None and figure.traces]


def _loss(runs: Sequence[Run]) -> Figure:
    traces = []
    for number, run in enumerate(runs):
        traces.append(_line(run, number, run.steps, "loss", "each step", width=1, opacity=0.45))
        traces.append(_line(run, number, run.epochs, "loss", "mean of an epoch", mode="lines+markers"))
        traces.append(_line(run, number, run.validations, "loss", "validation", mode="lines+markers", dash="dot"))
    about = "Steps, the mean over each epoch's examples, and validation over all of its examples."
    return _over_time("loss", "Loss", about, traces, runs, "loss")


def _metrics(runs: Sequence[Run]) -> list[Figure]:
    names = dict.fromkeys(
        name for run in runs for name in run.validations.values if name not in ("loss", "bad_examples")
    )
    found = []
    for name in names:
        traces = [
            _line(run, number, run.validations, name, spoken(name), mode="lines+markers")
            for number, run in enumerate(runs)
        ]
        title = spoken(name)[0].upper() + spoken(name)[1:]
        about = "Over all validation examples, after each epoch."
        found.append(_over_time(f"metric-{name}", title, about, traces, runs, spoken(name)))
    return found


def _learning_rate(runs: Sequence[Run]) -> Figure:
    traces = [_line(run, number, run.steps, "learning_rate", "learning rate") for number, run in enumerate(runs)]
    layout = {"yaxis": {"rangemode": "tozero"}}
    return _over_time("learning-rate", "Learning rate", "Of each step.", traces, runs, "learning rate", layout)


def _throughput(runs: Sequence[Run]) -> Figure:
    traces = []
    for number, run in enumerate(runs):
        traces.append(_line(run, number, run.steps, "examples_per_second", "examples a second"))
        traces.append(_line(run, number, run.steps, "data_wait_seconds", "wait for data", dash="dot", yaxis="y2"))
    about = "Above, examples a second over all workers. Below, how long a step waited for its examples, in seconds."
    layout = {
        "yaxis": {"title": {"text": "examples/s"}, "domain": [0.42, 1], "rangemode": "tozero"},
        "yaxis2": {"title": {"text": "seconds"}, "domain": [0, 0.32], "rangemode": "tozero"},
        "xaxis": {"anchor": "y2"},
    }
    return _over_time("throughput", "Throughput", about, traces, runs, "", layout)


def _norms(runs: Sequence[Run]) -> Figure:
    traces = []
    for number, run in enumerate(runs):
        traces.append(_line(run, number, run.steps, "gradient_norm", "gradient", width=1, opacity=0.6))
        traces.append(_line(run, number, run.steps, "mean_norm", "running mean"))
        if len(runs) == 1 and "mean_norm" in run.steps.values:
            traces.append(_noise_alone(run))
    about = (
        "The norm of each step's gradient, and of the mean of all gradients so far. Noise alone would have the mean "
        "fall along the dotted line; where it stays above, the steps share a direction."
    )
    return _over_time("norms", "Gradient and running mean", about, traces, runs, "norm", {"yaxis": {"type": "log"}})


def _noise_alone(run: Run) -> dict[str, Any]:
    """What the mean of as many gradients of pure noise would have for a norm."""
    count = np.arange(1, len(run.steps) + 1)
    square = np.cumsum(np.nan_to_num(run.steps.values["gradient_norm"]) ** 2) / count
    values = {**run.steps.values, "noise alone": np.sqrt(square / np.maximum(run.steps.steps, 1))}
    records = Records(run.steps.steps, run.steps.epochs, run.steps.positions, run.steps.times, values)
    return _line(run, 0, records, "noise alone", "noise alone, 1/√n", width=1, dash="dot", colour="--text")


def _noise(runs: Sequence[Run]) -> Figure:
    traces = [_line(run, number, run.steps, "noise_scale", "noise scale") for number, run in enumerate(runs)]
    about = (
        "The batch size at which noise and signal of a step's gradient are of one size. Batches much larger gain "
        "little; it takes several workers, or micro-batches, to tell."
    )
    return _over_time("noise-scale", "Noise scale", about, traces, runs, "examples", {"yaxis": {"type": "log"}})


def _agreement(runs: Sequence[Run]) -> Figure:
    names = {"coherence": "coherence", "alignment": "alignment", "agreement": "agreement of ranks"}
    traces = [
        _line(run, number, run.steps, name, words, dash=dash)
        for number, run in enumerate(runs)
        for (name, words), dash in zip(names.items(), ("solid", "dot", "dash"), strict=True)
    ]
    about = (
        "Coherence: 1 where all gradients so far agree, 1/n for noise. Alignment: the cosine between a gradient and "
        "the mean before it. Agreement: 1 where the ranks' gradients agree within a step, 1 by their number for noise."
    )
    return _over_time("agreement", "Agreement of the gradients", about, traces, runs, "")


def _heat_map(run: Run, number: int, runs: int) -> Figure | None:
    history = run.history
    if history is None:
        return None
    values = history.values["norm"][:, :-1]
    begins = _begins(len(history.steps), 200)
    columns = np.stack([typical(part) for part in np.split(values, begins[1:])])
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.log10(columns.T)
    trace = {
        "type": "heatmap",
        "x": _listed(history.steps[begins]),
        "y": history.names,
        "z": [_listed(row) for row in np.where(np.isfinite(shown), shown, np.nan)],
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "log10 of norm"}},
        "hovertemplate": "step %{x}<br>%{y}<br>10^%{z:.2f}<extra></extra>",
    }
    layout = {
        "yaxis": {"autorange": "reversed", "automargin": True, "tickfont": {"size": 10}},
        "xaxis": {"title": {"text": "step"}},
        "height": max(320, 120 + 15 * min(len(history.names), ROWS)),
    }
    name = "" if runs == 1 else f" of {run.name}"
    about = "One row a variable, the first layer at the top. A row that stays dark learns little; a bright one moves."
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    says = f"{len(history.names)} variables, norms from {low:.3g} to {high:.3g}."
    return Figure(f"variables-{number}", f"Norm of each variable's gradient{name}", about, [trace], layout, says)


def _line(run: Run, number: int, records: Records, name: str, words: str, **style: Any) -> dict[str, Any]:
    """One curve of a run; nothing where it has no such numbers."""
    values = records.values.get(name)
    if values is None or not np.isfinite(values).any():
        return {}
    told = np.isfinite(values)
    begins = _begins(int(told.sum()), MOST)
    parts = np.split(values[told], begins[1:])
    hours = (records.times[told] - run.begun) / 3600
    colour = style.get("colour", f"--series-{number % COLOURS}")
    return {
        "type": "scatter",
        "name": words,
        "run": run.name,
        "yaxis": style.get("yaxis", "y"),
        "mode": style.get("mode", "lines"),
        "opacity": style.get("opacity", 1),
        "line": {"color": colour, "width": style.get("width", 2), "dash": style.get("dash", "solid")},
        "marker": {"color": colour, "size": 6},
        "places": {
            "step": _listed(records.steps[told][begins]),
            "examples": _listed(records.positions[told][begins]),
            "hours": _listed(np.round(hours[begins], 5)),
        },
        "y": _listed(np.array([np.median(part) for part in parts])),
        "medians": math.ceil(told.sum() / len(begins)),
    }


def _over_time(
    key: str,
    title: str,
    about: str,
    traces: Sequence[dict[str, Any]],
    runs: Sequence[Run],
    unit: str,
    layout: dict[str, Any] | None = None,
) -> Figure:
    """A figure of curves, with the restarts of its runs, and its epochs where it is of one."""
    there = [trace for trace in traces if trace]
    for trace in there:
        if len(runs) > 1:
            trace["name"] = f"{trace['run']}: {trace['name']}"
    says = " ".join(f"{trace['name']}: {_course(trace['y'])}." for trace in there)
    most = max((trace["medians"] for trace in there), default=1)
    if most > 1:
        about += f" Medians over up to {most} steps."
    own = {"yaxis": {"title": {"text": unit}}}
    for axis, options in (layout or {}).items():
        own[axis] = {**own.get(axis, {}), **options}
    return Figure(key, title, about, there, own, says)


def spoken(name: str) -> str:
    """A number's name as people write it."""
    return {"iou": "IoU", "dice": "Dice"}.get(name, name.replace("_", " "))


def marks(run: Run, number: int, *, epochs: bool) -> list[dict[str, Any]]:
    """The lines across all plots over time: restarts, and ends of epochs unless there are too many to see."""
    found = []
    ends = run.epochs
    if epochs and len(ends) <= 100:
        found += [
            {"kind": "epoch", "text": f"end of epoch {int(epoch)}", **_place(run, step, position, time)}
            for epoch, step, position, time in zip(ends.epochs, ends.steps, ends.positions, ends.times, strict=True)
        ]
    for event in run.restarts():
        workers = event.get("world_size")
        text = f"{event['event']} after step {event['step']}" + (f", {workers} workers" if workers else "")
        place = _place(run, event["step"], event["position"], event["time"])
        found.append({"kind": "restart", "text": text, "colour": f"--series-{number % COLOURS}", **place})
    return found


def _place(run: Run, step: float, position: float, time: float) -> dict[str, float]:
    return {"step": float(step), "examples": float(position), "hours": round((float(time) - run.begun) / 3600, 5)}


def _course(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    least, most = min(numbers), max(numbers)
    return f"from {numbers[0]:.4g} to {numbers[-1]:.4g}, between {least:.4g} and {most:.4g}"


def _begins(count: int, most: int) -> Any:
    """Where each of at most so many bins begins."""
    return np.unique(np.linspace(0, count, min(count, most), endpoint=False).astype(int))


def _listed(values: Any) -> list[Any]:
    """Numbers as JSON holds them, shorter than they are known: six digits are more than a plot shows."""
    return [None if not math.isfinite(value) else float(f"{value:.6g}") for value in np.asarray(values, float).tolist()]
