"""A study: conditions that are settings of a workflow's nodes, compared image by image at the same seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec
import yaml
from torch import Tensor

from ..checking.verdict import Reading, loss, mcnemar, wilson
from ..exports.markdown import table
from ..plots.figures import new_figure, to_image

LEVEL = 0.975  # two-sided 95 %


class StudyFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The file. Paths are relative to it.

    `images` for each of `seeds` and each condition. `base`: what the others are compared with. `judge`: a file in the
    servers' models/higfa_classifiers. `conditions`: name -> title or type of a node -> its values. `prompt`: template,
    in the place of the workflow's.
    """

    workflow: str
    source: str
    conditions: dict[str, dict[str, dict[str, Any]]]
    base: str
    images: int = 64
    seeds: tuple[int, ...] = (0,)
    judge: str = ""
    layout: str = "auto"
    prompt: str = ""


@dataclass(frozen=True)
class Result:
    """A row of results.csv: one image. `right` and `p` are the judge's, `guide_p` is the guide's probability; `moved`:
    mean difference of its pixels from the base's image of the same job, in grey levels."""

    condition: str
    plan_seed: int
    job: int
    class_name: str
    seed: int
    right: int
    p: float
    guide_p: float | None
    contour_agreement: float | None
    moved: float | None

    @property
    def pair(self) -> tuple[int, int]:
        """What it shares with its counterparts under other conditions."""
        return self.plan_seed, self.job


@dataclass(frozen=True)
class Difference:
    """A paired difference, its 95 % interval, and how many pairs there are."""

    mean: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def read_study(path: Path) -> StudyFile:
    """ValueError, naming the fault, unless the file describes a study."""
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
        found = msgspec.convert(values, StudyFile)
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no study: {str(error).replace(chr(10), ' ')}. Correct it.") from error
    if found.base not in found.conditions:
        raise ValueError(f"{path}: base {found.base!r} is none of the conditions {', '.join(found.conditions)}.")
    if found.images < 1 or not found.seeds or len(set(found.seeds)) < len(found.seeds):
        raise ValueError(f"{path}: images must be at least 1, and seeds different numbers. Correct them.")
    if not all(0 <= seed < 2**31 for seed in found.seeds):
        raise ValueError(f"{path}: seeds must be from 0 to {2**31 - 1}, got {found.seeds}.")
    return found


def to_csv(results: Iterable[Result]) -> str:
    """The rows as a table that spreadsheets and pandas read."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    return text.getvalue()


def paired_right(base: Sequence[Result], other: Sequence[Result]) -> Difference:
    """By how much more often the judge sees the class: Bonett and Price's interval of paired proportions."""
    pairs = _pairs(base, other)
    cost = loss(*(Reading("", tuple(bool(pair[i].right) for pair in pairs), ()) for i in (0, 1)))
    return Difference(0.0 - cost.points, -cost.high, -cost.low, len(pairs))


def paired_p(base: Sequence[Result], other: Sequence[Result]) -> Difference:
    """By how much more probable the judge finds the class: Student's interval of the mean difference."""
    from scipy.stats import t

    gaps = [b.p - a.p for a, b in _pairs(base, other)]
    half = t.ppf(LEVEL, len(gaps) - 1) * stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("inf")
    return Difference(fmean(gaps), fmean(gaps) - half, fmean(gaps) + half, len(gaps))


def summary(results: Sequence[Result], base: str) -> str:
    """The study's table as Markdown: a line per condition, differences against the base on the same jobs."""
    groups = _groups(results)
    head = ("condition", "images", "right (95 % interval)", "right, points against base", "p, points against base")
    head += ("repaired", "broken", "McNemar", "guide minus judge", "contour", "moved")
    return table(head, [_line(name, rows, groups.get(base, [])) for name, rows in groups.items()])


def _groups(results: Iterable[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.condition, []).append(result)
    return groups


def _line(name: str, rows: Sequence[Result], base: Sequence[Result]) -> tuple[str, ...]:
    right = sum(row.right for row in rows)
    low, high = wilson(right, len(rows))
    cells = [name, str(len(rows)), f"{right / len(rows):.1%} ({low:.1%} to {high:.1%})"]
    pairs = _pairs(base, rows) if rows and base and rows[0].condition != base[0].condition else []
    if pairs:
        repaired, broken = (sum(a.right == i and b.right == 1 - i for a, b in pairs) for i in (0, 1))
        cells += [str(paired_right(base, rows)), str(paired_p(base, rows))]
        cells += [str(repaired), str(broken), f"{mcnemar(broken, repaired):.2g}"]
    else:
        cells += [""] * 5
    guided = [row.guide_p for row in rows if row.guide_p is not None]
    flattery = f"{100 * (fmean(guided) - fmean(row.p for row in rows)):+.1f}" if len(guided) == len(rows) else ""
    return (*cells, flattery, _mean(row.contour_agreement for row in rows), _mean(row.moved for row in rows))


def _pairs(base: Sequence[Result], other: Sequence[Result]) -> list[tuple[Result, Result]]:
    known = {row.pair: row for row in base}
    return [(known[row.pair], row) for row in other if row.pair in known]


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.2f}" if known else ""


def plot(results: Sequence[Result], base: str) -> Tensor:
    """The paired differences in points, with their intervals: [1, H, W, 3] float32 in 0..1."""
    groups = _groups(results)
    others = {name: rows for name, rows in groups.items() if name != base and _pairs(groups.get(base, []), rows)}
    figure, axes = new_figure(7, 1.2 + 0.4 * len(others))
    for y, rows in enumerate(others.values()):
        found = paired_right(groups[base], rows)
        axes.plot([100 * found.low, 100 * found.high], [y, y], color="#2f6db3", linewidth=2)
        axes.plot(100 * found.mean, y, "o", color="#2f6db3")
    axes.axvline(0, color="#444444", linestyle=":")
    axes.set_yticks(range(len(others)), list(others), parse_math=False)
    axes.set_ylim(len(others) - 0.3, -0.7)
    axes.set_xlabel("the judge is right more often than under the base, points (95 %)")
    return to_image(figure)


def by_class(results: Sequence[Result]) -> str:
    """Right of all, for each class and condition, as Markdown."""
    conditions = list(dict.fromkeys(row.condition for row in results))
    counts: dict[str, dict[str, list[int]]] = {}
    for row in results:
        counts.setdefault(row.class_name, {}).setdefault(row.condition, []).append(row.right)
    return table(("class", *conditions), [(name, *_shares(row, conditions)) for name, row in counts.items()])


def _shares(row: Mapping[str, list[int]], conditions: Sequence[str]) -> list[str]:
    return [f"{sum(found)} of {len(found)}" if (found := row.get(name)) else "" for name in conditions]
