"""The input of every format, and how formats write."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..sources.source import SourceImage
from .collection import Collection, Item
from .pictures import IMAGE_FORMATS


@dataclass(frozen=True)
class Options:
    """The options of an export.

    `image_format`: see `.pictures`. `real`: also copy the real training images. `source`: their folder, if no plan
    names it or they were moved. `per_class`: only the first accepted images of each class. `all_images`: include those
    of plans that the present one replaced. `probability`: of a synthetic image in the mixing lists. `shard_size`:
    samples per WebDataset shard. `validation`: images in the folder of the real ones that are nobody's source.
    `check_against`: a trainer's own copy of the real images, whose file names must match the lists.
    """

    name: str = ""
    image_format: str = "keep"
    real: bool = False
    source: Path | None = None
    per_class: int | None = None
    all_images: bool = False
    probability: float = 0.5
    shard_size: int = 1000
    contact_sheets: bool = False
    validation: tuple[SourceImage, ...] = ()
    check_against: Path | None = None
    licence: str = ""
    checkpoint_licence: str = ""

    def __post_init__(self):
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(f"image_format must be one of {', '.join(IMAGE_FORMATS)}, got {self.image_format!r}")
        for name in ("per_class", "shard_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in 0..1, got {self.probability}")


@dataclass(frozen=True)
class Export:
    """One export: the images chosen from a collection, their destination (`out`) and `format`.

    `validation`: additional real images, in a split of their own.
    """

    collection: Collection
    options: Options
    format: str
    out: Path
    items: tuple[Item, ...]
    root: Path | None
    validation: tuple[Item, ...] = ()

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self.options.name or self.out.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The exact class names, in label order."""
        return self.collection.classes

    @property
    def splits(self) -> dict[str, tuple[Item, ...]]:
        """Split -> images, for the existing splits."""
        return {"train": self.items} | ({"validation": self.validation} if self.validation else {})

    def counts(self, synthetic: bool) -> Counter:
        """Class name -> exported images of the training split."""
        return Counter(item.row["class_name"] for item in self.items if item.row["synthetic"] == synthetic)

    def licences(self) -> tuple[str, str]:
        """The licences of the real images and of the checkpoint; "unknown" if not stated."""
        plan = self.collection.plan
        known = plan.get("licences") or {}
        source = self.options.licence or known.get("sources") or (plan.get("dataset") or {}).get("licence")
        return source or "unknown", self.options.checkpoint_licence or known.get("checkpoint") or "unknown"


def put(path: Path, data: bytes) -> None:
    """Write a file of an export, creating its folder. The whole export is made durable at its end."""
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def put_json(path: Path, value: object) -> None:
    """Write indented JSON."""
    put(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())
