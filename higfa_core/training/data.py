"""Labelled images to train, calibrate and check a classifier: which file is which class, and what is held out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..files import paths
from ..files.images import load_image
from ..files.names import class_name
from ..files.reading import read_bytes
from ..sources import held_out
from ..sources.layouts import read_split
from ..sources.source import SourceDataset
from ..store.rows import Tail, parse_row

MANIFEST = "manifest.jsonl"  # of our datasets and exports


class Labelled(NamedTuple):
    """An image file, the index of its class, and how many rows at its bottom are a banner."""

    path: Path
    label: int
    crop_bottom: int = 0

    def load(self) -> Tensor:
        """The image [1, H, W, 3] in 0..1, without the banner. ValueError if unreadable."""
        return load_image(self.path, self.crop_bottom)


@dataclass(frozen=True)
class LabelledSet:
    """Training and held-out images, from any layout of folders.

    `to_list`: held-out files below `root`, and copies of them, that could still become sources because no
    `held_out.txt` names all of them; empty where one does.
    """

    class_names: tuple[str, ...]
    train: tuple[Labelled, ...]
    validation: tuple[Labelled, ...]
    root: Path = Path()
    to_list: tuple[Path, ...] = ()

    def __post_init__(self):
        paths.check_class_names(self.class_names)
        if len(self.class_names) < 2:
            found = ", ".join(repr(name) for name in self.class_names) or "none"
            raise ValueError(
                f"A classifier needs at least 2 classes, found {found}. Add a folder of images for another."
            )
        counts = Counter(item.label for item in self.train)
        empty = [name for label, name in enumerate(self.class_names) if not counts[label]]
        if empty:
            raise ValueError(f"No training image of {', '.join(empty[:5])}. Add images, or remove the class.")

    def counts(self) -> list[int]:
        """Training images per class."""
        counts = Counter(item.label for item in self.train)
        return [counts[label] for label in range(len(self.class_names))]

    def keep_split(self) -> Path | None:
        """List the held-out images in their folder, so that none becomes a source (see `..sources.held_out`).

        Returns the list's file; None when there is nothing to list.
        """
        if not self.to_list:
            return None
        return held_out.add(self.root, [path.relative_to(self.root).as_posix() for path in self.to_list])


def read_labelled(root: str | os.PathLike, validation_share: float = 0.2, seed: int = 0, **layout: Any) -> LabelledSet:
    """Read `root/<class>/...`, or `root/train` with `root/val` (or other names that `..files.paths.split_of` knows),
    or the training images of a layout that `..sources.layouts.read_dataset` knows; `test` is never read.
    `layout`: its name and options, as that function takes them.

    Classes are in the layout's order (sorted names for class folders). The images of the validation folder and of a
    `held_out.txt` are held out; without either, `validation_share` of each class, drawn by `seed`: at least one
    image, unless the class has only one. A share of 0 holds out nothing. Files with the same content are used once
    and never trained on if one of them is held out. ValueError for an unusable set.
    """
    root = Path(os.path.abspath(root))
    if not 0 <= validation_share < 1:
        raise ValueError(f"The validation share must be at least 0 and below 1, got {validation_share}.")
    paths.refuse_inside_held_out(root)
    sources, listed = read_split(root, **layout)
    names, listed = sources.class_names, {root / path for path in listed}
    items = [Labelled(root / source.path, source.label, source.crop_bottom) for source in sources.images]
    entries = [entry for entry in os.scandir(root) if entry.is_dir()] if sources.layout == "image folder" else ()
    folders = sorted(entry.name for entry in entries if paths.split_of(entry.name) == "validation")
    validation = _validation_images(sources, folders) if sources.layout == "image folder" else []
    groups = _groups_of_copies([*validation, *items], names)
    if validation_share and not validation and not listed:
        _refuse_synthetic(root)
        held = _draw_share(root, groups, validation_share, seed)
    else:
        out = {*validation, *(item for item in items if item.path in listed)}
        held = {group[0] for group in groups if out.intersection(group)}
    train, out = (tuple(group[0] for group in groups if (group[0] in held) == side) for side in (False, True))
    files = {item.path for group in groups if group[0] in held for item in group} - {x.path for x in validation}
    return LabelledSet(names, train, out, root, () if files == listed else tuple(sorted(files)))


def _refuse_synthetic(root: Path) -> None:
    tail = Tail(root / MANIFEST)
    while lines := tail.lines()[0]:
        if any(map(parse_row, lines)):
            raise ValueError(
                f"{root} holds synthetic images ({MANIFEST}), which must not be held out for validation. Add "
                "val/<class>/ with real images that are not sources, or set the validation share to 0."
            )


def _validation_images(sources: SourceDataset, folders: list[str]) -> list[Labelled]:
    """The validation images of a tree of class folders, with their classes."""
    names, found = sources.class_names, []
    for path in sources.held_out_images:
        parts = path.split("/")[:-1]
        split = next(filter(paths.is_held_out, parts))
        if paths.split_of(split) == "validation":
            inner = next((part for part in parts[parts.index(split) :] if not paths.is_held_out(part)), "")
            if (name := class_name(inner)) not in names:
                folder = Path(sources.root, *parts[: parts.index(split) + 1])
                raise ValueError(f"Class {name!r} is in {folder}, but not in the training images. Correct its name.")
            found.append(Labelled(Path(sources.root, path), names.index(name)))
    if folders and not found:
        place = sources.root / folders[0]
        raise ValueError(f"No images in {place}: expected {place.name}/<class>/<image>. Fill or remove the folder.")
    return found


def _groups_of_copies(items: list[Labelled], names: tuple[str, ...]) -> list[list[Labelled]]:
    """The items, identical files grouped. ValueError where identical files have different classes."""
    sizes = [item.path.stat().st_size for item in items]
    alike = Counter(sizes)
    groups: dict[object, list[Labelled]] = {}
    for item, size in zip(items, sizes):
        # Only files of the same size can be identical.
        content = hashlib.sha256(read_bytes(item.path)).digest() if alike[size] > 1 else size
        groups.setdefault(content, []).append(item)
    clashes = [(group[0], other) for group in groups.values() for other in group if other.label != group[0].label]
    if clashes:
        first, second = clashes[0]
        more = f", and {len(clashes) - 1} more" if len(clashes) > 1 else ""
        raise ValueError(
            f"The same image is in two classes: {first.path} ({names[first.label]}) and {second.path} "
            f"({names[second.label]}){more}. Keep it in the correct one."
        )
    return list(groups.values())


def _draw_share(root: Path, groups: list[list[Labelled]], share: float, seed: int) -> set[Labelled]:
    classes = defaultdict(list)
    for group in groups:
        classes[group[0].label].append(group[0])
    held = set()
    for members in classes.values():
        wanted = min(max(int(len(members) * share + 0.5), 1), len(members) - 1)
        # Ordered by a hash of the path, so that adding an image moves few others across the split.
        held.update(sorted(members, key=lambda item: _draw(item.path.relative_to(root), seed))[:wanted])
    if not held:
        raise ValueError(
            f"No class in {root} has two different images, so none can be held out for stopping and calibration. "
            "Add images, or set the validation share to 0 to train a fixed number of steps, uncalibrated."
        )
    return held


def _draw(path: Path, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{path.as_posix()}".encode()).digest()
