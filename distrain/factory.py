"""`package.module:factory`: finding and calling what a user has written."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from distrain.errors import BadInput
from distrain.nearest import nearest


def call_factory(name: str, options: dict[str, Any], *arguments: Any, key: str) -> Any:
    """Call the factory `name` with `arguments` and the job's `options` of section `key`.

    The folder that the command was started in is searched too, as `python -m` does. Raises `BadInput` where the
    factory is not there, does not take these options, or finds fault with them (`ValueError`).
    """
    factory = _find(name, key)
    try:
        inspect.signature(factory).bind(*arguments, **options)
    except TypeError as error:
        raise BadInput(f"'{key}': {name} cannot be called like this ({error}){_takes(factory, options)}") from error
    try:
        return factory(*arguments, **options)
    except ValueError as error:
        raise BadInput(f"'{key}': {name}: {' '.join(str(error).split())}") from error


def _takes(factory: Callable[..., Any], options: dict[str, Any]) -> str:
    """Which arguments a factory has, and which of them may have been meant."""
    names = list(inspect.signature(factory).parameters)
    hints = [hint for option in options if option not in names and (hint := nearest(option, names))]
    return "".join([f", expected from {', '.join(names)}" if names else ", expected no arguments", *hints[:1]])


def _find(name: str, key: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise BadInput(f"'{key}': cannot import '{module_name}' ({error}), expected package.module:factory") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        names = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise BadInput(f"'{key}': module '{module_name}' has no function '{attribute}'{nearest(attribute, names)}")
    return factory  # type: ignore[no-any-return]  # checked to be callable
