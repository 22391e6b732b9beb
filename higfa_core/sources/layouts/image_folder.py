"""Class-per-folder image trees (torchvision's ImageFolder).

`root/<class>/...` or `root/train/<class>/...`; with `train/` (or `Training/`, `training_set/` ...) only that
part is used. Folders of splits or of classes are not classes; a folder called `test` that holds images but no folders
may be one. Masks are optional PNG files with the same relative path in `root/masks/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...files.names import class_name, matching_key, printable, undecodable
from ...files.paths import is_held_out, split_of
from ...wording import counted
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Folder, Tree
from .lists import above, refuse_outside, under
from .plausible import refuse_implausible

TITLE = "image folder"
EXPECTED = "a folder of images for each class"
MASKS = "masks"
OLDER_INATURALIST = re.compile(r"(?i)train_val(_images|20\d\d)")


def read(tree: Tree, *, classes: str = "") -> SourceDataset:
    """All training images, sorted by class name, then path. ValueError for an unusable tree.

    `classes`: comma-separated names of folders that are classes although they are named like splits.
    """
    base, folder = _base(tree)
    if outside := next((link for link in tree.outside if link.startswith(tree.place(base))), ""):
        refuse_outside(tree.root, outside)
    names, splits = _classes(tree, base, folder, {name.strip() for name in classes.split(",")})
    _refuse_older_inaturalist([*tree.place(base).split("/"), tree.root.name, *names])
    found = {name: list(_images(folder.folders[name], under(base, name))) for name in names}
    _check_classes(tree, base, found)
    return _dataset(tree, base, found, splits)


def read_plausible(tree: Tree) -> SourceDataset:
    """As `read`, where the user has not said that the folders are the classes: ValueError unless they look like it."""
    dataset = read(tree)
    base, folder = _base(tree)
    refuse_implausible(tree, base, folder, [name for name in folder.folders if _is_class(dataset, name)])
    return dataset


def _is_class(dataset: SourceDataset, folder: str) -> bool:
    return class_name(folder) in dataset.class_names


def _dataset(tree: Tree, base: str, found: dict[str, list[Shown]], splits: list[str]) -> SourceDataset:
    names = _spelled(tree, base, found)
    masks = [place for place in dict.fromkeys(under(part, MASKS) for part in ("", above(base), base))]
    masks = [place for place in masks if tree.folder(place)]
    images = []
    for label, (name, folders) in enumerate(names.items()):
        for image in sorted((image for folder in folders for image in found[folder]), key=lambda image: image.place):
            images.append(SourceImage(image.place, name, label, _mask(tree, base, masks, image.shown)))
    held_out = sorted(image for split in splits for image in tree.images(split))
    evidence = f"{len(names)} class folders in {tree.place(base) or 'it'}"
    classes = tuple(ClassInfo(name, prompt_name(name)) for name in names)
    about = (len(held_out), "", (), tuple(held_out))
    return SourceDataset(tree.root, TITLE, evidence, classes, tuple(images), *about)


@dataclass(frozen=True, order=True)
class Shown:
    """An image as the tree shows it, and its place on disk."""

    shown: str
    place: str


def _images(folder: Folder, path: str) -> Iterable[Shown]:
    for inner_path, inner in folder.walk(path):
        for place in inner.images:
            yield Shown(f"{inner_path}/{place.rpartition('/')[2]}", place)


def _refuse_older_inaturalist(names: list[str]) -> None:
    if older := next(filter(OLDER_INATURALIST.fullmatch, names), ""):
        raise ValueError(
            f"{older} is from an older iNaturalist and holds training and validation images. Put the lists that "
            "distinguish them, such as train2018.json, beside it."
        )


def _base(tree: Tree) -> tuple[str, Folder]:
    """The folder that holds the classes."""
    path, folder = _descend(tree)
    training = sorted(name for name in folder.folders if split_of(name) == "train")
    training = [name for name in training if _holds_folders(folder.folders[name])] or _lone(folder, training)
    if len(training) > 1:
        raise ValueError(f"{tree.root / tree.place(path)} has {' and '.join(training)}. Give the right one.")
    return (under(path, training[0]), folder.folders[training[0]]) if training else (path, folder)


def _descend(tree: Tree) -> tuple[str, Folder]:
    """Descends through folders that only wrap another: one with the root's own name, or one with the splits."""
    path, folder, name = "", tree.top, tree.root.name
    while len(folder.folders) == 1 and not folder.images:
        ((inner, child),) = folder.folders.items()
        splits = [split_of(part) for part, below in child.folders.items() if _holds_folders(below)]
        if child.images or split_of(inner) or ("train" not in splits and matching_key(inner) != matching_key(name)):
            break
        path, folder, name = under(path, inner), child, inner
    return path, folder


