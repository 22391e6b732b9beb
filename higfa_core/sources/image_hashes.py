"""Content and perceptual hashes of image files; the perceptual ones, which are slow, are cached in a file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from ..files.atomic import write_atomic
from ..files.opening import opened
from ..files.reading import read_bytes, read_text

if TYPE_CHECKING:
    import numpy as np

SIDE = 8  # differences per row and per column: 2 x 64 bits
DRAFT = 32  # minimum side of a decoded JPEG, in pixels: an eighth of its size takes a tenth of the time
STEP, TEXTURE = 2, 24  # grey levels that count as a difference, and how many differences make an image not flat
THUMBNAIL = 32
BATCH = 4096
UNREADABLE = "-"


@dataclass(frozen=True)
class ImageHash:
    """Of one file: `sha256` of its content (hex) and `bits`, 32 hex digits that hardly change with size or quality.

    `bits` is empty for images so flat that it would mean nothing, and `UNREADABLE` for files that are not images.
    """

    sha256: str
    bits: str


class ImageHashes:
    """The hashes of files; the perceptual part is cached by content in the file `kept` (None: not at all)."""

    def __init__(self, kept: Path | None = None):
        self._kept = kept
        self._known = _read(kept) if kept else {}
        self._new = False

    def of(self, root: Path, paths: Sequence[str]) -> list[ImageHash]:
        """The hash of each file below `root`, on all processor cores."""
        found: list[ImageHash] = []
        with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 16))) as pool:
            for start in range(0, len(paths), BATCH):  # the pool would hold an object per waiting path
                found += pool.map(self._hash, (Path(root, path) for path in paths[start : start + BATCH]))
        fresh = {image.sha256: image.bits for image in found if image.sha256 not in self._known}
        self._known |= fresh
        self._new = self._new or bool(fresh)
        return found

    def keep(self) -> None:
        """Write what was found into the file."""
        if self._kept and self._new:
            lines = (f"{sha256} {bits}\n" for sha256, bits in sorted(self._known.items()))
            write_atomic(self._kept, "".join(lines).encode())

    def _hash(self, path: Path) -> ImageHash:
        try:
            content = read_bytes(path)
        except OSError as error:
            raise ValueError(f"Cannot read source file {path} ({error}). Was it moved?") from error
        sha256 = hashlib.sha256(content).hexdigest()
        bits = self._known.get(sha256)
        return ImageHash(sha256, _bits(content) if bits is None else bits)


def thumbnail(path: Path) -> np.ndarray:
    """The whole image at 32 x 32 pixels, RGB in 0..255, to compare two in detail."""
    import numpy as np  # here: a driver of servers, which reads plans, does not need it

    with opened(path) as image:
        image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
        small = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.float32)


def _bits(content: bytes) -> str:
    import numpy as np

    try:
        with opened(io.BytesIO(content)) as image:
            image.draft("L", (DRAFT, DRAFT))
            grey = ImageOps.exif_transpose(image).convert("L").resize((SIDE + 1, SIDE + 1), Image.Resampling.BOX)
    except Exception:  # decoders raise anything for a damaged file
        return UNREADABLE
    pixels = np.asarray(grey, dtype=np.int16)
    steps = np.concatenate([np.diff(pixels[:SIDE], axis=1).ravel(), np.diff(pixels[:, :SIDE], axis=0).ravel()])
    return np.packbits(steps > 0).tobytes().hex() if (np.abs(steps) >= STEP).sum() >= TEXTURE else ""


def _read(file: Path) -> dict[str, str]:
    """The cached hashes; malformed lines are ignored, and their hashes computed again."""
    try:
        lines = read_text(file, "ascii", "replace").split("\n")
    except OSError:
        return {}
    rows = (line.partition(" ") for line in lines)
    return {sha256: bits for sha256, space, bits in rows if space and len(sha256) == 64 and len(bits) in (0, 1, 32)}
