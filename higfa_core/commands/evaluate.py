"""`higfa evaluate`: an audit sheet of a synthetic dataset against the real images: label errors by an independent
judge, coverage, diversity, copies, spectrum, marks of provenance. Exits with 1 where a limit of yours is broken."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..classifier import FineGrainedClassifier
from ..evaluation import sheet
from ..evaluation.audit import MEASURES, Networks, audit
from ..evaluation.features import extractor
from ..evaluation.limits import broken, parse_limit
from ..evaluation.pair import read_pair
from ..evaluation.settings import EvaluationSettings
from ..sources.options import layout_of
from .options import add_options
from .progress import CountView
from .shell import Parser, Speech, add_json_option, command
from .source_options import add_source_arguments


@command(safe="An earlier sheet is as it was.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    limits = [parse_limit(text, MEASURES) for text in args.fail_if]
    networks = _networks(args)
    pair = read_pair(args.real, args.synthetic, follow_links=True, **layout_of(vars(args)))
    with CountView("looked at") as view:
        found = audit(pair, networks, EvaluationSettings.pick(vars(args)), view)
    out = args.out or args.synthetic.absolute().with_name(f"{args.synthetic.absolute().name}_evaluation")
    failed = broken(limits, found.measures)
    files = sheet.write_sheet(out, f"{args.synthetic.name} against {args.real.name}", found, limits, failed)
    width = max(map(len, MEASURES))
    for name, value, meaning in sheet.lines(found):
        speech.say(f"{name:<{width}}  {value:>8}  {meaning}")
    speech.say("\n".join(["", f"Features: {found.looked_with}.", f"Labels: {found.judged_by}.", *found.notes]))
    for limit in limits:
        speech.say(f"limit {limit}: {'BROKEN' if limit in failed else 'kept'}")
    speech.say(f"Sheet: {files[0]}")
    speech.result(sheet=files[0], measures=found.measures, notes=found.notes, broken=list(map(str, failed)))
    return 1 if failed else 0


def _networks(args: argparse.Namespace) -> Networks:
    """The networks that the arguments name; the judge's features are preferred to the guide's."""
    judge, guide = (FineGrainedClassifier.load(path) if path else None for path in (args.judge, args.guide))
    if args.judge and args.guide and args.judge.read_bytes() == args.guide.read_bytes():
        raise ValueError(f"{args.judge} is the guide itself, which flatters its images. Name another judge.")
    features = extractor(args.features) if args.features else judge or guide
    if features is None:
        raise ValueError("No network to look with. Give --judge FILE, --guide FILE or --features FILE.")
    return Networks(features, judge, guide)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("evaluate", about=__doc__)
    add = parser.add_argument
    add("real", type=Path, metavar="REAL", help="the labelled real images; those of a test split are not looked at")
    about = "a dataset or an export of HiGFA, or any labelled images; their classes are REAL's"
    add("synthetic", type=Path, metavar="SYNTHETIC", help=about)
    add_source_arguments(parser)
    about = "an independent classifier, which steered none of the images: it finds label errors"
    add("--judge", type=Path, metavar="FILE", help=about)
    add("--guide", type=Path, metavar="FILE", help="the classifier that steered them: shows how it flatters them")
    about = "whose features to compare: a classifier's file or timm's name (default: the judge's, else the guide's)"
    add("--features", metavar="FILE", help=about)
    about = "a limit, such as 'label_error > 5%%' or 'coverage < 0.5': exit with 1 where it holds; repeat it for more"
    add("--fail-if", action="append", default=[], metavar="LIMIT", help=about)
    add("--out", type=Path, metavar="FOLDER", help="of the sheet (default: SYNTHETIC_evaluation beside SYNTHETIC)")
    add_options(parser, EvaluationSettings)
    add_json_option(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
