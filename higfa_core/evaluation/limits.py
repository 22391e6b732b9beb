"""Limits that a user sets on the measures: `label_error > 5%` is broken where the measure is above."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

RELATIONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Limit:
    """A condition that the measure `name` must not meet."""

    name: str
    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {self.relation} {self.bound:g}"

    def broken(self, value: float) -> bool:
        return RELATIONS[self.relation](value, self.bound)


def parse_limit(text: str, known: Mapping[str, object]) -> Limit:
    """`NAME > NUMBER`, also with <, >=, <= and a percentage. ValueError for anything else, or an unknown name."""
    found = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*", text)
    if not found:
        raise ValueError(f"Not a limit: {text!r}. Write for example 'label_error > 5%' or 'coverage < 0.5'.")
    name, relation, number, percent = found.groups()
    if name not in known:
        near = get_close_matches(name, known, 1)
        remedy = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(known)}."
        raise ValueError(f"Unknown measure {name!r} in {text!r}. {remedy}")
    return Limit(name, relation, float(number) / (100 if percent else 1))


def broken(limits: list[Limit], measures: Mapping[str, float | None]) -> list[Limit]:
    """The limits that are broken. ValueError for one on a measure that was not made."""
    for limit in limits:
        value = measures.get(limit.name)
        if value is None or not math.isfinite(value):
            raise ValueError(f"{limit.name} was not measured, so the limit '{limit}' cannot be checked. See the sheet.")
    return [limit for limit in limits if limit.broken(float(measures[limit.name] or 0.0))]
