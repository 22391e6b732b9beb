"""Tiny copies of the layouts, as the originals are on disk: images 64x48 (Aircraft: 64x68), 2-3 classes."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

EARTHWORM = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"
GULL = "03111_Animalia_Chordata_Aves_Charadriiformes_Laridae_Larus_argentatus"


def draw(path: Path, size=(64, 48), seed=0) -> Path:
    """A JPEG, PNG or mask of noise; PNG masks hold the trimap values 1, 2 and 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *path.name.encode()])
    Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def cub(folder: Path) -> Path:
    home = folder / "CUB_200_2011"
    rows = [  # id, class, training image, file
        (1, 1, 1, "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"),
        (2, 1, 0, "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg"),
        (3, 1, 1, "001.Black_footed_Albatross/Black_Footed_Albatross_0002_55.jpg"),
        (4, 2, 1, "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg"),
        (5, 2, 0, "002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg"),
    ]
    for number, _, _, file in rows:
        draw(home / "images" / file, seed=number)
    write(home / "images.txt", *(f"{number} {file}" for number, _, _, file in rows))
    write(home / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Laysan_Albatross")
    write(home / "image_class_labels.txt", *(f"{number} {label}" for number, label, _, _ in rows))
    write(home / "train_test_split.txt", *(f"{number} {train}" for number, _, train, _ in rows))
    write(home / "bounding_boxes.txt", *(f"{number} {number}.0 2.5 30.0 20.0" for number, *_ in rows))
    write(home / "README", "no list")
    return home


def aircraft(folder: Path) -> Path:
    data = folder / "fgvc-aircraft-2013b" / "data"
    kinds = {  # in the order of variants.txt
        "707-320": ("Boeing 707", "Boeing"),
        "F-16A/B": ("F-16", "Lockheed Martin"),
        "F/A-18": ("F/A-18", "McDonnell Douglas"),
    }
    parts = {"train": ("0034309", "1025794", "0000003"), "val": ("0000004", "0000005", "0000006")}
    parts["test"] = ("0000007", "0000008", "0000009")
    parts["trainval"] = parts["train"] + parts["val"]
    for number in parts["trainval"] + parts["test"]:
        draw(data / "images" / f"{number}.jpg", size=(64, 68))
    write(data / "variants.txt", *kinds)
    write(data / "families.txt", *(family for family, _ in kinds.values()))
    write(data / "manufacturers.txt", "Boeing", "Lockheed Martin", "McDonnell Douglas")
    for part, numbers in parts.items():
        write(data / f"images_{part}.txt", *numbers)
        levels = {"variant": list(kinds)}
        levels["family"], levels["manufacturer"] = zip(*kinds.values())
        for level, names in levels.items():
            rows = zip(numbers, names * 2)
            write(data / f"images_{level}_{part}.txt", *(f"{number} {name}" for number, name in rows))
    numbers = parts["trainval"] + parts["test"]
    write(data / "images_box.txt", *(f"{number} 3 5 60 {60 if number == '1025794' else 40}" for number in numbers))
    return folder / "fgvc-aircraft-2013b"


CAR_NAMES = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "Delorean DMC-12 Coupe 1981"]


def _cars(*rows, file_field="fname", test=None) -> np.ndarray:
    fields = [(f"bbox_{corner}", "O") for corner in ("x1", "y1", "x2", "y2")]
    fields += [("class", "O"), (file_field, "O")] + ([("test", "O")] if test is not None else [])
    values = [(3, 5, 50, 40, label, file, *([test[i]] if test is not None else [])) for i, (label, file) in rows]
    return np.array(values, dtype=fields)


def cars_devkit(folder: Path) -> Path:
    home = folder / "stanford_cars"
    (home / "devkit").mkdir(parents=True)
    train = [(2, "00001.jpg"), (1, "00002.jpg"), (3, "00003.jpg"), (1, "00004.jpg")]
    test = [(1, "00001.jpg"), (2, "00002.jpg")]
    for part, rows in (("train", train), ("test", test)):
        for _, file in rows:
            draw(home / f"cars_{part}" / file, seed=len(rows))
    names = np.array(CAR_NAMES, dtype=object)
    savemat(home / "devkit" / "cars_meta.mat", {"class_names": names})
    savemat(home / "devkit" / "cars_train_annos.mat", {"annotations": _cars(*enumerate(train))})
    savemat(home / "cars_test_annos_withlabels.mat", {"annotations": _cars(*enumerate(test))})
    return home


