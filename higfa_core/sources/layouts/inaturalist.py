"""iNaturalist 2021: species folders of train_mini or train, with English names where a JSON file has them."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

from ..source import ClassInfo, SourceDataset, SourceImage
from .image_folder import image_paths
from .lists import number_classes, prefix, sub_folders, training_set

TITLE = "iNaturalist 2021"
EXPECTED = "train_mini/ or train/ with folders such as 00000_Animalia_..._Lumbricus_terrestris"
LICENCE = "non-commercial; the images may not be redistributed"
FOLDERS = {"train_mini": ("train_mini", "2021_train_mini"), "train": ("train", "2021_train")}
VALIDATION = ("val", "2021_valid")
SPECIES = re.compile(r"\d{5}(_[^_]+){7}")
OLDER = re.compile(r"train_val20\d\d")


def is_home(folder: Path) -> bool:
    """Whether `folder` holds a training folder of species, or the files of an older year."""
    return bool(_training_folders(folder)) or any(map(OLDER.fullmatch, sub_folders(folder)))


def read(root: Path, home: Path, *, split: str = "") -> SourceDataset:
    """The training images. `split`: train_mini or train, needed only where both are there."""
    name = _choose(home, split)
    start, species = prefix(root, home), sub_folders(home / name)
    if wrong := [folder for folder in species if not SPECIES.fullmatch(folder)]:
        raise ValueError(f"{TITLE}: {wrong[0]!r} in {home / name} is no species folder ({EXPECTED})")
    labels = number_classes(((int(folder[:5]), folder) for folder in species), TITLE)
    images = [
        SourceImage(path, folder, label)
        for folder, label in labels.items()
        for path in image_paths(root, home / name / folder)
    ]
    categories, source = _categories(home)
    classes = [_class(folder, categories.get(folder, {})) for folder in labels]
    held_out = [path for part in VALIDATION for path in image_paths(root, home / part)]
    evidence = f"{start}{name}/<species>{f', names from {source}' if source else ''}"
    return training_set(root, TITLE, evidence, classes, images, held_out, LICENCE)


def _training_folders(home: Path) -> dict[str, str]:
    found = {split: name for split, names in FOLDERS.items() for name in names if (home / name).is_dir()}
    return {split: name for split, name in found.items() if any(map(SPECIES.fullmatch, sub_folders(home / name)))}


def _choose(home: Path, split: str) -> str:
    if split and split not in FOLDERS:
        raise ValueError(f"{TITLE}: split must be train_mini or train, got {split!r}: other images are never sources")
    found = _training_folders(home)
    if not found:
        raise ValueError(
            f"{home} is an older iNaturalist, with training and validation images in the same folders: "
            "list its training images in a CSV file with the columns path and label"
        )
    if split and split not in found:
        raise ValueError(f"{TITLE}: there is no {split} folder in {home}, only {', '.join(found)}")
    if not split and len(found) > 1:
        raise ValueError(f"{TITLE}: {home} has {' and '.join(found)}: choose with split=train_mini or split=train")
    return found[split] if split else next(iter(found.values()))


def _class(folder: str, category: dict) -> ClassInfo:
    latin = " ".join(folder.split("_")[-2:])
    return ClassInfo(folder, category.get("common_name") or latin, category.get("supercategory", ""))


def _categories(home: Path) -> tuple[dict[str, dict], str]:
    # All of them hold the same categories, and the one for train is of 400 MB or more.
    files = [home / f"{part}.json" for part in ("val", *FOLDERS) if (home / f"{part}.json").is_file()]
    if not files:
        return {}, ""
    file = min(files, key=lambda file: file.stat().st_size)
    rows = _read_array(file, b"categories")
    return {row["image_dir_name"]: row for row in rows if "image_dir_name" in row}, file.name


def _read_array(file: Path, key: bytes) -> list:
    # Parsing the whole file would take gigabytes for its images and annotations.
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = re.search(rb'"' + key + rb'"\s*:\s*', content)
            text = content[found.end() :].decode() if found else ""
        return list(json.JSONDecoder().raw_decode(text)[0])
    except (ValueError, TypeError) as error:  # mmap: ValueError for an empty file
        raise ValueError(f"{file} has no list of {key.decode()} ({error}): replace or remove the file") from error
