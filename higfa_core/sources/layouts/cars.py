"""Stanford Cars in its public forms: devkit with cars_train, cars_annos.mat with car_ims, class folders (Kaggle)."""

from __future__ import annotations

import re

from ..locate import normal
from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree, stem_of
from .dialect import read_table
from .lists import above, corners, held_out_folders, read_mat, training_set, under

TITLE = "Stanford Cars"
EXPECTED = "cars_meta.mat with cars_train_annos.mat, cars_annos.mat, or train/<make model year>"
META, TRAIN, BOTH = "cars_meta.mat", "cars_train_annos.mat", "cars_annos.mat"
TEST = ("cars_test_annos_withlabels.mat", "cars_test_annos_withlabels_eval.mat", "cars_test_annos.mat")
# A name alone does not tell where the make ends ("Land Rover LR2 SUV 2012").
MAKES = (
    "AM General,Acura,Aston Martin,Audi,BMW,Bentley,Bugatti,Buick,Cadillac,Chevrolet,Chrysler,Daewoo,Dodge,Eagle,FIAT,"
    "Ferrari,Fisker,Ford,GMC,Geo,HUMMER,Honda,Hyundai,Infiniti,Isuzu,Jaguar,Jeep,Lamborghini,Land Rover,Lincoln,MINI,"
    "Maybach,Mazda,McLaren,Mercedes-Benz,Mitsubishi,Nissan,Plymouth,Porsche,Ram,Rolls-Royce,Scion,Spyker,Suzuki,"
    "Tesla,Toyota,Volkswagen,Volvo,smart"
).split(",")


def homes(tree: Tree) -> list[str]:
    """The folders with the lists, which may be in a devkit, or with class folders."""
    kits = [_above_kit(folder) for folder in tree.homes(META, TRAIN)]
    folders = [above(folder) for folder in tree.training_folders() if _has_class_folders(tree, folder)]
    return list(dict.fromkeys([*kits, *tree.homes(BOTH)])) or folders


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images; the set has no validation split."""
    kits = [folder for folder in tree.homes(META, TRAIN) if _above_kit(folder) == home]
    if kits:
        return _from_devkit(tree, home, kits[0])
    return _from_one_mat(tree, home) if tree.has(under(home, BOTH)) else _from_folders(tree, home)


def _from_devkit(tree: Tree, home: str, kit: str) -> SourceDataset:
    (names,) = read_mat(tree.path(under(kit, META)), "class_names")
    (rows,) = read_mat(tree.path(under(kit, TRAIN)), "annotations")
    names = [str(name) for name in names]
    images = [_image(under(home, "cars_train", str(row["fname"])), row, names) for row in rows]
    evidence = f"{tree.place(kit)}{TRAIN}"
    return training_set(tree, TITLE, evidence, _classes(names), images, _test_images(tree, home))


def _test_images(tree: Tree, home: str) -> list[str]:
    """Those listed, where a list of them is there, and all that lie in the folder of test images."""
    listed = next((file for name in TEST if (file := tree.nearest(home, name))), "")
    rows = read_mat(tree.path(listed), "annotations")[0] if listed else ()
    folder = tree.nearest(home, "cars_test")
    found = [normal(under(home, "cars_test", str(row["fname"]))) for row in rows]
    known = {path.rpartition("/")[2] for path in found}
    return found + [path for path in (tree.images(folder) if folder else ()) if path.rpartition("/")[2] not in known]


def _from_one_mat(tree: Tree, home: str) -> SourceDataset:
    names, rows = read_mat(tree.path(under(home, BOTH)), "class_names", "annotations")
    names = [str(name) for name in names]
    images, held_out = [], []
    for row in rows:
        path = normal(under(home, str(row["relative_im_path"])))
        held_out.append(path) if int(row["test"]) else images.append(_image(path, row, names))
    return training_set(tree, TITLE, f"{tree.place(home)}{BOTH}", _classes(names), images, held_out)


def _from_folders(tree: Tree, home: str) -> SourceDataset:
    train = next(folder for folder in tree.training_folders() if above(folder) == home)
    names, boxes = tree.folders(train), _kaggle_boxes(tree, home)
    images = [
        SourceImage(path, name, label, box=boxes.get(stem_of(path)))
        for label, name in enumerate(names)
        for path in tree.images(f"{train}/{name}")
    ]
    held_out = [path for folder in held_out_folders(tree, home) for path in tree.images(folder)]
    evidence = f"{tree.place(home)}train/<make model year>"
    return training_set(tree, TITLE, evidence, _classes(names), images, held_out)


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


def _above_kit(folder: str) -> str:
    # TensorFlow Datasets: extra/devkit beside train/cars_train
    folder = above(folder) if folder.rpartition("/")[2].lower() in ("devkit", "car_devkit") else folder
    return above(folder) if folder.rpartition("/")[2].lower() == "extra" else folder


def _has_class_folders(tree: Tree, train: str) -> bool:
    names = tree.folders(train)
    return any(map(_make, names)) and all(re.search(r" (19|20)\d\d$", name) for name in names)


def _kaggle_boxes(tree: Tree, home: str) -> dict[str, Box | None]:
    # <archive>/anno_train.csv without a header, the class folders in <archive>/car_data/car_data/train
    beside = [up / "anno_train.csv" for up in (tree.root, *tree.root.parents[:2])]
    found = [tree.path(tree.nearest(home, "anno_train.csv"))] if tree.nearest(home, "anno_train.csv") else beside
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        return {}
    try:
        table = read_table(file)
        rows = [list(row.values()) for row in table.rows] + [list(table.columns)] * (table.first > 1)  # has no header
        return {stem_of(row[0]): corners(*map(float, row[1:5])) for row in rows}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: every row needs an image and 4 numbers ({error})") from error
