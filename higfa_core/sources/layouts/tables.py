"""A CSV or JSONL file with the columns path and label, and optionally split, box and mask."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from ..source import SourceDataset
from .rows import Row, read_rows, to_dataset

TITLE = "table"
EXPECTED = "one CSV or JSONL file with the columns path and label"
NEEDED = {"path", "label"}


def is_home(root: Path) -> bool:
    """Whether there is such a file in `root`."""
    return bool(_tables(root))


def read(root: Path, *, table: str = "") -> SourceDataset:
    """The rows whose split is train, or all where there is no split. `table`: which file, if there are several."""
    file = _choose(root, table)
    rows = []
    for number, row in enumerate(read_rows(file), 2 if file.suffix.lower() == ".csv" else 1):
        where = f"{file.name}, row {number}"
        if lacking := sorted(NEEDED - row.keys()):
            raise ValueError(f"{where}: there is no {' and no '.join(lacking)}: {EXPECTED}")
        path, mask = (str(row.get(name) or "").replace("\\", "/") for name in ("path", "mask"))
        if not path:
            raise ValueError(f"{where}: the path is empty")
        rows.append(Row(path, row["label"], where, str(row.get("split") or ""), mask or None, row.get("box")))
    return to_dataset(root, TITLE, file.name, rows)


def _choose(root: Path, table: str) -> Path:
    names = [file.name for file in _tables(root)]
    if table and table not in names:
        raise ValueError(f"No table {table!r} with the columns path and label in {root}: {', '.join(names) or 'none'}")
    if not table and len(names) != 1:
        raise ValueError(f"{root} must hold {EXPECTED}, found {', '.join(names) or 'none'}: choose one with table=")
    return root / (table or names[0])


def _tables(root: Path) -> list[Path]:
    files = [file for file in sorted(root.iterdir()) if file.suffix.lower() in (".csv", ".jsonl")]
    return [file for file in files if file.is_file() and _columns(file) >= NEEDED]


def _columns(file: Path) -> set[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline(65536)
    try:
        return set(json.loads(first)) if file.suffix.lower() == ".jsonl" else set(next(csv.reader([first]), ()))
    except (json.JSONDecodeError, TypeError, csv.Error):
        return set()
