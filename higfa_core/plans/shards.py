"""Parts of a plan for independent drivers: disjoint, complete, and balanced in every class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The `part`-th of `parts`, from 1. The jobs of a class are dealt out in turn; so are the classes' first jobs."""

    part: int = 1
    parts: int = 1

    def __post_init__(self):
        if not 1 <= self.part <= self.parts:
            raise ValueError(f"A shard is I/N with 1 <= I <= N, got {self.part}/{self.parts}.")

    def has(self, label: int, number: int) -> bool:
        """Whether job `number` of class `label`, both from 0, is in this part."""
        return (label + number) % self.parts == self.part - 1

    def share(self, label: int, quota: int) -> int:
        """How many of the class's first `quota` jobs are in this part: its share of that quota."""
        return (quota + self.parts - 1 - (self.part - 1 - label) % self.parts) // self.parts
