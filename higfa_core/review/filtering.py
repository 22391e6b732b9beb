"""Other rules for the images of a dataset, and verdicts by hand. Nothing is generated again, nothing is deleted.

Both wait for a run in progress to finish judging, and the run then follows them.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from ..files.atomic import LOCK_SECONDS, alone, write_atomic
from ..files.records import plain
from ..plans.plan_file import HEADER, planned_keys
from ..plans.rules import Rules, Verdict
from ..store.manifest import Image, Manifest, decide
from ..store.rows import evidence, place_in_plan
from ..wording import counted


class Judged(NamedTuple):
    """An image under some rules; `like`: the row of the earlier image that it nearly duplicates."""

    row: dict
    verdict: Verdict
    like: dict | None

    @property
    def changes(self) -> bool:
        """Whether it would move into the training set or out of it."""
        return self.verdict.accepted != self.row["accepted"]

    @property
    def restates(self) -> bool:
        """Whether it stays rejected, for another reason."""
        return not self.verdict.accepted and not self.changes and self.verdict.reason != self.row["reason"]


@dataclass(frozen=True)
class Refiltered:
    """What other rules changed, or would change: `outcomes` counts images by verdict or reason, `accepted` and
    `rejected` those with a new verdict, `others` those of other plans."""

    rules: Rules
    outcomes: Counter
    accepted: int
    rejected: int
    others: int
    dry_run: bool

    def __str__(self) -> str:
        asked = ", ".join(f"{name} {value:g}" for name, value in self.rules.given().items()) or "none"
        lines = [f"rules: {asked}", *(f"  {count:6} {reason}" for reason, count in self.outcomes.most_common())]
        if self.others:
            lines.append(f"  {self.others:6} of other plans, left unchanged")
        verb = "would change" if self.dry_run else "changed"
        gone = f"{self.accepted} accepted now, {self.rejected} rejected now"
        return "\n".join([*lines, f"{self.accepted + self.rejected} {verb}: {gone}"])


def refilter(
    folder: Path, changes: Mapping, fresh: bool = False, dry_run: bool = False, seconds: float = LOCK_SECONDS
) -> Refiltered:
    """Judge every image again and move those whose verdict changed. ValueError if scores are missing.

    Where there is a plan, only its images. Verdicts by hand stay.

    Args:
        changes: Rules that replace the dataset's own, or all of them if `fresh`.
        seconds: How long to wait for a run that judges images (TimeoutError).
    """
    manifest = Manifest(folder)
    if not len(manifest):
        raise ValueError(f"No images in {folder}. Give the folder that has manifest.jsonl.")
    keys = planned_keys(folder)
    with _alone(folder, dry_run, seconds):
        manifest.refresh()
        manifest.info()  # raises with the reason
        _refuse_missing(manifest, keys)
        rules = Rules.recorded(({} if fresh else present_rules(manifest)) | dict(changes))
        outcomes, moved, new = _verdicts(manifest, keys, rules)
        if not dry_run:
            _record_rules(folder, rules)
            for row, verdict in zip(manifest.read(new), new.values()):
                decide(folder, row | {"rules": rules.given()}, verdict.accepted, verdict.reason)
    return Refiltered(rules, outcomes, moved[True], moved[False], len(manifest) - outcomes.total(), dry_run)


def decide_by_hand(
    manifest: Manifest, images: Iterable[tuple[str, int]], accepted: bool | None, seconds: float = LOCK_SECONDS
) -> list[dict]:
    """Record what a person decides about images, given by (key, index); returns their rows as they were.

    Args:
        accepted: None takes an earlier decision back: the verdict is that of the rules again.
        seconds: How long to wait for a run that judges images (TimeoutError).

    Raises:
        ValueError: The dataset has no such image.
    """
    with alone(manifest.folder, seconds):
        manifest.refresh()
        before = [_row_of(manifest, key, index) for key, index in images]
        if accepted and any(row["scores"].get("given_up") is not None for row in before):
            raise ValueError("An image that was given up is not finished. Choose others, or lower give_up_below.")
        for row in before:
            new = _decided(row, accepted)
            verdict = Rules().judge(evidence(new)) if accepted is not None else _by_rules(manifest, new)
            decide(manifest.folder, new, verdict.accepted, verdict.reason)
        manifest.refresh()
    return before


def judged(rows: Iterable[dict], rules: Rules) -> list[Judged]:
    """Every image, class by class in plan order, as the rules and the verdicts by hand judge it."""
    classes: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        classes[row["class_name"]].append(row)
    return [one for rows in classes.values() for one in _judged_class(sorted(rows, key=place_in_plan), rules)]


def planned_rows(manifest: Manifest, keys: set[str] | None) -> list[dict]:
    """The rows of the plan's images, with the given keys; all rows without a plan."""
    return list(manifest.read(_planned(manifest.images(), keys)))


