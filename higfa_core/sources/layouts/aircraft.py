"""FGVC-Aircraft: three levels of classes, boxes, and a copyright banner at the bottom of every image."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from PIL import Image

from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from .lists import corners, normal, prefix, read_columns, read_numbers, read_pairs, training_set

TITLE = "FGVC-Aircraft"
EXPECTED = "data/variants.txt and data/images_variant_train.txt"
LICENCE = "non-commercial research only"
LEVELS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
HELD_OUT = {"train": ("val", "test"), "trainval": ("test",)}
BANNER = 20


def is_home(folder: Path) -> bool:
    """Whether `folder` is `data`, the one with the lists."""
    return (folder / "variants.txt").is_file() and (folder / "images_variant_test.txt").is_file()


def read(root: Path, home: Path, *, level: str = "variant", split: str = "train") -> SourceDataset:
    """The training images. `level`: variant, family or manufacturer; `split`: train or trainval."""
    if level not in LEVELS:
        raise ValueError(f"{TITLE}: level must be one of {', '.join(LEVELS)}, got {level!r}")
    if split not in HELD_OUT:
        raise ValueError(f"{TITLE}: split must be train or trainval, got {split!r}: other images are never sources")
    start = prefix(root, home)
    names = [name for (name,) in read_columns(home / LEVELS[level], 1)]
    labels = {name: label for label, name in enumerate(names)}
    supers = _super_classes(home, level, split)
    boxes = read_numbers(home / "images_box.txt")
    images = []
    for number, name in read_columns(home / f"images_{level}_{split}.txt", 2):
        if name not in labels:
            raise ValueError(f"{TITLE}: image {number} is {name!r}, which {LEVELS[level]} does not list")
        path = normal(f"{start}images/{number}.jpg")
        box = _above_banner(root / path, boxes[number]) if number in boxes else None
        images.append(SourceImage(path, name, labels[name], box=box, crop_bottom=BANNER))
    held_out = [normal(f"{start}images/{number}.jpg") for part in HELD_OUT[split] for number in _numbers(home, part)]
    classes = [ClassInfo(name, prompt_name(name), supers.get(name, "")) for name in names]
    evidence = f"{start}variants.txt (level {level}, split {split})"
    return training_set(root, TITLE, evidence, classes, images, held_out, LICENCE)


def _super_classes(home: Path, level: str, split: str) -> dict[str, str]:
    # No list has the hierarchy itself: the images tell which family a variant belongs to.
    above = dict(zip(LEVELS, list(LEVELS)[1:])).get(level)
    if above is None or not (home / f"images_{above}_{split}.txt").is_file():
        return {}
    coarse, found = read_pairs(home / f"images_{above}_{split}.txt"), defaultdict(set)
    for number, name in read_pairs(home / f"images_{level}_{split}.txt").items():
        found[name].add(coarse.get(number, ""))
    return {name: names.pop() for name, names in found.items() if len(names) == 1}


def _numbers(home: Path, part: str) -> list[str]:
    return [number for number, _ in read_columns(home / f"images_variant_{part}.txt", 2)]


def _above_banner(path: Path, box: tuple[float, ...]) -> Box | None:
    try:
        with Image.open(path) as image:  # reads the header only
            bottom = image.height - BANNER
    except OSError:
        bottom = math.inf  # missing files are named together, later; damaged ones when they are loaded
    x1, y1, x2, y2 = box
    return corners(x1, y1, x2, min(y2, bottom))
