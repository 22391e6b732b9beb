"""The pictures of a review: small copies of the images, of the real ones and of their contours, made once.

They are kept in `.review/` in the dataset's folder, which nothing else reads and which may be deleted.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageOps

from ..contour import Extraction
from ..files.atomic import write_atomic
from ..files.hashes import canonical_json
from ..files.opening import opened
from ..files.paths import inside
from ..plans.plan_file import HEADER, PlanFile
from ..settings import settings_of
from .contours import contour

KEPT = ".review"
SIDES = {"small": 256, "large": 1024}  # pixels of the longer side; smaller pictures keep their size
KINDS = ("real", "contour", "made")
EXTRACT = "HiGFA_ExtractContour"
Roots = Callable[[str, str], Path | None]  # name and recorded folder of a set of real images -> where it is


class Pictures:
    """The pictures of the dataset in `folder`.

    Args:
        roots: Where the real images are; None where they may not be read.
    """

    def __init__(self, folder: Path, roots: Roots):
        self.folder, self._roots = folder, roots
        header = folder / HEADER
        self.plan = PlanFile(folder) if header.is_file() else None

    def kinds(self, row: Mapping) -> list[str]:
        """Those that there are of an image."""
        root = self._root(row)
        extraction = self._extraction if root and row.get("contour_source", row.get("source")) else None
        there = {"real": root and row.get("source"), "contour": extraction, "made": True}
        return [kind for kind in KINDS if there[kind]]

    def get(self, row: Mapping, kind: str, size: str) -> bytes:
        """A picture as WebP. ValueError if there is none, or it cannot be read."""
        root = self._root(row)
        path = self._place(row, kind, root)
        key = [kind, SIDES[size], path.name, path.stat().st_size, path.stat().st_mtime_ns]
        key += [row.get("transform"), str(self._extraction)] if kind == "contour" else []
        digest = hashlib.sha256(canonical_json(key).encode()).hexdigest()
        kept = inside(self.folder, f"{KEPT}/{digest[:2]}/{digest[2:32]}.webp")
        if kept.is_file():
            return kept.read_bytes()
        image = self._contour(row, path, root) if kind == "contour" and root else _read(path)
        data = _encoded(image, SIDES[size])
        try:
            write_atomic(kept, data)
        except OSError:  # a full disk or a read-only folder: the picture is there all the same
            return data
        return data

    def _place(self, row: Mapping, kind: str, root: Path | None) -> Path:
        if kind == "made":
            return inside(self.folder, row["file"])
        source = row.get("contour_source") or row.get("source") if kind == "contour" else row.get("source")
        if root is None or not source:
            raise ValueError(f"No {kind} picture: the real images are not where this page may read.")
        return inside(root, source)

    def _root(self, row: Mapping) -> Path | None:
        about = self.plan.header["dataset"] if self.plan else {}
        name = row.get("dataset") or about.get("name") or ""
        return self._roots(str(name), str(about.get("root") or ""))

    @cached_property
    def _extraction(self) -> Extraction | None:
        """How the contours were extracted; None if it was not by Extract Contour."""
        if self.plan is None:
            return Extraction()
        nodes = [node for node in self.plan.header["workflow"].values() if node.get("class_type") == EXTRACT]
        values = dict(nodes[0]["inputs"]) if nodes else {}
        given = {item.name: values.get(item.name, item.default) for item in settings_of(Extraction)}
        linked = any(isinstance(value, list) for value in given.values())
        return None if linked or not nodes else Extraction(**given)

    def _contour(self, row: Mapping, path: Path, root: Path) -> Image.Image:
        source = row.get("contour_source") or row["source"]
        about = self.plan.source(source) if self.plan and source in self.plan.header["sources"] else None
        extraction = self._extraction or Extraction()
        return contour(root, source, about, extraction, row.get("transform"), (row["height"], row["width"]))


def _read(path: Path) -> Image.Image:
    try:
        with opened(path) as found:
            return ImageOps.exif_transpose(found).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"Cannot read image {path.name} ({error}).") from error


def _encoded(image: Image.Image, side: int) -> bytes:
    buffer = io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, "WEBP", quality=82, lossless=max(image.size) <= 128, method=2)
    return buffer.getvalue()