def present_rules(manifest: Manifest) -> dict:
    """The rules that a dataset has now, as they are recorded."""
    header = _header(manifest.folder)
    known = plain(header.read_bytes()).get("rules") if header else None
    return (manifest.get(*manifest.images()[-1]) or {}).get("rules") or {} if known is None else known


def _verdicts(
    manifest: Manifest, keys: set[str] | None, rules: Rules
) -> tuple[Counter[str], Counter[bool], dict[Image, Verdict]]:
    """Of the plan's images: outcomes, new verdicts by acceptance, and what has to be recorded. The rows of one class at
    a time are in memory."""
    outcomes, moved, new = Counter(), Counter(), {}
    for images in manifest.by_class().values():
        rows = sorted(manifest.read(_planned(images, keys)), key=place_in_plan)
        for one in _judged_class(rows, rules):
            outcomes[_outcome(one.verdict)] += 1
            moved[one.verdict.accepted] += one.changes
            if one.changes or one.restates:
                new[one.row["key"], one.row["index"]] = one.verdict
    return outcomes, moved, new


def _planned(images: Iterable[Image], keys: set[str] | None) -> list[Image]:
    return [image for image in images if keys is None or image[0] in keys]


def _judged_class(rows: Sequence[dict], rules: Rules) -> list[Judged]:
    verdicts = rules.judge_class([evidence(row) for row in rows])
    return [Judged(row, found, None if found.like is None else rows[found.like]) for row, found in zip(rows, verdicts)]


def _alone(folder: Path, dry_run: bool, seconds: float) -> AbstractContextManager:
    return nullcontext() if dry_run else alone(folder, seconds)


def _refuse_missing(manifest: Manifest, keys: set[str] | None) -> None:
    if missing := [row for row in manifest.missing() if keys is None or row["key"] in keys]:
        raise ValueError(
            f"Missing: {counted(len(missing), 'file')}, such as {missing[0]['file']}. `higfa run` generates them again."
        )


def _outcome(verdict: Verdict) -> str:
    return "accepted" if verdict.accepted else re.sub(r" \S+ is below .*", "", verdict.reason)


def _row_of(manifest: Manifest, key: str, index: int) -> dict:
    row = manifest.get(key, index)
    if row is None:
        raise ValueError(f"No image {key[:16]}-{index} in {manifest.folder.name}. Load the page again.")
    return row


def _decided(row: Mapping, accepted: bool | None) -> dict:
    rest = {name: value for name, value in row.items() if name != "human"}
    if accepted is None:
        return rest
    return rest | {"human": {"accepted": accepted, "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds")}}


def _by_rules(manifest: Manifest, row: dict) -> Verdict:
    """What the dataset's rules say about an image, beside the others of its class."""
    image = row["key"], row["index"]
    keys = planned_keys(manifest.folder)
    keys = keys if keys is None or row["key"] in keys else None  # of another plan: beside all
    rows = list(manifest.read(_planned(manifest.by_class()[row["class_name"]], keys)))
    rows = [row if (one["key"], one["index"]) == image else one for one in rows]
    found = judged(rows, Rules.recorded(present_rules(manifest)))
    return next(one.verdict for one in found if (one.row["key"], one.row["index"]) == image)


def _record_rules(folder: Path, rules: Rules) -> None:
    if header := _header(folder):  # the next higfa run must judge by the same rules, and filter must start from them
        values = plain(header.read_bytes()) | {"rules": rules.stored()}
        write_atomic(header, json.dumps(values, ensure_ascii=False, indent=1).encode())


def _header(folder: Path) -> Path | None:
    """The file that holds the rules: a dataset made on the canvas has no plan."""
    return next((path for name in (HEADER, "dataset.json") if (path := folder / name).is_file()), None)
