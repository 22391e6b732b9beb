"""The command ``higfa``. Each command is imported when it is called, so that ``higfa --help`` is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = """commands (COMMAND --help says more):
  demo                   make the demo dataset with a running ComfyUI, and a report
  train-miniature        train the miniature's weight files
  train-classifier       a fine-grained classifier, and a judge, from a folder of labelled images
  check-classifier       is a classifier fit to guide: real images, VAE, tiny decoder, noise levels
  status DATASET_FOLDER  images written and accepted, class by class
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="higfa", epilog=COMMANDS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = {
        "demo": _demo,
        "train-miniature": _train_miniature,
        "train-classifier": _train_classifier,
        "check-classifier": _check_classifier,
        "status": _status,
    }
    parser.add_argument("command", choices=commands, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    args = parser.parse_args(argv)
    return commands[args.command](args.arguments)


def _demo(arguments: list[str]) -> int:
    from .miniature import demo

    return demo.main(arguments, prog="higfa demo")


def _train_miniature(arguments: list[str]) -> int:
    from .miniature import train

    return train.main(arguments)


def _train_classifier(arguments: list[str]) -> int:
    from .classifier import train_cli

    return train_cli.main(arguments)


def _check_classifier(arguments: list[str]) -> int:
    from .classifier import check_cli

    return check_cli.main(arguments)


def _status(arguments: list[str]) -> int:
    from .dataset.store import Manifest

    parser = argparse.ArgumentParser(prog="higfa status", description="Images written and accepted, by class.")
    parser.add_argument("folder", type=Path, metavar="DATASET_FOLDER", help="the folder with manifest.jsonl")
    folder = parser.parse_args(arguments).folder
    if not (folder / "manifest.jsonl").is_file():
        print(f"No manifest.jsonl in {folder}: give the folder that Export Dataset made", file=sys.stderr)
        return 1
    manifest = Manifest(folder)
    print(status_table(manifest.status()))
    if missing := manifest.missing():
        print(f"{len(missing)} of these files are missing, the first is {missing[0]['file']}")
    return 0


def status_table(status: dict[str, dict[str, int]]) -> str:
    """``Manifest.status()`` as aligned text, the totals last."""
    names = ("written", "accepted")
    total = {name: sum(counts[name] for counts in status.values()) for name in names}
    rows = [("class", *names), *((key, *(row[n] for n in names)) for key, row in [*status.items(), ("total", total)])]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{name:<{width}}  {written:>8}  {accepted:>8}" for name, written, accepted in rows)


if __name__ == "__main__":
    sys.exit(main())
