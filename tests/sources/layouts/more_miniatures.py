"""Tiny copies of more sets, as the originals are on disk; every image differs from every other."""

import json
import zlib
from pathlib import Path

import numpy as np
from scipy.io import savemat

from .miniatures import draw, write


def images(root: Path, *paths: str) -> Path:
    for path in paths:
        draw(root / path, seed=zlib.crc32(path.encode()))
    return root


def nabirds(folder: Path) -> Path:
    root = folder / "nabirds"
    ids = [f"0000139e-21dc-4d0c-bfe1-4cae3c85c8{n:02x}" for n in range(6)]
    folders = ["0455" if n % 2 else "0501" for n in range(6)]
    files = [f"{name}/{number.replace('-', '')}.jpg" for name, number in zip(folders, ids)]
    images(root, *(f"images/{file}" for file in files))
    write(root / "classes.txt", "0 Birds", "42 Brant", "162 American Coot", "455 Brant", "501 American Coot")
    write(root / "images.txt", *map("{} {}".format, ids, files))
    write(root / "image_class_labels.txt", *(f"{name} {int(number)}" for name, number in zip(ids, folders)))
    write(root / "train_test_split.txt", *(f"{name} {int(n < 4)}" for n, name in enumerate(ids)))
    write(root / "bounding_boxes.txt", *(f"{name} 1 2 30 20" for name in ids))
    write(root / "hierarchy.txt", "42 0", "162 0", "455 42", "501 162")
    write(root / "sizes.txt", *(f"{name} 64 48" for name in ids))
    return root


def cub_2010(folder: Path) -> Path:
    root = folder / "CUB-200"
    parts = {"train": (1, 2), "test": (3,)}
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    entries = {part: [f"{n}/{n[4:]}_000{i}.jpg" for n in names for i in numbers] for part, numbers in parts.items()}
    images(root, *(f"images/{entry}" for found in entries.values() for entry in found))
    for part, found in entries.items():
        write(root / "lists" / f"{part}.txt", *found)
    write(root / "lists" / "files.txt", *entries["train"], *entries["test"])
    write(root / "lists" / "classes.txt", *names)
    return root


def food(folder: Path) -> Path:
    root = folder / "food-101"
    names = ("apple_pie", "waffles")
    images(root, *(f"images/{name}/{name[0]}{n}.jpg" for name in names for n in (1, 2, 3)))
    for part, numbers in (("train", (1, 2)), ("test", (3,))):
        entries = {name: [f"{name}/{name[0]}{number}" for number in numbers] for name in names}
        write(root / "meta" / f"{part}.txt", *(entry for found in entries.values() for entry in found))
        write(root / "meta" / f"{part}.json", json.dumps(entries))
    write(root / "meta" / "classes.txt", *names)
    write(root / "meta" / "labels.txt", "Apple pie", "Waffles")
    return root


def compcars(folder: Path) -> Path:
    root = folder / "data"
    train = ["1/2/2014/a1.jpg", "1/2/2013/a2.jpg", "2/3/2012/b1.jpg"]
    test = ["1/2/2014/a3.jpg", "2/3/2012/b2.jpg"]
    images(root, *(f"image/{entry}" for entry in train + test))
    for entry in train + test:
        write(root / "label" / f"{entry[:-4]}.txt", "4", "1", "3 5 50 40")
    for part, entries in (("train", train), ("test", test)):
        write(root / "train_test_split" / "classification" / f"{part}.txt", *entries)
        write(root / "train_test_split" / "classification" / f"{part}_front.txt", entries[0])
    names = {"make_names": ["Audi", "Benz"], "model_names": [np.array([]), "Audi A4L", "C Class"]}
    (root / "misc").mkdir()
    cells = {name: np.array([*values, None], dtype=object)[:-1].reshape(-1, 1) for name, values in names.items()}
    savemat(root / "misc" / "make_model_name.mat", cells)
    return root


def compcars_surveillance(folder: Path) -> Path:
    root = folder / "sv_data"
    train, test = ["1/a.jpg", "1/b.jpg", "2/c.jpg"], ["1/d.jpg", "2/e.jpg"]
    images(root, *(f"image/{entry}" for entry in train + test))
    write(root / "train_surveillance.txt", *train)
    write(root / "test_surveillance.txt", *test)
    rows = np.array([["BWM", "BWM X5", 105], ["Zotye", "Z300", 1035]], dtype=object)
    savemat(root / "sv_make_model_name.mat", {"sv_make_model_name": rows})
    return root


