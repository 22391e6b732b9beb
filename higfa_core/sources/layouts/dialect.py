"""Tables as found on disk: any delimiter, encoding and header, JSON in its usual shapes, Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...files.formats import is_image
from ..text import json_of, read_text

DELIMITED = (".csv", ".tsv", ".tab", ".psv", ".txt", ".lst", ".list", ".dat")
SUFFIXES = (*DELIMITED, ".jsonl", ".ndjson", ".json", ".parquet")
DELIMITERS = [",", ";", "\t", "|", " "]
# Used to detect the dialect, which is slow, and quadratic in the length of a word.
SAMPLE_LINES, SAMPLE_CHARACTERS, LONGEST_LINE = 100, 20_000, 2000


@dataclass(frozen=True)
class Table:
    """The rows of a file. Without a header the columns are called 1, 2 and so on.

    `first`: the number of the first row, as an editor counts lines. `encoding`: the guessed encoding, empty if it was
    certain.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[dict]
    first: int = 1
    encoding: str = ""

    def where(self, index: int) -> str:
        """How messages refer to row `index`."""
        return f"{self.path.name}, row {index + self.first}"


def read_table(path: Path, limit: int | None = None) -> Table:
    """The table in a file, `limit` rows of it at most. ValueError if it is unreadable."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _of_rows(path, _read_parquet(path, limit))
        text, encoding = read_text(path)
        if suffix == ".json":
            return _of_rows(path, list(islice(_json_rows(path, text), limit)), 1, encoding)
        if suffix in (".jsonl", ".ndjson"):
            return _of_rows(path, list(islice(_json_lines(path, text), limit)), 1, encoding)
        return _read_delimited(path, text, encoding, limit)
    except (csv.Error, UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"Cannot read {path} ({error}). Write it as UTF-8 with commas.") from error


def refuse_guess(table: Table, labels: Sequence[str]) -> None:
    """ValueError if labels depend on a guessed encoding: paths can be checked against the disk, class names cannot."""
    if not table.encoding:
        return
    cells = labels if len(labels) > 1 else [str(row.get(labels[0])) for row in table.rows]
    if label := next((cell for cell in cells if not cell.isascii()), ""):
        raise ValueError(
            f"{table.path} is not UTF-8, and read as {table.encoding} it has the label {label!r}. Save it as UTF-8."
        )


def _read_delimited(path: Path, text: str, encoding: str, limit: int | None) -> Table:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), skipinitialspace=True)
    found = [
        [cell.strip() for cell in row]
        for row in islice(lines, None if limit is None else limit + 1)
        if any(map(str.strip, row))
    ]
    if not found:
        return Table(path, (), [], 1, encoding)
    header, body, first = found[0], found[1:], 2
    if any(map(is_image, header)):
        header, body, first = [str(number) for number in range(1, len(header) + 1)], found, 1
    for number, row in enumerate(body, first):
        if len(row) != len(header):
            raise ValueError(f"{path}, row {number}: it has more or fewer fields than the header. Correct it.")
    return Table(path, tuple(header), [dict(zip(header, row)) for row in body], first, encoding)


def _delimiter(text: str) -> str:
    first = text.split("\n", 1)[0]
    if "," in first and not any(other in first for other in ";\t|"):
        return ","
    lines = (line for line in islice(io.StringIO(text), SAMPLE_LINES) if len(line) <= LONGEST_LINE)
    sample = "".join(lines)[:SAMPLE_CHARACTERS]
    from clevercsv import Error  # here: most folders have no table
    from clevercsv.detect import Detector

    try:
        dialect = Detector().detect(sample, delimiters=DELIMITERS)
    except Error as error:
        raise csv.Error(error) from error
    return (dialect.delimiter if dialect else "") or ","


def _of_rows(path: Path, rows: list[dict], first: int = 1, encoding: str = "") -> Table:
    columns = dict.fromkeys(str(name) for row in rows for name in row)
    return Table(path, tuple(columns), rows, first, encoding)


def _json_lines(path: Path, text: str) -> Iterable[dict]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json_of(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}). Correct it.") from error
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}, line {number}: expected an object, got {line[:80]!r}. Correct it.")
        yield dict(row)


def _json_rows(path: Path, text: str) -> Iterable[dict]:
    """A list of objects; or an object of path and label, or of label and a list of paths."""
    try:
        content = json_of(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). Correct it.") from error
    if isinstance(content, list) and all(isinstance(row, Mapping) for row in content):
        return map(dict, content)
    if isinstance(content, Mapping):
        if all(isinstance(value, (str, int)) for value in content.values()):
            return ({"path": key, "label": value} for key, value in content.items())
        if all(isinstance(value, list) and all(isinstance(x, str) for x in value) for value in content.values()):
            return ({"path": path, "label": key} for key, paths in content.items() for path in paths)
    raise ValueError(f"{path}: expected a list of objects, or an object of path and label. Write it as CSV.")


def _read_parquet(path: Path, limit: int | None) -> list[dict]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"Reading {path} needs pyarrow: pip install pyarrow, or use CSV or JSONL") from error
    try:
        table = parquet.read_table(path)
        return (table if limit is None else table.slice(0, limit)).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"Cannot read {path} ({error}). Write it again.") from error
