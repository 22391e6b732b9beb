"""`higfa filter`: apply other rules to a dataset that is there. Nothing is generated again, nothing is deleted."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from ..files.atomic import alone, write_atomic
from ..plans.plan_file import HEADER, planned_keys
from ..plans.rules import Rules
from ..store.manifest import Manifest, decide
from .options import add_options, given


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="higfa filter", description="Apply rules to the images of a dataset again.")
    parser.add_argument("folder", type=Path, help="the dataset, with manifest.jsonl")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, change nothing")
    parser.add_argument("--fresh", action="store_true", help="forget the rules the dataset has; else these come on top")
    add_options(parser, Rules, unset="the dataset's")
    args = parser.parse_args(argv)
    try:
        report = refilter(args.folder, given(Rules, args), args.fresh, args.dry_run)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def refilter(folder: Path, changes: dict, fresh: bool = False, dry_run: bool = False) -> str:
    """Judge every image again, move those whose verdict changed, return a report. ValueError without the scores.

    Where there is a plan, its images only. A run that is at work waits, and then goes on by these rules.
    """
    manifest = Manifest(folder)
    if not len(manifest):
        raise ValueError(f"No images in {folder}: give the folder that has manifest.jsonl")
    with nullcontext() if dry_run else alone(folder):
        manifest.refresh()
        keys = planned_keys(folder)
        rules = Rules(**({} if fresh else _present_rules(manifest)) | changes)
        changed, restated, reasons = _judge(manifest, keys, rules)
        if not dry_run:
            _record_rules(folder, rules)
            for row, verdict in changed + restated:
                decide(folder, row | {"rules": rules.given()}, verdict.accepted, verdict.reason)
    asked = ", ".join(f"{name} {value:g}" for name, value in rules.given().items()) or "none"
    gained = sum(verdict.accepted for _, verdict in changed)
    lines = [f"rules: {asked}", *(f"  {count:6} {reason}" for reason, count in reasons.most_common())]
    if others := len(manifest) - sum(reasons.values()):
        lines.append(f"  {others:6} are not of this plan and stay as they are")
    verb = "would change" if dry_run else "changed"
    return "\n".join([*lines, f"{len(changed)} {verb}: {gained} accepted now, {len(changed) - gained} rejected now"])


def _judge(manifest: Manifest, keys: set[str] | None, rules: Rules) -> tuple[list, list, Counter]:
    """(row, verdict) of those whose verdict is another one, or has another reason; and how often each reason is."""
    if missing := [row for row in manifest.missing() if keys is None or row["key"] in keys]:
        raise ValueError(
            f"{len(missing)} files are missing, the first is {missing[0]['file']}: higfa run makes them again"
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
    known = json.loads(header.read_text("utf-8")).get("rules") if header else None
    return manifest.rows()[-1].get("rules") or {} if known is None else known


def _record_rules(folder: Path, rules: Rules) -> None:
    if header := _header(folder):  # the next higfa run must judge by the same rules, and filter go on from them
        values = json.loads(header.read_text("utf-8")) | {"rules": asdict(rules)}
        write_atomic(header, json.dumps(values, ensure_ascii=False, indent=1).encode())


def _header(folder: Path) -> Path | None:
    """The file that has, or shall have, the rules: a dataset made on the canvas has no plan."""
    return next((path for name in (HEADER, "dataset.json") if (path := folder / name).is_file()), None)


if __name__ == "__main__":
    sys.exit(main())
