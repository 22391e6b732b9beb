"""`higfa export`: the accepted images of finished datasets in a format that training code reads, with a data card, a
Croissant file and one manifest row per image."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..exports.base import Options
from ..exports.export import Exported, export
from ..exports.formats import FORMATS
from ..exports.pictures import IMAGE_FORMATS
from ..plans.plan_file import PlanFile
from ..sources.options import layout_of
from ..sources.source import SourceImage
from ..wording import counted
from .progress import CountView
from .shell import Parser, Speech, add_json_option, command

if TYPE_CHECKING:
    from ..training.data import Labelled, LabelledSet


@command(safe="No export was written, and an earlier one is as it was.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    source, validation = _validation(args) if args.with_val else (args.source, ())
    options = Options(
        name=args.name,
        image_format=args.image_format,
        real=args.real == "copy",
        source=source,
        per_class=args.per_class,
        all_images=args.all_images,
        probability=args.probability,
        shard_size=args.shard_size,
        contact_sheets=args.contact_sheets,
        validation=validation,
        check_against=args.check_against,
        licence=args.license,
        checkpoint_licence=args.checkpoint_license,
    )
    with CountView("exported") as view:
        done = export(args.folders, args.out, args.format, options, args.replace, view)
    speech.say(summary(done, args.format))
    speech.result(
        folder=done.out,
        format=args.format,
        classes={name: {"synthetic": made, "real": real} for name, (made, real) in done.counts.items()},
        bytes=done.bytes,
        validation=done.validation,
        known=done.known,
        others=done.others,
        contact_sheets=done.sheets,
    )
    return 0


def _validation(args: argparse.Namespace) -> tuple[Path, tuple[SourceImage, ...]]:
    """The folder of the real images, and those that its `val` folder or its `held_out.txt` holds out."""
    from ..training.data import read_labelled  # here: it waits for torch

    plan = PlanFile(args.folders[0])
    root = Path(args.source or plan.header["dataset"]["root"])
    found = read_labelled(root, 0, follow_links=True, **layout_of(plan.header.get("options") or {}))
    if unknown := set(found.class_names) - set(plan.classes):
        raise ValueError(f"{root} has other classes than the plan, such as {min(unknown)!r}. Plan again.")
    if not found.validation:
        raise ValueError(
            f"No image in {root} is held out for validation: there is no val folder and no held_out.txt. "
            "Run higfa train-classifier to hold some out; a test split is never used."
        )
    return root, tuple(_source_image(item, found, plan.classes) for item in found.validation)


def _source_image(item: Labelled, found: LabelledSet, classes: Sequence[str]) -> SourceImage:
    path, name = item.path.relative_to(found.root).as_posix(), found.class_names[item.label]
    return SourceImage(path, name, classes.index(name), crop_bottom=item.crop_bottom)


def summary(done: Exported, format: str) -> str:
    """What was written, as aligned text."""
    total = [sum(counts[i] for counts in done.counts.values()) for i in (0, 1)]
    rows = [("class", "synthetic", "real"), *((name, *counts) for name, counts in done.counts.items())]
    rows.append(("total", *total))
    width = max(len(row[0]) for row in rows)
    lines = [f"{name:<{width}}  {made:>9}  {real:>6}" for name, made, real in rows]
    if empty := [name for name, (made, _) in done.counts.items() if not made]:
        lines.append(f"no accepted image: {', '.join(empty)}")
    if done.validation:
        lines.append(f"validation split: {counted(done.validation, 'real image')}")
    if done.known:
        lines.append(f"real images that the trainer's copy has: {done.known[0]} of {done.known[1]}")
    if done.others:
        lines.append(f"left out: {counted(done.others, 'accepted image')} of other plans (--all-images includes them)")
    sheets = f", {counted(done.sheets, 'contact sheet')}" if done.sheets else ""
    size = f"{counted(sum(total), 'image')} of {counted(len(done.counts), 'class')}, {done.bytes / 1e6:.1f} MB"
    return "\n".join([*lines, f"{done.out} ({format}): {size}{sheets}"])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("export", about=__doc__)
    add = parser.add_argument
    about = "folder with manifest.jsonl; several: shards of one plan"
    add("folders", nargs="+", type=Path, metavar="DATASET_FOLDER", help=about)
    add("--out", required=True, type=Path, metavar="FOLDER", help="new folder for the export")
    add("--format", required=True, choices=FORMATS)
    add("--replace", action="store_true", help="replace an earlier export at --out")
    add("--name", default="", help="of the exported dataset (default: that of the folder)")
    add_json_option(parser)
    add = parser.add_argument_group("images").add_argument
    about = (
        "keep: the files as they are (default); others are encoded again, without text chunks and marked as generated"
    )
    add("--image-format", choices=IMAGE_FORMATS, default="keep", help=f"{about} (XMP)")
    add("--per-class", type=int, metavar="N", help="only the first N accepted of each class")
    about = "also those of plans that the present one replaced (default: its own)"
    add("--all-images", action="store_true", help=about)
    about = "copy: the real training images too, marked synthetic: false"
    add("--real", choices=("none", "copy"), default="none", help=about)
    about = "a validation split: the real images that the source's val folder or held_out.txt holds out"
    add("--with-val", action="store_true", help=about)
    about = "the real images, where the plan does not name their folder or they were moved"
    add("--source", type=Path, metavar="FOLDER", help=about)
    about = "webdataset: samples in a shard (default: %(default)s)"
    add("--shard-size", type=int, default=Options.shard_size, metavar="N", help=about)
    about = "lists: a trainer's own copy of the real images; counts how many it has"
    add("--check-against", type=Path, metavar="FOLDER", help=about)
    about = "lists: of a synthetic image in place of a real one (default: %(default)s)"
    add("--probability", type=float, default=Options.probability, metavar="P", help=about)
    add = parser.add_argument_group("documentation").add_argument
    add("--contact-sheets", action="store_true", help="pages of sources and results, for each class")
    add("--license", default="", metavar="TEXT", help="of the real images (default: the plan's)")
    add("--checkpoint-license", default="", metavar="TEXT", help="of the model (default: the plan's)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
