"""Lists: items that ComfyUI passes through a node one after the other, and jobs sampled together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any


class JobSeed(int):
    """The seed of a job. Jobs with the same `batch` came from one Dataset Job and are to be sampled together."""

    batch: object = None

    @classmethod
    def of(cls, seed: int, batch: object) -> JobSeed:
        value = cls(seed)
        value.batch = batch
        return value


def items(inputs: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """The inputs of each call, as ComfyUI maps a node over lists: a shorter list repeats its last value."""
    count = max(map(len, inputs.values()))
    return [{name: values[min(i, len(values) - 1)] for name, values in inputs.items()} for i in range(count)]


def batches(calls: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Calls in a row whose seeds are of one batch of jobs, together; any other alone."""
    marks = [getattr(call["seed"], "batch", None) or object() for call in calls]
    for _, group in groupby(zip(marks, calls), key=lambda pair: id(pair[0])):
        yield [call for _, call in group]
