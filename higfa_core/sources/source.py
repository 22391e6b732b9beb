"""A labelled image set of the user's: classes and training images, whatever its layout on disk."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.paths import check_class_names, refuse_held_out
from .ledger import LeftOut

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ClassInfo:
    """A class: its exact name (the label), the words a prompt should use for it, and what it is a kind of."""

    name: str
    prompt: str
    super_class: str = ""


@dataclass(frozen=True)
class SourceImage:
    """One real training image; paths are relative to the dataset root, with forward slashes.

    `box`: the object as (x, y, width, height) in pixels of the image from `load_source`, that is without its lowest
    `crop_bottom` rows. `mask_values`: the grey values of the mask file that mean foreground; without them its
    brightness is the mask.
    """

    path: str
    class_name: str
    label: int
    mask: str | None = None
    mask_values: tuple[int, ...] = ()
    box: Box | None = None
    crop_bottom: int = 0


@dataclass(frozen=True)
class SourceDataset:
    """The training part of a labelled image set. Validation and test images are counted but are never sources.

    `layout`: which one was recognised, `evidence`: by what. `classes` are in label order. `licence` is empty where the
    layout states none. `held_out`: how many images belong to other splits; `held_out_images`: those of them that exist.
    `numbers`: those of the classes, where the layout labels images with whole numbers; unless they are 0, 1, 2 ..., the
    labels differ from them. `left_out`: the remaining files, and why.
    """

    root: Path
    layout: str
    evidence: str
    classes: tuple[ClassInfo, ...]
    images: tuple[SourceImage, ...]
    held_out: int = 0
    licence: str = ""
    numbers: tuple[int, ...] = ()
    held_out_images: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self):
        check_class_names(self.class_names)
        refuse_held_out(Path(self.root).name)
        paths = Counter(image.path for image in self.images)
        if twice := [path for path, count in paths.items() if count > 1]:
            raise ValueError(f"{self.layout}: {twice[0]} is listed twice. Remove one of the entries.")
        for image in self.images:
            if not 0 <= image.label < len(self.classes) or self.classes[image.label].name != image.class_name:
                raise ValueError(f"{self.layout}: {image.path} has label {image.label}, not {image.class_name!r}")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The exact names, in label order."""
        return tuple(info.name for info in self.classes)

    @cached_property
    def by_path(self) -> dict[str, SourceImage]:
        """The images by their paths."""
        return {image.path: image for image in self.images}

    def counts(self) -> dict[str, int]:
        """Class name -> number of training images, in label order."""
        counts = Counter(image.class_name for image in self.images)
        return {name: counts[name] for name in self.class_names}


def prompt_name(class_name: str) -> str:
    """The class name as a prompt should spell it: `003.Laysan_Albatross` -> `Laysan Albatross`.

    Drops a leading serial number (CUB) or WordNet id (Stanford Dogs); numbers that belong to the name stay
    (`707-320`, `2012 BMW`).
    """
    rest = re.sub(r"^(?:\d+[._]|n\d{8}[-_])", "", class_name)
    kept = rest if any(c.isalpha() for c in rest) else class_name
    return " ".join(kept.replace("_", " ").split())


def load_source(root: str | Path, image: SourceImage) -> tuple[Tensor, Tensor | None]:
    """The image [1, H, W, 3] and its mask [1, H, W] or None, float32 in 0..1, cropped alike."""
    import torch  # here: planning 100,000 jobs should not take up torch's memory

    from ..files.images import load_image, load_mask

    pixels = load_image(Path(root, image.path), image.crop_bottom)
    height, width = pixels.shape[1:3]
    mask = load_mask(Path(root, image.mask), height + image.crop_bottom, width) if image.mask else None
    if mask is not None and image.mask_values:
        values = torch.tensor(image.mask_values)
        mask = torch.isin((mask * 255).round().long(), values).float()
    return pixels, None if mask is None else mask[:, :height]