def products(folder: Path) -> Path:
    root = folder / "Stanford_Online_Products"
    train = [(1, 1, 1, "bicycle_final/111_0.JPG"), (2, 1, 1, "bicycle_final/111_1.JPG")]
    train.append((3, 2, 5, "coffee_maker_final/222_0.JPG"))
    test = [(4, 11319, 1, "bicycle_final/333_0.JPG"), (5, 11320, 5, "coffee_maker_final/444_0.JPG")]
    images(root, *(row[-1] for row in train + test))
    for part, rows in (("train", train), ("test", test)):
        lines = [" ".join(map(str, row)) for row in rows]
        write(root / f"Ebay_{part}.txt", "image_id class_id super_class_id path", *lines)
    return root


def voc(folder: Path) -> Path:
    root = folder / "VOCdevkit" / "VOC2012"
    shown = {"2008_1": ["bird"], "2008_2": ["train", "train"], "2008_3": ["bird", "train"], "2008_4": ["bird"]}
    images(root, *(f"JPEGImages/{stem}.jpg" for stem in shown))
    box = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>40</ymax></bndbox>"
    thing = f"<object><name>{{}}</name>{box}</object>"
    for stem, names in shown.items():
        things = "".join(thing.format(name, 30 + 20 * n) for n, name in enumerate(names))
        write(root / "Annotations" / f"{stem}.xml", f"<annotation>{things}</annotation>")
    write(root / "ImageSets" / "Main" / "train.txt", "2008_1", "2008_2", "2008_3")
    write(root / "ImageSets" / "Main" / "val.txt", "2008_4")
    write(root / "ImageSets" / "Main" / "trainval.txt", *shown)
    return root.parent


def _coco(images: dict[int, str], annotations: list[tuple[int, int]], categories: list[dict]) -> str:
    about = [{"id": number, "file_name": name, "width": 64, "height": 48} for number, name in images.items()]
    listed = [{"id": n, "image_id": i, "category_id": c, "bbox": [2, 4, 30 + n, 20]} for n, (i, c) in
              enumerate(annotations)]  # fmt: skip
    return json.dumps({"info": {}, "images": about, "annotations": listed, "categories": categories})


def coco(folder: Path) -> Path:
    root = folder / "coco"
    kinds = [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 62, "name": "chair", "supercategory": "home"}]
    train = {1: "000000000001.jpg", 2: "000000000002.jpg", 3: "000000000003.jpg"}
    images(root, *(f"train2017/{name}" for name in train.values()), "val2017/000000000004.jpg")
    write(root / "annotations" / "instances_train2017.json",
          _coco(train, [(1, 17), (1, 17), (2, 62), (3, 17), (3, 62)], kinds))  # fmt: skip
    write(root / "annotations" / "instances_val2017.json", _coco({4: "000000000004.jpg"}, [(4, 17)], kinds))
    write(root / "annotations" / "captions_train2017.json", json.dumps({"images": [], "annotations": []}))
    return root


def inaturalist_2018(folder: Path) -> Path:
    root = folder / "inat2018"
    hidden = [{"id": n, "name": f"000{n}", "supercategory": "Aves"} for n in (0, 1)]
    files = {n: f"train_val2018/Aves/{n % 2}/h{n}.jpg" for n in range(6)}
    images(root, *files.values())
    parts = {"train": {n: files[n] for n in range(4)}, "val": {n: files[n] for n in (4, 5)}}
    for part, found in parts.items():
        write(root / f"{part}2018.json", _coco(found, [(n, n % 2) for n in found], hidden))
    names = [{**about, "name": name} for about, name in zip(hidden, ("Larus argentatus", "Sterna hirundo"))]
    write(root / "categories.json", json.dumps(names))
    return root


MORE = {
    "nabirds": nabirds,
    "cub_2010": cub_2010,
    "food": food,
    "compcars": compcars,
    "compcars_surveillance": compcars_surveillance,
    "products": products,
    "voc": voc,
    "coco": coco,
    "inaturalist_2018": inaturalist_2018,
}