def cars_mat(folder: Path) -> Path:
    home = folder / "cars"
    rows = [(2, "car_ims/000001.jpg"), (1, "car_ims/000002.jpg"), (3, "car_ims/000003.jpg"), (1, "car_ims/000004.jpg")]
    for _, file in rows:
        draw(home / file)
    annotations = _cars(*enumerate(rows), file_field="relative_im_path", test=[0, 0, 0, 1])
    content = {"annotations": annotations, "class_names": np.array(CAR_NAMES, dtype=object)}
    savemat(home / "cars_annos.mat", content)
    return home


def cars_folders(folder: Path) -> Path:
    home = folder / "archive" / "car_data" / "car_data"
    names = [name.replace("/", "-") for name in CAR_NAMES]
    for number, name in enumerate(names):
        draw(home / "train" / name / f"0000{number}.jpg")
        draw(home / "test" / name / f"0000{number}.jpg", seed=1)
    write(folder / "archive" / "anno_train.csv", "00000.jpg,3,5,50,40,1", "00001.jpg,1,1,64,48,2")
    return home


def flowers(folder: Path) -> Path:
    home = folder / "flowers-102"
    for number in range(1, 7):
        draw(home / "jpg" / f"image_{number:05d}.jpg")
    savemat(home / "imagelabels.mat", {"labels": np.array([[3, 1, 2, 1, 2, 3]], dtype=np.uint8)})
    ids = {"trnid": [5, 2, 1], "valid": [4], "tstid": [3, 6]}
    savemat(home / "setid.mat", {name: np.array([values], dtype=np.uint16) for name, values in ids.items()})
    names = {"3": "canterbury bells", "1": "pink primrose", "2": "hard-leaved pocket orchid"}
    write(home / "cat_to_name.json", json.dumps(names))
    return home


def flowers_folders(folder: Path) -> Path:
    home = folder / "flower_data"
    for part in ("train", "valid", "test"):
        for number in (1, 2, 10):
            draw(home / part / str(number) / f"image_0{number}.jpg", seed=len(part))
    names = {str(number): f"flower {number}" for number in range(1, 103)} | {"10": "globe thistle"}
    write(folder / "cat_to_name.json", json.dumps(names))
    return home


def pets(folder: Path) -> Path:
    home = folder / "oxford-iiit-pet"
    train = ["Abyssinian_100 1 1 1", "Abyssinian_101 1 1 1", "great_pyrenees_2 16 2 10", "Egyptian_Mau_14 11 1 6"]
    test = ["Abyssinian_201 1 1 1", "great_pyrenees_104 16 2 10"]
    for row in train + test:
        stem = row.split()[0]
        draw(home / "images" / f"{stem}.jpg")
        trimap = np.full((48, 64), 2, dtype=np.uint8)
        trimap[10:30, 10:40], trimap[12:28, 12:38] = 3, 1
        (home / "annotations" / "trimaps").mkdir(parents=True, exist_ok=True)
        Image.fromarray(trimap).save(home / "annotations" / "trimaps" / f"{stem}.png")
    write(home / "annotations" / "trainval.txt", *train)
    write(home / "annotations" / "test.txt", *test)
    write(home / "annotations" / "list.txt", "#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", *train, *test)
    (home / "images" / "Abyssinian_100.mat").write_bytes(b"stray")
    return home


VOC = """<annotation><folder>02085620</folder><filename>7</filename><size><width>64</width><height>48</height></size>
{}</annotation>"""
VOC_OBJECT = "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def dogs(folder: Path) -> Path:
    home = folder / "stanford_dogs"
    train = [(1, "n02085620-Chihuahua/n02085620_7"), (2, "n02095314-wire-haired_fox_terrier/n02095314_3")]
    train.append((1, "n02085620-Chihuahua/n02085620_10074"))
    test = [(1, "n02085620-Chihuahua/n02085620_199"), (2, "n02095314-wire-haired_fox_terrier/n02095314_9")]
    for _, stem in train + test:
        draw(home / "Images" / f"{stem}.jpg")
        objects = VOC_OBJECT.format(1, 1, 10, 10) + VOC_OBJECT.format(3, 5, 50, 40)
        write(home / "Annotation" / stem, VOC.format(objects))
    for part, rows in (("train", train), ("test", test), ("file", train + test)):
        stems = [stem for _, stem in rows]
        content = {
            "file_list": np.array([[f"{stem}.jpg"] for stem in stems], dtype=object),
            "annotation_list": np.array([[stem] for stem in stems], dtype=object),
            "labels": np.array([[label] for label, _ in rows], dtype=np.uint8),
        }
        savemat(home / f"{part}_list.mat", content)
    return home


