"""CUB-200-2011: lists joined by image number, boxes, masks where the segmentations were unpacked too."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from .lists import normal, number_classes, prefix, read_columns, read_numbers, read_pairs, training_set

TITLE = "CUB-200-2011"
EXPECTED = "images.txt, train_test_split.txt, image_class_labels.txt and classes.txt"


def is_home(folder: Path) -> bool:
    """Whether `folder` is the one with the lists."""
    return (folder / "images.txt").is_file() and (folder / "train_test_split.txt").is_file()


def read(root: Path, home: Path) -> SourceDataset:
    """The training images; the set has no validation split."""
    start = prefix(root, home)
    names = read_pairs(home / "classes.txt")
    if wrong := [number for number in names if not number.isdecimal()]:
        raise ValueError(f"{home / 'classes.txt'}: {wrong[0]!r} is no class number: copy the original list")
    labels = number_classes(((int(number), name) for number, name in names.items()), TITLE)
    is_train = read_pairs(home / "train_test_split.txt")
    class_of = read_pairs(home / "image_class_labels.txt")
    boxes = read_numbers(home / "bounding_boxes.txt")
    masks = _mask_folder(root, home)
    images, held_out = [], []
    for number, file in read_columns(home / "images.txt", 2):
        path = normal(f"{start}images/{file}")
        if is_train.get(number) not in ("0", "1") or class_of.get(number) not in names:
            raise ValueError(f"{TITLE}: image {number} ({file}) has no class or no split: copy the original lists")
        if is_train[number] == "0":
            held_out.append(path)
            continue
        name, box = names[class_of[number]], boxes.get(number)
        mask = None if masks is None else f"{masks}{PurePosixPath(file).with_suffix('.png')}"
        images.append(SourceImage(path, name, labels[name], mask, box=box))
    classes = [ClassInfo(name, prompt_name(name), "bird") for name in labels]
    evidence = f"{start}images.txt and train_test_split.txt"
    return training_set(root, TITLE, evidence, classes, images, held_out)


def _mask_folder(root: Path, home: Path) -> str | None:
    # segmentations.tgz is a download of its own, which people unpack into the set or beside it.
    places = [folder for folder in (home, home.parent) if folder.is_relative_to(root)]
    found = [folder for folder in places if (folder / "segmentations").is_dir()]
    return f"{prefix(root, found[0])}segmentations/" if found else None
