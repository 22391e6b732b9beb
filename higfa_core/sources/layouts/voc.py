"""Pascal VOC as classification: the images that show things of one class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from ..ledger import Ledger
from ..locate import normal
from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import corners, read_columns, training_set, under

TITLE = "Pascal VOC"
EXPECTED = "ImageSets/Main/train.txt, Annotations/ and JPEGImages/"
HELD_OUT = {"train": ("val", "test"), "trainval": ("test",)}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def homes(tree: Tree) -> list[str]:
    """The folders of one year each."""
    found = [*tree.homes("ImageSets/Main/train.txt"), *tree.homes("ImageSets/Main/trainval.txt")]
    return list(dict.fromkeys(home for home in found if tree.folder(under(home, "Annotations"))))


def read(tree: Tree, home: str, *, split: str = "train") -> SourceDataset:
    """The training images with things of exactly one class; the box is the largest thing's. `split`: or trainval."""
    if split not in HELD_OUT:
        raise ValueError(f"{TITLE}: split must be train or trainval, got {split!r}: other images are never sources")
    stems = _stems(tree, home, split)
    found = {stem: _objects(tree.path(under(home, "Annotations", f"{stem}.xml"))) for stem in stems}
    names = sorted({name for objects in found.values() for name, _ in objects})
    labels = {name: label for label, name in enumerate(names)}
    ledger, images = Ledger(), []
    for stem, objects in found.items():
        shown = {name for name, _ in objects}
        if len(shown) == 1:
            name = shown.pop()
            box = max(filter(None, (box for _, box in objects)), key=lambda box: box[2] * box[3], default=None)
            images.append(SourceImage(_image(home, stem), name, labels[name], box=box))
        else:
            ledger.add("with things of several classes" if shown else "without a label", _image(home, stem))
    others = [part for part in HELD_OUT[split] if tree.has(_list(home, part))]
    held_out = [_image(home, stem) for part in others for stem in _stems(tree, home, part)]
    classes = [ClassInfo(name, prompt_name(name)) for name in names]
    evidence = f"{tree.place(home)}ImageSets/Main/{split}.txt"
    dataset = training_set(tree, TITLE, evidence, classes, images, held_out)
    return replace(dataset, left_out=ledger.entries())


def read_objects(file: Path) -> list[tuple[str, Box | None]]:
    """Name and box of each thing in a VOC annotation."""
    try:
        things = list(ElementTree.parse(file).iterfind("object"))
        return [(thing.findtext("name", "").strip(), _box(thing)) for thing in things]
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{file} is not a VOC annotation ({error}). Replace it with the original.") from error


def _objects(file: Path) -> list[tuple[str, Box | None]]:
    try:
        return read_objects(file)
    except OSError as error:  # not there, or a name that no file can have
        raise ValueError(f"{file} is missing. Copy all annotations.") from error


def _box(thing: ElementTree.Element) -> Box | None:
    return corners(*(float(thing.findtext(f"bndbox/{key}", "")) for key in CORNERS))


def _stems(tree: Tree, home: str, part: str) -> list[str]:
    return [stem for (stem,) in read_columns(tree.path(_list(home, part)), 1)]


def _list(home: str, part: str) -> str:
    return under(home, "ImageSets", "Main", f"{part}.txt")


def _image(home: str, stem: str) -> str:
    return normal(under(home, "JPEGImages", f"{stem}.jpg"))