def _lone(folder: Folder, training: list[str]) -> list[str]:
    """Training folders without class folders, unless other folders look like the classes beside it."""
    others = [name for name, inner in folder.folders.items() if not split_of(name) and inner.images]
    return [] if others else training


def _holds_folders(folder: Folder) -> bool:
    return any(inner.holds_images() for inner in folder.folders.values())


def _classes(tree: Tree, base: str, folder: Folder, said: set[str]) -> tuple[list[str], list[str]]:
    """The names of the class folders, sorted, and the paths of the validation and test splits."""
    names = [name for name in folder.folders if name in said or not (is_held_out(name) or name.lower() == MASKS)]
    if not names:
        place = tree.root / tree.place(base)
        raise ValueError(f"No class folders in {place}: expected {tree.root.name}/<class>/<image>.")
    for name, inner in folder.folders.items():
        if is_held_out(name) and name not in said and inner.images and not _holds_folders(inner):
            _ask(tree.root / tree.place(under(base, name)), name, len(inner.images), names)
    start = above(base) if split_of(base.rpartition("/")[2]) == "train" else base
    beside = tree.folder(start) or tree.top
    return sorted(names), [under(start, name) for name in beside.folders if is_held_out(name) and name not in said]


def _ask(folder: Path, name: str, count: int, others: list[str]) -> None:
    raise ValueError(
        f"{folder} holds {counted(count, 'image')} and no class folders. "
        f"If {name!r} is a class beside {', '.join(others[:3])}: --layout image_folder --layout-option classes={name}. "
        f"If it is a test split: move it out of {folder.parent}."
    )


def _spelled(tree: Tree, base: str, found: dict[str, list[Shown]]) -> dict[str, list[str]]:
    """Class name -> its folders. Two folders whose names differ only in their Unicode form are one class."""
    names: dict[str, list[str]] = {}
    for folder in found:
        if undecodable(folder):
            raise ValueError(
                f"Folder {printable(str(tree.root / base / folder))} has a name that is not UTF-8. Rename it, for "
                "example with convmv."
            )
        names.setdefault(class_name(folder), []).append(folder)
    return {name: names[name] for name in sorted(names)}


def _mask(tree: Tree, base: str, masks: list[str], shown: str) -> str | None:
    """The mask file of the image shown there, on disk; None without one."""
    if not masks:
        return None
    png = PurePosixPath(shown).with_suffix(".png").as_posix()
    ends = (png, png.removeprefix(f"{base}/")) if base else (png,)
    return next((found for folder in masks for end in ends if (found := tree.find(f"{folder}/{end}"))), None)


def _check_classes(tree: Tree, base: str, found: dict[str, list[Shown]]) -> None:
    """ValueError for class folders without images, and for folders that hold splits or classes."""
    owners: dict[str, str] = {}
    place = tree.root / tree.place(base)
    for name, images in found.items():
        if not images:
            _refuse_empty(tree, base, name)
        folders = sorted({image.shown.rpartition("/")[0].removeprefix(f"{base}/" if base else "") for image in images})
        for parts in (folder.split("/") for folder in folders):
            if split := next(filter(split_of, parts[1:]), ""):
                outer = Path(place, *parts[: parts.index(split, 1)])
                raise ValueError(
                    f"{outer / split} is a split, not part of a class. Give {outer} as the dataset, or rename it."
                )
        if name in folders:
            continue
        inner = {part for folder in folders for part in folder.split("/")[1:]}
        if len(found) == 1 and len(folders) > 1:
            where = place / _common(folders)
            raise ValueError(
                f"{place / name} holds folders, but no image. If they are the classes, give {where} as the dataset. "
                "If they are parts of one class, move their images up."
            )
        if len(shared := sorted(inner & owners.keys())) > 1:
            raise ValueError(
                f"{place / owners[shared[0]]} and {place / name} hold folders of the same names, but no images "
                f"({', '.join(shared[:3])}). If they are the classes, give the one with the training images as the "
                "dataset. If they are parts of the classes, move their images up."
            )
        owners |= dict.fromkeys(inner, name)


def _refuse_empty(tree: Tree, base: str, name: str) -> None:
    """ValueError for a class folder without images; it never advises removing one that holds something else."""
    folder = tree.root / tree.place(under(base, name))
    files = [path for _, inner in (tree.folder(under(base, name)) or tree.top).walk() for _, path in inner.files]
    if files:
        raise ValueError(
            f"{folder} holds no readable image, but {counted(len(files), 'other file')} such as {files[0]}. If they "
            "tell the classes or splits, give the folder above with --labels FILE. If it is not a class, move it away."
        )
    raise ValueError(f"Class folder {folder} holds no image. Add images or remove the folder.")


def _common(folders: list[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    shared = []
    for level in zip(*parts):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared)
