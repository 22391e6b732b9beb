"""NABirds: CUB's lists with a tree of classes, of which only the leaves have images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..source import ClassInfo, SourceDataset
from ..tree import Tree
from .cub import class_names, class_numbers, read_images
from .lists import number_classes, read_pairs, training_set, under

TITLE = "NABirds"
EXPECTED = "images.txt, train_test_split.txt, image_class_labels.txt, classes.txt and hierarchy.txt"


def homes(tree: Tree) -> list[str]:
    """The folders with the lists."""
    return tree.homes("hierarchy.txt", "train_test_split.txt", "images.txt")


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images; the set has no validation split. Classes are those that have images, in either split."""
    listed = class_names(tree, home)
    names = {number: listed[number] for number in sorted(set(class_numbers(tree, home).values())) if number in listed}
    labels = number_classes(names.items(), TITLE)
    parents = read_pairs(tree.path(under(home, "hierarchy.txt")))
    images, held_out = read_images(tree, home, names, TITLE)
    images = [replace(image, label=labels[image.class_name]) for image in images]
    classes = [ClassInfo(name, name, _super_class(str(number), listed, parents)) for number, name in names.items()]
    evidence = f"{tree.place(home)}images.txt, train_test_split.txt and hierarchy.txt"
    return training_set(tree, TITLE, evidence, classes, images, held_out)


def _super_class(number: str, listed: Mapping[int, str], parents: Mapping[str, str]) -> str:
    """The first name above that differs: many parents are called as their children are."""
    name, seen = listed[int(number)], set()
    while (number := parents.get(number, "")).isdecimal() and number not in seen:
        seen.add(number)
        if listed.get(int(number), name) != name:
            return listed[int(number)]
    return "bird"
