"""Durations as people write them: `120`, `"120 steps"`, `"2 epochs"`, `"5000 examples"`, `"10 minutes"`.

A bare number means steps. Here is the one place that turns them into steps or into "is it due?".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from distrain.nearest import one_of

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
UNITS = ("step", "epoch", "example", *SECONDS)
LONGEST = 1e15  # whole numbers beyond are not exact in a float
EXPECTED = 'a number of steps, or text such as "120 steps", "2 epochs", "5000 examples" or "10 minutes"'


@dataclass(frozen=True)
class Cursor:
    """How far a run has come: completed steps, examples drawn, seconds since this process began to train."""

    step: int
    position: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Duration:
    """An amount of one of `UNITS`; whole for everything that is counted, any positive number for time."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Read one duration. Raises `ValueError` for anything else than the forms above."""
        if isinstance(value, Duration):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls._checked(value, "step")
        if not isinstance(value, str):
            raise ValueError(f"expected {EXPECTED}")
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", value.lower())
        if match is None:
            raise ValueError(f"expected {EXPECTED}")
        name = match[2]
        unit = next((unit for unit in UNITS if name in (unit, unit + "s")), name) if name else "step"
        return cls._checked(float(match[1]), unit)

    @classmethod
    def _checked(cls, amount: float, unit: str) -> Duration:
        if unit not in UNITS:
            raise ValueError(f"unknown unit '{unit}'{one_of(unit, [name + 's' for name in UNITS])}")
        if amount > LONGEST:
            raise ValueError(f"expected at most {LONGEST:.0e}")
        if amount <= 0:
            raise ValueError("expected more than 0")
        if unit not in SECONDS and amount != int(amount):
            raise ValueError(f"expected a whole number of {unit}s")
        return cls(float(amount), unit)

    def __str__(self) -> str:
        amount = int(self.amount) if self.amount == int(self.amount) else self.amount
        return f"{amount} {self.unit}{'' if amount == 1 else 's'}"

    @property
    def timed(self) -> bool:
        """True where only a clock can tell: ranks must then agree on whose clock."""
        return self.unit in SECONDS

    @property
    def seconds(self) -> float:
        """The duration in seconds; only of one that is `timed`."""
        return self.amount * SECONDS[self.unit]

    def steps(self, *, batch_size: int, epoch_steps: int) -> int:
        """The duration in optimizer steps, at least 1. Raises `ValueError` for time."""
        if self.timed:
            raise ValueError(f"expected steps, epochs or examples, got '{self}'")
        if self.unit == "epoch":
            return int(self.amount) * epoch_steps
        if self.unit == "example":
            return max(1, math.ceil(self.amount / batch_size))
        return int(self.amount)

    def due(self, before: Cursor, after: Cursor, *, epoch_examples: int) -> bool:
        """True where a multiple of this duration lies in (before, after]."""
        if self.timed:
            length = self.seconds
            return after.seconds // length > before.seconds // length
        if self.unit == "step":
            return after.step // int(self.amount) > before.step // int(self.amount)
        length = int(self.amount) * (epoch_examples if self.unit == "epoch" else 1)
        return after.position // length > before.position // length

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string"}]}
