"""Pictures of the gradients' statistics over a run, drawn by Matplotlib, which is loaded with this module alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from distrain.gradients.attention import typical
from distrain.log.gradient_table import RankHistory, VariableHistory

Floats = npt.NDArray[np.float64]

BINS = 200  # columns of a picture: more cannot be told apart
CURVE = 60  # points of a curve of ratios, each a median over a stretch of steps
NAMES = 48  # variables of which the names still can be read


def draw(path: Path, variables: VariableHistory, ranks: RankHistory | None) -> None:
    """Write all four panels to one file; its suffix says whether it is a PNG or an SVG. Raises `OSError`."""
    # Words stay words in an SVG, and the same numbers give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "distrain"}):
        _draw(path, variables, ranks)


def _draw(path: Path, variables: VariableHistory, ranks: RankHistory | None) -> None:
    figure = Figure(figsize=(13, 9), layout="constrained")
    top, bottom = figure.subplots(2, 2)
    heat_map(top[0], variables)
    norms(top[1], variables)
    noise_scale(bottom[0], variables)
    agreement(bottom[1], variables, ranks)
    temporary = path.with_name(f".{path.name}.tmp")
    if path.suffix.lower() == ".svg":
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    else:
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=80)
        # 256 colours are enough, and make it a third as large.
        Image.open(drawn).convert("RGB").quantize(256).save(temporary, format="PNG", optimize=True)
    temporary.replace(path)


def heat_map(axes: Axes, history: VariableHistory) -> None:
    """The norm of each variable's gradient, by step."""
    steps, values = binned(history.steps, history.values["norm"][:, :-1])
    with np.errstate(divide="ignore"):
        shown = np.ma.masked_invalid(np.log10(values.T))
    edges = np.append(steps, history.steps[-1] + 1)
    image = axes.pcolormesh(edges, np.arange(len(history.names) + 1), shown, rasterized=True)
    colours = axes.figure.colorbar(image, ax=axes)
    colours.set_label("log10 of the norm")
    axes.invert_yaxis()
    if len(history.names) <= NAMES:
        axes.set_yticks(np.arange(len(history.names)) + 0.5, history.names, fontsize=7)
    _labelled(axes, "norm of the gradient by variable", "step", "" if len(history.names) <= NAMES else "variable")


def norms(axes: Axes, history: VariableHistory) -> None:
    """The norm of the running mean against that of the gradient, and how the mean of pure noise would fall."""
    norm, mean = history.values["norm"][:, -1], history.values["mean_norm"][:, -1]
    axes.loglog(history.steps, norm, linewidth=0.7, alpha=0.7, label="gradient")
    axes.loglog(history.steps, mean, linewidth=1.5, label="running mean")
    root_mean_square = np.sqrt(np.cumsum(norm**2) / np.arange(1, len(norm) + 1))
    axes.loglog(history.steps, root_mean_square / np.sqrt(history.steps), "k--", linewidth=1, label="1/sqrt(n): noise")
    axes.legend()
    _labelled(axes, "norms over all variables", "step n", "norm")


def noise_scale(axes: Axes, history: VariableHistory) -> None:
    """The noise scale over all variables, with the batch size drawn in."""
    scale, ratio = history.values["noise_scale"][:, -1], history.values["snr"][:, -1]
    shown = np.where(np.isfinite(scale) & (scale > 0), scale, np.nan)
    _labelled(axes, "noise scale and batch size", "step", "examples")
    if np.isnan(shown).all():
        axes.text(0.5, 0.5, "not told by this run", transform=axes.transAxes, ha="center")
        return
    axes.semilogy(history.steps, shown, label="noise scale")
    # snr is signal over noise at the batch's size, so that their product is that size.
    axes.semilogy(history.steps, typical_batch(shown * ratio), "k--", linewidth=1, label="batch size")
    axes.legend()


def typical_batch(sizes: Floats) -> Floats:
    """The batch size at each step, [n], given or not; smaller last batches of an epoch left out."""
    return np.full_like(sizes, typical(sizes[:, None])[0])


def agreement(axes: Axes, history: VariableHistory, ranks: RankHistory | None) -> None:
    """The squared norm of the gradient over that of each rank's own, and over their mean."""
    _labelled(axes, "agreement: squared norm of the gradient to a rank's own", "step", "ratio")
    if ranks is None or len(ranks.ranks) < 2:
        axes.text(0.5, 0.5, "one worker", transform=axes.transAxes, ha="center")
        return
    at = np.isin(history.steps, ranks.steps) & np.isfinite(history.values["norm"][:, -1])
    shared = np.isin(ranks.steps, history.steps[at])
    squares = history.values["norm"][at, -1] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = squares[:, None] / ranks.norms[shared] ** 2
    steps, values = binned(ranks.steps[shared], np.where(np.isfinite(ratios), ratios, np.nan), CURVE)
    for number, rank in enumerate(ranks.ranks):
        axes.plot(steps, values[:, number], linewidth=1, label=f"rank {rank}" if len(ranks.ranks) <= 16 else None)
    steps, values = binned(history.steps, history.values["agreement"][:, -1:], CURVE)
    axes.plot(steps, values[:, 0], "k", linewidth=1.5, label="all ranks")
    axes.axhline(1 / groups(history), color="k", linestyle="--", linewidth=1, label="noise alone")
    axes.set_yscale("log")
    axes.legend(fontsize=8)


def groups(history: VariableHistory) -> float:
    """How many groups of examples the statistics were taken over, from the definition of the noise's estimate."""
    last = {name: values[:, -1] for name, values in history.values.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        examples = typical_batch(last["noise_scale"] * last["snr"])
        counts = 1 + examples * last["norm"] ** 2 * (1 / last["agreement"] - 1) / last["noise"]
    return float(typical(counts[:, None])[0])


def binned(steps: npt.NDArray[np.int64], values: Floats, most: int = BINS) -> tuple[npt.NDArray[np.int64], Floats]:
    """At most so many rows: the first step of each bin, and the medians over it of `values` [n, k]."""
    if len(steps) <= most:
        return steps, values
    begins = np.unique(np.linspace(0, len(steps), most, endpoint=False).astype(int))
    parts = np.split(values, begins[1:])
    return steps[begins], np.stack([typical(part) for part in parts])


def _labelled(axes: Any, title: str, horizontal: str, vertical: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
