"""Oxford-IIIT Pet: trimaps as masks, breeds as classes, cat or dog above them."""

from __future__ import annotations

import os
from pathlib import Path

from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from .lists import normal, number_classes, prefix, read_columns, training_set

TITLE = "Oxford-IIIT Pet"
EXPECTED = "annotations/trainval.txt and annotations/test.txt"
SPECIES = {"1": "cat", "2": "dog"}
FOREGROUND = (1, 3)  # 2 is background; 3, "unclassified", is the animal's outline


def is_home(folder: Path) -> bool:
    """Whether `folder` holds annotations/ and images/."""
    lists = [folder / "annotations" / name for name in ("trainval.txt", "test.txt")]
    return all(file.is_file() for file in lists) and (folder / "images").is_dir()


def read(root: Path, home: Path) -> SourceDataset:
    """The training images (trainval: the set has no validation split of its own)."""
    train = _read_list(home / "annotations" / "trainval.txt")
    test = _read_list(home / "annotations" / "test.txt")
    labels = number_classes(((number, name) for _, name, number, _ in train + test), TITLE)
    start = prefix(root, home)
    masks = _trimaps(home)
    images = []
    for stem, name, _, _ in train:
        mask = f"{start}annotations/trimaps/{stem}.png" if f"{stem}.png" in masks else None
        path = normal(f"{start}images/{stem}.jpg")
        images.append(SourceImage(path, name, labels[name], mask, FOREGROUND if mask else ()))
    species = {name: kind for _, name, _, kind in train + test}
    classes = [ClassInfo(name, prompt_name(name), species[name]) for name in labels]
    held_out = [normal(f"{start}images/{stem}.jpg") for stem, *_ in test]
    return training_set(root, TITLE, f"{start}annotations/trainval.txt", classes, images, held_out)


def _read_list(path: Path) -> list[tuple[str, str, int, str]]:
    rows = []
    for stem, number, species, _ in read_columns(path, 4):
        if not number.isdecimal() or species not in SPECIES:
            raise ValueError(f"{path}: expected '<image> <class> <1 or 2> <breed>', got '{stem} {number} {species}'")
        breed = " ".join(part.title() for part in stem.rsplit("_", 1)[0].split("_"))
        rows.append((stem, breed, int(number), SPECIES[species]))
    return rows


def _trimaps(home: Path) -> set[str]:
    folder = home / "annotations" / "trimaps"
    return set(os.listdir(folder)) if folder.is_dir() else set()
