"""Reading command lines: what cannot be meant is refused in one line, as every bad input."""

from __future__ import annotations

import argparse
from typing import NoReturn

from distrain.errors import BadInput


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `BadInput` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} ('{self.prog} --help' tells more)")
