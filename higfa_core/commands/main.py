"""The command `higfa`. Each subcommand is imported when it is called, so that `higfa --help` is fast."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from .shell import Parser

COMMANDS = {
    "unpack": (".unpack", "extract the images of a Hub clone from its Parquet files"),
    "plan": (".plan", "from labelled images and a workflow to a list of jobs; --dry-run to see it"),
    "run": (".run", "make the images of a plan on one or many ComfyUI servers; again to resume"),
    "status": (".status", "what is planned, made, accepted and failed, class by class"),
    "filter": (".filter", "apply other rules to the images of a dataset"),
    "review": (".review", "look through a dataset in a browser: other rules, verdicts by hand"),
    "export": (".export", "ImageFolder, Hugging Face, WebDataset, COCO, lists for mixing"),
    "report": (".report", "a dataset as one HTML page, real and synthetic images side by side"),
    "evaluate": (".evaluate", "an audit sheet: label errors, coverage, diversity, copies, spectrum, limits"),
    "train-classifier": (".train_classifier", "a fine-grained classifier, and a judge, from labelled images"),
    "check-classifier": (".check_classifier", "can a classifier guide?"),
    "tune": (".tune", "find the strength of the guidance on your own images, with a pilot"),
    "study": (".study", "compare settings of a workflow's nodes at the same seeds, with intervals"),
    "demo": (".demo", "plan, run and report on the embedded birds, with a running ComfyUI"),
    "train-miniature": ("..miniature.make_weights", "train the miniature's weight files"),
}


def main(argv: Sequence[str] | None = None) -> int:
    lines = "\n".join(f"  {name:<18} {about}" for name, (_, about) in COMMANDS.items())
    parser = Parser(
        epilog=f"commands (COMMAND --help says more):\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    args = parser.parse_args(argv)
    module, _ = COMMANDS[args.command]
    # The names are those above, never user input.
    return importlib.import_module(module, __package__).main(args.arguments)


if __name__ == "__main__":
    sys.exit(main())
