"""`higfa filter`: apply other rules to the images of a dataset. Nothing is generated again, nothing is deleted."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files.atomic import alone, write_atomic
from ..files.records import plain
from ..plans.plan_file import HEADER, planned_keys
from ..plans.rules import Rules
from ..store.manifest import Manifest, decide
from ..wording import counted
from .options import add_options, given
from .shell import Parser, Speech, add_json_option, command


@command(safe="Every image is whole, at its old or at its new place; the same command finishes.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    done = refilter(args.folder, given(Rules, args), args.fresh, args.dry_run)
    speech.say(str(done))
    speech.result(
        folder=args.folder,
        dry_run=done.dry_run,
        rules=done.rules.given(),
        outcomes=dict(done.outcomes),
        accepted_now=done.accepted,
        rejected_now=done.rejected,
        others=done.others,
    )
    return 0


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


def refilter(folder: Path, changes: dict, fresh: bool = False, dry_run: bool = False) -> Refiltered:
    """Judge every image again and move those whose verdict changed. ValueError if scores are missing.

    Where there is a plan, only its images. A run in progress waits, and then follows these rules.
    """
    manifest = Manifest(folder)
    if not len(manifest):
        raise ValueError(f"No images in {folder}. Give the folder that has manifest.jsonl.")
    with nullcontext() if dry_run else alone(folder):
        manifest.refresh()
        manifest.info()  # raises with the reason
        keys = planned_keys(folder)
        rules = Rules.recorded(({} if fresh else _present_rules(manifest)) | changes)
        changed, restated, outcomes = _judge(manifest, keys, rules)
        if not dry_run:
            _record_rules(folder, rules)
            for row, verdict in changed + restated:
                decide(folder, row | {"rules": rules.given()}, verdict.accepted, verdict.reason)
    gained = sum(verdict.accepted for _, verdict in changed)
    others = len(manifest) - sum(outcomes.values())
    return Refiltered(rules, outcomes, gained, len(changed) - gained, others, dry_run)


def _judge(manifest: Manifest, keys: set[str] | None, rules: Rules) -> tuple[list, list, Counter]:
    """(row, verdict) of those with a new verdict, and of those with a new reason; the number of each outcome."""
    if missing := [row for row in manifest.missing() if keys is None or row["key"] in keys]:
        raise ValueError(
            f"Missing: {counted(len(missing), 'file')}, such as {missing[0]['file']}. `higfa run` generates them again."
        )
    classes = defaultdict(list)
    for row in manifest.rows():
        if keys is None or row["key"] in keys:
            classes[row["class_name"]].append(row)
    changed, restated, reasons = [], [], Counter()
    for rows in classes.values():
        rows.sort(key=lambda row: (row.get("plan_index") is None, row.get("plan_index"), row["key"], row["index"]))
        for row, verdict in zip(rows, rules.judge_class([row["scores"] for row in rows])):
            reasons["accepted" if verdict.accepted else re.sub(r" \S+ is below .*", "", verdict.reason)] += 1
            if verdict.accepted != row["accepted"]:
                changed.append((row, verdict))
            elif not verdict.accepted and verdict.reason != row["reason"]:
                restated.append((row, verdict))
    return changed, restated, reasons


def _present_rules(manifest: Manifest) -> dict:
    header = _header(manifest.folder)
    known = plain(header.read_bytes()).get("rules") if header else None
    return manifest.rows()[-1].get("rules") or {} if known is None else known


def _record_rules(folder: Path, rules: Rules) -> None:
    if header := _header(folder):  # the next higfa run must judge by the same rules, and filter must start from them
        values = plain(header.read_bytes()) | {"rules": asdict(rules)}
        write_atomic(header, json.dumps(values, ensure_ascii=False, indent=1).encode())


def _header(folder: Path) -> Path | None:
    """The file that holds the rules: a dataset made on the canvas has no plan."""
    return next((path for name in (HEADER, "dataset.json") if (path := folder / name).is_file()), None)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("filter", about=__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="the dataset, with manifest.jsonl")
    add("--dry-run", action="store_true", help="show what would change without changing it")
    add("--fresh", action="store_true", help="discard the dataset's rules; otherwise the given ones change them")
    add_json_option(parser)
    add_options(parser, Rules, unset="the dataset's")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
