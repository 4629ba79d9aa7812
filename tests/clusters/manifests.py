"""The Kubernetes manifests as Kustomize renders them."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml"))
Resource = dict[str, Any]


@functools.cache
def kubectl() -> str:
    """The one that the tests' environment has, else the one on the PATH."""
    own = Path(sys.prefix) / "bin" / "kubectl"
    return str(own) if own.exists() else shutil.which("kubectl") or "kubectl"


@functools.cache
def rendered(overlay: str) -> str:
    command = [kubectl(), "kustomize", str(K8S / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(overlay: str) -> list[Resource]:
    return list(yaml.safe_load_all(rendered(overlay)))


def resource(overlay: str, kind: str) -> Resource:
    (found,) = [each for each in resources(overlay) if each["kind"] == kind]
    return found


def templates(overlay: str) -> dict[str, Resource]:
    """The pod templates of an overlay's job, by the names of their only containers."""
    found = []
    for each in resources(overlay):
        if each["kind"] == "MPIJob":
            found += [replica["template"] for replica in each["spec"]["mpiReplicaSpecs"].values()]
        elif each["kind"] == "Job":
            found.append(each["spec"]["template"])
    return {template["spec"]["containers"][0]["name"]: template for template in found}
