"""Tables that list images and labels: CSV in any dialect, JSONL, JSON or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..hints import split_hint
from ..source import SourceDataset
from ..tree import Tree
from .columns import TRUE, Columns, Given, find_columns, split_in
from .columns import path_column as path_column_of
from .dialect import SUFFIXES, Table, read_table, refuse_guess
from .lists import under
from .rows import Row, to_dataset

TITLE = "table"
EXPECTED = "one table that lists images and their labels, such as a CSV or JSONL file with the columns path and label"
NEEDED = {"path", "label"}
READ_ALONE = (".csv", ".tsv", ".jsonl", ".ndjson")  # searched for tables; others must be named
OURS = {"manifest.jsonl", "plan.jsonl", "meta.csv"}
SAMPLE = 500


def plain_tables(tree: Tree) -> list[Path]:
    """The tables with the columns path and label in the root itself."""
    files = [tree.root / path for _, path in tree.top.files if path.lower().endswith(READ_ALONE)]
    return [file for file in files if file.name.lower() not in OURS and _columns(file) >= NEEDED]


def labelled_tables(tree: Tree, given: Given = Given()) -> list[Path]:
    """Tables anywhere with the labels of images, and those that list images of other splits.

    ValueError, with the question, if all tables are ambiguous about where their labels are.
    """
    training, others, questions = [], [], []
    for file in _files(tree):
        try:
            table = read_table(file, SAMPLE)
            if not path_column_of(tree, table):
                continue
            if _is_held_out(file):
                others.append(file)
            else:
                find_columns(tree, table, given)
                training.append(file)
        except ValueError as error:
            questions.append(error)
    if questions and not training:
        raise questions[0]
    return [*training, *others]


def read(
    tree: Tree,
    files: Sequence[Path] = (),
    *,
    labels: str = "",
    path_column: str = "",
    label_column: str = "",
    split_column: str = "",
    table: str = "",
) -> SourceDataset:
    """The rows whose split is train, or all rows where there is no split.

    `labels`: which file, if there are several, relative to the root or anywhere else; `table` is an old name for it.
    Columns that are not given are found by their content. `split_column="none"`: all rows are training images.
    """
    given = Given(path_column, label_column, split_column)
    chosen = [_named(tree, labels or table)] if labels or table else _choose(tree, files, given)
    rows: list[Row] = []
    columns = None
    for file in chosen:
        found = read_table(file)
        if len(chosen) > 1 and _is_held_out(file):
            rows += _others(tree, found, columns)
        else:
            columns = find_columns(tree, found, given)
            refuse_guess(found, columns.labels)
            rows += _rows(tree, found, columns, "train" if len(chosen) > 1 else "")
    return to_dataset(tree, TITLE, _names(chosen), rows)


def _choose(tree: Tree, files: Sequence[Path], given: Given) -> list[Path]:
    """One training table, first, with those of the other splits. ValueError with the question otherwise."""
    files = files or plain_tables(tree) or labelled_tables(tree, given)
    training = [file for file in files if not _is_held_out(file)]
    if files and not training:
        raise ValueError(f"{tree.root} has no table of training images, only {_names(files)}. Add one.")
    if len(training) != 1:
        found = _names(training) or "none"
        raise ValueError(f"{tree.root} must hold {EXPECTED}, found {found}. Choose one with --labels.")
    return [*training, *(file for file in files if file not in training)]


def _is_held_out(file: Path) -> bool:
    """Whether the table lists validation or test images, as `test.csv` and `sample_submission.csv` do."""
    return split_hint(file.stem) in ("test", "validation")


def _files(tree: Tree) -> list[Path]:
    names = [path for path in tree.others if path.lower().endswith(READ_ALONE)]
    return [tree.root / path for path in names if path.rpartition("/")[2].lower() not in OURS]


def _columns(file: Path) -> set[str]:
    try:
        return set(read_table(file, 1).columns)
    except ValueError:
        return set()


def _named(tree: Tree, name: str) -> Path:
    """The file that the user named: in the dataset, or anywhere."""
    inner = "" if Path(name).is_absolute() else tree.nearest("", name)
    file = tree.path(inner) if inner else Path(name).absolute()
    if not file.is_file():
        names = ", ".join([path for path in tree.others if path.lower().endswith(SUFFIXES)][:5]) or "none"
        raise ValueError(f"No table {name!r} in {tree.root}, and none at {file}. Choose one of: {names}.")
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file} is not a readable table ({', '.join(SUFFIXES)}). Save it as CSV.")
    return file


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files)


def _rows(tree: Tree, table: Table, columns: Columns, split: str) -> list[Row]:
    start = _start(tree, table)
    rows = []
    for index, row in enumerate(table.rows):
        where = table.where(index)
        path, mask = (_text(row.get(name)).replace("\\", "/") for name in (columns.path, columns.mask))
        if not path:
            raise ValueError(f"{where}: the path is empty. Correct it.")
        label = _label(row, columns, where)
        named = split_in(row, columns.split) if columns.split else split
        box = row.get(columns.box) if columns.box else None
        rows.append(Row(_from(tree, start, path), label, where, named, _from(tree, start, mask) or None, box))
    return rows


def _others(tree: Tree, table: Table, columns: Columns | None) -> list[Row]:
    """The rows of another split's table, which may have no labels."""
    path = path_column_of(tree, table) or (columns.path if columns else "")
    start, label = _start(tree, table), columns.labels[0] if columns and len(columns.labels) == 1 else ""
    rows = [(index, _text(row.get(path)), row.get(label)) for index, row in enumerate(table.rows)]
    return [Row(_from(tree, start, name), label, table.where(i), "test") for i, name, label in rows if name]


def _label(row: dict, columns: Columns, where: str) -> object:
    if len(columns.labels) == 1:
        if columns.labels[0] not in row:
            raise ValueError(f"{where}: there is no {columns.labels[0]}. Expected: {EXPECTED}.")
        return row[columns.labels[0]]
    return next(name for name in columns.labels if str(row[name]).strip().lower() in TRUE)


def _start(tree: Tree, table: Table) -> str:
    """The folder of the table, relative to the root; empty if it is outside."""
    try:
        return table.path.parent.relative_to(tree.root).as_posix().strip(".")
    except ValueError:
        return ""


def _from(tree: Tree, start: str, path: str) -> str:
    """A listed path, relative to the root: listed paths start there, or at the table's own folder."""
    if not path or not start or tree.find(path) is not None:
        return path
    return under(start, path)


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
