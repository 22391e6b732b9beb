"""Which setting of the guidance to take: the gentlest of a ladder that repairs enough and breaks nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from ..checking.verdict import wilson
from ..files.opening import opened
from ..settings import Setting, Settings

MOST = 64  # pilot images


@dataclass(frozen=True)
class TuneSettings(Settings):
    """What a pilot makes, and what is asked of it."""

    jobs: int = Setting(12, 1, MOST, unit="images").help(
        "Pilot images of each setting, of as many classes as possible and with the same seeds. At most 64 in all."
    )
    target: float = Setting(0.9, 0.01, 1).help(
        "Mean probability of the class that is enough, by the judge (without one, by the guide)."
    )
    max_broken: int = Setting(0, 0, MOST, unit="images").help(
        "How many images that were right without the classifier may be wrong with it."
    )
    plan_seed: int = Setting(20_000, 0, 2**31 - 1).help(
        "Draws the pilot's seeds. Keep it different from the plan's, so that the setting is not fitted to its images."
    )


@dataclass(frozen=True)
class Rung:
    """The results of a setting: for each job of the pilot the probability, whether it is right, and by how many grey
    levels (of 255, on average) its pixels differ from those of the first rung."""

    values: Mapping[str, float]
    probability: tuple[float, ...]
    right: tuple[bool, ...]
    moved: tuple[float, ...]

    @property
    def name(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.values.items())

    @property
    def mean(self) -> float:
        return fmean(self.probability)

    @property
    def shift(self) -> float:
        return fmean(self.moved)

    def repaired(self, base: Rung) -> int:
        return sum(now and not before for before, now in zip(base.right, self.right))

    def broken(self, base: Rung) -> int:
        return sum(before and not now for before, now in zip(base.right, self.right))


@dataclass(frozen=True)
class Choice:
    """The chosen rung and why."""

    rung: Rung
    reason: str


def choose(rungs: Sequence[Rung], settings: TuneSettings) -> Choice:
    """Of the rungs that break no more than allowed of what the first gets right: the one that moves least among those
    that reach the target; if none does, the one with the highest probability. The first breaks nothing itself."""
    allowed = [rung for rung in rungs if rung.broken(rungs[0]) <= settings.max_broken]
    enough = [rung for rung in allowed if rung.mean >= settings.target]
    best = max(allowed, key=lambda rung: rung.mean)
    if enough:
        rung = min(enough, key=lambda rung: rung.shift)
        return Choice(rung, f"it moves the least pixels of those that reach {settings.target:.0%}")
    left = len(rungs) - len(allowed)
    words = f"none reaches {settings.target:.0%}, and it comes closest"
    return Choice(best, words + (f" ({left} broke too many images)" if left else ""))


def table(rungs: Sequence[Rung], chosen: Rung) -> str:
    """A line per rung, as aligned text."""
    head = ("", "setting", "p", "right", "95 % interval", "repaired", "broken", "moved")
    rows: list[tuple[str, ...]] = [head]
    for rung in rungs:
        low, high = wilson(sum(rung.right), len(rung.right))
        share = f"{sum(rung.right)} of {len(rung.right)}"
        counts = (str(rung.repaired(rungs[0])), str(rung.broken(rungs[0])), f"{rung.shift:.1f}")
        mark = "->" if rung is chosen else ""
        rows.append((mark, rung.name, f"{rung.mean:.1%}", share, f"{low:.0%} to {high:.0%}", *counts))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows)


def apart(first: Path, second: Path) -> float:
    """Mean absolute difference of two images' pixels, in grey levels of 255. ValueError if their sizes differ."""
    pixels = []
    for path in (first, second):
        with opened(path) as image:
            pixels.append(np.asarray(image.convert("RGB"), dtype=np.float32))
    if pixels[0].shape != pixels[1].shape:
        raise ValueError(f"{first} and {second} have different sizes. Tune one size at a time.")
    return float(np.abs(pixels[0] - pixels[1]).mean())
