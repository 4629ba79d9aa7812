"""What the documentation's commands meet in the tests that a reader does not: each with its reason."""

from __future__ import annotations

from typing import Any

# What is changed in the sandbox's copies of the jobs: small images, a small U-Net, few steps.
CIRCLES = {"examples": 160, "size": 60, "radius": [3, 9]}
SHORTER: dict[str, dict[str, Any]] = {
    "circles.yaml": {
        "data": {"train": CIRCLES, "validation": {**CIRCLES, "examples": 4}},
        "model": {"layers": 2, "features": 4},
        "train": {"epochs": 2},
    },
    "membrane.yaml": {
        "data": {"train": {"crop": [60, 60]}},
        "model": {"layers": 2, "features": 4},
        "train": {"epochs": 1},
    },
}

# Programs for which no machine that tests has the other side, and why; stand_in.py says what it does of each instead.
STAND_INS = {
    "docker": "needs an engine, and an image that takes minutes to build: looks at the arguments and at what they name",
    "kubectl": "needs a cluster: kustomize is the real one's; of others the real one must miss nothing but the server",
    "sbatch": "needs a Slurm cluster (make cluster-test makes one): looks at script, job and options",
    "scancel": "as sbatch",
    "ssh": "needs other hosts: every host is this machine",
    "uv": "the packages for GPUs are 10 GB: asks the index for all of them, and puts those for CPUs there",
}


# Commands that run all of the tests, this one too: CI has run them as they stand when it comes to it.
THESE = ("make test", "make check")
