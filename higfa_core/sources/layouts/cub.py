"""CUB-200-2011: lists joined by image number, boxes, masks where the segmentations were unpacked too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from ..locate import normal
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import number_classes, read_columns, read_numbers, read_pairs, training_set, under

TITLE = "CUB-200-2011"
EXPECTED = "images.txt, train_test_split.txt, image_class_labels.txt and classes.txt"


def homes(tree: Tree) -> list[str]:
    """The folders with the lists."""
    return tree.homes("train_test_split.txt", "images.txt")


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images; the set has no validation split."""
    names = class_names(tree, home)
    labels = number_classes(names.items(), TITLE)
    masks = tree.nearest(home, "segmentations")  # a download of its own, which people unpack into the set or beside it
    images, held_out = read_images(tree, home, names, TITLE)
    labelled = []
    for image in images:
        mask = _mask(home, masks, image.path) if masks else None
        labelled.append(SourceImage(image.path, image.class_name, labels[image.class_name], mask, box=image.box))
    classes = [ClassInfo(name, prompt_name(name), "bird") for name in labels]
    evidence = f"{tree.place(home)}images.txt and train_test_split.txt"
    return training_set(tree, TITLE, evidence, classes, labelled, held_out)


def class_names(tree: Tree, home: str) -> dict[int, str]:
    """Number -> name of every listed class."""
    file = tree.path(under(home, "classes.txt"))
    names = read_pairs(file)
    if wrong := [number for number in names if not number.isdecimal()]:
        raise ValueError(f"{file}: {wrong[0]!r} is not a class number. Copy the original list.")
    return {int(number): name for number, name in names.items()}


def class_numbers(tree: Tree, home: str) -> dict[str, int]:
    """Image number -> number of its class."""
    file = tree.path(under(home, "image_class_labels.txt"))
    pairs = read_pairs(file)
    if wrong := [number for number in pairs.values() if not number.isdecimal()]:
        raise ValueError(f"{file}: {wrong[0]!r} is not a class number. Copy the original list.")
    return {image: int(number) for image, number in pairs.items()}


def read_images(tree: Tree, home: str, names: Mapping[int, str], title: str) -> tuple[list[SourceImage], list[str]]:
    """The training images with their class and box, yet without labels; and the paths of the held-out ones."""
    is_train = read_pairs(tree.path(under(home, "train_test_split.txt")))
    class_of = class_numbers(tree, home)
    boxes = read_numbers(tree.path(tree.nearest(home, "bounding_boxes.txt") or under(home, "bounding_boxes.txt")))
    images, held_out = [], []
    for number, file in read_columns(tree.path(under(home, "images.txt")), 2):
        path = normal(under(home, "images", file))
        if is_train.get(number) not in ("0", "1") or class_of.get(number) not in names:
            raise ValueError(f"{title}: image {number} ({file}) has no class or no split. Copy the original lists.")
        if is_train[number] == "0":
            held_out.append(path)
        else:
            images.append(SourceImage(path, names[class_of[number]], 0, box=boxes.get(number)))
    return images, held_out


def _mask(home: str, masks: str, path: str) -> str:
    inner = path.removeprefix(f"{under(home, 'images')}/")
    return f"{masks}/{PurePosixPath(inner).with_suffix('.png')}"
