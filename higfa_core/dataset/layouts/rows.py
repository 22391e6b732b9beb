"""Rows of a CSV, JSONL or Parquet file that list images and their labels, as a dataset."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..paths import HELD_OUT
from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from .lists import normal, training_set

TRAIN_WORDS = frozenset({"train", "training"})
HELD_OUT_WORDS = HELD_OUT | {"dev", "testing", "eval", "evaluation"}  # as Hugging Face's datasets calls them too
SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Row:
    """One listed image: ``path`` and ``mask`` relative to the root; ``where`` says from which line it is."""

    path: str
    label: object
    where: str
    split: str = ""
    mask: str | None = None
    box: object = None


def read_rows(path: Path) -> list[dict]:
    """The rows of a CSV (with a header), JSONL or Parquet file."""
    try:
        return {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[path.suffix.lower()](path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Cannot read {path} ({error}): write it as UTF-8") from error


def to_dataset(
    root: Path, layout: str, evidence: str, rows: Sequence[Row], names: Sequence[str] = (), licence: str = ""
) -> SourceDataset:
    """The training rows as a dataset. ``names``: what whole numbers as labels stand for; without them, themselves."""
    splits = {bool(row.split): row for row in rows}
    if len(splits) == 2:
        raise ValueError(f"{splits[False].where}: the split is empty and in other rows not: write train, val or test")
    train, held_out = [], []
    for row in rows:
        train.append(row) if is_training(row) else held_out.append(normal(row.path))
    if not train and rows:
        splits = ", ".join(sorted({str(row.split) for row in rows if row.split})) or "their folders"
        raise ValueError(f"{layout} in {root}: none of {len(rows)} rows is a training image (split: {splits})")
    labels, spoken = _labels(train, names)
    images = []
    for row in train:
        name, mask = spoken[row.label], normal(row.mask) if row.mask else None
        images.append(SourceImage(normal(row.path), name, labels[name], mask, box=_box(row)))
    classes = [ClassInfo(name, prompt_name(name)) for name in labels]
    return training_set(root, layout, evidence, classes, images, held_out, licence)


def is_training(row: Row) -> bool:
    """Whether the row is a training image by its split and its folders. ValueError when these contradict."""
    folders = [part.lower() for part in row.path.split("/")[:-1]]
    named = next((part for part in folders if part in TRAIN_WORDS | HELD_OUT_WORDS), "")
    listed = str(row.split).strip().lower()
    if listed in TRAIN_WORDS and named in HELD_OUT_WORDS:
        raise ValueError(f"{row.where}: {row.path!r} is in a {named} folder and listed as {row.split}: correct one")
    return (not listed or listed in TRAIN_WORDS) and named not in HELD_OUT_WORDS


def _labels(rows: Sequence[Row], names: Sequence[str]) -> tuple[dict[str, int], dict[object, str]]:
    for row in rows:
        if isinstance(row.label, bool) or not isinstance(row.label, (int, str)) or row.label == "":
            raise ValueError(f"{row.where}: {row.label!r} is no label: give a name or a whole number")
    found = {row.label: row.where for row in rows}
    if names:
        spoken = {label: _named(label, names, where) for label, where in found.items()}
        return {name: label for label, name in enumerate(names)}, spoken
    spoken = {label: str(label) for label in found}
    numbers = all(name.isdecimal() for name in spoken.values())  # 2 before 10, as their numbers say
    ordered = sorted(set(spoken.values()), key=lambda name: (int(name) if numbers else 0, name))
    return {name: label for label, name in enumerate(ordered)}, spoken


def _named(label: object, names: Sequence[str], where: str) -> str:
    if label in names:
        return str(label)
    if str(label).isdecimal() and int(label) < len(names):
        return names[int(label)]
    raise ValueError(f"{where}: {label!r} is none of the {len(names)} classes that are named ({', '.join(names[:5])})")


def _box(row: Row) -> Box | None:
    if row.box is None or row.box == "" or row.box == []:
        return None
    try:
        values = row.box.strip("[]() ").replace(",", " ").split() if isinstance(row.box, str) else row.box
        x, y, width, height = map(float, values)
        if width > 0 and height > 0:
            return (x, y, width, height)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{row.where}: box {row.box!r} must be x, y, width and height in pixels")


def _read_csv(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{path}, row {number}: it has more or fewer fields than the header: correct it")
    return rows


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error})") from error
        if not isinstance(rows[-1], Mapping):
            raise ValueError(f"{path}, line {number}: expected an object, got {line[:80]!r}")
    return rows


def _read_parquet(path: Path) -> list[dict]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"Reading {path} needs pyarrow: pip install pyarrow, or use CSV or JSONL") from error
    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"Cannot read {path} ({error}): write it again") from error
