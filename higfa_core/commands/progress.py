"""A command's progress and rate, and how to express them in words."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ..files.records import plain

if TYPE_CHECKING:
    from tqdm import tqdm

PLAIN_EVERY = 30.0  # seconds between plain lines
WINDOW = 600.0  # seconds over which a rate is taken
TAIL = 1 << 20  # bytes of a manifest's end that are read for it


class Progress(NamedTuple):
    """`done` of `goal`, in accepted images where the plan has quotas, else in jobs; and the images so far."""

    done: int
    goal: int
    accepted: int
    written: int


def progress(table: Sequence[dict]) -> Progress:
    """Where a plan stands, from `batch.index.Index.table`."""
    accepted, written = (sum(row[name] for row in table) for name in ("accepted", "written"))
    if any(row["quota"] is not None for row in table):
        goals = [(min(row["accepted"], row["quota"] or 0), row["quota"] or 0) for row in table]
        return Progress(sum(done for done, _ in goals), sum(goal for _, goal in goals), accepted, written)
    return Progress(sum(row["done"] for row in table), sum(map(wanted, table)), accepted, written)


def wanted(row: dict) -> int:
    """What is wanted of a class: its quota of accepted images, or its jobs."""
    if row["quota"] is not None:
        return row["quota"]
    return sum(row[name] for name in ("planned", "leased", "done", "failed"))


def images_per_hour(folder: Path) -> float | None:
    """The rate at which the last images of a dataset were made; None if there are fewer than two."""
    times = sorted(_times(folder / "manifest.jsonl"))
    recent = [time for time in times if times[-1] - time <= WINDOW]
    if len(recent) < 2 or recent[-1] == recent[0]:
        return None
    return (len(recent) - 1) / (recent[-1] - recent[0]) * 3600


def _times(path: Path) -> list[float]:
    """When the images of the last rows were made, in seconds."""
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().split(b"\n")
    found = []
    for line in lines:  # the first and the last may be cut
        with suppress(ValueError, TypeError, KeyError):
            found.append(datetime.fromisoformat(plain(line)["created"]).timestamp())
    return found


def spoken_time(seconds: float) -> str:
    """A duration in words: 42 s, 13 min, 5 h 07 min, 3 d 4 h."""
    minutes, hours = seconds / 60, int(seconds // 3600)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    return f"{hours} h {int(minutes) % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class CountView:
    """Progress of something countable: a bar in a terminal, else a line every `every` seconds. Call it with the number
    done and the total."""

    def __init__(self, what: str, file: TextIO | None = None, every: float = PLAIN_EVERY):
        self.what, self.file, self.every = what, file or sys.stderr, every
        self._bar: tqdm | None = None
        self._last = time.monotonic()

    def __enter__(self) -> CountView:
        if self.file.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=self.what, leave=False, file=self.file, dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            print(f"{self.what}: {done} of {total}", file=self.file)
