"""The job file's reference page and its JSON schema for editors, both from the one place that has the keys.

python -m distrain.job.reference FOLDER      writes job.md and job.schema.json there
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from distrain.job.duration import Duration
from distrain.job.load import ALTERNATIVES, section_of
from distrain.job.schema import CUSTOM, Job

INTRODUCTION = """# The job file

Every key, its default and what it says; written by `make reference` from `distrain/job/schema.py`. A file holds what
differs from the defaults. A duration is `120` or `120 steps`, `2 epochs`, `5000 examples`, `10 minutes`. Unknown keys
are refused, with the nearest name. For completion and checks in an editor, the first line of a job file may be

```yaml
# yaml-language-server: $schema=PATH/job.schema.json
```

with the path of [the schema](job.schema.json).
"""
# What there is a choice of by a name: the key that has the name, and what such a thing is called.
CHOOSES = {"data.train": "provider", "model": "name", "loss": "name", "optimizer": "name"}
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "object": "keys"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def schema() -> dict[str, Any]:
    """The JSON schema of a job file. A user's own provider, model, ... may have any further keys."""
    found = Job.model_json_schema()
    keys = found["properties"]
    keys["gradients"] = {"anyOf": [keys["gradients"], {"type": "boolean"}]}  # `off`, which YAML reads as false
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def page() -> str:
    """The reference page, Markdown."""
    parts = [INTRODUCTION, "## Top level\n", _table(Job)]
    for key, field in Job.model_fields.items():
        parts += _section(key, field.annotation)
    return "\n".join(parts)


def _section(key: str, kind: Any) -> Iterator[str]:
    """Heading and tables of one key that has keys of its own; nothing for others."""
    if key in CHOOSES:
        yield f"## {key}\n"
        for name, alternative in ALTERNATIVES[key].items():
            yield f"### {CHOOSES[key]}: {name}\n\n{alternative.__doc__}\n"
            if name == CUSTOM:
                yield "All further keys are its arguments.\n"
            if name != CUSTOM or len(alternative.model_fields) > 1:
                yield _table(alternative, without=CHOOSES[key])
    elif key == "data.validation":
        yield "## data.validation\n\nAs data.train, without `crop` at random.\n"
    elif section := section_of(kind):
        yield f"## {key}\n\n{section.__doc__}\n"
        yield _table(section)
        for name, field in section.model_fields.items():
            yield from _section(f"{key}.{name}", field.annotation)


def _table(kind: type[BaseModel], *, without: str = "") -> str:
    """A row for each key of a section."""
    whole = kind.model_json_schema()
    rows = []
    for name, described in whole["properties"].items():
        if name == without:
            continue
        field = kind.model_fields[name]
        default = "required" if field.is_required() else _default(field.default)
        words = _kind(described, whole.get("$defs", {}))
        rows.append(f"| `{name}` | {words} | {default} | {field.description or ''} |\n")
    return "".join(["| key | kind | default | |\n|---|---|---|---|\n", *rows]) if rows else "No keys.\n"


def _default(value: Any) -> str:
    """The default as a job file would have it; nothing for keys that may be left out or have keys of their own."""
    if value is None or value is PydanticUndefined:
        return ""
    return f"`{value if isinstance(value, Duration) else json.dumps(value, ensure_ascii=False)}`"


def _kind(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in described:
        return _kind(definitions[described["$ref"].rpartition("/")[2]], definitions)
    for several in ("anyOf", "oneOf"):
        if several in described:
            kinds = [_kind(one, definitions) for one in described[several] if one.get("type") != "null"]
            return "duration" if kinds == ["whole number > 0", "text"] else " or ".join(dict.fromkeys(kinds))
    if "enum" in described:
        return ", ".join(f"`{value if isinstance(value, str) else json.dumps(value)}`" for value in described["enum"])
    if "const" in described:
        return f"`{described['const']}`"
    if described.get("type") == "array":
        items = described.get("prefixItems") or [described.get("items", {})]
        return "list of " + ", ".join(dict.fromkeys(_kind(item, definitions) for item in items))
    words = WORDS.get(described.get("type", ""), "anything")
    bounds = [f"{sign} {described[name]:g}" for name, sign in BOUNDS.items() if name in described]
    return " ".join([words, ", ".join(bounds)]).strip()


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[1])
    (folder / "job.md").write_text(page(), encoding="utf-8")
    text = json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    (folder / "job.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
