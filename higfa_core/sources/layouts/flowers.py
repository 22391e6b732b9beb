"""Oxford Flowers-102: as downloaded (.mat lists), or as the common copy train|valid|test/<1..102>/."""

from __future__ import annotations

from pathlib import Path

from ...files.reading import read_text
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..text import json_of
from ..tree import Tree
from .lists import above, held_out_folders, read_columns, read_mat, training_set, under

TITLE = "Oxford Flowers-102"
EXPECTED = "setid.mat and imagelabels.mat, or train/<1..102> with cat_to_name.json"
NAMES_JSON, NAMES_TEXT = "cat_to_name.json", "names.txt"


def homes(tree: Tree) -> list[str]:
    """The folders with the .mat lists, or with class numbers for folders and a file of their names."""
    numbered = [above(folder) for folder in tree.training_folders() if _has_numbers(tree, folder)]
    return tree.homes("setid.mat") or numbered


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images (1020 in the full set); the validation images are held out."""
    has_lists = tree.has(under(home, "setid.mat"))
    numbered, held_out = _listed(tree, home) if has_lists else _in_folders(tree, home)
    names, source = _names(tree, home)
    if wrong := [(path, number) for path, number in numbered if not 1 <= number <= len(names)]:
        raise ValueError(f"{TITLE}: {wrong[0][0]} has number {wrong[0][1]}, but {source} has {len(names)} names")
    images = [SourceImage(path, names[number - 1], number - 1) for path, number in numbered]
    classes = [ClassInfo(name, prompt_name(name), "flower") for name in names]
    evidence = f"{tree.place(home)}{'setid.mat' if has_lists else 'train/<number>'}, class names from {source}"
    return training_set(tree, TITLE, evidence, classes, images, held_out)


def _listed(tree: Tree, home: str) -> tuple[list[tuple[str, int]], list[str]]:
    train, valid, test = read_mat(tree.path(under(home, "setid.mat")), "trnid", "valid", "tstid")
    listed = tree.nearest(home, "imagelabels.mat") or under(home, "imagelabels.mat")
    (labels,) = read_mat(tree.path(listed), "labels")
    if wrong := [int(number) for number in train if not 1 <= number <= len(labels)]:
        raise ValueError(f"{TITLE}: image {wrong[0]} has no label in imagelabels.mat ({len(labels)} labels)")
    path = under(home, "jpg/image_{:05d}.jpg").format
    numbered = [(path(int(number)), int(labels[int(number) - 1])) for number in train]
    return numbered, [path(int(number)) for part in (valid, test) for number in part]


def _in_folders(tree: Tree, home: str) -> tuple[list[tuple[str, int]], list[str]]:
    train = next(folder for folder in tree.training_folders() if above(folder) == home)
    numbered = [(path, int(name)) for name in tree.folders(train) for path in tree.images(f"{train}/{name}")]
    return numbered, [path for folder in held_out_folders(tree, home) for path in tree.images(folder)]


def _names(tree: Tree, home: str) -> tuple[list[str], str]:
    if file := _file_beside(tree, home, NAMES_JSON):
        return _names_of_json(file), NAMES_JSON
    if file := _file_beside(tree, home, NAMES_TEXT):
        return [name for (name,) in read_columns(file, 1)], NAMES_TEXT
    from torchvision.datasets import Flowers102

    if names := getattr(Flowers102, "classes", None):  # older torchvisions lack them
        return list(names), "torchvision"
    raise ValueError(
        f"{TITLE} comes without class names: put {NAMES_JSON} ({{'1': 'pink primrose', ...}}) "
        f"or {NAMES_TEXT} (one name a line, in order of the numbers) into {tree.root / tree.place(home)}"
    )


def _names_of_json(file: Path) -> list[str]:
    try:
        names = {int(number): str(name) for number, name in json_of(read_text(file)).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} must be an object of numbers and names ({error})") from error
    if sorted(names) != list(range(1, len(names) + 1)):
        raise ValueError(f"{file} must name the classes 1, 2, 3 and so on without a gap, got {sorted(names)[:5]}...")
    return [names[number] for number in sorted(names)]


def _file_beside(tree: Tree, home: str, name: str) -> Path | None:
    """In the set's folder or in one above it, the one above the root included."""
    steps = [home, *(home.rsplit("/", up)[0] for up in range(1, home.count("/") + 1)), ""]
    files = [tree.path(under(step, name)) for step in steps]
    return next((file for file in (*files, tree.root.parent / name) if file.is_file()), None)


def _has_numbers(tree: Tree, train: str) -> bool:
    numbers = tree.folders(train)
    return bool(numbers) and all(map(_is_number, numbers)) and bool(_file_beside(tree, above(train), NAMES_JSON))


def _is_number(name: str) -> bool:
    return name.isdecimal() and 1 <= int(name) <= 102
