"""`higfa export`: finished datasets in the formats that training code reads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..exports.base import Options
from ..exports.export import Exported, export
from ..exports.formats import FORMATS
from ..exports.pictures import IMAGE_FORMATS


def main(argv: Sequence[str] | None = None, prog: str = "higfa export") -> int:
    args = _parser(prog).parse_args(argv)
    try:
        options = Options(
            name=args.name,
            image_format=args.image_format,
            real=args.real == "copy",
            source=args.source,
            per_class=args.per_class,
            all_images=args.all_images,
            probability=args.probability,
            shard_size=args.shard_size,
            contact_sheets=args.contact_sheets,
            licence=args.license,
            checkpoint_licence=args.checkpoint_license,
        )
        print(summary(export(args.folders, args.out, args.format, options, args.replace), args.format))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def summary(done: Exported, format: str) -> str:
    """What was written, as aligned text."""
    total = [sum(counts[i] for counts in done.counts.values()) for i in (0, 1)]
    rows = [("class", "synthetic", "real"), *((name, *counts) for name, counts in done.counts.items())]
    rows.append(("total", *total))
    width = max(len(row[0]) for row in rows)
    lines = [f"{name:<{width}}  {made:>9}  {real:>6}" for name, made, real in rows]
    if empty := [name for name, (made, _) in done.counts.items() if not made]:
        lines.append(f"no accepted image: {', '.join(empty)}")
    if done.others:
        lines.append(f"{done.others} accepted images are not of this plan and left out: --all-images takes them")
    sheets = f", {done.sheets} contact sheets" if done.sheets else ""
    size = f"{sum(total)} images of {len(done.counts)} classes, {done.bytes / 1e6:.1f} MB"
    return "\n".join([*lines, f"{done.out} ({format}): {size}{sheets}"])


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Write the accepted images of finished datasets in a "
                                     "format that training code reads, with a data card, a Croissant file and one "
                                     "manifest row an image.")  # fmt: skip
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATASET_FOLDER",
                        help="folder with manifest.jsonl; several: shards of one plan")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="new folder for the export")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--replace", action="store_true", help="an earlier export at --out may be replaced")
    parser.add_argument("--name", default="", help="of the exported dataset (default: that of the folder)")
    images = parser.add_argument_group("images")
    images.add_argument("--image-format", choices=IMAGE_FORMATS, default="keep",
                        help="keep: the files as they are (default); others are encoded anew, without text chunks "
                        "and marked as generated (XMP)")  # fmt: skip
    images.add_argument("--per-class", type=int, metavar="N", help="only the first N accepted of each class")
    images.add_argument("--all-images", action="store_true",
                        help="also those of plans that the present one replaced (default: its own)")  # fmt: skip
    images.add_argument("--real", choices=("none", "copy"), default="none",
                        help="copy: the real training images too, marked synthetic: false")  # fmt: skip
    images.add_argument("--source", type=Path, metavar="FOLDER",
                        help="the real images, where the plan does not tell or they were moved")  # fmt: skip
    images.add_argument("--shard-size", type=int, default=1000, metavar="N",
                        help="webdataset: samples in a shard (default 1000)")  # fmt: skip
    images.add_argument("--probability", type=float, default=0.5, metavar="P",
                        help="lists: of a synthetic image in a real one's place (default 0.5)")  # fmt: skip
    about = parser.add_argument_group("documentation")
    about.add_argument("--contact-sheets", action="store_true", help="pages of sources and results, for each class")
    about.add_argument("--license", default="", metavar="TEXT", help="of the real images (default: the plan's)")
    about.add_argument("--checkpoint-license", default="", metavar="TEXT", help="of the model (default: the plan's)")
    return parser
