"""Finished datasets -> a folder in a format that training code reads, either complete or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..files.faults import naming
from ..sources.source import SourceImage
from ..wording import counted
from .base import Export, Options
from .card import write_card
from .collection import Collection, Item, read_collection
from .contact_sheet import write_sheets
from .croissant import write_croissant
from .formats import FORMATS
from .formats.lists import known_images
from .pictures import pictures, real_items
from .staging import Identity, clear_left, identity, stage_beside

MARKS = ("README.md", "croissant.json", "manifest.jsonl")
SYNCS = 8  # files that are made durable at once: a file system does that together, in little more time than for one


@dataclass(frozen=True)
class Exported:
    """What was written: images by class (name -> (synthetic, real)), their bytes, and where.

    `others`: accepted images that were left out because they belong to other plans. `validation`: real images in the
    validation split. `known`: how many of the real images in the lists a trainer's own copy has, and how many there are
    (see `Options.check_against`).
    """

    out: Path
    counts: dict[str, tuple[int, int]]
    bytes: int
    sheets: int = 0
    others: int = 0
    validation: int = 0
    known: tuple[int, int] | None = None


def export(
    folders: Sequence[str | Path],
    out: str | Path,
    format: str,
    options: Options,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the accepted images of finished datasets into the new folder `out`.

    Everything is written beside it and renamed at the end. `replace`: an earlier export there may be replaced.
    `progress` is called after each image with the number done and the total.
    ValueError for what cannot be exported, mostly before the first write.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    out = Path(os.path.abspath(out))
    if out.parent.is_dir():
        clear_left(out)
    collection = read_collection(folders, options.all_images)
    job = _choose(collection, out, format, options)
    replaced = _check_place(out, replace, [*collection.folders, *([job.root] if job.root else [])])
    writer = FORMATS[format]
    if hasattr(writer, "check"):
        writer.check(job)
    known = known_images(job, options.check_against) if options.check_against else None
    with naming(out), stage_beside(out) as stage:
        size = _write_images(stage.path, job, writer, progress)
        sheets = write_sheets(stage.path / "contact-sheets", job) if options.contact_sheets else 0
        write_card(stage.path, job, writer)
        write_croissant(stage.path, job)
        _sync(stage.path)
        stage.put(replaced)
        _sync_folder(out.parent)
    made, real = job.counts(True), job.counts(False)
    counts = {name: (made[name], real[name]) for name in job.classes}
    return Exported(out, counts, size, sheets, collection.others, len(job.validation), known)


def _choose(collection: Collection, out: Path, format: str, options: Options) -> Export:
    root, items = options.source or collection.root, collection.first(options.per_class)
    validation = _validation(collection, root, items[0].row, options.validation) if options.validation else []
    if options.real:
        items = _between(items, _real(collection, root, items[0]))
    return Export(collection, options, format, out, tuple(items), root, tuple(validation))


def _validation(collection: Collection, root: Path | None, like: Mapping, images: Sequence[SourceImage]) -> list[Item]:
    """The items of a validation split. ValueError if one of its images is also a source."""
    if both := {image.path for image in images} & {source.path for source in collection.sources}:
        raise ValueError(
            f"Sources of the plan are held out for validation: {counted(len(both), 'image')}, such as {min(both)}, "
            "held out after planning. Plan again, or export without a validation split."
        )
    assert root is not None
    return real_items(root, images, like, {}, split="validation")


def _real(collection: Collection, root: Path | None, like: Item) -> list[Item]:
    if root is None:
        raise ValueError("No plan.json says where the real images are. Name their folder with --source.")
    known = {path: about.get("sha256") for path, about in (collection.plan.get("sources") or {}).items()}
    return real_items(root, collection.real_sources(root), like.row, known)


def _between(items: list[Item], others: list[Item]) -> list[Item]:
    """Both lists in their own order, evenly interleaved, so that a sequential reader keeps seeing both kinds."""
    placed = [((i + 0.5) / len(group), item) for group in (items, others) for i, item in enumerate(group)]
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def _check_place(out: Path, replace: bool, sources: list[Path]) -> Identity | None:
    """The folder at `out` that may be replaced. ValueError if `out` is not available."""
    place = Path(os.path.realpath(out))
    for source in sources:
        folder = Path(os.path.realpath(source))
        if place == folder or folder in place.parents or place in folder.parents:
            raise ValueError(f"One of {out} and {folder} contains the other. Export to a folder of its own.")
    if out.exists() or out.is_symlink():
        if not replace:
            raise ValueError(f"{out} exists. Choose another folder, or add --replace.")
        if not out.is_dir() or out.is_symlink() or not all((out / name).is_file() for name in MARKS):
            raise ValueError(f"{out} is not an earlier export, so it is not replaced. Choose another folder.")
        return identity(out)
    return None


def _write_images(stage: Path, job: Export, writer: ModuleType, progress: Callable[[int, int], None]) -> int:
    size = 0
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with open(stage / "manifest.jsonl", "w", encoding="utf-8", newline="\n") as manifest:
        items = [item for split in job.splits.values() for item in split]
        for done, row in enumerate(writer.write(stage, pictures(items, job.options.image_format), job), 1):
            manifest.write(encode(row) + "\n")
            size += row["bytes"]
            progress(done, len(items))
    return size


def _sync(stage: Path) -> None:
    """Make all files durable, then their folders; at the end, when most are already on disk."""
    with ThreadPoolExecutor(SYNCS) as pool:
        for where, _, names in os.walk(stage, topdown=False):
            for _ in pool.map(_sync_file, [Path(where, name) for name in names]):
                pass  # an error is raised here
            _sync_folder(Path(where))


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
