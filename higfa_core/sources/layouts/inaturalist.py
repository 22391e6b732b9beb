"""iNaturalist 2021: species folders of train_mini or train, with English names where a JSON file has them."""

from __future__ import annotations

import re

from ...wording import counted
from ..source import ClassInfo, SourceDataset, SourceImage
from ..tree import Tree
from .json_lists import read_array
from .lists import number_classes, training_set, under

TITLE = "iNaturalist 2021"
EXPECTED = "train_mini/ or train/ with folders such as 00000_Animalia_..._Lumbricus_terrestris"
LICENCE = "non-commercial; the images may not be redistributed"
FOLDERS = {"train_mini": ("train_mini", "2021_train_mini"), "train": ("train", "2021_train")}
VALIDATION = ("val", "2021_valid")
SPECIES = re.compile(r"\d{5}(_[^_]+){7}")


def homes(tree: Tree) -> list[str]:
    """The folders that hold a training folder of species."""
    return [path for path, folder in tree.top.walk() if _training_folders(tree, path)]


def read(tree: Tree, home: str, *, split: str = "") -> SourceDataset:
    """The training images. `split`: train_mini or train, needed only where both are there."""
    name = _choose(tree, home, split)
    folder = under(home, name)
    species = tree.folders(folder)
    if (found := tree.folder(folder)) and (strays := found.images):
        raise ValueError(
            f"{TITLE}: {strays[0]} is in no species folder. Move it into its own ({counted(len(strays), 'image')})."
        )
    if wrong := [name for name in species if not SPECIES.fullmatch(name)]:
        raise ValueError(f"{TITLE}: {wrong[0]!r} in {tree.root / folder} is not a species folder ({EXPECTED})")
    labels = number_classes(((int(name[:5]), name) for name in species), TITLE)
    images = [
        SourceImage(path, name, label) for name, label in labels.items() for path in tree.images(f"{folder}/{name}")
    ]
    categories, source = _categories(tree, home)
    classes = [_class(name, categories.get(name, {})) for name in labels]
    held_out = [path for part in VALIDATION for path in tree.images(under(home, part))]
    evidence = f"{tree.place(folder)}<species>{f', names from {source}' if source else ''}"
    return training_set(tree, TITLE, evidence, classes, images, held_out, LICENCE)


def _training_folders(tree: Tree, home: str) -> dict[str, str]:
    found = {split: name for split, names in FOLDERS.items() for name in names if tree.folder(under(home, name))}
    return {
        split: name for split, name in found.items() if any(map(SPECIES.fullmatch, tree.folders(under(home, name))))
    }


def _choose(tree: Tree, home: str, split: str) -> str:
    if split and split not in FOLDERS:
        raise ValueError(f"{TITLE}: split must be train_mini or train, got {split!r}: other images are never sources")
    found = _training_folders(tree, home)
    place = tree.root / tree.place(home)
    if split and split not in found:
        raise ValueError(f"{TITLE}: there is no {split} folder in {place}, only {', '.join(found)}")
    if not split and len(found) > 1:
        raise ValueError(f"{TITLE}: {place} has {' and '.join(found)}. Choose with split=train_mini or split=train.")
    return found[split] if split else next(iter(found.values()))


def _class(folder: str, category: dict) -> ClassInfo:
    latin = " ".join(folder.split("_")[-2:])
    return ClassInfo(folder, category.get("common_name") or latin, category.get("supercategory", ""))


def _categories(tree: Tree, home: str) -> tuple[dict[str, dict], str]:
    # All of them hold the same categories, and the one for train is of 400 MB or more.
    names = [f"{part}.json" for part in ("val", *FOLDERS)]
    files = [tree.path(found) for name in names if (found := tree.nearest(home, name))]
    if not files:
        return {}, ""
    file = min(files, key=lambda file: file.stat().st_size)
    rows = read_array(file, "categories")
    return {row["image_dir_name"]: row for row in rows if "image_dir_name" in row}, file.name
