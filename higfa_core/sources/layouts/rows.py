"""Rows that list images and their labels, as a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...files.names import class_name, matching_key
from ...files.paths import is_held_out, split_of
from ...wording import counted
from ..hints import held_out_hint
from ..locate import normal
from ..source import Box, ClassInfo, SourceDataset, SourceImage, prompt_name
from ..tree import Tree
from .lists import training_set


@dataclass(frozen=True)
class Row:
    """One listed image: `path` and `mask` relative to the root; `where` says which line it is from."""

    path: str
    label: Any
    where: str
    split: str = ""
    mask: str | None = None
    box: Any = None


def to_dataset(
    tree: Tree,
    layout: str,
    evidence: str,
    rows: Sequence[Row],
    names: Sequence[str] = (),
    numbers: Sequence[int] = (),
    licence: str = "",
) -> SourceDataset:
    """The training rows as a dataset.

    `names`: the classes in label order, if they are listed anywhere; `numbers`: their numbers there. Without names the
    classes are the labels of all rows, held out or not, so that a class keeps its number in every split.
    """
    rows = [replace(row, label=class_name(row.label)) if isinstance(row.label, str) else row for row in rows]
    splits = {bool(row.split): row for row in rows}
    if len(splits) == 2:
        raise ValueError(f"{splits[False].where}: the split is empty, but not in other rows. Write train, val or test.")
    train, held_out = [], []
    for row in rows:
        (train if is_training(row) else held_out).append(row)
    if not train and rows:
        splits = ", ".join(sorted({str(row.split) for row in rows if row.split})) or "their folders"
        raise ValueError(
            f"{layout} in {tree.root}: none of {counted(len(rows), 'row')} is a training image (split: {splits})"
        )
    for row in train:
        if not _is_label(row.label):
            raise ValueError(f"{row.where}: {row.label!r} is not a label. Give a name or a whole number.")
    found = {row.label: row for row in train}
    spoken = {label: _named(row, names) if names else str(label) for label, row in found.items()}
    if not names:
        names, numbers = _classes(set(spoken.values()), held_out)
    labels = {name: label for label, name in enumerate(names)}
    images = []
    for row in train:
        name, mask = spoken[row.label], normal(row.mask) if row.mask else None
        images.append(SourceImage(normal(row.path), name, labels[name], mask, box=_box(row)))
    classes = [ClassInfo(name, prompt_name(name)) for name in labels]
    others = [normal(row.path) for row in held_out]
    return training_set(tree, layout, evidence, classes, images, others, licence, numbers)


def is_training(row: Row) -> bool:
    """Whether the row is a training image by its split and its folders. ValueError if these contradict each other.

    A folder with the name of the row's class does not count as a split.
    """
    folders = [name for name in row.path.split("/")[:-1] if matching_key(name) != matching_key(str(row.label))]
    named = next(filter(split_of, folders), "")
    listed = str(row.split).strip()
    if split_of(listed) == "train" and is_held_out(named):
        raise ValueError(f"{row.where}: {row.path!r} is in a {named} folder and listed as {row.split}. Correct one.")
    if listed or named:
        return split_of(listed or named) == "train"
    return not any(map(held_out_hint, folders))


def _is_label(label: object) -> bool:
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        return False
    return not re.fullmatch(r"|-\d+|-?\d+\.\d*", str(label))  # -1: no label, for `datasets`


def _classes(names: set[str], held_out: Sequence[Row]) -> tuple[list[str], list[int]]:
    """All classes in order and, if they are whole numbers, these numbers: 2 before 10."""
    others = {str(row.label): row.where for row in held_out if _is_label(row.label)}
    if not all(map(str.isdecimal, names)):
        return sorted(names | others.keys()), []
    if odd := next((name for name in others if not name.isdecimal()), ""):
        raise ValueError(f"{others[odd]}: {odd!r} is not a whole number like the other labels. Correct or empty it.")
    ordered = sorted(names | others.keys(), key=lambda name: (int(name), name))
    return ordered, [int(name) for name in ordered]


def _named(row: Row, names: Sequence[str]) -> str:
    if row.label in names:
        return str(row.label)
    if str(row.label).isdecimal() and int(row.label) < len(names):
        return names[int(row.label)]
    known = f"{counted(len(names), 'listed class')} ({', '.join(names[:5])})"
    raise ValueError(f"{row.where}: {row.label!r} is none of the {known}. Correct it.")


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
    raise ValueError(f"{row.where}: box {row.box!r} must be x, y, width and height in pixels. Correct it.")
