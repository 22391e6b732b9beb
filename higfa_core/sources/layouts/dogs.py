"""Stanford Dogs: WordNet folders, .mat lists, boxes in VOC XML files without a suffix."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from .lists import corners, normal, number_classes, prefix, read_mat, training_set

TITLE = "Stanford Dogs"
EXPECTED = "train_list.mat, test_list.mat and Images/"
LICENCE = "images from ImageNet: its terms apply"


def is_home(folder: Path) -> bool:
    """Whether `folder` holds the lists and Images/."""
    return (folder / "train_list.mat").is_file() and (folder / "Images").is_dir()


def read(root: Path, home: Path) -> SourceDataset:
    """The training images; the set has no validation split."""
    start = prefix(root, home)
    train, test = (_read_list(home / f"{part}_list.mat") for part in ("train", "test"))
    labels = number_classes(((number, file.split("/")[0]) for file, _, number in train + test), TITLE)
    has_boxes = (home / "Annotation").is_dir()
    images = []
    for file, annotation, _ in train:
        name = file.split("/")[0]
        box = read_box(home / "Annotation" / annotation) if has_boxes else None
        images.append(SourceImage(normal(f"{start}Images/{file}"), name, labels[name], box=box))
    classes = [ClassInfo(name, prompt_name(name), "dog") for name in labels]
    held_out = [normal(f"{start}Images/{file}") for file, _, _ in test]
    return training_set(root, TITLE, f"{start}train_list.mat and Images/", classes, images, held_out, LICENCE)


def read_box(path: Path) -> Box | None:
    """The largest object of a VOC annotation."""
    try:
        found = ElementTree.parse(path).iterfind("object/bndbox")
        boxes = [corners(*(float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))) for box in found]
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: copy all annotations, or remove Annotation/ to do without") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no VOC annotation ({error}): replace it with the original") from error
    return max(filter(None, boxes), key=lambda box: box[2] * box[3], default=None)


def _read_list(path: Path) -> list[tuple[str, str, int]]:
    files, annotations, labels = read_mat(path, "file_list", "annotation_list", "labels")
    if not len(files) == len(annotations) == len(labels):
        raise ValueError(f"{path}: its lists differ in length: replace it with the original")
    return [(str(file), str(xml), int(label)) for file, xml, label in zip(files, annotations, labels)]
