"""Which images a check reads, and in what shape: squares of the size that the diffusion model generates."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..training.data import Labelled, LabelledSet
from ..wording import counted

PARTS = ("validation", "all")
BATCH_PIXELS = 4 * 512 * 512


def choose(dataset: LabelledSet, part: str, per_class: int, seed: int) -> list[Labelled]:
    """At most `per_class` images of each class, drawn by `seed`: of the held-out ones, or of all."""
    if part not in PARTS:
        raise ValueError(f"images_from must be {' or '.join(PARTS)}, got {part!r}.")
    if per_class < 1:
        raise ValueError(f"Invalid number of images per class: {per_class}. Ask for at least 1.")
    groups = defaultdict(list)
    for item in sorted(dataset.validation + (dataset.train if part == "all" else ())):
        groups[item.label].append(item)
    # One generator per class: adding or removing a class does not change what is drawn from the others.
    draw = {label: random.Random(f"{seed} {dataset.class_names[label]}") for label in groups}
    return [x for label, items in sorted(groups.items()) for x in draw[label].sample(items, min(per_class, len(items)))]


def class_indices(names: Sequence[str], classifier) -> list[int]:
    """The classifier's index of each class name; ValueError lists all unknown names."""
    indices, unknown, first = [], [], ""
    for name in names:
        try:
            indices.append(classifier.index(name))
        except ValueError as error:
            unknown.append(name)
            first = first or str(error)
    if unknown:
        listed = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise ValueError(
            f"The classifier does not know {len(unknown)} of {counted(len(names), 'class name')}: {listed}. "
            f"Rename them, or use a classifier of these classes. {first}"
        )
    return indices


def square(images: Tensor, size: int) -> Tensor:
    """The centre square of images [B, H, W, C], resized to `size` pixels, as a classifier's centre crop sees it."""
    side = min(images.shape[1:3])
    top, left = (images.shape[1] - side) // 2, (images.shape[2] - side) // 2
    images = images[:, top : top + side, left : left + side]
    if side == size:
        return images
    resized = F.interpolate(images.movedim(-1, 1).float(), size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1).movedim(1, -1)


def batch_size(size: int, pixels: int = BATCH_PIXELS) -> int:
    """How many images of that side, `pixels` in all, go through the networks at once."""
    return max(1, pixels // size**2)


def load_batches(files: Sequence[Labelled], size: int, pixels: int = BATCH_PIXELS) -> Iterator[Tensor]:
    """The image files as batches [B, size, size, 3] of `pixels` in all, read one batch at a time."""
    step = batch_size(size, pixels)
    for start in range(0, len(files), step):
        yield torch.cat([square(item.load(), size) for item in files[start : start + step]])
