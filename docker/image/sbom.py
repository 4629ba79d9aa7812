"""Writes the image's bill of materials: every Debian and Python package in it, as CycloneDX 1.5 (ECMA-424) JSON.

    python sbom.py FILE

Run inside the image, by its own Python.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]


def python_packages() -> list[Component]:
    """The packages of the environment that runs this."""
    found = []
    for package in importlib.metadata.distributions():
        name, version = package.metadata["Name"], package.version
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version)}"
        said = package.metadata.json
        licence = said.get("license_expression") or said.get("license")
        found.append(_component(name, version, purl, str(licence) if licence else None))
    return found


def debian_packages() -> list[Component]:
    """The packages that dpkg knows."""
    fields = "${binary:Package}\t${Version}\t${Architecture}\n"
    listing = subprocess.run(["dpkg-query", "-W", "-f", fields], capture_output=True, text=True, check=True).stdout
    found = []
    for line in listing.splitlines():
        name, version, architecture = line.split("\t")
        name = name.partition(":")[0]
        found.append(_component(name, version, f"pkg:deb/debian/{name}@{quote(version)}?arch={architecture}", None))
    return found


def _component(name: str, version: str, purl: str, licence: str | None) -> Component:
    component: Component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    # Some packages put the whole text there.
    if licence and len(licence) < 100 and "\n" not in licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def bill(components: list[Component]) -> dict[str, Any]:
    """The document; the same packages give the same bytes."""
    unique = {component["bom-ref"]: component for component in components}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "distrain", "name": "distrain"}},
        "components": [unique[key] for key in sorted(unique)],
    }


def main() -> int:
    """The command line."""
    document = bill([*debian_packages(), *python_packages()])
    Path(sys.argv[1]).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{sys.argv[1]}: {len(document['components'])} packages", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
