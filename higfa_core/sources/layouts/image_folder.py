"""Class-per-folder image trees (torchvision's ImageFolder).

`root/<class>/...` or `root/train/<class>/...`; with `train/` (or `Training/`, `training_set/` ...) only that
part is used. A class may have sub-folders, but folders of splits or classes are no class. Masks are optional PNG files
with the same relative path in `root/masks/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ...files.paths import is_held_out, split_of, training_folders
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from .lists import check_folder, prefix

TITLE = "image folder"
MASKS = "masks"
# torchvision's, whose import would cost a plan more time and memory than the plan itself.
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def read(root: Path) -> SourceDataset:
    """All training images below `root`, sorted by class name, then path. ValueError for an unusable tree."""
    check_folder(root)
    base = _base(root)
    found = {name: image_paths(root, base / name) for name in _class_names(base, root)}
    _check_classes(root, base, found)
    has_masks = (root / MASKS).is_dir() or (base / MASKS).is_dir()
    images = []
    for label, (name, paths) in enumerate(found.items()):
        masks = (find_mask(root, path) if has_masks else None for path in paths)
        images += [SourceImage(path, name, label, mask) for path, mask in zip(paths, masks)]
    evidence = f"{len(found)} class folders in {f'{base.name}/' if base != root else 'it'}"
    classes = tuple(ClassInfo(name, prompt_name(name)) for name in found)
    held_out = sum(len(image_paths(root, root / e.name)) for e in os.scandir(root) if is_held_out(e.name))
    return SourceDataset(root, TITLE, evidence, classes, tuple(images), held_out)


def find_mask(root: str | Path, path: str) -> str | None:
    """The mask file of the image `path` (both relative to `root`), or None."""
    png = PurePosixPath(path).with_suffix(".png").as_posix()
    places = [f"{MASKS}/{png}"]
    first, _, rest = png.partition("/")
    if split_of(first) == "train":
        places += [f"{MASKS}/{rest}", f"{first}/{MASKS}/{rest}"]
    return next((place for place in places if Path(root, place).is_file()), None)


def image_paths(root: Path, folder: Path) -> list[str]:
    """The image files below `folder` as sorted paths relative to `root`, by torchvision's list of suffixes."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        start = "" if where == str(root) else f"{Path(where).relative_to(root).as_posix()}/"
        found += [f"{start}{file}" for file in files if file[:1] != "." and file.lower().endswith(IMG_EXTENSIONS)]
    return sorted(found)


def _base(root: Path) -> Path:
    if len(found := training_folders(root)) > 1:
        raise ValueError(f"{root} has {' and '.join(folder.name for folder in found)}: give the right one")
    return found[0] if found else root


def _class_names(base: Path, root: Path) -> list[str]:
    folders = [entry for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith(".")]
    names = sorted(e.name for e in folders if not is_held_out(e.name) and e.name.lower() != MASKS)
    if not names:
        raise ValueError(f"No class folders in {base}: expected {root.name}/<class>/<image>")
    return names


def _check_classes(root: Path, base: Path, found: Mapping[str, list[str]]) -> None:
    """ValueError for a class folder without images, and for folders that hold splits or classes."""
    start, owners = prefix(root, base), {}
    for name, paths in found.items():
        if not paths:
            raise ValueError(f"Class folder {base / name} holds no image: add images or remove the folder")
        folders = sorted({path.removeprefix(start).rpartition("/")[0] for path in paths})
        for parts in (folder.split("/") for folder in folders):
            if split := next(filter(split_of, parts), ""):
                above = Path(base, *parts[: parts.index(split)])
                raise ValueError(
                    f"{above / split} is a split, no part of a class: give {above} as the dataset, or rename the folder"
                )
        if name in folders:
            continue
        inner = {part for folder in folders for part in folder.split("/")[1:]}
        if len(found) == 1 and len(folders) > 1:
            where = base / os.path.commonpath(folders)
            raise ValueError(
                f"{base / name} holds no image, but folders: if they are the classes, give {where} as the dataset. "
                "If they are parts of one class, move their images up"
            )
        if len(shared := sorted(inner & owners.keys())) > 1:
            raise ValueError(
                f"{base / owners[shared[0]]} and {base / name} hold no images, but folders of the same names "
                f"({', '.join(shared[:3])}): if they are the classes, give the one with the training images as the "
                "dataset. If they are parts of the classes, move their images up"
            )
        owners |= dict.fromkeys(inner, name)
