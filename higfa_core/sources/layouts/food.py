"""Food-101: class folders with lists of their training and test images, which name them without a suffix."""

from __future__ import annotations

from pathlib import Path

from ...files.reading import read_text
from ..locate import normal
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..text import json_of
from ..tree import Tree
from .lists import above, read_columns, training_set, under

TITLE = "Food-101"
EXPECTED = "meta/train.txt and meta/test.txt (or .json), and images/"
LABELS, CLASSES = "labels.txt", "classes.txt"


def homes(tree: Tree) -> list[str]:
    """The folders with the lists in meta/."""
    found = [*tree.homes("train.json", "test.json", CLASSES), *tree.homes("train.txt", "test.txt", CLASSES, LABELS)]
    return list(dict.fromkeys(_above_meta(folder) for folder in found if _entries(tree, folder, "train")))


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images; the set has no validation split."""
    meta = next(place for place in (under(home, "meta"), home) if _entries(tree, place, "train"))
    train, test = (_entries(tree, meta, part) for part in ("train", "test"))
    names = sorted({name for name, _ in train + test})
    labels = {name: label for label, name in enumerate(names)}
    images = [SourceImage(_image(home, entry), name, labels[name]) for name, entry in train]
    spoken = _spoken(tree, meta)
    classes = [ClassInfo(name, spoken.get(name, prompt_name(name)), "food") for name in names]
    held_out = [_image(home, entry) for _, entry in test]
    return training_set(tree, TITLE, f"{tree.place(meta)}train", classes, images, held_out)


def _image(home: str, entry: str) -> str:
    return normal(under(home, "images", entry))


def _entries(tree: Tree, meta: str, part: str) -> list[tuple[str, str]]:
    """Class and entry of each image; empty when the list is not of the form `apple_pie/1005649`."""
    if tree.has(listed := under(meta, f"{part}.txt")):
        entries = [entry for (entry,) in read_columns(tree.path(listed), 1)]
    else:
        entries = _of_json(tree.path(under(meta, f"{part}.json")))
    pairs = [(above(entry), entry) for entry in entries]
    return pairs if all(name and "/" not in name for name, _ in pairs) else []


def _of_json(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        listed = json_of(read_text(file, "utf-8-sig"))
        return [str(entry) for entries in listed.values() for entry in entries]
    except (ValueError, AttributeError, TypeError):
        return []


def _spoken(tree: Tree, meta: str) -> dict[str, str]:
    """Class -> its name in words, where both lists are there and fit."""
    if not tree.has(under(meta, LABELS), under(meta, CLASSES)):
        return {}
    names, words = ([line for (line,) in read_columns(tree.path(under(meta, name)), 1)] for name in (CLASSES, LABELS))
    return dict(zip(names, words)) if len(names) == len(words) else {}


def _above_meta(folder: str) -> str:
    return above(folder) if folder.rpartition("/")[2].lower() == "meta" else folder
