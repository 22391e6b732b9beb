"""Hugging Face imagefolder with metadata.csv, .jsonl or .parquet in the root, in data/ or in the split folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ...files.paths import split_of
from ..source import SourceDataset
from .lists import number_classes, prefix, sub_folders
from .rows import SUFFIXES, Row, read_rows, to_dataset

TITLE = "Hugging Face imagefolder"
EXPECTED = "metadata.jsonl, metadata.csv or metadata.parquet with file_name and a label"
LABEL_COLUMNS = ("label", "class", "text_label")
BOX_COLUMNS = ("box", "bbox")
MASK_COLUMNS = ("mask", "mask_file_name")


def is_home(root: Path) -> bool:
    """Whether there is a metadata file."""
    return bool(_metadata_files(root))


def read(root: Path, *, label_column: str = "") -> SourceDataset:
    """The training rows. `label_column`: by default label, class or text_label, whichever is there first."""
    files = _metadata_files(root)
    if not files:
        raise ValueError(f"{root} must hold {EXPECTED}")
    if len({file.suffix.lower() for file in files}) > 1:
        names = ", ".join(file.relative_to(root).as_posix() for file in files)
        raise ValueError(f"{root} has metadata of several kinds ({names}): `datasets` reads one kind only, keep one")
    card = _read_card(root / "README.md")
    listed = {file: read_rows(file) for file in files}
    evidence = ", ".join(file.relative_to(root).as_posix() for file in files)
    names = _class_label_names(card, label_column)
    evidence += ", class names from README.md" if names else ""
    numbers = []
    if not names and not label_column and (spoken := _spoken_numbers(listed.values())):
        names, numbers, label_column = list(number_classes(spoken, TITLE)), sorted({n for n, _ in spoken}), "text_label"
    columns = set().union(*(row for rows in listed.values() for row in rows))  # test rows may have no label
    label_column = _label_column(root, columns, label_column)
    rows = [row for file in files for row in _rows(root, file, listed[file], columns, label_column)]
    licence = card.get("license") or ""
    licence = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    return to_dataset(root, TITLE, evidence, rows, names, numbers, licence)


def _metadata_files(root: Path) -> list[Path]:
    folders = [root]
    for base in (root, root / "data"):
        folders += [base / name for name in sub_folders(base) if split_of(name)]
    places = [*folders, root / "data"]
    return [file for folder in places for file in (folder / f"metadata{s}" for s in SUFFIXES) if file.is_file()]


def _spoken_numbers(tables: Iterable[list[dict]]) -> list[tuple[int, str]]:
    """Number and name of every row such as {"label": 3, "text_label": "gull"}."""
    spoken = [row for rows in tables for row in rows if row.get("text_label") and str(row.get("label")).isdecimal()]
    return [(int(row["label"]), str(row["text_label"])) for row in spoken]


def _rows(root: Path, file: Path, listed: list[dict], columns: set[str], label_column: str) -> list[Row]:
    start = prefix(root, file.parent)
    box = next((name for name in BOX_COLUMNS if name in columns), "")
    mask = next((name for name in MASK_COLUMNS if name in columns), "")
    rows = []
    for number, row in enumerate(listed, 1):
        where = f"{file.relative_to(root).as_posix()}, row {number}"
        if not row.get("file_name"):
            raise ValueError(f"{where}: there is no file_name")
        mask_path = f"{start}{row[mask]}" if mask and row.get(mask) else None
        split = str(row.get("split") or "")
        rows.append(Row(f"{start}{row['file_name']}", row.get(label_column), where, split, mask_path, row.get(box)))
    return rows


def _label_column(root: Path, columns: set[str], asked: str) -> str:
    wanted = (asked,) if asked else LABEL_COLUMNS
    if found := [name for name in wanted if name in columns]:
        return found[0]
    raise ValueError(
        f"The metadata in {root} has no column {' or '.join(wanted)}, only {', '.join(sorted(columns)) or 'none'}: "
        "choose with label_column="
    )


def _read_card(path: Path) -> Mapping:
    if not path.is_file():
        return {}
    parts = path.read_text(encoding="utf-8-sig", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    import yaml

    try:
        card = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: its first part is no YAML ({error}): correct or remove it") from error
    return card if isinstance(card, Mapping) else {}


def _class_label_names(card: Mapping, label_column: str) -> list[str]:
    infos = card.get("dataset_info") or []
    columns = (label_column,) if label_column else LABEL_COLUMNS
    for info in infos if isinstance(infos, list) else [infos]:
        features = info.get("features") if isinstance(info, Mapping) else None
        for feature in features or []:
            kind = feature.get("dtype") if isinstance(feature, Mapping) else None
            if isinstance(kind, Mapping) and "class_label" in kind and feature.get("name") in columns:
                names = kind["class_label"].get("names") or {}
                return [str(names[key]) for key in sorted(names, key=int)] if isinstance(names, dict) else list(names)
    return []
