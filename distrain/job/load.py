"""From a job file and `-o KEY=VALUE` to a checked `Job`; every mistake ends in one line that names the key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distrain.errors import BadInput
from distrain.job import schema
from distrain.job.schema import CUSTOM, NAME, Job
from distrain.nearest import nearest, nearest_path, one_of

ALTERNATIVES: dict[str, dict[str, type[BaseModel]]] = {
    "data.train": {
        "circles": schema.Circles,
        "image_pairs": schema.ImagePairs,
        "class_folders": schema.ClassFolders,
        "arrays": schema.Arrays,
        "hdf5": schema.HDF5,
        "tfrecords": schema.TFRecords,
        "callable": schema.CallableProvider,
        CUSTOM: schema.CustomProvider,
    },
    "model": {"unet": schema.UNet, "application": schema.Application, CUSTOM: schema.CustomModel},
    "loss": {"cross_entropy": schema.CrossEntropy, "dice": schema.Dice, CUSTOM: schema.CustomLoss},
    "optimizer": {
        "momentum": schema.Momentum,
        "adam": schema.Adam,
        "lars": schema.LARS,
        "lamb": schema.LAMB,
        CUSTOM: schema.CustomOptimizer,
    },
}
ALTERNATIVES["data.validation"] = ALTERNATIVES["data.train"]

# What may differ between a run and its continuation: how long, how often, what is written and how workers are watched,
# and what a run puts up with, since one that was ended by that is to go on. Nothing of it changes what was done before.
FREE_ON_RESUME = (
    *("name", "train.epochs", "train.steps", "train.max_bad_steps"),
    *("data.reading", "data.on_bad_example", "data.max_bad_examples"),
    *("checkpoint", "log", "parallel"),
)


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-3` as a number (YAML 1.2 does, PyYAML does not) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: text that it would take for a number is quoted."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def load_job(path: Path, overrides: Iterable[str] = ()) -> Job:
    """Read and check a job file, `overrides` being `KEY=VALUE` with dotted keys and YAML values.

    Raises `BadInput` naming the file and the key.
    """
    raw = read_yaml(path)
    for override in overrides:
        apply_override(raw, override)
    return check_job(raw, source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises `BadInput` where there is no such file or no mapping in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        hint = nearest_path(path) if isinstance(error, FileNotFoundError) else ""
        raise BadInput(f"{path}: cannot be read ({reason}), expected a job file{hint}") from error
    value = _parse(text, source=str(path))
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a mapping of keys, got {_shown(value)}")
    return {str(key): item for key, item in value.items()}


def dump_yaml(value: dict[str, Any]) -> str:
    """YAML text that `read_yaml` reads as the same values, keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False))


def check_job(raw: dict[str, Any], *, source: str) -> Job:
    """The typed job of a mapping. Raises `BadInput` for its first mistake."""
    try:
        return Job.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{source}: {_explain(error.errors())}") from None


def resolved(job: Job) -> dict[str, Any]:
    """The job with every default filled in, as plain values that JSON and YAML can hold."""
    value = job.model_dump(mode="json")
    assert isinstance(value, dict)
    return value


