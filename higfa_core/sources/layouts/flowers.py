"""Oxford Flowers-102: as downloaded (.mat lists), or as the common copy train|valid|test/<1..102>/."""

from __future__ import annotations

import json
from pathlib import Path

from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from .image_folder import image_paths
from .lists import held_out_folders, prefix, read_columns, read_mat, sub_folders, training_set

TITLE = "Oxford Flowers-102"
EXPECTED = "setid.mat and imagelabels.mat, or train/<1..102> with cat_to_name.json"
NAMES_JSON, NAMES_TEXT = "cat_to_name.json", "names.txt"


def is_home(folder: Path) -> bool:
    """Whether `folder` has the .mat lists, or class numbers for folders and a file with their names."""
    if (folder / "setid.mat").is_file():
        return True
    numbers = sub_folders(folder / "train")
    return bool(numbers) and all(map(_is_number, numbers)) and _file_beside(folder, NAMES_JSON) is not None


def read(root: Path, home: Path) -> SourceDataset:
    """The training images (1020 in the full set); the validation images are held out."""
    has_lists = (home / "setid.mat").is_file()
    numbered, held_out = _listed(root, home) if has_lists else _in_folders(root, home)
    names, source = _names(home)
    if wrong := [(path, number) for path, number in numbered if not 1 <= number <= len(names)]:
        raise ValueError(f"{TITLE}: {wrong[0][0]} has number {wrong[0][1]}, but {source} has {len(names)} names")
    images = [SourceImage(path, names[number - 1], number - 1) for path, number in numbered]
    classes = [ClassInfo(name, prompt_name(name), "flower") for name in names]
    evidence = f"{prefix(root, home)}{'setid.mat' if has_lists else 'train/<number>'}, class names from {source}"
    return training_set(root, TITLE, evidence, classes, images, held_out)


def _listed(root: Path, home: Path) -> tuple[list[tuple[str, int]], list[str]]:
    train, valid, test = read_mat(home / "setid.mat", "trnid", "valid", "tstid")
    (labels,) = read_mat(home / "imagelabels.mat", "labels")
    if wrong := [int(number) for number in train if not 1 <= number <= len(labels)]:
        raise ValueError(f"{TITLE}: image {wrong[0]} has no label in imagelabels.mat ({len(labels)} labels)")
    path = f"{prefix(root, home)}jpg/image_{{:05d}}.jpg".format
    numbered = [(path(int(number)), int(labels[int(number) - 1])) for number in train]
    return numbered, [path(int(number)) for part in (valid, test) for number in part]


def _in_folders(root: Path, home: Path) -> tuple[list[tuple[str, int]], list[str]]:
    folders = sub_folders(home / "train")
    numbered = [(path, int(name)) for name in folders for path in image_paths(root, home / "train" / name)]
    return numbered, [path for folder in held_out_folders(home) for path in image_paths(root, folder)]


def _names(home: Path) -> tuple[list[str], str]:
    if file := _file_beside(home, NAMES_JSON):
        return _names_of_json(file), NAMES_JSON
    if file := _file_beside(home, NAMES_TEXT):
        return [name for (name,) in read_columns(file, 1)], NAMES_TEXT
    from torchvision.datasets import Flowers102

    if names := getattr(Flowers102, "classes", None):  # older torchvisions lack them
        return list(names), "torchvision"
    raise ValueError(
        f"{TITLE} comes without class names: put {NAMES_JSON} ({{'1': 'pink primrose', ...}}) "
        f"or {NAMES_TEXT} (one name a line, in order of the numbers) into {home}"
    )


def _names_of_json(file: Path) -> list[str]:
    try:
        names = {int(number): str(name) for number, name in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} must be an object of numbers and names ({error})") from error
    if sorted(names) != list(range(1, len(names) + 1)):
        raise ValueError(f"{file} must name the classes 1, 2, 3 and so on without a gap, got {sorted(names)[:5]}...")
    return [names[number] for number in sorted(names)]


def _file_beside(home: Path, name: str) -> Path | None:
    return next((file for file in (home / name, home.parent / name) if file.is_file()), None)


def _is_number(name: str) -> bool:
    return name.isdecimal() and 1 <= int(name) <= 102
