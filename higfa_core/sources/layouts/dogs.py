"""Stanford Dogs: WordNet folders, .mat lists, boxes in VOC XML files without a suffix."""

from __future__ import annotations

from pathlib import Path

from ..locate import normal
from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import number_classes, read_mat, training_set, under
from .voc import read_objects

TITLE = "Stanford Dogs"
EXPECTED = "train_list.mat, test_list.mat and Images/"
LICENCE = "images from ImageNet: its terms apply"


def homes(tree: Tree) -> list[str]:
    """The folders with the lists."""
    return tree.homes("train_list.mat", "test_list.mat")


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images; the set has no validation split."""
    train, test = (_read_list(tree.path(under(home, f"{part}_list.mat"))) for part in ("train", "test"))
    labels = number_classes(((number, file.split("/")[0]) for file, _, number in train + test), TITLE)
    annotations = tree.nearest(home, "Annotation")  # a download of its own
    images = []
    for file, annotation, _ in train:
        name = file.split("/")[0]
        box = _box(tree.path(f"{annotations}/{annotation}")) if annotations else None
        images.append(SourceImage(normal(under(home, "Images", file)), name, labels[name], box=box))
    classes = [ClassInfo(name, prompt_name(name), "dog") for name in labels]
    held_out = [normal(under(home, "Images", file)) for file, _, _ in test]
    evidence = f"{tree.place(home)}train_list.mat and Images/"
    return training_set(tree, TITLE, evidence, classes, images, held_out, LICENCE)


def _box(path: Path) -> Box | None:
    """The largest thing of a VOC annotation."""
    try:
        boxes = [box for _, box in read_objects(path)]
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing. Copy all annotations, or remove Annotation/ to do without.") from error
    return max(filter(None, boxes), key=lambda box: box[2] * box[3], default=None)


def _read_list(path: Path) -> list[tuple[str, str, int]]:
    files, annotations, labels = read_mat(path, "file_list", "annotation_list", "labels")
    if not len(files) == len(annotations) == len(labels):
        raise ValueError(f"{path}: its lists differ in length. Replace it with the original.")
    return [(str(file), str(xml), int(label)) for file, xml, label in zip(files, annotations, labels)]
