"""`higfa status`: what is planned, made, accepted and failed, class by class; whether it runs, and how fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ..batch.index import Index
from ..plans.plan_file import HEADER
from ..store.manifest import Manifest
from ..wording import counted
from .progress import Progress, images_per_hour, progress, spoken_time, wanted
from .shell import Parser, Speech, add_json_option, command, hint

COLUMNS = ("written", "accepted", "planned", "leased", "failed")


@command()
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    if (args.folder / HEADER).is_file():
        return _planned(args.folder, speech)
    if (args.folder / "manifest.jsonl").is_file():
        return _unplanned(args.folder, speech)
    raise ValueError(
        f"No {HEADER} or manifest.jsonl in {args.folder}. Give a folder that `higfa plan` or Export Dataset has made."
    )


def _planned(folder: Path, speech: Speech) -> int:
    with closing(Index(folder, thorough=False)) as index:
        table = [row | {"wanted": wanted(row)} for row in index.table()]
        failures, others, disk, runs = index.failures(), index.others(), index.disk_estimate(), index.runs()
    found, rate = progress(table), images_per_hour(folder)
    unit = "accepted images" if any(row["quota"] is not None for row in table) else "jobs"
    speech.say(as_text(table, ("wanted", *COLUMNS)))
    speech.say(f"{found.done} of {found.goal} {unit}; {disk}")
    speech.say(_pace(folder, found, runs, rate))
    if others:
        speech.say(f"{counted(others, 'accepted image')} of other plans: higfa export leaves them out")
    for idx, reason in failures[:5]:
        speech.say(f"job {idx} failed: {reason}")
    speech.result(
        folder=folder,
        **found._asdict(),
        unit=unit,
        running=runs > 0,
        images_per_hour=rate,
        classes=table,
        failed=[{"job": idx, "reason": reason} for idx, reason in failures],
        others=others,
    )
    return 0


def _pace(folder: Path, found: Progress, runs: int, rate: float | None) -> str:
    """Whether a run is in progress, and when it will be done, in words."""
    if not runs:
        return "complete" if found.done >= found.goal else f"stopped. To resume: {hint('run', folder)}"
    words = "running" if runs == 1 else f"running ({runs} processes)"
    if rate and found.done and found.written:
        left = (found.goal - found.done) * found.written / found.done / rate * 3600
        words += f", {rate:.0f} images per hour, {spoken_time(left)} left"
    return words


def _unplanned(folder: Path, speech: Speech) -> int:
    manifest = Manifest(folder)
    table = [{"name": name, **counts} for name, counts in manifest.status().items()]
    missing = [row["file"] for row in manifest.missing()]
    speech.say(as_text(table, ("written", "accepted")))
    if missing:
        speech.say(f"missing: {counted(len(missing), 'file')}, such as {missing[0]}")
    speech.result(folder=folder, classes=table, missing=missing)
    return 0


def as_text(rows: Sequence[dict], names: Sequence[str]) -> str:
    """Classes as aligned text, the totals last."""
    total = {"name": "total"} | {name: sum(row[name] for row in rows) for name in names}
    cells = [("class", *names), *((row["name"], *(str(row[name]) for name in names)) for row in [*rows, total])]
    width = max(len(row[0]) for row in cells)
    return "\n".join(f"{name:<{width}}" + "".join(f"{value:>10}" for value in values) for name, *values in cells)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("status", about=__doc__)
    about = "the folder with plan.json or manifest.jsonl"
    parser.add_argument("folder", type=Path, metavar="DATASET_FOLDER", help=about)
    add_json_option(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
