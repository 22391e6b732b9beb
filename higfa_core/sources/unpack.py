"""The images in the Parquet files of a Hub clone, as files with a table of their labels."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from ..files.atomic import write_atomic
from ..files.names import class_name
from ..files.paths import split_of
from .layouts.packed import image_column, rows_with_images
from .tree import Tree

LABELS = ("label", "labels", "class", "fine_label", "target", "category", "species")
METADATA = "metadata.jsonl"
ROWS = 256  # read at a time: images are large


def unpack(root: Path, out: Path, label_column: str = "") -> dict[str, int]:
    """Write the images of all Parquet files below `root` into `out`/<split>/, labels into `out`/metadata.jsonl.

    Returns split -> number of images. `label_column`: needed only if it has an unusual name. ValueError when there is
    nothing to unpack, `out` is not empty, or the label column is ambiguous.
    """
    tree = Tree(root)
    files = [path for path in tree.others if path.lower().endswith(".parquet") and rows_with_images(root / path)]
    if not files:
        raise ValueError(f"No Parquet file below {root} holds images, so there is nothing to unpack. Name the clone.")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty. Name a new folder.")
    counts: dict[str, int] = {}
    rows: list[str] = []
    for file in files:
        split = _split(file)
        for suffix, content, label in _images(root / file, label_column):
            number = counts[split] = counts.get(split, 0) + 1
            name = f"{split}/{number - 1:08d}{suffix}"
            write_atomic(out / name, content)
            rows.append(json.dumps({"file_name": name, "label": label}, ensure_ascii=False))
    write_atomic(out / METADATA, "".join(f"{row}\n" for row in rows).encode())
    return counts


def _split(file: str) -> str:
    """The split that a file's name begins with, as the Hub writes it: `train-00000-of-00004.parquet`."""
    name, folder = Path(file).stem, Path(file).parent.name
    for part in (name.split("-")[0], folder):
        if kind := split_of(part):
            return kind
    if "test" in name or "val" in name:
        raise ValueError(f"{file} is of a split that its name does not tell. Rename it to train-... or test-....")
    return "train"


def _images(file: Path, label_column: str) -> Iterator[tuple[str, bytes, object]]:
    """Suffix, content and label of every image of a Parquet file."""
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)
    column = image_column(opened.schema_arrow)
    label = _label_column(file, opened.schema_arrow.names, column, label_column)
    names = _class_names(opened.schema_arrow, label)
    for batch in opened.iter_batches(ROWS, columns=[column, label]):
        for row in batch.to_pylist():
            content = row[column]["bytes"] if isinstance(row[column], dict) else row[column]
            if not content:
                raise ValueError(f"{file} names an image, but does not contain it. Download the whole dataset.")
            yield _suffix(content, file), content, _named(row[label], names)


def _label_column(file: Path, columns: list[str], image: str, given: str) -> str:
    others = [name for name in columns if name != image]
    found = [name for name in ((given,) if given else LABELS) if name in others] or (others if len(others) == 1 else [])
    if not found:
        raise ValueError(f"{file} has the columns {', '.join(columns)}. Choose the label with --label-column.")
    return found[0]


def _class_names(schema, label: str) -> list[str]:
    """The names of a ClassLabel, which `datasets` keeps in the file's metadata."""
    notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return [class_name(name) for name in notes.get("info", {}).get("features", {}).get(label, {}).get("names") or ()]


def _named(label: object, names: list[str]) -> object:
    """The name of a class where its number has one; `datasets` writes -1 where there is no label."""
    return names[label] if names and isinstance(label, int) and 0 <= label < len(names) else label


def _suffix(content: bytes, file: Path) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return {"JPEG": ".jpg", "TIFF": ".tif"}.get(image.format or "", f".{(image.format or 'png').lower()}")
    except OSError as error:
        raise ValueError(f"{file} contains an unreadable image ({error}). Download it again.") from error
