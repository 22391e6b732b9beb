"""What the readers of the layouts share: lists, MATLAB files, boxes, and checks of what was listed."""

from __future__ import annotations

import math
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ...files.paths import inside, is_held_out
from ..source import Box, ClassInfo, SourceDataset, SourceImage


def read_columns(path: Path, count: int) -> list[list[str]]:
    """The lines of a list as `count` columns, of which only the last may hold spaces. Blank lines do not count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: copy all annotations of the set") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): replace it with the original") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if row := line.strip().split(maxsplit=count - 1):
            if len(row) != count:
                raise ValueError(f"{path}, line {number}: expected {count} columns, got {line.strip()!r}")
            rows.append(row)
    return rows


def read_pairs(path: Path) -> dict[str, str]:
    """A list of two columns as a mapping. ValueError when it gives one key two values."""
    pairs: dict[str, str] = {}
    for key, value in read_columns(path, 2):
        if pairs.setdefault(key, value) != value:
            raise ValueError(f"{path}: {key} is listed twice, as {pairs[key]!r} and {value!r}: remove one of the lines")
    return pairs


def read_numbers(path: Path) -> dict[str, tuple[float, ...]]:
    """Lines `<image> <4 numbers>` as a mapping; empty when there is no such file, for boxes are optional."""
    if not path.is_file():
        return {}
    try:
        numbers = {key: tuple(map(float, values)) for key, *values in read_columns(path, 5)}
        if all(map(math.isfinite, (value for values in numbers.values() for value in values))):
            return numbers
        raise ValueError("one of them is not finite")
    except ValueError as error:
        raise ValueError(f"{path}: every line needs an image and 4 numbers ({error})") from error


def corners(x1: float, y1: float, x2: float, y2: float) -> Box | None:
    """The box whose first and last pixels, counted from 1, are these; None when it is empty."""
    x, y = max(float(x1) - 1, 0.0), max(float(y1) - 1, 0.0)
    width, height = float(x2) - x, float(y2) - y
    return (x, y, width, height) if width > 0 and height > 0 and math.isfinite(width + height) else None


def read_mat(path: Path, *names: str) -> list[Sequence]:
    """These variables of a MATLAB file, each as a one-dimensional array."""
    try:
        import numpy as np
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ValueError(f"Reading {path} needs SciPy: pip install scipy") from error
    try:
        content = loadmat(path, squeeze_me=True)
        return [np.atleast_1d(content[name]) for name in names]
    except KeyError as error:
        raise ValueError(f"{path} has no variable {error}: replace it with the original") from error
    except (OSError, ValueError, TypeError, NotImplementedError, zlib.error, MatReadError) as error:
        raise ValueError(f"Cannot read {path} ({error}): replace it with the original") from error


def number_classes(named: Iterable[tuple[int, str]], layout: str) -> dict[str, int]:
    """Class name -> label from (number, name) pairs, in order of the numbers. A part of a set is one too."""
    names: dict[int, str] = {}
    for number, name in named:
        if names.setdefault(number, name) != name:
            raise ValueError(f"{layout}: class number {number} is {names[number]!r} and {name!r}: correct the list")
    labels = {names[number]: label for label, number in enumerate(sorted(names))}
    if len(labels) < len(names):
        twice = next(name for number, name in names.items() if list(names.values()).count(name) > 1)
        raise ValueError(f"{layout}: class {twice!r} has two numbers: correct the list")
    return labels


def check_folder(root: Path) -> None:
    """ValueError unless there is a folder at `root`."""
    if not root.is_dir():
        raise ValueError(f"No dataset folder at {root}: it must hold one folder of images for each class")


def prefix(root: Path, home: Path) -> str:
    """What leads from `root` to `home` in a path: empty, or ending in a slash."""
    return "" if home == root else f"{home.relative_to(root).as_posix()}/"


def sub_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden ones."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def held_out_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that are validation or test splits."""
    return [folder / name for name in sub_folders(folder) if is_held_out(name)]


def training_set(
    root: Path,
    layout: str,
    evidence: str,
    classes: Sequence[ClassInfo],
    images: Sequence[SourceImage],
    held_out: Iterable[str] = (),
    licence: str = "",
    numbers: Sequence[int] = (),
) -> SourceDataset:
    """The images in order of label and path. ValueError when one of them is in `held_out`, or there is none."""
    held_out = set(held_out)
    if not images:
        raise ValueError(f"{layout}: no training image is listed in {root} ({len(held_out)} are held out)")
    if both := held_out.intersection(image.path for image in images):
        raise ValueError(
            f"{layout}: {min(both)} is listed for training and for validation or test as well: "
            f"remove one of the entries ({len(both)} such images)"
        )
    ordered = tuple(sorted(images, key=lambda image: (image.label, image.path)))
    return SourceDataset(root, layout, evidence, tuple(classes), ordered, len(held_out), licence, tuple(numbers))


def check_files(dataset: SourceDataset) -> None:
    """ValueError when an image or mask is missing or leads out of the root. Looks into folders, opens no file."""
    folders: dict[str, list[str]] = defaultdict(list)
    for image in dataset.images:
        for path in filter(None, (image.path, image.mask)):
            folder, _, name = path.rpartition("/")
            folders[folder].append(name)
    missing = [path for folder, names in folders.items() for path in _missing(dataset.root, folder, names)]
    if missing:
        raise ValueError(
            f"{dataset.layout}: {missing[0]} is listed and not in {dataset.root}: copy it there or remove it from "
            f"the list ({len(missing)} missing)"
        )


def normal(path: str) -> str:
    """A listed path in the one form in which paths are compared: `./a//b` -> `a/b`. ValueError with `..`."""
    clean = PurePosixPath(path)
    if clean.is_absolute() or ".." in clean.parts:
        raise ValueError(f"Path {path!r} in a list must be relative and without '..': correct the list")
    return clean.as_posix()


def _missing(root: Path, folder: str, names: list[str]) -> list[str]:
    where = inside(root, folder) if folder else root
    entries = {}
    if where.is_dir():
        with os.scandir(where) as found:
            entries = {entry.name: entry.is_symlink() for entry in found if entry.is_file()}
    paths = {name: f"{folder}/{name}" if folder else name for name in names}
    for name, path in paths.items():
        if entries.get(name):
            inside(root, path)
    return [path for name, path in paths.items() if name not in entries]
