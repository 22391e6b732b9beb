"""Shared by the readers of the layouts: lists, MATLAB files, boxes, and checks of the listed images."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...files.names import printable
from ...files.paths import is_held_out
from ...wording import counted
from ..locate import locate, near_misses
from ..source import Box, ClassInfo, SourceDataset, SourceImage
from ..text import read_text
from ..tree import Tree
from .matlab import load_mat

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


def list_text(path: Path) -> str:
    """The text of a set's list: UTF-8 or UTF-16."""
    try:
        text, guess = read_text(path)
        if not guess:
            return text
        path.read_bytes().decode()  # raises, with the position
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing. Copy all annotations of the set.") from error
    except (UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}). Replace it with the original.") from error
    return text


def read_columns(path: Path, count: int) -> list[list[str]]:
    """The lines of a list as `count` columns, of which only the last may contain spaces. Blank lines are ignored."""
    rows = []
    for number, line in enumerate(list_text(path).split("\n"), 1):
        if row := line.strip().split(maxsplit=count - 1):
            if len(row) != count:
                raise ValueError(f"{path}, line {number}: expected {count} columns, got {line.strip()!r}. Correct it.")
            rows.append(row)
    return rows


def read_pairs(path: Path) -> dict[str, str]:
    """A list of two columns as a mapping. ValueError if a key has two values."""
    pairs: dict[str, str] = {}
    for key, value in read_columns(path, 2):
        if pairs.setdefault(key, value) != value:
            raise ValueError(f"{path}: {key} is listed as {pairs[key]!r} and as {value!r}. Remove one of the lines.")
    return pairs


def read_numbers(path: Path) -> dict[str, Box]:
    """Lines `<image> <4 numbers>` as a mapping; empty if there is no such file, as boxes are optional."""
    if not path.is_file():
        return {}
    try:
        lines = read_columns(path, 5)
        numbers = {key: (float(x), float(y), float(w), float(h)) for key, x, y, w, h in lines}
        if all(map(math.isfinite, (value for values in numbers.values() for value in values))):
            return numbers
        raise ValueError("one of them is not finite")
    except ValueError as error:
        raise ValueError(f"{path}: every line needs an image and 4 numbers ({error}). Correct it.") from error


def corners(x1: float, y1: float, x2: float, y2: float) -> Box | None:
    """The box with these first and last pixels, counted from 1; None if it is empty."""
    x, y = max(float(x1) - 1, 0.0), max(float(y1) - 1, 0.0)
    width, height = float(x2) - x, float(y2) - y
    return (x, y, width, height) if width > 0 and height > 0 and math.isfinite(width + height) else None


def read_mat(path: Path, *names: str) -> list[Any]:
    """These variables of a MATLAB file, each as a one-dimensional array."""
    import numpy as np

    content = load_mat(path)
    if lacking := [name for name in names if name not in content]:
        raise ValueError(f"{path} has no variable {lacking[0]!r}. Replace it with the original.")
    return [np.atleast_1d(content[name]) for name in names]


def number_classes(named: Iterable[tuple[int, str]], layout: str) -> dict[str, int]:
    """Class name -> label from (number, name) pairs, in order of the numbers, which may have gaps."""
    names: dict[int, str] = {}
    for number, name in named:
        if names.setdefault(number, name) != name:
            raise ValueError(f"{layout}: class number {number} is {names[number]!r} and {name!r}. Correct the list.")
    labels = {names[number]: label for label, number in enumerate(sorted(names))}
    if len(labels) < len(names):
        twice = next(name for number, name in names.items() if list(names.values()).count(name) > 1)
        raise ValueError(f"{layout}: class {twice!r} has two numbers. Correct the list.")
    return labels


def check_folder(root: Path) -> None:
    """ValueError unless there is a folder at `root`."""
    if not os.path.isdir(root):  # Path.is_dir raises for a name that is too long
        raise ValueError(f"No dataset folder at {root}. Give a folder with one folder of images per class.")


