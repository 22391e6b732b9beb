"""Oxford-IIIT Pet: trimaps as masks, breeds as classes, cat or dog above them."""

from __future__ import annotations

import re
from pathlib import Path

from ..locate import normal
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import list_text, number_classes, read_columns, training_set, under

TITLE = "Oxford-IIIT Pet"
EXPECTED = "annotations/trainval.txt and annotations/test.txt"
TRAIN, TEST = "trainval.txt", "test.txt"
SPECIES = {"1": "cat", "2": "dog"}
FOREGROUND = (1, 3)  # 2 is background; 3, "unclassified", is the animal's outline


def homes(tree: Tree) -> list[str]:
    """The folders with the lists, which are in annotations/ or with the images."""
    return [_above(folder) for folder in tree.homes(TRAIN, TEST) if _is_ours(tree.path(under(folder, TRAIN)))]


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images (trainval: the set has no validation split of its own)."""
    lists = next(folder for folder in tree.homes(TRAIN, TEST) if _above(folder) == home)
    train, test = (_read_list(tree.path(under(lists, name))) for name in (TRAIN, TEST))
    labels = number_classes(((number, name) for _, name, number, _ in train + test), TITLE)
    trimaps, images = tree.nearest(home, "trimaps"), []
    for stem, name, _, _ in train:
        mask = f"{trimaps}/{stem}.png" if trimaps else None
        path = normal(under(home, "images", f"{stem}.jpg"))
        images.append(SourceImage(path, name, labels[name], mask, FOREGROUND if mask else ()))
    species = {name: kind for _, name, _, kind in train + test}
    classes = [ClassInfo(name, prompt_name(name), species[name]) for name in labels]
    held_out = [normal(under(home, "images", f"{stem}.jpg")) for stem, *_ in test]
    return training_set(tree, TITLE, f"{tree.place(lists)}{TRAIN}", classes, images, held_out)


def _read_list(path: Path) -> list[tuple[str, str, int, str]]:
    rows = []
    for stem, number, species, _ in read_columns(path, 4):
        if not number.isdecimal() or species not in SPECIES:
            raise ValueError(f"{path}: expected '<image> <class> <1 or 2> <breed>', got '{stem} {number} {species}'")
        breed = " ".join(part.title() for part in stem.rsplit("_", 1)[0].split("_"))
        rows.append((stem, breed, int(number), SPECIES[species]))
    return rows


def _above(folder: str) -> str:
    above, _, name = folder.rpartition("/")
    return above if name.lower() == "annotations" else folder


def _is_ours(file: Path) -> bool:
    """Whether the list looks like the pets': other sets have a trainval.txt too."""
    try:
        lines = (line.strip() for line in list_text(file).split("\n"))
    except ValueError:
        return False
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return bool(re.fullmatch(r"\S+_\d+\s+\d+(\s+\d+)*", first))
