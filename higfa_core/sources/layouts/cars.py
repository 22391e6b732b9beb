"""Stanford Cars in its three layouts: devkit with cars_train, cars_annos.mat with car_ims, class folders (Kaggle)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from .image_folder import image_paths
from .lists import corners, held_out_folders, normal, prefix, read_mat, sub_folders, training_set

TITLE = "Stanford Cars"
EXPECTED = "devkit/cars_meta.mat, cars_annos.mat, or train/<make model year>"
# A name alone does not tell where the make ends ("Land Rover LR2 SUV 2012").
MAKES = (
    "AM General,Acura,Aston Martin,Audi,BMW,Bentley,Bugatti,Buick,Cadillac,Chevrolet,Chrysler,Daewoo,Dodge,Eagle,FIAT,"
    "Ferrari,Fisker,Ford,GMC,Geo,HUMMER,Honda,Hyundai,Infiniti,Isuzu,Jaguar,Jeep,Lamborghini,Land Rover,Lincoln,MINI,"
    "Maybach,Mazda,McLaren,Mercedes-Benz,Mitsubishi,Nissan,Plymouth,Porsche,Ram,Rolls-Royce,Scion,Spyker,Suzuki,"
    "Tesla,Toyota,Volkswagen,Volvo,smart"
).split(",")


def is_home(folder: Path) -> bool:
    """Whether `folder` holds one of the three layouts."""
    mats = (folder / "devkit" / "cars_meta.mat", folder / "cars_annos.mat")
    return any(mat.is_file() for mat in mats) or _has_class_folders(folder)


def read(root: Path, home: Path) -> SourceDataset:
    """The training images; the set has no validation split."""
    if (home / "devkit" / "cars_meta.mat").is_file():
        return _from_devkit(root, home)
    return _from_one_mat(root, home) if (home / "cars_annos.mat").is_file() else _from_folders(root, home)


def _from_devkit(root: Path, home: Path) -> SourceDataset:
    (names,) = read_mat(home / "devkit" / "cars_meta.mat", "class_names")
    (rows,) = read_mat(home / "devkit" / "cars_train_annos.mat", "annotations")
    start, names = prefix(root, home), [str(name) for name in names]
    images = [_image(f"{start}cars_train/{row['fname']}", row, names) for row in rows]
    held_out = image_paths(root, home / "cars_test")
    return training_set(root, TITLE, f"{start}devkit/cars_train_annos.mat", _classes(names), images, held_out)


def _from_one_mat(root: Path, home: Path) -> SourceDataset:
    names, rows = read_mat(home / "cars_annos.mat", "class_names", "annotations")
    start, names = prefix(root, home), [str(name) for name in names]
    images, held_out = [], []
    for row in rows:
        path = normal(f"{start}{row['relative_im_path']}")
        held_out.append(path) if int(row["test"]) else images.append(_image(path, row, names))
    return training_set(root, TITLE, f"{start}cars_annos.mat", _classes(names), images, held_out)


def _from_folders(root: Path, home: Path) -> SourceDataset:
    names, boxes = sub_folders(home / "train"), _kaggle_boxes(home)
    images = [
        SourceImage(path, name, label, box=boxes.get(path.rsplit("/", 1)[1]))
        for label, name in enumerate(names)
        for path in image_paths(root, home / "train" / name)
    ]
    held_out = [path for folder in held_out_folders(home) for path in image_paths(root, folder)]
    evidence = f"{prefix(root, home)}train/<make model year>"
    return training_set(root, TITLE, evidence, _classes(names), images, held_out)


def _image(path: str, row, names: list[str]) -> SourceImage:
    number = int(row["class"])
    if not 1 <= number <= len(names):
        raise ValueError(f"{TITLE}: {path} is of class {number}, but there are {len(names)} class names")
    box = corners(*(row[f"bbox_{corner}"] for corner in ("x1", "y1", "x2", "y2")))
    return SourceImage(normal(path), names[number - 1], number - 1, box=box)


def _classes(names: list[str]) -> list[ClassInfo]:
    return [ClassInfo(name, prompt_name(name), _make(name)) for name in names]


def _make(name: str) -> str:
    return next((make for make in MAKES if name.startswith(f"{make} ")), "")


def _has_class_folders(folder: Path) -> bool:
    names = sub_folders(folder / "train")
    return any(map(_make, names)) and all(re.search(r" (19|20)\d\d$", name) for name in names)


def _kaggle_boxes(home: Path) -> dict[str, Box | None]:
    # <archive>/anno_train.csv without a header, the class folders in <archive>/car_data/car_data/train
    file = next((f for f in (at / "anno_train.csv" for at in (home, *home.parents[:2])) if f.is_file()), None)
    if file is None:
        return {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            return {row[0]: corners(*map(float, row[1:5])) for row in csv.reader(lines) if row}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: every row needs an image and 4 numbers ({error})") from error
