"""The command line's reference page, from the parsers that read it.

python -m distrain.cli.reference FOLDER      writes command-line.md there
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from distrain.cli.main import COMMANDS, command
from distrain.cli.parser import Parser

INTRODUCTION = """# The command line

Every command with its arguments; written by `make reference` from the parsers that read them. `distrain COMMAND --help`
says the same. The exit codes are [in the README](../README.md#after-the-run).
"""


def page() -> str:
    """The reference page, Markdown."""
    parts = [INTRODUCTION]
    for name, told in COMMANDS.items():
        parser = Parser(prog=f"distrain {name}", description=told)
        command(name).add_arguments(parser)
        parts += _section(parser, told)
    return "\n".join(parts)


def _section(parser: argparse.ArgumentParser, told: str) -> Iterator[str]:
    """A command: what it is for, a row for each argument; then the commands that it has itself."""
    # argparse has no public way to ask a parser what it takes.
    actions = [action for action in parser._actions if argparse.SUPPRESS not in (action.help, action.default)]
    within = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    plain = [action for action in actions if action not in within]
    positional = [_metavar(action) for action in plain if not action.option_strings]
    options = ["[OPTION ...]"] if len(positional) < len(plain) else []
    level = "#" * len(parser.prog.split())
    yield f"{level} {parser.prog}\n"
    yield f"{told[0].upper()}{told[1:]}.\n"
    if not within:
        yield f"`{' '.join([parser.prog, *options, *positional])}`\n"
    if plain:
        yield "| argument | |\n|---|---|\n" + "".join(map(_row, plain))
    for each in within:
        for choice, described in zip(each.choices.values(), each._choices_actions, strict=True):
            yield from _section(choice, described.help or "")


def _row(action: argparse.Action) -> str:
    """What an argument is, and what it says of itself."""
    value = f" {_metavar(action)}" if action.nargs != 0 else ""
    shown = ", ".join(f"`{option}{value}`" for option in action.option_strings) or f"`{value.strip()}`"
    return f"| {shown.replace('|', chr(92) + '|')} | {(action.help or '') % vars(action)} |\n"


def _metavar(action: argparse.Action) -> str:
    """What stands for an argument's value."""
    if action.metavar is not None:
        shown = str(action.metavar)
    elif action.choices is not None:
        shown = "|".join(map(str, action.choices))
    else:
        shown = action.dest.upper() if action.option_strings else action.dest
    repeated = {"+": f"{shown} ...", "?": f"[{shown}]"}
    return repeated.get(str(action.nargs), shown)


def main() -> None:
    """Write the page."""
    (Path(sys.argv[1]) / "command-line.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
