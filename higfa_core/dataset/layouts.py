"""Class-per-folder image trees (torchvision's ImageFolder) as a sorted, immutable list of sources.

Accepted: ``root/<class>/...`` and ``root/train/<class>/...``; with ``train/`` only that part is used. Folders
named val, valid, validation or test are never sources. Masks are optional PNG files with the same relative
path in ``root/masks/``.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

HELD_OUT = frozenset({"val", "valid", "validation", "test"})
MASKS = "masks"
WINDOWS_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class SourceImage:
    """One real image; paths are relative to the dataset root, with forward slashes."""

    path: str
    class_name: str
    label: int
    mask: str | None = None


def prompt_name(class_name: str) -> str:
    """The class name as a prompt should spell it: ``003.Laysan_Albatross`` -> ``Laysan Albatross``.

    Drops a leading running number (CUB) or WordNet id (Stanford Dogs); numbers that belong to the name stay
    (``707-320``, ``2012 BMW``).
    """
    rest = re.sub(r"^(?:\d+[._]|n\d{8}[-_])", "", class_name)
    kept = rest if any(c.isalpha() for c in rest) else class_name
    return " ".join(kept.replace("_", " ").split())


def read_image_folder(root: str | Path) -> tuple[SourceImage, ...]:
    """All source images below ``root``, sorted by class name, then path. ValueError for an unusable tree."""
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"No dataset folder at {root}: it must hold one folder of images for each class")
    refuse_held_out(root.name)
    base = root / "train" if (root / "train").is_dir() else root
    names = _class_names(base, root)
    has_masks = (root / MASKS).is_dir() or (base / MASKS).is_dir()
    sources = []
    for label, name in enumerate(names):
        files = _image_files(base / name)
        if not files:
            raise ValueError(f"Class folder {base / name} holds no image: add images or remove the folder")
        for file in files:
            path = file.relative_to(root).as_posix()
            sources.append(SourceImage(path, name, label, find_mask(root, path) if has_masks else None))
    return tuple(sources)


def find_mask(root: str | Path, path: str) -> str | None:
    """The mask file of the image ``path`` (both relative to ``root``), or None."""
    png = PurePosixPath(path).with_suffix(".png").as_posix()
    places = [f"{MASKS}/{png}"]
    if png.startswith("train/"):
        rest = png.removeprefix("train/")
        places += [f"{MASKS}/{rest}", f"train/{MASKS}/{rest}"]
    return next((place for place in places if Path(root, place).is_file()), None)


def fingerprint(root: str | Path) -> str:
    """A value that changes when a file below ``root`` is added, removed, renamed or written."""
    digest = hashlib.sha256()
    for file in _walk(Path(root)):
        info = file.stat()
        digest.update(f"{file.as_posix()}\0{info.st_size}\0{info.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def inside(root: str | Path, relative: str) -> Path:
    """``root/relative``; ValueError when absolute, with ``..``, or leading out of ``root`` by a link."""
    parts = PurePosixPath(relative.replace("\\", "/")).parts  # a Windows server would see these
    anchored = PurePosixPath(relative).anchor or PureWindowsPath(relative).anchor or "\0" in relative
    if not parts or ".." in parts or anchored:
        raise ValueError(f"Path {relative!r} must be relative and without '..': it has to stay inside {root}")
    base, target = os.path.realpath(root), os.path.realpath(os.path.join(root, relative))
    # A path on another Windows drive has no common path at all, hence the drive comparison first.
    same_drive = os.path.splitdrive(base)[0] == os.path.splitdrive(target)[0]
    if not same_drive or os.path.commonpath((base, target)) != base:
        raise ValueError(f"Path {relative!r} leads outside {root} (a link?): copy the files into that folder")
    return Path(root, relative)


def refuse_held_out(*parts: str) -> None:
    """ValueError when a path part names a validation or test split."""
    for part in parts:
        if part.lower() in HELD_OUT:
            raise ValueError(
                f"Folder {part!r} is a validation or test split and can never be a source: choose the training images"
            )


def check_class_names(names: Sequence[str]) -> None:
    """ValueError unless every class name can be a folder on every system, and no two would share one."""
    seen: dict[str, str] = {}
    for name in names:
        if not name:
            raise ValueError("No class given: connect a job or type a class_name")
        if flaw := name_flaw(name):
            raise ValueError(f"Class {name!r} {flaw} and cannot be a folder name: rename the class")
        twin = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            raise ValueError(f"Classes {twin!r} and {name!r} are one folder on Windows and macOS: rename one")


def name_flaw(name: str) -> str:
    """Why ``name`` cannot be a folder on Linux, macOS and Windows alike; empty when it can."""
    if re.search(r'[\x00-\x1f\x7f<>:"/\\|?*]', name):
        return 'has a slash, a control character or one of <>:"|?*'
    if not name or name[0] == "." or name[-1] in ". " or name[0] == " ":
        return "is empty, begins with a dot or space, or ends with one"
    if name.split(".")[0].rstrip().lower() in WINDOWS_NAMES:
        return "is reserved by Windows"
    return "is too long" if len(name.encode()) > MAX_NAME_BYTES else ""


def load_image(path: str | Path) -> Tensor:
    """Image file -> [1, H, W, 3] float32 in 0..1, turned as its EXIF tag says. ValueError if unreadable."""
    return torch.from_numpy(_pixels(path, "RGB"))[None]


def load_mask(path: str | Path, height: int, width: int) -> Tensor:
    """Mask file -> [1, H, W] float32 in 0..1, 1 = foreground. ValueError when the size is not the image's."""
    mask = torch.from_numpy(_pixels(path, "L"))[None]
    if mask.shape != (1, height, width):
        size = f"{mask.shape[2]}x{mask.shape[1]}"
        raise ValueError(f"Mask {path} is {size} pixels, its image {width}x{height}: they must be equal")
    return mask


def _pixels(path: str | Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits a pixel: convert() would clip instead of scale
                image = Image.fromarray((np.asarray(image) / 65535 * 255).clip(0, 255).astype(np.uint8))
            return np.asarray(image.convert(mode), dtype=np.float32) / 255
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL: SyntaxError for a broken PNG
        raise ValueError(f"Cannot read image {path} ({error}): replace or remove the file") from error


def _class_names(base: Path, root: Path) -> list[str]:
    folders = [entry for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith(".")]
    reserved = HELD_OUT | {MASKS}
    names = sorted(entry.name for entry in folders if entry.name.lower() not in reserved)
    if not names:
        raise ValueError(f"No class folders in {base}: expected {root.name}/<class>/<image>")
    return names


def _walk(folder: Path) -> list[Path]:
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in files if not name.startswith(".")]
    return sorted(found, key=Path.as_posix)


def _image_files(folder: Path) -> list[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return [file for file in _walk(folder) if file.suffix.lower() in IMG_EXTENSIONS]
