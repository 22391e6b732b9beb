"""What is compared: the real images of a labelled set, and the synthetic ones made for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..classifier import names
from ..exports.collection import read_collection
from ..sources.layouts import read_dataset
from ..store.manifest import Manifest
from ..training.data import MANIFEST, Labelled, read_labelled
from ..wording import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A synthetic image, the label it is meant to have, and its row where the dataset has a manifest."""

    image: Labelled
    row: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Both sets, with labels in the order of the real one's `class_names`.

    `real` are training images. `judged`: labelled real images to try a judge on, held out where there are any.
    `held_out`: files of other splits, which no synthetic image may repeat.
    """

    class_names: tuple[str, ...]
    real: tuple[Labelled, ...]
    judged: tuple[Labelled, ...]
    held_out: tuple[Path, ...]
    made: tuple[Made, ...]

    @property
    def labels(self) -> list[int]:
        """Those of the synthetic images."""
        return [made.image.label for made in self.made]


def read_pair(real: Path, synthetic: Path, **layout: Any) -> Pair:
    """Read both folders. ValueError if either is unusable or a synthetic class is not one of the real ones.

    `synthetic` is a dataset of ours, of which the accepted images count, an export of one, or any labelled set.
    `layout`: of the real images, as `..sources.layouts.read_dataset` takes it.
    """
    found, sources = read_labelled(real, 0.0, **layout), read_dataset(real, **layout)
    made = made_in(synthetic)
    place = f"the real images in {real}"
    known = {name: names.index(name, found.class_names, place) for name in dict.fromkeys(name for _, name, _ in made)}
    wanted = tuple(Made(Labelled(path, known[name]), row) for path, name, row in made)
    inside = {item.path for item in found.train}
    if both := [made.image.path for made in wanted if made.image.path in inside]:
        raise ValueError(f"{both[0]} is a real and a synthetic image at once. Give two different folders.")
    out = [item.path for item in found.validation]
    files = {*out, *(path for name in sources.held_out_images if (path := Path(sources.root, name)).is_file())}
    log.info("%s and %s", counted(len(found.train), "real image"), counted(len(wanted), "synthetic image"))
    return Pair(found.class_names, found.train, found.validation or found.train, tuple(sorted(files)), wanted)


def made_in(folder: Path) -> list[tuple[Path, str, Mapping]]:
    """(file, class name, row) of the synthetic images in a folder; rows are empty where there is no manifest.
    ValueError if there are none, or one of them is missing."""
    found = _of_manifest(folder) if (folder / MANIFEST).is_file() else _of_layout(folder)
    if not found:
        raise ValueError(f"No synthetic image in {folder}. Give a folder that has some.")
    return found


def _of_manifest(folder: Path) -> list[tuple[Path, str, Mapping]]:
    """The accepted images of a dataset of ours or of an export, without the real ones that an export may hold."""
    if (folder / "dataset.json").is_file() or (folder / "plan.json").is_file():
        return [(item.path, item.row["class_name"], item.row) for item in read_collection([folder]).items]
    manifest = Manifest(folder)
    if lost := manifest.missing():
        raise ValueError(f"{folder / lost[0]['file']} is missing. Export the dataset again, or give its own folder.")
    rows = [row for row in manifest if row["accepted"] and row.get("synthetic", True)]
    return [(folder / row["file"], row["class_name"], row) for row in rows]


def _of_layout(folder: Path) -> list[tuple[Path, str, Mapping]]:
    found = read_dataset(folder, follow_links=True)
    return [(Path(found.root, image.path), image.class_name, {}) for image in found.images]
