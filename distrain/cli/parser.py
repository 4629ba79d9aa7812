"""Reading command lines: what cannot be meant is refused in one line, as every bad input."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from distrain.errors import BadInput
from distrain.nearest import nearest, one_of


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `BadInput` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} ('{self.prog} --help' tells more)")

    def parse_args(  # type: ignore[override]  # argparse's has overloads for namespaces, of which there are none here
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse does it, with the option that comes nearest to one that there is not."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hint = nearest(unknown[0].partition("=")[0], options(self))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"'{value}'{one_of(str(value), map(str, action.choices))}")


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The long options of a parser and of its commands."""
    for action in parser._actions:
        yield from (name for name in action.option_strings if name.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options(command)
