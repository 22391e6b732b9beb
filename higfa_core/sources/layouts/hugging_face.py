"""Hugging Face imagefolder with metadata.csv, .jsonl or .parquet in the root, in data/ or in the split folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ...files.names import class_name
from ...files.paths import split_of
from ...files.reading import read_text
from ..source import SourceDataset
from ..tree import Tree
from .dialect import Table, read_table, refuse_guess
from .lists import above, number_classes, under
from .rows import Row, to_dataset

TITLE = "Hugging Face imagefolder"
EXPECTED = "metadata.jsonl, metadata.csv or metadata.parquet with file_name and a label"
SUFFIXES = (".csv", ".jsonl", ".parquet")
LABEL_COLUMNS = ("label", "class", "text_label")
BOX_COLUMNS = ("box", "bbox")
MASK_COLUMNS = ("mask", "mask_file_name")


def homes(tree: Tree) -> list[str]:
    """The folders above the metadata files."""
    holders = [holder for suffix in SUFFIXES for holder in tree.homes(f"metadata{suffix}")]
    found = list(dict.fromkeys(_above_split(holder) for holder in holders))
    return [home for home in found if not any(home != other and _is_below(home, other) for other in found)]


def read(tree: Tree, home: str = "", *, label_column: str = "") -> SourceDataset:
    """The training rows. `label_column`: by default the first existing one of label, class and text_label."""
    files = _metadata_files(tree, home)
    if not files:
        raise ValueError(f"{tree.root} must hold {EXPECTED}. Add it, or choose another layout.")
    if len({Path(file).suffix for file in files}) > 1:
        raise ValueError(
            f"{tree.root} has metadata of several kinds ({', '.join(files)}), but `datasets` reads one. Keep one."
        )
    card = _read_card(_card(tree, home))
    tables = {file: read_table(tree.path(file)) for file in files}
    names, numbers = _class_label_names(card, label_column), []
    evidence = ", ".join(files) + (", class names from README.md" if names else "")
    if not names and not label_column and (spoken := _spoken_numbers(tables.values())):
        names, numbers, label_column = list(number_classes(spoken, TITLE)), sorted({n for n, _ in spoken}), "text_label"
    columns = {name for table in tables.values() for name in table.columns}  # test rows may have no label
    label_column = _label_column(tree.root, columns, label_column)
    for table in tables.values():
        refuse_guess(table, [label_column])
    rows = [row for file, table in tables.items() for row in _rows(file, table, columns, label_column)]
    licence = card.get("license") or ""
    licence = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    return to_dataset(tree, TITLE, evidence, rows, names, numbers, licence)


def has_file_names(tree: Tree, home: str) -> bool:
    """Whether the metadata there is in Hugging Face's form: it has a column of file names."""
    return any("file_name" in read_table(tree.path(file), 1).columns for file in _metadata_files(tree, home))


def _above_split(holder: str) -> str:
    """The set's folder, from that of a metadata file, which may be in data/, in a split, or in a split within data/."""
    if split_of(holder.rpartition("/")[2]):
        holder = above(holder)
    return above(holder) if holder.rpartition("/")[2] == "data" else holder


def _is_below(home: str, other: str) -> bool:
    return not other or home.startswith(f"{other}/")


def _metadata_files(tree: Tree, home: str) -> list[str]:
    """The metadata files as the tree shows them, those of the root first."""
    data = under(home, "data")
    folders = [home, *(under(base, name) for base in (home, data) for name in tree.folders(base) if split_of(name))]
    places = [under(folder, f"metadata{suffix}") for folder in (*folders, data) for suffix in SUFFIXES]
    return [place for place in places if tree.has(place)]


def _spoken_numbers(tables: Iterable[Table]) -> list[tuple[int, str]]:
    """Number and name of every row such as {"label": 3, "text_label": "gull"}."""
    rows = [row for table in tables for row in table.rows if row.get("text_label")]
    return [(int(r["label"]), class_name(str(r["text_label"]))) for r in rows if str(r.get("label")).isdecimal()]


def _rows(file: str, table: Table, columns: set[str], label_column: str) -> list[Row]:
    start = above(file)
    box = next((name for name in BOX_COLUMNS if name in columns), "")
    mask = next((name for name in MASK_COLUMNS if name in columns), "")
    rows = []
    for number, row in enumerate(table.rows, 1):
        where = f"{file}, row {number}"
        if not row.get("file_name"):
            raise ValueError(f"{where}: there is no file_name. Add it.")
        path, masked = (str(row.get(name) or "").replace("\\", "/") for name in ("file_name", mask))
        split = str(row.get("split") or "")
        place = under(start, masked) if masked else None
        rows.append(Row(_under(start, path), row.get(label_column), where, split, place, row.get(box)))
    return rows


def _under(start: str, path: str) -> str:
    # Absolute paths stay absolute: only their ends are compared.
    return path if path.startswith("/") or path[1:2] == ":" else under(start, path)


def _label_column(root: Path, columns: set[str], asked: str) -> str:
    wanted = (asked,) if asked else LABEL_COLUMNS
    if found := [name for name in wanted if name in columns]:
        return found[0]
    raise ValueError(
        f"The metadata in {root} has no column {' or '.join(wanted)}, only {', '.join(sorted(columns)) or 'none'}. "
        "Choose with --label-column (or label_column=)."
    )


def _card(tree: Tree, home: str) -> Path:
    """The card of the set; where the root is a split, the card is beside it or above its data/."""
    folders = [tree.root / tree.place(home)]
    if not home and split_of(tree.root.name):
        folders += tree.root.parents[:2] if tree.root.parent.name == "data" else tree.root.parents[:1]
    files = [folder / "README.md" for folder in folders]
    return next((file for file in files if file.is_file()), files[0])


def _read_card(path: Path) -> Mapping:
    if not path.is_file():
        return {}
    parts = read_text(path, "utf-8-sig", "replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    import yaml

    try:
        card = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: its front matter is not YAML ({error}). Correct or remove it.") from error
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
                names = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
                return [class_name(str(name)) for name in names]
    return []
