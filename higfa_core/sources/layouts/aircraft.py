"""FGVC-Aircraft: three levels of classes, boxes, and a copyright banner at the bottom of every image."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ...files.opening import opened
from ..locate import normal
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import corners, read_columns, read_numbers, read_pairs, training_set, under

TITLE = "FGVC-Aircraft"
EXPECTED = "data/variants.txt and data/images_variant_train.txt"
LICENCE = "non-commercial research only"
LEVELS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
HELD_OUT = {"train": ("val", "test"), "trainval": ("test",)}
BANNER = 20


def homes(tree: Tree) -> list[str]:
    """The folders with the lists, usually called `data`."""
    return tree.homes("variants.txt", "images_variant_test.txt")


def read(tree: Tree, home: str, *, level: str = "variant", split: str = "train") -> SourceDataset:
    """The training images. `level`: variant, family or manufacturer; `split`: train or trainval."""
    if level not in LEVELS:
        raise ValueError(f"{TITLE}: level must be one of {', '.join(LEVELS)}, got {level!r}")
    if split not in HELD_OUT:
        raise ValueError(f"{TITLE}: split must be train or trainval, got {split!r}: other images are never sources")
    names = [name for (name,) in read_columns(tree.path(under(home, LEVELS[level])), 1)]
    labels = {name: label for label, name in enumerate(names)}
    boxes = read_numbers(tree.path(tree.nearest(home, "images_box.txt") or under(home, "images_box.txt")))
    images = []
    for number, name in read_columns(tree.path(under(home, f"images_{level}_{split}.txt")), 2):
        if name not in labels:
            raise ValueError(f"{TITLE}: image {number} is {name!r}, which {LEVELS[level]} does not list")
        box = boxes.get(number)
        images.append(SourceImage(_image(home, number), name, labels[name], box=box, crop_bottom=BANNER))
    parts = [tree.path(under(home, f"images_variant_{part}.txt")) for part in HELD_OUT[split]]
    held_out = [_image(home, number) for part in parts for number, _ in read_columns(part, 2)]
    supers = _super_classes(tree, home, level, split)
    classes = [ClassInfo(name, prompt_name(name), supers.get(name, "")) for name in names]
    evidence = f"{tree.place(home)}variants.txt (level {level}, split {split})"
    dataset = training_set(tree, TITLE, evidence, classes, images, held_out, LICENCE)
    return replace(dataset, images=tuple(_above_banner(tree.root, image) for image in dataset.images))


def _image(home: str, number: str) -> str:
    return normal(under(home, "images", f"{number}.jpg"))


def _super_classes(tree: Tree, home: str, level: str, split: str) -> dict[str, str]:
    # No list has the hierarchy itself: the images tell which family a variant belongs to.
    above = dict(zip(LEVELS, list(LEVELS)[1:])).get(level)
    fine, upper = (under(home, f"images_{name}_{split}.txt") for name in (level, above))
    if above is None or not tree.has(upper):
        return {}
    coarse, found = read_pairs(tree.path(upper)), defaultdict(set)
    for number, name in read_pairs(tree.path(fine)).items():
        found[name].add(coarse.get(number, ""))
    return {name: names.pop() for name, names in found.items() if len(names) == 1}


def _above_banner(root: Path, image: SourceImage) -> SourceImage:
    """The image with its listed corners as a box that ends where the banner begins."""
    if image.box is None:
        return image
    try:
        with opened(root / image.path) as found:  # reads the header only
            bottom = found.height - BANNER
    except (OSError, ValueError):
        bottom = math.inf  # damaged files are named when they are loaded
    x1, y1, x2, y2 = image.box
    return replace(image, box=corners(x1, y1, x2, min(y2, bottom)))
