"""DTD, the Describable Textures: ten ways to divide the images into train, validation and test."""

from __future__ import annotations

from pathlib import Path

from ..locate import normal
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import read_columns, training_set, under

TITLE = "DTD"
EXPECTED = "labels/train1.txt and images/"
PARTITIONS = [str(number) for number in range(1, 11)]


def homes(tree: Tree) -> list[str]:
    """The folders with the lists in labels/."""
    return tree.homes("labels/train1.txt", "labels/test1.txt")


def read(tree: Tree, home: str, *, partition: int | str = 1) -> SourceDataset:
    """The training images of one of the ten partitions; its validation and test images are held out."""
    if str(partition) not in PARTITIONS:
        raise ValueError(f"{TITLE}: partition must be a number from 1 to 10, got {partition!r}")
    lists = {part: under(home, "labels", f"{part}{partition}.txt") for part in ("train", "val", "test")}
    parts = {part: _read_list(tree.path(file)) for part, file in lists.items()}
    names = sorted({name for files in parts.values() for name, _ in files})
    labels = {name: label for label, name in enumerate(names)}
    path = f"{under(home, 'images')}/{{}}".format
    images = [SourceImage(normal(path(file)), name, labels[name]) for name, file in parts["train"]]
    held_out = [normal(path(file)) for part in ("val", "test") for _, file in parts[part]]
    classes = [ClassInfo(name, prompt_name(name), "texture") for name in names]
    return training_set(tree, TITLE, f"{tree.place(home)}labels/train{partition}.txt", classes, images, held_out)


def _read_list(path: Path) -> list[tuple[str, str]]:
    files = [file for (file,) in read_columns(path, 1)]
    if wrong := [file for file in files if "/" not in file]:
        raise ValueError(f"{path}: expected <texture>/<image>, got {wrong[0]!r}")
    return [(file.split("/")[0], file) for file in files]
