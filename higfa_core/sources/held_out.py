"""`held_out.txt`: images that a classifier's training held out, and that can never become sources.

One path per line, relative to the file's folder, with forward slashes. It applies whichever folder of a set is read:
`birds` and `birds/train` see the same list, and so do a benchmark's own folder and the one or two above it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..files.atomic import write_atomic
from ..files.names import composed
from ..files.paths import HELD_OUT_LIST as NAME
from ..files.paths import leads_out, training_folders
from ..files.reading import read_text
from .source import SourceDataset


def listed(dataset: SourceDataset, home: Path | None = None) -> frozenset[str]:
    """The images of `dataset` that a list names; `home`: the folder of the set's own lists, below its root.

    ValueError for an unreadable list, and for one that names a missing file.
    """
    known = {composed(image.path): image.path for image in dataset.images}
    found = set()
    for folder in _folders(dataset.root, home):
        for path in _lines(folder / NAME):
            place = _from(dataset.root, folder, path)
            if place in known:
                found.add(known[place])
            elif not os.path.exists(folder / path):  # Path.exists raises for a name that is too long
                raise ValueError(f"{folder / NAME} names {path!r}, which does not exist. Correct or remove the line.")
    return frozenset(found)


def without(dataset: SourceDataset, paths: frozenset[str]) -> SourceDataset:
    """The dataset without these images, which count as held out."""
    if not paths:
        return dataset
    images = tuple(image for image in dataset.images if image.path not in paths)
    if not images:
        raise ValueError(f"{NAME} in {dataset.root} holds out all images. Remove some of its lines.")
    others = tuple(sorted({*dataset.held_out_images, *paths}))
    return replace(dataset, images=images, held_out=dataset.held_out + len(paths), held_out_images=others)


def add(root: Path, paths: Iterable[str]) -> Path:
    """Add paths to the list of `root`, keeping its other lines; returns the list's path."""
    file = root / NAME
    lines = {*paths, *(_lines(file) if file.is_file() else ())}
    write_atomic(file, "".join(f"{path}\n" for path in sorted(lines)).encode())
    return file


def refuse_read_only(root: Path) -> None:
    """ValueError when `add` could not write."""
    if not os.access(root, os.W_OK):
        raise ValueError(
            f"{root} is read-only, so {NAME} there cannot keep held-out images from becoming sources. Make it "
            "writable, or switch keep_split off."
        )


def _folders(root: Path, home: Path | None) -> list[Path]:
    below = home or next(iter(training_folders(root)), root)
    steps = [root.joinpath(*below.relative_to(root).parts[:n]) for n in range(len(below.relative_to(root).parts) + 1)]
    return [folder for folder in (*list(root.parents)[:2], *steps) if (folder / NAME).is_file()]


def _lines(file: Path) -> list[str]:
    try:
        lines = read_text(file, "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    paths = []
    for number, line in enumerate(lines, 1):
        if path := line.strip().replace("\\", "/"):
            if leads_out(path):
                raise ValueError(f"{file}, line {number}: {path!r} must be relative and without '..'. Correct it.")
            paths.append(PurePosixPath(path).as_posix())
    return paths


def _from(root: Path, folder: Path, path: str) -> str:
    """A path from a list in `folder`, as the dataset spells it."""
    full = folder / path
    return composed(full.relative_to(root).as_posix()) if full.is_relative_to(root) else ""