def dtd(folder: Path) -> Path:
    home = folder / "dtd" / "dtd"
    files = [f"{name}/{name}_000{number}.jpg" for name in ("banded", "cracked") for number in (2, 4, 5, 6)]
    for file in files:
        draw(home / "images" / file)
    for partition in range(1, 11):
        turned = [file for shift in range(4) for file in files[(shift + partition) % 4 :: 4]]
        write(home / "labels" / f"train{partition}.txt", *turned[:4])
        write(home / "labels" / f"val{partition}.txt", *turned[4:6])
        write(home / "labels" / f"test{partition}.txt", *turned[6:])
    write(home / "labels" / "labels_joint_anno.txt", *(f"{file} {file.split('/')[0]}" for file in files))
    return folder / "dtd"


def inaturalist(folder: Path) -> Path:
    home = folder / "inat2021"
    for species in (EARTHWORM, GULL):
        draw(home / "train_mini" / species / "0a.jpg")
        draw(home / "train_mini" / species / "0b.jpg", seed=1)
        draw(home / "val" / species / "0c.jpg", seed=2)
    categories = [
        {"id": 0, "name": "Lumbricus terrestris", "common_name": "Common Earthworm", "supercategory": "Animalia"},
        {"id": 3111, "name": "Larus argentatus", "common_name": "European Herring Gull", "supercategory": "Birds"},
    ]
    for category, species in zip(categories, (EARTHWORM, GULL)):
        category["image_dir_name"] = species
    images = [{"id": 0, "file_name": f"train_mini/{EARTHWORM}/0a.jpg", "license": 0, "rights_holder": "[someone]"}]
    content = {"info": {}, "images": images, "categories": categories, "annotations": [{"image_id": 0}], "licenses": []}
    write(home / "train_mini.json", json.dumps(content))
    return home


HF_CARD = """---
license: cc-by-4.0
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': Herring Gull
          '1': F-16A/B
  splits:
  - name: train
---
# Miniature
"""


def hugging_face(folder: Path) -> Path:
    home = folder / "hf"
    for part, files in (("train", "ab/1.png ab/2.png c/3.png"), ("test", "c/4.png")):
        rows = []
        for number, file in enumerate(files.split()):
            draw(home / part / file)
            draw(home / part / "m" / file)
            row = {"file_name": file, "label": number % 2, "bbox": [1, 2, 30, 20], "mask_file_name": f"m/{file}"}
            rows.append(json.dumps(row))
        write(home / part / "metadata.jsonl", *rows)
    write(home / "README.md", HF_CARD.strip())
    return home


def table(folder: Path) -> Path:
    home = folder / "table"
    rows = [("a b/1.png", "F/A-18", "train", "1 2 30 20", ""), ("2.png", "Café", "train", "", "m/2.png")]
    rows += [("a b/3.png", "F/A-18", "val", "", ""), ("4.png", "Café", "test", "", "")]
    for path, *_ in rows:
        draw(home / path)
    draw(home / "m" / "2.png")
    with (home / "images.csv").open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([("path", "label", "split", "box", "mask"), *rows])
    return home


def image_folder(folder: Path) -> Path:
    home = folder / "birds"
    for part in ("train", "val", "test"):
        for name in ("Gull", "Tern"):
            draw(home / part / name / "1.jpg", seed=len(part))
            draw(home / part / name / "2.jpg", seed=len(part) + 9)
    draw(home / "masks" / "Gull" / "1.png")
    return home


BUILDERS = {
    "cub": cub,
    "aircraft": aircraft,
    "cars_devkit": cars_devkit,
    "cars_mat": cars_mat,
    "cars_folders": cars_folders,
    "flowers": flowers,
    "flowers_folders": flowers_folders,
    "pets": pets,
    "dogs": dogs,
    "dtd": dtd,
    "inaturalist": inaturalist,
    "hugging_face": hugging_face,
    "table": table,
    "image_folder": image_folder,
}
