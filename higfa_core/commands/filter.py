"""`higfa filter`: apply other rules to the images of a dataset. Nothing is generated again, nothing is deleted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..plans.rules import Rules
from ..review.filtering import refilter
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
