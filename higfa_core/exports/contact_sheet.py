"""Contact sheets: per class, real images and the images made from them, with score and seed, as JPEG pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..files.opening import opened
from ..files.paths import folder_name, inside
from .base import Export
from .collection import Item

CELL, CAPTION, GAP = 160, 30, 4
RESULTS, ROWS = 6, 8  # a page is at most 1,152 x 1,586 pixels
Row = tuple[str, list[Item]]


def write_sheets(folder: Path, export: Export) -> int:
    """Write `<class>-001.jpg` and so on; returns how many. Sources are drawn if they are readable."""
    pages, by_class = 0, defaultdict(list)
    for item in export.items:
        if item.row["synthetic"]:
            by_class[item.row["class_name"]].append(item)
    for name, items in by_class.items():
        rows = list(sheet_rows(items))
        for number, start in enumerate(range(0, len(rows), ROWS), 1):
            folder.mkdir(exist_ok=True)
            page = draw_page(f"{name}, page {number}", rows[start : start + ROWS], export.root)
            page.save(folder / f"{folder_name(name)}-{number:03d}.jpg", quality=85)
            pages += 1
    return pages


def sheet_rows(items: Sequence[Item]) -> Iterator[Row]:
    """(source, its results): at most `RESULTS` per row; a source with more gets several rows."""
    by_source = sorted(items, key=lambda item: item.row["source"] or "")
    for source, group in groupby(by_source, lambda item: item.row["source"] or ""):
        while some := list(islice(group, RESULTS)):
            yield source, some


def draw_page(title: str, rows: Sequence[Row], root: Path | None) -> Image.Image:
    """One page; reads only the images on it."""
    width, height = (RESULTS + 1) * (CELL + GAP) + GAP, len(rows) * (CELL + CAPTION + GAP) + CAPTION
    page = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()
    _text(draw, (GAP, GAP * 2), title, font)
    for y, (source, items) in zip(range(CAPTION, height, CELL + CAPTION + GAP), rows):
        path = _source_path(root, source)
        cells = [(path, Path(source).name or "no source"), *((item.path, caption(item.row)) for item in items)]
        for x, (file, text) in zip(range(GAP, width, CELL + GAP), cells):
            if file:
                page.paste(_thumbnail(file), (x, y))
            else:
                draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline="grey")
            _text(draw, (x, y + CELL + 1), text, font)
    return page


def caption(row: Mapping) -> str:
    """Scores on one line, the seed on the next."""
    known = (("guide", row["scores"].get("confidence")), ("judge", row["scores"].get("judge_confidence")))
    scores = "  ".join(f"{name} {value:.3f}" for name, value in known if value is not None)
    return f"{scores or 'no score'}\n{'no seed' if row['seed'] is None else row['seed']}"


def _source_path(root: Path | None, source: str) -> Path | None:
    path = inside(root, source) if root and source else None
    return path if path and path.is_file() else None


def _thumbnail(path: Path) -> Image.Image:
    try:
        with opened(path) as found:
            return ImageOps.pad(ImageOps.exif_transpose(found).convert("RGB"), (CELL, CELL), color="white")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"Cannot read image {path} ({error}). Replace it, or omit contact sheets.") from error


def _text(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font) -> None:
    lines = [line[:26] if "\n" in text else line for line in text.splitlines()]
    shown = "\n".join(lines).encode("latin-1", "replace").decode("latin-1")  # all that Pillow's own font has
    draw.multiline_text(place, shown, fill="black", font=font, spacing=2)
