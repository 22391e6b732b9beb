"""Labelled images to train, calibrate and check a classifier: which file is which class, and what is held out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..dataset import paths
from ..dataset.layouts import read_dataset

VALIDATION = paths.HELD_OUT - {"test"}
Labelled = tuple[Path, int]


@dataclass(frozen=True)
class LabelledSet:
    """Image files with the index of their class, for training and held out. Any layout of folders can give one."""

    class_names: tuple[str, ...]
    train: tuple[Labelled, ...]
    validation: tuple[Labelled, ...]

    def __post_init__(self):
        paths.check_class_names(self.class_names)
        if len(self.class_names) < 2:
            found = ", ".join(repr(name) for name in self.class_names) or "none"
            raise ValueError(
                f"A classifier needs at least 2 classes, found {found}. Add a folder of images for another"
            )
        counts = Counter(label for _, label in self.train)
        empty = [name for label, name in enumerate(self.class_names) if not counts[label]]
        if empty:
            raise ValueError(f"No training image of {', '.join(empty[:5])}. Add images, or remove the class")

    def counts(self) -> list[int]:
        """Training images of each class."""
        counts = Counter(label for _, label in self.train)
        return [counts[label] for label in range(len(self.class_names))]


def read_labelled(root: str | os.PathLike, validation_share: float = 0.2, seed: int = 0) -> LabelledSet:
    """Read ``root/<class>/...``, or ``root/train`` with ``root/val`` (valid, validation), or the training images of a
    layout that :func:`..dataset.layouts.read_dataset` knows; ``test`` is never read.

    Classes are in the layout's order (sorted names for class folders). Without a validation folder,
    ``validation_share`` of each class is held out, drawn by ``seed``: at least one image, unless the class has only
    one. A share of 0 holds out nothing. Of files with the same content only one is used; one that is in the
    validation folder is not trained on. ValueError for what cannot be trained on.
    """
    root = Path(root)
    if not 0 <= validation_share < 1:
        raise ValueError(f"The validation share must be at least 0 and below 1, got {validation_share}")
    _refuse_held_out(root)
    sources = read_dataset(root)
    if any(source.crop_bottom for source in sources.images):
        raise ValueError(
            f"The images of {root} ({sources.layout}) carry a banner that a classifier would learn. "
            "Cut it off, for instance with higfa export --format imagefolder --real copy"
        )
    names = sources.class_names
    train = [(root / source.path, source.label) for source in sources.images]
    entries = os.scandir(root) if sources.layout == "image folder" else ()
    folders = sorted(entry.name for entry in entries if entry.is_dir() and entry.name.lower() in VALIDATION)
    held_out = [item for folder in folders for item in _validation_files(root / folder, names)]
    unique = _without_copies([*held_out, *train], names)
    if folders:
        held = set(held_out)
        return LabelledSet(names, tuple(x for x in unique if x not in held), tuple(x for x in unique if x in held))
    return LabelledSet(names, *_split(root, unique, validation_share, seed))


def _refuse_held_out(root: Path) -> None:
    folder = root.absolute()
    paths.refuse_held_out(folder.name)
    for parent in folder.parents:  # any folder may be called "test", but one beside "train" is a split
        if (parent.parent / "train").is_dir():
            paths.refuse_held_out(parent.name)


def _validation_files(folder: Path, names: tuple[str, ...]) -> list[Labelled]:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ValueError(f"Class {unknown[0]!r} is in {folder}, but not in the training images. Correct its name")
    classes = {name: names.index(name) for name in found}
    files = make_dataset(folder, classes, IMG_EXTENSIONS, allow_empty=True) if classes else []
    files = [(Path(path), label) for path, label in files if not Path(path).name.startswith(".")]
    if not files:
        raise ValueError(f"No images in {folder}: expected {folder.name}/<class>/<image>. Fill or remove the folder")
    return files


def _without_copies(items: list[Labelled], names: tuple[str, ...]) -> list[Labelled]:
    """The first of each set of equal files. ValueError where equal files have different classes."""
    sizes = defaultdict(list)
    for item in items:
        sizes[item[0].stat().st_size].append(item)
    kept, clashes = set(), []
    for group in sizes.values():
        seen: dict[bytes, Labelled] = {}
        for path, label in group:
            # Only files of one size can be equal.
            content = hashlib.sha256(path.read_bytes()).digest() if len(group) > 1 else b""
            first = seen.setdefault(content, (path, label))
            if first[1] != label:
                clashes.append(f"{first[0]} ({names[first[1]]}) and {path} ({names[label]})")
        kept.update(seen.values())
    if clashes:
        more = f", and {len(clashes) - 1} more" if len(clashes) > 1 else ""
        raise ValueError(f"The same image is in two classes: {clashes[0]}{more}. Keep it in the right one")
    return [item for item in items if item in kept]


def _split(root: Path, items: list[Labelled], share: float, seed: int) -> tuple[tuple[Labelled, ...], ...]:
    classes = defaultdict(list)
    for item in items:
        classes[item[1]].append(item)
    held = set()
    for members in classes.values():
        wanted = min(max(int(len(members) * share + 0.5), 1), len(members) - 1) if share else 0
        # Ordered by a hash of the name, so that adding an image moves few others to the other side.
        held.update(sorted(members, key=lambda item: _draw(item[0].relative_to(root), seed))[:wanted])
    if share and not held:
        raise ValueError(
            f"No class in {root} has two different images, so none can be held out to stop and calibrate on. "
            "Add images, or set the validation share to 0 to train a fixed number of steps, uncalibrated"
        )
    return tuple(x for x in items if x not in held), tuple(x for x in items if x in held)


def _draw(path: Path, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{path.as_posix()}".encode()).digest()
