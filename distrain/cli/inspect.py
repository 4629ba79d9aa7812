"""`distrain inspect RUN`: what a run has come to, read from its folder alone, without TensorFlow."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from distrain.checkpoint.store import find
from distrain.errors import BadInput
from distrain.log.folder import RunFolder, last_record

NOT_METRICS = ("kind", "step", "epoch", "position", "time")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument(
        "--gradients",
        action="store_true",
        help="the gradients' statistics by variable and rank, what needs a look first",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="with --gradients: draw them over time, as FILE.png or FILE.svg"
    )


def main(arguments: argparse.Namespace) -> int:
    """Print what the folder holds; returns the exit code."""
    if arguments.plot is not None and not arguments.gradients:
        raise BadInput("--plot: expected --gradients beside it")
    if arguments.gradients:
        return _gradients(arguments)
    summary = summarise(arguments.run)
    if arguments.json:
        print(json.dumps(summary, indent=1))
    else:
        _print(summary)
    return 0


def _gradients(arguments: argparse.Namespace) -> int:
    # Imported here: what reads and draws tables takes longer to load than all the rest of this command takes.
    from distrain.cli import gradient_report
    from distrain.log.gradient_summary import summarise as summarise_gradients

    folder = RunFolder(arguments.run)
    summary = summarise_gradients(folder)
    if arguments.plot is not None:
        gradient_report.plot(folder, arguments.plot)
    if arguments.json:
        print(json.dumps(summary, indent=1))
    else:
        gradient_report.show(summary)
    return 0


def summarise(path: Path) -> dict[str, Any]:
    """All that `inspect` tells, as JSON holds it. Raises `BadInput` where there is no run."""
    folder = RunFolder(path)
    folder.require()
    checkpoints = find(folder.checkpoints)
    manifest = next((found.manifest for found in reversed(checkpoints) if found.manifest is not None), None)
    summary: dict[str, Any] = {"run": str(path), "step": 0, "epoch": 0, "position": 0, "finished": False}
    for name in ("world_size", "parameters", "weights_sha256", "optimizer_sha256", "gradient_mean_sha256"):
        summary[name] = None if manifest is None else getattr(manifest, name)
    if manifest is not None:
        progress = manifest.progress
        summary.update(step=progress.step, position=progress.position, skipped_steps=progress.skipped)
        summary.update(best=progress.best, best_step=progress.best_step)
        summary.update(epoch=manifest.epoch, finished=manifest.finished, versions=manifest.versions)
    summary["checkpoints"] = [
        {"step": found.step, "valid": found.valid, "why_not": found.why_not} for found in checkpoints
    ]
    step, validation = last_record(folder, "step"), last_record(folder, "validation")
    summary["loss"] = None if step is None else step["loss"]
    summary["validation"] = (
        None if validation is None else {name: validation[name] for name in validation if name not in NOT_METRICS}
    )
    return summary


def _print(summary: dict[str, Any]) -> None:
    for name, value in summary.items():
        if name == "checkpoints":
            print("checkpoints")
            for found in value:
                print(f"  step {found['step']}: {'valid' if found['valid'] else found['why_not']}")
        elif isinstance(value, dict):
            shown = ", ".join(f"{key} {_rounded(item)}" for key, item in value.items())
            print(f"{name.replace('_', ' '):22}{shown}")
        else:
            print(f"{name.replace('_', ' '):22}{_rounded(value)}")


def _rounded(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
