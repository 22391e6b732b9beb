"""The options of all commands that read labelled real images: their layout on disk, and where their labels are."""

from __future__ import annotations

import argparse


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them to a command's parser."""
    add = parser.add_argument
    add("--layout", default="auto", help="how the images are laid out on disk (default: recognised)")
    add("--layout-option", action="append", type=_pair, default=[], metavar="NAME=VALUE", help="e.g. level=family")
    add("--labels", metavar="FILE", help="the table of the labels: CSV in any dialect, JSONL, JSON, Parquet")
    add("--path-column", metavar="NAME", help="its column of image paths, names or ids (default: found)")
    add("--label-column", metavar="NAME", help="its column of labels (default: found)")
    add(
        "--split-column",
        metavar="NAME",
        help="its column of splits (default: found; none: all are for training)",
    )


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
