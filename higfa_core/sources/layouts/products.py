"""Stanford Online Products: lists with a header; the classes of the test images are others than the training ones'."""

from __future__ import annotations

from pathlib import Path

from ..locate import normal
from ..source import ClassInfo, SourceDataset, SourceImage
from ..tree import Tree
from .lists import above, number_classes, read_columns, training_set, under

TITLE = "Stanford Online Products"
EXPECTED = "Ebay_train.txt and Ebay_test.txt"
TRAIN, TEST = "Ebay_train.txt", "Ebay_test.txt"
HEADER = ["image_id", "class_id", "super_class_id", "path"]
LEVELS = ("product", "category")


def homes(tree: Tree) -> list[str]:
    """The folders with the lists."""
    return tree.homes(TRAIN, TEST)


def read(tree: Tree, home: str, *, level: str = "product") -> SourceDataset:
    """The training images. `level`: product (11,318 classes, called by their numbers) or category (12)."""
    if level not in LEVELS:
        raise ValueError(f"{TITLE}: level must be one of {', '.join(LEVELS)}, got {level!r}")
    train, test = (_read_list(tree.path(under(home, name)), level) for name in (TRAIN, TEST))
    labels = number_classes(((number, name) for number, name, _ in train), TITLE)
    kinds = {name: _kind(path) for _, name, path in train}
    images = [SourceImage(_image(home, path), name, labels[name]) for _, name, path in train]
    classes = [ClassInfo(name, kinds[name], kinds[name]) for name in labels]
    held_out = [_image(home, path) for _, _, path in test]
    evidence = f"{tree.place(home)}{TRAIN} (level {level})"
    return training_set(tree, TITLE, evidence, classes, images, held_out, numbers=_numbers(train))


def _image(home: str, path: str) -> str:
    return normal(under(home, path))


def _kind(path: str) -> str:
    return above(path).removesuffix("_final").replace("_", " ")


def _numbers(rows: list[tuple[int, str, str]]) -> list[int]:
    return sorted({number for number, _, _ in rows})


def _read_list(file: Path, level: str) -> list[tuple[int, str, str]]:
    """Number and name of the class, and the path, of every image."""
    rows = [[*row[:3], row[3].replace("\\", "/")] for row in read_columns(file, len(HEADER))]
    if not rows or rows[0] != HEADER:
        raise ValueError(f"{file}: expected the header {' '.join(HEADER)}. Copy the original list.")
    if wrong := next((row for row in rows[1:] if not (row[1].isdecimal() and row[2].isdecimal())), None):
        raise ValueError(f"{file}: {' '.join(wrong)!r} has no class numbers. Copy the original list.")
    if level == "product":
        return [(int(number), number, path) for _, number, _, path in rows[1:]]
    return [(int(number), _kind(path), path) for _, _, number, path in rows[1:]]
