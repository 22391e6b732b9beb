"""Class-per-folder image trees (torchvision's ImageFolder).

``root/<class>/...`` or ``root/train/<class>/...``; with ``train/`` only that part is used. Masks are optional PNG
files with the same relative path in ``root/masks/``.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from ..paths import HELD_OUT
from ..source import ClassInfo, SourceDataset, SourceImage, prompt_name
from .lists import check_folder

TITLE = "image folder"
MASKS = "masks"
# torchvision's, whose import would cost a plan more time and memory than the plan itself.
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def read(root: Path) -> SourceDataset:
    """All training images below ``root``, sorted by class name, then path. ValueError for an unusable tree."""
    check_folder(root)
    base = root / "train" if (root / "train").is_dir() else root
    names = _class_names(base, root)
    has_masks = (root / MASKS).is_dir() or (base / MASKS).is_dir()
    images = []
    for label, name in enumerate(names):
        paths = image_paths(root, base / name)
        if not paths:
            raise ValueError(f"Class folder {base / name} holds no image: add images or remove the folder")
        masks = (find_mask(root, path) if has_masks else None for path in paths)
        images += [SourceImage(path, name, label, mask) for path, mask in zip(paths, masks)]
    evidence = f"{len(names)} class folders in {'train/' if base != root else 'it'}"
    classes = tuple(ClassInfo(name, prompt_name(name)) for name in names)
    held_out = sum(len(image_paths(root, root / e.name)) for e in os.scandir(root) if e.name.lower() in HELD_OUT)
    return SourceDataset(root, TITLE, evidence, classes, tuple(images), held_out)


def find_mask(root: str | Path, path: str) -> str | None:
    """The mask file of the image ``path`` (both relative to ``root``), or None."""
    png = PurePosixPath(path).with_suffix(".png").as_posix()
    places = [f"{MASKS}/{png}"]
    if png.startswith("train/"):
        rest = png.removeprefix("train/")
        places += [f"{MASKS}/{rest}", f"train/{MASKS}/{rest}"]
    return next((place for place in places if Path(root, place).is_file()), None)


def image_paths(root: Path, folder: Path) -> list[str]:
    """The image files below ``folder`` as sorted paths relative to ``root``, by torchvision's list of suffixes."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        start = "" if where == str(root) else f"{Path(where).relative_to(root).as_posix()}/"
        found += [f"{start}{file}" for file in files if file[:1] != "." and file.lower().endswith(IMG_EXTENSIONS)]
    return sorted(found)


def _class_names(base: Path, root: Path) -> list[str]:
    folders = [entry for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith(".")]
    reserved = HELD_OUT | {MASKS}
    names = sorted(entry.name for entry in folders if entry.name.lower() not in reserved)
    if not names:
        raise ValueError(f"No class folders in {base}: expected {root.name}/<class>/<image>")
    return names
