"""Images that are in two splits or in two classes: as identical files, or as nearly identical images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .image_hashes import UNREADABLE, ImageHash, ImageHashes, thumbnail
from .ledger import Ledger, merged
from .source import SourceDataset

if TYPE_CHECKING:
    import numpy as np

NEAR_BITS = 8  # of 128 that may differ: two hashes that near mostly share one of their eight bands of 16 bits
REACH = 256  # in the order of a band, the maximum distance at which two hashes with the same band are compared
NEAR_PIXELS, NEAR_LIKENESS = 10.0, 0.97  # of thumbnails: mean difference in 0..255, and correlation
IDENTICAL, NEAR = "identical", "nearly identical"


@dataclass(frozen=True)
class Leak:
    """A training image `path` that is also `other`, which is held out (no `other_class`) or of another class."""

    path: str
    class_name: str
    other: str
    other_class: str = ""
    kind: str = IDENTICAL

    def __str__(self) -> str:
        where = f"class {self.other_class!r}" if self.other_class else "held out"
        return f"{self.path} (class {self.class_name!r}) and {self.other} ({where}) are {self.kind}"


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting all images: leaks, unreadable files, and the SHA-256 of each file."""

    leaks: tuple[Leak, ...]
    unreadable: tuple[str, ...]
    sha256: dict[str, str]


def inspect(dataset: SourceDataset, hashes: ImageHashes) -> Inspection:
    """Inspect all images of a dataset, including the held-out ones."""
    root = Path(dataset.root)
    paths = [image.path for image in dataset.images]
    classes = {image.path: image.class_name for image in dataset.images}
    # A layout may list a held-out image by a path that differs from its file's.
    others = [path for path in dataset.held_out_images if path not in classes]
    found = dict(zip([*paths, *others], hashes.of(root, [*paths, *others])))
    pairs = [*identical(found, classes), *near(root, found, classes)]
    unreadable = tuple(path for path in paths if found[path].bits == UNREADABLE)
    return Inspection(tuple(_leaks(pairs, classes)), unreadable, {path: found[path].sha256 for path in paths})


def without_leaks(dataset: SourceDataset, inspection: Inspection, keep_leaks: bool = False) -> SourceDataset:
    """The dataset without images that leak or are unreadable. ValueError when a class would have none left."""
    ledger = Ledger()
    ledger.add_all("unreadable", inspection.unreadable)
    leaks = {} if keep_leaks else {leak.path: leak for leak in reversed(inspection.leaks)}
    for path in sorted(leaks.keys() - set(inspection.unreadable)):
        ledger.add("in two classes" if leaks[path].other_class else "held out as well", path)
    dropped = leaks.keys() | set(inspection.unreadable)
    images = tuple(image for image in dataset.images if image.path not in dropped)
    _refuse_emptied(dataset, images, leaks, dropped)
    return replace(dataset, images=images, left_out=merged(dataset.left_out, ledger.entries()))


def _refuse_emptied(dataset: SourceDataset, images: Sequence, leaks: dict[str, Leak], dropped: set[str]) -> None:
    kept = {image.class_name for image in images}
    for image in dataset.images:
        if image.class_name not in kept:
            why = str(leaks.get(image.path) or f"{image.path} cannot be read")
            raise ValueError(
                f"No image of class {image.class_name!r} in {dataset.root} is left: {why}. Correct that, or keep such "
                "images with --leaks report."
            )


def identical(found: dict[str, ImageHash], classes: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Pairs of paths whose files are identical and whose `classes` differ; what has none counts as one class."""
    same = defaultdict(list)
    for path, image in found.items():
        if image.bits != UNREADABLE:
            same[image.sha256].append(path)
    for group in same.values():
        kinds: dict[str | None, str] = {}
        for path in group:
            kinds.setdefault(classes.get(path), path)
        if len(kinds) > 1:
            for path in group:
                yield path, next(other for kind, other in kinds.items() if kind != classes.get(path)), IDENTICAL


def near(root: Path, found: dict[str, ImageHash], classes: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """The same for images that look nearly identical; each pair in both orders."""
    import numpy as np  # here: a driver of servers, which reads plans, does not need it

    paths = [path for path, image in found.items() if len(image.bits) == 32]
    if len(paths) < 2:
        return
    bits = np.frombuffer(bytes.fromhex("".join(found[path].bits for path in paths)), dtype=np.uint8).reshape(-1, 16)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(classes.values()), 1)}
    kinds = np.array([numbers.get(classes.get(path, ""), 0) for path in paths])
    look = lru_cache(maxsize=4096)(lambda path: thumbnail(root / path))
    for first, second in sorted(_candidates(bits, kinds)):
        a, b = paths[first], paths[second]
        if found[a].sha256 != found[b].sha256 and _alike(look(a), look(b)):
            yield a, b, NEAR
            yield b, a, NEAR


def _candidates(bits: np.ndarray, kinds: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of rows of different kinds whose bits [N, 16] differ in few places."""
    import numpy as np

    pairs: set[tuple[int, int]] = set()
    bands = bits.view(">u2")
    counts = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)
    for band in range(bands.shape[1]):
        rest = [bands[:, (band + step) % bands.shape[1]] for step in range(bands.shape[1])]
        order = np.lexsort(rest[::-1])
        values = bands[order, band]
        for step in range(1, min(REACH, len(order))):
            same = values[step:] == values[:-step]
            if not same.any():
                break
            a, b = order[:-step][same], order[step:][same]
            a, b = a[kinds[a] != kinds[b]], b[kinds[a] != kinds[b]]
            near = counts[bits[a] ^ bits[b]].sum(axis=1) <= NEAR_BITS
            pairs.update(zip(np.minimum(a, b)[near].tolist(), np.maximum(a, b)[near].tolist()))
    return pairs


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    import numpy as np

    if np.abs(first - second).mean() > NEAR_PIXELS:
        return False
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return bool(size > 0 and (first * second).sum() / size >= NEAR_LIKENESS)


def _leaks(pairs: Sequence[tuple[str, str, str]], classes: dict[str, str]) -> Iterator[Leak]:
    """One leak per training image: an identical file before a similar one, a held-out image before another class."""
    best: dict[str, tuple] = {}
    for path, other, kind in pairs:
        if path in classes:
            rank = (kind != IDENTICAL, other in classes, other)
            best[path] = min(best.get(path, (rank, other, kind)), (rank, other, kind))
    for path in sorted(best):
        _, other, kind = best[path]
        yield Leak(path, classes[path], other, classes.get(other, ""), kind)
