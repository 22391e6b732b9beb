"""CUB-200 of 2010: class folders, and lists of the training and test images without numbers."""

from __future__ import annotations

from ..locate import normal
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import above, read_columns, training_set, under

TITLE = "CUB-200 (2010)"
EXPECTED = "lists/train.txt, lists/test.txt and images/"


def homes(tree: Tree) -> list[str]:
    """The folders with the lists in lists/."""
    return tree.homes("lists/train.txt", "lists/test.txt")


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images; the set has no validation split. Its boxes are in MATLAB files that are not read."""
    train, test = (_entries(tree, home, part) for part in ("train", "test"))
    names = sorted({above(entry) for entry in train + test})
    labels = {name: label for label, name in enumerate(names)}
    images = [SourceImage(_image(home, entry), above(entry), labels[above(entry)]) for entry in train]
    classes = [ClassInfo(name, prompt_name(name), "bird") for name in names]
    held_out = [_image(home, entry) for entry in test]
    return training_set(tree, TITLE, f"{tree.place(home)}lists/train.txt", classes, images, held_out)


def _image(home: str, entry: str) -> str:
    return normal(under(home, "images", entry))


def _entries(tree: Tree, home: str, part: str) -> list[str]:
    file = tree.path(under(home, "lists", f"{part}.txt"))
    entries = [entry for (entry,) in read_columns(file, 1)]
    if wrong := [entry for entry in entries if entry.count("/") != 1]:
        raise ValueError(f"{file}: expected <class>/<image>, got {wrong[0]!r}: this is not a {TITLE} list")
    return entries
