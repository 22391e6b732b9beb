"""`higfa report`: a dataset as one self-contained HTML page, real and synthetic images side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..exports.report import NAME, Dataset, write_report
from .shell import Parser, Speech, add_json_option, command, hint


@command(safe="An earlier report is as it was.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    dataset = Dataset(args.folder, args.source)
    out = write_report(dataset, args.out, [Dataset(folder) for folder in args.compare], args.per_class, hint())
    speech.say(f"Report: {out}  {_words(dataset)}")
    speech.result(report=out, **dataset.total, classes=dataset.counts)
    return 0


def counts(folder: Path) -> str:
    """The numbers of images planned (where there is a plan), written and accepted, in words."""
    return _words(Dataset(folder))


def _words(dataset: Dataset) -> str:
    return ", ".join(f"{name} {value}" for name, value in dataset.total.items())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("report", about=__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="DATASET_FOLDER", help="the folder with manifest.jsonl")
    add("--out", type=Path, metavar="FILE", help=f"the page (default: {NAME} in the dataset's folder)")
    beside = "a dataset made by another workflow from the same jobs, to show beside it; repeat it for more"
    add("--compare", type=Path, action="append", default=[], metavar="FOLDER", help=beside)
    add("--source", type=Path, metavar="FOLDER", help="the real images, where the plan does not name their folder")
    add("--per-class", type=int, metavar="N", help="images shown per class (default: 24, fewer for many classes)")
    add_json_option(parser)
    args = parser.parse_args(argv)
    if args.per_class is not None and args.per_class < 1:
        parser.error(f"--per-class must be at least 1, got {args.per_class}")
    return args


if __name__ == "__main__":
    sys.exit(main())