def refuse_outside(root: Path, link: str) -> None:
    """ValueError: a link leads out of the dataset, and such links are not followed here."""
    raise ValueError(f"Path {link!r} leads outside {root} (a link?). Copy the files into that folder.")


def under(home: str, *parts: str) -> str:
    """The path of `parts` in the folder `home`, which may be empty."""
    return "/".join(filter(None, (home, *parts)))


def above(path: str) -> str:
    """The folder that holds the file or folder `path`."""
    return path.rpartition("/")[0]


def held_out_folders(tree: Tree, home: str) -> list[str]:
    """The folders in `home` that are validation or test splits."""
    return [under(home, name) for name in tree.folders(home) if is_held_out(name)]


def training_set(
    tree: Tree,
    layout: str,
    evidence: str,
    classes: Sequence[ClassInfo],
    images: Sequence[SourceImage],
    held_out: Iterable[str] = (),
    licence: str = "",
    numbers: Sequence[int] = (),
) -> SourceDataset:
    """The listed images as a dataset, in order of label and path, each with its place on disk.

    Paths are as the tree shows them, in the form of `normal`. ValueError if one of them is also held out or is missing,
    or if there are none.
    """
    held_out = dict.fromkeys(held_out)
    if not images:
        raise ValueError(f"{layout}: no training image is listed in {tree.root} ({len(held_out)} are held out)")
    _refuse_listed_twice(layout, images)
    try:
        masks = [mask for image in images if image.mask and (mask := tree.find(image.mask))]
        found = locate(tree, [image.path for image in images], held_out, masks)
    except ValueError as error:
        raise ValueError(f"{layout}: {error}") from error
    others = {path: found.get(path, path) for path in held_out}
    _refuse_both(layout, images, found, set(others.values()) | others.keys())
    _refuse_missing(tree, layout, images, found)
    placed = [_placed(tree, image, found[image.path]) for image in images]
    ordered = tuple(sorted(placed, key=lambda image: (image.label, image.path)))
    there = tuple(sorted({found[path] for path in held_out if path in found}))
    about = (tuple(classes), ordered, len(held_out), licence, tuple(numbers), there)
    return SourceDataset(tree.root, layout, evidence, *about)


def _refuse_listed_twice(layout: str, images: Sequence[SourceImage]) -> None:
    counts = Counter(image.path for image in images)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise ValueError(f"{layout}: {twice[0]} is listed twice. Remove one of the entries.")


def _refuse_both(layout: str, images: Sequence[SourceImage], found: Mapping[str, str], others: set[str]) -> None:
    both = [i.path for i in images if i.path in others or found.get(i.path) in others]
    if both:
        raise ValueError(
            f"{layout}: {min(both)} is listed both for training and for validation or test. "
            f"Remove one of the entries ({counted(len(both), 'such image')})."
        )


def _refuse_missing(tree: Tree, layout: str, images: Sequence[SourceImage], found: Mapping[str, str]) -> None:
    masks = [image.mask for image in images if image.mask and tree.find(image.mask) is None]
    missing = [image.path for image in images if image.path not in found] + masks
    if not missing:
        return
    for path in missing:
        if outside := next((link for link in tree.outside if path.startswith(f"{link}/")), ""):
            refuse_outside(tree.root, outside)
    raise ValueError(
        f"{layout}: {printable(missing[0])} is listed, but not in {tree.root}. Copy it there or remove it from the "
        f"list ({len(missing)} missing{_why_missing(tree, missing[0])})."
    )


def _why_missing(tree: Tree, path: str) -> str:
    if near := [place for place in near_misses(tree, path) if place != path]:
        return f"; there is {near[0]}"
    packed = [other for other in tree.others if other.lower().endswith(ARCHIVES)]
    return f"; {packed[0]} may contain them: unpack it there" if packed else ""


def _placed(tree: Tree, image: SourceImage, place: str) -> SourceImage:
    mask = tree.find(image.mask) if image.mask else None
    return image if (place, mask) == (image.path, image.mask) else replace(image, path=place, mask=mask)