def digest(job: Job) -> str:
    """A sha256 of the resolved job: equal exactly where two jobs mean the same."""
    return hashlib.sha256(json.dumps(resolved(job), sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Each key in which two resolved jobs differ, as `key: old -> new`."""
    before, after = dict(flattened(old)), dict(flattened(new))
    keys = sorted(before.keys() | after.keys())
    missing = "(unset)"
    return [
        f"{key}: {before.get(key, missing)} -> {after.get(key, missing)}"
        for key in keys
        if before.get(key, missing) != after.get(key, missing)
    ]


def conflicts(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The differences that make `new` another job, not a continuation of `old`."""

    def free(line: str) -> bool:
        key = line.split(":", 1)[0]
        return any(key == prefix or key.startswith(prefix + ".") for prefix in FREE_ON_RESUME)

    return [line for line in differences(old, new) if not free(line)]


def flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a resolved job that hold values, and these."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flattened(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _parse(text: str, *, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{source}{where}: not valid YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        # PyYAML lets out what its converters of dates, numbers and bytes raise.
        raise BadInput(f"{source}: not valid YAML ({' '.join(str(error).split())})") from None


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key. Where a section's alternative changes, its old options stay and are checked like any."""
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise BadInput(f"-o {override}: expected KEY=VALUE, such as -o train.batch_size=8")
    node = raw
    for depth, part in enumerate(parts[:-1]):
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise BadInput(f"-o {override}: '{'.'.join(parts[: depth + 1])}' holds {_shown(child)}, not a section")
        node = child
    node[parts[-1]] = _parse(text, source=f"-o {override}")


# What pydantic calls a mistake in the form of a value, and what a job's reader would have expected.
FORMS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "dict_type": "a section of keys",
}


def _explain(errors: list[ErrorDetails]) -> str:
    """The first mistake of a job, as a line."""
    error = errors[0]
    kind = error["type"]
    key, owner = _locate(error["loc"], users_own=kind == "extra_forbidden")
    if kind == "extra_forbidden":
        return f"unknown key '{key}'{one_of(key.rsplit('.', 1)[-1], owner.model_fields if owner else ())}"
    if kind == "missing" and isinstance(error["loc"][-1], int):
        count = max(int(other["loc"][-1]) for other in errors if other["loc"][:-1] == error["loc"][:-1]) + 1
        return f"'{key.rpartition('.')[0]}': expected {count} values, got {_shown(error['input'])}"
    if kind == "missing":
        wanted = owner.model_fields.get(key.rpartition(".")[2]) if owner else None
        return f"'{key}' is missing" + (f", expected: {wanted.description}" if wanted and wanted.description else "")
    if kind == "union_tag_invalid":
        return _not_chosen(key, str(error["ctx"]["tag"]))
    if kind == "value_error":
        return _unfit(error, key, owner)
    near = nearest(str(error["input"]), re.findall(r"'([^']*)'", error["msg"])) if kind == "literal_error" else ""
    return f"'{key}': expected {_form(error)}, got {_shown(error['input'])}{near}"


def _not_chosen(key: str, tag: str) -> str:
    """A section that does not say which of its alternatives it is."""
    names = [name for name in ALTERNATIVES[key] if name != CUSTOM]
    chooser = "provider" if key.startswith("data") else "name"
    if tag == "None":
        return f"'{key}.{chooser}' is missing, expected one of {', '.join(names)} or {CUSTOM}"
    return f"'{key}.{chooser}' is '{tag}'{one_of(tag, names)} or {CUSTOM}"


def _unfit(error: ErrorDetails, key: str, owner: type[BaseModel] | None) -> str:
    """A value or a section that one of our own rules refuses."""
    reason = str(error["ctx"]["error"])
    if not key:  # of several sections
        return reason
    field, colon, rest = reason.partition(": ")
    if colon and owner is not None and field in owner.model_fields:
        return f"'{key}.{field}': {rest}"
    told = "got" in reason or isinstance(error["input"], dict)
    return f"'{key}': {reason}" + ("" if told else f", got {_shown(error['input'])}")


def _form(error: ErrorDetails) -> str:
    """What a value of another form was expected to be."""
    kind = error["type"]
    if kind == "string_pattern_mismatch":
        named = error["ctx"]["pattern"] == NAME
        return "letters, digits, '.', '_' and '-', beginning with a letter or digit" if named else CUSTOM
    if kind == "too_long":
        return f"{error['ctx']['max_length']} values"
    return FORMS.get(kind) or error["msg"].removeprefix("Input should be ")


def _locate(loc: tuple[int | str, ...], *, users_own: bool) -> tuple[str, type[BaseModel] | None]:
    """The dotted key of an error, without pydantic's own tags, and the section that owns the key.

    `users_own`: the last part is a key that the user made up, whatever it looks like.
    """
    key = ""
    owner: type[BaseModel] | None = Job
    tagged = ""
    for depth, part in enumerate(loc):
        if key in ALTERNATIVES and key != tagged:
            tagged = key
            owner = ALTERNATIVES[key].get(str(part))
            continue
        last = depth == len(loc) - 1
        tag = isinstance(part, str) and (part == "str" or "[" in part or "(" in part)
        if tag and not (last and users_own):
            continue  # which form of a value was tried
        if not last and owner is not None:
            field = owner.model_fields.get(str(part))
            owner = section_of(field.annotation) if field else None
        key = f"{key}.{part}" if key else str(part)
        if last and isinstance(part, str) and owner is not None and part in owner.model_fields:
            owner = section_of(owner.model_fields[part].annotation) or owner
    return key, owner


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, if it is one that has no alternatives; it may be left out."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    (kind, *others) = kinds
    return kind if not others and isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _shown(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except (ValueError, TypeError):
        text = repr(value)  # holds itself, or has keys that JSON cannot have
    text = " ".join(text.split())
    return f"'{text[:77]}...'" if len(text) > 80 else f"'{text}'"
