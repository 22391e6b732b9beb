"""COCO's JSON as classification: the images that show things of one class. iNaturalist 2017 to 2019 are such sets."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from ...files.names import class_name
from ...files.paths import split_of
from ...files.reading import read_bytes
from ..hints import split_hint
from ..ledger import Ledger
from ..locate import normal
from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from ..text import json_of
from ..tree import Tree
from .json_lists import has_lists
from .lists import above, number_classes, training_set, under

TITLE = "COCO"
EXPECTED = "JSON files with images, annotations and categories, such as annotations/instances_train2017.json"
OLDER = re.compile(r"train_val(_images|20\d\d)", re.IGNORECASE)
NON_COMMERCIAL = "non-commercial; the images may not be redistributed"
LISTS_FOLDERS = {"annotations", "annotation", "annots"}


def homes(tree: Tree) -> list[str]:
    """The folders above the JSON files."""
    return list(dict.fromkeys(_above_lists(above(file)) for file in _files(tree)))


def read(tree: Tree, home: str) -> SourceDataset:
    """The training images with things of exactly one class; the box is the largest thing's."""
    files = [file for file in _files(tree) if _above_lists(above(file)) == home]
    splits = _splits(tree, files)
    older = bool(list(filter(OLDER.fullmatch, tree.folders(home))))
    title = "iNaturalist" if older else TITLE
    contents = {file: _load(tree.path(file)) for file in files}
    categories = _categories(tree, home, contents)
    labels = number_classes(((number, about["name"]) for number, about in categories.items()), title)
    ledger, images, held_out = Ledger(), [], []
    for file, content in contents.items():
        start = _start(tree, home, file, content)
        if splits[file] != "train":
            held_out += [normal(under(start, image["file_name"])) for image in content["images"]]
            continue
        for image, found in _by_image(content):
            path = normal(under(start, image["file_name"]))
            numbers = {annotation["category_id"] for annotation in found}
            if len(numbers) != 1:
                ledger.add("with things of several classes" if numbers else "without a label", path)
                continue
            name = categories[numbers.pop()]["name"]
            images.append(SourceImage(path, name, labels[name], box=_largest(found)))
    supers = {about["name"]: about.get("supercategory") or "" for about in categories.values()}
    classes = [ClassInfo(name, prompt_name(name), supers[name]) for name in labels]
    evidence = ", ".join(str(tree.find(file)) for file in files if splits[file] == "train")
    licence = NON_COMMERCIAL if older else ""
    dataset = training_set(tree, title, evidence, classes, images, held_out, licence, sorted(categories))
    return replace(dataset, left_out=ledger.entries())


def _files(tree: Tree) -> list[str]:
    found = []
    for path, folder in tree.top.walk():
        names = [name for name, _ in folder.files if name.lower().endswith(".json")]
        found += [under(path, name) for name in names if _is_coco(tree.path(under(path, name)))]
    # Other lists of the same images: of keypoints beside COCO's, of boxes beside iNaturalist 2017's.
    instances = [file for file in found if file.rpartition("/")[2].startswith("instances_")]
    return instances or [file for file in found if "_bboxes" not in file] or found


def _is_coco(file: Path) -> bool:
    return has_lists(file, "images", "annotations", "categories") or (
        split_hint(file.stem) == "test" and has_lists(file, "images", "categories")
    )


def _above_lists(folder: str) -> str:
    if folder.rpartition("/")[2].lower() in LISTS_FOLDERS or split_of(folder.rpartition("/")[2]):
        return above(folder)
    return folder


def _splits(tree: Tree, files: list[str]) -> dict[str, str]:
    """File -> its split, by its name or its folder's. ValueError where that cannot be told."""
    found = {}
    for file in files:
        stem = re.sub("^(instances|captions|person_keypoints|stuff|_annotations)[_.]?", "", Path(file).stem)
        found[file] = split_hint(stem) or split_of(above(file).rpartition("/")[2])
    unknown = [file for file, split in found.items() if not split]
    if len(files) == 1 and unknown:
        return {files[0]: "train"}
    if unknown:
        raise ValueError(
            f"{TITLE}: {tree.root / unknown[0]} lists images of a split that its name does not tell. Rename it to "
            "train, val or test, or move it away."
        )
    if "train" not in found.values():
        raise ValueError(f"{TITLE}: no file in {tree.root} lists training images, only {', '.join(files)}")
    return found


def _load(file: Path) -> dict:
    try:
        content = json_of(read_bytes(file))
        for image in content["images"]:
            image["id"], image["file_name"]
        for annotation in content.setdefault("annotations", []):
            annotation["image_id"], annotation["category_id"]
        return content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a COCO file ({type(error).__name__}: {error}). Copy the original.") from error


def _categories(tree: Tree, home: str, contents: dict[str, dict]) -> dict[int, dict]:
    """Number -> category; the names of a categories.json beside the lists, which iNaturalist gave out later."""
    listed = [category for content in contents.values() for category in content.get("categories", ())]
    if file := tree.nearest(home, "categories.json"):
        try:
            listed += json_of(read_bytes(tree.path(file)))
        except ValueError as error:
            raise ValueError(f"{tree.path(file)} is not JSON ({error}). Copy the original.") from error
    try:
        found = {int(about["id"]): {**about, "name": class_name(str(about["name"]))} for about in listed}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{TITLE}: a category in {tree.root} lacks id or name ({error}). Copy the list.") from error
    counts = Counter(about["name"] for about in found.values())
    for number, about in found.items():
        if counts[about["name"]] > 1:
            about["name"] = f"{about['name']} ({number})"
    return found


def _start(tree: Tree, home: str, file: str, content: dict) -> str:
    """What leads from the root to the files as the list names them."""
    name = content["images"][0]["file_name"] if content["images"] else ""
    here = under(above(file), name)
    return above(file) if tree.has(here) else home


def _by_image(content: dict) -> list[tuple[dict, list[dict]]]:
    found = defaultdict(list)
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return [(image, found[image["id"]]) for image in content["images"]]


def _largest(annotations: list[dict]) -> Box | None:
    boxes = [box for annotation in annotations if len(box := annotation.get("bbox") or ()) == 4]
    found = [(float(x), float(y), float(w), float(h)) for x, y, w, h in boxes if w > 0 and h > 0]
    return max(found, key=lambda box: box[2] * box[3], default=None)
