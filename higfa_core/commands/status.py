"""`higfa status`: what is planned, made, accepted and failed, class by class."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ..batch.states import States
from ..plans.plan_file import HEADER
from ..store.manifest import Manifest
from .view import progress


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="higfa status", description=__doc__.partition(": ")[2])
    parser.add_argument(
        "folder", type=Path, metavar="DATASET_FOLDER", help="the folder with plan.json or manifest.jsonl"
    )
    folder = parser.parse_args(argv).folder
    try:
        if (folder / HEADER).is_file():
            return _planned(folder)
        if (folder / "manifest.jsonl").is_file():
            return _unplanned(folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"No manifest.jsonl in {folder}: give the folder that Export Dataset or higfa plan made", file=sys.stderr)
    return 1


def _planned(folder: Path) -> int:
    with closing(States(folder)) as states:
        table = states.table()
        names = ("written", "accepted", "planned", "leased", "failed")
        wanted = [row | {"wanted": _wanted(row)} for row in table]
        print(as_text(wanted, ("wanted", *names)))
        done, goal, _, _ = progress(table)
        print(
            f"{done} of {goal} {'accepted images' if states.plan.header['quota'] else 'jobs'}; {states.disk_estimate()}"
        )
        if others := states.others():
            print(f"{others} more accepted images are not of this plan: higfa export leaves them out")
        for idx, reason in states.failures()[:5]:
            print(f"job {idx} failed: {reason}")
    return 0


def _wanted(row: dict) -> int:
    if row["quota"] is not None:
        return row["quota"]
    return sum(row[name] for name in ("planned", "leased", "done", "failed"))


def _unplanned(folder: Path) -> int:
    manifest = Manifest(folder)
    print(as_text([{"name": name, **counts} for name, counts in manifest.status().items()], ("written", "accepted")))
    if missing := manifest.missing():
        print(f"{len(missing)} of these files are missing, the first is {missing[0]['file']}")
    return 0


def as_text(rows: Sequence[dict], names: Sequence[str]) -> str:
    """Classes as aligned text, the totals last."""
    total = {"name": "total"} | {name: sum(row[name] for row in rows) for name in names}
    cells = [("class", *names), *((row["name"], *(str(row[name]) for name in names)) for row in [*rows, total])]
    width = max(len(row[0]) for row in cells)
    return "\n".join(f"{name:<{width}}" + "".join(f"{value:>10}" for value in values) for name, *values in cells)


if __name__ == "__main__":
    sys.exit(main())
